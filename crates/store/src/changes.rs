//! A directory in overlayfs's form as canonical entries ([`crate::canonical`]):
//! the upper directory of a snapshot, or a layer.
//!
//! A container may be running and change what is read here, so: descriptors
//! only, no link is followed, and a file that shrinks meanwhile ends in zeros.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, major, minor, openat,
    readlinkat, statat,
};
use rustix::io::Errno;

use crate::disk::{children, open_beneath, open_directory};
use crate::error::{Error, Result, invalid};
use crate::layer::{Root, WHITEOUT, WHITEOUT_OPAQUE, is_wanted};
use crate::tar::{Entry, Kind, Time};

/// More than any attribute has (`XATTR_SIZE_MAX`), and all names together.
const MAX_XATTR: usize = 64 << 10;

/// Descriptors held at once while walking a tree of any depth.
const MAX_OPEN: usize = 64;

/// Takes an entry and its data.
pub(crate) type Emit<'a> = &'a mut dyn FnMut(&Entry, &mut dyn Read) -> Result<()>;

/// Which times entries have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Times {
    /// The files' own.
    Exact,
    /// In whole seconds, as all builders write them.
    Seconds,
    One(i64),
}

/// Walks a directory.
pub(crate) struct Changes<'a> {
    pub(crate) root: OwnedFd,
    /// Paths that are left out, with what is below them.
    pub(crate) without: &'a [&'a str],
    pub(crate) times: Times,
    /// How overlayfs marks an opaque directory.
    pub(crate) opaque_mark: &'static str,
    /// First names of files that have several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    emit: Emit<'a>,
    /// Entries so far.
    pub(crate) written: u64,
}

/// A directory that is being written.
struct Level {
    path: Vec<u8>,
    /// None if it is to be opened again.
    fd: Option<OwnedFd>,
    /// Those to come.
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Level {
    fn new(path: Vec<u8>, fd: OwnedFd) -> Result<Self> {
        let names = children(&fd).map_err(failed(&path))?.into_iter();
        let mut names: Vec<_> = names.map(|(name, _)| name).collect();
        names.sort_unstable();
        Ok(Self {
            path,
            fd: Some(fd),
            names: names.into_iter(),
        })
    }
}

impl<'a> Changes<'a> {
    pub(crate) fn new(root: OwnedFd, opaque_mark: &'static str, emit: Emit<'a>) -> Self {
        Self {
            root,
            without: &[],
            times: Times::Exact,
            opaque_mark,
            links: HashMap::new(),
            emit,
            written: 0,
        }
    }

    /// Writes the root's own entry; without `always` only if it is not the one
    /// that a layer has which says nothing of it.
    pub(crate) fn write_root(&mut self, always: bool) -> Result<()> {
        let stat = fstat(&self.root).map_err(failed(b"."))?;
        let own = Root {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        let root = Entry {
            xattrs: xattrs(&self.root, b".")?,
            ..self.described(b"./", Kind::Directory, &stat)
        };
        if always || own != Root::default() || !root.xattrs.is_empty() {
            self.append(&root, &mut io::empty())?;
        }
        Ok(())
    }

    /// Writes all below the root.
    pub(crate) fn write(&mut self) -> Result<()> {
        let Some(root) = self.open(b".")? else {
            return Ok(());
        };
        let mut levels = vec![Level::new(Vec::new(), root)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            if level.fd.is_none() {
                level.fd = self.open(&level.path)?;
            }
            let Some(fd) = &level.fd else {
                levels.pop();
                continue;
            };
            let mut path = level.path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if self.entry(fd, &name, &path)?
                && let Some(fd) = self.open(&path)?
            {
                // Of a deep tree not all are open at once.
                if let Some(above) = levels.len().checked_sub(MAX_OPEN) {
                    levels[above].fd = None;
                }
                levels.push(Level::new(path, fd)?);
            }
        }
        Ok(())
    }

    /// None if it is gone or replaced meanwhile.
    fn open(&self, path: &[u8]) -> Result<Option<OwnedFd>> {
        match open_beneath(&self.root, path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(Errno::NAMETOOLONG) => invalid(format!(
                "{:?} is nested deeper than a layer can be",
                String::from_utf8_lossy(path)
            )),
            other => other.map(Some).map_err(failed(path)),
        }
    }

    /// Writes one entry; whether it is a directory to be entered.
    fn entry(&mut self, directory: &OwnedFd, name: &[u8], path: &[u8]) -> Result<bool> {
        if self.without.iter().any(|name| name.as_bytes() == path) || name.starts_with(WHITEOUT) {
            return Ok(false);
        }
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            other => other.map_err(failed(path))?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                self.mark(path, name, &[WHITEOUT, name].concat())?;
                return Ok(false);
            }
            // They are of their process, and no archive can say them.
            FileType::Socket => return Ok(false),
            FileType::Directory => return self.directory(directory, name, path),
            _ => {}
        }
        let link = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&link) {
                let entry = Entry {
                    link: first.clone(),
                    ..self.described(path, Kind::HardLink, &stat)
                };
                self.append(&entry, &mut io::empty())?;
                return Ok(false);
            }
            self.links.insert(link, path.to_vec());
        }
        match kind {
            FileType::RegularFile => self.file(directory, name, path)?,
            FileType::Symlink => {
                let target = match readlinkat(directory, name, Vec::new()) {
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(false),
                    other => other.map_err(failed(path))?,
                };
                let entry = Entry {
                    link: target.into_bytes(),
                    ..self.described(path, Kind::Symlink, &stat)
                };
                self.append(&entry, &mut io::empty())?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let kind = if kind == FileType::BlockDevice {
                    Kind::BlockDevice
                } else {
                    Kind::CharDevice
                };
                let entry = Entry {
                    device: (major(stat.st_rdev), minor(stat.st_rdev)),
                    ..self.described(path, kind, &stat)
                };
                self.append(&entry, &mut io::empty())?;
            }
            FileType::Fifo => {
                let entry = self.described(path, Kind::Fifo, &stat);
                self.append(&entry, &mut io::empty())?;
            }
            _ => {}
        }
        Ok(false)
    }

    fn directory(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<bool> {
        let fd = match open_directory(parent.as_fd(), name) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            other => other.map_err(failed(path))?,
        };
        let stat = fstat(&fd).map_err(failed(path))?;
        let entry = Entry {
            xattrs: xattrs(&fd, path)?,
            ..self.described(path, Kind::Directory, &stat)
        };
        self.append(&entry, &mut io::empty())?;
        if is_opaque(&fd, self.opaque_mark, path)? {
            let inside = [path, b"/"].concat();
            self.mark(&inside, b"", WHITEOUT_OPAQUE)?;
        }
        Ok(true)
    }

    fn file(&mut self, directory: &OwnedFd, name: &[u8], path: &[u8]) -> Result<()> {
        // It may have become a FIFO meanwhile, which must not stop this.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            other => File::from(other.map_err(failed(path))?),
        };
        let stat = fstat(&file).map_err(failed(path))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let entry = Entry {
            size,
            xattrs: xattrs(file.as_fd(), path)?,
            ..self.described(path, Kind::File, &stat)
        };
        self.append(&entry, &mut file.take(size).chain(io::repeat(0)))
    }

    /// An empty file whose name says something: `mark` in place of `name`.
    fn mark(&mut self, path: &[u8], name: &[u8], mark: &[u8]) -> Result<()> {
        let parent = &path[..path.len() - name.len()];
        let entry = Entry {
            name: [parent, mark].concat(),
            kind: Kind::File,
            ..Entry::default()
        };
        self.append(&entry, &mut io::empty())
    }

    pub(crate) fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        self.written += 1;
        (self.emit)(entry, data)
    }

    fn described(&self, path: &[u8], kind: Kind, stat: &Stat) -> Entry {
        let seconds = stat.st_mtime;
        let mtime = match self.times {
            Times::Exact => Time {
                seconds,
                // Below a second.
                nanoseconds: stat.st_mtime_nsec as u32,
            },
            Times::Seconds => Time {
                seconds,
                nanoseconds: 0,
            },
            Times::One(seconds) => Time {
                seconds,
                nanoseconds: 0,
            },
        };
        Entry {
            name: path.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime,
            ..Entry::default()
        }
    }
}

/// Those that belong to the file, by name. Overlay's own are not among them.
fn xattrs(fd: impl AsFd, path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; MAX_XATTR];
    let length = match flistxattr(&fd, &mut names) {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        other => other.map_err(failed(path))?,
    };
    names.truncate(length);
    let mut names: Vec<_> = names.split(|&b| b == 0).filter(|n| is_wanted(n)).collect();
    names.sort_unstable();
    let mut found = Vec::new();
    for name in names {
        let mut value = vec![0; MAX_XATTR];
        match fgetxattr(&fd, name, &mut value) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.to_vec(), value));
            }
            Err(Errno::NODATA) => {}
            Err(error) => return Err(failed(path)(error)),
        }
    }
    Ok(found)
}

fn is_opaque(fd: &OwnedFd, name: &str, path: &[u8]) -> Result<bool> {
    let mut value = [0; 1];
    match fgetxattr(fd, name, &mut value) {
        // "x" only says that something inside is marked.
        Ok(_) => Ok(value == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(failed(path)(error)),
    }
}

fn failed(path: &[u8]) -> impl FnOnce(Errno) -> Error + use<> {
    Error::io("read", String::from_utf8_lossy(path).into_owned())
}
