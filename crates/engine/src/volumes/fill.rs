//! A new volume is filled with what the image has at its mount point
//! ("copy-up"), from the image's merged filesystem: which layer a file is in,
//! and what hides what, is the kernel's business.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_api::Error;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps,
    Uid, XattrFlags, chmod, chownat, fstat, linkat, mkdirat, mknodat, openat, openat2,
    renameat_with, setxattr, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::DIRECTORY;
use crate::error::io as failed;
use crate::tree::{self, Node};

/// Beside the volume's own directory, until it is complete.
const DRAFT: &str = "_data.new";

/// Fills the empty directory `data` of a volume with what `root` has at
/// `inside`: all of it or, when that fails, nothing. Whether `data` is `new`
/// and no container has it yet.
pub(crate) fn fill(
    root: BorrowedFd<'_>,
    inside: &str,
    data: &Path,
    new: bool,
) -> Result<(), Error> {
    // The image may hold links: resolved inside it (CVE-2022-23648).
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let inside = inside.trim_start_matches('/');
    let Ok(from) = openat2(root, inside, flags, Mode::empty(), resolve) else {
        return Ok(());
    };
    let draft = data.with_file_name(DRAFT);
    let filling = |error: io::Error| failed("fill the volume", data, &error);
    // Of a try that was killed.
    remove(&draft).map_err(filling)?;
    let result = fs::create_dir(&draft)
        .map_err(filling)
        .and_then(|()| copy(&from, &draft, data))
        .and_then(|()| {
            if new {
                fs::rename(&draft, data).map_err(filling)
            } else {
                hand_over(&draft, data).map_err(filling)
            }
        });
    if let Err(error) = remove(&draft) {
        tracing::warn!("remove {}: {error}", draft.display());
    }
    result
}

fn remove(draft: &Path) -> io::Result<()> {
    match berth_store::remove_directory(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Into a directory that other containers may have: it stays the same one.
/// What they put there meanwhile is theirs, and stays.
fn hand_over(draft: &Path, data: &Path) -> io::Result<()> {
    let from = rustix::fs::open(draft, DIRECTORY, Mode::empty())?;
    let to = rustix::fs::open(data, DIRECTORY, Mode::empty())?;
    // Before what is taken away changes its times.
    let of = of_directory(&from)?;
    for entry in fs::read_dir(draft)? {
        let name = entry?.file_name();
        match renameat_with(&from, &name, &to, &name, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    attributes(&of, to.as_fd(), b".")
}

fn copy(from: &OwnedFd, draft: &Path, data: &Path) -> Result<(), Error> {
    let filling = |error: io::Error| failed("fill the volume", data, &error);
    let to =
        rustix::fs::open(draft, DIRECTORY, Mode::empty()).map_err(|error| filling(error.into()))?;
    // Directories last: what is made in them changes their times.
    let mut directories = vec![(b".".to_vec(), of_directory(from).map_err(filling)?)];
    let mut linked = HashMap::new();
    tree::walk(from.as_fd(), &mut |node| {
        let made = put(node, to.as_fd(), &mut linked)
            .map_err(|error| node.failed("fill the volume with", error))?;
        if let Some(attributes) = made {
            directories.push((node.path.to_vec(), attributes));
        }
        Ok(())
    })?;
    for (path, of) in directories.iter().rev() {
        attributes(of, to.as_fd(), path).map_err(filling)?;
    }
    Ok(())
}

/// What a file has besides its content.
struct Attributes {
    stat: Stat,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn of_directory(fd: &OwnedFd) -> io::Result<Attributes> {
    let path = format!("/proc/self/fd/{}/.", fd.as_raw_fd());
    Ok(Attributes {
        stat: fstat(fd)?,
        xattrs: tree::xattrs(path.as_bytes())?,
    })
}

/// Makes what `node` is; a directory's attributes are left to the caller.
fn put(
    node: &Node<'_>,
    to: BorrowedFd<'_>,
    linked: &mut HashMap<(u64, u64), Vec<u8>>,
) -> io::Result<Option<Attributes>> {
    let (path, stat) = (node.path, node.stat);
    let kind = node.kind();
    if kind != FileType::Directory && stat.st_nlink > 1 {
        if let Some(first) = linked.get(&(stat.st_dev, stat.st_ino)) {
            linkat(to, first.as_slice(), to, path, AtFlags::empty())?;
            return Ok(None);
        }
        linked.insert((stat.st_dev, stat.st_ino), path.to_vec());
    }
    let mode = Mode::RUSR | Mode::WUSR;
    match kind {
        FileType::Directory => mkdirat(to, path, Mode::RWXU)?,
        FileType::RegularFile => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(to, path, flags, mode)?;
            copy_data(&node.open()?, &mut file.into(), stat.st_size.unsigned_abs())?;
        }
        FileType::Symlink => symlinkat(node.link()?.as_slice(), to, path)?,
        // Means nothing without its process.
        FileType::Socket => return Ok(None),
        other => mknodat(to, path, other, mode, stat.st_rdev)?,
    }
    let of = Attributes {
        stat,
        xattrs: node.xattrs()?,
    };
    if kind == FileType::Directory {
        return Ok(Some(of));
    }
    attributes(&of, to, path)?;
    Ok(None)
}

/// Holes stay holes.
fn copy_data(mut from: &File, to: &mut File, size: u64) -> io::Result<()> {
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(start))?;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut from.take(end - start), to)?;
        at = end;
    }
    Ok(())
}

/// A change of owner takes bits of the mode and capabilities away, a change of
/// anything the times: hence the order.
fn attributes(of: &Attributes, dir: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
    let stat = &of.stat;
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(dir, path, Some(uid), Some(gid), nofollow)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let object = openat(dir, path, flags, Mode::empty())?;
    // Leads to the object itself, also when that is a link.
    let object_path = format!("/proc/self/fd/{}", object.as_raw_fd());
    if !is_link {
        chmod(&object_path, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    for (name, value) in &of.xattrs {
        match setxattr(&object_path, name.as_slice(), value, XattrFlags::empty()) {
            // The volumes' file system may have none.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(utimensat(dir, path, &times, nofollow)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::process::Command;

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new() -> Self {
            let dir = std::env::temp_dir().join(crate::files::random_id().unwrap());
            fs::create_dir_all(dir.join("root/data")).unwrap();
            fs::create_dir_all(dir.join("volume/_data")).unwrap();
            Self(dir)
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.0.join(name)
        }

        fn fill(&self, inside: &str, new: bool) -> Result<(), Error> {
            let root = File::open(self.path("root")).unwrap();
            let result = fill(root.as_fd(), inside, &self.path("volume/_data"), new);
            assert!(!self.path("volume/_data.new").exists());
            result
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Everything that `find` and `stat` tell, but for inodes.
    fn listing(dir: &Path) -> String {
        let script = "find . -exec stat -c '%n %A %u %g %s %h %Y %t:%T' {} + | sort; \
                      find . -type f -exec md5sum {} + | sort";
        let output = Command::new("sh")
            .args(["-c", script])
            .current_dir(dir)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn every_kind_of_file_comes_out_the_same() {
        let scratch = Scratch::new();
        let data = scratch.path("root/data");
        fs::create_dir(data.join("sub")).unwrap();
        fs::write(data.join("sub/a"), "text").unwrap();
        fs::hard_link(data.join("sub/a"), data.join("b")).unwrap();
        symlink("/etc/passwd", data.join("link")).unwrap();
        let mut sparse = File::create(data.join("sparse")).unwrap();
        sparse.seek(SeekFrom::Start(4 << 20)).unwrap();
        io::Write::write_all(&mut sparse, b"end").unwrap();
        sparse.set_len(8 << 20).unwrap();
        for script in [
            "mkfifo fifo; mknod null c 1 3; chown 5:6 sub/a link; chmod 4711 sub/a; chmod 1777 sub",
            "touch -hd 2001-02-03 sub/a link null; touch -d 2002-03-04 sub; touch -d 2003-04-05 .",
        ] {
            let status = Command::new("sh")
                .args(["-c", script])
                .current_dir(&data)
                .status();
            assert!(status.unwrap().success());
        }
        setxattr(data.join("b"), "user.x", b"v", XattrFlags::empty()).unwrap();
        let before = listing(&data);
        for new in [true, false] {
            let copy = scratch.path("volume/_data");
            fs::remove_dir_all(&copy).unwrap();
            fs::create_dir(&copy).unwrap();
            let inode = fs::metadata(&copy).unwrap().ino();
            scratch.fill("/data", new).unwrap();
            assert_eq!(listing(&copy), before);
            let now = fs::metadata(&copy).unwrap().ino();
            assert_eq!(now == inode, !new, "a directory in use stays the same");
            let sparse = fs::metadata(copy.join("sparse")).unwrap();
            assert!(
                sparse.blocks() * 512 < 1 << 20,
                "{} blocks",
                sparse.blocks()
            );
            let value = rustix::fs::getxattr(copy.join("sub/a"), "user.x", &mut [0; 8][..]);
            assert_eq!(value.unwrap(), 1);
        }
    }

    #[test]
    fn links_are_resolved_in_the_image_and_what_is_no_directory_fills_nothing() {
        let scratch = Scratch::new();
        symlink("/etc", scratch.path("root/link")).unwrap();
        fs::write(scratch.path("root/file"), "x").unwrap();
        for inside in ["/link", "/file", "/missing", "/../../../etc"] {
            scratch.fill(inside, true).unwrap();
            let left = fs::read_dir(scratch.path("volume/_data")).unwrap().count();
            assert_eq!(left, 0, "{inside}");
        }
    }

    #[test]
    fn what_fails_leaves_nothing_and_what_others_made_stays() {
        let scratch = Scratch::new();
        fs::write(scratch.path("root/data/a"), "image").unwrap();
        fs::write(scratch.path("root/data/b"), "image").unwrap();
        // A file in the way of the draft cannot be removed as a directory.
        fs::write(scratch.path("volume/_data.new"), "x").unwrap();
        let root = File::open(scratch.path("root")).unwrap();
        let data = scratch.path("volume/_data");
        assert!(fill(root.as_fd(), "data", &data, false).is_err());
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
        fs::remove_file(scratch.path("volume/_data.new")).unwrap();
        fs::write(data.join("a"), "theirs").unwrap();
        scratch.fill("data", false).unwrap();
        assert_eq!(fs::read_to_string(data.join("a")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(data.join("b")).unwrap(), "image");
    }
}
