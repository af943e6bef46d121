//! Identifier maps: of a container's user namespace and of idmapped mounts.

use std::os::fd::BorrowedFd;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use berth_sys::clone::{CLONE_NEWUSER, Cloned};
use berth_sys::mount::{MOUNT_ATTR_IDMAP, MountAttr, mount_setattr};
use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Context as _, Error, Result};
use crate::namespaces;

/// Most lines the kernel takes.
const MAX_LINES: usize = 340;

/// Writes both maps of the user namespace that process `pid` has just made.
pub(crate) fn write(pid: u32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<()> {
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::invalid(
            "a new user namespace needs uidMappings and gidMappings",
        ));
    }
    if !rustix::process::geteuid().is_root() {
        // Without CAP_SETGID only after giving up setgroups (user_namespaces(7)).
        put(pid, "setgroups", "deny")?;
    }
    put(pid, "gid_map", &lines(gids)?)?;
    put(pid, "uid_map", &lines(uids)?)
}

fn put(pid: u32, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    let fd = rustix::fs::openat(CWD, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .step(|| format!("open {path}"))?;
    // In one write, or the kernel refuses it.
    rustix::io::write(&fd, text.as_bytes()).step(|| format!("write {text:?} to {path}"))?;
    Ok(())
}

fn lines(maps: &[LinuxIdMapping]) -> Result<String> {
    if maps.len() > MAX_LINES {
        return Err(Error::invalid(format!(
            "an identifier map has more than {MAX_LINES} lines"
        )));
    }
    Ok(maps
        .iter()
        .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
        .collect())
}

/// Where a mapping comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Users<'a> {
    /// Of users and of groups.
    Maps(&'a [LinuxIdMapping], &'a [LinuxIdMapping]),
    Namespace(BorrowedFd<'a>),
}

/// Gives a detached mount an identifier mapping: what is `containerID` on disk
/// appears as `hostID`.
pub(crate) fn apply(mount: BorrowedFd<'_>, users: Users<'_>, recursive: bool) -> Result<()> {
    let made;
    let namespace = match users {
        Users::Namespace(namespace) => namespace,
        Users::Maps(uids, gids) if uids.is_empty() || gids.is_empty() => {
            return Err(Error::invalid(
                "id-mapped mounts must have both uid and gid mappings specified",
            ));
        }
        Users::Maps(uids, gids) => {
            made = user_namespace(uids, gids)?;
            made.as_fd()
        }
    };
    let attr = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        userns_fd: namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    match mount_setattr(mount, &attr, recursive) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(Error::invalid(
            "this kernel cannot idmap a mount of that filesystem (tmpfs: Linux 6.3, overlay: 5.19)",
        )),
        result => result.step(|| "idmap the mount"),
    }
}

/// A user namespace with these maps and nobody in it.
fn user_namespace(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd> {
    let (holder, held) = std::io::pipe().step(|| "make a pipe")?;
    match namespaces::fork(CLONE_NEWUSER, None)? {
        Cloned::Child => {
            drop(held);
            // Keeps the namespace alive until the parent has opened it, or died.
            let _ = rustix::io::read(&holder, &mut [0u8; 1]);
            berth_sys::exec::exit(0)
        }
        Cloned::Parent { pid, pidfd } => {
            let result = write(pid, uids, gids).and_then(|()| {
                let path = format!("/proc/{pid}/ns/user");
                rustix::fs::openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .step(|| format!("open {path}"))
            });
            drop(held);
            berth_sys::exec::reap(pidfd.as_fd());
            result
        }
    }
}
