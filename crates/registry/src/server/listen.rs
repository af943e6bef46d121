//! Connections: accepting them, and ending with those that are at work.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use super::metrics::Metrics;
use super::storage::{self, Storage};
use super::{Options, Server, Shared};

/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 1024;

/// Longest wait for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// After a failed accept (no descriptors left), the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests at work may take when the server ends.
const LAST_REQUESTS: Duration = Duration::from_secs(10);

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
    listener: TcpListener,
    address: SocketAddr,
}

impl Registry {
    /// Opens the root and binds the address.
    ///
    /// # Errors
    /// If an option is wrong, the address or the root is in use.
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let listener = bind(&options.address).await?;
        let address = listener.local_addr().map_err(|source| Error::Listen {
            address: options.address.clone(),
            source,
        })?;
        let root = options.root.clone();
        let storage = tokio::task::spawn_blocking(move || Storage::open(&root))
            .await
            .map_err(|error| Error::Options(error.to_string()))??;
        let server = Server(Arc::new(Shared {
            options,
            storage: Arc::new(storage),
            uploads: Arc::default(),
            metrics: Metrics::default(),
        }));
        Ok(Self {
            server,
            listener,
            address,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As clients reach it: "http://127.0.0.1:5000".
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves until SIGTERM or SIGINT; requests at work then have 10 seconds.
    pub async fn run(self) -> Result<(), Error> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Error::Options(format!("cannot listen for signals: {error}")))
        };
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let (stop, stopped) = watch::channel(false);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                accepted = accept(&self.listener, &slots) => accepted,
            };
            match accepted {
                Ok((socket, slot)) => {
                    let (server, stopped) = (self.server.clone(), stopped.clone());
                    tokio::spawn(async move {
                        connection(server, socket, stopped).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        stop.send_replace(true);
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(LAST_REQUESTS, slots.acquire_many(all)).await;
        Ok(())
    }
}

async fn bind(address: &str) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            address: address.to_owned(),
            source,
        })
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (socket, _) = listener.accept().await?;
    let _ = socket.set_nodelay(true);
    Ok((socket, slot))
}

async fn connection(server: Server, socket: TcpStream, mut stopped: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { Ok::<_, std::convert::Infallible>(server.handle(request).await) }
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
