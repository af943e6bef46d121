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
    match state.status(&dir, &detect_host()?) {
        Status::Created => {}
        other => return Err(cannot_start(other)),
    }
    let gone = || cannot_start(Status::Stopped);
    let handle = endpoint::open_dir(dir.path()).context(|| "start".to_owned())?;
    let keeper = endpoint::connect_in(handle.as_fd(), START_SOCKET).map_err(|_| gone())?;
    rustix::io::ioctl_fionbio(&keeper, false).context(|| "start".to_owned())?;
    match socket::receive(&keeper).context(|| "wait for the start".to_owned())? {
        Some((answer, _)) if answer == STARTED => Ok(0),
        Some((answer, _)) => Err(Error::new(String::from_utf8_lossy(&answer))),
        None => Err(gone()),
    }
}

fn cannot_start(status: Status) -> Error {
    Error::new(match status {
        Status::Running => "cannot start an already running container".to_owned(),
        Status::Stopped => "cannot start a container that has stopped".to_owned(),
        other => format!("cannot start a container in the {} state", other.name()),
    })
}

/// Leaves a process behind that opens the gate when `start` connects.
pub(crate) fn keep_gate(dir: &StateDir, created: Created) -> Result<()> {
    let handle = endpoint::open_dir(dir.path()).context(|| "keep the gate".to_owned())?;
    let listener =
        endpoint::listen_in(handle.as_fd(), START_SOCKET).context(|| "keep the gate".to_owned())?;
    fork::fork(move || match keep(&handle, &listener, created) {
        Ok(()) => 0,
        Err(_) => 1,
    })
    .context(|| "fork the gate's keeper".to_owned())?;
    Ok(())
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
