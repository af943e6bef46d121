//! The unix sockets in the filesystem through which the engine, the launcher
//! and the monitors find each other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;

/// How long to wait when as many are waiting already.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A non-blocking listening socket `name` in the directory `dir`, mode 0600
/// from its first moment.
pub fn listen_in(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    // The inode takes the mode of the socket at bind; a chmod afterwards would
    // leave a moment in which anyone may connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &address(dir, name)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A non-blocking connection to the socket `name` in `dir`.
pub fn connect_in(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    // A non-blocking connect would fail when the backlog is full.
    set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_TIMEOUT))?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    connect(&socket, &address(dir, name)?)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    check_peer(&socket)?;
    Ok(socket)
}

/// The next waiting connection of a user who may; `None` when there is none.
/// Connections of others are closed.
pub fn accept_from(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    loop {
        match accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) if check_peer(&socket).is_ok() => return Ok(Some(socket)),
            Ok(_) | Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

/// A socket address holds 108 bytes; a path through the directory's descriptor
/// is short however deep the directory is.
fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!(
        "/proc/self/fd/{}/{name}",
        dir.as_raw_fd()
    ))?)
}

/// Only this process's own user is served, whatever the socket's mode became
/// (CVE-2020-15257: a shim that served any process that reached its socket).
fn check_peer(socket: &OwnedFd) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    if peer.uid == rustix::process::geteuid() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "the socket's other side belongs to user {}",
                peer.uid.as_raw()
            ),
        ))
    }
}

/// Opens a directory for use with the functions of this module and for locks.
pub fn open_dir(path: &std::path::Path) -> io::Result<OwnedFd> {
    use rustix::fs::OFlags;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| crate::context(error, || format!("open {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn works_in_a_deep_directory() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("x".repeat(120)).join("y".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let dir = open_dir(&deep).unwrap();
        let listener = listen_in(dir.as_fd(), "a.sock").unwrap();
        let mode = std::fs::metadata(deep.join("a.sock"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(accept_from(&listener).unwrap().is_none());
        let _client = connect_in(dir.as_fd(), "a.sock").unwrap();
        assert!(accept_from(&listener).unwrap().is_some());
    }

    /// CVE-2020-15257.
    #[test]
    fn another_user_is_not_served() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let handle = open_dir(dir.path()).unwrap();
        let listener = listen_in(handle.as_fd(), "a.sock").unwrap();
        std::fs::set_permissions(dir.path().join("a.sock"), PermissionsExt::from_mode(0o777))
            .unwrap();
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root to become another user");
            return;
        }
        let path = dir.path().join("a.sock");
        // Only this thread changes its user.
        let client = std::thread::spawn(move || {
            rustix::thread::set_thread_res_uid(
                rustix::process::Uid::from_raw(1000),
                rustix::process::Uid::from_raw(1000),
                rustix::process::Uid::from_raw(1000),
            )
            .unwrap();
            let socket = new_socket().unwrap();
            connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
            socket
        })
        .join()
        .unwrap();
        assert!(accept_from(&listener).unwrap().is_none());
        assert!(berth_sys::socket::receive(&client).unwrap().is_none());
    }
}
