//! One task per monitor: it writes requests, matches answers to them, and
//! turns the monitor's events into changes of the container.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use berth_api::{Error, Kind};
use berth_monitor::protocol::{Failure, FromMonitor, ToMonitor};
use berth_monitor::steps::Step;
use berth_sys::socket;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::container::Container;
use crate::engine::Engine;

type Build = Box<dyn FnOnce(u64) -> ToMonitor + Send>;

struct Request {
    build: Build,
    fds: Vec<OwnedFd>,
    reply: oneshot::Sender<FromMonitor>,
}

/// A way to one monitor. Cheap to clone; the connection ends with the last one.
#[derive(Clone)]
pub(crate) struct Channel {
    requests: mpsc::UnboundedSender<Request>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Channel")
    }
}

/// How a start ended: where its time went, the error with the kind of failure, or nothing when the
/// monitor disappeared without a word.
pub(crate) type Begun = Result<Vec<Step>, Option<(Failure, String)>>;

impl Channel {
    /// Sends a request and waits for its answer.
    pub(crate) async fn ask(
        &self,
        fds: Vec<OwnedFd>,
        build: impl FnOnce(u64) -> ToMonitor + Send + 'static,
    ) -> Result<FromMonitor, Error> {
        let gone = || Error::conflict("the container's monitor has ended");
        let (reply, answer) = oneshot::channel();
        let request = Request {
            build: Box::new(build),
            fds,
            reply,
        };
        self.requests.send(request).map_err(|_| gone())?;
        match answer.await.map_err(|_| gone())? {
            FromMonitor::Failed { kind, message, .. } => Err(Error::new(
                match kind {
                    Failure::NotFound | Failure::NotExecutable | Failure::Invalid => Kind::Invalid,
                    Failure::Conflict => Kind::Conflict,
                    Failure::System => Kind::System,
                },
                message,
            )),
            answer => Ok(answer),
        }
    }
}

/// Serves a connection until the monitor closes it. The second value tells how
/// the start went, on a start channel.
pub(crate) fn serve(
    engine: &Engine,
    container: &Arc<Container>,
    socket: OwnedFd,
) -> io::Result<(Channel, oneshot::Receiver<Begun>)> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    let socket = crate::files::watched(socket)?;
    let (requests, queue) = mpsc::unbounded_channel();
    let (begun, first) = oneshot::channel();
    let task = Task {
        engine: engine.clone(),
        container: container.clone(),
        socket,
        pending: HashMap::new(),
        begun: Some(begun),
        counter: 0,
        exited: false,
        failed: false,
    };
    tokio::spawn(task.run(queue));
    Ok((Channel { requests }, first))
}

struct Task {
    engine: Engine,
    container: Arc<Container>,
    socket: AsyncFd<OwnedFd>,
    pending: HashMap<u64, oneshot::Sender<FromMonitor>>,
    begun: Option<oneshot::Sender<Begun>>,
    counter: u64,
    exited: bool,
    /// The start failed.
    failed: bool,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Request>) {
        loop {
            tokio::select! {
                request = queue.recv() => match request {
                    Some(request) => self.send(request).await,
                    // Nobody speaks to it any more: the engine closes.
                    None => return,
                },
                message = receive(&self.socket) => match message {
                    Ok(Some(bytes)) => self.handle(&bytes).await,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(
                            container = self.container.id,
                            "read from the monitor: {error}"
                        );
                        break;
                    }
                },
            }
        }
        // It said so, and whoever started it sees to the rest.
        if self.failed {
            return;
        }
        // Before it said anything: who waits for its word sees to the rest.
        if let Some(begun) = self.begun.take()
            && begun.send(Err(None)).is_ok()
        {
            return;
        }
        self.pending.clear();
        self.engine.monitor_gone(&self.container, self.exited).await;
    }

    async fn send(&mut self, request: Request) {
        self.counter += 1;
        let number = self.counter;
        let Ok(bytes) = serde_json::to_vec(&(request.build)(number)) else {
            return;
        };
        self.pending.insert(number, request.reply);
        let fds: Vec<BorrowedFd<'_>> = request.fds.iter().map(AsFd::as_fd).collect();
        loop {
            let Ok(mut ready) = self.socket.writable().await else {
                self.pending.remove(&number);
                return;
            };
            let sent = ready
                .try_io(|socket| socket::send(socket.get_ref(), &bytes, &fds).map_err(Into::into));
            match sent {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::debug!(
                        container = self.container.id,
                        "write to the monitor: {error}"
                    );
                    self.pending.remove(&number);
                    return;
                }
                Err(_would_block) => {}
            }
        }
    }

    async fn handle(&mut self, bytes: &[u8]) {
        let message = match serde_json::from_slice(bytes) {
            Ok(message) => message,
            // A newer monitor may say things that we do not know.
            Err(error) => {
                tracing::debug!(container = self.container.id, "unknown message: {error}");
                return;
            }
        };
        match message {
            FromMonitor::Started {
                pid,
                started_at,
                steps,
                ..
            } => {
                self.engine.started(&self.container, pid, &started_at);
                if let Some(begun) = self.begun.take() {
                    let _ = begun.send(Ok(steps));
                }
            }
            FromMonitor::StartFailed { kind, message } => {
                // Told only when the monitor has gone, so that whoever starts it
                // again finds the ground clean.
                while let Ok(Some(_)) = receive(&self.socket).await {}
                self.failed = true;
                if let Some(begun) = self.begun.take() {
                    let _ = begun.send(Err(Some((kind, message))));
                }
            }
            FromMonitor::ExecExited { exec, exit_code } => {
                self.engine.exec_exited(&self.container, &exec, exit_code);
            }
            FromMonitor::OutOfMemory => {
                self.container.record().state.oom_killed = true;
                let record = self.container.record().clone();
                self.engine.container_event(&record, "oom", &[]);
            }
            FromMonitor::Exited(exit) => {
                self.exited = true;
                self.engine.exited(&self.container, &exit);
            }
            FromMonitor::Status { request, .. }
            | FromMonitor::Done { request }
            | FromMonitor::Failed { request, .. }
            | FromMonitor::ExecStarted { request, .. } => {
                // A connection that was opened to a running container.
                self.begun = None;
                if let Some(reply) = self.pending.remove(&request) {
                    let _ = reply.send(message);
                }
            }
        }
    }
}

pub(crate) async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<Vec<u8>>> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| socket::receive(socket.get_ref()).map_err(Into::into)) {
            Ok(Ok(message)) => return Ok(message.map(|(bytes, _)| bytes)),
            // A killed monitor with unread requests resets the connection.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}
