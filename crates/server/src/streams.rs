//! Replies that go on: progress lines, events, logs.

use std::pin::Pin;
use std::time::Duration;

use berth_api::Error;
use berth_api::event::Event;
use berth_api::filters::Filters;
use berth_api::frame::{self, Stream as Channel};
use berth_api::progress::{ErrorDetail, Progress};
use berth_api::version::ApiVersion;
use berth_engine::{Events, Logs, event_matches};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use serde::Serialize;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::reply::{self, Reply};
use crate::versions;

/// Bytes of an upload that may wait between the socket and the engine.
const UPLOAD_BUFFER: usize = 64 * 1024;

/// How values of a stream are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lines {
    Json,
    NdJson,
    JsonL,
    /// RFC 7464: a record separator before each value.
    JsonSeq,
}

impl Lines {
    /// What the client accepts; plain JSON for those who say nothing.
    pub(crate) fn negotiate(headers: &HeaderMap, version: ApiVersion) -> Self {
        let accept = headers
            .get_all(hyper::header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        for kind in accept {
            match kind.split(';').next().unwrap_or_default().trim() {
                "application/json-seq" if version >= ApiVersion(1, 52) => return Self::JsonSeq,
                "application/x-ndjson" => return Self::NdJson,
                "application/jsonl" if version >= ApiVersion(1, 53) => return Self::JsonL,
                "application/json" => return Self::Json,
                _ => {}
            }
        }
        Self::Json
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => reply::JSON,
            Self::NdJson => "application/x-ndjson",
            Self::JsonL => "application/jsonl",
            Self::JsonSeq => "application/json-seq",
        }
    }

    /// One value on its line; nothing for what cannot be written.
    pub(crate) fn line<T: Serialize>(self, value: &T) -> Bytes {
        let mut line = BytesMut::new().writer();
        if self == Self::JsonSeq {
            line.get_mut().put_u8(0x1e);
        }
        if serde_json::to_writer(&mut line, value).is_err() {
            return Bytes::new();
        }
        let mut line = line.into_inner();
        line.put_u8(b'\n');
        line.freeze()
    }
}

/// Answers with the progress of an operation. If it fails before it has said
/// anything, with an error; after that, with a line that holds the error.
pub(crate) async fn progress<W>(
    version: ApiVersion,
    lines: Lines,
    mut messages: mpsc::Receiver<Progress>,
    work: W,
) -> Result<Reply, Error>
where
    W: Future<Output = Result<(), Error>> + Send + 'static,
{
    let mut work = Box::pin(work);
    let (first, work) = tokio::select! {
        biased;
        Some(first) = messages.recv() => (Some(first), Work::Running(work)),
        done = &mut work => match messages.try_recv() {
            Ok(first) => (Some(first), Work::Done(done.err())),
            Err(_) => (None, Work::Done(done.map(|()| None)?)),
        },
    };
    let state = (first, messages, work);
    let chunks = stream::unfold(state, move |(first, mut messages, work)| async move {
        let (mut line, work) = match first {
            Some(line) => (line, work),
            None => next_line(&mut messages, work).await?,
        };
        versions::progress(version, &mut line);
        Some((lines.line(&line), (None, messages, work)))
    });
    Ok(reply::with_type(
        StatusCode::OK,
        lines.content_type(),
        reply::stream_body(chunks),
    ))
}

/// An operation that reports progress.
enum Work<W> {
    Running(Pin<Box<W>>),
    /// With the error that is still to be told.
    Done(Option<Error>),
}

/// The next line of progress; after the end, what is left, then the error.
async fn next_line<W>(
    messages: &mut mpsc::Receiver<Progress>,
    mut work: Work<W>,
) -> Option<(Progress, Work<W>)>
where
    W: Future<Output = Result<(), Error>>,
{
    if let Work::Running(running) = &mut work {
        let result = tokio::select! {
            biased;
            Some(line) = messages.recv() => return Some((line, work)),
            result = running => result,
        };
        work = Work::Done(result.err());
    }
    match (messages.try_recv(), work) {
        (Ok(line), work) => Some((line, work)),
        (Err(_), Work::Done(Some(error))) => Some((failure(&error), Work::Done(None))),
        (Err(_), _) => None,
    }
}

fn failure(error: &Error) -> Progress {
    Progress {
        error_detail: Some(ErrorDetail {
            code: 0,
            message: error.message.clone(),
        }),
        ..Default::default()
    }
}

/// Moves a request's body into the engine as it arrives. When the client
/// breaks off, the engine must not take what came for the whole: the other end
/// then stays open until the operation is given up.
pub(crate) fn upload(mut body: Incoming) -> (DuplexStream, impl Future<Output = Error>) {
    let (engine, mut ours) = tokio::io::duplex(UPLOAD_BUFFER);
    let pump = async move {
        while let Some(frame) = body.frame().await {
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(bytes)) => {
                    // The engine wants no more: it will say why.
                    if ours.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                Ok(Err(_trailers)) => {}
                Err(error) => {
                    return Error::invalid(format!("the request body ended early: {error}"));
                }
            }
        }
        let _ = ours.shutdown().await;
        drop(ours);
        std::future::pending().await
    };
    (engine, pump)
}

/// Runs `work` while its upload arrives; fails when the upload does.
pub(crate) async fn with_upload<T>(
    pump: impl Future<Output = Error>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        result = work => result,
        error = pump => Err(error),
    }
}

/// Events of the past and, unless `until` is past as well, those to come.
pub(crate) fn events(
    version: ApiVersion,
    lines: Lines,
    events: Events,
    filters: Filters,
    until: Option<i64>,
) -> impl Stream<Item = Bytes> + Send {
    let line = move |mut event: Event| {
        versions::event(version, &mut event);
        lines.line(&event)
    };
    let in_time = move |event: &Event| until.is_none_or(|until| event.time_nano <= until);
    let past: Vec<Event> = events.past.into_iter().filter(in_time).collect();
    let end = until.map(|until| {
        let left = until.saturating_sub(now());
        tokio::time::Instant::now() + Duration::from_nanos(left.max(0).unsigned_abs())
    });
    let state = (past.into_iter(), events.live, filters);
    stream::unfold(state, move |(mut past, mut live, filters)| async move {
        if let Some(event) = past.next() {
            return Some((line(event), (past, live, filters)));
        }
        loop {
            let received = tokio::select! {
                received = live.recv() => received,
                () = sleep_until(end) => return None,
            };
            match received {
                Ok(event) if event_matches(&event, &filters) => {
                    return Some((line(event), (past, live, filters)));
                }
                Ok(_) => {}
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(count)) => {
                    // Ending the stream is honest; a silent gap is not.
                    tracing::warn!("a client of /events is {count} events behind: cut off");
                    return None;
                }
            }
        }
    })
}

async fn sleep_until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// A container's log. An error on the way is told in the stream itself.
pub(crate) fn logs(logs: Logs) -> impl Stream<Item = Bytes> + Send {
    let tty = logs.tty;
    stream::unfold(Some(logs.chunks), move |chunks| async move {
        let mut chunks = chunks?;
        match chunks.recv().await? {
            Ok(bytes) => Some((bytes, Some(chunks))),
            Err(error) => {
                let text = format!("Error grabbing logs: {error}\n");
                let mut bytes = Vec::new();
                if !tty {
                    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
                    bytes.extend(frame::header(Channel::System, length));
                }
                bytes.extend(text.bytes());
                Some((bytes.into(), None))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{ACCEPT, HeaderValue};

    #[test]
    fn content_types_are_negotiated() {
        for (accept, minor, want) in [
            ("", 55, Lines::Json),
            ("application/json-seq", 52, Lines::JsonSeq),
            ("application/json-seq", 51, Lines::Json),
            ("text/html, application/x-ndjson;q=1", 40, Lines::NdJson),
            ("application/jsonl", 53, Lines::JsonL),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            let got = Lines::negotiate(&headers, ApiVersion(1, minor));
            assert_eq!(got, want, "{accept}");
        }
        assert_eq!(Lines::JsonSeq.line(&1), "\u{1e}1\n");
    }

    async fn body(reply: Reply) -> String {
        let bytes = reply.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn status(text: &str) -> Progress {
        Progress {
            status: text.to_owned(),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn progress_then_failure_is_a_line_and_early_failure_an_error() {
        let run = |said: &'static [&'static str], result: Result<(), Error>, version| {
            let (sender, receiver) = mpsc::channel(8);
            progress(version, Lines::Json, receiver, async move {
                for text in said {
                    sender.send(status(text)).await.unwrap();
                }
                result
            })
        };
        let bad = || Err(Error::invalid("bad tar"));
        let early = run(&[], bad(), ApiVersion::MAX).await.unwrap_err();
        assert_eq!(early.message, "bad tar");
        let late = body(run(&["a", "b"], bad(), ApiVersion::MAX).await.unwrap()).await;
        assert_eq!(
            late,
            "{\"status\":\"a\"}\n{\"status\":\"b\"}\n{\"errorDetail\":{\"message\":\"bad tar\"},\"error\":\"bad tar\"}\n"
        );
        let old = body(run(&["a"], bad(), ApiVersion(1, 47)).await.unwrap()).await;
        assert!(old.ends_with("\"error\":\"bad tar\"}\n"), "{old}");
        let good = body(run(&["a", "b"], Ok(()), ApiVersion::MAX).await.unwrap()).await;
        assert_eq!(good.lines().count(), 2);
        assert_eq!(
            body(run(&[], Ok(()), ApiVersion::MAX).await.unwrap()).await,
            ""
        );
    }

    #[tokio::test]
    async fn log_errors_are_told_in_the_stream() {
        let (sender, chunks) = mpsc::channel(2);
        sender.send(Ok(Bytes::from_static(b"x"))).await.unwrap();
        sender.send(Err(Error::system("gone"))).await.unwrap();
        let reply = reply::with_type(
            StatusCode::OK,
            "",
            reply::stream_body(logs(Logs { tty: false, chunks })),
        );
        assert_eq!(
            body(reply).await,
            "x\u{3}\0\0\0\0\0\0\u{1a}Error grabbing logs: gone\n"
        );
    }
}
