//! Device nodes and links below the container's /dev.
//!
//! /dev is opened once, without following a symbolic link of the image, and
//! everything is made relative to that descriptor (CVE-2026-41579,
//! CVE-2026-47766).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDeviceType};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};
use crate::mounts;
use crate::paths::{self, Kind};

/// The nodes that every container has (OCI runtime specification, Linux).
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// A node to make.
struct Node {
    path: PathBuf,
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Where the nodes are that every container has.
pub(crate) fn default_paths() -> impl Iterator<Item = PathBuf> {
    DEFAULT
        .iter()
        .map(|(name, ..)| Path::new("/dev").join(name))
}

/// The container's /dev, a real directory.
pub(crate) fn open_dev(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    paths::open_real_directory(root, Path::new("dev")).map_err(|errno| match errno {
        Errno::LOOP | Errno::NOTDIR => {
            Error::invalid("/dev in the container is not an ordinary directory")
        }
        errno => Error::step("open /dev in the container", errno),
    })
}

/// Makes nodes and links. Before the root is left: where nodes may not be made (a
/// user namespace), the host's are bound.
pub(crate) fn make_all(root: BorrowedFd<'_>, linux: &Linux, bind: bool) -> Result<()> {
    // An image without /dev and a configuration without a mount for it.
    paths::ensure(root, Path::new("dev"), Kind::Directory)?;
    let dev = open_dev(root)?;
    let listed = |name: &str| {
        let path = Path::new("dev").join(name);
        let mut devices = linux.devices().iter().flatten();
        devices.any(|device| paths::clean(device.path()) == path)
    };
    // What is listed is as it says there.
    for (name, major, minor) in DEFAULT.into_iter().filter(|(name, ..)| !listed(name)) {
        let node = Node {
            path: name.into(),
            kind: FileType::CharacterDevice,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        };
        make(
            dev.as_fd(),
            name,
            &node,
            bind,
            &Path::new("/dev").join(name),
        )?;
    }
    for device in linux.devices().iter().flatten() {
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                return Err(Error::invalid(format!(
                    "device {}: type \"a\" is no type of a node",
                    device.path().display()
                )));
            }
        };
        let number = |value: i64| {
            u32::try_from(value).map_err(|_| {
                Error::invalid(format!(
                    "device {}: {value} is not a device number",
                    device.path().display()
                ))
            })
        };
        let fifo = kind == FileType::Fifo;
        let node = Node {
            path: paths::clean(device.path()),
            kind,
            major: if fifo { 0 } else { number(device.major())? },
            minor: if fifo { 0 } else { number(device.minor())? },
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        };
        make_listed(root, dev.as_fd(), &node, bind, device.path())?;
    }
    link_all(dev.as_fd())
}

fn make_listed(
    root: BorrowedFd<'_>,
    dev: BorrowedFd<'_>,
    node: &Node,
    bind: bool,
    host: &Path,
) -> Result<()> {
    let Some(name) = node.path.file_name().and_then(|name| name.to_str()) else {
        return Err(Error::invalid(format!(
            "device {:?} has no name",
            host.display()
        )));
    };
    let parent = node.path.parent().unwrap_or_else(|| Path::new(""));
    if parent == Path::new("dev") {
        return make(dev, name, node, bind, host);
    }
    let parent = paths::ensure(root, parent, Kind::Directory)?;
    make(parent.as_fd(), name, node, bind, host)
}

fn make(directory: BorrowedFd<'_>, name: &str, node: &Node, bind: bool, host: &Path) -> Result<()> {
    let tried = || format!("make device {}", host.display());
    if bind && node.kind != FileType::Fifo {
        return bind_node(directory, name, node, host);
    }
    let device = rustix::fs::makedev(node.major, node.minor);
    match rustix::fs::mknodat(
        directory,
        name,
        node.kind,
        Mode::from_raw_mode(node.mode),
        device,
    ) {
        Ok(()) => {}
        // An outer container without CAP_MKNOD, or whose device rules forbid it.
        Err(Errno::PERM) if node.kind != FileType::Fifo => {
            return bind_node(directory, name, node, host);
        }
        Err(Errno::EXIST) => {
            let stat =
                rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).step(tried)?;
            if !paths::is_device(&stat, node.kind, node.major, node.minor) {
                return Err(Error::step(tried(), Errno::EXIST));
            }
        }
        Err(errno) => return Err(Error::step(tried(), errno)),
    }
    if node.uid != 0 || node.gid != 0 {
        rustix::fs::chownat(
            directory,
            name,
            Some(Uid::from_raw(node.uid)),
            Some(Gid::from_raw(node.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .step(tried)?;
    }
    Ok(())
}

/// The host's node, bound on an empty file.
fn bind_node(directory: BorrowedFd<'_>, name: &str, node: &Node, host: &Path) -> Result<()> {
    let tried = || format!("bind device {}", host.display());
    let source =
        rustix::fs::openat(CWD, host, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(tried)?;
    let stat = rustix::fs::fstat(&source).step(tried)?;
    if !paths::is_device(&stat, node.kind, node.major, node.minor) {
        return Err(Error::step(tried(), Errno::NODEV));
    }
    let mount = mounts::clone_node(source.as_fd()).step(tried)?;
    bind_on_file(directory, name, mount.as_fd())
}

/// Mounts on a file of `directory`, made when it is not there.
pub(crate) fn bind_on_file(
    directory: BorrowedFd<'_>,
    name: &str,
    mount: BorrowedFd<'_>,
) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, name, flags, Mode::from(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::step(format!("create /dev/{name}"), errno)),
    }
    let target = rustix::fs::openat(
        directory,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(|| format!("open /dev/{name}"))?;
    let kind = rustix::fs::fstat(&target)
        .step(|| format!("stat /dev/{name}"))?
        .st_mode;
    if FileType::from_raw_mode(kind) == FileType::Symlink {
        return Err(Error::step(format!("mount on /dev/{name}"), Errno::LOOP));
    }
    mounts::move_onto(mount, target.as_fd())
}

fn link_all(dev: BorrowedFd<'_>) -> Result<()> {
    let core = rustix::fs::access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok();
    let core = core.then_some(("core", "/proc/kcore"));
    for (name, target) in LINKS.into_iter().chain(core) {
        match rustix::fs::symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::step(format!("link /dev/{name}"), errno)),
        }
    }
    // A node of the image would be the host's own ptmx.
    match rustix::fs::unlinkat(dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(Error::step("remove /dev/ptmx of the image", errno)),
    }
    rustix::fs::symlinkat("pts/ptmx", dev, "ptmx").step(|| "link /dev/ptmx")
}
