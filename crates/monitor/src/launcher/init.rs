//! The program that `--init` puts before the container's own: this one, in its
//! role as init.
//!
//! A container must not get at the host's file through the mount
//! (CVE-2019-5736), and not all kernels can bind-mount a memory file. So the
//! first container that wants an init has the launcher copy itself into a tmpfs
//! of the private mount namespace: read-only as a filesystem, and the file
//! immutable where the kernel can, so that a container that may remount cannot
//! change what the others run either.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, fspick, move_mount, open_tree, unmount,
};

const NAME: &str = "docker-init";

/// Where the program is mounted in the launcher's namespace, once it has been
/// asked for. The directory itself stays empty.
#[derive(Debug)]
pub(super) struct Init {
    place: PathBuf,
    mounted: bool,
}

impl Init {
    pub(super) fn new(exec_root: &Path) -> Self {
        Self {
            place: exec_root.join("init"),
            mounted: false,
        }
    }

    /// A detached mount of the program, to be bound in a container.
    pub(super) fn open(&mut self) -> io::Result<OwnedFd> {
        if !self.mounted {
            mount(&self.place)
                .map_err(|error| crate::context(error, || "provide the init program".to_owned()))?;
            self.mounted = true;
        }
        Ok(open_tree(
            CWD,
            self.place.join(NAME),
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )?)
    }
}

fn mount(place: &Path) -> io::Result<()> {
    match std::fs::create_dir(place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Of a launcher before, whose namespace this one has entered.
    let _ = unmount(place, UnmountFlags::DETACH);

    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "mode", "755")?;
    fsconfig_create(context.as_fd())?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let tmpfs = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let file = openat(
        &tmpfs,
        NAME,
        OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o555),
    )?;
    let mut file = File::from(file);
    io::copy(&mut File::open("/proc/self/exe")?, &mut file)?;
    // Linux 6.1; before it the read-only filesystem has to do.
    if let Ok(flags) = ioctl_getflags(&file) {
        let _ = ioctl_setflags(&file, flags | IFlags::IMMUTABLE);
    }
    drop(file);
    let context = fspick(
        &tmpfs,
        "",
        FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC,
    )?;
    fsconfig_set_flag(context.as_fd(), "ro")?;
    fsconfig_reconfigure(context.as_fd())?;
    move_mount(
        &tmpfs,
        "",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}
