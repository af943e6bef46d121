//! Lists a context, in parallel: what is where, and how it looks. No contents.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_api::build::Stat;
use berth_build::ignore::Ignore;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::failure::os_words;

/// More threads do not make one disk faster.
const MAX_THREADS: usize = 8;
/// Bytes of one attribute's value, and of a list of names.
const MAX_ATTRIBUTE: usize = 64 * 1024;

/// Opens something below `root` without ever following a link.
pub(super) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

pub(super) fn open_root(path: &Path) -> Result<OwnedFd, String> {
    rustix::fs::open(
        path,
        OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
        Mode::empty(),
    )
    .map_err(|error| failed("open", &path.display().to_string(), error))
}

fn failed(verb: &str, path: &str, error: Errno) -> String {
    // BuildKit's words.
    format!(
        "error from sender: {verb} {path}: {}",
        os_words(&io::Error::from(error))
    )
}

/// One directory as it was read.
struct Listing {
    /// Sorted by the bytes of names.
    entries: Vec<Entry>,
}

struct Entry {
    stat: Stat,
    /// Device and inode of a file with several names.
    shared: Option<(u64, u64)>,
    /// Which listing holds what is in it.
    directory: Option<usize>,
    /// Seen only if something below it is.
    only_for_others: bool,
}

/// A directory still to be read.
struct Pending {
    number: usize,
    path: String,
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    ignore: Option<&'a Ignore>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pending: Vec<Pending>,
    listings: Vec<Option<Listing>>,
    /// Directories that are being read.
    busy: usize,
    error: Option<String>,
}

/// All that a build may see of a directory: each directory followed by what is
/// in it, in the order of names' bytes.
pub(super) fn walk(root: BorrowedFd<'_>, ignore: Option<&Ignore>) -> Result<Vec<Stat>, String> {
    let walk = Walk {
        root,
        ignore,
        state: Mutex::new(State {
            pending: vec![Pending {
                number: 0,
                path: String::new(),
            }],
            listings: vec![None],
            ..State::default()
        }),
        changed: Condvar::new(),
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(MAX_THREADS) {
            scope.spawn(|| walk.work());
        }
        walk.work();
    });
    let state = walk
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    match state.error {
        Some(error) => Err(error),
        None => Ok(in_order(state.listings)),
    }
}

impl Walk<'_> {
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.error.is_some() {
                break;
            }
            let Some(next) = state.pending.pop() else {
                if state.busy == 0 {
                    break;
                }
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.busy += 1;
            drop(state);
            let read = self.read(&next.path);
            state = self.lock();
            state.busy -= 1;
            match read {
                Ok(listing) => state.put(next.number, listing),
                Err(why) => state.error = Some(why),
            }
            self.changed.notify_all();
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, path: &str) -> Result<Listing, String> {
        let told = |verb, error| failed(verb, if path.is_empty() { "." } else { path }, error);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY;
        let directory = match open_beneath(self.root, path, flags) {
            Ok(directory) => directory,
            // Removed meanwhile.
            Err(Errno::NOENT) if !path.is_empty() => {
                return Ok(Listing {
                    entries: Vec::new(),
                });
            }
            Err(error) => return Err(told("open", error)),
        };
        let mut entries = Vec::new();
        let mut buffer = Vec::with_capacity(64 * 1024);
        let mut reader = rustix::fs::RawDir::new(&directory, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = reader.next() {
            let entry = entry.map_err(|error| told("readdir", error))?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        for raw in &names {
            let Ok(name) = raw.to_str() else {
                return Err(format!(
                    "error from sender: {}{}: names of files must be valid UTF-8",
                    prefix(path),
                    raw.to_string_lossy()
                ));
            };
            parts.push(name);
            let is = |what: fn(&Ignore, &[&str]) -> bool| {
                self.ignore.is_some_and(|ignore| what(ignore, &parts))
            };
            let ignored = is(Ignore::is_ignored);
            let needed = !ignored || is(Ignore::may_take_back_below);
            parts.pop();
            if needed && let Some(entry) = self.look(&directory, path, raw, name, ignored)? {
                entries.push(entry);
            }
        }
        Ok(Listing { entries })
    }

    /// None if it is gone, or nothing that a build may see.
    fn look(
        &self,
        directory: &OwnedFd,
        path: &str,
        raw: &CString,
        name: &str,
        ignored: bool,
    ) -> Result<Option<Entry>, String> {
        let full = format!("{}{name}", prefix(path));
        let found = match rustix::fs::statat(directory, raw, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("lstat", &full, error)),
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Socket || (ignored && kind != FileType::Directory) {
            return Ok(None);
        }
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        let mut stat = Stat {
            mode: found.st_mode,
            mtime: nanoseconds(found.st_mtime, found.st_mtime_nsec as i64),
            ctime: nanoseconds(found.st_ctime, found.st_ctime_nsec as i64),
            inode: found.st_ino,
            ..Stat::default()
        };
        match kind {
            FileType::RegularFile => stat.size = u64::try_from(found.st_size).unwrap_or(0),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, raw, Vec::new())
                    .map_err(|error| failed("readlink", &full, error))?;
                stat.link = target.into_string().map_err(|_| {
                    format!("error from sender: {full}: targets of links must be valid UTF-8")
                })?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let device = found.st_rdev;
                stat.device = Some((rustix::fs::major(device), rustix::fs::minor(device)));
            }
            _ => {}
        }
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            stat.xattrs =
                attributes(directory, name).map_err(|error| failed("listxattr", &full, error))?;
        }
        stat.path = full;
        let shared = kind == FileType::RegularFile && found.st_nlink > 1;
        Ok(Some(Entry {
            stat,
            shared: shared.then_some((found.st_dev, found.st_ino)),
            // Numbered when it is known where.
            directory: (kind == FileType::Directory).then_some(0),
            only_for_others: ignored,
        }))
    }
}

impl State {
    /// Takes a listing in, and the directories in it to be read next.
    fn put(&mut self, number: usize, mut listing: Listing) {
        for entry in &mut listing.entries {
            if let Some(directory) = &mut entry.directory {
                *directory = self.listings.len();
                self.listings.push(None);
                self.pending.push(Pending {
                    number: *directory,
                    path: entry.stat.path.clone(),
                });
            }
        }
        self.listings[number] = Some(listing);
    }
}

fn prefix(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}/")
    }
}

/// `security.capability` and `user.*`, by the name in an open directory.
fn attributes(directory: &OwnedFd, name: &str) -> Result<BTreeMap<String, String>, Errno> {
    let path = format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd());
    let mut names = [0u8; 1024];
    let mut more = Vec::new();
    let names = match rustix::fs::llistxattr(&path, &mut names) {
        Ok(length) => &names[..length],
        Err(Errno::RANGE) => {
            more.resize(MAX_ATTRIBUTE, 0);
            let length = rustix::fs::llistxattr(&path, &mut more)?;
            &more[..length]
        }
        // Without /proc, on filesystems that have none, or gone.
        Err(Errno::NOTSUP | Errno::NOENT | Errno::PERM | Errno::ACCESS) => &[],
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    for name in names.split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if name != "security.capability" && !name.starts_with("user.") {
            continue;
        }
        let mut value = vec![0u8; MAX_ATTRIBUTE];
        match rustix::fs::lgetxattr(&path, name, &mut value) {
            Ok(length) => {
                found.insert(name.to_owned(), STANDARD.encode(&value[..length]));
            }
            Err(Errno::NODATA | Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Listings one after the other, and what is seen only for the sake of others
/// if there are any.
fn in_order(mut listings: Vec<Option<Listing>>) -> Vec<Stat> {
    // A directory has a greater number than the one it is in.
    let mut seen = vec![false; listings.len()];
    for (number, listing) in listings.iter().enumerate().rev() {
        seen[number] = listing
            .iter()
            .flat_map(|listing| &listing.entries)
            .any(|entry| {
                !entry.only_for_others || entry.directory.is_some_and(|inside| seen[inside])
            });
    }
    let mut stats = Vec::new();
    let mut first: HashMap<(u64, u64), String> = HashMap::new();
    let mut stack = Vec::new();
    let mut open = |stack: &mut Vec<_>, number: usize| {
        if let Some(listing) = listings[number].take() {
            stack.push(listing.entries.into_iter());
        }
    };
    open(&mut stack, 0);
    while let Some(entries) = stack.last_mut() {
        let Some(mut entry) = entries.next() else {
            stack.pop();
            continue;
        };
        if entry.only_for_others && !entry.directory.is_some_and(|inside| seen[inside]) {
            continue;
        }
        if let Some(shared) = entry.shared {
            match first.get(&shared) {
                Some(path) => entry.stat.hard_link.clone_from(path),
                None => {
                    first.insert(shared, entry.stat.path.clone());
                }
            }
        }
        stats.push(entry.stat);
        if let Some(inside) = entry.directory {
            open(&mut stack, inside);
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn paths(root: &Path, ignore: &str) -> Vec<String> {
        let ignore = Ignore::parse(ignore).unwrap();
        let root = open_root(root).unwrap();
        let stats = walk(root.as_fd(), Some(&ignore)).unwrap();
        stats.into_iter().map(|stat| stat.path).collect()
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["a/b/c", "a-b", "b"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["a/x", "a/b/c/deep", "a.txt", "z"] {
            std::fs::write(root.join(name), name).unwrap();
        }
        std::fs::hard_link(root.join("z"), root.join("a/y")).unwrap();
        symlink("/etc/passwd", root.join("b/link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        assert_eq!(
            paths(root, ""),
            [
                "a",
                "a/b",
                "a/b/c",
                "a/b/c/deep",
                "a/x",
                "a/y",
                "a-b",
                "a.txt",
                "b",
                "b/link",
                "z"
            ]
        );
        let fd = open_root(root).unwrap();
        let stats = walk(fd.as_fd(), None).unwrap();
        let of = |path: &str| stats.iter().find(|stat| stat.path == path).unwrap();
        assert_eq!(of("z").hard_link, "a/y");
        assert_eq!(of("b/link").link, "/etc/passwd");
        assert_eq!((of("a/x").size, of("a").size), (3, 0));
        assert!(of("a/x").mtime > 0 && of("a/x").inode > 0);
    }

    #[test]
    fn what_is_taken_back_brings_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["keep/in", "out/in", "none"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["keep/in/a.c", "keep/b", "out/in/b.o", "none/x", "top"] {
            std::fs::write(root.join(name), "").unwrap();
        }
        assert_eq!(
            paths(root, "*\n!**/*.c\n"),
            ["keep", "keep/in", "keep/in/a.c"]
        );
        assert_eq!(paths(root, "**\n"), [""; 0]);
        assert_eq!(
            paths(root, "keep\nout/in\n"),
            ["none", "none/x", "out", "top"]
        );
    }

    #[test]
    fn links_are_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc", dir.path().join("out")).unwrap();
        let root = open_root(dir.path()).unwrap();
        for path in ["out/passwd", "out", "../x", "/etc/passwd"] {
            assert!(
                open_beneath(root.as_fd(), path, OFlags::RDONLY).is_err(),
                "{path}"
            );
        }
    }
}
