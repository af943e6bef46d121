//! What trees of files take on disk, counted as `du` counts: allocated blocks,
//! directories included, hard links once.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, lstat, openat, statat};
use rustix::io::Errno;

use crate::disk::{children, open_beneath};

/// `st_blocks` counts these, whatever the file system's own.
const BLOCK: u64 = 512;

/// Bytes on disk of `path` and all below it on the same file system. What
/// vanishes meanwhile counts nothing, no link is followed, and what is nested
/// deeper than a path can say (4095 bytes) is not counted.
///
/// # Errors
/// Of the kernel; `NotFound` if `path` is not there.
pub fn disk_usage(path: &Path) -> io::Result<u64> {
    let top = lstat(path)?;
    if FileType::from_raw_mode(top.st_mode) != FileType::Directory {
        return Ok(allocated(&top));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(allocated(&top) + below(&root)?)
}

/// The same for an entry of an open directory.
pub(crate) fn entry_usage(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<u64> {
    let top = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(top.st_mode) != FileType::Directory {
        return Ok(allocated(&top));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(parent, name, flags, Mode::empty())?;
    Ok(allocated(&top) + below(&root)?)
}

/// What is below a directory, without itself.
pub(crate) fn below(root: &OwnedFd) -> rustix::io::Result<u64> {
    let mut total = 0;
    let mut linked = HashSet::new();
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let here: &[u8] = if path.is_empty() { b"." } else { &path };
        let directory = match open_beneath(root, here) {
            // Gone meanwhile, replaced, mounted over, or too deep.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::XDEV) => {
                continue;
            }
            other => other?,
        };
        for (name, _) in children(&directory)? {
            let stat = match statat(&directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let mut child = path.clone();
                if !child.is_empty() {
                    child.push(b'/');
                }
                child.extend_from_slice(&name);
                pending.push(child);
            } else if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            total += allocated(&stat);
        }
    }
    Ok(total)
}

fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * BLOCK
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn it_agrees_with_du() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("a/b/c")).unwrap();
        std::fs::write(at("a/file"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(at("a/file"), at("a/b/again")).unwrap();
        std::os::unix::fs::symlink("/usr", at("a/link")).unwrap();
        let sparse = std::fs::File::create(at("a/b/c/sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        for n in 0..500 {
            std::fs::write(at(&format!("a/b/c/{n}")), "x").unwrap();
        }
        // Delayed allocation is over.
        rustix::fs::syncfs(&sparse).unwrap();
        let du = Command::new("du")
            .args(["-s", "-B1"])
            .arg(dir.path())
            .output()
            .unwrap();
        let du = String::from_utf8(du.stdout).unwrap();
        let du: u64 = du.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(disk_usage(dir.path()).unwrap(), du);
        assert!(disk_usage(&at("none")).is_err());
    }
}
