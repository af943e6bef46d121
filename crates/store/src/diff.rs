//! What a container changed, as a layer: its upper directory becomes a tar
//! stream with AUFS whiteouts.
//!
//! The container may be running and change what is read here, so: descriptors
//! only, no link is followed, and a file that shrinks meanwhile ends in zeros.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, major, minor, openat,
    readlinkat, statat,
};
use rustix::io::Errno;

use crate::disk::{children, open_beneath, open_directory};
use crate::error::{Error, Result, invalid};
use crate::layer::{Root, WHITEOUT, WHITEOUT_OPAQUE, is_wanted, opaque_mark};
use crate::tar::{Entry, Kind, TarWriter, Time};
use crate::{Store, snapshot};

/// More than any attribute has (`XATTR_SIZE_MAX`), and all names together.
const MAX_XATTR: usize = 64 << 10;

impl Store {
    /// Writes the changes in a snapshot as a plain layer, in the order of
    /// names; whether there were any. What cannot be in a layer (sockets) is
    /// left out.
    ///
    /// # Errors
    /// `NotFound` if there is no such snapshot.
    pub fn diff(&self, key: &str, out: &mut dyn Write) -> Result<bool> {
        snapshot::check_key(key)?;
        let path = format!("{key}/upper");
        let upper = open_directory(self.inner.dirs.snapshots.as_fd(), path.as_bytes()).map_err(
            |error| match error {
                Errno::NOENT => Error::NotFound(format!("No such snapshot: {key}")),
                other => Error::io("open snapshot", key)(other),
            },
        )?;
        let mut diff = Diff {
            tar: TarWriter::new(out),
            root: upper,
            links: HashMap::new(),
            opaque: opaque_mark(self.inner.options.userxattr),
            any: false,
        };
        diff.write()?;
        let any = diff.any;
        diff.tar.finish()?;
        Ok(any)
    }
}

struct Diff<'a> {
    tar: TarWriter<&'a mut dyn Write>,
    root: OwnedFd,
    /// First names of files that have several, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// How overlayfs marks an opaque directory.
    opaque: &'static str,
    any: bool,
}

impl Diff<'_> {
    fn write(&mut self) -> Result<()> {
        let stat = fstat(&self.root).map_err(failed(b"."))?;
        let own = Root {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        // A layer that says nothing of its root has the usual one.
        if own != Root::default() {
            self.tar
                .append(&described(b"./", Kind::Directory, &stat), &mut io::empty())?;
        }
        let mut pending = vec![Vec::new()];
        while let Some(path) = pending.pop() {
            let here: &[u8] = if path.is_empty() { b"." } else { &path };
            let directory = match open_beneath(&self.root, here) {
                // Gone or replaced meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(Errno::NAMETOOLONG) => {
                    return invalid(format!(
                        "{:?} is nested deeper than a layer can be",
                        String::from_utf8_lossy(&path)
                    ));
                }
                other => other.map_err(failed(&path))?,
            };
            let mut names = children(&directory).map_err(failed(&path))?;
            names.sort_by(|(a, _), (b, _)| a.cmp(b));
            let mut below = Vec::new();
            for (name, _) in names {
                let mut full = path.clone();
                if !full.is_empty() {
                    full.push(b'/');
                }
                full.extend_from_slice(&name);
                if self.entry(&directory, &name, &full)? {
                    below.push(full);
                }
            }
            // The first is next: parents before children, in order.
            pending.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// Writes one entry; whether it is a directory to be entered.
    fn entry(&mut self, directory: &OwnedFd, name: &[u8], path: &[u8]) -> Result<bool> {
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
                    ..described(path, Kind::HardLink, &stat)
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
                    ..described(path, Kind::Symlink, &stat)
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
                    ..described(path, kind, &stat)
                };
                self.append(&entry, &mut io::empty())?;
            }
            FileType::Fifo => {
                self.append(&described(path, Kind::Fifo, &stat), &mut io::empty())?;
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
            ..described(path, Kind::Directory, &stat)
        };
        self.append(&entry, &mut io::empty())?;
        if is_opaque(&fd, self.opaque, path)? {
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
            ..described(path, Kind::File, &stat)
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

    fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        self.any = true;
        self.tar.append(entry, data)
    }
}

/// Whole seconds, as all builders write them.
fn described(path: &[u8], kind: Kind, stat: &Stat) -> Entry {
    Entry {
        name: path.to_vec(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time {
            seconds: stat.st_mtime,
            nanoseconds: 0,
        },
        ..Entry::default()
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
