//! The engine's side of the sockets: plain descriptors, to be driven by any
//! event loop.
//!
//! A start goes: [`connect`] to the launcher once, [`channel`] for this
//! container, [`send_to_launcher`] with the other end of it, then
//! [`receive_from_monitor`] on the channel. After a restart the engine
//! [`connect`]s to each `monitor.sock` and asks for `Status`.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_sys::socket;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::endpoint;
use crate::protocol::{ExitRecord, FromLauncher, FromMonitor, ToLauncher, ToMonitor};

pub use crate::protocol::{EXIT_FILE, LAUNCHER_SOCKET, MONITOR_SOCKET};

/// Connects to the socket `name` in `dir` ([`LAUNCHER_SOCKET`] in the exec
/// root, [`MONITOR_SOCKET`] in a container's run directory), however long the
/// path is. The socket is non-blocking and close-on-exec.
///
/// `NotFound` and `ConnectionRefused` say that no one serves it any more.
pub fn connect(dir: &Path, name: &str) -> io::Result<OwnedFd> {
    let dir_fd = endpoint::open_dir(dir)?;
    endpoint::connect_in(dir_fd.as_fd(), name).map_err(|error| {
        crate::context(error, || format!("connect to {}", dir.join(name).display()))
    })
}

/// The channel of one start: our end, non-blocking, and the end to send along.
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socket::seqpacket_pair()?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// A memory file with `bytes` in it, for what travels as a descriptor: an OCI
/// configuration or process, a seccomp program. `name` only shows in /proc.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Sends one message; `WouldBlock` when the socket has no room at the moment.
pub fn send_to_launcher(
    socket: impl AsFd,
    message: &ToLauncher,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    Ok(socket::send(socket, &serde_json::to_vec(message)?, fds)?)
}

/// The next message; `None` when the launcher has closed; `WouldBlock` when
/// there is none at the moment.
pub fn receive_from_launcher(socket: impl AsFd) -> io::Result<Option<FromLauncher>> {
    match socket::receive(socket)? {
        Some((bytes, _)) => Ok(Some(serde_json::from_slice(&bytes)?)),
        None => Ok(None),
    }
}

/// The answer to [`ToLauncher::Mount`]; waits for it when the channel blocks.
pub fn receive_mount(channel: impl AsFd) -> io::Result<OwnedFd> {
    let (bytes, fds) = socket::receive(channel)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the launcher ended"))?;
    match serde_json::from_slice(&bytes)? {
        FromLauncher::Mounted => fds
            .into_iter()
            .next()
            .ok_or_else(|| io::Error::other("the launcher sent no mount")),
        FromLauncher::Failed { message } => Err(io::Error::other(message)),
        FromLauncher::Hello { .. } => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends one message; `WouldBlock` when the socket has no room at the moment.
pub fn send_to_monitor(
    socket: impl AsFd,
    message: &ToMonitor,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    Ok(socket::send(socket, &serde_json::to_vec(message)?, fds)?)
}

/// The next message; `None` when the monitor has closed; `WouldBlock` when
/// there is none at the moment.
pub fn receive_from_monitor(socket: impl AsFd) -> io::Result<Option<FromMonitor>> {
    match socket::receive(socket)? {
        Some((bytes, _)) => Ok(Some(serde_json::from_slice(&bytes)?)),
        None => Ok(None),
    }
}

/// How the container ended, if that is on record.
pub fn read_exit_record(state_dir: &Path) -> io::Result<Option<ExitRecord>> {
    match std::fs::read(state_dir.join(EXIT_FILE)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
