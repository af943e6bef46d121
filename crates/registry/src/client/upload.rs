//! Blobs on their way out: POST, PATCH, PUT, and going on after a cut.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use reqwest::header::LOCATION;
use reqwest::{Method, StatusCode, Url};

use super::answer::Answer;
use super::retry::{ATTEMPTS, Retry};
use super::session::{Call, Session};
use super::transport::{Again, Content, Failure, Payload};
use super::{BlobSource, Error, Repository, digest};

/// Blobs up to this length go with the request that ends the upload.
const SMALL: u64 = 64 << 10;
/// Piece for a registry, or a proxy before it, that does not take all at once.
const CHUNK: u64 = 32 << 20;

/// An upload the registry has begun.
struct Upload {
    url: Url,
    /// Bytes the registry has.
    offset: u64,
    /// Longest body to send.
    chunk: u64,
    /// Shortest body the registry takes, but for the last.
    shortest: u64,
    /// Where the registry refused to go on, whatever it says it has.
    refused: Option<u64>,
}

/// What is uploaded.
struct Blob<'a> {
    digest: &'a str,
    size: u64,
    source: &'a dyn BlobSource,
    sent: &'a (dyn Fn(u64) + Send + Sync),
}

impl Repository {
    pub(super) async fn upload(
        &self,
        digest: &str,
        size: u64,
        source: &dyn BlobSource,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        digest::check(digest)?;
        let session = self.writer()?;
        let blob = Blob {
            digest,
            size,
            source,
            sent,
        };
        if self.is_there(&session, digest).await? {
            sent(size);
            return Ok(());
        }
        let mut retry = Retry::new(ATTEMPTS);
        let mut upload = self.begin(&session).await?;
        let mut best = 0;
        loop {
            let failure = match self.go_on(&session, &mut upload, &blob).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let Again::Later(after) = failure.again else {
                return Err(failure.error);
            };
            retry.wait(after, failure.error).await?;
            upload = self.resume(&session, upload, &blob).await?;
            if upload.offset > best {
                best = upload.offset;
                retry.refill();
            } else if upload.offset == size && self.is_there(&session, digest).await? {
                return Ok(());
            }
        }
    }

    async fn is_there(&self, session: &Session, digest: &str) -> Result<bool, Error> {
        match self
            .head_blob_at(session, &self.blob_path(digest), digest)
            .await
        {
            Ok(_) => Ok(true),
            // Some registries do not answer HEAD, or say no length.
            Err(Error::NotFound(_) | Error::Unsupported(_) | Error::Invalid(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn begin(&self, session: &Session) -> Result<Upload, Error> {
        let path = format!("{}/blobs/uploads/", self.name());
        let answer = session
            .send(&Call::new(Method::POST, &path, self.scopes()))
            .await?;
        if answer.status() != StatusCode::ACCEPTED {
            return Err(self.refused_blob(answer, "").await);
        }
        let shortest = answer
            .header("oci-chunk-min-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let url = location(session, &answer)?
            .ok_or_else(|| answer.invalid("the registry does not say where to upload to"))?;
        answer.discard().await;
        Ok(Upload {
            url,
            offset: 0,
            chunk: u64::MAX,
            shortest,
            refused: None,
        })
    }

    /// Sends what the registry lacks, and ends the upload.
    async fn go_on(
        &self,
        session: &Session,
        upload: &mut Upload,
        blob: &Blob<'_>,
    ) -> Result<(), Failure> {
        let small = blob.size <= SMALL && upload.offset == 0 && upload.chunk >= blob.size;
        while upload.offset < blob.size && !small {
            self.patch(session, upload, blob).await?;
        }
        let mut url = upload.url.clone();
        url.query_pairs_mut().append_pair("digest", blob.digest);
        let part = Part::new(blob, upload.offset, blob.size - upload.offset);
        let mut call = Call::to(Method::PUT, url, self.scopes())
            .header("content-type", "application/octet-stream")?;
        if part.length > 0 {
            call.payload = Payload::Stream(&part);
        }
        let answer = part.failed(session.attempt(&call).await)?;
        if !answer.status().is_success() {
            let gone = answer.status() == StatusCode::NOT_FOUND;
            upload.refused = gone.then_some(upload.offset);
            let error = self.refused_blob(answer, blob.digest).await;
            let again = if gone {
                Again::Later(None)
            } else {
                Again::Never
            };
            return Err(Failure { error, again });
        }
        if let Some(stored) = answer.header("docker-content-digest")
            && digest::algorithm(stored) == digest::algorithm(blob.digest)
            && stored != blob.digest
        {
            return Err(answer
                .invalid(&format!(
                    "the registry stored {stored}, not {}",
                    blob.digest
                ))
                .into());
        }
        answer.discard().await;
        (blob.sent)(blob.size);
        Ok(())
    }

    /// One piece, usually all there is.
    async fn patch(
        &self,
        session: &Session,
        upload: &mut Upload,
        blob: &Blob<'_>,
    ) -> Result<(), Failure> {
        let length = (blob.size - upload.offset).min(upload.chunk.max(upload.shortest));
        let end = upload.offset + length;
        let part = Part::new(blob, upload.offset, length);
        let mut call = Call::to(Method::PATCH, upload.url.clone(), self.scopes())
            .header("content-type", "application/octet-stream")?
            .header("content-range", &format!("{}-{}", upload.offset, end - 1))?;
        call.payload = Payload::Stream(&part);
        let answer = part.failed(session.attempt(&call).await)?;
        match answer.status() {
            StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT => {
                if let Some(url) = location(session, &answer)? {
                    upload.url = url;
                }
                // What the registry says it has is what counts.
                upload.offset = match received(&answer) {
                    Some(had) if had > upload.offset && had <= end => had,
                    Some(_) => {
                        let error = answer.unavailable("the registry did not keep what was sent");
                        return Err(Failure {
                            error,
                            again: Again::Later(None),
                        });
                    }
                    None => end,
                };
                answer.discard().await;
                Ok(())
            }
            StatusCode::PAYLOAD_TOO_LARGE if length > CHUNK.max(upload.shortest) => {
                upload.chunk = CHUNK;
                answer.discard().await;
                Ok(())
            }
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_FOUND => {
                upload.refused = Some(upload.offset);
                Err(Failure {
                    error: self.refused_blob(answer, blob.digest).await,
                    again: Again::Later(None),
                })
            }
            _ => Err(self.refused_blob(answer, blob.digest).await.into()),
        }
    }

    /// What the registry has of an upload; a new one if it knows it no more.
    async fn resume(
        &self,
        session: &Session,
        upload: Upload,
        blob: &Blob<'_>,
    ) -> Result<Upload, Error> {
        let call = Call::to(Method::GET, upload.url.clone(), self.scopes());
        let answer = session.send(&call).await?;
        if answer.status().is_success() {
            let offset = received(&answer).unwrap_or(0);
            let url = location(session, &answer)?;
            answer.discard().await;
            if offset <= blob.size && upload.refused != Some(offset) {
                return Ok(Upload {
                    url: url.unwrap_or(upload.url),
                    offset,
                    ..upload
                });
            }
            self.cancel(session, upload.url).await;
        }
        let chunk = upload.chunk;
        let begun = self.begin(session).await?;
        Ok(Upload { chunk, ..begun })
    }

    pub(super) async fn mount(&self, digest: &str, from: &str) -> Result<bool, Error> {
        digest::check(digest)?;
        super::check_name(from)?;
        let session = self.writer()?;
        let path = format!("{}/blobs/uploads/?mount={digest}&from={from}", self.name());
        let mut scopes = self.scopes();
        scopes.push(format!("repository:{from}:pull"));
        let answer = session
            .send(&Call::new(Method::POST, &path, scopes))
            .await?;
        match answer.status() {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                if let Ok(Some(url)) = location(&session, &answer) {
                    self.cancel(&session, url).await;
                }
                Ok(false)
            }
            // It may be pushed all the same.
            status if status.is_client_error() => Ok(false),
            _ => Err(self.refused_blob(answer, digest).await),
        }
    }

    /// The registry would do so itself, some day.
    async fn cancel(&self, session: &Session, url: Url) {
        let call = Call::to(Method::DELETE, url, self.scopes());
        if let Ok(answer) = session.attempt(&call).await {
            answer.discard().await;
        }
    }
}

/// "Location", absolute or relative, with its query.
fn location(session: &Session, answer: &Answer) -> Result<Option<Url>, Error> {
    let Some(location) = answer.headers().get(LOCATION) else {
        return Ok(None);
    };
    let url = location
        .to_str()
        .ok()
        .and_then(|text| answer.url.join(text).ok())
        .ok_or_else(|| answer.invalid("the address to upload to is invalid"))?;
    session
        .endpoint
        .allow(&answer.url, &url)
        .map_err(|why| answer.invalid(&why))?;
    Ok(Some(url))
}

/// Bytes by "Range: 0-N", where N is the last one. "0-0" is what registries
/// say of an empty upload.
fn received(answer: &Answer) -> Option<u64> {
    parse_received(answer.header("range")?)
}

fn parse_received(text: &str) -> Option<u64> {
    let text = text.trim().trim_start_matches("bytes=");
    let (start, end) = text.split_once('-')?;
    let end: u64 = end.trim().parse().ok()?;
    match (start.trim(), end) {
        ("0", 0) => Some(0),
        ("0", end) => end.checked_add(1),
        _ => None,
    }
}

/// Bytes of a blob, as often as they are asked for.
struct Part<'a> {
    blob: &'a Blob<'a>,
    offset: u64,
    length: u64,
    /// Why the source could not be read.
    broken: Arc<Mutex<Option<io::Error>>>,
}

impl<'a> Part<'a> {
    fn new(blob: &'a Blob<'a>, offset: u64, length: u64) -> Self {
        Self {
            blob,
            offset,
            length,
            broken: Arc::default(),
        }
    }

    /// A source that cannot be read is not the registry's fault.
    fn failed(&self, outcome: Result<Answer, Failure>) -> Result<Answer, Failure> {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        match broken.take() {
            Some(error) => Err(self.unreadable(&error).into()),
            None => outcome,
        }
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        Error::Invalid(format!("cannot read blob {}: {error}", self.blob.digest))
    }
}

impl Content for Part<'_> {
    fn open(&self) -> Result<(BoxStream<'static, io::Result<Bytes>>, u64), Error> {
        let source = self.blob.source.open(self.offset);
        let source = source.map_err(|error| self.unreadable(&error))?;
        let state = (source, self.length, Arc::clone(&self.broken));
        let pieces = stream::unfold(state, |(mut source, left, broken)| async move {
            if left == 0 {
                return None;
            }
            let error = match source.next().await {
                Some(Ok(mut piece)) => {
                    piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - piece.len() as u64;
                    return Some((Ok(piece), (source, left, broken)));
                }
                Some(Err(error)) => error,
                None => io::Error::new(io::ErrorKind::UnexpectedEof, "it is too short"),
            };
            let copy = io::Error::new(error.kind(), error.to_string());
            *broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Some((Err(copy), (source, 0, broken)))
        });
        Ok((pieces.boxed(), self.length))
    }

    fn sent(&self, bytes: u64) {
        (self.blob.sent)(self.offset + bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_registry_has() {
        assert_eq!(parse_received("0-0"), Some(0));
        assert_eq!(parse_received("0-99"), Some(100));
        assert_eq!(parse_received("bytes=0-99"), Some(100));
        for text in ["5-9", "0-", "-1", "0-x", ""] {
            assert_eq!(parse_received(text), None, "{text}");
        }
        assert_eq!(parse_received(&format!("0-{}", u64::MAX)), None);
    }
}
