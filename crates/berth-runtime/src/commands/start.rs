//! `start`, and the process that keeps a created container's gate until then.
//!
//! `create` ends while the container waits, so the descriptor that opens the
//! gate must live in another process: a small one that listens on `start.sock`
//! in the container's state directory. It ends with the start, or with the
//! container. Because it sees the program's execution succeed or fail, `start`
//! can tell why it failed.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_monitor::endpoint;
use berth_runtime_core::Created;
use berth_sys::{fork, socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::detect_host;
use crate::args::alone;
use crate::error::{Context, Error, Result};
use crate::state::{START_SOCKET, StateDir, Status};

/// Answer of the keeper when the program has been executed.
const STARTED: &[u8] = b"started";

pub(crate) fn start(root: &Path, arguments: Vec<OsString>) -> Result<u8> {
    let id = alone(arguments, "container id")?;
    let dir = StateDir::open(root, &id)?;
    let state = dir.load()?;
    let host = detect_host()?;
    match state.status(&dir, &host) {
        Status::Created => {}
        other => return Err(cannot_start(other)),
    }
    // Somebody else has started it, or it has ended meanwhile.
    let late = || match state.status(&dir, &host) {
        Status::Created => cannot_start(Status::Running),
        other => cannot_start(other),
    };
    let handle = endpoint::open_dir(dir.path()).map_err(|_| late())?;
    let keeper = endpoint::connect_in(handle.as_fd(), START_SOCKET).map_err(|_| late())?;
    rustix::io::ioctl_fionbio(&keeper, false).context(|| "start".to_owned())?;
    match socket::receive(&keeper) {
        Ok(Some((answer, _))) if answer == STARTED => Ok(0),
        Ok(Some((answer, _))) => Err(Error::new(String::from_utf8_lossy(&answer))),
        Ok(None) | Err(Errno::CONNRESET) => Err(late()),
        Err(errno) => Err(errno).context(|| "wait for the start".to_owned()),
    }
}

fn cannot_start(status: Status) -> Error {
    Error::new(match status {
        Status::Running => "cannot start an already running container".to_owned(),
        Status::Stopped => "cannot start a container that has stopped".to_owned(),
        other => format!("cannot start a container in the {} state", other.name()),
    })
}

/// Where `start` will connect to. There before the container's process is, which
/// else would seem to have been started when `create` is killed in between.
#[derive(Debug)]
pub(crate) struct Gate {
    directory: OwnedFd,
    listener: OwnedFd,
}

impl Gate {
    pub(crate) fn new(dir: &StateDir) -> Result<Self> {
        let tried = || "make the gate".to_owned();
        let directory = endpoint::open_dir(dir.path()).context(tried)?;
        let listener = endpoint::listen_in(directory.as_fd(), START_SOCKET).context(tried)?;
        Ok(Self {
            directory,
            listener,
        })
    }

    /// Leaves a process behind that opens the gate when `start` connects.
    pub(crate) fn keep(self, created: Created) -> Result<()> {
        fork::fork(
            move || match keep(&self.directory, &self.listener, created) {
                Ok(()) => 0,
                Err(_) => 1,
            },
        )
        .context(|| "fork the gate's keeper".to_owned())?;
        Ok(())
    }
}

/// In the keeper. Without it the container's first process gives up by itself.
fn keep(dir: &OwnedFd, listener: &OwnedFd, mut created: Created) -> std::io::Result<()> {
    rustix::process::setsid()?;
    rustix::thread::set_name(c"berth-gate")?;
    // Whoever waits for the end of `create`'s output must not wait for us.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    created.process.console = None;
    loop {
        let mut fds = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(&created.process.pidfd, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let ended = !fds[1].revents().is_empty();
        let client = endpoint::accept_from(listener)?;
        if ended || client.is_some() {
            rustix::fs::unlinkat(dir, START_SOCKET, rustix::fs::AtFlags::empty())?;
        }
        if let Some(client) = client {
            let answer = match created.start() {
                Ok(()) => STARTED.to_vec(),
                Err(error) => error.to_string().into_bytes(),
            };
            socket::send(&client, &answer, &[])?;
            return Ok(());
        }
        if ended {
            return Ok(());
        }
    }
}
