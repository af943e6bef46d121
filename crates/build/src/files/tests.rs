use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use berth_store::{TarEntry, TarKind, TarWriter};

use super::*;
use crate::tree::{Node, Tree};

struct Rig {
    dir: tempfile::TempDir,
    files: Files,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).unwrap();
        Self { dir, files }
    }

    fn reopen(self) -> Self {
        let Self { dir, files } = self;
        drop(files);
        let files = Files::open(dir.path()).unwrap();
        Self { dir, files }
    }

    /// Opens it as after a restart of the machine.
    fn reboot(self) -> Self {
        let Self { dir, files } = self;
        drop(files);
        let root = File::open(dir.path()).unwrap().into();
        let files = Files::open_in_boot(root, "another".to_owned()).unwrap();
        Self { dir, files }
    }

    fn pack(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn add(&self, bytes: &[u8]) -> Digest {
        self.files.add(bytes.len() as u64, &mut &bytes[..]).unwrap()
    }

    fn read(&self, digest: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.files
            .read(digest)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }
}

#[test]
fn large_contents_of_one_size_are_told_apart() {
    let rig = Rig::new();
    let mut contents: Vec<Vec<u8>> = (0..4).map(large).collect();
    for at in [0, CHUNK - 1, CHUNK, CHUNK * 3 + 7, SMALL as usize + 12344] {
        let mut other = large(0);
        other[at] ^= 1;
        contents.push(other);
    }
    let digests: Vec<Digest> = contents.iter().map(|bytes| rig.add(bytes)).collect();
    let size = rig.files.size();
    for (bytes, digest) in contents.iter().zip(&digests) {
        assert_eq!(rig.add(bytes), *digest);
        assert_eq!(*digest, name(&pack::hash(bytes)));
        assert!(rig.read(digest) == *bytes);
    }
    assert_eq!(rig.files.size(), size);
    let cut = &large(0)[..SMALL as usize + 9];
    let error = rig.files.add(SMALL + 12345, &mut &cut[..]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// Bytes of blocks that it takes.
const LARGE: u64 = (SMALL + 12345).next_multiple_of(Placed::BLOCK);

fn large(seed: u8) -> Vec<u8> {
    (0..SMALL as usize + 12345)
        .map(|i| (i % 251) as u8 ^ seed)
        .collect()
}

#[test]
fn contents_are_kept_once_and_found_again() {
    let rig = Rig::new();
    let hello = rig.add(b"hello");
    assert_eq!(
        hello,
        "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    );
    let (empty, big) = (rig.add(b""), rig.add(&large(0)));
    let size = rig.files.size();
    assert_eq!(size, Placed::BLOCK + LARGE);
    assert_eq!(
        (rig.add(b"hello"), rig.add(&large(0))),
        (hello.clone(), big.clone())
    );
    assert_eq!(rig.files.size(), size);
    assert!(rig.files.add(6, &mut &b"short"[..]).is_err());
    assert!(
        rig.files
            .add(SMALL + 1, &mut &large(1)[..SMALL as usize])
            .is_err()
    );
    assert_eq!(rig.files.size(), size);
    let rig = rig.reopen().reopen();
    assert_eq!(rig.read(&hello), b"hello");
    assert_eq!(rig.read(&empty), b"");
    assert!(rig.read(&big) == large(0));
    assert!(!rig.files.contains("sha256:00"));
    assert!(!rig.files.contains(&hello.replace('2', "3")));
    let missing = rig.files.read(&hello.replace('2', "3")).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    rig.add(b"more");
    assert_eq!(rig.read(&hello), b"hello");
    assert_eq!(
        std::fs::metadata(rig.pack("0.pack")).unwrap().len(),
        Placed::HEAD + size + 4
    );
}

/// A pack as it is, with these contents.
fn packed(contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; Placed::HEAD as usize];
    bytes.extend_from_slice(contents);
    bytes
}

#[test]
fn torn_ends_are_cut_off() {
    let rig = Rig::new();
    let (first, second) = (rig.add(b"first"), rig.add(b"second"));
    let index = std::fs::read(rig.pack("0.index")).unwrap();
    for cut in 1..index.len() {
        std::fs::write(rig.pack("0.index"), &index[..index.len() - cut]).unwrap();
        let files = Files::open(rig.dir.path()).unwrap();
        assert!(!files.contains(&second), "{cut}");
        if !files.contains(&first) {
            // Nothing is left of it.
            assert!(!rig.pack("0.pack").exists());
            std::fs::write(rig.pack("0.pack"), packed(b"firstsecond")).unwrap();
        }
        assert!(std::fs::metadata(rig.pack("0.pack")).unwrap().len() >= 5);
        std::fs::write(rig.pack("0.pack"), packed(b"firstsecond")).unwrap();
    }
    // A content whose end is missing, and one written when its line was not.
    std::fs::write(rig.pack("0.index"), &index).unwrap();
    std::fs::write(rig.pack("0.pack"), packed(b"firstsec")).unwrap();
    let rig = rig.reopen();
    assert!(rig.files.contains(&first) && !rig.files.contains(&second));
    assert_eq!(rig.files.size(), 5);
    assert_eq!(rig.add(b"second"), second);
    assert_eq!(rig.reopen().read(&second), b"second");
}

#[test]
fn what_a_power_cut_took_is_not_given_out() {
    let rig = Rig::new();
    let (good, bad) = (rig.add(b"good"), rig.add(b"bad!"));
    std::fs::write(rig.pack("0.pack"), packed(b"good\0\0\0\0")).unwrap();
    let rig = rig.reboot();
    assert!(rig.files.contains(&good));
    assert!(!rig.files.contains(&bad));
    assert!(rig.files.read(&bad).is_err());
    assert_eq!(rig.add(b"bad!"), bad);
    assert_eq!(
        (rig.read(&good), rig.read(&bad)),
        (b"good".to_vec(), b"bad!".to_vec())
    );
}

#[test]
fn many_threads_add_at_once() {
    let rig = Rig::new();
    let digests: Vec<Vec<Digest>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let small = (0..200u32).map(|i| rig.add(&i.to_le_bytes()));
                    small.chain((0..3).map(|i| rig.add(&large(i)))).collect()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(digests.iter().all(|list| *list == digests[0]));
    let rig = rig.reopen();
    for (i, digest) in digests[0][..200].iter().enumerate() {
        assert_eq!(rig.read(digest), (i as u32).to_le_bytes());
    }
    for (i, digest) in digests[0][200..].iter().enumerate() {
        assert!(rig.read(digest) == large(i as u8));
    }
}

#[test]
fn a_full_disk_leaves_what_is_there() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let dir = tempfile::tempdir().unwrap();
    let options = Some(c"size=4m");
    mount("none", dir.path(), "tmpfs", MountFlags::empty(), options).unwrap();
    let root = dir.path().join("files");
    let files = Files::open(&root).unwrap();
    let add = |bytes: &[u8]| files.add(bytes.len() as u64, &mut &bytes[..]);
    let first = add(b"first").unwrap();
    let error = add(&large(0).repeat(5)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    // Several small ones: they are hashed before one fails.
    let small: Vec<u8> = (0..1000u32)
        .flat_map(|i| i.to_le_bytes().repeat(1250))
        .collect();
    let mut sizes = std::iter::repeat_n(5000, 1000);
    let failed = files.add_all(&mut sizes, &mut &small[..]);
    let error = failed.map(|all| all.len()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    files.collect(&|digest| digest == first).unwrap();
    assert_eq!(files.size(), 5);
    let second = add(b"second").unwrap();
    drop(files);
    let files = Files::open(&root).unwrap();
    assert!(files.contains(&first) && files.contains(&second));
    drop(files);
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_stream_of_contents() {
    let rig = Rig::new();
    let contents = [
        b"a".to_vec(),
        large(0),
        Vec::new(),
        b"bc".to_vec(),
        b"a".to_vec(),
    ];
    let stream = contents.concat();
    let sizes = || contents.iter().map(|bytes| bytes.len() as u64);
    let digests = rig.files.add_all(&mut sizes(), &mut &stream[..]).unwrap();
    let wanted: Vec<_> = contents
        .iter()
        .map(|bytes| name(&pack::hash(bytes)))
        .collect();
    assert_eq!(digests, wanted);
    // A small one may come before the large one.
    let most = LARGE + Placed::BLOCK + 3;
    assert!((LARGE..=most).contains(&rig.files.size()));
    for (digest, bytes) in digests.iter().zip(&contents) {
        assert!(rig.read(digest) == *bytes);
    }
    let mut reached = 0;
    let mut counted = sizes().inspect(|_| reached += 1);
    let error = rig
        .files
        .add_all(&mut counted, &mut &stream[..100])
        .unwrap_err();
    assert_eq!((error.kind(), reached), (io::ErrorKind::UnexpectedEof, 2));
}

#[test]
fn collection_gives_space_back() {
    let rig = Rig::new();
    let (gone, kept) = (rig.add(&large(0)), rig.add(b"kept"));
    let mut reader = rig.files.read(&gone).unwrap();
    let freed = rig.files.collect(&|digest| digest == kept).unwrap();
    assert_eq!(freed, LARGE);
    assert!(!rig.pack("0.pack").exists());
    assert!(!rig.files.contains(&gone));
    assert_eq!((rig.read(&kept), rig.files.size()), (b"kept".to_vec(), 4));
    // Who had it open reads on.
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert!(bytes == large(0));
    // What is mostly wanted stays as it is.
    let other = rig.add(b"abc");
    assert_eq!(rig.files.collect(&|digest| digest == kept).unwrap(), 0);
    let rig = rig.reopen();
    assert_eq!(
        (rig.read(&kept), rig.read(&other)),
        (b"kept".to_vec(), b"abc".to_vec())
    );
    rig.files.collect(&|_| false).unwrap();
    assert_eq!(rig.files.size(), 0);
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), 0);
}

#[test]
fn what_a_build_holds_is_not_collected() {
    let rig = Rig::new();
    let (old, asked) = (rig.add(&large(0)), rig.add(&large(1)));
    rig.add(&large(3));
    let hold = rig.files.hold();
    assert!(rig.files.contains(&asked));
    let new = rig.add(&large(2));
    rig.files.collect(&|_| false).unwrap();
    assert!(!rig.files.contains(&old));
    assert!(rig.read(&asked) == large(1));
    assert!(rig.read(&new) == large(2));
    drop(hold);
    rig.files.collect(&|_| false).unwrap();
    assert!(!rig.files.contains(&asked) && !rig.files.contains(&new));
}

fn archive(entries: &[(&str, TarKind, &str)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (name, kind, text) in entries {
        let mut entry = TarEntry {
            name: name.as_bytes().to_vec(),
            kind: *kind,
            mode: 0o640,
            uid: 7,
            ..TarEntry::default()
        };
        match kind {
            TarKind::File => entry.size = text.len() as u64,
            _ => entry.link = text.as_bytes().to_vec(),
        }
        tar.append(&entry, &mut text.as_bytes()).unwrap();
    }
    tar.finish().unwrap()
}

fn listing(tree: &Tree) -> Vec<String> {
    let show = |node: &Node| match node {
        Node::Directory => "/".to_owned(),
        Node::File { size, .. } => format!(" {size}"),
        Node::Symlink(target) => format!(" -> {target}"),
        Node::HardLink(target) => format!(" = {target}"),
        Node::Special { major, minor, .. } => format!(" {major}:{minor}"),
    };
    let entry = |e: &crate::tree::Entry| format!("{}{} {:o}", e.path, show(&e.node), e.mode);
    tree.entries.iter().map(entry).collect()
}

#[test]
fn an_archive_becomes_a_tree() {
    use TarKind::{Directory, File, HardLink, Symlink};
    let rig = Rig::new();
    let tar = archive(&[
        ("./", Directory, ""),
        ("z", File, "zz"),
        ("a-b", File, "first"),
        ("a/b/c", File, "1"),
        ("a/", Directory, ""),
        ("a-b", File, "again"),
        ("link", Symlink, "/a/b"),
        ("link/d", File, "through"),
        ("out", Symlink, "../../a"),
        ("out/e", File, "inside"),
        ("hard", HardLink, "./link/d"),
        ("/abs/../abs2", File, ""),
    ]);
    let tree = rig.files.take_tar(&mut &tar[..]).unwrap();
    let wanted = [
        "a/ 640",
        "a/b/ 755",
        "a/b/c 1 640",
        "a/b/d 7 640",
        "a/e 6 640",
        "a-b 5 640",
        "abs2 0 640",
        "hard = a/b/d 640",
        "link -> /a/b 777",
        "out -> ../../a 777",
        "z 2 640",
    ];
    assert_eq!(listing(&tree), wanted);
    let Node::File { digest, .. } = &tree.entries[3].node else {
        panic!("no file");
    };
    assert_eq!(rig.read(digest), b"through");
    assert_eq!(rig.files.take_tar(&mut &tar[..]).unwrap(), tree);
}

#[test]
fn what_leads_out_of_a_tree_is_refused() {
    use TarKind::{File, HardLink, Symlink};
    let rig = Rig::new();
    let deep = "d/".repeat(600) + "f";
    for (entries, why) in [
        (vec![("../x", File, "")], "leads out"),
        (vec![("a/../../x", File, "")], "leads out"),
        (vec![("h", HardLink, "../../etc/passwd")], "leads out"),
        (
            vec![("h", HardLink, "/etc/passwd")],
            "no file that is there",
        ),
        (
            vec![("a", Symlink, "b"), ("b", Symlink, "a"), ("a/x", File, "")],
            "too many links",
        ),
        (vec![("a", File, ""), ("a/x", File, "")], "not a directory"),
        (vec![(deep.as_str(), File, "")], "too long"),
    ] {
        let tar = archive(&entries);
        let error = rig.files.take_tar(&mut &tar[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    for bad in [&b"no archive"[..], &archive(&[("a", File, "abc")])[..514]] {
        assert!(rig.files.take_tar(&mut &bad[..]).is_err());
    }
}

#[test]
fn a_directory_becomes_a_tree() {
    let rig = Rig::new();
    let from = tempfile::tempdir().unwrap();
    let at = |name: &str| from.path().join(name);
    std::fs::create_dir_all(at("a/b")).unwrap();
    std::fs::create_dir_all(at(".git/objects")).unwrap();
    std::fs::write(at("a/b/c"), "c").unwrap();
    std::fs::hard_link(at("a/b/c"), at("a/again")).unwrap();
    std::os::unix::fs::symlink("/etc", at("link")).unwrap();
    let tree = (rig.files)
        .take_directory(from.path(), &|path| path == ".git")
        .unwrap();
    let wanted = [
        "a/ 755",
        "a/again 1 644",
        "a/b/ 755",
        "a/b/c = a/again 644",
        "link -> /etc 777",
    ];
    assert_eq!(listing(&tree), wanted);
}

/// Reads a file as if it were a layer made of a pack.
fn placed_bytes(placed: &Placed, name: &str, length: usize) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let at = placed.contents[name.as_bytes()];
    assert_eq!(at % Placed::BLOCK, 0);
    assert!(at >= Placed::HEAD);
    let whole = length.next_multiple_of(Placed::BLOCK as usize);
    let mut bytes = vec![0xff; whole];
    // What is behind the end of the file is a hole of the layer.
    let n = placed.file.read_at(&mut bytes, at).unwrap();
    bytes[n..].fill(0);
    assert!(bytes[length..].iter().all(|byte| *byte == 0));
    bytes.truncate(length);
    bytes
}

#[test]
fn a_pack_becomes_a_layer_once_and_takes_no_more() {
    let rig = Rig::new();
    let digests: Vec<Digest> = (0..3).map(|seed| rig.add(&large(seed))).collect();
    let small = rig.add(b"small");
    let middle = rig.add(&large(4)[..100_000]);
    let mut names: Vec<(Vec<u8>, &str)> = Vec::new();
    for (at, digest) in digests.iter().enumerate() {
        names.push((format!("d/{at}").into_bytes(), digest));
    }
    // A second name for one, and what is too small.
    names.push((b"again".to_vec(), &digests[0]));
    names.push((b"middle".to_vec(), &middle));
    names.push((b"small".to_vec(), &small));
    // Too little of it is wanted.
    assert!(rig.files.place(&names[..1], LARGE).unwrap().is_none());
    let placed = rig.files.place(&names, 4 * LARGE).unwrap().unwrap();
    assert_eq!(placed.contents.len(), 5);
    for (at, name) in ["d/0", "d/1", "d/2"].into_iter().enumerate() {
        let bytes = large(at as u8);
        assert!(placed_bytes(&placed, name, bytes.len()) == bytes);
    }
    assert!(placed_bytes(&placed, "middle", 100_000) == large(4)[..100_000]);
    assert_eq!(placed.contents[&b"again"[..]], placed.contents[&b"d/0"[..]]);
    assert!(rig.files.place(&names, 4 * LARGE).unwrap().is_none());
    let more = rig.add(b"more");
    assert!(rig.pack("1.pack").exists());

    // The layer is made of it: it goes on behind the end.
    let layer = rig.dir.path().join("layer");
    std::fs::hard_link(rig.pack("0.pack"), &layer).unwrap();
    let mut bytes = std::fs::read(&layer).unwrap();
    bytes.resize(placed.end as usize, 0);
    bytes.extend_from_slice(b"metadata");
    std::fs::write(&layer, &bytes).unwrap();
    assert_eq!(rig.files.size(), 4);
    let rig = rig.reopen();
    assert!(std::fs::read(&layer).unwrap() == bytes);
    assert!(rig.read(&digests[2]) == large(2));
    assert_eq!(rig.read(&more), b"more");
    assert_eq!(rig.add(b"more"), more);
    assert!(rig.files.place(&names, 4 * LARGE).unwrap().is_none());
    assert!(std::fs::read(&layer).unwrap() == bytes);
    // Nothing is won by writing the little again that is wanted of it.
    let freed = rig
        .files
        .collect(&|digest| digest == middle || digest == more);
    assert_eq!(freed.unwrap(), 0);
    assert!(rig.pack("0.pack").exists());
    let contents = || [digests[0].as_str(), &more].into_iter();
    assert_eq!(rig.files.size_of(contents()), 4);
    rig.files.collect(&|digest| digest == more).unwrap();
    assert!(!rig.pack("0.pack").exists());
    assert!(std::fs::read(&layer).unwrap() == bytes);
}

#[test]
fn the_pack_of_a_layer_that_is_gone_stays_as_it_is() {
    let rig = Rig::new();
    let digest = rig.add(&large(0).repeat(2));
    let names = [(b"f".to_vec(), digest.as_str())];
    // Most of the layer is elsewhere.
    assert!(rig.files.place(&names, 4 * LARGE).unwrap().is_none());
    let placed = rig.files.place(&names, 2 * LARGE).unwrap().unwrap();
    let mut bytes = std::fs::read(rig.pack("0.pack")).unwrap();
    bytes.resize(placed.end as usize + 100_000, 7);
    std::fs::write(rig.pack("0.pack"), &bytes).unwrap();
    // It may be mounted still.
    let rig = rig.reopen();
    rig.add(b"more");
    assert!(rig.files.place(&names, 2 * LARGE).unwrap().is_none());
    assert!(std::fs::read(rig.pack("0.pack")).unwrap() == bytes);
    assert!(rig.read(&digest) == large(0).repeat(2));
    // What the layer left counts.
    assert!(rig.files.size() >= bytes.len() as u64);
    rig.files.collect(&|_| false).unwrap();
    assert_eq!(rig.files.size(), 0);
    assert!(!rig.pack("0.pack").exists());
}

#[test]
fn a_number_that_is_used_again_is_no_layers_file() {
    let rig = Rig::new();
    let digest = rig.add(&large(0));
    let layer = rig.dir.path().join("layer");
    std::fs::hard_link(rig.pack("0.pack"), &layer).unwrap();
    rig.files.collect(&|_| false).unwrap();
    // As if the name could not be removed.
    std::fs::hard_link(&layer, rig.pack("0.pack")).unwrap();
    let before = std::fs::read(&layer).unwrap();
    let other = rig.add(&large(1));
    assert!(std::fs::read(&layer).unwrap() == before);
    assert!(rig.read(&other) == large(1));
    assert!(!rig.files.contains(&digest));
}
