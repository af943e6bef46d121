//! HTTP: routes → engine calls → replies, and hijacked streams. Speaks the
//! Docker Engine API, versions 1.24 to 1.55.
//!
//! Must not know how anything is done: it translates requests into calls of
//! `berth-engine` and results into what each API version expects.

use std::sync::Arc;
use std::time::Duration;

use berth_api::version::ApiVersion;
use berth_api::{Error, Kind};
use berth_engine::Engine;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode, http};
use tokio::sync::watch;

mod build;
mod connection;
mod containers;
mod escape;
mod execs;
mod extract;
mod hijack;
mod images;
pub mod listen;
mod networks;
mod platform;
mod registry;
mod reply;
mod routes;
mod socket;
mod streams;
mod system;
mod unsupported;
mod versions;
mod volumes;

use connection::Hijacker;
use extract::Query;
use listen::Listener;
use reply::Reply;

/// After a failed accept (no descriptors left), the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long finished requests may take to leave the sockets when stopping.
const FLUSH: Duration = Duration::from_millis(250);

/// What the daemon's configuration says about the API itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Oldest API version served.
    pub min_api: ApiVersion,
    pub experimental: bool,
}

/// The API in front of one engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Server {
    engine: Engine,
    settings: Arc<Settings>,
    builds: build::Builds,
    stop: watch::Sender<bool>,
    /// Held by each request at work.
    requests: Guards,
    /// Held by each connection that is not a hijacked stream.
    connections: Guards,
}

impl Server {
    pub fn new(engine: Engine, settings: Settings) -> Self {
        Self {
            engine,
            settings: Arc::new(settings),
            builds: build::Builds::default(),
            stop: watch::Sender::new(false),
            requests: Guards::new(),
            connections: Guards::new(),
        }
    }

    /// Accepts and serves connections until [`Server::stop`].
    pub async fn run(&self, listener: Listener) {
        let mut stop = self.stop.subscribe();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(socket) => {
                    let guard = self.connections.take();
                    let server = self.clone();
                    let stop = self.stop.subscribe();
                    tokio::spawn(async move {
                        let handle = |request, hijacker| server.handle(request, hijacker);
                        connection::serve(socket, handle, stop, guard).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, address = listener.address(), "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Stops accepting; requests at work may take `timeout` to finish. Streams
    /// (events, followed logs, attached terminals) are cut.
    pub async fn stop(self, timeout: Duration) {
        self.stop.send_replace(true);
        let _ = tokio::time::timeout(timeout, self.requests.released()).await;
        let _ = tokio::time::timeout(FLUSH, self.connections.released()).await;
    }

    async fn handle(&self, request: Request<Incoming>, hijacker: Hijacker) -> Reply {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        tracing::debug!("Calling {method} {path}");
        let mut reply = match self.dispatch(request, hijacker).await {
            Ok(reply) => reply,
            Err(error) => {
                if error.kind == Kind::System {
                    tracing::error!("Handler for {method} {path} returned error: {error}");
                } else {
                    tracing::debug!("Handler for {method} {path} returned error: {error}");
                }
                reply::error(&error)
            }
        };
        reply::decorate(&mut reply, self.settings.experimental);
        reply
    }

    async fn dispatch(&self, request: Request<Incoming>, hijack: Hijacker) -> Result<Reply, Error> {
        let (head, body) = request.into_parts();
        if head.method == Method::OPTIONS {
            return Ok(reply::status(StatusCode::OK));
        }
        let target = routes::resolve(&head.method, &head.uri, self.settings.min_api)?;
        let call = Call {
            engine: self.engine.clone(),
            settings: Arc::clone(&self.settings),
            builds: self.builds.clone(),
            version: target.version,
            name: target.name,
            query: target.query,
            head,
            body,
            hijack,
            guard: self.requests.take(),
        };
        (target.route.handler)(call).await
    }
}

/// One request on its way through a handler.
struct Call {
    engine: Engine,
    settings: Arc<Settings>,
    builds: build::Builds,
    /// The newest when the path names none.
    version: ApiVersion,
    /// What stands for `{}` in the route's path.
    name: String,
    query: Query,
    head: http::request::Parts,
    body: Incoming,
    hijack: Hijacker,
    guard: Guard,
}

impl Call {
    /// Runs an operation to its end even when the client goes away meanwhile:
    /// nothing is ever left half done.
    async fn finish<T: Send + 'static>(
        guard: Guard,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let task = tokio::spawn(async move {
            let _guard = guard;
            work.await
        });
        task.await.unwrap_or_else(|error| {
            Err(Error::system(format!("the operation was cut off: {error}")))
        })
    }
}

/// Counts things at work, so that their end can be waited for.
#[derive(Clone, Debug)]
struct Guards(watch::Sender<()>);

/// Held while the thing is at work.
type Guard = watch::Receiver<()>;

impl Guards {
    fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    fn take(&self) -> Guard {
        self.0.subscribe()
    }

    /// Waits until no guard is held.
    async fn released(&self) {
        self.0.closed().await;
    }
}
