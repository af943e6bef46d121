//! Plain downloads: ADD of an address, remote contexts.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_DISPOSITION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION,
};
use reqwest::{Method, Response, StatusCode, Url};

use super::answer::told;
use super::failure::cause;
use super::transport::shown;
use super::{Error, hosts, insecure, tls};

/// As Go's client follows.
const MAX_REDIRECTS: usize = 10;
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for an answer, and between two pieces of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest value of a header that is kept.
const MAX_VALUE: usize = 4096;

/// Fetches files from servers that are no registries. One per engine.
#[derive(Debug)]
pub struct Downloader {
    agent: String,
    direct: OnceLock<reqwest::Client>,
    proxied: OnceLock<reqwest::Client>,
}

/// What an earlier answer said of the file; empty = nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    pub etag: String,
    pub last_modified: String,
}

#[derive(Debug)]
pub enum Answer {
    /// It is as the validators say.
    NotModified,
    Found(Download),
}

/// A file on its way.
pub struct Download {
    pub validators: Validators,
    /// Bytes, if it was said.
    pub size: Option<u64>,
    /// When it was last changed; seconds since 1970.
    pub modified: Option<i64>,
    /// As Content-Disposition has it: not to be trusted.
    pub filename: Option<String>,
    /// Ends after `size` bytes, or in an error.
    pub stream: BoxStream<'static, Result<Bytes, Error>>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Downloader {
    /// `agent`: "User-Agent" of every request.
    pub fn new(agent: impl Into<String>) -> Self {
        Self {
            agent: agent.into(),
            direct: OnceLock::new(),
            proxied: OnceLock::new(),
        }
    }

    /// Follows redirects, but not from TLS to without. A login in the address is
    /// sent to the host it names only.
    ///
    /// # Errors
    /// `Invalid` for addresses that are none, `NotFound` and `Denied` as the
    /// server says, `Unavailable` for all else.
    pub async fn get(&self, address: &str, known: &Validators) -> Result<Answer, Error> {
        let mut url = Url::parse(address)
            .map_err(|error| Error::Invalid(format!("invalid address {address:?}: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            let message = format!("invalid address {address:?}: neither http nor https");
            return Err(Error::Invalid(message));
        }
        for _ in 0..=MAX_REDIRECTS {
            let response = self.once(&url, known).await?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                url = next(&url, response.headers())?;
                continue;
            }
            return match status {
                StatusCode::NOT_MODIFIED => Ok(Answer::NotModified),
                StatusCode::OK => Ok(Answer::Found(download(url, response))),
                _ => Err(refused(&url, status)),
            };
        }
        let why = format!("stopped after {MAX_REDIRECTS} redirects");
        Err(Error::Unavailable(told(&Method::GET, &url, &why)))
    }

    async fn once(&self, url: &Url, known: &Validators) -> Result<Response, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in [
            (IF_NONE_MATCH, &known.etag),
            (IF_MODIFIED_SINCE, &known.last_modified),
        ] {
            if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        let sent = self.client(url)?.get(url.clone()).headers(headers).send();
        sent.await
            .map_err(|error| Error::Unavailable(told(&Method::GET, url, &cause(&error, url))))
    }

    /// Connections to this machine never go through a proxy.
    fn client(&self, url: &Url) -> Result<reqwest::Client, Error> {
        let direct = insecure::is_loopback(&hosts::authority(url));
        let slot = if direct { &self.direct } else { &self.proxied };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::of_system()?)
            .user_agent(&self.agent)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .connect_timeout(DIAL_TIMEOUT)
            .read_timeout(PATIENCE);
        if direct {
            builder = builder.no_proxy();
        }
        let client = builder
            .build()
            .map_err(|error| Error::Invalid(format!("cannot make an HTTP client: {error}")))?;
        Ok(slot.get_or_init(|| client).clone())
    }
}

/// Where an answer leads.
fn next(url: &Url, headers: &HeaderMap) -> Result<Url, Error> {
    let invalid = |why: &str| Error::Invalid(told(&Method::GET, url, why));
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let next = location.and_then(|location| url.join(location).ok());
    let next = next.ok_or_else(|| invalid("redirect to an invalid address"))?;
    match (url.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(next),
        _ => Err(invalid(&format!(
            "refused to go on without TLS, to {}: name that address if it can be trusted",
            shown(&next)
        ))),
    }
}

fn refused(url: &Url, status: StatusCode) -> Error {
    let message = format!(
        "{}: invalid response status {}",
        shown(url),
        status.as_u16()
    );
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound(message),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied(message),
        _ => Error::Unavailable(message),
    }
}

fn download(url: Url, response: Response) -> Download {
    let header = |name| {
        let value = response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok());
        value
            .filter(|value| value.len() <= MAX_VALUE)
            .map(str::to_owned)
    };
    let last_modified = header(LAST_MODIFIED).unwrap_or_default();
    // Behind HTTP/1.1 it is the length; the body is checked against it.
    let size = header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
    Download {
        validators: Validators {
            etag: header(ETAG).unwrap_or_default(),
            last_modified: last_modified.clone(),
        },
        size,
        modified: seconds(&last_modified),
        filename: header(CONTENT_DISPOSITION).as_deref().and_then(filename),
        stream: stream::try_unfold((response, url), |(mut response, url)| async move {
            match response.chunk().await {
                Ok(None) => Ok(None),
                Ok(Some(piece)) => Ok(Some((piece, (response, url)))),
                Err(error) => {
                    let why = cause(&error, &url);
                    Err(Error::Unavailable(told(&Method::GET, &url, &why)))
                }
            }
        })
        .boxed(),
    }
}

fn seconds(date: &str) -> Option<i64> {
    let time = httpdate::parse_http_date(date).ok()?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// `attachment; filename="a b"`, RFC 6266; the extended form goes first.
fn filename(disposition: &str) -> Option<String> {
    let (mut plain, mut extended) = (None, None);
    for (name, value) in parameters(disposition) {
        match name.as_str() {
            "filename" => plain = Some(value),
            "filename*" => {
                let (charset, rest) = value.split_once('\'').unwrap_or_default();
                let (_, encoded) = rest.split_once('\'').unwrap_or_default();
                let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8();
                if charset.eq_ignore_ascii_case("utf-8") {
                    extended = decoded.ok().map(std::borrow::Cow::into_owned);
                }
            }
            _ => {}
        }
    }
    extended.or(plain).filter(|name| !name.is_empty())
}

/// `; name=value` and `; name="value"`, names in lower case.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((name, tail)) = rest.split_once('=') {
        let name = name.trim_matches(|char: char| char == ';' || char.is_whitespace());
        let tail = tail.trim_start();
        let mut value = String::new();
        if let Some(quoted) = tail.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, char)) = chars.next() {
                match char {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => value.extend(chars.next().map(|(_, char)| char)),
                    char => value.push(char),
                }
            }
            rest = quoted.get(end..).unwrap_or_default();
        } else {
            let (bare, after) = tail.split_once(';').unwrap_or((tail, ""));
            value.push_str(bare.trim());
            rest = after;
        }
        found.push((name.to_ascii_lowercase(), value));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers each request as `answer` says; the heads it got.
    async fn serve(
        answer: impl Fn(&str) -> String + Send + 'static,
    ) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let log = heads.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && socket.read_buf(&mut head).await.unwrap() > 0
                {
                }
                let head = String::from_utf8(head).unwrap();
                let answer = answer(&head);
                log.lock().unwrap().push(head);
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (format!("http://{address}"), heads)
    }

    async fn body(download: Download) -> Result<Vec<u8>, Error> {
        let mut stream = download.stream;
        let mut all = Vec::new();
        while let Some(piece) = stream.next().await {
            all.extend_from_slice(&piece?);
        }
        Ok(all)
    }

    fn found(answer: Answer) -> Download {
        match answer {
            Answer::Found(download) => download,
            Answer::NotModified => panic!("not modified"),
        }
    }

    #[tokio::test]
    async fn a_file_and_what_is_said_of_it() {
        let (address, heads) = serve(|head| {
            if head.starts_with("GET /moved ") {
                return "HTTP/1.1 302 Found\r\nLocation: /file?x=1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into();
            }
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 1970 00:01:00 GMT\r\nContent-Disposition: attachment; filename=\"a b.txt\"\r\nConnection: close\r\n\r\nhello".into()
        })
        .await;
        let downloader = Downloader::new("test/1");
        let with_login = address.replace("http://", "http://user:secret@");
        let answer = downloader
            .get(&format!("{with_login}/moved"), &Validators::default())
            .await
            .unwrap();
        let download = found(answer);
        assert_eq!(download.size, Some(5));
        assert_eq!(download.modified, Some(60));
        assert_eq!(download.filename.as_deref(), Some("a b.txt"));
        assert_eq!(download.validators.etag, "\"e\"");
        assert_eq!(body(download).await.unwrap(), b"hello");
        let heads = heads.lock().unwrap();
        assert!(heads[0].to_lowercase().contains("authorization: basic"));
        assert!(heads[1].starts_with("GET /file?x=1 "));
        assert!(heads[1].to_lowercase().contains("user-agent: test/1"));
    }

    #[tokio::test]
    async fn what_did_not_change_is_not_sent_again() {
        let (address, heads) = serve(|_| {
            "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\nConnection: close\r\n\r\n".into()
        })
        .await;
        let known = Validators {
            etag: "\"e\"".into(),
            last_modified: "Thu, 01 Jan 1970 00:01:00 GMT".into(),
        };
        let answer = Downloader::new("t").get(&address, &known).await.unwrap();
        assert!(matches!(answer, Answer::NotModified));
        let head = heads.lock().unwrap()[0].to_lowercase();
        assert!(head.contains("if-none-match: \"e\""), "{head}");
        assert!(
            head.contains("if-modified-since: thu, 01 jan 1970"),
            "{head}"
        );
    }

    #[tokio::test]
    async fn faults() {
        let (address, _) = serve(|head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            match path {
                "/short" => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhello".into(),
                "/loop" => "HTTP/1.1 301 Moved\r\nLocation: /loop\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
                "/file" => "HTTP/1.1 301 Moved\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
                "/nowhere" => "HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
                _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
            }
        })
        .await;
        let downloader = Downloader::new("t");
        let none = Validators::default();
        let short = downloader
            .get(&format!("{address}/short"), &none)
            .await
            .unwrap();
        assert!(matches!(
            body(found(short)).await,
            Err(Error::Unavailable(_))
        ));
        for (path, why) in [
            ("/loop", "stopped after 10 redirects"),
            ("/file", "refused to go on"),
            ("/nowhere", "redirect to an invalid address"),
            ("/none?token=secret", "invalid response status 404"),
        ] {
            let error = match downloader.get(&format!("{address}{path}"), &none).await {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{path}"),
            };
            assert!(error.contains(why), "{path}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        for address in ["ftp://host/x", "file:///x", "no address", "http://"] {
            let error = downloader.get(address, &none).await;
            assert!(matches!(error, Err(Error::Invalid(_))), "{address}");
        }
        let unanswered = downloader.get("http://127.0.0.1:1/x", &none).await;
        assert!(matches!(unanswered, Err(Error::Unavailable(_))));
    }

    #[test]
    fn names_in_answers() {
        for (text, wanted) in [
            ("attachment; filename=a.txt", Some("a.txt")),
            (
                "attachment; filename=\"a \\\"b\\\"; c\"; x=y",
                Some("a \"b\"; c"),
            ),
            (
                "attachment; filename=x; filename*=UTF-8''%C3%A9.txt",
                Some("é.txt"),
            ),
            ("attachment; filename*=latin1''%E9", None),
            ("inline", None),
            ("attachment; filename=", None),
            ("attachment; filename=\"open", Some("open")),
        ] {
            assert_eq!(filename(text).as_deref(), wanted, "{text}");
        }
    }
}
