//! Requests that upload blobs: whole, in chunks, or by mounting.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use hyper::{HeaderMap, Response, StatusCode};

use super::auth::Granted;
use super::errors::{Code, Failure};
use super::names::{Algorithm, Digest, is_repository};
use super::reply::{self, Body, CHUNK_MIN, DIGEST, UPLOAD_ID};
use super::routes::Query;
use super::uploads::{Batch, Hold, Upload};
use super::{Reply, Server};

/// Longest silence of a client that sends a body.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// POST: begins an upload, takes a whole blob, or mounts one.
pub(crate) async fn start(
    server: &Server,
    name: String,
    query: &Query,
    headers: &HeaderMap,
    body: Incoming,
    granted: &Granted,
) -> Reply {
    if let Some(text) = query.get("mount") {
        let digest = digest_of(text)?;
        if let Some(reply) = mount(server, &name, digest, query.get("from"), granted).await? {
            return Ok(reply);
        }
    }
    let digest = query.get("digest").map(digest_of).transpose()?;
    let algorithm = match (&digest, query.get("digest-algorithm")) {
        (Some(digest), _) => digest.algorithm,
        (None, Some(text)) => Algorithm::parse(text).ok_or_else(|| {
            Failure::new(
                Code::DigestInvalid,
                format!("digest algorithm {text:?} is not supported: use sha256 or sha512"),
            )
        })?,
        (None, None) => Algorithm::Sha256,
    };
    let (inner, of) = (server.clone(), name.clone());
    let upload = server
        .storage(move |storage| inner.uploads.start(storage, &of, algorithm))
        .await?
        .ok_or_else(|| {
            Failure::new(
                Code::TooManyRequests,
                "the repository has too many unfinished uploads",
            )
        })?;
    match digest {
        // The client said the digest and sends the bytes along.
        Some(digest) if has_body(headers, &body) => {
            finish(server, &name, &upload, headers, body, digest).await
        }
        _ => Ok(progress(&name, &upload, StatusCode::ACCEPTED)),
    }
}

fn has_body(headers: &HeaderMap, body: &Incoming) -> bool {
    use hyper::body::Body as _;
    headers.contains_key(CONTENT_LENGTH) && length_of(headers) != Some(0) || !body.is_end_stream()
}

/// The reply, if the blob was there to be had.
async fn mount(
    server: &Server,
    name: &str,
    digest: Digest,
    from: Option<&str>,
    granted: &Granted,
) -> Result<Option<Response<Body>>, Failure> {
    let from = from.filter(|from| !from.is_empty());
    if from.is_some_and(|from| !is_repository(from)) {
        return Err(Failure::new(
            Code::NameInvalid,
            "invalid repository name in \"from\"",
        ));
    }
    let readable = match from {
        Some(from) => granted.pulls(from),
        None => granted.pulls_all(),
    };
    if !readable {
        return Ok(None);
    }
    let (to, from, wanted) = (name.to_owned(), from.map(str::to_owned), digest.clone());
    let mounted = server
        .storage(move |storage| match from {
            Some(from) => storage.mount(&to, &wanted, &from),
            None => storage.mount_any(&to, &wanted),
        })
        .await?;
    Ok(mounted.then(|| created(name, &digest)))
}

pub(crate) async fn status(server: &Server, name: &str, id: &str) -> Reply {
    let upload = find(server, name, id).await?;
    Ok(progress(name, &upload, StatusCode::NO_CONTENT))
}

/// PATCH: the next chunk, or all that is left.
pub(crate) async fn chunk(
    server: &Server,
    name: &str,
    id: &str,
    headers: &HeaderMap,
    body: Incoming,
) -> Reply {
    let upload = find(server, name, id).await?;
    let hold = begin(name, &upload, headers).await?;
    receive(server, &upload, hold, body).await?;
    Ok(progress(name, &upload, StatusCode::ACCEPTED))
}

/// PUT: the last chunk, if there is one, and the digest of all.
pub(crate) async fn end(
    server: &Server,
    name: &str,
    id: &str,
    query: &Query,
    headers: &HeaderMap,
    body: Incoming,
) -> Reply {
    let upload = find(server, name, id).await?;
    let text = query.get("digest").ok_or_else(|| {
        Failure::new(
            Code::DigestInvalid,
            "an upload ends with ?digest=, which is missing",
        )
    })?;
    finish(server, name, &upload, headers, body, digest_of(text)?).await
}

pub(crate) async fn cancel(server: &Server, name: &str, id: &str) -> Reply {
    let upload = find(server, name, id).await?;
    let _hold = upload.acquire().await;
    server.uploads.forget(name, id);
    server.storage(move |_| upload.discard()).await?;
    Ok(reply::status(StatusCode::NO_CONTENT))
}

async fn find(server: &Server, name: &str, id: &str) -> Result<Arc<Upload>, Failure> {
    let (inner, of, wanted) = (server.clone(), name.to_owned(), id.to_owned());
    server
        .storage(move |storage| inner.uploads.find(storage, &of, &wanted))
        .await?
        .ok_or_else(unknown)
}

fn unknown() -> Failure {
    Failure::new(Code::BlobUploadUnknown, "blob upload unknown to registry")
}

/// Of an upload that another request has ended meanwhile, there is no file.
fn failed(error: std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::NotFound {
        unknown()
    } else {
        error.into()
    }
}

fn digest_of(text: &str) -> Result<Digest, Failure> {
    Digest::parse(text).ok_or_else(|| {
        Failure::new(
            Code::DigestInvalid,
            format!("{text:?} is no sha256 or sha512 digest"),
        )
    })
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Takes the upload, and makes sure that what comes goes on where it is.
async fn begin(name: &str, upload: &Arc<Upload>, headers: &HeaderMap) -> Result<Hold, Failure> {
    let hold = upload.acquire().await;
    let here = Arc::clone(upload);
    let (hold, offset) = super::blocking(move || {
        let mut hold = hold;
        let offset = here.sure_offset(&mut hold)?;
        Ok((hold, offset))
    })
    .await
    .map_err(failed)?;
    let Some(range) = headers.get(CONTENT_RANGE) else {
        return Ok(hold);
    };
    let bounds = range.to_str().ok().and_then(|text| {
        let text = text.strip_prefix("bytes ").unwrap_or(text);
        let (first, last) = text.split('/').next()?.split_once('-')?;
        Some((
            first.trim().parse::<u64>().ok()?,
            last.trim().parse::<u64>().ok()?,
        ))
    });
    let Some((first, last)) = bounds.filter(|(first, last)| first <= last) else {
        return Err(Failure::new(
            Code::BlobUploadInvalid,
            "Content-Range must be START-END",
        ));
    };
    if first != offset {
        return Err(Failure::new(
            Code::RangeInvalid,
            format!("the chunk begins at {first}, the upload goes on at {offset}"),
        )
        .header(RANGE, &range_of(offset))
        .header(LOCATION, &location(name, &upload.id))
        .header(UPLOAD_ID, &upload.id));
    }
    if length_of(headers).is_some_and(|length| length.checked_sub(1) != Some(last - first)) {
        return Err(Failure::new(
            Code::SizeInvalid,
            "Content-Length is not the length of Content-Range",
        ));
    }
    Ok(hold)
}

/// Writes the body: one batch is hashed and written while the next arrives.
async fn receive(
    server: &Server,
    upload: &Arc<Upload>,
    hold: Hold,
    mut body: Incoming,
) -> Result<Hold, Failure> {
    let write = |mut hold: Hold, pieces: Vec<Bytes>| {
        let upload = Arc::clone(upload);
        tokio::task::spawn_blocking(move || {
            upload.write(&mut hold, &pieces)?;
            Ok::<_, std::io::Error>(hold)
        })
    };
    let ended = |error| Failure::from(std::io::Error::other(error));
    let mut batch = Batch::default();
    let mut writing = write(hold, Vec::new());
    let outcome = loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(SILENCE, body.frame()) => frame,
            () = upload.wanted() => break Err("another request goes on with this upload"),
        };
        match frame {
            Err(_) => break Err("the client fell silent"),
            Ok(None) => break Ok(()),
            Ok(Some(Err(_))) => break Err("the client went away"),
            Ok(Some(Ok(frame))) => {
                if let Ok(piece) = frame.into_data() {
                    server.metrics.received(piece.len());
                    batch.add(piece);
                }
            }
        }
        if batch.is_full() {
            let hold = writing.await.map_err(ended)?.map_err(failed)?;
            writing = write(hold, batch.take());
        }
    };
    // What has arrived counts also when the client went away: it may go on.
    let mut hold = writing.await.map_err(ended)?.map_err(failed)?;
    if !batch.is_empty() {
        let last = write(hold, batch.take());
        hold = last.await.map_err(ended)?.map_err(failed)?;
    }
    match outcome {
        Ok(()) => Ok(hold),
        Err(why) => Err(Failure::new(Code::BlobUploadInvalid, why)),
    }
}

async fn finish(
    server: &Server,
    name: &str,
    upload: &Arc<Upload>,
    headers: &HeaderMap,
    body: Incoming,
    digest: Digest,
) -> Reply {
    let hold = begin(name, upload, headers).await?;
    let hold = receive(server, upload, hold, body).await?;
    let (of, wanted, here) = (name.to_owned(), digest.clone(), Arc::clone(upload));
    let inner = server.clone();
    let outcome = server
        .storage(move |storage| {
            let mut hold = hold;
            let outcome = here.finish(&mut hold, storage, &of, &wanted)?;
            inner.uploads.forget(&of, &here.id);
            Ok(outcome)
        })
        .await
        .map_err(failed)?;
    match outcome {
        Ok(()) => Ok(created(name, &digest)),
        Err(actual) => Err(Failure::new(
            Code::DigestInvalid,
            "provided digest did not match uploaded content",
        )
        .detail(serde_json::json!({
            "digest": digest.to_string(),
            "actual": actual.to_string(),
        }))),
    }
}

fn created(name: &str, digest: &Digest) -> Response<Body> {
    let mut response = reply::status(StatusCode::CREATED);
    reply::set(
        &mut response,
        LOCATION,
        &format!("/v2/{name}/blobs/{digest}"),
    );
    reply::set(&mut response, DIGEST, &digest.to_string());
    response
}

fn location(name: &str, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// As Docker's registry says it: "0-0" also stands for nothing yet.
fn range_of(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn progress(name: &str, upload: &Upload, status: StatusCode) -> Response<Body> {
    let mut response = reply::status(status);
    reply::set(&mut response, LOCATION, &location(name, &upload.id));
    reply::set(&mut response, RANGE, &range_of(upload.offset()));
    reply::set(&mut response, UPLOAD_ID, &upload.id);
    // Chunks of any length are taken.
    reply::set(&mut response, CHUNK_MIN, "1");
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::storage::Storage;
    use crate::server::uploads::Uploads;
    use hyper::header::HeaderValue;

    #[tokio::test]
    async fn a_chunk_is_as_long_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let uploads = Uploads::default();
        let upload = uploads.start(&storage, "a", Algorithm::Sha256);
        let upload = upload.unwrap().unwrap();
        for (length, range, good) in [
            ("1", "0-0", true),
            ("10", "0-9", true),
            ("0", "0-0", false),
            ("0", "0-18446744073709551615", false),
            ("9", "0-9", false),
            ("1", "1-1", false),
            ("1", "1-0", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
            headers.insert(CONTENT_RANGE, HeaderValue::from_static(range));
            let begun = begin("a", &upload, &headers).await;
            assert_eq!(begun.is_ok(), good, "{length} {range}");
        }
    }
}
