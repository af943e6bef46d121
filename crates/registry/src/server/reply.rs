//! Bodies and common headers of replies.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes read from a file at once.
const PIECE: u64 = 512 << 10;

pub(crate) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
pub(crate) const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
pub(crate) const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
pub(crate) const CHUNK_MIN: HeaderName = HeaderName::from_static("oci-chunk-min-length");

pub(crate) fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn streamed(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures_util::StreamExt;
    StreamBody::new(stream.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

pub(crate) fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// Sets a header; a value that cannot be one is left out.
pub(crate) fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

pub(crate) fn length(response: &mut Response<Body>, length: u64) {
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(length));
}

pub(crate) fn json(value: &serde_json::Value) -> Response<Body> {
    typed("application/json", Bytes::from(value.to_string() + "\n"))
}

pub(crate) fn typed(media_type: &str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    set(&mut response, CONTENT_TYPE, media_type);
    response
}

/// The bytes of a file from `start`, `length` of them, the next piece read
/// while one is on its way.
pub(crate) fn file(file: File, start: u64, length: u64) -> Body {
    type Next = tokio::task::JoinHandle<io::Result<Bytes>>;
    fn read(file: &Arc<File>, at: u64, end: u64) -> Option<Next> {
        if at >= end {
            return None;
        }
        let file = Arc::clone(file);
        let count = usize::try_from(PIECE.min(end - at)).unwrap_or_default();
        Some(tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; count];
            file.read_exact_at(&mut buffer, at)?;
            Ok(Bytes::from(buffer))
        }))
    }
    let (file, end) = (Arc::new(file), start.saturating_add(length));
    let first = read(&file, start, end);
    streamed(stream::try_unfold(
        (file, start, first),
        move |(file, at, next)| async move {
            let Some(next) = next else { return Ok(None) };
            let piece = next.await.map_err(io::Error::other)??;
            let at = at + piece.len() as u64;
            let next = read(&file, at, end);
            Ok(Some((piece, (file, at, next))))
        },
    ))
}
