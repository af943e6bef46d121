//! Requests to the engine: HTTP/1.1 over a unix socket or plain TCP.
//!
//! Each request has its own connection: opening one costs less than keeping
//! one alive would save, and attach and wait need their own anyway.

mod connect;
mod hijack;
mod stream;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, UPGRADE, USER_AGENT};
use hyper::{Method, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncRead;

use crate::context::Context;
use crate::credentials::Credentials;
use crate::failure::Failure;

pub(crate) use connect::Connection;
pub(crate) use hijack::Hijacked;
pub(crate) use stream::Lines;

/// What a query value or path segment may hold as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A request in the making.
pub(crate) struct Request {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    payload: Payload,
    /// Protocol that the connection is taken over for.
    upgrade: Option<&'static str>,
}

enum Payload {
    Empty,
    Bytes(Bytes, &'static str),
    /// Can be sent once only.
    Stream(Option<Body>, &'static str),
}

impl Request {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            payload: Payload::Empty,
            upgrade: None,
        }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds the parameter unless the value is empty.
    pub(crate) fn query_some(self, name: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if value.is_empty() {
            self
        } else {
            self.query(name, value)
        }
    }

    /// Adds "name=1" if `on`.
    pub(crate) fn query_flag(self, name: &'static str, on: bool) -> Self {
        if on { self.query(name, "1") } else { self }
    }

    pub(crate) fn filters(self, filters: &berth_api::filters::Filters) -> Self {
        if filters.is_empty() {
            self
        } else {
            self.query("filters", filters.to_json())
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        ));
        self
    }

    /// Credentials for the registry that the engine shall talk to.
    pub(crate) fn registry_auth(mut self, credentials: &Credentials) -> Self {
        // Base64 is always a valid value.
        if let Ok(mut value) = HeaderValue::from_str(&credentials.header()) {
            value.set_sensitive(true);
            self.headers
                .push((HeaderName::from_static("x-registry-auth"), value));
        }
        self
    }

    pub(crate) fn json(mut self, body: &impl Serialize) -> Result<Self, Failure> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| Failure::new(format!("cannot write the request: {error}")))?;
        self.payload = Payload::Bytes(bytes.into(), "application/json");
        Ok(self)
    }

    /// Sends what `reader` gives, as it comes.
    pub(crate) fn stream(
        mut self,
        reader: impl AsyncRead + Send + 'static,
        content_type: &'static str,
    ) -> Self {
        use futures_util::TryStreamExt as _;
        let chunks = tokio_util::io::ReaderStream::with_capacity(reader, 64 * 1024);
        let body = StreamBody::new(chunks.map_ok(Frame::data)).boxed_unsync();
        self.payload = Payload::Stream(Some(body), content_type);
        self
    }

    fn upgrade(mut self, protocol: &'static str) -> Self {
        self.upgrade = Some(protocol);
        self
    }

    fn build(&mut self, context: &Context) -> Result<hyper::Request<Body>, Failure> {
        let base = match &context.host {
            crate::host::Host::Tcp { base, .. } => base.as_str(),
            crate::host::Host::Unix(_) => "",
        };
        let mut uri = format!("{base}/v{}{}", context.version.get(), self.path);
        for (at, (name, value)) in self.query.iter().enumerate() {
            uri.push(if at == 0 { '?' } else { '&' });
            uri.push_str(name);
            uri.push('=');
            uri.extend(utf8_percent_encode(value, PLAIN));
        }
        let authority = match &context.host {
            crate::host::Host::Tcp { address, .. } => address.as_str(),
            crate::host::Host::Unix(_) => "api.moby.localhost",
        };
        let mut builder = hyper::Request::builder()
            .method(self.method.clone())
            .uri(uri)
            .header(HOST, authority)
            .header(
                USER_AGENT,
                concat!(
                    "Docker-Client/berth-",
                    env!("CARGO_PKG_VERSION"),
                    " (linux)"
                ),
            );
        for (name, value) in &context.config.http_headers {
            builder = builder.header(name, value);
        }
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        if let Some(protocol) = self.upgrade {
            builder = builder
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, protocol);
        }
        let body = match &mut self.payload {
            Payload::Empty => {
                if self.method == Method::POST {
                    builder = builder.header(hyper::header::CONTENT_LENGTH, 0);
                }
                empty()
            }
            Payload::Bytes(bytes, content_type) => {
                builder = builder.header(CONTENT_TYPE, *content_type);
                Full::new(bytes.clone())
                    .map_err(|never| match never {})
                    .boxed_unsync()
            }
            Payload::Stream(body, content_type) => {
                builder = builder.header(CONTENT_TYPE, *content_type);
                body.take().unwrap_or_else(empty)
            }
        };
        builder.body(body).map_err(|error| {
            Failure::new(format!("cannot make a request of {}: {error}", self.path))
        })
    }
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// One segment of a path, from outside.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// A name of an image: its slashes are part of the path.
pub(crate) fn image_segment(text: &str) -> String {
    text.split('/')
        .map(segment)
        .collect::<Vec<_>>()
        .join("/")
        .replace("%3A", ":")
        .replace("%40", "@")
}

impl Context {
    /// Sends `request` and returns the reply's head; an error reply is an error.
    pub(crate) async fn send(&self, request: Request) -> Result<Response<Incoming>, Failure> {
        let mut request = request;
        let streams = matches!(request.payload, Payload::Stream(..));
        if streams && !self.version_is_fixed {
            // A stream cannot be sent again, so the version is settled first.
            self.negotiate().await?;
        }
        let response = self.exchange(&mut request).await?;
        if response.status().as_u16() < 400 {
            return Ok(response);
        }
        let older = older_version(self, &response);
        let failure = failure_of(response).await;
        if let Some(version) = older
            && !streams
            && failure.message.contains("too new")
        {
            self.version.set(version);
            let response = self.exchange(&mut request).await?;
            if response.status().as_u16() < 400 {
                return Ok(response);
            }
            return Err(failure_of(response).await);
        }
        Err(failure)
    }

    /// Lowers the version to the engine's.
    async fn negotiate(&self) -> Result<(), Failure> {
        let response = self.exchange(&mut Request::get("/_ping")).await?;
        if let Some(version) = older_version(self, &response) {
            self.version.set(version);
        }
        Ok(())
    }

    async fn exchange(&self, request: &mut Request) -> Result<Response<Incoming>, Failure> {
        let connection = connect::open(self).await?;
        let message = request.build(self)?;
        let place = format!(
            "{} \"http://{}{}\"",
            message.method(),
            self.host,
            message.uri()
        );
        let (mut sender, driver) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(connection))
                .await
                .map_err(|error| Failure::new(format!("error during connect: {place}: {error}")))?;
        tokio::spawn(driver.with_upgrades());
        sender.send_request(message).await.map_err(|error| {
            let why = if error.is_incomplete_message() || error.is_closed() {
                "EOF".to_owned()
            } else {
                chain(&error)
            };
            Failure::new(format!("error during connect: {place}: {why}"))
        })
    }

    /// A reply's JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: Request) -> Result<T, Failure> {
        let bytes = self.bytes(request).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Failure::new(format!("cannot read the engine's reply: {error}")))
    }

    /// A reply's whole body.
    pub(crate) async fn bytes(&self, request: Request) -> Result<Bytes, Failure> {
        collect(self.send(request).await?).await
    }

    /// A request whose reply says no more than that it is done.
    pub(crate) async fn done(&self, request: Request) -> Result<(), Failure> {
        self.send(request).await.map(drop)
    }

    /// Takes the connection over as a raw stream in both directions.
    pub(crate) async fn hijack(&self, request: Request) -> Result<Hijacked, Failure> {
        self.hijack_for(request, "tcp").await
    }

    /// The same for another protocol than Docker's.
    pub(crate) async fn hijack_for(
        &self,
        request: Request,
        protocol: &'static str,
    ) -> Result<Hijacked, Failure> {
        hijack::take(self.send(request.upgrade(protocol)).await?).await
    }
}

/// The rest of a reply.
pub(crate) async fn collect(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = response.into_body().collect().await;
    Ok(body
        .map_err(|error| Failure::new(format!("the engine's reply broke off: {}", chain(&error))))?
        .to_bytes())
}

/// The engine's version when it is older than the one that was tried.
fn older_version(
    context: &Context,
    response: &Response<Incoming>,
) -> Option<berth_api::version::ApiVersion> {
    if context.version_is_fixed {
        return None;
    }
    let theirs = response
        .headers()
        .get("api-version")?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    (theirs < context.version.get()).then_some(theirs)
}

async fn failure_of(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let Ok(bytes) = collect(response).await else {
        return Failure::from_engine(status.as_u16(), status.as_str());
    };
    match serde_json::from_slice::<berth_api::error::Body>(&bytes) {
        Ok(body) => Failure::from_engine(status.as_u16(), body.message.trim()),
        Err(_) => {
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim();
            Failure::from_engine(
                status.as_u16(),
                if text.is_empty() {
                    status.as_str()
                } else {
                    text
                },
            )
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
