//! The file form against the directory form, through the kernel's own eyes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, lgetxattr, llistxattr};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::reader::Image;
use crate::layer::{self, Ending, FormKind, Layer, Options, unpack};
use crate::testing::{Member, Tar};

/// A layer unpacked, and where its root directory can be looked at.
struct Unpacked {
    layer: Layer,
    file: PathBuf,
    root: PathBuf,
    _mount: Option<OwnedFd>,
    _dir: tempfile::TempDir,
}

impl Unpacked {
    fn file_content(&self) -> Vec<u8> {
        std::fs::read(&self.file).unwrap()
    }
}

fn unpacked(form: FormKind, stream: &[u8]) -> crate::error::Result<Unpacked> {
    let dir = tempfile::tempdir().unwrap();
    let at = OwnedFd::from(File::open(dir.path()).unwrap());
    let options = Options {
        form,
        userxattr: false,
        devices: true,
    };
    let layer = unpack(
        &mut &*stream,
        Ending::Any,
        layer::create(options, &at).unwrap(),
    )?;
    let file = dir.path().join(form.content());
    let mount = (form == FormKind::Erofs).then(|| mount(&file));
    let root = match &mount {
        Some(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()).into(),
        None => file.clone(),
    };
    Ok(Unpacked {
        layer,
        file,
        root,
        _mount: mount,
        _dir: dir,
    })
}

fn mount(file: &Path) -> OwnedFd {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "source", file).unwrap();
    fsconfig_create(&context).unwrap();
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .unwrap()
}

/// All that one sees of a tree, by path. Times where layers set them.
fn view(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(name) = pending.pop() {
        // The root itself is reached through a link in /proc.
        let path = match name == Path::new("") {
            true => root.join("."),
            false => root.join(&name),
        };
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            let children = std::fs::read_dir(&path).unwrap();
            let first = pending.len();
            pending.extend(children.map(|e| name.join(e.unwrap().file_name())));
            pending[first..].sort_unstable();
        }
        let whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
        let content = if meta.is_file() {
            let data = std::fs::read(&path).unwrap();
            assert_eq!(data.len() as u64, meta.size(), "{path:?}");
            crate::blob::digest_of(&data)
        } else {
            std::fs::read_link(&path)
                .map(|link| link.display().to_string())
                .unwrap_or_default()
        };
        let time = if whiteout {
            (0, 0)
        } else {
            (meta.mtime(), meta.mtime_nsec())
        };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        // Which names are the same inode, by the first of them.
        let first = numbers.entry(meta.ino()).or_insert_with(|| name.clone());
        let text = format!(
            "{:o} {}:{} {time:?} links {} as {first:?} device {:x} size {size} {content} {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.rdev(),
            xattrs(&path),
        );
        seen.insert(name, text);
    }
    seen
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = llistxattr(path, &mut names).unwrap();
    names[..length]
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = lgetxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect()
}

/// What both forms show, which must be the same.
fn same(stream: &[u8]) -> BTreeMap<PathBuf, String> {
    let directory = unpacked(FormKind::Directory, stream).unwrap();
    let file = unpacked(FormKind::Erofs, stream).unwrap();
    let (want, got) = (view(&directory.root), view(&file.root));
    for (name, text) in &want {
        assert_eq!(got.get(name), Some(text), "{name:?}");
    }
    let names = |view: &BTreeMap<PathBuf, String>| view.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&got), names(&want));
    assert_eq!(
        (file.layer.size, file.layer.root, file.layer.opaque),
        (
            directory.layer.size,
            directory.layer.root,
            directory.layer.opaque
        ),
    );
    fsck(&file.file);
    same_to_our_reader(&file.file, &got);
    got
}

/// What our reader finds in the file is what the kernel shows.
fn same_to_our_reader(file: &Path, kernel: &BTreeMap<PathBuf, String>) {
    let seen = read_back(&Image::open(File::open(file).unwrap()).unwrap()).unwrap();
    assert_eq!(seen.len(), kernel.len());
    for (path, (kind, content, xattrs)) in seen {
        let text = &kernel[Path::new(OsStr::from_bytes(&path))];
        let content = match kind {
            FileType::RegularFile => crate::blob::digest_of(&content),
            _ => String::from_utf8_lossy(&content).into_owned(),
        };
        let end = format!("{content} {xattrs:?}");
        assert!(text.ends_with(&end), "{path:?}: {text} and not {end}");
    }
}

type Seen = BTreeMap<Vec<u8>, (FileType, Vec<u8>, BTreeMap<String, Vec<u8>>)>;

fn read_back(image: &Image) -> crate::error::Result<Seen> {
    let mut seen = Seen::new();
    image.walk(&mut |path, node| {
        let content = match node.kind() {
            FileType::RegularFile => image.read(node, u64::MAX)?,
            FileType::Symlink => image.link(node)?,
            _ => Vec::new(),
        };
        let xattrs = image.xattrs(node)?.into_iter();
        let xattrs = xattrs.map(|(name, value)| (String::from_utf8_lossy(&name).into(), value));
        seen.insert(path.to_vec(), (node.kind(), content, xattrs.collect()));
        Ok(())
    })?;
    Ok(seen)
}

fn fsck(file: &Path) {
    let output = std::process::Command::new("fsck.erofs")
        .arg(file)
        .output()
        .expect("fsck.erofs (scripts/setup.sh installs it)");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_rich_tree_is_the_same_in_both_forms() {
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0";
    let mut tar = Tar::default()
        .dir("./", 0o755)
        .pax(&[
            ("mtime", b"1600000000.5"),
            ("SCHILY.xattr.user.note", b"dir"),
        ])
        .dir("d", 0o1777)
        .pax(&[
            ("mtime", b"1234567890.123456789"),
            ("uid", b"70000"),
            ("gid", b"80000"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"a=b\nc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .member(&Member {
            name: b"d/tool",
            mode: 0o4755,
            data: b"bin",
            ..Member::default()
        })
        .device(b'3', "d/null", (1, 3))
        .device(b'4', "d/loop", (7, 300))
        .device(b'6', "d/fifo", (0, 0))
        .symlink("d/s", "tool")
        .hardlink("d/tool2", "d/tool")
        .hardlink("deep/er/tool3", "d/tool")
        .file("gone", b"first")
        .file("gone", b"second")
        .file(".wh.hidden", b"")
        .file(".wh.again", b"")
        .dir("again", 0o700)
        .dir("opaque", 0o700)
        .file("opaque/.wh..wh..opq", b"");
    for size in [
        0, 1, 4000, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 100_000,
    ] {
        let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        tar = tar.file(&format!("sizes/{size}"), &data);
    }
    let seen = same(&tar.finish());
    let tool = &seen[Path::new("d/tool")];
    assert!(
        tool.starts_with("104755 70000:80000 (1234567890, 123456789) links 3"),
        "{tool}"
    );
    assert!(
        tool.contains("security.capability") && !tool.contains("opaque"),
        "{tool}"
    );
    assert!(seen[Path::new("opaque")].contains("trusted.overlay.opaque"));
    assert!(seen[Path::new("again")].contains("trusted.overlay.opaque"));
}

/// Several blocks of entries, names of every length, and sort orders around
/// the two that every directory has.
#[test]
fn large_directories() {
    let mut tar = Tar::default();
    for i in 0..5000 {
        tar = tar.file(&format!("many/{i:x}{}", "n".repeat(i % 60)), b"");
    }
    for length in [1, 100, 254, 255] {
        let name = "l".repeat(length);
        tar = tar
            .pax(&[("path", format!("long/{name}").as_bytes())])
            .file("x", name.as_bytes());
    }
    for name in ["!", "-", ".a", "..a", "...", "/0", "\u{7f}", "é"] {
        tar = tar.file(&format!("sorted/{name}"), name.as_bytes());
    }
    let seen = same(&tar.finish());
    assert_eq!(seen.len(), 1 + 3 + 5000 + 4 + 8);
}

/// Also directories whose entries end at the border of a block.
#[test]
fn directories_of_every_size() {
    let mut tar = Tar::default();
    for count in 0..40 {
        for length in [1, 7, 70, 88] {
            for i in 0..count {
                let name = format!("{count}-{length}/{i:02}{}", "x".repeat(length));
                tar = tar.file(&name, b"");
            }
        }
    }
    same(&tar.finish());
}

/// Deeper than a path can say, through links.
#[test]
fn deep_trees() {
    let deep = "d/".repeat(500);
    let tar = Tar::default()
        .pax(&[("path", deep.as_bytes())])
        .dir("x", 0o700)
        .pax(&[("linkpath", deep.as_bytes())])
        .symlink("to", "x")
        .file("to/file", b"deep");
    let seen = same(&tar.finish());
    assert!(seen.contains_key(&Path::new(&deep).join("file")));
}

/// Any byte of a file may be wrong: our reader ends, and does not take more
/// memory than the file is long.
#[test]
fn damage_is_an_error_and_no_panic() {
    let stream = Tar::default()
        .pax(&[("SCHILY.xattr.user.note", b"dir")])
        .dir("d", 0o755)
        .file("d/file", &[7; 4100])
        .symlink("d/link", "file")
        .pax(&[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", b"40000"),
            ("GNU.sparse.map", b"8192,3"),
        ])
        .file("x", b"abc")
        .finish();
    let file = unpacked(FormKind::Erofs, &stream).unwrap().file_content();
    let whole = read_back(&image(&file)).unwrap();
    assert_eq!(whole[&b"sparse"[..]].1.len(), 40000);
    let interesting: Vec<usize> = (0..file.len())
        .filter(|&at| file[at] != 0 || at.checked_sub(1).is_some_and(|before| file[before] != 0))
        .filter(|at| !(8192..8192 + 4096).contains(at))
        .collect();
    let bad = temporary(&file);
    let overwrite = |bytes: &[u8], at: usize| bad.write_all_at(bytes, at as u64).unwrap();
    for at in interesting {
        for value in [0, 0xff, file[at] ^ 0x80, file[at].wrapping_add(1)] {
            overwrite(&[value], at);
            // The checksum would find it first.
            let mut first = *file.first_chunk().unwrap();
            if let Some(byte) = first.get_mut(at) {
                *byte = value;
            }
            super::format::seal(&mut first);
            overwrite(&first, 0);
            if let Ok(image) = Image::open(bad.try_clone().unwrap()) {
                let _ = read_back_bounded(&image);
            }
        }
        overwrite(&[file[at]], at);
    }
    for length in (0..file.len()).step_by(509) {
        assert!(Image::open(temporary(&file[..length])).is_err());
    }
}

fn image(bytes: &[u8]) -> Image {
    Image::open(temporary(bytes)).unwrap()
}

fn temporary(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn read_back_bounded(image: &Image) -> crate::error::Result<()> {
    image.walk(&mut |_, node| {
        // A hole may be as long as it likes.
        image.read(node, 1 << 20)?;
        image.xattrs(node)?;
        Ok(())
    })
}
