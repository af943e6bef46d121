//! Requests for blobs: get with ranges, head, delete.

use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use hyper::{HeaderMap, Method, Response, StatusCode};

use super::errors::{Code, Failure};
use super::names::Digest;
use super::reply::{self, Body, DIGEST};
use super::{Reply, Server};

/// What a digest names never changes.
pub(crate) const FOREVER: &str = "max-age=31536000";

pub(crate) fn unknown(digest: &Digest) -> Failure {
    Failure::new(Code::BlobUnknown, "blob unknown to registry")
        .detail(serde_json::json!({"digest": digest.to_string()}))
}

pub(crate) async fn get(
    server: &Server,
    method: &Method,
    headers: &HeaderMap,
    name: String,
    digest: Digest,
) -> Reply {
    let wanted = digest.clone();
    let found = server
        .storage(move |storage| storage.open_blob(&name, &wanted))
        .await?;
    let (file, size) = found.ok_or_else(|| unknown(&digest))?;
    let etag = format!("\"{digest}\"");
    if matches(headers, &etag) {
        let mut response = reply::status(StatusCode::NOT_MODIFIED);
        describe(&mut response, &digest, &etag);
        return Ok(response);
    }
    let part = match range(headers, &etag, size) {
        Ok(part) => part,
        Err(()) => {
            return Err(Failure::new(
                Code::RangeInvalid,
                format!("the blob has {size} bytes, which the range is outside of"),
            )
            .header(CONTENT_RANGE, &format!("bytes */{size}")));
        }
    };
    let (start, length) = part.unwrap_or((0, size));
    let body = if method == Method::HEAD {
        reply::full(bytes::Bytes::new())
    } else {
        reply::file(file, start, length)
    };
    let mut response = Response::new(body);
    describe(&mut response, &digest, &etag);
    reply::set(&mut response, CONTENT_TYPE, "application/octet-stream");
    reply::length(&mut response, length);
    if part.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let last = start + length - 1;
        reply::set(
            &mut response,
            CONTENT_RANGE,
            &format!("bytes {start}-{last}/{size}"),
        );
    }
    Ok(response)
}

pub(crate) fn describe(response: &mut Response<Body>, digest: &Digest, etag: &str) {
    reply::set(response, DIGEST, &digest.to_string());
    reply::set(response, ETAG, etag);
    reply::set(response, CACHE_CONTROL, FOREVER);
    reply::set(response, ACCEPT_RANGES, "bytes");
}

pub(crate) async fn delete(server: &Server, name: String, digest: Digest) -> Reply {
    let wanted = digest.clone();
    let was = server
        .storage(move |storage| storage.unlink_blob(&name, &wanted))
        .await?;
    if was {
        Ok(reply::status(StatusCode::ACCEPTED))
    } else {
        Err(unknown(&digest))
    }
}

/// If-None-Match: the client has it.
pub(crate) fn matches(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value
                .split(',')
                .map(|one| one.trim().trim_start_matches("W/"))
                .any(|one| one == etag || one == "*")
        })
    })
}

/// The part that is asked for: start and length; `None` for the whole. Several
/// parts at once are answered with the whole, as HTTP allows.
fn range(headers: &HeaderMap, etag: &str, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(IF_RANGE).is_some_and(|value| value != etag) {
        return Ok(None);
    }
    let Some(spec) = text(RANGE).and_then(|value| value.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Ok(None);
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (start, end) = match (number(first), number(last)) {
        (Some(start), Some(last)) if last < start => return Ok(None),
        (Some(start), Some(last)) => (start, size.min(last.saturating_add(1))),
        (Some(start), None) if last.trim().is_empty() => (start, size),
        (None, Some(count)) if first.trim().is_empty() => (size.saturating_sub(count), size),
        _ => return Ok(None),
    };
    if start >= end {
        return Err(());
    }
    Ok(Some((start, end - start)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn ranges() {
        let ask = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_str(text).unwrap());
            range(&headers, "\"x\"", 10)
        };
        assert_eq!(ask("bytes=0-0"), Ok(Some((0, 1))));
        assert_eq!(ask("bytes=2-"), Ok(Some((2, 8))));
        assert_eq!(ask("bytes=-3"), Ok(Some((7, 3))));
        assert_eq!(ask("bytes=-30"), Ok(Some((0, 10))));
        assert_eq!(ask("bytes=5-99999999999999999"), Ok(Some((5, 5))));
        assert_eq!(ask("bytes=5-18446744073709551615"), Ok(Some((5, 5))));
        for outside in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(ask(outside), Err(()), "{outside}");
        }
        for whole in [
            "bytes=3-1",
            "bytes=0-1,3-4",
            "items=1-2",
            "bytes=x-y",
            "bytes=-",
        ] {
            assert_eq!(ask(whole), Ok(None), "{whole}");
        }
    }
}
