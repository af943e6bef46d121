//! `tmpcopyup`: a new tmpfs starts with the files of the directory it hides.
//!
//! Both sides are only reached by descriptor, one name at a time, and no symbolic
//! link is followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};

/// Directories below each other, as many as a path can name.
const MAX_DEPTH: usize = 2048;

/// Copies the contents of `from` into `to`, both directories.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let from = open(from, c".", OFlags::DIRECTORY)?;
    let to = open(to, c".", OFlags::DIRECTORY)?;
    copy_directory(&from, &to, 0)
}

fn open(at: BorrowedFd<'_>, name: &std::ffi::CStr, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::openat(
        at,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | flags,
        Mode::empty(),
    )
    .step(|| format!("open {} for copying", name.to_string_lossy()))
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::step("copy a directory", Errno::NAMETOOLONG));
    }
    for entry in Dir::read_from(from).step(|| "list a directory")? {
        let entry = entry.step(|| "list a directory")?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let tried = || format!("copy {}", name.to_string_lossy());
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).step(tried)?;
        copy_entry(from.as_fd(), to.as_fd(), name, &stat, depth).map_err(|error| match error {
            Error::Step { step, source } => Error::Step {
                step: format!("{}: {step}", tried()),
                source,
            },
            other => other,
        })?;
    }
    Ok(())
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    stat: &Stat,
    depth: usize,
) -> Result<()> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::from(0o700)).step(|| "make it")?;
            let source = open(from, name, OFlags::DIRECTORY)?;
            let target = open(to, name, OFlags::DIRECTORY)?;
            copy_directory(&source, &target, depth + 1)?;
            copy_xattrs(&source, &target);
        }
        FileType::RegularFile => {
            let source = open(from, name, OFlags::empty())?;
            let target = rustix::fs::openat(
                to,
                name,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
                Mode::from(0o600),
            )
            .step(|| "make it")?;
            let (mut reader, mut writer) =
                (std::fs::File::from(source), std::fs::File::from(target));
            std::io::copy(&mut reader, &mut writer).step(|| "copy its contents")?;
            copy_xattrs(&reader.into(), &writer.into());
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(from, name, Vec::new()).step(|| "read the link")?;
            rustix::fs::symlinkat(&link, to, name).step(|| "make the link")?;
        }
        // A socket is dead without its owner.
        FileType::Socket => return Ok(()),
        kind => {
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev).step(|| "make the node")?;
        }
    }
    rustix::fs::chownat(
        to,
        name,
        Some(rustix::fs::Uid::from_raw(stat.st_uid)),
        Some(rustix::fs::Gid::from_raw(stat.st_gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .step(|| "set its owner")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // After chown, which clears the set-user-ID bits.
        rustix::fs::chmodat(to, name, mode, AtFlags::empty()).step(|| "set its mode")?;
    }
    let time = |seconds: i64, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.try_into().unwrap_or(0),
    };
    let times = rustix::fs::Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW).step(|| "set its times")
}

/// File capabilities and the like. What the new filesystem does not keep is left
/// behind, as cp does.
fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) {
    let mut names = vec![0u8; 64 * 1024];
    let Ok(length) = rustix::fs::flistxattr(from, &mut names[..]) else {
        return;
    };
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0u8; 64 * 1024];
        if let Ok(length) = rustix::fs::fgetxattr(from, name, &mut value[..]) {
            let _ = rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty());
        }
    }
}
