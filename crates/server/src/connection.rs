//! One client connection: HTTP/1.1 until it ends or a handler takes it over.
//!
//! Attach and exec turn the connection into a raw stream, with `101` when the
//! client sent `Upgrade`, with a bare `200` when it did not. Hyper's upgrades
//! know only the first, so both go one way here: the handler hands over a
//! [`Hijack`] and never answers; hyper's connection is taken apart, and the
//! answer is written to the socket itself, followed by the stream.
//!
//! HTTP/2 with prior knowledge (gRPC) would be told apart in [`serve`], by its
//! first bytes, before hyper's HTTP/1 gets the socket.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{mpsc, watch};

use crate::Guard;
use crate::build::Session;
use crate::hijack::Hijack;
use crate::reply::Reply;
use crate::socket::Socket;

/// How long a client may take to send its headers, or stay idle: Docker's value.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Most bytes of headers, and of body read ahead.
const BUFFER: usize = 64 * 1024;

/// Lets a handler take its connection over.
#[derive(Clone)]
pub(crate) struct Hijacker(mpsc::Sender<Takeover>);

impl Hijacker {
    /// Never returns: the connection, and this request with it, is taken apart.
    pub(crate) async fn take_over(&self, stream: impl Into<Takeover>) -> Reply {
        // Fails only when the connection is gone, and this future with it.
        let _ = self.0.try_send(stream.into());
        std::future::pending().await
    }
}

/// What a connection becomes.
pub(crate) enum Takeover {
    Attached(Hijack),
    Build(Session),
}

impl From<Hijack> for Takeover {
    fn from(hijack: Hijack) -> Self {
        Self::Attached(hijack)
    }
}

impl From<Session> for Takeover {
    fn from(session: Session) -> Self {
        Self::Build(session)
    }
}

/// What happens to a connection next.
enum Next {
    Ended(hyper::Result<()>),
    Hijacked(Takeover),
    Stop,
}

/// Serves one connection to its end. When `stop` becomes true, the request at
/// hand is answered and then the connection is closed. `guard` is held as long
/// as HTTP is spoken.
pub(crate) async fn serve<H, F>(
    socket: Socket,
    handle: H,
    mut stop: watch::Receiver<bool>,
    guard: Guard,
) where
    H: Fn(Request<Incoming>, Hijacker) -> F,
    F: Future<Output = Reply>,
{
    let (sender, mut hijacks) = mpsc::channel(1);
    let hijacker = Hijacker(sender);
    let service = service_fn(|request| {
        let reply = handle(request, hijacker.clone());
        async { Ok::<_, Infallible>(reply.await) }
    });
    // A client may end its side right after the request and still wants the
    // answer. Where that cannot be told from a client that is gone, it is gone.
    let half_close = socket.tells_half_close();
    let mut hung_up = std::pin::pin!(socket.hung_up());
    let mut connection = http1::Builder::new()
        .half_close(half_close)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(socket), service);

    let mut stopping = false;
    let hijack = loop {
        // In this order, so that no reply is lost to a hijack or a stop.
        let next = tokio::select! {
            biased;
            result = &mut connection => Next::Ended(result),
            Some(hijack) = hijacks.recv() => Next::Hijacked(hijack),
            _ = stop.wait_for(|stop| *stop), if !stopping => Next::Stop,
            // Ends what goes on for its client only: waits, events, logs.
            () = &mut hung_up => return,
        };
        match next {
            Next::Ended(Ok(())) => return,
            Next::Ended(Err(error)) => return tracing::debug!(%error, "client connection ended"),
            Next::Hijacked(hijack) => break hijack,
            Next::Stop => {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    // A handler hijacks after the whole body has been read, so what is left in
    // the buffer belongs to the stream.
    let parts = connection.into_parts();
    drop((guard, stop));
    let (socket, early) = (parts.io.into_inner(), &parts.read_buf);
    match hijack {
        Takeover::Attached(stream) => stream.run(socket, early, hung_up).await,
        Takeover::Build(session) => session.run(socket, early, hung_up).await,
    }
}

/// Whether the client asked for the connection to be upgraded.
pub(crate) fn wants_upgrade(headers: &header::HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::{self, error};
    use crate::{Settings, extract, routes};
    use berth_api::version::ApiVersion;
    use berth_engine::Attachment;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Std;
    use tokio::net::UnixStream;

    const SETTINGS: Settings = Settings {
        min_api: ApiVersion(1, 40),
        experimental: false,
    };

    /// What the server does up to the engine's door.
    async fn handle(request: Request<Incoming>, hijacker: Hijacker) -> Reply {
        let (head, body) = request.into_parts();
        let mut reply = match routes::resolve(&head.method, &head.uri, SETTINGS.min_api) {
            Err(failure) => error(&failure),
            Ok(target) if target.name == "tea" => {
                extract::collect(body, 1024).await.unwrap();
                // The engine takes its time, and the client's end is seen first.
                tokio::task::spawn_blocking(|| ()).await.unwrap();
                let (stream, mut container) = Std::pair().unwrap();
                stream.set_nonblocking(true).unwrap();
                tokio::task::spawn_blocking(move || {
                    let mut said = String::new();
                    container.read_to_string(&mut said).unwrap();
                    container.write_all(said.to_uppercase().as_bytes()).unwrap();
                });
                let attachment = Attachment {
                    tty: false,
                    logs: None,
                    stream: Some(UnixStream::from_std(stream).unwrap()),
                    detach_keys: Vec::new(),
                };
                let upgrade = wants_upgrade(&head.headers);
                let start = async { Ok(attachment) };
                let hijack = Hijack::new(upgrade, target.version, false, true, start);
                hijacker.take_over(hijack).await
            }
            Ok(target) if target.name == "ever" => std::future::pending().await,
            Ok(_) => match extract::json::<Vec<u8>>(&head.headers, body).await {
                Ok(value) => reply::ok(&value).unwrap(),
                Err(failure) => error(&failure),
            },
        };
        reply::decorate(&mut reply, SETTINGS.experimental);
        reply
    }

    /// Sends bytes, ends the client's side, returns all that comes back.
    async fn talk(request: &str) -> String {
        let (mut client, server) = Std::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let socket = Socket::Unix(UnixStream::from_std(server).unwrap());
        let (_stop, stopped) = watch::channel(false);
        let (guards, guard) = watch::channel(());
        let task = tokio::spawn(serve(socket, handle, stopped, guard));
        let request = request.replace('\n', "\r\n");
        let hijack = request.contains("/tea/");
        let answer = tokio::task::spawn_blocking(move || {
            client.write_all(request.as_bytes()).unwrap();
            if hijack {
                client.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            answer
        });
        let answer = answer.await.unwrap();
        task.await.unwrap();
        assert!(guards.is_closed());
        answer
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn errors_are_dockers() {
        for (line, status, message) in [
            ("GET /nowhere", 404, "page not found"),
            ("PUT /v1.44/info", 404, "page not found"),
            (
                "GET /v1.24/info",
                400,
                "client version 1.24 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version",
            ),
            (
                "GET /v1.99/info",
                400,
                "client version 1.99 is too new. Maximum supported API version is 1.55",
            ),
            ("GET /info?a=%25%zz", 400, "invalid URL escape \\\"%zz\\\""),
            (
                "POST /grpc",
                501,
                "BuildKit's interface is not supported by berth yet",
            ),
            (
                "GET /v1.44/swarm",
                503,
                "This node is not a swarm manager. Use \\\"docker swarm init\\\" or \\\"docker swarm join\\\" to connect this node to swarm and try again.",
            ),
        ] {
            let answer = talk(&format!("{line} HTTP/1.1\nHost: x\nConnection: close\n\n")).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            for want in [
                "api-version: 1.55\r\n",
                "docker-experimental: false\r\n",
                "ostype: linux\r\n",
                "server: Docker/29.7.2 (linux)\r\n",
                "content-type: application/json\r\n",
                &format!("\r\n\r\n{{\"message\":\"{message}\"}}\n"),
            ] {
                assert!(answer.contains(want), "{want:?} is not in {answer}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn bodies_are_checked() {
        for (headers, body, want) in [
            ("Content-Type: application/json\n", "[1]", "[1]"),
            ("Content-Type: application/json\n", "", "null"),
            ("", "", "null"),
            (
                "",
                "[1]",
                "malformed Content-Type header (): mime: no media type",
            ),
            (
                "Content-Type: text/plain\n",
                "[1]",
                "unsupported Content-Type header (text/plain): must be 'application/json'",
            ),
            ("Content-Type: application/json\n", "[1", "invalid JSON: "),
            (
                "Content-Type: application/json\n",
                " ",
                "got EOF while reading request body",
            ),
            (
                "Content-Type: application/json\n",
                "[1][2]",
                "unexpected content after JSON",
            ),
        ] {
            let answer = talk(&format!(
                "POST /containers/x/update HTTP/1.1\nHost: x\nConnection: close\n{headers}Content-Length: {}\n\n{body}",
                body.len()
            ))
            .await;
            assert!(answer.contains(want), "{want:?} is not in {answer}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_leaves_ends_its_request() {
        let (mut client, server) = Std::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let socket = Socket::Unix(UnixStream::from_std(server).unwrap());
        let (_stop, stopped) = watch::channel(false);
        let (_guards, guard) = watch::channel(());
        let task = tokio::spawn(serve(socket, handle, stopped, guard));
        client
            .write_all(b"POST /containers/ever/wait HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        drop(client);
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stopping_closes_idle_connections() {
        let (mut client, server) = Std::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let socket = Socket::Unix(UnixStream::from_std(server).unwrap());
        let (stop, stopped) = watch::channel(false);
        let (_guards, guard) = watch::channel(());
        let task = tokio::spawn(serve(socket, handle, stopped, guard));
        stop.send_replace(true);
        task.await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_become_streams_with_and_without_upgrade() {
        let request = "POST /v1.44/containers/tea/attach HTTP/1.1\nHost: x\n";
        let upgrade = "Connection: Upgrade\nUpgrade: tcp\n";
        assert_eq!(
            talk(&format!(
                "{request}{upgrade}Content-Length: 2\n\n{{}}some words"
            ))
            .await,
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nSOME WORDS"
        );
        assert_eq!(
            talk(&format!("{request}Content-Length: 0\n\nsome words")).await,
            "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\nSOME WORDS"
        );
        // Below 1.42 the type never says that frames follow.
        let old = request.replace("1.44", "1.41");
        assert!(
            talk(&format!("{old}{upgrade}\n"))
                .await
                .contains("raw-stream")
        );
    }
}
