//! The file form against the directory form, through the kernel's own eyes.

mod damage;
mod random;
mod sparse;
mod tools;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, SeekFrom, lgetxattr, llistxattr, seek};
use tempfile::TempDir;

use super::reader::Image;
use crate::LayerLocation;
use crate::error::Result;
use crate::layer::{self, Ending, FormKind, Layer, Options, unpack};
use crate::testing::{Member, Mounted, Tar, mounted};

/// A layer unpacked, and its root directory to be looked at.
struct Unpacked {
    layer: Layer,
    content: PathBuf,
    root: Mounted,
    _dir: TempDir,
}

/// On disk: where EROFS files can be mounted as they are.
fn directory() -> TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

fn write(form: FormKind, stream: &mut dyn Read) -> Result<(TempDir, Layer)> {
    let dir = directory();
    let at = OwnedFd::from(File::open(dir.path()).unwrap());
    let options = Options {
        form,
        userxattr: false,
        devices: true,
    };
    let new = layer::create(options, &at, None).unwrap();
    let layer = unpack(stream, Ending::Any, new)?;
    Ok((dir, layer))
}

fn unpacked(form: FormKind, stream: &mut dyn Read) -> Result<Unpacked> {
    let (dir, layer) = write(form, stream)?;
    let content = dir.path().join(form.content());
    let root = mounted(&match form {
        FormKind::Directory => LayerLocation::Directory(content.clone()),
        FormKind::Erofs => LayerLocation::Erofs(content.clone()),
    });
    Ok(Unpacked {
        layer,
        content,
        root,
        _dir: dir,
    })
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
        // When and whose a whiteout is, nobody sees.
        let (owner, time) = if whiteout {
            ((0, 0), (0, 0))
        } else {
            ((meta.uid(), meta.gid()), (meta.mtime(), meta.mtime_nsec()))
        };
        let size = if meta.is_dir() { 0 } else { meta.size() };
        let data = if meta.is_file() {
            data_ranges(&path)
        } else {
            Vec::new()
        };
        // Which names are the same inode, by the first of them.
        let first = numbers.entry(meta.ino()).or_insert_with(|| name.clone());
        let text = format!(
            "{:o} {owner:?} {time:?} links {} as {first:?} device {:x} size {size} {data:?} {content} {:?}",
            meta.mode(),
            meta.nlink(),
            meta.rdev(),
            xattrs(&path),
        );
        seen.insert(name, text);
    }
    seen
}

/// Where a file has no holes.
fn data_ranges(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).unwrap();
    let mut ranges = Vec::new();
    let mut end = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(end)) {
        end = seek(&file, SeekFrom::Hole(start)).unwrap();
        ranges.push((start, end));
    }
    ranges
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
    let directory = unpacked(FormKind::Directory, &mut &*stream).unwrap();
    let file = unpacked(FormKind::Erofs, &mut &*stream).unwrap();
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
    fsck(&file.content);
    same_to_our_reader(&file.content, &got);
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

fn read_back(image: &Image) -> Result<Seen> {
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
        tool.starts_with("104755 (70000, 80000) (1234567890, 123456789) links 3"),
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

/// What an entry replaces may be the link that its path led through.
#[test]
fn a_path_through_what_it_replaces() {
    let tar = Tar::default()
        .symlink("up", "..")
        .dir("up/up", 0o700)
        .file("up/inside", b"x");
    assert!(same(&tar.finish()).contains_key(Path::new("up/inside")));
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

#[test]
fn equal_streams_make_equal_files() {
    let tar = Tar::default()
        .dir("d", 0o755)
        .file("d/f", &[1; 5000])
        .file("d/.wh.x", b"");
    let file = |tar: Tar| {
        let (dir, _) = write(FormKind::Erofs, &mut tar.finish().as_slice()).unwrap();
        std::fs::read(dir.path().join("layer.erofs")).unwrap()
    };
    let first = file(tar.clone());
    assert!(first == file(tar.clone()));
    // And others differ in what tells file systems apart, too.
    let uuid = |file: &[u8]| file[1024 + 48..1024 + 64].to_vec();
    assert_ne!(uuid(&first), uuid(&file(tar.file("g", b""))));
}

/// More than a block, more than a file has room for, and malformed ones.
#[test]
fn attributes_large_and_bad() {
    let with =
        |tar: Tar, name: &str, value: &[u8]| tar.pax(&[(&format!("SCHILY.xattr.{name}"), value)]);
    let large = vec![b'v'; 60_000];
    let stream = with(Tar::default(), "user.large", &large)
        .file("large", &[5; 5000])
        .finish();
    let file = unpacked(FormKind::Erofs, &mut stream.as_slice()).unwrap();
    assert_eq!(xattrs(&file.root.join("large"))["user.large"], large);
    assert_eq!(std::fs::read(file.root.join("large")).unwrap(), [5; 5000]);
    fsck(&file.content);
    for kind in ["d", "d/e", "."] {
        let stream = with(Tar::default(), "user.large", &large[..3000]).dir(kind, 0o755);
        same(&stream.finish());
    }
    for (name, value, words) in [
        ("user.", &b"x"[..], "name is incomplete"),
        ("user.x", &[0; 65_536], "value is longer than 65535"),
        (
            &format!("user.{}", "n".repeat(251)),
            b"",
            "name is longer than 255",
        ),
        ("security.capability", b"short", "no valid file capability"),
        (
            "system.posix_acl_access",
            b"\x02\0\0\0\x01",
            "no valid access control list",
        ),
    ] {
        let stream = with(Tar::default(), name, value).file("f", b"").finish();
        let error = write(FormKind::Erofs, &mut stream.as_slice()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(write(FormKind::Directory, &mut stream.as_slice()).is_err());
    }
    let stream = with(Tar::default(), "user.large", &large).dir(".", 0o755);
    let error = write(FormKind::Erofs, &mut stream.finish().as_slice()).unwrap_err();
    assert!(
        error.to_string().contains("root directory has more than"),
        "{error}"
    );
}

/// On kernels and file systems that mount no files.
#[test]
fn a_loop_device_shows_the_same() {
    let stream = Tar::default().file("d/f", &[3; 9999]).finish();
    let (dir, _) = write(FormKind::Erofs, &mut stream.as_slice()).unwrap();
    let file = File::open(dir.path().join("layer.erofs")).unwrap();
    let mount = berth_sys::erofs::through_loop_device(&file, b"test").unwrap();
    let path = format!(
        "/proc/self/fd/{}/d/f",
        std::os::fd::AsRawFd::as_raw_fd(&mount)
    );
    assert_eq!(std::fs::read(path).unwrap(), [3; 9999]);
}

/// Slow: 4.5 GB.
#[test]
#[ignore = "writes gigabytes"]
fn a_file_of_more_than_4_gib() {
    let size: u64 = (4 << 30) + 4096 + 5;
    let header = Tar::default()
        .pax(&[("size", size.to_string().as_bytes())])
        .file("big", b"")
        .unfinished();
    let after = Tar::default().file("after", b"small").finish();
    let end = [&vec![0; 512 - 5][..], &after].concat();
    let mut stream = header
        .chain(std::io::repeat(7).take(size - 1))
        .chain(&b"\x09"[..])
        .chain(&*end);
    let file = unpacked(FormKind::Erofs, &mut stream).unwrap();
    assert_eq!(file.layer.size, size + 5);
    let big = File::open(file.root.join("big")).unwrap();
    assert_eq!(big.metadata().unwrap().size(), size);
    let mut last = [0; 10];
    std::os::unix::fs::FileExt::read_exact_at(&big, &mut last, size - 10).unwrap();
    assert_eq!(last, [7, 7, 7, 7, 7, 7, 7, 7, 7, 9]);
    assert_eq!(std::fs::read(file.root.join("after")).unwrap(), b"small");
    fsck(&file.content);
}

/// For measuring, in release mode: `BERTH_LAYER_TAR=layer.tar cargo nextest run
/// --release -p berth-store --run-ignored only --no-capture speed`. The file is
/// made beside the archive.
#[test]
#[ignore = "measures, and needs a layer's archive"]
fn speed() {
    let archive = PathBuf::from(std::env::var_os("BERTH_LAYER_TAR").unwrap());
    let dir = tempfile::tempdir_in(archive.parent().unwrap()).unwrap();
    let at = OwnedFd::from(File::open(dir.path()).unwrap());
    let size = archive.metadata().unwrap().len();
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM"));
        line.unwrap().to_owned()
    };
    for round in 0..3 {
        let mut tar = crate::tar::Reader::new(std::io::BufReader::with_capacity(
            256 << 10,
            File::open(&archive).unwrap(),
        ));
        let start = std::time::Instant::now();
        let mut entries = 0;
        while tar.next().unwrap().is_some() {
            entries += 1;
        }
        let read = start.elapsed();
        let mut stream =
            std::io::BufReader::with_capacity(256 << 10, File::open(&archive).unwrap());
        let options = Options {
            form: FormKind::Erofs,
            userxattr: false,
            devices: true,
        };
        let start = std::time::Instant::now();
        let form = layer::create(options, &at, None).unwrap();
        unpack(&mut stream, Ending::Any, form).unwrap();
        let took = start.elapsed();
        let file = dir.path().join(options.form.content()).metadata().unwrap();
        eprintln!(
            "{round}: {entries} entries, {} MB; headers alone {read:?}; written in {took:?}: {:.0} MB/s; \
             file of {} MB takes {} MB; {}",
            size / 1_000_000,
            size as f64 / 1e6 / took.as_secs_f64(),
            file.size() / 1_000_000,
            file.blocks() * 512 / 1_000_000,
            peak(),
        );
    }
}

#[test]
fn what_is_held_in_memory_is_bounded() {
    use super::{Erofs, MAX_HELD};
    use crate::layer::{Change, Form};
    use crate::tar::{Entry, Kind};

    let options = Options {
        form: FormKind::Erofs,
        userxattr: false,
        devices: true,
    };
    let entry = Entry {
        kind: Kind::Directory,
        xattrs: vec![(b"user.note".to_vec(), vec![7; 1000])],
        ..Entry::default()
    };
    let mut form = Erofs::new(tempfile::tempfile().unwrap(), options);
    form.held = MAX_HELD - 2000;
    let mut put = |name: &str| {
        let path = [name.as_bytes().to_vec()];
        form.apply(Change::Put(&path, &entry), &mut std::io::empty())
    };
    put("a").unwrap();
    // Attributes of one directory add up as well.
    let error = put("a").unwrap_err().to_string();
    assert!(error.contains("bytes of memory"), "{error}");
}
