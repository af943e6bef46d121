//! Reads a root filesystem through its descriptor only: links lead within it,
//! or are not followed at all.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_store::is_wanted_xattr;
use rustix::fs::{
    Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, flistxattr, fstat, major, minor,
    openat2, readlinkat,
};
use rustix::io::Errno;

use super::{Attributes, MAX_PATH, Name, Xattr, invalid, show};

/// As many links as a path may lead through.
pub(crate) const MAX_LINKS: usize = 255;

/// More than any attribute has (`XATTR_SIZE_MAX`), and all names together.
const MAX_XATTR: usize = 64 << 10;

/// A file of a root filesystem: its path has no links.
#[derive(Clone, Debug)]
pub(crate) struct InRoot<'a> {
    pub(crate) root: BorrowedFd<'a>,
    pub(crate) path: Name,
    pub(crate) size: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Directory,
    /// Bytes.
    File(u64),
    Symlink(Name),
    /// Type bits of `st_mode`, major, minor.
    Special(u32, u32, u32),
    Socket,
}

/// What a root has at a path.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    pub(crate) attributes: Attributes,
    /// Device and inode, if it has several names.
    pub(crate) identity: Option<(u64, u64)>,
}

/// Opens without following any link.
fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename somewhere on the machine made the kernel doubt.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

pub(super) fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed(path))
}

/// A regular file.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<File> {
    let file = open(root, path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(failed(path))?;
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(invalid(format!("{} is not a regular file", show(path))));
    }
    Ok(file.into())
}

/// What is at a path, which leads through no link.
pub(crate) fn find(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Option<Found>> {
    let fd = match open(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        other => other.map_err(failed(path))?,
    };
    let stat = fstat(&fd)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let identity =
        (stat.st_nlink > 1 && kind != FileType::Directory).then_some((stat.st_dev, stat.st_ino));
    let kind = match kind {
        FileType::Directory => Kind::Directory,
        FileType::RegularFile => Kind::File(u64::try_from(stat.st_size).unwrap_or_default()),
        FileType::Symlink => {
            let target = readlinkat(&fd, "", Vec::new()).map_err(failed(path))?;
            Kind::Symlink(target.into_bytes().into())
        }
        FileType::Socket => Kind::Socket,
        _ => Kind::Special(
            stat.st_mode & !0o7777,
            major(stat.st_rdev),
            minor(stat.st_rdev),
        ),
    };
    let attributes = match kind {
        // The others have none that are kept, or could not be opened for it.
        Kind::Directory | Kind::File(_) => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            attributes_of(&open(root, path, flags).map_err(failed(path))?)?
        }
        _ => plain(&stat),
    };
    Ok(Some(Found {
        kind,
        attributes,
        identity,
    }))
}

fn plain(stat: &Stat) -> Attributes {
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
    Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Some(
            stat.st_mtime
                .saturating_mul(1_000_000_000)
                .saturating_add(nanoseconds),
        ),
        xattrs: Box::default(),
    }
}

pub(crate) fn attributes_of(fd: &impl AsFd) -> io::Result<Attributes> {
    Ok(Attributes {
        xattrs: xattrs(fd.as_fd())?,
        ..plain(&fstat(fd)?)
    })
}

fn xattrs(fd: BorrowedFd<'_>) -> io::Result<Box<[Xattr]>> {
    let mut names = [0; 1 << 10];
    let mut long;
    let names = match flistxattr(fd, &mut names) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Box::default()),
        Ok(length) => &names[..length],
        Err(Errno::RANGE) => {
            long = vec![0; MAX_XATTR];
            let length = flistxattr(fd, &mut long)?;
            &long[..length]
        }
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names
        .split(|&b| b == 0)
        .filter(|name| is_wanted_xattr(name))
    {
        let mut value = vec![0; MAX_XATTR];
        match fgetxattr(fd, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.into(), value.into()));
            }
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    found.sort();
    Ok(found.into())
}

/// Names in a directory, sorted.
pub(crate) fn children(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<Vec<Name>> {
    let directory = open_directory(root, path)?;
    let mut names = Vec::new();
    for entry in Dir::new(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What is at one step of a path.
pub(crate) enum Step {
    Missing,
    There,
    Link(Name),
}

/// The path without links that `path` leads to, within its root; none if there
/// is nothing.
pub(crate) fn follow(
    path: &[u8],
    look: &mut dyn FnMut(&[u8]) -> io::Result<Step>,
) -> io::Result<Option<Vec<u8>>> {
    let mut here: Vec<u8> = Vec::new();
    let mut rest = Vec::new();
    super::push_parts(&mut rest, path)?;
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if *name == *b".." {
            let cut = here.iter().rposition(|&b| b == b'/').unwrap_or(0);
            here.truncate(cut);
            continue;
        }
        let next = super::join(here.clone(), &name);
        if next.len() > MAX_PATH {
            return Ok(None);
        }
        match look(&next)? {
            Step::Missing => return Ok(None),
            Step::There => here = next,
            Step::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(invalid(format!("too many links in {}", show(path))));
                }
                if target.starts_with(b"/") {
                    here.clear();
                }
                super::push_parts(&mut rest, &target)?;
            }
        }
    }
    Ok(Some(here))
}

/// A small file of a root (`/etc/passwd`), links followed within it; none if
/// there is none.
///
/// # Errors
/// If it is longer than `most` bytes.
pub(crate) fn read_all(
    root: BorrowedFd<'_>,
    path: &[u8],
    most: u64,
) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file: File = match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        other => other.map_err(failed(path))?.into(),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    if file.take(most + 1).read_to_end(&mut bytes)? as u64 > most {
        let path = show(path);
        return Err(invalid(format!("{path} is longer than {most} bytes")));
    }
    Ok(Some(bytes))
}

pub(crate) fn failed(path: &[u8]) -> impl FnOnce(Errno) -> io::Error + use<> {
    let path = show(path);
    move |errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("read {path}: {error}"))
    }
}
