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

use crate::error::{Context as _, Result};
use crate::paths;

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
