//! Trees of files as tar streams, as Docker writes them: in order of names,
//! the root itself left out, times in whole seconds, owners as numbers.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use berth_api::Error;
use berth_store::{TarEntry, TarKind, TarTime, TarWriter};
use rustix::fs::{FileType, Stat, major, minor};
use rustix::io::Errno;

use crate::error::IntoApi as _;
use crate::tree::{self, Node};

/// One stream; any number of trees.
#[allow(missing_debug_implementations, reason = "what it writes to has none")]
pub(crate) struct Archive<'a> {
    tar: TarWriter<&'a mut dyn Write>,
    /// One time for all, seconds since 1970; none = their own.
    time: Option<i64>,
    /// First names of files that have several, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// What the trees before had, and whether it is a directory; only kept
    /// when asked for.
    seen: Option<HashMap<Vec<u8>, bool>>,
}

impl<'a> Archive<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, time: Option<i64>) -> Self {
        Self {
            tar: TarWriter::new(out),
            time,
            linked: HashMap::new(),
            seen: None,
        }
    }

    /// Several trees in one: directories are joined.
    pub(crate) fn joining(mut self) -> Self {
        self.seen = Some(HashMap::new());
        self
    }

    /// An empty directory of root's.
    pub(crate) fn directory(&mut self, name: &[u8], time: i64) -> Result<(), Error> {
        let entry = TarEntry {
            name: name.to_vec(),
            kind: TarKind::Directory,
            mode: 0o755,
            mtime: seconds(self.time.unwrap_or(time)),
            ..TarEntry::default()
        };
        self.tar.append(&entry, &mut io::empty()).api()
    }

    /// Everything below `root`, below `prefix` (empty, or with a slash).
    ///
    /// # Errors
    /// `Conflict` if trees are joined and another had a file of that name.
    pub(crate) fn tree(&mut self, root: BorrowedFd<'_>, prefix: &[u8]) -> Result<(), Error> {
        self.linked.clear();
        tree::walk(root, &mut |node| self.append(node, prefix))
    }

    pub(crate) fn finish(self) -> Result<(), Error> {
        self.tar.finish().map(drop).api()
    }

    fn append(&mut self, node: &Node<'_>, prefix: &[u8]) -> Result<(), Error> {
        let failed = |error: io::Error| node.failed("read", error);
        let Some(kind) = kind_of(node) else {
            return Ok(());
        };
        let stat = &node.stat;
        let name = [prefix, node.path].concat();
        if let Some(seen) = &mut self.seen {
            let is_directory = kind == TarKind::Directory;
            match seen.insert(name.clone(), is_directory) {
                Some(true) if is_directory => return Ok(()),
                Some(_) => {
                    return Err(Error::conflict(format!(
                        "cannot overwrite {} from another platform when split option is disabled",
                        String::from_utf8_lossy(&name)
                    )));
                }
                None => {}
            }
        }
        let mut entry = self.entry_of(name, kind, stat);
        if kind != TarKind::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&key) {
                entry.kind = TarKind::HardLink;
                entry.link.clone_from(first);
                entry.device = (0, 0);
                return self.tar.append(&entry, &mut io::empty()).api();
            }
            self.linked.insert(key, entry.name.clone());
        }
        entry.xattrs = match node.xattrs() {
            // Gone meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                return Ok(());
            }
            other => other.map_err(failed)?,
        };
        match kind {
            TarKind::File => {
                let file = match node.open() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    other => other.map_err(failed)?,
                };
                entry.size = stat.st_size.unsigned_abs();
                // A file that a running container cuts short meanwhile still
                // has the length that its header says.
                self.tar
                    .append(&entry, &mut file.chain(io::repeat(0)))
                    .api()
            }
            TarKind::Symlink => {
                entry.link = node.link().map_err(failed)?;
                self.tar.append(&entry, &mut io::empty()).api()
            }
            _ => self.tar.append(&entry, &mut io::empty()).api(),
        }
    }

    fn entry_of(&self, name: Vec<u8>, kind: TarKind, stat: &Stat) -> TarEntry {
        let is_device = matches!(kind, TarKind::CharDevice | TarKind::BlockDevice);
        TarEntry {
            name,
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: seconds(self.time.unwrap_or(stat.st_mtime)),
            device: if is_device {
                (major(stat.st_rdev), minor(stat.st_rdev))
            } else {
                (0, 0)
            },
            ..TarEntry::default()
        }
    }
}

fn seconds(seconds: i64) -> TarTime {
    TarTime {
        seconds,
        nanoseconds: 0,
    }
}

/// Nothing for sockets, which mean nothing without their process.
fn kind_of(node: &Node<'_>) -> Option<TarKind> {
    Some(match node.kind() {
        FileType::RegularFile => TarKind::File,
        FileType::Directory => TarKind::Directory,
        FileType::Symlink => TarKind::Symlink,
        FileType::CharacterDevice => TarKind::CharDevice,
        FileType::BlockDevice => TarKind::BlockDevice,
        FileType::Fifo => TarKind::Fifo,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd as _;
    use std::process::Command;

    use super::*;

    fn sh(dir: &std::path::Path, script: &str) -> String {
        let output = Command::new("sh")
            .args(["-ec", script])
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn gnu_tar_makes_the_same_tree_of_it() {
        let dir = std::env::temp_dir().join(crate::files::random_id().unwrap());
        fs::create_dir_all(dir.join("from/b/sub")).unwrap();
        fs::create_dir_all(dir.join("to")).unwrap();
        let long = "l".repeat(120);
        sh(
            &dir.join("from"),
            &format!(
                "echo text >b/sub/a; ln b/sub/a z; ln -s /nowhere link; mkfifo fifo; \
                 mknod null c 1 3; mknod disk b 8 17; chown 3000000:7 b/sub/a; chmod 4755 b/sub/a; \
                 mkdir b/{long}; echo x >b/{long}/{long}; \
                 touch -h -d 2001-02-03 b/sub/a b/sub b link"
            ),
        );
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(dir.join("from/b"), "user.x", b"value", flags).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("from/socket")).unwrap();
        let root = File::open(dir.join("from")).unwrap();
        let mut tar = Vec::new();
        let mut archive = Archive::new(&mut tar, None);
        archive.tree(root.as_fd(), b"").unwrap();
        archive.finish().unwrap();
        fs::write(dir.join("a.tar"), tar).unwrap();
        sh(
            &dir.join("to"),
            "tar --xattrs --xattrs-include='*' --numeric-owner -xpf ../a.tar",
        );
        fs::remove_file(dir.join("from/socket")).unwrap();
        let list = "find . ! -name . -exec stat -c '%n %A %u %g %h %t:%T' {} + | sort; \
                    find . -type f -exec md5sum {} + | sort; stat -c %Y b b/sub/a";
        let (from, to) = (sh(&dir.join("from"), list), sh(&dir.join("to"), list));
        assert_eq!(from, to);
        let value = rustix::fs::getxattr(dir.join("to/b"), "user.x", &mut [0; 9][..]);
        assert_eq!(value.unwrap(), 5);
        assert!(sh(&dir, "tar tf a.tar | head -n 1").starts_with("b/\n"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_that_shrinks_keeps_its_announced_length() {
        let dir = std::env::temp_dir().join(crate::files::random_id().unwrap());
        fs::create_dir(&dir).unwrap();
        let path = dir.join("file");
        fs::write(&path, [1; 1000]).unwrap();
        let root = File::open(&dir).unwrap();
        let mut out = Vec::new();
        let mut archive = Archive::new(&mut out, None);
        tree::walk(root.as_fd(), &mut |node| {
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(10)
                .unwrap();
            archive.append(node, b"")
        })
        .unwrap();
        archive.finish().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn trees_of_several_platforms() {
        let dir = std::env::temp_dir().join(crate::files::random_id().unwrap());
        for (tree, file) in [("a", "one"), ("b", "two")] {
            fs::create_dir_all(dir.join(tree).join("d")).unwrap();
            fs::write(dir.join(tree).join("d").join(file), tree).unwrap();
            fs::hard_link(
                dir.join(tree).join("d").join(file),
                dir.join(tree).join(file),
            )
            .unwrap();
        }
        let roots = ["a", "b"].map(|tree| File::open(dir.join(tree)).unwrap());
        let list = |bytes: &[u8]| {
            fs::write(dir.join("x.tar"), bytes).unwrap();
            sh(
                &dir,
                "TZ=UTC tar --full-time -tvf x.tar | awk '{print $5, $6, $7, $8}'",
            )
        };
        let mut split = Vec::new();
        let mut archive = Archive::new(&mut split, Some(60));
        for (root, prefix) in roots.iter().zip(["linux_a/", "linux_b/"]) {
            archive.directory(prefix.as_bytes(), 0).unwrap();
            archive.tree(root.as_fd(), prefix.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
        let listed = list(&split);
        assert!(
            listed.contains("00:01:00 linux_b/two link to")
                || listed.contains("00:01:00 linux_b/two"),
            "{listed}"
        );
        assert_eq!(listed.matches("00:01:00").count(), 8, "{listed}");

        let mut joined = Vec::new();
        let mut archive = Archive::new(&mut joined, None).joining();
        for root in &roots {
            archive.tree(root.as_fd(), b"").unwrap();
        }
        let again = archive.tree(roots[0].as_fd(), b"").unwrap_err();
        assert!(again.message.contains("cannot overwrite d/one"), "{again}");
        archive.finish().unwrap();
        assert_eq!(list(&joined).matches(" d/ ").count(), 1);
        fs::remove_dir_all(dir).unwrap();
    }
}
