//! The way to the launcher: found, started, started again.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_api::Error;
use berth_monitor::client;
use berth_monitor::protocol::{FromLauncher, Layer, Start, ToLauncher, VERSION};
use berth_sys::socket;
use tokio::io::unix::AsyncFd;

use crate::{Config, error};

/// How long a fresh launcher may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Launcher {
    runtime: PathBuf,
    exec_root: PathBuf,
    cgroup: String,
    connection: Mutex<Option<Arc<OwnedFd>>>,
}

impl Launcher {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            runtime: config.runtime.clone(),
            exec_root: config.exec_root.clone(),
            cgroup: format!("{}/launcher", config.cgroup_parent.trim_end_matches('/')),
            connection: Mutex::default(),
        }
    }

    /// Connects to the launcher, starting one when none answers. Blocks.
    pub(crate) fn ensure(&self) -> Result<(), Error> {
        let mut connection = self.lock();
        *connection = None;
        *connection = Some(Arc::new(self.connect()?));
        Ok(())
    }

    /// Hands a container over; the answer comes on `fds[0]`'s other end. Blocks.
    pub(crate) fn start(&self, start: Start, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.send(&ToLauncher::Start(Box::new(start)), fds)
    }

    /// A detached mount of layers, topmost first, as one read-only file system.
    /// Blocks.
    pub(crate) fn mount(&self, layers: Vec<Layer>, options: Vec<String>) -> Result<OwnedFd, Error> {
        let failed = |error: io::Error| Error::system(format!("mount the layers: {error}"));
        let (ours, theirs) = socket::seqpacket_pair().map_err(|error| failed(error.into()))?;
        self.send(&ToLauncher::Mount { layers, options }, &[theirs.as_fd()])?;
        // So that the launcher's death ends the wait.
        drop(theirs);
        client::receive_mount(ours).map_err(failed)
    }

    /// Has the launcher let go the layers that are gone from disk. Blocks.
    pub(crate) fn forget_removed(&self) -> Result<(), Error> {
        self.send(&ToLauncher::ForgetRemoved, &[])
    }

    fn send(&self, message: &ToLauncher, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let message = serde_json::to_vec(message)
            .map_err(|error| Error::system(format!("encode a message: {error}")))?;
        let mut connection = self.lock();
        for last_try in [false, true] {
            let socket = match connection.as_ref() {
                Some(socket) => socket,
                None => connection.insert(Arc::new(self.connect()?)),
            };
            match socket::send(&**socket, &message, fds) {
                Ok(()) => return Ok(()),
                Err(error) if last_try => {
                    return Err(Error::system(format!(
                        "send a message to the launcher: {}",
                        io::Error::from(error)
                    )));
                }
                // It died: nothing was delivered, so a second try is safe.
                Err(_) => *connection = None,
            }
        }
        Ok(())
    }

    /// For the one who waits for the launcher's end.
    pub(crate) fn watch(&self) -> Option<Watch> {
        let socket = self.lock().clone()?;
        let copy = socket.as_fd().try_clone_to_owned().ok()?;
        crate::files::watched(copy).ok().map(Watch)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> Result<OwnedFd, Error> {
        if let Ok(socket) = greet(&self.exec_root) {
            return Ok(socket);
        }
        self.spawn()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match greet(&self.exec_root) {
                Ok(socket) => return Ok(socket),
                Err(error) if Instant::now() > deadline => {
                    return Err(Error::system(format!(
                        "the launcher {} does not answer on {}: {error} (see {})",
                        self.runtime.display(),
                        self.exec_root.join(client::LAUNCHER_SOCKET).display(),
                        self.exec_root.join("launcher.log").display(),
                    )));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Executed with nothing of ours but a log file; it makes its own session.
    fn spawn(&self) -> Result<(), Error> {
        let log_path = self.exec_root.join("launcher.log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(|error| error::io("open", &log_path, &error))?;
        let mut command = tokio::process::Command::new(&self.runtime);
        command
            .arg("launcher")
            .arg("--exec-root")
            .arg(&self.exec_root)
            .arg("--cgroup")
            .arg(&self.cgroup)
            .env_clear()
            .env("PATH", crate::spec::DEFAULT_PATH)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(false);
        // Tokio reaps it when it ends; it outlives us.
        command
            .spawn()
            .map(drop)
            .map_err(|error| error::io("execute", &self.runtime, &error))
    }
}

/// A duplicate of the launcher's socket, watched for its end only.
#[derive(Debug)]
pub(crate) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    pub(crate) async fn closed(&self) {
        // The launcher sends nothing after its greeting: readable means gone.
        let _ = self.0.readable().await;
    }
}

/// Connects and exchanges greetings.
fn greet(exec_root: &Path) -> io::Result<OwnedFd> {
    let socket = client::connect(exec_root, client::LAUNCHER_SOCKET)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    let hello = serde_json::to_vec(&ToLauncher::Hello { version: VERSION })?;
    socket::send(&socket, &hello, &[])?;
    let (bytes, _) = socket::receive(&socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let FromLauncher::Hello { version, .. } = serde_json::from_slice(&bytes)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if version < VERSION {
        return Err(io::Error::other(format!(
            "the running launcher speaks version {version} of the protocol, this engine needs {VERSION}"
        )));
    }
    Ok(socket)
}
