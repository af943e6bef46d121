//! Streams that are made while the client reads them.

use std::io::{self, Write};

use berth_api::Error;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::Download;

/// Bytes handed on at once: large enough that a thread change is nothing
/// beside the copying, small enough for the processor's cache.
const CHUNK: usize = 512 * 1024;

/// Chunks that may wait for a slow client.
const WAITING: usize = 4;

/// Runs `work` on a thread of its own (it waits for the client) and gives what
/// it writes. What fails before the first chunk is complete fails at once.
pub(crate) async fn download<F>(name: &str, work: F) -> Result<Download, Error>
where
    F: FnOnce(&mut dyn Write) -> Result<(), Error> + Send + 'static,
{
    let (sender, mut chunks) = mpsc::channel(WAITING);
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let mut out = Chunks {
                sender,
                buffer: BytesMut::with_capacity(CHUNK),
            };
            let result = work(&mut out).and_then(|()| {
                out.flush()
                    .map_err(|error| Error::system(format!("write the stream: {error}")))
            });
            if let Err(error) = result {
                // Nobody listens when the client is gone.
                let _ = out.sender.blocking_send(Err(error));
            }
        })
        .map_err(|error| Error::system(format!("start a thread: {error}")))?;
    match chunks.recv().await {
        Some(Err(error)) => Err(error),
        Some(Ok(first)) => Ok(Download { first, chunks }),
        None => Ok(Download {
            first: Bytes::new(),
            chunks,
        }),
    }
}

/// The writing side.
struct Chunks {
    sender: mpsc::Sender<Result<Bytes, Error>>,
    buffer: BytesMut,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, BytesMut::with_capacity(CHUNK));
        self.sender
            .blocking_send(Ok(full.freeze()))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_arrives_and_errors_end_it() {
        let mut download = download("test", |out| {
            for _ in 0..3 {
                out.write_all(&vec![7; CHUNK - 1]).unwrap();
            }
            Err(Error::system("broken"))
        })
        .await
        .unwrap();
        assert_eq!(download.first.len(), CHUNK);
        assert_eq!(download.chunks.recv().await.unwrap().unwrap().len(), CHUNK);
        // What was not a whole chunk is not passed off as the end.
        assert!(download.chunks.recv().await.unwrap().is_err());
        assert!(download.chunks.recv().await.is_none());
    }

    #[tokio::test]
    async fn early_errors_are_errors_and_a_client_that_left_ends_the_work() {
        let early = download("test", |_| Err(Error::not_found("nothing"))).await;
        assert_eq!(early.unwrap_err().message, "nothing");
        let (ended, end) = tokio::sync::oneshot::channel();
        let stream = download("test", move |out| {
            while out.write_all(&[0; 4096]).is_ok() {}
            ended.send(()).unwrap();
            Ok(())
        })
        .await
        .unwrap();
        drop(stream);
        end.await.unwrap();
    }
}
