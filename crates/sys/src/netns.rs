//! Making network namespaces.

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread, and it alone, into a new network namespace
/// (`unshare(CLONE_NEWNET)`, needs CAP_SYS_ADMIN).
///
/// Everything the thread opens afterwards, sockets and files of `/proc/sys/net`
/// alike, belongs to the new namespace: use a thread of your own for this, never
/// one of a pool.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: the call is unsafe only for CLONE_FILES, which would give this
    // thread a descriptor table of its own; CLONE_NEWNET touches no memory and no
    // descriptor.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}
