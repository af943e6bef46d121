//! Connections, signals and the clock: what makes the server run and end.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::auth::Auth;
use super::metrics::{self, Metrics};
use super::proxy::Origin;
use super::reply::Body;
use super::storage::{self, Storage};
use super::tls::Tls;
use super::{Options, Server, Shared, gc};

/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 1024;

/// Longest wait for the head of a request, and for a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// After a failed accept (no descriptors left), the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests at work may take when the server ends.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

/// How often old uploads are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);

/// Why a registry cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error(transparent)]
    Storage(#[from] storage::Error),
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Options(String),
}

/// A registry that is bound and ready to serve.
#[derive(Debug)]
pub struct Registry {
    server: Server,
    listener: Listener,
    /// Where metrics are read.
    metrics: Option<Listener>,
    tls: Option<Arc<Tls>>,
}

impl Registry {
    /// Opens the root and binds the addresses.
    ///
    /// # Errors
    /// If an option is wrong, or an address or the root is in use.
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let listener = Listener::bind(&options.address).await?;
        options.demand_protection(listener.address)?;
        let metrics = match &options.metrics_address {
            Some(address) => Some(Listener::bind(address).await?),
            None => None,
        };
        let (server, tls) = tokio::task::spawn_blocking(move || open(options))
            .await
            .map_err(|error| Error::Options(error.to_string()))??;
        Ok(Self {
            server,
            listener,
            metrics,
            tls,
        })
    }

    /// As clients reach it: "http://127.0.0.1:5000".
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.listener.address)
    }

    /// Where metrics are read: "http://127.0.0.1:5001/metrics".
    pub fn metrics_url(&self) -> Option<String> {
        let listener = self.metrics.as_ref()?;
        Some(format!("http://{}/metrics", listener.address))
    }

    /// Serves until SIGTERM or SIGINT; requests at work then have 10 seconds.
    ///
    /// # Errors
    /// If signals cannot be listened for.
    pub async fn run(self) -> Result<(), Error> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Error::Options(format!("cannot listen for signals: {error}")))
        };
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut hangup = listen(SignalKind::hangup())?;
        let mut collect = listen(SignalKind::user_defined1())?;
        raise_descriptor_limit();
        let (stop, stopped) = watch::channel(false);
        let server = self.server;
        tokio::spawn(expire(server.clone()));
        tokio::spawn(collect_always(server.clone()));
        if let Some(listener) = self.metrics {
            let server = server.clone();
            tokio::spawn(listener.serve(None, stopped.clone(), move |request| {
                let reply = metrics::handle(&server, &request);
                async move { reply }
            }));
        }
        let handle = {
            let server = server.clone();
            move |request| {
                let server = server.clone();
                async move { server.handle(request).await }
            }
        };
        let mut serving = tokio::spawn(self.listener.serve(self.tls.clone(), stopped, handle));
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = collect.recv() => {
                    tokio::spawn(collect_once(server.clone()));
                }
                _ = hangup.recv() => {
                    if let Some(tls) = &self.tls {
                        tls.reload();
                    }
                }
                // It ends only with `stop`.
                _ = &mut serving => return Ok(()),
            }
        }
        tracing::info!("ending");
        stop.send_replace(true);
        let _ = tokio::time::timeout(LAST_REQUESTS, serving).await;
        Ok(())
    }
}

/// Each connection takes a descriptor, and another one while it reads a blob:
/// more than the limit that programs begin with.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Blocks.
fn open(options: Options) -> Result<(Server, Option<Arc<Tls>>), Error> {
    let storage = Storage::open(&options.root)?;
    let auth = Auth::open(&options, &storage)?;
    let tls = options.tls.clone().map(Tls::open).transpose()?;
    let origin = options.proxy.as_ref().map(Origin::new).transpose()?;
    let server = Server(Arc::new(Shared {
        options,
        storage: Arc::new(storage),
        uploads: Arc::default(),
        metrics: Metrics::default(),
        auth,
        origin: origin.map(Arc::new),
    }));
    Ok((server, tls.map(Arc::new)))
}

/// Removes uploads that were given up.
async fn expire(server: Server) {
    loop {
        let (inner, age) = (server.clone(), server.options.upload_expiry);
        match server
            .storage(move |storage| inner.uploads.expire(storage, age))
            .await
        {
            Ok(0) => {}
            Ok(count) => tracing::info!("removed {count} uploads that were given up"),
            Err(error) => tracing::error!(%error, "cannot remove old uploads"),
        }
        tokio::time::sleep(EXPIRY_INTERVAL.min(age)).await;
    }
}

async fn collect_always(server: Server) {
    let Some(interval) = server.options.gc_interval else {
        return;
    };
    if server.options.read_only {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        collect_once(server.clone()).await;
    }
}

async fn collect_once(server: Server) {
    let rules = gc::Rules {
        grace: server.options.gc_grace,
        untagged: server.options.gc_untagged,
    };
    match server
        .storage(move |storage| gc::collect(storage, rules))
        .await
    {
        Ok(Some(removed)) => {
            server.metrics.collected(removed.bytes);
            tracing::info!(
                "collection: removed {} manifests and {} blobs of {} bytes",
                removed.manifests,
                removed.blobs,
                removed.bytes
            );
        }
        Ok(None) => tracing::info!("a collection is running already"),
        Err(error) => tracing::error!(%error, "collection"),
    }
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    async fn bind(address: &str) -> Result<Self, Error> {
        let failed = |source| Error::Listen {
            address: address.to_owned(),
            source,
        };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// Serves until told to stop, and then what is at work.
    async fn serve<H, F>(self, tls: Option<Arc<Tls>>, mut stopped: watch::Receiver<bool>, handle: H)
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => break,
                accepted = self.accept(&slots) => accepted,
            };
            match accepted {
                Ok((socket, slot)) => {
                    let (tls, stopped) = (tls.clone(), stopped.clone());
                    let handle = handle.clone();
                    tokio::spawn(async move {
                        match tls {
                            None => connection(socket, stopped, handle).await,
                            Some(tls) => {
                                let acceptor = tokio_rustls::TlsAcceptor::from(tls.config());
                                let shake = acceptor.accept(socket);
                                match tokio::time::timeout(HEAD_TIMEOUT, shake).await {
                                    Ok(Ok(socket)) => connection(socket, stopped, handle).await,
                                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
                                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                                }
                            }
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.socket);
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let _ = slots.acquire_many(all).await;
    }

    async fn accept(
        &self,
        slots: &Arc<Semaphore>,
    ) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let slot = Arc::clone(slots)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (socket, _) = self.socket.accept().await?;
        let _ = socket.set_nodelay(true);
        Ok((socket, slot))
    }
}

async fn connection<S, H, F>(socket: S, mut stopped: watch::Receiver<bool>, handle: H)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let reply = handle(request);
        async move { Ok::<_, std::convert::Infallible>(reply.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return log(ended),
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    log(connection.await);
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_had_up_to_the_hard_limit() {
        let limit = getrlimit(Resource::Nofile);
        let low = Rlimit {
            current: Some(limit.maximum.map_or(1 << 16, |most| most - 1)),
            ..limit
        };
        setrlimit(Resource::Nofile, low).unwrap();
        raise_descriptor_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }
}
