//! Masked and read-only paths.
//!
//! Nothing of the container is trusted as a source: files are covered with the
//! host's own null device, checked by its number (CVE-2025-31133), directories
//! with one shared, empty, read-only tmpfs. Targets are mounted on by descriptor.
//! Runs before the host's root is left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_sys::mount::{
    MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MountAttr,
    mount_setattr,
};
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};
use crate::filesystems;
use crate::mounts;
use crate::paths;

/// Hides `paths`; those that do not exist are skipped.
pub(crate) fn mask(root: BorrowedFd<'_>, paths: &[String]) -> Result<()> {
    let mut null = None;
    let mut empty = None;
    for path in paths {
        let Some(target) = open(root, path)? else {
            continue;
        };
        let tried = || format!("mask {path}");
        let directory = paths::is_directory(target.as_fd()).step(tried)?;
        let kind = if directory { &mut empty } else { &mut null };
        // The first cover of a kind, once attached, is cloned for the others.
        let cover = match kind {
            Some(first) => mounts::clone_fd(OwnedFd::as_fd(first), false).step(tried)?,
            None if directory => empty_directory()?,
            None => mounts::clone_node(paths::host_null()?.as_fd()).step(tried)?,
        };
        mounts::move_onto(cover.as_fd(), target.as_fd())?;
        kind.get_or_insert(cover);
    }
    Ok(())
}

/// Makes `paths` and all mounted below them read-only; those that do not exist
/// are skipped.
pub(crate) fn make_read_only(root: BorrowedFd<'_>, paths: &[String]) -> Result<()> {
    for path in paths {
        let Some(target) = open(root, path)? else {
            continue;
        };
        let tried = || format!("make {path} read-only");
        let copy = mounts::clone_fd(target.as_fd(), true).step(tried)?;
        let attr = MountAttr {
            set: MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        mount_setattr(copy.as_fd(), &attr, true).step(tried)?;
        mounts::move_onto(copy.as_fd(), target.as_fd())?;
    }
    Ok(())
}

fn open(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    match paths::open_in(root, Path::new(path)) {
        Ok(target) => Ok(Some(target)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(Error::step(format!("open {path} in the container"), errno)),
    }
}

fn empty_directory() -> Result<OwnedFd> {
    let attr = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    filesystems::small_tmpfs("tmpfs", "755", attr)
}
