//! The client's tar stream. It is read to its end even if nobody wants it any
//! more: the stock client sees no answer before it has sent everything.

use berth_api::Error;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::io::{AsyncWriteExt, DuplexStream};

/// Bytes that may wait between the socket and the engine.
const BUFFER: usize = 256 * 1024;

/// A request's body on its way to the engine.
pub(super) struct Upload<B> {
    body: B,
    /// None when the engine wants no more.
    engine: Option<DuplexStream>,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    /// With the engine's end.
    pub(super) fn new(body: B) -> (DuplexStream, Self) {
        let (theirs, ours) = tokio::io::duplex(BUFFER);
        let engine = Some(ours);
        (theirs, Self { body, engine })
    }

    /// Runs `work` while the upload arrives; fails when the client breaks off.
    pub(super) async fn during<T>(
        mut self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let result = {
            let mut work = std::pin::pin!(work);
            tokio::select! {
                biased;
                result = &mut work => result,
                end = self.pump() => match end {
                    Ok(()) => return work.await,
                    // The stream ends after the work, which must not take
                    // half of it for the whole.
                    Err(error) => Err(error),
                },
            }
        };
        if result.is_err() {
            // Only so that the client hears why.
            let _ = self.pump().await;
        }
        result
    }

    /// Moves the body to its end.
    async fn pump(&mut self) -> Result<(), Error> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| {
                Error::invalid(format!("the request body ended early: {error}"))
            })?;
            if let (Ok(bytes), Some(engine)) = (frame.into_data(), &mut self.engine)
                && engine.write_all(&bytes).await.is_err()
            {
                self.engine = None;
            }
        }
        if let Some(mut engine) = self.engine.take() {
            let _ = engine.shutdown().await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncReadExt;

    /// A body of pieces of 64 KiB that counts what was taken of it.
    fn body(
        pieces: usize,
        breaks_off: bool,
    ) -> (
        Arc<AtomicUsize>,
        impl Body<Data = Bytes, Error = String> + Unpin,
    ) {
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let pieces = (0..=pieces).filter_map(move |number| {
            if number == pieces {
                return breaks_off.then(|| Err("gone".to_owned()));
            }
            count.fetch_add(1, Ordering::Relaxed);
            Some(Ok(Frame::data(Bytes::from(vec![0; 64 * 1024]))))
        });
        (taken, StreamBody::new(stream::iter(pieces)))
    }

    #[tokio::test]
    async fn the_whole_body_arrives() {
        let (_, body) = body(32, false);
        let (mut engine, upload) = Upload::new(body);
        let read = async move {
            let mut bytes = Vec::new();
            engine.read_to_end(&mut bytes).await.unwrap();
            Ok(bytes.len())
        };
        assert_eq!(upload.during(read).await.unwrap(), 32 * 64 * 1024);
    }

    #[tokio::test]
    async fn a_failure_is_told_after_the_last_byte() {
        let (taken, body) = body(32, false);
        let (engine, upload) = Upload::new(body);
        let fail = async move {
            drop(engine);
            Err::<(), _>(Error::invalid("bad tag"))
        };
        let error = upload.during(fail).await.unwrap_err();
        assert_eq!(error.message, "bad tag");
        assert_eq!(taken.load(Ordering::Relaxed), 32);
    }

    #[tokio::test]
    async fn half_a_body_is_never_the_whole() {
        let (_, body) = body(2, true);
        let (mut engine, upload) = Upload::new(body);
        let read = async move {
            let mut bytes = Vec::new();
            engine.read_to_end(&mut bytes).await.unwrap();
            Ok(bytes.len())
        };
        let error = upload.during(read).await.unwrap_err();
        assert_eq!(error.message, "the request body ended early: gone");
    }
}
