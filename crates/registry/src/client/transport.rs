//! HTTP with one place: connections, redirects, timeouts, and whether an
//! insecure registry speaks TLS.

use std::error::Error as _;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use reqwest::{Body, Method, Request, StatusCode, Url};
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::answer::{Answer, told};
use super::challenge::Challenge;
use super::hosts::{self, Settings};
use super::{Error, insecure, tls};

const MAX_REDIRECTS: usize = 10;
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Of an insecure registry, which may not speak TLS and be silent about it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// One place and the connections to it.
pub(super) struct Endpoint {
    pub settings: Settings,
    agent: HeaderValue,
    headers: HeaderMap,
    patience: Duration,
    direct: OnceLock<reqwest::Client>,
    proxied: OnceLock<reqwest::Client>,
    /// Of an insecure registry, whether it speaks plain HTTP, once known.
    plain: AsyncMutex<Option<bool>>,
    /// What it asked for last, so that the next request need not be refused.
    pub challenge: Mutex<Option<Challenge>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

/// A request that came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    /// Whether another try may help, and how long to wait if that was said.
    pub again: Again,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// Not over TLS, perhaps over plain HTTP.
    Plain,
    Later(Option<Duration>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let again = match error {
            Error::Unavailable(_) => Again::Later(None),
            _ => Again::Never,
        };
        Self { error, again }
    }
}

/// What a request carries. It is made again for each try.
pub(super) trait Content: Send + Sync {
    /// Bytes, and how many.
    fn open(&self) -> Result<(BoxStream<'static, io::Result<Bytes>>, u64), Error>;
    /// Told when so many bytes went out.
    fn sent(&self, bytes: u64);
}

#[derive(Clone)]
pub(super) enum Payload<'a> {
    None,
    Bytes(Bytes),
    Stream(&'a dyn Content),
}

pub(super) struct Outgoing<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub payload: Payload<'a>,
    /// For the host of `url`; no other ever sees it.
    pub authorization: Option<HeaderValue>,
}

impl Endpoint {
    /// # Errors
    /// `Invalid` for headers that cannot be sent.
    pub(super) fn new(settings: Settings, agent: &str, patience: Duration) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let name = HeaderName::try_from(name.as_str());
            let value = HeaderValue::try_from(value.as_str());
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return Err(Error::Invalid("invalid header in hosts.toml".to_owned()));
            };
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(Self {
            agent: HeaderValue::try_from(agent)
                .map_err(|_| Error::Invalid("invalid user agent".to_owned()))?,
            headers,
            patience,
            direct: OnceLock::new(),
            proxied: OnceLock::new(),
            plain: AsyncMutex::new(None),
            challenge: Mutex::new(None),
            settings,
        })
    }

    /// Address up to "/v2". An insecure registry is asked over TLS first, then
    /// without, as Docker does, and the outcome is kept until a failure.
    pub(super) async fn base(&self) -> Result<Url, Failure> {
        let mut base = self.settings.base.clone();
        if !self.settings.insecure || base.scheme() == "http" {
            return Ok(base);
        }
        let mut plain = self.plain.lock().await;
        if plain.is_none() {
            let probe = Outgoing {
                method: Method::GET,
                url: directory(&base),
                headers: HeaderMap::new(),
                payload: Payload::None,
                authorization: None,
            };
            match tokio::time::timeout(PROBE_TIMEOUT.min(self.patience), self.exchange(probe)).await
            {
                Ok(Ok(answer)) => {
                    answer.discard().await;
                    *plain = Some(false);
                }
                Ok(Err(failure)) if failure.again == Again::Never => return Err(failure),
                // Whether it speaks HTTP, the request itself will tell.
                Ok(Err(_)) | Err(_) => *plain = Some(true),
            }
        }
        if *plain == Some(true) {
            // A port in the address stays; the default one changes with it.
            let _ = base.set_scheme("http");
        }
        Ok(base)
    }

    /// The next request finds out again what is spoken.
    async fn forget(&self) {
        *self.plain.lock().await = None;
    }

    /// Sends a request and follows redirects, up to the head of the response.
    pub(super) async fn send(&self, outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
        let answer = self.exchange(outgoing).await;
        if self.settings.insecure
            && answer
                .as_ref()
                .map_or(true, |answer| answer.status() == StatusCode::BAD_REQUEST)
        {
            self.forget().await;
        }
        answer
    }

    async fn exchange(&self, mut outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
        let home = self.settings.base.host_str().map(str::to_owned);
        let mut foreign = false;
        for _ in 0..=MAX_REDIRECTS {
            let own = outgoing.url.host_str() == home.as_deref()
                && outgoing.url.port() == self.settings.base.port();
            let response = self.once(&outgoing, own && !foreign).await?;
            let answer = Answer {
                response,
                method: outgoing.method.clone(),
                url: outgoing.url.clone(),
                foreign,
                patience: self.patience,
            };
            let Some(next) = self.redirect(&answer)? else {
                return Ok(answer);
            };
            if next.origin() != outgoing.url.origin() {
                foreign = true;
                outgoing.authorization = None;
            }
            if answer.status() == StatusCode::SEE_OTHER && outgoing.method != Method::HEAD {
                outgoing.method = Method::GET;
                outgoing.payload = Payload::None;
            }
            outgoing.url = next;
            answer.discard().await;
        }
        let why = format!("stopped after {MAX_REDIRECTS} redirects");
        Err(Error::Invalid(told(&outgoing.method, &outgoing.url, &why)).into())
    }

    /// Where a response sends us, if it does.
    fn redirect(&self, answer: &Answer) -> Result<Option<Url>, Failure> {
        let reading = matches!(answer.method, Method::GET | Method::HEAD);
        let follow = match answer.status().as_u16() {
            301..=303 => reading,
            307 | 308 => true,
            _ => false,
        };
        let Some(location) = answer.headers().get(LOCATION).filter(|_| follow) else {
            return Ok(None);
        };
        let next = location
            .to_str()
            .ok()
            .and_then(|location| answer.url.join(location).ok())
            .ok_or_else(|| answer.invalid("redirect to an invalid address"))?;
        self.allow(&answer.url, &next)
            .map_err(|why| answer.invalid(&why))?;
        Ok(Some(without_login(next)))
    }

    /// Whether a secure registry may lead from one address to another.
    pub(super) fn allow(&self, from: &Url, to: &Url) -> Result<(), String> {
        match to.scheme() {
            "https" => Ok(()),
            "http" if from.scheme() == "http" || self.settings.insecure => Ok(()),
            "http" => Err(format!("refused to go on without TLS, to {}", shown(to))),
            other => Err(format!("refused to go on to a \"{other}\" address")),
        }
    }

    async fn once(&self, outgoing: &Outgoing<'_>, own: bool) -> Result<reqwest::Response, Failure> {
        let client = self.client(&outgoing.url)?;
        let mut request = Request::new(outgoing.method.clone(), outgoing.url.clone());
        let headers = request.headers_mut();
        *headers = outgoing.headers.clone();
        headers.insert(USER_AGENT, self.agent.clone());
        if own {
            for (name, value) in &self.headers {
                headers.append(name, value.clone());
            }
        }
        if let Some(authorization) = &outgoing.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let (moved, mut progress) = watch::channel(0);
        let mut content = None;
        match outgoing.payload {
            Payload::None if matches!(outgoing.method, Method::POST | Method::PUT) => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            Payload::None => {}
            Payload::Bytes(ref bytes) => *request.body_mut() = Some(bytes.clone().into()),
            Payload::Stream(source) => {
                let (stream, length) = source.open()?;
                headers.insert(CONTENT_LENGTH, length.into());
                *request.body_mut() = Some(Body::wrap_stream(counted(stream, length, moved)));
                content = Some(source);
            }
        }
        let mut response = std::pin::pin!(client.execute(request));
        loop {
            let more = async {
                // Once all is sent, only the response is waited for.
                if content.is_none() || progress.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                done = &mut response => {
                    return done.map_err(|error| failure(&error, outgoing));
                }
                () = more => {
                    let so_far = *progress.borrow_and_update();
                    if let Some(content) = content {
                        content.sent(so_far);
                    }
                }
                () = tokio::time::sleep(self.patience) => {
                    let why = "net/http: timeout awaiting response headers";
                    return Err(Failure {
                        error: Error::Unavailable(told(&outgoing.method, &outgoing.url, why)),
                        again: Again::Later(None),
                    });
                }
            }
        }
    }

    /// Connections to this machine never go through a proxy.
    fn client(&self, url: &Url) -> Result<reqwest::Client, Error> {
        let direct = insecure::is_loopback(&hosts::authority(url));
        let slot = if direct { &self.direct } else { &self.proxied };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        let mut dial = self.settings.dial_timeout.unwrap_or(DIAL_TIMEOUT);
        if self.settings.insecure {
            dial = dial.min(PROBE_TIMEOUT);
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(&self.settings)?)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .connect_timeout(dial);
        if direct {
            builder = builder.no_proxy();
        }
        let client = builder
            .build()
            .map_err(|error| Error::Invalid(format!("cannot make an HTTP client: {error}")))?;
        Ok(slot.get_or_init(|| client).clone())
    }

    pub(super) fn last_challenge(&self) -> Option<Challenge> {
        let challenge = self.challenge.lock();
        challenge.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn remember(&self, challenge: Challenge) {
        let mut slot = self
            .challenge
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Some(challenge);
    }
}

/// Largest part of a body that is handed over at once: progress is seen, and
/// a slow line is told from a dead one.
const PART: usize = 64 << 10;

/// Cuts a body into parts, counts them, and ends where it was said to end.
fn counted(
    stream: BoxStream<'static, io::Result<Bytes>>,
    length: u64,
    moved: watch::Sender<u64>,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static {
    use futures_util::StreamExt as _;
    struct State {
        stream: BoxStream<'static, io::Result<Bytes>>,
        rest: Bytes,
        sent: u64,
        moved: watch::Sender<u64>,
    }
    let state = State {
        stream,
        rest: Bytes::new(),
        sent: 0,
        moved,
    };
    futures_util::stream::try_unfold(state, move |mut state| async move {
        while state.rest.is_empty() {
            match state.stream.next().await {
                Some(piece) => state.rest = piece?,
                None if state.sent == length => return Ok(None),
                None => return Err(io::Error::other("the source is shorter than was said")),
            }
        }
        let part = state.rest.split_to(state.rest.len().min(PART));
        state.sent += part.len() as u64;
        if state.sent > length {
            return Err(io::Error::other("the source is longer than was said"));
        }
        let _ = state.moved.send(state.sent);
        Ok(Some((part, state)))
    })
}

/// `base` as a folder: with "/" at its end.
pub(super) fn directory(base: &Url) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/", base.path().trim_end_matches('/')));
    url
}

/// For errors and logs: queries hold tokens and signatures.
pub(super) fn shown(url: &Url) -> String {
    let mut url = without_login(url.clone());
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

fn without_login(mut url: Url) -> Url {
    // Fails only for addresses that can have none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

fn failure(error: &reqwest::Error, outgoing: &Outgoing<'_>) -> Failure {
    let why = cause(error, &outgoing.url);
    let again = match tls_error(error) {
        Some(rustls::Error::InvalidMessage(_)) => Again::Plain,
        // An alert, a certificate: it will be the same next time.
        Some(_) => Again::Never,
        _ if error.is_dns() || error.is_builder() => Again::Never,
        _ => Again::Later(None),
    };
    Failure {
        error: Error::Unavailable(told(&outgoing.method, &outgoing.url, &why)),
        again,
    }
}

fn sources(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    sources(error).find_map(within)
}

/// An I/O error hides what it is made of from the chain of sources.
fn within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(inner) => within(inner),
        None => error.downcast_ref(),
    }
}

/// Why a request failed, in Go's words where people look for them.
pub(super) fn cause(error: &reqwest::Error, url: &Url) -> String {
    use rustls::CertificateError;
    let host = hosts::authority(url);
    if let Some(error) = tls_error(error) {
        let why = match error {
            rustls::Error::InvalidMessage(_) => {
                return "http: server gave HTTP response to HTTPS client".to_owned();
            }
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "x509: certificate signed by unknown authority".to_owned()
            }
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => format!("x509: certificate is not valid for {host}"),
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => "x509: certificate has expired or is not yet valid".to_owned(),
            other => return format!("tls: {other}"),
        };
        return format!("tls: failed to verify certificate: {why}");
    }
    if error.is_dns() {
        let name = url.host_str().unwrap_or_default();
        return format!("dial tcp: lookup {name}: no such host");
    }
    if error.is_connect() {
        let why = sources(error)
            .filter_map(|source| source.downcast_ref::<io::Error>())
            .last()
            .map(|error| match error.kind() {
                io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
                io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
                _ => error.to_string(),
            });
        let why = why.unwrap_or_else(|| {
            if error.is_timeout() {
                return "i/o timeout".to_owned();
            }
            innermost(error)
        });
        return format!("dial tcp {host}: connect: {why}");
    }
    innermost(error)
}

fn innermost(error: &reqwest::Error) -> String {
    let last = sources(error).last().map(ToString::to_string);
    // reqwest's own text would show the whole address.
    let text = last.unwrap_or_else(|| "the request failed".to_owned());
    if text.contains("before message completed") || text.contains("end of file") {
        return "unexpected EOF".to_owned();
    }
    super::answer::clean(&text)
}
