//! Pull-through cache: what is not here yet is had from another registry, and
//! kept. What is here is served also when that one is down.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Method, Response};
use reqwest::Url;
use tokio::sync::OnceCell;

use super::blobs;
use super::document::Document;
use super::download::Download;
use super::errors::{Code, Failure};
use super::listen::Error;
use super::manifests::Stored;
use super::names::{Digest, Reference};
use super::options::Proxy;
use super::storage::{TAGS, exists, renew};
use super::{Reply, Server, pull, reply};
use crate::client::{Access, Client, Credentials, Error as Upstream, Options, Repository};

/// Longest wait for the other registry when there is an answer without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Referrers of one manifest that are had from the other registry, at most.
const MAX_REFERRERS: usize = 100;

/// Those that are on their way, or are being begun.
type Downloads = HashMap<Digest, Arc<OnceCell<Arc<Download>>>>;

/// The registry behind this one.
#[derive(Debug)]
pub(crate) struct Origin {
    client: Client,
    host: String,
    credentials: Credentials,
    ttl: Duration,
    /// Blobs on their way: one download each.
    downloads: Mutex<Downloads>,
}

impl Origin {
    pub(crate) fn new(proxy: &Proxy) -> Result<Self, Error> {
        // Without the address: it may hold a password.
        let wrong = |why: &str| Error::Options(format!("--proxy: {why}"));
        let url = Url::parse(&proxy.url).map_err(|error| wrong(&error.to_string()))?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(wrong("it names no host")),
        };
        let login = !url.username().is_empty() || url.password().is_some();
        if login || !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(wrong(
                "it must be https://HOST[:PORT] or http://HOST[:PORT]",
            ));
        }
        let insecure = match url.scheme() {
            "https" => Vec::new(),
            "http" => vec![host.clone()],
            _ => return Err(wrong("it must begin with https:// or http://")),
        };
        let client = Client::new(Options {
            user_agent: format!("berth-registry/{}", env!("CARGO_PKG_VERSION")),
            insecure,
            // This may be the mirror of the registry on this machine.
            direct: true,
            ..Options::default()
        })
        .map_err(|error| wrong(&error.to_string()))?;
        Ok(Self {
            client,
            host,
            credentials: Credentials {
                username: proxy.user.clone(),
                password: proxy.password.clone(),
                ..Credentials::default()
            },
            ttl: proxy.ttl,
            downloads: Mutex::default(),
        })
    }

    fn repository(&self, name: &str) -> Result<Repository, Failure> {
        self.client
            .repository(&self.host, name, &self.credentials, Access::Pull)
            .map_err(|error| unavailable(&error))
    }

    fn downloads(&self) -> MutexGuard<'_, Downloads> {
        self.downloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn forget(&self, digest: &Digest) {
        self.downloads().remove(digest);
    }
}

fn unavailable(error: &Upstream) -> Failure {
    tracing::warn!("the registry behind this one: {error}");
    Failure::new(
        Code::Unavailable,
        format!("the registry behind this one: {error}"),
    )
}

/// GET and HEAD of a manifest.
pub(crate) async fn manifest(
    server: &Server,
    origin: &Origin,
    method: &Method,
    headers: &HeaderMap,
    name: String,
    reference: Reference,
) -> Reply {
    let stored = obtain(server, origin, &name, &reference).await?;
    pull::answer(method, headers, &reference, stored)
}

/// A manifest from here, if it is fresh, else from there.
async fn obtain(
    server: &Server,
    origin: &Origin,
    name: &str,
    reference: &Reference,
) -> Result<Stored, Failure> {
    let (of, wanted, ttl) = (name.to_owned(), reference.clone(), origin.ttl);
    let (stored, fresh) = server
        .storage(move |storage| {
            let stored = storage.promise_manifest(&of, &wanted)?;
            let fresh = match &wanted {
                Reference::Digest(_) => true,
                Reference::Tag(tag) => is_fresh(&storage.folder(&of, TAGS).join(tag), ttl)?,
            };
            Ok((stored, fresh))
        })
        .await?;
    let Some(stored) = stored else {
        return fetch(server, origin, name, reference).await;
    };
    if fresh {
        return Ok(stored);
    }
    let asked = revalidate(server, origin, name, reference, &stored.digest);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(Some(newer))) => Ok(newer),
        Ok(Ok(None)) => Ok(stored),
        // It answered: the tag is no more, or is not for us.
        Ok(Err(failure)) if !failure.is_ours() => Err(failure),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!("{name}: served as it was, the registry behind this one is down");
            Ok(stored)
        }
    }
}

fn is_fresh(path: &std::path::Path, ttl: Duration) -> io::Result<bool> {
    let Some(meta) = exists(path)? else {
        return Ok(false);
    };
    Ok(SystemTime::now()
        .duration_since(meta.modified()?)
        .is_ok_and(|age| age < ttl))
}

/// What the tag stands for there, if it is something else than here.
async fn revalidate(
    server: &Server,
    origin: &Origin,
    name: &str,
    reference: &Reference,
    known: &Digest,
) -> Result<Option<Stored>, Failure> {
    let Reference::Tag(tag) = reference else {
        return Ok(None);
    };
    let repository = origin.repository(name)?;
    let now = repository
        .manifest_descriptor(tag)
        .await
        .map_err(|error| refused(&error, reference))?
        .ok_or_else(|| pull::unknown(reference))?;
    if now.digest != known.to_string() {
        return fetch(server, origin, name, reference).await.map(Some);
    }
    let (of, tag) = (name.to_owned(), tag.clone());
    server
        .storage(move |storage| renew(&storage.folder(&of, TAGS).join(tag)))
        .await?;
    Ok(None)
}

fn refused(error: &Upstream, reference: &Reference) -> Failure {
    match error {
        Upstream::NotFound(_) => pull::unknown(reference),
        // Of this registry's own credentials: a client cannot do better.
        Upstream::Denied(why) => Failure::new(Code::Denied, why.clone()),
        _ => unavailable(error),
    }
}

/// Has a manifest from there, and keeps it.
async fn fetch(
    server: &Server,
    origin: &Origin,
    name: &str,
    reference: &Reference,
) -> Result<Stored, Failure> {
    let (text, tag) = match reference {
        Reference::Tag(tag) => (tag.clone(), Some(tag.clone())),
        Reference::Digest(digest) => (digest.to_string(), None),
    };
    let manifest = origin
        .repository(name)?
        .manifest(&text)
        .await
        .map_err(|error| refused(&error, reference))?;
    let invalid = |why: String| unavailable(&Upstream::Invalid(why));
    let document = Document::parse(Some(&manifest.media_type), &manifest.bytes)
        .map_err(|failure| invalid(failure.to_string()))?;
    let digest = Digest::parse(&manifest.digest)
        .ok_or_else(|| invalid(format!("digest {:?} of a manifest", manifest.digest)))?;
    let stored = Stored {
        digest: digest.clone(),
        media_type: document.media_type.clone(),
        bytes: manifest.bytes.to_vec(),
    };
    let of = name.to_owned();
    server
        .change(move |storage| {
            storage.put_manifest(
                &of,
                tag.as_deref(),
                &digest,
                &document,
                &manifest.bytes,
                true,
            )
        })
        .await?;
    Ok(stored)
}

/// GET and HEAD of a blob. `None`: it is here now, to be served as any other.
pub(crate) async fn blob(
    server: &Server,
    origin: &Arc<Origin>,
    method: &Method,
    name: &str,
    digest: &Digest,
) -> Result<Option<Response<reply::Body>>, Failure> {
    let (of, wanted) = (name.to_owned(), digest.clone());
    let (linked, present) = server
        .storage(move |storage| {
            let linked = storage.blob_size(&of, &wanted)?.is_some();
            Ok((linked, exists(&storage.blob_path(&wanted))?.is_some()))
        })
        .await?;
    if linked {
        return Ok(None);
    }
    let repository = origin.repository(name)?;
    if present || method == Method::HEAD {
        let size = repository
            .blob_size(&digest.to_string())
            .await
            .map_err(|error| absent(&error, digest))?
            .ok_or_else(|| blobs::unknown(digest))?;
        if present {
            let (of, wanted) = (name.to_owned(), digest.clone());
            server
                .storage(move |storage| {
                    let _gate = storage.enter();
                    storage.link_blob(&of, &wanted)
                })
                .await?;
            return Ok(None);
        }
        return Ok(Some(describe(
            reply::full(bytes::Bytes::new()),
            digest,
            Some(size),
        )));
    }
    // One download per blob: whoever comes while it is begun waits for that.
    let cell = Arc::clone(origin.downloads().entry(digest.clone()).or_default());
    let begun = cell
        .get_or_try_init(|| begin(server, origin, &repository, name, digest))
        .await;
    let download = match begun {
        Ok(download) => download,
        Err(other) => {
            origin.forget(digest);
            return match other {
                NoDownload::Here => Ok(None),
                NoDownload::Failed(failure) => Err(failure),
            };
        }
    };
    let size = download.size();
    Ok(Some(describe(download.body(), digest, size)))
}

/// Why a download is not begun.
enum NoDownload {
    /// The blob has come in the meantime.
    Here,
    Failed(Failure),
}

async fn begin(
    server: &Server,
    origin: &Arc<Origin>,
    repository: &Repository,
    name: &str,
    digest: &Digest,
) -> Result<Arc<Download>, NoDownload> {
    let failed = |error: io::Error| NoDownload::Failed(error.into());
    let (of, wanted) = (name.to_owned(), digest.clone());
    let here = server.storage(move |storage| storage.blob_size(&of, &wanted));
    if here.await.map_err(failed)?.is_some() {
        return Err(NoDownload::Here);
    }
    let first = repository
        .blob(&digest.to_string(), 0, &[])
        .await
        .map_err(|error| NoDownload::Failed(absent(&error, digest)))?;
    let storage = Arc::clone(&server.storage);
    let download = super::blocking(move || Download::create(&storage, first.size))
        .await
        .map(Arc::new)
        .map_err(failed)?;
    tokio::spawn(Arc::clone(&download).run(
        server.clone(),
        Arc::clone(origin),
        repository.clone(),
        name.to_owned(),
        digest.clone(),
        first.stream,
    ));
    Ok(download)
}

fn absent(error: &Upstream, digest: &Digest) -> Failure {
    match error {
        Upstream::NotFound(_) => blobs::unknown(digest),
        Upstream::Denied(why) => Failure::new(Code::Denied, why.clone()),
        _ => unavailable(error),
    }
}

/// Ranges are ignored while a blob is on its way, as HTTP allows.
fn describe(body: reply::Body, digest: &Digest, size: Option<u64>) -> Response<reply::Body> {
    let mut response = Response::new(body);
    blobs::describe(&mut response, digest, &format!("\"{digest}\""));
    reply::set(&mut response, CONTENT_TYPE, "application/octet-stream");
    if let Some(size) = size {
        reply::length(&mut response, size);
    }
    response
}

/// The tags there; `None` if nobody answers.
pub(crate) async fn tags(origin: &Origin, name: &str) -> Result<Option<Vec<String>>, Failure> {
    let asked = async {
        match origin.repository(name)?.tags().await {
            Ok(tags) => Ok(Some(tags)),
            Err(Upstream::Denied(why)) => Err(Failure::new(Code::Denied, why)),
            Err(Upstream::NotFound(_)) => Err(Failure::new(
                Code::NameUnknown,
                "repository name not known to registry",
            )),
            Err(error) => {
                unavailable(&error);
                Ok(None)
            }
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or(Ok(None))
}

/// Has what refers to a manifest there, so that it is listed here.
pub(crate) async fn referrers(server: &Server, origin: &Origin, name: &str, subject: &Digest) {
    let asked = async {
        let all = origin
            .repository(name)?
            .referrers(&subject.to_string())
            .await;
        for descriptor in all
            .map_err(|error| unavailable(&error))?
            .into_iter()
            .take(MAX_REFERRERS)
        {
            if let Some(digest) = Digest::parse(&descriptor.digest) {
                obtain(server, origin, name, &Reference::Digest(digest)).await?;
            }
        }
        Ok::<_, Failure>(())
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => tracing::warn!("referrers of {subject}: {failure}"),
        Err(_) => tracing::warn!("referrers of {subject}: no answer in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_address_is_refused_and_not_shown() {
        for url in [
            "https://me:secret@r.example",
            "https://:secret@r.example",
            "https://me:secret@r.example:x",
            "ftp://me:secret@r.example",
        ] {
            let error = Origin::new(&Proxy {
                url: url.to_owned(),
                user: String::new(),
                password: String::new(),
                ttl: Duration::ZERO,
            });
            let text = error.unwrap_err().to_string();
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
