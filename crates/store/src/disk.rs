//! Directories and files of the store on disk: removing, sizing, replacing.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// Descriptors held at once while walking a tree of any depth.
const MAX_OPEN: usize = 64;

/// Removes `name` in `parent` and all below, following no link. The depth of
/// the tree is its maker's choice, so beyond [`MAX_OPEN`] levels a directory
/// is first moved up beside the start.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        other => return other,
    }
    let mut pending = vec![name.to_vec()];
    while let Some(top) = pending.pop() {
        let mut moved = |directory: BorrowedFd<'_>, child: &[u8]| {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let name = format!(".berth-remove-{}-{serial}", std::process::id()).into_bytes();
            renameat(directory, child, parent, name.as_slice())?;
            pending.push(name);
            Ok(())
        };
        empty(&open_directory(parent, &top)?, 1, &mut moved)?;
        unlinkat(parent, top.as_slice(), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn empty(
    directory: &OwnedFd,
    depth: usize,
    too_deep: &mut dyn FnMut(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    for (name, kind) in children(directory)? {
        if kind != FileType::Directory {
            match unlinkat(directory, name.as_slice(), AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                other => {
                    other?;
                    continue;
                }
            }
        }
        if depth == MAX_OPEN {
            too_deep(directory.as_fd(), &name)?;
            continue;
        }
        empty(
            &open_directory(directory.as_fd(), &name)?,
            depth + 1,
            too_deep,
        )?;
        unlinkat(directory, name.as_slice(), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Removes a directory and all below, however deep: std's `remove_dir_all` keeps
/// a descriptor and stack for each level, and who fills a directory decides how
/// many there are. Blocks.
///
/// # Errors
/// `NotFound` if there is none; `NotADirectory` for anything else.
pub fn remove_directory(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if !path.symlink_metadata()?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let parent = OwnedFd::from(File::open(parent)?);
    Ok(remove_tree(parent.as_fd(), name.as_bytes())?)
}

/// Bytes in the files below `directory`, hard links counted each time.
/// Each directory is opened by its whole path below `directory`; what is nested
/// deeper than a path can say (4095 bytes) is not counted.
pub(crate) fn tree_size(directory: &OwnedFd) -> rustix::io::Result<u64> {
    let mut total = 0;
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let here = if path.is_empty() {
            b".".as_slice()
        } else {
            &path
        };
        let fd = match open_beneath(directory, here) {
            // Gone meanwhile, or deeper than a path can say.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP) => continue,
            other => other?,
        };
        for (name, kind) in children(&fd)? {
            match kind {
                FileType::Directory => {
                    let mut child = path.clone();
                    if !child.is_empty() {
                        child.push(b'/');
                    }
                    child.extend_from_slice(&name);
                    pending.push(child);
                }
                FileType::RegularFile => {
                    match statat(&fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => total += u64::try_from(stat.st_size).unwrap_or_default(),
                        Err(Errno::NOENT) => {}
                        Err(e) => return Err(e),
                    }
                }
                _ => {}
            }
        }
    }
    Ok(total)
}

/// Names in a directory and their types, without `.` and `..`.
pub(crate) fn children(directory: &OwnedFd) -> rustix::io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}

pub(crate) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// A container writes this tree while it is walked: no link is followed.
pub(crate) fn open_beneath(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{ResolveFlags, openat2};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// Replaces a file by new content, whole or not at all. The content reaches
/// the disk before the name does: this also holds when the power fails.
pub(crate) fn replace_file(
    directory: &OwnedFd,
    name: &str,
    tmp: &OwnedFd,
    content: &[u8],
) -> io::Result<()> {
    let draft = write_draft(name, tmp, content)?;
    Ok(renameat(tmp, draft.as_str(), directory, name)?)
}

/// The first part of it: content on disk, and what it is called in `tmp`.
pub(crate) fn write_draft(name: &str, tmp: &OwnedFd, content: &[u8]) -> io::Result<String> {
    let draft = format!("{name}.new");
    let mut file = create_file(tmp, &draft)?;
    file.write_all(content)?;
    file.sync_data()?;
    Ok(draft)
}

pub(crate) fn create_file(directory: &OwnedFd, name: &str) -> rustix::io::Result<File> {
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = OwnedFd::from(File::open(dir.path()).unwrap());
        rustix::fs::mkdirat(&top, "deep", Mode::RWXU).unwrap();
        let mut here = open_directory(top.as_fd(), b"deep").unwrap();
        let name = "d".repeat(200);
        for _ in 0..300 {
            rustix::fs::mkdirat(&here, name.as_str(), Mode::RWXU).unwrap();
            create_file(&here, "file")
                .unwrap()
                .write_all(b"12345")
                .unwrap();
            here = open_directory(here.as_fd(), name.as_bytes()).unwrap();
        }
        assert!(tree_size(&top).unwrap() >= 5 * 20);
        remove_directory(&dir.path().join("deep")).unwrap();
        assert_eq!(children(&top).unwrap(), vec![]);
        let again = remove_directory(&dir.path().join("deep")).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let top = OwnedFd::from(File::open(dir.path()).unwrap());
        std::fs::create_dir(dir.path().join("keep")).unwrap();
        std::fs::write(dir.path().join("keep/file"), "x").unwrap();
        std::fs::create_dir(dir.path().join("gone")).unwrap();
        std::os::unix::fs::symlink("../keep", dir.path().join("gone/link")).unwrap();
        remove_tree(top.as_fd(), b"gone").unwrap();
        assert!(dir.path().join("keep/file").exists());
        assert!(!dir.path().join("gone").exists());
    }
}
