//! What a container changed, as a layer: its upper directory becomes a
//! canonical tar stream ([`crate::canonical`]) with AUFS whiteouts.
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

/// Descriptors held at once while walking a tree of any depth.
const MAX_OPEN: usize = 64;

/// How [`Store::diff_with`] writes changes.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions<'a> {
    /// Paths that are left out, with what is below them.
    pub without: &'a [&'a str],
    /// One time for all files, seconds since 1970; none = their own.
    pub time: Option<i64>,
}

impl Store {
    /// Writes the changes in a snapshot as a plain layer; see
    /// [`Store::diff_with`].
    ///
    /// # Errors
    /// `NotFound` if there is no such snapshot.
    pub fn diff(&self, key: &str, without: &[&str], out: &mut dyn Write) -> Result<bool> {
        let time = None;
        self.diff_with(key, &DiffOptions { without, time }, out)
    }

    /// Writes the changes in a snapshot as a plain layer, a canonical stream;
    /// whether there were any. What cannot be in a layer is left out: sockets,
    /// and names that would mean a whiteout (`.wh.*`).
    ///
    /// # Errors
    /// `NotFound` if there is no such snapshot.
    pub fn diff_with(
        &self,
        key: &str,
        options: &DiffOptions<'_>,
        out: &mut dyn Write,
    ) -> Result<bool> {
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
            without: options.without,
            time: options.time,
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
    without: &'a [&'a str],
    time: Option<i64>,
    /// How overlayfs marks an opaque directory.
    opaque: &'static str,
    any: bool,
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
            let root = self.described(b"./", Kind::Directory, &stat);
            self.tar.append(&root, &mut io::empty())?;
        }
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

    fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        self.any = true;
        self.tar.append(entry, data)
    }

    /// With a time of whole seconds, as all builders write them.
    fn described(&self, path: &[u8], kind: Kind, stat: &Stat) -> Entry {
        Entry {
            name: path.to_vec(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time {
                seconds: self.time.unwrap_or(stat.st_mtime),
                nanoseconds: 0,
            },
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, XattrFlags, makedev, mknodat, setxattr};

    use super::*;
    use crate::tar::Reader;
    use crate::testing::{Tar, docker_archive, load};

    #[test]
    fn an_upper_directory_becomes_a_layer() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let layer = Tar::default().file("f", b"base").finish();
        let image = load(&store, &docker_archive(&["a:1"], &[layer]))
            .unwrap()
            .remove(0);
        let upper = store.create_snapshot("c", &image, (0, 0)).unwrap().upper;
        let mut nothing = Vec::new();
        assert!(!store.diff("c", &[], &mut nothing).unwrap());
        assert_eq!(nothing, vec![0; 1024]);
        assert!(store.diff("none", &[], &mut Vec::new()).is_err());

        let at = |name: &str| upper.join(name);
        std::fs::create_dir(at("made")).unwrap();
        std::fs::write(at("made/z"), "zz").unwrap();
        std::fs::hard_link(at("made/z"), at("made/again")).unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let device = |name: &str, kind, number| {
            let mode = Mode::from_raw_mode(0o600);
            mknodat(CWD, at(name), kind, mode, number).unwrap();
        };
        device("gone", FileType::CharacterDevice, makedev(0, 0));
        device("null", FileType::CharacterDevice, makedev(1, 3));
        device("pipe", FileType::Fifo, makedev(0, 0));
        let set = |name: &str, key: &str, value: &[u8]| {
            setxattr(at(name), key, value, XattrFlags::empty()).unwrap();
        };
        set("made", "trusted.overlay.opaque", b"y");
        set("made/z", "user.mine", b"1");
        set("made/z", "trusted.overlay.origin", b"x");
        std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(std::fs::metadata(at("pipe")).unwrap().file_type().is_fifo());

        let mut archive = Vec::new();
        assert!(store.diff("c", &[], &mut archive).unwrap());
        let mut again = Vec::new();
        store.diff("c", &[], &mut again).unwrap();
        assert!(archive == again);
        let mut reader = Reader::new(archive.as_slice());
        let mut seen = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            let name = String::from_utf8(entry.name.clone()).unwrap();
            if name == "made/again" {
                assert_eq!(entry.xattrs, [(b"user.mine".to_vec(), b"1".to_vec())]);
            }
            seen.push((name, entry.kind, entry.size));
        }
        let want = [
            ("./", Kind::Directory, 0),
            (".wh.gone", Kind::File, 0),
            ("link", Kind::Symlink, 0),
            ("made/", Kind::Directory, 0),
            ("made/.wh..wh..opq", Kind::File, 0),
            ("made/again", Kind::File, 2),
            ("made/z", Kind::HardLink, 0),
            ("null", Kind::CharDevice, 0),
            ("pipe", Kind::Fifo, 0),
        ];
        assert_eq!(
            seen,
            want.map(|(name, kind, size)| (name.to_owned(), kind, size))
        );
    }
}
