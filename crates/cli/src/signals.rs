//! Signals of this process, passed on to a container.

use std::convert::Infallible;
use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::failure::Failure;
use crate::transport::Request;

/// All that a program may catch and that is not for the client itself (CHLD,
/// PIPE, URG, WINCH) or a fault of its own (SEGV and the like).
const FORWARDED: [(i32, &str); 21] = [
    (libc::SIGHUP, "HUP"),
    (libc::SIGINT, "INT"),
    (libc::SIGQUIT, "QUIT"),
    (libc::SIGTRAP, "TRAP"),
    (libc::SIGABRT, "ABRT"),
    (libc::SIGBUS, "BUS"),
    (libc::SIGUSR1, "USR1"),
    (libc::SIGUSR2, "USR2"),
    (libc::SIGALRM, "ALRM"),
    (libc::SIGTERM, "TERM"),
    (libc::SIGCONT, "CONT"),
    (libc::SIGTSTP, "TSTP"),
    (libc::SIGTTIN, "TTIN"),
    (libc::SIGTTOU, "TTOU"),
    (libc::SIGXCPU, "XCPU"),
    (libc::SIGXFSZ, "XFSZ"),
    (libc::SIGVTALRM, "VTALRM"),
    (libc::SIGPROF, "PROF"),
    (libc::SIGIO, "IO"),
    (libc::SIGPWR, "PWR"),
    (libc::SIGSYS, "SYS"),
];

/// Catches signals from its making on, until dropped.
#[derive(Debug)]
pub(crate) struct Forwarding {
    arrived: mpsc::UnboundedReceiver<&'static str>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// Keeps the channel open when nothing is caught.
    _sender: mpsc::UnboundedSender<&'static str>,
}

impl Forwarding {
    /// Catches nothing unless `wanted`.
    pub(crate) fn start(wanted: bool) -> Result<Self, Failure> {
        let (sender, arrived) = mpsc::unbounded_channel();
        let mut tasks = Vec::new();
        for (number, name) in FORWARDED.into_iter().filter(|_| wanted) {
            let mut stream = signal(SignalKind::from_raw(number))
                .map_err(|error| Failure::new(format!("cannot catch SIG{name}: {error}")))?;
            let sender = sender.clone();
            tasks.push(tokio::spawn(async move {
                while stream.recv().await.is_some() && sender.send(name).is_ok() {}
            }));
        }
        Ok(Self {
            arrived,
            tasks,
            _sender: sender,
        })
    }

    /// Does `work`; what arrives meanwhile goes to the container `id`.
    pub(crate) async fn alongside<T>(
        &mut self,
        context: &Context,
        id: &str,
        work: impl Future<Output = T>,
    ) -> T {
        let forward = async {
            while let Some(name) = self.arrived.recv().await {
                let kill = Request::post(format!("/containers/{id}/kill")).query("signal", name);
                // It may have ended by now; the wait tells.
                let _ = context.done(kill).await;
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            result = work => result,
            never = forward => match never {},
        }
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
