//! `GET /containers/{id}/export`: a container's filesystem as a tar stream,
//! running or not, with the mount points but not what is mounted there.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use berth_api::Error;
use berth_store::{TarEntry, TarKind, TarTime, TarWriter};
use rustix::fs::{FileType, Stat, major, minor};
use rustix::io::Errno;

use crate::Download;
use crate::download::download;
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};
use crate::tree::{self, Node};

impl Engine {
    pub async fn container_export(&self, name: &str) -> Result<Download, Error> {
        let container = self.find(name)?;
        let record = container.record().clone();
        let state = &record.state;
        for (is, how) in [(state.dead, "Dead"), (state.removing, "being removed")] {
            if is {
                let id = &record.id;
                return Err(Error::conflict(format!(
                    "You cannot export container {id} which is {how}"
                )));
            }
        }
        let (engine, id) = (self.clone(), record.id.clone());
        let root = blocking(move || {
            let snapshot = engine.0.store.snapshot(&id).api()?;
            engine.merged_root(&snapshot)
        })
        .await?;
        let stream = download("export", move |out| write_tree(root.as_fd(), out)).await?;
        self.container_event(&record, "export", &[]);
        Ok(stream)
    }
}

/// Everything below `root`, as Docker writes it: in order of names, the root
/// itself left out, times in whole seconds, owners as numbers.
fn write_tree(root: BorrowedFd<'_>, out: &mut dyn Write) -> Result<(), Error> {
    let mut tar = TarWriter::new(out);
    let mut linked = HashMap::new();
    tree::walk(root, &mut |node| append(&mut tar, node, &mut linked))?;
    tar.finish().map(drop).api()
}

fn append(
    tar: &mut TarWriter<&mut dyn Write>,
    node: &Node<'_>,
    linked: &mut HashMap<(u64, u64), Vec<u8>>,
) -> Result<(), Error> {
    let failed = |error: io::Error| node.failed("read", error);
    let Some(kind) = kind_of(node) else {
        return Ok(());
    };
    let stat = &node.stat;
    let mut entry = entry_of(node.path, kind, stat);
    if kind != TarKind::Directory && stat.st_nlink > 1 {
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = linked.get(&key) {
            entry.kind = TarKind::HardLink;
            entry.link.clone_from(first);
            entry.device = (0, 0);
            return tar.append(&entry, &mut io::empty()).api();
        }
        linked.insert(key, node.path.to_vec());
    }
    entry.xattrs = match node.xattrs() {
        // Gone meanwhile.
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => return Ok(()),
        other => other.map_err(failed)?,
    };
    match kind {
        TarKind::File => {
            let file = match node.open() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other.map_err(failed)?,
            };
            entry.size = stat.st_size.unsigned_abs();
            // A file that a running container cuts short meanwhile still has
            // the length that its header says.
            tar.append(&entry, &mut file.chain(io::repeat(0))).api()
        }
        TarKind::Symlink => {
            entry.link = node.link().map_err(failed)?;
            tar.append(&entry, &mut io::empty()).api()
        }
        _ => tar.append(&entry, &mut io::empty()).api(),
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

fn entry_of(path: &[u8], kind: TarKind, stat: &Stat) -> TarEntry {
    let is_device = matches!(kind, TarKind::CharDevice | TarKind::BlockDevice);
    TarEntry {
        name: path.to_vec(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: TarTime {
            seconds: stat.st_mtime,
            nanoseconds: 0,
        },
        device: if is_device {
            (major(stat.st_rdev), minor(stat.st_rdev))
        } else {
            (0, 0)
        },
        ..TarEntry::default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
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
        write_tree(root.as_fd(), &mut tar).unwrap();
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
        let mut tar = TarWriter::new(Box::leak(Box::new(Vec::new())) as &mut dyn Write);
        tree::walk(root.as_fd(), &mut |node| {
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(10)
                .unwrap();
            append(&mut tar, node, &mut HashMap::new())
        })
        .unwrap();
        tar.finish().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
