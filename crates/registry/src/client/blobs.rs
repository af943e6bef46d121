//! Blobs on their way in.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};

use super::answer::Answer;
use super::session::{Call, Session};
use super::transport::{Endpoint, Outgoing, Payload};
use super::{BlobStream, Error, Repository, digest};

impl Repository {
    pub(super) async fn get_blob(
        &self,
        digest: &str,
        offset: u64,
        urls: &[String],
    ) -> Result<BlobStream, Error> {
        digest::check(digest)?;
        let path = self.blob_path(digest);
        let mut places = self.places(false);
        let mut error = loop {
            let session = match places.next() {
                Ok(session) => session,
                Err(error) => break error,
            };
            match self.get_blob_at(session, &path, offset, digest).await {
                Ok(found) => return Ok(found),
                Err(error) => places.failed(error),
            }
        };
        for url in urls {
            match self.foreign(url).await {
                Ok(found) => return Ok(found),
                Err(foreign) => error = foreign,
            }
        }
        Err(error)
    }

    async fn get_blob_at(
        &self,
        session: &Session,
        path: &str,
        offset: u64,
        digest: &str,
    ) -> Result<BlobStream, Error> {
        let answer = self.blob_response(session, path, offset).await?;
        if !answer.status().is_success() {
            return Err(self.refused_blob(answer, digest).await);
        }
        let partial = answer.status() == StatusCode::PARTIAL_CONTENT;
        let range = range(&answer).filter(|range| partial && range.start != 0);
        if range.is_some_and(|range| range.start != offset) {
            return Err(answer.invalid("the registry sent a part that was not asked for"));
        }
        Ok(stream_of(answer))
    }

    /// A registry that knows no ranges, or answers another one than it was
    /// asked for, is asked for all.
    async fn blob_response(
        &self,
        session: &Session,
        path: &str,
        offset: u64,
    ) -> Result<Answer, Error> {
        let whole = Call::new(Method::GET, path, self.scopes())
            .header("accept", "*/*")?
            .header("accept-encoding", "identity")?;
        if offset == 0 {
            return session.send(&whole).await;
        }
        let part = whole.clone().header("range", &format!("bytes={offset}-"))?;
        let answer = session.send(&part).await?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT if range(&answer).is_some_and(|r| r.start == offset) => {
                Ok(answer)
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                drop(answer);
                session.send(&whole).await
            }
            _ => Ok(answer),
        }
    }

    /// From an address in a manifest: whoever wrote it sees no credentials.
    async fn foreign(&self, text: &str) -> Result<BlobStream, Error> {
        let url = Url::parse(text)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"))
            .ok_or_else(|| Error::Invalid(format!("invalid address of a layer: {text}")))?;
        let endpoint: Arc<Endpoint> = self.anonymous(&url)?;
        let answer = endpoint
            .send(Outgoing {
                method: Method::GET,
                url,
                headers: HeaderMap::new(),
                payload: Payload::None,
                authorization: None,
            })
            .await
            .map_err(|failure| failure.error)?;
        if answer.status() != StatusCode::OK {
            return Err(answer.refusal().await);
        }
        Ok(stream_of(answer))
    }

    pub(super) async fn head_blob(&self, digest: &str) -> Result<Option<u64>, Error> {
        digest::check(digest)?;
        let path = self.blob_path(digest);
        let mut places = self.places(false);
        loop {
            let session = match places.next() {
                Err(Error::NotFound(_)) => return Ok(None),
                next => next?,
            };
            match self.head_blob_at(session, &path, digest).await {
                Ok(found) => return Ok(Some(found)),
                Err(error) => places.failed(error),
            }
        }
    }

    pub(super) async fn head_blob_at(
        &self,
        session: &Session,
        path: &str,
        digest: &str,
    ) -> Result<u64, Error> {
        let call =
            Call::new(Method::HEAD, path, self.scopes()).header("accept-encoding", "identity")?;
        let answer = session.send(&call).await?;
        if !answer.status().is_success() {
            return Err(self.refused_blob(answer, digest).await);
        }
        answer
            .length()
            .ok_or_else(|| answer.invalid("the registry does not say how long the blob is"))
    }

    pub(super) fn blob_path(&self, digest: &str) -> String {
        format!("{}/blobs/{digest}", self.name())
    }
}

/// "Content-Range: bytes 5-9/10".
#[derive(Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
    size: Option<u64>,
}

fn range(answer: &Answer) -> Option<Range> {
    parse_range(answer.header("content-range")?)
}

fn parse_range(text: &str) -> Option<Range> {
    let (part, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = part.split_once('-')?;
    let range = Range {
        start: start.trim().parse().ok()?,
        end: end.trim().parse().ok()?,
        size: size.trim().parse().ok(),
    };
    let inside = range.size.is_none_or(|size| range.end < size);
    (range.start <= range.end && inside).then_some(range)
}

/// The body, which must be as long as was said.
fn stream_of(answer: Answer) -> BlobStream {
    let partial = answer.status() == StatusCode::PARTIAL_CONTENT;
    let range = range(&answer).filter(|_| partial);
    let offset = range.as_ref().map_or(0, |range| range.start);
    let size = match &range {
        Some(range) => range.size,
        None => answer.length(),
    };
    let left = size.map(|size| size - offset);
    let pieces = stream::try_unfold((answer, left), |(mut answer, left)| async move {
        match (answer.piece().await?, left) {
            (None, Some(1..)) => Err(answer.unavailable("unexpected EOF")),
            (None, _) => Ok(None),
            (Some(piece), None) => Ok(Some((piece, (answer, None)))),
            (Some(piece), Some(left)) => match left.checked_sub(piece.len() as u64) {
                Some(left) => Ok(Some((piece, (answer, Some(left))))),
                None => Err(answer.invalid("the registry sends more than it said")),
            },
        }
    });
    BlobStream {
        offset,
        size,
        stream: pieces.boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let read = |text| parse_range(text).map(|r| (r.start, r.end, r.size));
        assert_eq!(read("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(read("bytes 5-9/*"), Some((5, 9, None)));
        for text in [
            "bytes 9-5/10",
            "bytes 5-10/10",
            "5-9/10",
            "bytes */10",
            "bytes -1-2/3",
            "",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
