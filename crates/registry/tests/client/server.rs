//! A server that answers as a test wants, and remembers what it was asked.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use berth_registry::client::{Access, Client, Credentials, Repository};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) at: Instant,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn authorization(&self) -> &str {
        self.header("authorization")
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: BoxStream<'static, std::io::Result<Bytes>>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: stream::empty().boxed(),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        self = self.header("content-length", body.len());
        self.body = stream::once(async { Ok(body) }).boxed();
        self
    }

    /// Says more than it sends, then cuts the connection.
    pub(crate) fn cut(mut self, body: impl Into<Bytes>, said: usize) -> Self {
        let body = body.into();
        self = self.header("content-length", said);
        // The first piece must be on its way before the cut.
        let cut = stream::once(async {
            tokio::task::yield_now().await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            Err(std::io::Error::other("cut"))
        });
        self.body = stream::once(async { Ok(body) }).chain(cut).boxed();
        self
    }

    /// Sends some and then nothing, for ever.
    pub(crate) fn stall(mut self, body: impl Into<Bytes>, said: usize) -> Self {
        let body = body.into();
        self = self.header("content-length", said);
        self.body = stream::once(async { Ok(body) })
            .chain(stream::pending())
            .boxed();
        self
    }

    pub(crate) fn endless(mut self) -> Self {
        let piece = Bytes::from(vec![b' '; 64 << 10]);
        self.body = stream::repeat_with(move || Ok(piece.clone())).boxed();
        self
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) host: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve("127.0.0.1", None, Arc::new(handler)).await
    }

    pub(crate) async fn serve(
        address: &str,
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: Arc<Handler>,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let server = Self {
            host: listener.local_addr().unwrap().to_string(),
            seen: Arc::default(),
        };
        let seen = Arc::clone(&server.seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, handler, tls) = (Arc::clone(&seen), Arc::clone(&handler), tls.clone());
                tokio::spawn(async move {
                    let serve = service_fn(|request| answer(request, &seen, &handler));
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), serve).await),
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                                drop(http.serve_connection(TokioIo::new(stream), serve).await);
                            }
                        }
                    }
                });
            }
        });
        server
    }

    /// All requests but the one that finds out whether TLS is spoken.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|seen| seen.path != "/v2/")
            .cloned()
            .collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    pub(crate) fn repository(&self, client: &Client, access: Access) -> Repository {
        client
            .repository(&self.host, "x", &Credentials::default(), access)
            .unwrap()
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: &Mutex<Vec<Seen>>,
    handler: &Arc<Handler>,
) -> Result<Response<StreamBody<BoxStream<'static, std::io::Result<Frame<Bytes>>>>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let request = Seen {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: parts.headers,
        body,
        at: Instant::now(),
    };
    seen.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let frames = reply.body.map(|piece| piece.map(Frame::data)).boxed();
    Ok(response.body(StreamBody::new(frames)).unwrap())
}
