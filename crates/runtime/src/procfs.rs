//! Our own procfs, for everything the runtime writes below /proc.
//!
//! The container's /proc is its owner's to shape: what looks like
//! `attr/exec` there may be another file, and a label or a sysctl written to it
//! goes astray (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881). So writes go
//! through a procfs mount that this process made and holds by descriptor, with
//! no symbolic link and no other mount allowed on the way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::{Context as _, Error, Result};
use crate::paths;

/// `PROC_SUPER_MAGIC` of statfs(2).
const PROC_MAGIC: u64 = 0x9fa0;

/// `PROC_ROOT_INO`.
const ROOT_INODE: u64 = 1;

/// What may lie over a file of procfs, as in runc: what lxcfs has, and two that
/// checkpoints and tests of FIPS need.
const COVERED: [&str; 11] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/loadavg",
    "proc/slabinfo",
    "proc/net/dev",
    "proc/sys/kernel/ns_last_pid",
    "proc/sys/crypto/fips_enabled",
];

fn is_procfs(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|found| found.f_type as u64 == PROC_MAGIC)
}

/// Whether the descriptor is of the topmost directory of a procfs.
pub(crate) fn is_root(fd: &OwnedFd) -> bool {
    is_procfs(fd.as_fd()) && rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_ino == ROOT_INODE)
}

/// Nothing but a procfs is mounted at /proc, and nothing in it: a label or a mask
/// would be a lie (CVE-2019-16884, CVE-2025-52881). `target` is what `destination`
/// has led to, by whatever links; `is_proc`, whether a whole procfs is mounted.
pub(crate) fn check_mount(destination: &Path, target: BorrowedFd<'_>, is_proc: bool) -> Result<()> {
    let at = paths::clean(destination);
    let inside = is_procfs(target);
    if is_proc || !(inside || at == Path::new("proc")) {
        return Ok(());
    }
    if COVERED.iter().any(|path| at == Path::new(path)) {
        return Ok(());
    }
    let why = if at == Path::new("proc") {
        "is not of type proc"
    } else {
        "is inside /proc"
    };
    Err(Error::invalid(format!(
        "{:?} cannot be mounted because it {why}",
        destination.display()
    )))
}

/// A procfs of the calling process's own process namespace.
#[derive(Debug)]
pub(crate) struct Procfs(OwnedFd);

impl Procfs {
    /// A detached mount: no other process can reach it or mount over it.
    pub(crate) fn detached() -> Result<Self> {
        let make = || {
            let context = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
            rustix::mount::fsconfig_create(&context)?;
            rustix::mount::fsmount(
                &context,
                FsMountFlags::FSMOUNT_CLOEXEC,
                MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC,
            )
        };
        make().step(|| "mount a procfs for the runtime").map(Self)
    }

    /// A procfs that [`super::mounts`] made itself; the descriptor is its root.
    pub(crate) fn from_mount(mount: BorrowedFd<'_>) -> Result<Self> {
        rustix::io::fcntl_dupfd_cloexec(mount, 3)
            .step(|| "keep the procfs mount")
            .map(Self)
    }

    pub(crate) fn open(
        &self,
        path: &str,
        flags: OFlags,
    ) -> std::result::Result<OwnedFd, rustix::io::Errno> {
        paths::openat2(
            self.0.as_fd(),
            Path::new(path),
            flags | OFlags::NOCTTY,
            ResolveFlags::BENEATH
                | ResolveFlags::NO_XDEV
                | ResolveFlags::NO_SYMLINKS
                | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Writes `value` in one call, as the files of procfs want it.
    pub(crate) fn write(&self, path: &str, value: &[u8]) -> Result<()> {
        let file = self
            .open(path, OFlags::WRONLY)
            .step(|| format!("open /proc/{path} for writing"))?;
        rustix::io::write(&file, value)
            .step(|| format!("write {:?} to /proc/{path}", String::from_utf8_lossy(value)))?;
        Ok(())
    }
}
