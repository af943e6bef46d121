//! A registry's response: bodies with bounds, errors in Docker's words.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;

use super::transport::{cause, shown};
use super::{Error, retry};

const MAX_ERROR_BODY: usize = 64 << 10;
/// However steadily it drips.
const LONGEST_BODY: Duration = Duration::from_secs(600);
const LONGEST_ERROR: Duration = Duration::from_secs(10);
/// What a registry may say to people.
const MAX_ERROR_TEXT: usize = 1000;
const MAX_ERRORS: usize = 10;

/// A response, before its body.
#[derive(Debug)]
pub(super) struct Answer {
    pub response: Response,
    pub method: Method,
    /// Where it came from, after redirects.
    pub url: Url,
    /// It came from another host than was asked.
    pub foreign: bool,
    /// Longest wait between two pieces of the body.
    pub patience: Duration,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// Of the body; for HEAD, of the body there would have been.
    pub(super) fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// The next piece of the body, as it came.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(self.patience, self.response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(self.unavailable(&cause(&error, &self.url))),
            Err(_) => Err(self.unavailable("timeout awaiting response body")),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// `Invalid` if it is longer than `limit`; `Unavailable` if it breaks off.
    pub(super) async fn body(&mut self, limit: usize) -> Result<Bytes, Error> {
        let announced = self.length().filter(|_| self.method != Method::HEAD);
        let body = if announced.is_some_and(|length| length > limit as u64) {
            None
        } else {
            let body = tokio::time::timeout(LONGEST_BODY, self.collect(limit)).await;
            body.unwrap_or_else(|_| Err(self.unavailable("timeout awaiting response body")))?
        };
        body.ok_or_else(|| {
            let at = shown(&self.url);
            Error::Invalid(format!(
                "the response from {at} is longer than {limit} bytes"
            ))
        })
    }

    /// `None` if there is more than `limit`.
    async fn collect(&mut self, limit: usize) -> Result<Option<Bytes>, Error> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            if body.len() + piece.len() > limit {
                return Ok(None);
            }
            body.extend_from_slice(&piece);
        }
        Ok(Some(body.freeze()))
    }

    /// Reads on so that the connection can be used again, if that is cheap.
    pub(super) async fn discard(mut self) {
        let _ = tokio::time::timeout(LONGEST_ERROR, self.collect(MAX_ERROR_BODY)).await;
    }

    /// What the registry says went wrong, and the kind of error it is.
    pub(super) async fn refusal(mut self) -> Error {
        let status = self.status();
        let body = self.error_body().await;
        let text = explain(status, &body);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied(text),
            StatusCode::NOT_FOUND => Error::NotFound(text),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Error::Unsupported(text)
            }
            _ if retry::is_temporary(status) || status.is_server_error() => {
                Error::Unavailable(text)
            }
            _ => Error::Invalid(text),
        }
    }

    /// As much of it as came in time.
    async fn error_body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        let read = async {
            while let Ok(Some(piece)) = self.piece().await {
                body.extend_from_slice(&piece);
                if body.len() > MAX_ERROR_BODY {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(LONGEST_ERROR, read).await;
        body.truncate(MAX_ERROR_BODY);
        body
    }

    pub(super) fn unavailable(&self, why: &str) -> Error {
        Error::Unavailable(told(&self.method, &self.url, why))
    }

    pub(super) fn invalid(&self, why: &str) -> Error {
        Error::Invalid(told(&self.method, &self.url, why))
    }
}

/// `Get "https://r.example/v2/": why`, as Go writes it.
pub(super) fn told(method: &Method, url: &Url, why: &str) -> String {
    let method = method.as_str();
    let (first, rest) = method.split_at(1);
    format!(
        "{first}{} \"{}\": {why}",
        rest.to_ascii_lowercase(),
        shown(url)
    )
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    errors: Vec<Item>,
    /// Some services say it so, the token server of Docker Hub among them.
    #[serde(default)]
    details: Option<String>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    error_description: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    code: serde_json::Value,
    #[serde(default)]
    message: Option<String>,
}

/// One line for people: "code: message" of the error document, or the status.
pub(super) fn explain(status: StatusCode, body: &[u8]) -> String {
    let document: Option<Document> = serde_json::from_slice(body).ok();
    let said = document.and_then(|document| {
        let lines: Vec<String> = document.errors.iter().take(MAX_ERRORS).map(line).collect();
        if !lines.is_empty() {
            return Some(lines.join("; "));
        }
        let word = document
            .details
            .or(document.error_description)
            .or(document.message);
        let text = word.or(document.error).filter(|text| !text.is_empty())?;
        Some(match code(status) {
            Some((code, _)) => format!("{code}: {text}"),
            None => text,
        })
    });
    let text = said.unwrap_or_else(|| match code(status) {
        Some((code, message)) => format!("{code}: {message}"),
        None => format!(
            "received unexpected HTTP status: {} {}",
            status.as_u16(),
            status.canonical_reason().unwrap_or_default()
        ),
    });
    clean(&text)
}

fn line(item: &Item) -> String {
    let code = match &item.code {
        serde_json::Value::String(code) => code.to_ascii_lowercase().replace('_', " "),
        other => other.to_string(),
    };
    match item.message.as_deref() {
        Some(message) if !message.is_empty() => format!("{code}: {message}"),
        _ => code,
    }
}

fn code(status: StatusCode) -> Option<(&'static str, &'static str)> {
    match status.as_u16() {
        401 => Some(("unauthorized", "authentication required")),
        403 => Some(("denied", "requested access to the resource is denied")),
        429 => Some(("toomanyrequests", "too many requests")),
        _ => None,
    }
}

/// No control characters: the text ends on terminals.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_ERROR_TEXT)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_docker() {
        let said = |status: u16, body: &str| {
            explain(StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };
        assert_eq!(
            said(
                404,
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#
            ),
            "manifest unknown: manifest unknown"
        );
        assert_eq!(said(401, ""), "unauthorized: authentication required");
        assert_eq!(
            said(403, "{}"),
            "denied: requested access to the resource is denied"
        );
        assert_eq!(
            said(401, r#"{"details":"incorrect username or password"}"#),
            "unauthorized: incorrect username or password"
        );
        assert_eq!(
            said(
                429,
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}"#
            ),
            "toomanyrequests: You have reached your pull rate limit"
        );
        assert_eq!(
            said(502, "<html>"),
            "received unexpected HTTP status: 502 Bad Gateway"
        );
        assert_eq!(
            said(
                400,
                "{\"errors\":[{\"code\":7,\"message\":\"a\\u001b[31m\\nb\"},{\"code\":\"X_Y\"}]}"
            ),
            "7: a [31m b; x y"
        );
    }

    #[test]
    fn long_texts_are_cut() {
        let body = format!(
            r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#,
            "y".repeat(5000)
        );
        assert_eq!(
            explain(StatusCode::BAD_REQUEST, body.as_bytes()).len(),
            MAX_ERROR_TEXT
        );
    }
}
