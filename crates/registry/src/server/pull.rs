//! Requests for manifests: get, head, put, delete.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION};
use hyper::{HeaderMap, Method, Response, StatusCode};

use super::blobs::{FOREVER, matches};
use super::document::Document;
use super::errors::{Code, Failure};
use super::manifests::Stored;
use super::names::{Algorithm, Digest, Reference};
use super::reply::{self, DIGEST, SUBJECT};
use super::routes::Query;
use super::{Reply, Server};

pub(crate) fn unknown(reference: &Reference) -> Failure {
    let detail = match reference {
        Reference::Tag(tag) => serde_json::json!({"tag": tag}),
        Reference::Digest(digest) => serde_json::json!({"digest": digest.to_string()}),
    };
    Failure::new(Code::ManifestUnknown, "manifest unknown").detail(detail)
}

pub(crate) async fn get(
    server: &Server,
    method: &Method,
    headers: &HeaderMap,
    name: String,
    reference: Reference,
) -> Reply {
    let wanted = reference.clone();
    let stored = server
        .storage(move |storage| storage.promise_manifest(&name, &wanted))
        .await?
        .ok_or_else(|| unknown(&reference))?;
    answer(method, headers, &reference, stored)
}

pub(crate) fn answer(
    method: &Method,
    headers: &HeaderMap,
    reference: &Reference,
    stored: Stored,
) -> Reply {
    if !accepts(headers, &stored.media_type) {
        return Err(Failure::new(
            Code::ManifestUnknown,
            format!(
                "the manifest is a {}, which the Accept header does not allow",
                stored.media_type
            ),
        ));
    }
    let etag = format!("\"{}\"", stored.digest);
    let length = stored.bytes.len() as u64;
    let mut response = if matches(headers, &etag) {
        reply::status(StatusCode::NOT_MODIFIED)
    } else {
        let body = if method == Method::HEAD {
            Bytes::new()
        } else {
            Bytes::from(stored.bytes)
        };
        let mut response = Response::new(reply::full(body));
        reply::set(&mut response, CONTENT_TYPE, &stored.media_type);
        reply::length(&mut response, length);
        response
    };
    reply::set(&mut response, DIGEST, &stored.digest.to_string());
    reply::set(&mut response, ETAG, &etag);
    if matches!(reference, Reference::Digest(_)) {
        reply::set(&mut response, CACHE_CONTROL, FOREVER);
    }
    Ok(response)
}

/// Whether the client can read this type: no header means it can read all.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut any = false;
    for value in headers.get_all(ACCEPT) {
        for one in value.to_str().unwrap_or_default().split(',') {
            let one = one.split(';').next().unwrap_or_default().trim();
            any |= !one.is_empty();
            if one == media_type || one == "*/*" || one == "application/*" {
                return true;
            }
        }
    }
    !any
}

pub(crate) async fn put(
    server: &Server,
    headers: &HeaderMap,
    query: &Query,
    name: String,
    reference: Reference,
    body: Incoming,
) -> Reply {
    let bytes = read(server, body).await?;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let document = Document::parse(text(CONTENT_TYPE), &bytes)?;
    let (tag, wanted) = match &reference {
        Reference::Digest(digest) => (None, Some(digest.clone())),
        Reference::Tag(tag) => {
            let wanted = query.get("digest").map(|text| {
                Digest::parse(text)
                    .ok_or_else(|| Failure::new(Code::DigestInvalid, "invalid digest"))
            });
            (Some(tag.clone()), wanted.transpose()?)
        }
    };
    let algorithm = wanted
        .as_ref()
        .map_or(Algorithm::Sha256, |digest| digest.algorithm);
    let digest = Digest::of(algorithm, &bytes);
    if wanted.is_some_and(|wanted| wanted != digest) {
        return Err(Failure::new(
            Code::DigestInvalid,
            "provided digest did not match uploaded content",
        )
        .detail(serde_json::json!({"actual": digest.to_string()})));
    }
    let mut response = reply::status(StatusCode::CREATED);
    reply::set(
        &mut response,
        LOCATION,
        &format!("/v2/{name}/manifests/{digest}"),
    );
    reply::set(&mut response, DIGEST, &digest.to_string());
    if let Some(subject) = &document.subject {
        reply::set(&mut response, SUBJECT, &subject.to_string());
    }
    server
        .change(move |storage| {
            storage.put_manifest(&name, tag.as_deref(), &digest, &document, &bytes, false)
        })
        .await?;
    Ok(response)
}

async fn read(server: &Server, body: Incoming) -> Result<Bytes, Failure> {
    let most = server.options.max_manifest;
    let read = Limited::new(body, most).collect();
    let body = tokio::time::timeout(super::push::SILENCE, read)
        .await
        .map_err(|_| Failure::new(Code::ManifestInvalid, "the client fell silent"))?
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Failure::new(
                    Code::ManifestInvalid,
                    format!("the manifest is longer than {most} bytes"),
                )
                .status(StatusCode::PAYLOAD_TOO_LARGE)
            } else {
                Failure::new(Code::ManifestInvalid, "the client went away")
            }
        })?;
    let bytes = body.to_bytes();
    server.metrics.received(bytes.len());
    Ok(bytes)
}

pub(crate) async fn delete(server: &Server, name: String, reference: Reference) -> Reply {
    let wanted = reference.clone();
    let was = server
        .storage(move |storage| match &wanted {
            Reference::Tag(tag) => storage.delete_tag(&name, tag),
            Reference::Digest(digest) => storage.delete_manifest(&name, digest),
        })
        .await?;
    if was {
        Ok(reply::status(StatusCode::ACCEPTED))
    } else {
        Err(unknown(&reference))
    }
}
