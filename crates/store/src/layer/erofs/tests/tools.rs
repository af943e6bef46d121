//! Against the tools of the format's makers (package erofs-utils).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Unpacked, directory, read_back, unpacked};
use crate::layer::FormKind;
use crate::layer::erofs::reader::Image;
use crate::testing::Tar;

fn tree() -> Vec<u8> {
    let mut tar = Tar::default()
        .dir("./", 0o755)
        .pax(&[("SCHILY.xattr.user.note", b"one"), ("mtime", b"12345.678")])
        .dir("d", 0o1750)
        .pax(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.b", b"")])
        .file("d/attributes", b"content")
        .symlink("d/link", "attributes")
        .symlink("long", &"l".repeat(99))
        .hardlink("hard", "d/attributes")
        .device(b'6', "fifo", (0, 0))
        .device(b'3', "null", (1, 3))
        .device(b'4', "block", (259, 300));
    for size in [0, 1, 4000, 4032, 4096, 4097, 70_000] {
        let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        tar = tar.file(&format!("sizes/{size}"), &data);
    }
    for i in 0..300 {
        tar = tar.file(&format!("many/{i}-{}", "n".repeat(i % 50)), b"");
    }
    tar.finish()
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .expect("erofs-utils are missing (scripts/setup.sh installs them)");
    assert!(
        output.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn both() -> (Unpacked, Unpacked) {
    let stream = tree();
    let unpacked = |form| unpacked(form, &mut stream.as_slice()).unwrap();
    (unpacked(FormKind::Directory), unpacked(FormKind::Erofs))
}

/// What `fsck.erofs` knows how to extract.
fn basics(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(name) = pending.pop() {
        let path = root.join(&name);
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            let children = std::fs::read_dir(&path).unwrap();
            pending.extend(children.map(|e| name.join(e.unwrap().file_name())));
        }
        let content = std::fs::read_link(&path).map_or_else(
            |_| match meta.is_file() {
                true => crate::blob::digest_of(&std::fs::read(&path).unwrap()),
                false => String::new(),
            },
            |link| link.display().to_string(),
        );
        let text = format!(
            "{:o} {}:{} {:x} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev()
        );
        seen.insert(name, text);
    }
    seen
}

#[test]
fn fsck_extracts_what_was_written() {
    let (directory, file) = both();
    let to = super::directory();
    let to = to.path().join("tree");
    let extract = format!("--extract={}", to.display());
    run("fsck.erofs", &[&extract, file.content.to_str().unwrap()]);
    assert_eq!(basics(&to), basics(&directory.root));
}

#[test]
fn an_image_of_mkfs_reads_the_same() {
    let (tree, file) = both();
    let dir = directory();
    let theirs = dir.path().join("mkfs.erofs");
    let theirs_text = theirs.to_str().unwrap();
    // Our reader knows what layers use: extended inodes, attributes of their own.
    let options = ["-x1000", "-Eforce-inode-extended", "--quiet"];
    let source = tree.content.to_str().unwrap();
    run(
        "mkfs.erofs",
        &[&options[..], &[theirs_text, source]].concat(),
    );
    let read = |path: &Path| read_back(&Image::open(File::open(path).unwrap()).unwrap()).unwrap();
    let (want, got) = (read(&theirs), read(&file.content));
    assert_eq!(got.len(), want.len());
    for (path, seen) in want {
        assert!(got[&path] == seen, "{:?}", String::from_utf8_lossy(&path));
    }
    // Packed as tightly, but for what is left open between data and directories.
    let size = |path: &Path| path.metadata().unwrap().blocks() * 512;
    assert!(size(&file.content) < size(&theirs) + 64 * 1024);
}
