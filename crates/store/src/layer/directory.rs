//! A layer as a directory tree with overlayfs whiteouts.
//!
//! Only descriptors of directories below the layer's root are used, found by
//! `openat2` with `RESOLVE_IN_ROOT`: a symbolic link in a layer leads where it
//! would lead in the container, never out of the layer (the class of
//! CVE-2019-14271 and CVE-2021-41091). The last component is never followed:
//! what stands there is replaced. The tree is ours alone while it grows (it is
//! below `tmp/`, mode 0700), so a check and the call after it cannot be raced.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT,
    Uid, XattrFlags, chmodat, chownat, fchmod, fchown, fsetxattr, fstat, futimens, linkat, makedev,
    mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::{
    Change, Form, FormKind, Kept, Layer, Options, Path, Root, clean, display, imply, is_wanted,
    opaque_mark, refused,
};
use crate::disk::remove_tree;
use crate::error::{Error, Result, invalid};
use crate::tar::{Entry, Extent, Kind, Time};

/// Files up to this size are written with one call.
const BUFFER: usize = 128 << 10;

/// The time of directories that no entry describes: one that does not depend
/// on when a layer is unpacked.
const UNKNOWN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// A growing directory tree.
#[derive(Debug)]
pub(crate) struct Directory {
    root: OwnedFd,
    options: Options,
    parent: Option<Parent>,
    /// Something was removed: paths through it mean something else from the
    /// next entry on.
    removed: bool,
    pub(super) implied: u32,
    size: u64,
    opaque: bool,
    buffer: Vec<u8>,
}

/// The directory of the last entry. Entries of one directory follow each
/// other, so this saves most look-ups; and its time of change is put back when
/// it is left, so that no list of directories has to be kept.
#[derive(Debug)]
struct Parent {
    path: Vec<Vec<u8>>,
    fd: OwnedFd,
    mtime: Timespec,
}

impl Parent {
    fn leave(self) -> Result<()> {
        futimens(&self.fd, &modified(self.mtime)).map_err(failed("set times of", &self.path))
    }
}

impl Directory {
    /// Fills the empty directory `root`.
    pub(crate) fn new(root: OwnedFd, options: Options) -> Result<Self> {
        fchmod(&root, Mode::from_raw_mode(Root::default().mode))
            .map_err(failed("set mode of", &[]))?;
        futimens(&root, &modified(UNKNOWN)).map_err(failed("set times of", &[]))?;
        Ok(Self {
            root,
            options,
            parent: None,
            removed: false,
            implied: 0,
            size: 0,
            opaque: false,
            buffer: vec![0; BUFFER],
        })
    }

    pub(super) fn root(&self) -> Result<OwnedFd> {
        self.root.try_clone().map_err(failed("open directory", &[]))
    }

    fn leave_parent(&mut self) -> Result<()> {
        self.parent.take().map_or(Ok(()), Parent::leave)
    }

    /// The directory `path`, made if missing.
    fn enter(&mut self, path: &Path) -> Result<BorrowedFd<'_>> {
        if self
            .parent
            .as_ref()
            .is_none_or(|parent| parent.path != path)
        {
            self.leave_parent()?;
            let fd = match self.open(path) {
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_all(path)?,
                other => other.map_err(|e| refused(e, "open directory", path))?,
            };
            let mtime = mtime(&fstat(&fd).map_err(failed("look at", path))?);
            self.parent = Some(Parent {
                path: path.to_vec(),
                fd,
                mtime,
            });
        }
        // Set just above; the root stands in only to avoid a panic path.
        Ok(self
            .parent
            .as_ref()
            .map_or_else(|| self.root.as_fd(), |parent| parent.fd.as_fd()))
    }

    fn open(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let name = if path.is_empty() {
            b".".to_vec()
        } else {
            path.join(&b'/')
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        loop {
            match openat2(&self.root, name.as_slice(), flags, Mode::empty(), resolve) {
                // A rename or mount anywhere on the machine made the kernel
                // doubt a ".." it followed.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Makes the missing directories of `path`, owned by root, mode 0755.
    fn make_all(&mut self, path: &Path) -> Result<OwnedFd> {
        let mut fd = self.open(&[]).map_err(failed("open directory", &[]))?;
        for depth in 1..=path.len() {
            let here = &path[..depth];
            fd = match self.open(here) {
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_one(fd.as_fd(), here)?,
                other => other.map_err(|e| refused(e, "open directory", here))?,
            };
        }
        Ok(fd)
    }

    fn make_one(&mut self, parent: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
        imply(&mut self.implied)?;
        let Some(name) = path.last() else {
            return invalid("the root of a layer is missing");
        };
        let before = fstat(parent).map_err(failed("look at", path))?;
        let hidden = match statat(parent, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) => {
                unlinkat(parent, name.as_slice(), AtFlags::empty())
                    .map_err(failed("replace", path))?;
                true
            }
            Ok(_) => {
                return invalid(format!(
                    "{:?} is in its way and not a directory",
                    display(path)
                ));
            }
            Err(Errno::NOENT) => false,
            Err(e) => return Err(failed("look at", path)(e)),
        };
        mkdirat(parent, name.as_slice(), Mode::from_raw_mode(0o755))
            .map_err(failed("make directory", path))?;
        let fd = open_directory(parent, name).map_err(failed("open directory", path))?;
        own(&fd, Root::default()).map_err(failed("set owner of", path))?;
        futimens(&fd, &modified(UNKNOWN)).map_err(failed("set times of", path))?;
        if hidden {
            self.mark_opaque(&fd, path)?;
        }
        futimens(parent, &modified(mtime(&before))).map_err(failed("set times of", path))?;
        Ok(fd)
    }

    fn mark_opaque(&self, directory: &OwnedFd, path: &Path) -> Result<()> {
        let mark = opaque_mark(self.options.userxattr);
        fsetxattr(directory, mark, b"y", XattrFlags::empty())
            .map_err(failed("mark as opaque", path))
    }

    fn put(&mut self, path: &Path, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        let Some((name, parent)) = path.split_last() else {
            self.leave_parent()?;
            let root = self.open(&[]).map_err(failed("open directory", &[]))?;
            return self.describe(&root, path, entry);
        };
        let options = self.options;
        if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) && !options.devices {
            return Ok(());
        }
        let name = name.as_slice();
        match entry.kind {
            Kind::Directory => self.put_directory(parent, name, path, entry),
            Kind::File => self.put_file(parent, name, path, entry, data),
            Kind::HardLink => self.put_link(parent, name, path, entry),
            Kind::Symlink => {
                if entry.link.is_empty() {
                    return invalid("a symbolic link without a target");
                }
                self.create(parent, name, path, |fd| {
                    symlinkat(entry.link.as_slice(), fd, name)
                })?;
                self.describe_at(parent, name, path, entry)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let kind = match entry.kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = makedev(entry.device.0, entry.device.1);
                self.create(parent, name, path, |fd| {
                    mknodat(fd, name, kind, Mode::RUSR | Mode::WUSR, device)
                })?;
                self.describe_at(parent, name, path, entry)
            }
        }
    }

    /// Runs `make` in the directory, once more if something had to be cleared
    /// out of its way.
    fn create<T>(
        &mut self,
        parent: &Path,
        name: &[u8],
        path: &Path,
        make: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let fd = self.enter(parent)?;
        match make(fd) {
            Err(Errno::EXIST) => {
                remove_tree(fd, name).map_err(failed("replace", path))?;
                let made = make(fd).map_err(|e| refused(e, "create", path));
                self.removed = true;
                made
            }
            other => other.map_err(|e| refused(e, "create", path)),
        }
    }

    fn put_directory(
        &mut self,
        parent: &Path,
        name: &[u8],
        path: &Path,
        entry: &Entry,
    ) -> Result<()> {
        let fd = self.enter(parent)?;
        let mut hidden = false;
        match mkdirat(fd, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat =
                    statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at", path))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    hidden = is_whiteout(&stat);
                    self.create(parent, name, path, |fd| mkdirat(fd, name, Mode::RWXU))?;
                }
            }
            Err(e) => return Err(refused(e, "create", path)),
        }
        let directory =
            open_directory(self.enter(parent)?, name).map_err(failed("open directory", path))?;
        if hidden {
            self.mark_opaque(&directory, path)?;
        }
        self.describe(&directory, path, entry)
    }

    fn put_file(
        &mut self,
        parent: &Path,
        name: &[u8],
        path: &Path,
        entry: &Entry,
        data: &mut dyn Read,
    ) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.create(parent, name, path, |fd| {
            openat(fd, name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        let mut file = File::from(file);
        match &entry.extents {
            None => self.copy(data, entry.size, path, |bytes, _| file.write_all(bytes))?,
            Some(extents) => {
                for Extent { offset, length } in extents {
                    self.copy(data, *length, path, |bytes, done| {
                        file.write_all_at(bytes, offset + done)
                    })?;
                }
                file.set_len(entry.size).map_err(failed("extend", path))?;
            }
        }
        self.describe(&OwnedFd::from(file), path, entry)
    }

    /// Moves `length` bytes of the stream into `write` (bytes, how many before).
    fn copy(
        &mut self,
        data: &mut dyn Read,
        length: u64,
        path: &Path,
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < length {
            let want = usize::try_from(length - done).unwrap_or(BUFFER).min(BUFFER);
            let buffer = &mut self.buffer[..want];
            data.read_exact(buffer)
                .map_err(Error::stream("the archive"))?;
            write(buffer, done).map_err(failed("write", path))?;
            done += want as u64;
        }
        self.size += length;
        Ok(())
    }

    /// Mode, owner and the rest come with the file linked to.
    fn put_link(&mut self, parent: &Path, name: &[u8], path: &Path, entry: &Entry) -> Result<()> {
        let link = || format!("hard link to {:?}", String::from_utf8_lossy(&entry.link));
        let target = clean(&entry.link).map_err(|e| e.within(&link()))?;
        let Some((target_name, target_parent)) = target.split_last() else {
            return invalid(format!("{} is a link to a directory", link()));
        };
        let missing = |_| Error::Invalid(format!("{} whose target is not in this layer", link()));
        // The parent first: making it may not change what the target means.
        self.enter(parent)?;
        let from = self.open(target_parent).map_err(missing)?;
        let stat =
            statat(&from, target_name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return invalid(format!("{} is a link to a directory", link()));
        }
        let there = statat(self.enter(parent)?, name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        self.create(parent, name, path, |fd| {
            linkat(&from, target_name.as_slice(), fd, name, AtFlags::empty())
        })
    }

    fn whiteout(&mut self, path: &Path) -> Result<()> {
        let Some((name, parent)) = path.split_last() else {
            return Ok(());
        };
        let fd = self.enter(parent)?;
        match mknodat(
            fd,
            name.as_slice(),
            FileType::CharacterDevice,
            Mode::empty(),
            makedev(0, 0),
        ) {
            Ok(()) => Ok(()),
            // Hides lower layers only (OCI image-spec, "Whiteouts"): what this
            // layer has there stays, but must not merge with what is below.
            Err(Errno::EXIST) => match open_directory(fd, name) {
                Ok(directory) => self.mark_opaque(&directory, path),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(e) => Err(failed("open", path)(e)),
            },
            Err(e) => Err(failed("make a whiteout at", path)(e)),
        }
    }

    /// Owner, mode, attributes, times, in the order in which none undoes
    /// another: a change of owner clears set-ID bits and capabilities.
    fn describe(&mut self, fd: &OwnedFd, path: &Path, entry: &Entry) -> Result<()> {
        fchown(
            fd,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(failed("set owner of", path))?;
        fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(failed("set mode of", path))?;
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_wanted(name)) {
            match fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                // This file system has none; Docker goes on, too.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(e) => return Err(refused(e, "set an extended attribute of", path)),
            }
        }
        let time = timespec(entry.mtime);
        futimens(fd, &modified(time)).map_err(failed("set times of", path))?;
        // The directory just described may be the one entered before.
        if let Some(parent) = self.parent.as_mut().filter(|parent| parent.path == path) {
            parent.mtime = time;
        }
        Ok(())
    }

    /// The same for what cannot be opened without effects.
    fn describe_at(
        &mut self,
        parent: &Path,
        name: &[u8],
        path: &Path,
        entry: &Entry,
    ) -> Result<()> {
        let fd = self.enter(parent)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        chownat(
            fd,
            name,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
            nofollow,
        )
        .map_err(failed("set owner of", path))?;
        if entry.kind != Kind::Symlink {
            // chmod follows links, but this is no link: made two calls ago.
            chmodat(fd, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(failed("set mode of", path))?;
        }
        utimensat(fd, name, &modified(timespec(entry.mtime)), nofollow)
            .map_err(failed("set times of", path))
    }
}

impl Form for Directory {
    fn apply(&mut self, change: Change<'_>, data: &mut dyn Read) -> Result<()> {
        if std::mem::take(&mut self.removed) {
            self.leave_parent()?;
        }
        match change {
            Change::Put(path, entry) => self.put(path, entry, data),
            Change::Whiteout(path) => self.whiteout(path),
            Change::Opaque([]) => {
                self.opaque = true;
                Ok(())
            }
            Change::Opaque(path) => {
                self.enter(path)?;
                let directory = self.open(path).map_err(failed("open directory", path))?;
                self.mark_opaque(&directory, path)
            }
        }
    }

    fn finish(mut self) -> Result<Layer> {
        self.leave_parent()?;
        let stat = fstat(&self.root).map_err(failed("look at", &[]))?;
        let root = Root {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        };
        Ok(Layer {
            form: FormKind::Directory,
            size: self.size,
            root,
            opaque: self.opaque,
            built: None,
        })
    }

    fn kept(&self, path: &Path) -> Result<Option<Kept>> {
        let Some((name, parent)) = path.split_last() else {
            return Ok(None);
        };
        let found = self.open(parent);
        match found.and_then(|fd| statat(fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) if is_whiteout(&stat) => Ok(None),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(None),
            Ok(stat) => Ok(Some(Kept {
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                mtime: Time {
                    seconds: stat.st_mtime,
                    // Below a second.
                    nanoseconds: stat.st_mtime_nsec as u32,
                },
            })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(failed("look at", path)(error)),
        }
    }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn own(fd: &OwnedFd, root: Root) -> rustix::io::Result<()> {
    fchown(
        fd,
        Some(Uid::from_raw(root.uid)),
        Some(Gid::from_raw(root.gid)),
    )?;
    fchmod(fd, Mode::from_raw_mode(root.mode))
}

fn mtime(stat: &Stat) -> Timespec {
    Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec.cast_signed(),
    }
}

fn timespec(time: Time) -> Timespec {
    Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanoseconds.into(),
    }
}

fn modified(time: Timespec) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: time,
    }
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    move |source| Error::Io {
        action,
        path: display(path),
        source: source.into(),
    }
}
