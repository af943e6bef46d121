//! Mounting an EROFS file system that is one file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::loop_device;

/// Block size of the loop device: that of the file system, and one that direct
/// I/O works with on any disk.
const BLOCK: u32 = 4096;

/// A read-only mount of `file`, attached nowhere: it lasts as long as the
/// descriptor if it is not moved to a place. Straight from the file (Linux
/// 6.12), else through a loop device, which is shown as backed by `name`.
pub fn mount(file: &File, name: &[u8]) -> io::Result<OwnedFd> {
    from_file(file).or_else(|first| {
        // Linux before 6.12, or a file on a file system that cannot.
        through_loop_device(file, name).map_err(|second| {
            if first == Errno::NOTBLK {
                second
            } else {
                io::Error::new(
                    second.kind(),
                    format!("{first}; through a loop device: {second}"),
                )
            }
        })
    })
}

/// Reads past the file's page cache where the kernel can (6.13): else each page
/// would be held twice.
fn from_file(file: &File) -> Result<OwnedFd, Errno> {
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    match mount_source(&source, &["directio"]) {
        Err(Errno::INVAL) => mount_source(&source, &[]),
        result => result,
    }
}

/// The same through a loop device, whatever the kernel can.
pub fn through_loop_device(file: &File, name: &[u8]) -> io::Result<OwnedFd> {
    let device = loop_device::attach(file.as_fd(), BLOCK, name)?;
    let source = device.path.to_str().ok_or(io::ErrorKind::InvalidData)?;
    Ok(mount_source(source, &[])?)
}

fn mount_source(source: &str, flags: &[&str]) -> Result<OwnedFd, Errno> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = context.as_fd();
    fsconfig_set_string(context, "source", source)?;
    fsconfig_set_flag(context, "ro")?;
    for flag in flags {
        fsconfig_set_flag(context, *flag)?;
    }
    fsconfig_create(context)?;
    fsmount(
        context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV,
    )
}
