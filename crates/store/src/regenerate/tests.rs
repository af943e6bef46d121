//! Layers give back the streams that they were made of, byte for byte.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};

use super::*;
use crate::blob::digest_of;
use crate::canonical::whiteout;
use crate::tar::{Kind, Time};
use crate::{DiffOptions, PackAs, Store};

const FORMS: [FormKind; 2] = [FormKind::Directory, FormKind::Erofs];

fn store(form: FormKind) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = Store::open_with(dir.path(), Some(form)).unwrap();
    (dir, store)
}

/// Makes a layer of a stream and checks that it gives the stream again.
fn check(store: &Store, stream: &[u8]) -> Digest {
    let incoming = store.incoming().unwrap();
    let diff_id = incoming.layer(&mut &*stream).unwrap();
    assert_eq!(diff_id, digest_of(stream));
    let again = regenerated(store, &diff_id).unwrap();
    assert!(again == stream, "another stream came out");
    let plain = incoming.blob_of(&diff_id, PackAs::Plain).unwrap();
    assert_eq!(
        (plain.digest, plain.size),
        (diff_id.clone(), stream.len() as u64)
    );
    diff_id
}

fn regenerated(store: &Store, diff_id: &str) -> Result<Vec<u8>> {
    let layer = store.inner.state().layers[diff_id].clone();
    let mut out = Vec::new();
    Original::open(&store.inner, diff_id, &layer)?.write(&mut out)?;
    Ok(out)
}

/// Grows a tree from a number.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next(n) == 0
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| 1 + self.next(255) as u8).collect()
    }

    fn name(&mut self) -> Vec<u8> {
        let length = match self.next(8) {
            0 => 255,
            1 => 90 + self.next(30),
            _ => 1 + self.next(3),
        };
        let mut name = match self.next(3) {
            0 => self.bytes(length),
            _ => (0..length).map(|_| b'a' + self.next(3) as u8).collect(),
        };
        name.iter_mut()
            .filter(|b| **b == b'/')
            .for_each(|b| *b = b'.');
        let is_taken = name == b"." || name == b".." || name.starts_with(b".wh.");
        if is_taken { b"x".to_vec() } else { name }
    }

    fn attributes(&mut self, entry: &mut Entry) {
        entry.mode = self.next(0o10000) as u32;
        entry.uid = [0, 1000, 0o7_777_777, 0o10_000_000, u32::MAX - 1][self.next(5) as usize];
        entry.gid = [0, 5, u32::MAX - 1][self.next(3) as usize];
        entry.mtime = Time {
            seconds: [
                0,
                1,
                1_700_000_000,
                8_589_934_592,
                15_000_000_000,
                -1,
                -1_000_000_000,
            ][self.next(7) as usize],
            nanoseconds: [0, 0, 1, 999_999_999, 120_000_000][self.next(5) as usize],
        };
    }

    fn xattrs(&mut self, entry: &mut Entry) {
        for _ in 0..self.next(6).saturating_sub(3) {
            let mut name = self.bytes([1, 3, 30][self.0 as usize % 3]);
            name.iter_mut()
                .filter(|b| **b == b'=')
                .for_each(|b| *b = b'~');
            let value = self.next(100);
            let xattr = ([b"user.", name.as_slice()].concat(), self.bytes(value));
            entry.xattrs.push(xattr);
        }
        if entry.kind == Kind::File && self.one_in(5) {
            let mut capability = vec![0; 20];
            capability[3] = 2;
            capability[5] = self.next(256) as u8;
            entry
                .xattrs
                .push((b"security.capability".to_vec(), capability));
        }
    }
}

/// Entries and their data in canonical order.
#[derive(Default)]
struct Stream {
    entries: Vec<(Entry, Vec<u8>)>,
    /// What hard links may lead to.
    files: Vec<Entry>,
}

impl Stream {
    fn add(&mut self, entry: Entry, data: Vec<u8>) {
        self.entries.push((entry, data));
    }

    fn grow(&mut self, random: &mut Random, parent: &[Vec<u8>], depth: usize) {
        let mut names: Vec<_> = (0..random.next(7)).map(|_| random.name()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let path = [parent, &[name]].concat();
            let mut entry = Entry {
                name: path.join(&b'/'),
                ..Entry::default()
            };
            if entry.name.len() > 3000 {
                continue;
            }
            random.attributes(&mut entry);
            match random.next(14) {
                0..4 if depth > 0 => {
                    entry.kind = Kind::Directory;
                    random.xattrs(&mut entry);
                    self.add(entry, Vec::new());
                    if random.one_in(4) {
                        self.add(opaque(&path), Vec::new());
                    }
                    self.grow(random, &path, depth - 1);
                    continue;
                }
                4 => {
                    self.add(whiteout(&path), Vec::new());
                    continue;
                }
                5 if !self.files.is_empty() => {
                    let first = &self.files[random.next(self.files.len() as u64) as usize];
                    let link = Entry {
                        name: entry.name,
                        kind: Kind::HardLink,
                        link: first.name.clone(),
                        size: 0,
                        device: (0, 0),
                        xattrs: Vec::new(),
                        ..first.clone()
                    };
                    self.add(link, Vec::new());
                    continue;
                }
                6 => {
                    entry.kind = Kind::Symlink;
                    let length = [1, 30, 101, 2000, 4000][random.next(5) as usize];
                    entry.link = random.bytes(length);
                    entry.mode = 0o777;
                    self.add(entry.clone(), Vec::new());
                }
                7 => {
                    entry.kind = [Kind::CharDevice, Kind::BlockDevice][random.next(2) as usize];
                    entry.device = (1 + random.next(4095) as u32, random.next(1 << 20) as u32);
                    self.add(entry.clone(), Vec::new());
                }
                8 => {
                    entry.kind = Kind::Fifo;
                    self.add(entry.clone(), Vec::new());
                }
                _ => {
                    random.xattrs(&mut entry);
                    let sizes = [0, 1, 511, 512, 513, 3900, 4032, 4096, 4097, 8191, 300_001];
                    entry.size = sizes[random.next(11) as usize];
                    let data = match random.one_in(3) {
                        // As of a sparse file.
                        true => vec![0; entry.size as usize],
                        false => random.bytes(entry.size),
                    };
                    self.add(entry.clone(), data);
                }
            }
            self.files.push(entry);
        }
    }

    fn write(&self) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        for (entry, data) in &self.entries {
            tar.append(entry, &mut data.as_slice()).unwrap();
        }
        tar.finish().unwrap()
    }
}

fn random_stream(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut stream = Stream::default();
    if random.one_in(2) {
        let mut root = Entry {
            name: b"./".to_vec(),
            kind: Kind::Directory,
            ..Entry::default()
        };
        random.attributes(&mut root);
        random.xattrs(&mut root);
        stream.add(root, Vec::new());
    }
    if random.one_in(4) {
        stream.add(opaque(&[]), Vec::new());
    }
    stream.grow(&mut random, &[], 4);
    stream.write()
}

/// A tree as a container leaves it.
fn random_tree(random: &mut Random, at: &Path, files: &mut Vec<std::path::PathBuf>, depth: usize) {
    for _ in 0..random.next(7) {
        let path = at.join(std::ffi::OsStr::from_bytes(&random.name()));
        if path.as_os_str().len() > 3000 || path.symlink_metadata().is_ok() {
            continue;
        }
        let device = |kind, number| {
            mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), number).unwrap();
        };
        match random.next(10) {
            0..3 if depth > 0 => {
                fs::create_dir(&path).unwrap();
                if random.one_in(4) {
                    let mark = "trusted.overlay.opaque";
                    setxattr(&path, mark, b"y", XattrFlags::empty()).unwrap();
                }
                random_tree(random, &path, files, depth - 1);
            }
            3 => device(FileType::CharacterDevice, makedev(0, 0)),
            4 if !files.is_empty() => {
                let first = &files[random.next(files.len() as u64) as usize];
                fs::hard_link(first, &path).unwrap();
            }
            5 => std::os::unix::fs::symlink("../some/where", &path).unwrap(),
            6 => device(FileType::BlockDevice, makedev(8, 300)),
            7 => device(FileType::Socket, makedev(0, 0)),
            _ => {
                let size = random.next(9000);
                fs::write(&path, random.bytes(size)).unwrap();
                if random.one_in(2) {
                    setxattr(&path, "user.a", b"1", XattrFlags::empty()).unwrap();
                }
                files.push(path.clone());
            }
        }
        let owner = (random.next(3) as u32, random.next(70_000) as u32);
        std::os::unix::fs::lchown(&path, Some(owner.0), Some(owner.1)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_canonical_stream_comes_back(seed in any::<u64>()) {
        let stream = random_stream(seed);
        for form in FORMS {
            let (_dir, store) = store(form);
            check(&store, &stream);
        }
    }

    #[test]
    fn any_changes_come_back(seed in any::<u64>()) {
        let mut streams = Vec::new();
        for form in FORMS {
            let (_dir, store) = store(form);
            let upper = store.create_snapshot_on("c", &[], (0, 0)).unwrap().upper;
            random_tree(&mut Random(seed), &upper, &mut Vec::new(), 4);
            for time in [None, Some(1_000_000_000)] {
                let options = DiffOptions { without: &[], time };
                let mut stream = Vec::new();
                store.diff_with("c", &options, &mut stream).unwrap();
                check(&store, &stream);
                if time.is_some() {
                    streams.push(stream);
                }
            }
        }
        prop_assert!(streams[0] == streams[1]);
    }
}

#[test]
fn access_control_lists_come_back() {
    let named = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x06\0\xe8\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\x10\0\x07\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    for form in FORMS {
        let (_dir, store) = store(form);
        let mut stream = Stream::default();
        for (name, kind) in [("d", Kind::Directory), ("f", Kind::File)] {
            let mut entry = Entry {
                name: name.into(),
                kind,
                mode: 0o774,
                ..Entry::default()
            };
            let mut acl = |name: &str| entry.xattrs.push((name.into(), named.to_vec()));
            acl("system.posix_acl_access");
            if kind == Kind::Directory {
                acl("system.posix_acl_default");
            }
            stream.add(entry, Vec::new());
        }
        check(&store, &stream.write());
    }
}

/// What layers do not keep is not in the digest either.
#[test]
fn what_is_not_kept_is_not_in_the_stream() {
    let write = |strange: bool| {
        let mut stream = Stream::default();
        let file = Entry {
            name: b"a".to_vec(),
            mode: 0o644,
            size: 2,
            ..Entry::default()
        };
        let mut first = file.clone();
        let mut link = Entry {
            name: b"b".to_vec(),
            kind: Kind::HardLink,
            link: b"a".to_vec(),
            size: 0,
            ..file.clone()
        };
        let mut other = Entry {
            name: b"c".to_vec(),
            ..link.clone()
        };
        let mut gone = whiteout(&[b"gone".to_vec()]);
        if strange {
            let unwanted = |name: &str| (name.as_bytes().to_vec(), b"x".to_vec());
            first.xattrs = vec![unwanted("trusted.x"), unwanted("security.selinux")];
            first.name = b"./a".to_vec();
            (link.mode, link.uid) = (0o4777, 7);
            other.link = b"./b".to_vec();
            gone = Entry {
                name: b"gone".to_vec(),
                kind: Kind::CharDevice,
                mode: 0o666,
                ..Entry::default()
            };
        }
        stream.add(first, b"hi".to_vec());
        stream.add(link, Vec::new());
        stream.add(other, Vec::new());
        stream.add(gone, Vec::new());
        stream.write()
    };
    for form in FORMS {
        let (_dir, store) = store(form);
        let diff_id = check(&store, &write(false));
        let incoming = store.incoming().unwrap();
        let same = incoming.layer(&mut write(true).as_slice()).unwrap();
        assert_eq!(same, diff_id);
    }
}

#[test]
fn a_layer_that_changed_is_noticed() {
    for form in FORMS {
        let (_dir, store) = store(form);
        let mut stream = Stream::default();
        let file = Entry {
            name: b"f".to_vec(),
            size: 9000,
            ..Entry::default()
        };
        stream.add(file, vec![7; 9000]);
        let incoming = store.incoming().unwrap();
        let layer = incoming.layer(&mut stream.write().as_slice()).unwrap();
        let path = store.inner.layer_path(&layer, form);
        match form {
            FormKind::Directory => fs::write(path.join("f"), [8; 9000]).unwrap(),
            FormKind::Erofs => {
                let mut bytes = fs::read(&path).unwrap();
                let at = bytes.windows(9).position(|w| w == [7; 9]).unwrap();
                bytes[at] = 8;
                fs::write(&path, bytes).unwrap();
            }
        }
        for compression in [PackAs::Gzip, PackAs::Zstd] {
            let error = incoming.blob_of(&layer, compression).unwrap_err();
            assert!(error.to_string().contains("is damaged"), "{error}");
        }
        store.inner.trash.settle();
    }
}

#[test]
fn blobs_are_the_same_each_time() {
    let stream = random_stream(3);
    let mut seen = Vec::new();
    for form in FORMS {
        let (_dir, store) = store(form);
        let incoming = store.incoming().unwrap();
        let layer = incoming.layer(&mut stream.as_slice()).unwrap();
        for compression in [PackAs::Gzip, PackAs::Zstd] {
            let packed = incoming.blob_of(&layer, compression).unwrap();
            assert_eq!(packed.diff_id, layer);
            let again = incoming.blob_of(&layer, compression).unwrap();
            assert_eq!((&again.digest, again.size), (&packed.digest, packed.size));
            seen.push(packed.digest);
        }
    }
    assert_eq!(seen[..2], seen[2..]);
    assert_ne!(seen[0], seen[1]);
}
