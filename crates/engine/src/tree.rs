//! Walks a tree of files whose maker is not trusted, and which a container may
//! change meanwhile: no link is followed, no path is resolved twice to different
//! ends, and depth costs no descriptors.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use berth_api::Error;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, lgetxattr, lgetxattr_query,
    llistxattr, llistxattr_query, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

/// Directories held open at once; the others are found again by their path.
const MAX_OPEN: usize = 32;

/// Something in the tree, in its directory.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    /// From the walk's root, without a slash at either end.
    pub(crate) path: &'a [u8],
    pub(crate) stat: Stat,
    parent: BorrowedFd<'a>,
    name: &'a [u8],
}

impl Node<'_> {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens a regular file for reading; never waits for the other end of a
    /// FIFO that has taken its place.
    pub(crate) fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat(self.parent, self.name, flags, Mode::empty())?.into())
    }

    /// Where a symbolic link points.
    pub(crate) fn link(&self) -> io::Result<Vec<u8>> {
        Ok(readlinkat(self.parent, self.name, Vec::new())?.into_bytes())
    }

    /// The extended attributes that mean the same elsewhere.
    pub(crate) fn xattrs(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut path = format!("/proc/self/fd/{}/", self.parent.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name);
        xattrs(&path)
    }

    pub(crate) fn failed(&self, tried: &str, error: impl Into<io::Error>) -> Error {
        failed(tried, self.path, &error.into())
    }
}

fn failed(tried: &str, path: &[u8], error: &io::Error) -> Error {
    let path = String::from_utf8_lossy(path);
    Error::system(format!("{tried} /{path}: {error}"))
}

/// Visits all below `root`, each directory before what it holds, in the order
/// of their names. What goes away meanwhile is left out.
pub(crate) fn walk(
    root: BorrowedFd<'_>,
    visit: &mut dyn FnMut(&Node<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut stack = Vec::new();
    stack.extend(Level::open(root, Vec::new())?);
    while let Some(level) = stack.last_mut() {
        let Some(name) = level.names.next() else {
            stack.pop();
            continue;
        };
        let mut path = level.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let Some(parent) = level.directory(root)? else {
            continue;
        };
        let stat = match statat(parent, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(failed("read", &path, &error.into())),
        };
        let node = Node {
            path: &path,
            stat,
            parent,
            name: &name,
        };
        visit(&node)?;
        if node.kind() == FileType::Directory {
            let depth = stack.len();
            if let Some(above) = depth.checked_sub(MAX_OPEN) {
                stack[above].fd = None;
            }
            stack.extend(Level::open(root, path)?);
        }
    }
    Ok(())
}

/// A directory on the way down.
struct Level {
    path: Vec<u8>,
    fd: Option<OwnedFd>,
    names: std::vec::IntoIter<Vec<u8>>,
}

impl Level {
    /// `None` if it is gone.
    fn open(root: BorrowedFd<'_>, path: Vec<u8>) -> Result<Option<Self>, Error> {
        let Some(fd) = open_directory(root, &path)? else {
            return Ok(None);
        };
        let list = || -> rustix::io::Result<Vec<Vec<u8>>> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&fd)? {
                let name = entry?.file_name().to_bytes().to_vec();
                if name != b"." && name != b".." {
                    names.push(name);
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        let names = list().map_err(|error| failed("list", &path, &error.into()))?;
        Ok(Some(Self {
            path,
            fd: Some(fd),
            names: names.into_iter(),
        }))
    }

    fn directory(&mut self, root: BorrowedFd<'_>) -> Result<Option<BorrowedFd<'_>>, Error> {
        if self.fd.is_none() {
            self.fd = open_directory(root, &self.path)?;
        }
        Ok(self.fd.as_ref().map(AsFd::as_fd))
    }
}

fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>, Error> {
    let here: &[u8] = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(root, OsStr::from_bytes(here), flags, Mode::empty(), resolve) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(failed("open", path, &error.into())),
    }
}

/// Of what `path` names, a link itself included: not those that belong to one
/// machine (security labels, what overlayfs keeps).
pub(crate) fn xattrs(path: &[u8]) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = match grow(|| llistxattr_query(path), |buffer| llistxattr(path, buffer)) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut list = Vec::new();
    for name in names.split(|&b| b == 0).filter(|name| is_portable(name)) {
        match grow(
            || lgetxattr_query(path, name),
            |buffer| lgetxattr(path, name, buffer),
        ) {
            Ok(value) => list.push((name.to_vec(), value)),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(list)
}

fn is_portable(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// Asks for the length, then for the bytes, until both agree.
fn grow(
    length: impl Fn() -> rustix::io::Result<usize>,
    read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    loop {
        let mut buffer = vec![0; length()?];
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match read(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn paths(root: &std::path::Path) -> Vec<String> {
        let fd = File::open(root).unwrap();
        let mut seen = Vec::new();
        walk(fd.as_fd(), &mut |node| {
            seen.push(String::from_utf8(node.path.to_vec()).unwrap());
            Ok(())
        })
        .unwrap();
        seen
    }

    #[test]
    fn in_order_and_no_link_followed() {
        let dir = std::env::temp_dir().join(crate::files::random_id().unwrap());
        fs::create_dir_all(dir.join("b/sub")).unwrap();
        fs::write(dir.join("b/sub/file"), "x").unwrap();
        fs::write(dir.join("b.txt"), "x").unwrap();
        fs::write(dir.join("a"), "x").unwrap();
        std::os::unix::fs::symlink("/", dir.join("c")).unwrap();
        assert_eq!(paths(&dir), ["a", "b", "b/sub", "b/sub/file", "b.txt", "c"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn depth_costs_no_descriptors() {
        let dir = std::env::temp_dir().join(crate::files::random_id().unwrap());
        let mut deep = dir.clone();
        for _ in 0..200 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(dir.join("d/d/last"), "x").unwrap();
        let root = File::open(&dir).unwrap();
        let (mut most, mut count) = (0, 0);
        walk(root.as_fd(), &mut |_| {
            let open = fs::read_dir("/proc/self/fd").unwrap().count();
            (most, count) = (most.max(open), count + 1);
            Ok(())
        })
        .unwrap();
        assert_eq!(count, 201);
        assert!(most < 100, "{most} descriptors");
        fs::remove_dir_all(dir).unwrap();
    }
}
