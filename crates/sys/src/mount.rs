//! mount_setattr(2), which rustix lacks (Linux 5.12, berth's minimum).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct mount_attr`: what to set, to clear, the propagation, and the user
/// namespace of an idmapped mount.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// One of `MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
    /// Descriptor of a user namespace, for `MOUNT_ATTR_IDMAP`; else 0.
    pub userns_fd: u64,
}

/// Read-only.
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Ignore set-user-ID bits and file capabilities.
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// No access to device nodes.
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
/// No program execution.
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// The mask of the access time values; 0 in it is relatime.
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
/// Never update access times.
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
/// Always update access times.
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
/// No access times for directories.
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
/// Identifiers are mapped through `userns_fd`.
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// Do not follow symbolic links (Linux 5.14).
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

/// Changes the mount that `mount` refers to and, with `recursive`, all below it.
/// All or nothing.
pub fn mount_setattr(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string, `attr` is valid and its size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
