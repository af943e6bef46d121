//! `--ipc container:…`: another container's /dev/shm.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::launcher::namespace;
use crate::protocol::SHM;

/// TMPFS_MAGIC of linux/magic.h.
const TMPFS: i64 = 0x0102_1994;

/// A detached copy of the /dev/shm mount of the mount namespace given. The
/// calling process is in its own again when this returns.
///
/// A mount can be copied only from inside its namespace. There, the other
/// container's root is this process's root, so nothing that container has put
/// in place of its /dev leads out of it; and only a tmpfs is taken.
pub(super) fn open(other: &File) -> io::Result<OwnedFd> {
    let own = File::open("/proc/self/ns/mnt")?;
    namespace::enter(other)?;
    let tree = copy();
    namespace::enter(&own)?;
    tree
}

fn copy() -> io::Result<OwnedFd> {
    let directory = openat2(
        CWD,
        SHM,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )?;
    if fstatfs(&directory)?.f_type != TMPFS {
        return Err(io::Error::other(format!("{SHM} is no tmpfs there")));
    }
    Ok(open_tree(
        &directory,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH,
    )?)
}
