//! Unpacks a tar stream of the engine into a directory of the user's. What the
//! stream says is not trusted: nothing is written outside of the directory, no
//! link in it is followed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::{Archive, EntryType};

use super::walk::open_beneath;
use crate::failure::path_error;

/// Longest path, in bytes, as Linux has it.
const MAX_PATH: usize = 4096;

/// Makes `place` if need be. Files in the way are replaced, others stay.
pub(super) fn unpack(input: impl Read, place: &Path) -> Result<(), String> {
    let failed = |error| path_error("write", &place.display().to_string(), &error);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(place)
        .map_err(failed)?;
    let root = File::open(place).map_err(failed)?;
    let mut unpacking = Unpacking {
        root: root.into(),
        directories: Vec::new(),
        opened: HashMap::new(),
    };
    let mut archive = Archive::new(input);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let path = entry.path_bytes().into_owned();
        let name = String::from_utf8_lossy(&path).into_owned();
        unpacking
            .entry(&mut entry)
            .map_err(|error| failed(io::Error::other(format!("{name}: {error}"))))?;
    }
    // The rest belongs to the stream, and its end says that it is whole.
    let mut input = archive.into_inner();
    io::copy(&mut input, &mut io::sink()).map_err(failed)?;
    unpacking.finish().map_err(failed)
}

struct Unpacking {
    root: OwnedFd,
    /// Modes and times that are set at the end.
    directories: Vec<(String, u32, i64)>,
    /// The directory that was used last, by its path.
    opened: HashMap<String, OwnedFd>,
}

impl Unpacking {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let path = clean(&entry.path()?)?;
        let header = entry.header();
        let kind = header.entry_type();
        let mode = header.mode()? & 0o7777;
        let time = i64::try_from(header.mtime()?).unwrap_or(i64::MAX);
        if path.is_empty() {
            return Ok(());
        }
        if kind.is_dir() {
            self.directory(&path)?;
            self.directories.push((path, mode, time));
            return Ok(());
        }
        let (above, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let target = match kind {
            EntryType::Link | EntryType::Symlink => Some(
                entry
                    .link_name_bytes()
                    .ok_or_else(|| io::Error::other("a link to nothing"))?
                    .into_owned(),
            ),
            _ => None,
        };
        let (major, minor) = (
            header.device_major().ok().flatten().unwrap_or(0),
            header.device_minor().ok().flatten().unwrap_or(0),
        );
        // A hard link's other name is looked up first: it may be this one.
        let other = match (kind, &target) {
            (EntryType::Link, Some(target)) => {
                let target = std::str::from_utf8(target).map_err(io::Error::other)?;
                Some(clean(Path::new(target))?)
            }
            _ => None,
        };
        if other.as_deref() == Some(path.as_str()) {
            return Ok(());
        }
        self.directory(above)?;
        let parent = self.at(above)?;
        remove(&parent, name)?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
                let file = rustix::fs::openat(
                    &parent,
                    name,
                    flags | OFlags::CLOEXEC,
                    Mode::from_raw_mode(0o600),
                )?;
                let mut file = File::from(file);
                io::copy(entry, &mut file)?;
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
                rustix::fs::futimens(&file, &times(time))?;
                return Ok(());
            }
            EntryType::Symlink => {
                let target = target.unwrap_or_default();
                rustix::fs::symlinkat(target.as_slice(), &parent, name)?;
            }
            EntryType::Link => {
                let other = other.unwrap_or_default();
                let (above, other) = other.rsplit_once('/').unwrap_or(("", &other));
                let from = self.at(above)?;
                rustix::fs::linkat(&from, other, &parent, name, AtFlags::empty())?;
                return Ok(());
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                let (kind, device) = match kind {
                    EntryType::Fifo => (FileType::Fifo, 0),
                    EntryType::Char => {
                        (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
                    }
                    _ => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
                };
                rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(mode), device)?;
            }
            other => {
                return Err(io::Error::other(format!("an entry of kind {other:?}")));
            }
        }
        rustix::fs::utimensat(&parent, name, &times(time), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// A directory that is made before.
    fn at(&mut self, path: &str) -> io::Result<OwnedFd> {
        if !self.opened.contains_key(path) {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            let directory = open_beneath(self.root.as_fd(), path, flags)?;
            // One is enough: entries of a directory follow each other.
            self.opened.clear();
            self.opened.insert(path.to_owned(), directory);
        }
        self.opened
            .get(path)
            .ok_or(io::ErrorKind::NotFound)?
            .try_clone()
    }

    /// Makes a directory and those above it. Whatever else has a name on the way
    /// gives way.
    fn directory(&mut self, path: &str) -> io::Result<()> {
        if path.is_empty() || self.opened.contains_key(path) {
            return Ok(());
        }
        let mut at = self.root.try_clone()?;
        for name in path.split('/') {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            at = match open_beneath(at.as_fd(), name, flags) {
                Ok(next) => next,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    remove(&at, name)?;
                    rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                    open_beneath(at.as_fd(), name, flags)?
                }
                Err(error) => return Err(error.into()),
            };
        }
        self.opened.clear();
        self.opened.insert(path.to_owned(), at);
        Ok(())
    }

    /// Modes and times of directories, which would hinder or change before.
    fn finish(self) -> io::Result<()> {
        for (path, mode, time) in self.directories.into_iter().rev() {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY;
            match open_beneath(self.root.as_fd(), &path, flags) {
                Ok(directory) => {
                    rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?;
                    rustix::fs::futimens(&directory, &times(time))?;
                }
                // A later entry of the same name.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Relative, without `.` and `..`.
fn clean(path: &Path) -> io::Result<String> {
    let mut clean = String::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => {
                let name = name
                    .to_str()
                    .ok_or_else(|| io::Error::other("its name is not valid UTF-8"))?;
                if !clean.is_empty() {
                    clean.push('/');
                }
                clean.push_str(name);
            }
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other("it leads out of the directory"));
            }
        }
    }
    if clean.len() > MAX_PATH {
        return Err(io::Error::other("its name is too long"));
    }
    Ok(clean)
}

/// Whatever has that name, unless it is a directory with something in it.
fn remove(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(io::Error::from)
        }
        Err(error) => Err(error.into()),
    }
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use tar::{Builder, Header};

    enum Is<'a> {
        File(&'a str),
        Directory,
        Link(&'a str),
        Hard(&'a str),
    }

    fn archive(entries: &[(&str, Is<'_>)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, is) in entries {
            let mut header = Header::new_gnu();
            header.set_mode(0o640);
            header.set_mtime(1_000_000);
            // The builder itself refuses names that lead out.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            let (kind, link, data) = match is {
                Is::File(data) => (EntryType::Regular, None, *data),
                Is::Directory => (EntryType::Directory, None, ""),
                Is::Link(to) => (EntryType::Symlink, Some(to), ""),
                Is::Hard(to) => (EntryType::Link, Some(to), ""),
            };
            header.set_entry_type(kind);
            if let Some(link) = link {
                header.as_gnu_mut().unwrap().linkname[..link.len()]
                    .copy_from_slice(link.as_bytes());
            }
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_links_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("new/out");
        let text = archive(&[
            ("d/", Is::Directory),
            ("d/file", Is::File("text")),
            ("d/hard", Is::Hard("d/file")),
            ("link", Is::Link("/etc/passwd")),
            ("./deep/er/x", Is::File("x")),
        ]);
        unpack(text.as_slice(), &out).unwrap();
        let meta = |name: &str| out.join(name).symlink_metadata().unwrap();
        assert_eq!(std::fs::read_to_string(out.join("d/hard")).unwrap(), "text");
        assert_eq!(meta("d/file").ino(), meta("d/hard").ino());
        assert_eq!(
            (meta("d/file").mode() & 0o7777, meta("d").mode() & 0o7777),
            (0o640, 0o640)
        );
        assert_eq!(
            (meta("d/file").mtime(), meta("d").mtime()),
            (1_000_000, 1_000_000)
        );
        assert!(meta("link").is_symlink() && meta("deep/er/x").is_file());
        // A second time over itself.
        unpack(text.as_slice(), &out).unwrap();
    }

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "mine").unwrap();
        let target = outside.to_str().unwrap().to_owned();
        for (name, entries) in [
            ("up", vec![("../outside/file", Is::File("bad"))]),
            ("root", vec![("/outside", Is::File("bad"))]),
            (
                "hard",
                vec![("h", Is::Hard("../outside/file")), ("h", Is::File("bad"))],
            ),
            (
                "through",
                vec![("l", Is::Link(&target)), ("l/file", Is::File("bad"))],
            ),
            (
                "hard through",
                vec![("l", Is::Link(&target)), ("h", Is::Hard("l/file"))],
            ),
        ] {
            let out = dir.path().join("out");
            let _ = unpack(archive(&entries).as_slice(), &out);
            assert_eq!(
                std::fs::read_to_string(outside.join("file")).unwrap(),
                "mine",
                "{name}"
            );
            assert_eq!(
                outside.join("file").metadata().unwrap().nlink(),
                1,
                "{name}"
            );
            std::fs::remove_dir_all(&out).unwrap();
        }
        // Links that the user has there are replaced, not followed.
        let out = dir.path().join("out");
        std::fs::create_dir(&out).unwrap();
        symlink(&outside, out.join("d")).unwrap();
        symlink(outside.join("file"), out.join("f")).unwrap();
        let text = archive(&[("d/file", Is::File("new")), ("f", Is::File("new"))]);
        unpack(text.as_slice(), &out).unwrap();
        assert_eq!(
            std::fs::read_to_string(outside.join("file")).unwrap(),
            "mine"
        );
        assert_eq!(std::fs::read_to_string(out.join("f")).unwrap(), "new");
    }

    #[test]
    fn a_stream_that_breaks_off_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let text = archive(&[("a", Is::File("content"))]);
        assert!(unpack(&text[..514], &dir.path().join("out")).is_err());
    }
}
