//! Replies: bodies, JSON, errors, and the headers that every reply carries.

use berth_api::version::{ApiVersion, DOCKER_VERSION};
use berth_api::{Error, Kind, error};
use berth_engine::Download;
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// What handlers answer with. An error in a body breaks the connection off, so
/// that no client takes what came for the whole.
pub(crate) type Body = UnsyncBoxBody<Bytes, Error>;
pub(crate) type Reply = Response<Body>;

pub(crate) const JSON: &str = "application/json";

pub(crate) fn empty_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Each chunk is written out as soon as the next is not ready yet.
pub(crate) fn stream_body(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    use futures_util::StreamExt;
    StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

/// What the engine makes while the client reads it.
pub(crate) fn download(download: Download) -> Body {
    use futures_util::{StreamExt, stream};
    let chunks = stream::unfold(download.chunks, |mut chunks| async {
        Some((chunks.recv().await?, chunks))
    });
    let first = stream::once(async { Ok(download.first) });
    StreamBody::new(first.chain(chunks).map(|chunk| {
        chunk
            .map(Frame::data)
            .inspect_err(|error| tracing::error!("a reply is broken off: {error}"))
    }))
    .boxed_unsync()
}

/// A reply without a body.
pub(crate) fn status(status: StatusCode) -> Reply {
    let mut reply = Response::new(empty_body());
    *reply.status_mut() = status;
    reply
}

pub(crate) fn no_content() -> Reply {
    status(StatusCode::NO_CONTENT)
}

/// One JSON value and a newline, as Go's encoder writes it.
pub(crate) fn json<T: Serialize>(code: StatusCode, value: &T) -> Result<Reply, Error> {
    let mut bytes = serde_json::to_vec(value)
        .map_err(|error| Error::system(format!("cannot write the reply as JSON: {error}")))?;
    bytes.push(b'\n');
    Ok(with_type(code, JSON, full_body(bytes)))
}

pub(crate) fn ok<T: Serialize>(value: &T) -> Result<Reply, Error> {
    json(StatusCode::OK, value)
}

pub(crate) fn with_type(code: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = code;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

pub(crate) fn error(error: &Error) -> Reply {
    let code =
        StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if error.kind == Kind::NotModified {
        return status(code);
    }
    let body = error::Body {
        message: error.message.clone(),
    };
    // A struct of one string always serialises.
    json(code, &body).unwrap_or_else(|_| status(code))
}

/// The headers of every reply, errors included.
pub(crate) fn decorate(reply: &mut Reply, experimental: bool) {
    let headers = [
        ("api-version", ApiVersion::MAX.to_string()),
        ("docker-experimental", experimental.to_string()),
        ("ostype", "linux".to_owned()),
        ("server", format!("Docker/{DOCKER_VERSION} (linux)")),
    ];
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            reply
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
    }
}
