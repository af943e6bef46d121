//! The launcher's own mount namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use berth_sys::{fork, socket};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A copy of the present namespace of which the host never sees anything,
/// while what the host unmounts also goes away here (a private copy would keep
/// an unmounted disk busy).
pub(super) fn make_private() -> io::Result<()> {
    fork::unshare_mount_namespace()
        .and_then(|()| {
            Ok(mount_change(
                "/",
                MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
            )?)
        })
        .map_err(|error| crate::context(error, || "make a private mount namespace".to_owned()))
}

/// Enters the namespace of the launcher at the other end of `connection`.
pub(super) fn join_that_of(connection: &OwnedFd) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(connection)?.pid;
    let namespace = File::open(format!("/proc/{}/ns/mnt", peer.as_raw_nonzero()))?;
    // Still connected: so the process whose namespace was opened is still the
    // one that listens, not another that has got its number.
    match socket::receive(connection) {
        Err(Errno::AGAIN) => enter(&namespace),
        _ => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

/// Moves this process into a mount namespace; root and working directory
/// become that namespace's root.
pub(crate) fn enter(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(
        namespace.as_fd(),
        Some(LinkNameSpaceType::Mount),
    )?)
}
