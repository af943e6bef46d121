//! The root filesystem: from a detached mount to the process's root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_sys::mount::{MOUNT_ATTR_RDONLY, MountAttr, mount_setattr};
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, UnmountFlags};

use crate::Root;
use crate::error::{Context as _, Error, Result};
use crate::mounts;
use crate::options;
use crate::paths;

/// The root as the parent hands it to the child: a detached mount.
pub(crate) fn prepare(root: &Root<'_>, spec: &Spec) -> Result<OwnedFd> {
    match root {
        Root::Mount(fd) => {
            rustix::io::fcntl_dupfd_cloexec(fd, 3).step(|| "keep the root filesystem")
        }
        Root::Bundle(bundle) => {
            let path = spec.root().as_ref().map(|root| root.path().as_path());
            let path = bundle.join(path.unwrap_or_else(|| Path::new("rootfs")));
            let tree = rustix::mount::open_tree(
                CWD,
                &path,
                OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_RECURSIVE,
            )
            .step(|| format!("open the root filesystem {}", path.display()))?;
            if !paths::is_directory(tree.as_fd()).step(|| "stat the root filesystem")? {
                return Err(Error::invalid(format!(
                    "the root filesystem {} is not a directory",
                    path.display()
                )));
            }
            // A copy of a mount that is shared is shared too, and pivot_root(2)
            // refuses one; the container's mounts are not to reach the host
            // either. A slave stays one: what the host mounts there is wanted.
            let (wanted, _) = options::root_propagation(
                (spec.linux().as_ref())
                    .and_then(|linux| linux.rootfs_propagation().as_deref())
                    .unwrap_or_default(),
            )?;
            let attr = MountAttr {
                propagation: if wanted == options::MS_SLAVE {
                    options::MS_SLAVE
                } else {
                    options::MS_PRIVATE
                },
                ..MountAttr::default()
            };
            mount_setattr(tree.as_fd(), &attr, true)
                .step(|| "cut the root filesystem off from the host")?;
            Ok(tree)
        }
    }
}

/// Cuts the new mount namespace off from the host's and attaches the root in it:
/// over the directory it was copied from, where hooks look for it, else on top of
/// the old one. From here on `root` is where everything happens.
pub(crate) fn attach(root: BorrowedFd<'_>, place: Option<&Path>) -> Result<()> {
    let old = open_path(Path::new("/")).step(|| "open /")?;
    mounts::set_private(old.as_fd())?;
    // Root of a user namespace may not reach it, and it may have been replaced.
    let same = |place: &OwnedFd| match (rustix::fs::fstat(place), rustix::fs::fstat(root)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    };
    let place = place.and_then(|place| open_path(place).ok()).filter(same);
    mounts::move_onto(root, place.as_ref().unwrap_or(&old).as_fd()).map_err(|error| match error {
        Error::Step { source, .. } => Error::step("attach the root filesystem", source),
        other => other,
    })
}

fn open_path(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
}

/// Makes `root` the root of this process and its namespace; the old one is
/// detached and out of reach for ever.
pub(crate) fn pivot(root: BorrowedFd<'_>, propagation: (u64, bool)) -> Result<()> {
    rustix::process::fchdir(root).step(|| "enter the root filesystem")?;
    // The old root is put on top of the new one at the same place, so no directory
    // is needed for it (pivot_root(2), NOTES).
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => {
            rustix::mount::unmount(".", UnmountFlags::DETACH).step(|| "detach the host's root")?;
        }
        Err(Errno::INVAL) => leave_initramfs(root)?,
        Err(errno) => return Err(errno).step(|| "make the container's root (pivot_root)"),
    }
    rustix::process::chdir("/").step(|| "enter the container's root")?;
    let (propagation, recursive) = propagation;
    if propagation != options::MS_PRIVATE {
        let attr = MountAttr {
            propagation,
            ..MountAttr::default()
        };
        mount_setattr(root, &attr, recursive).step(|| "set the root's mount propagation")?;
    }
    Ok(())
}

/// A host that runs from its initramfs cannot pivot: that root is nobody's child.
/// As the container's root lies over it, chroot does: every way up, `..` from the
/// top included, ends on what is mounted last. The host's other mounts are
/// detached first. Anywhere else (an engine inside a chroot) there would be a way
/// up, so that is refused.
fn leave_initramfs(root: BorrowedFd<'_>) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").step(|| "read mountinfo")?;
    let points = below_initramfs(&mounts).ok_or_else(|| {
        Error::step(
            "make the container's root (pivot_root; the engine's own root is not a mount)",
            Errno::INVAL,
        )
    })?;
    for point in points.iter().rev() {
        // Also lists the container's mounts, by the paths they will have: those do
        // not resolve here.
        let _ = rustix::mount::unmount(*point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
    let old = open_path(Path::new("/")).step(|| "open /")?;
    match mounts::move_onto(root, old.as_fd()) {
        // It lies there already.
        Err(Error::Step { source, .. }) if source.raw_os_error() == Some(libc::ELOOP) => {}
        result => result?,
    }
    rustix::process::fchdir(root).step(|| "enter the root filesystem")?;
    rustix::process::chroot(".").step(|| "make the container's root (chroot)")
}

/// Where something is mounted, when the root is the initramfs.
fn below_initramfs(mountinfo: &str) -> Option<Vec<&str>> {
    let mut found = false;
    let mut points = Vec::new();
    for line in mountinfo.lines() {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        if point == "/" {
            found |= right.starts_with("rootfs ");
        } else {
            points.push(point);
        }
    }
    found.then_some(points)
}

/// `root.readonly`: only the root itself, not what is mounted below it.
pub(crate) fn make_read_only(root: BorrowedFd<'_>) -> Result<()> {
    let attr = MountAttr {
        set: MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    mount_setattr(root, &attr, false).step(|| "make the root filesystem read-only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initramfs_is_told_from_a_chroot() {
        let rest = "5 1 0:5 / /proc rw - proc proc rw\n6 1 0:6 / /dev/pts rw - devpts devpts rw\n";
        let initramfs = format!("1 1 0:2 / / rw - rootfs rootfs rw,size=1k\n{rest}");
        assert_eq!(below_initramfs(&initramfs).unwrap(), ["/proc", "/dev/pts"]);
        let disk = format!("1 1 8:1 / / rw - ext4 /dev/sda rw\n{rest}");
        assert!(below_initramfs(&disk).is_none());
        assert!(below_initramfs(rest).is_none());
    }
}
