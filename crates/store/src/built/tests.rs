//! Layers that come without a blob, what keeps them, and how they go.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::Path;

use super::*;
use crate::blob::digest_of;
use crate::layer::FormKind;
use crate::testing::{assert_empty, killed, mounted};
use crate::{DiffOptions, PackAs, Pin, Store, TarEntry, TarKind, TarWriter};

const FORMS: [FormKind; 2] = [FormKind::Directory, FormKind::Erofs];

/// Name, kind, and content or target.
type Member<'a> = (&'a str, TarKind, &'a str);

fn stream(entries: &[Member<'_>]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (name, kind, text) in entries {
        let is_file = *kind == TarKind::File;
        let entry = TarEntry {
            name: name.as_bytes().to_vec(),
            kind: *kind,
            mode: 0o755,
            size: if is_file { text.len() as u64 } else { 0 },
            link: (if is_file { "" } else { text }).into(),
            ..TarEntry::default()
        };
        tar.append(&entry, &mut text.as_bytes()).unwrap();
    }
    tar.finish().unwrap()
}

fn small(text: &str) -> Vec<u8> {
    stream(&[("d", TarKind::Directory, ""), ("d/f", TarKind::File, text)])
}

fn pin(key: &str, layers: &[&Digest]) -> Pin {
    Pin {
        key: key.to_owned(),
        layers: layers.iter().map(|layer| (*layer).clone()).collect(),
        data: format!("{{\"of\":\"{key}\"}}"),
    }
}

fn keys(store: &Store) -> Vec<String> {
    store.pins().into_iter().map(|pin| pin.key).collect()
}

#[test]
fn a_layer_is_made_of_a_stream_and_mounted() {
    for form in FORMS {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Store::open_with(dir.path(), Some(form)).unwrap();
        let incoming = store.incoming().unwrap();
        let (low, top) = (small("low"), small("top"));
        let low_id = incoming.layer(&mut low.as_slice()).unwrap();
        let top_id = incoming.layer(&mut top.as_slice()).unwrap();
        assert_eq!(low_id, digest_of(&low));
        assert_eq!(incoming.layer(&mut top.as_slice()).unwrap(), top_id);

        let layers = [low_id.clone(), top_id.clone()];
        let snapshot = store.create_snapshot_on("s", &layers, (0, 0)).unwrap();
        assert_eq!(store.locate_layers(&layers).unwrap(), snapshot.layers);
        assert_eq!(snapshot.layers.len(), 2);
        let root = mounted(&snapshot.layers[0]);
        assert_eq!(fs::read_to_string(root.join("d/f")).unwrap(), "top");
        drop(root);
        let nothing = store.create_snapshot_on("scratch", &[], (0, 0)).unwrap();
        assert_eq!(nothing.layers, []);

        // The snapshot keeps them, and when it goes they go.
        drop(incoming);
        assert!(store.incoming().unwrap().keep_layer(&low_id).is_ok());
        store.remove_snapshot("s").unwrap();
        store.remove_snapshot("scratch").unwrap();
        let error = store.incoming().unwrap().keep_layer(&low_id).unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error}");
        let error = store.create_snapshot_on("s", &layers, (0, 0)).unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error}");
        assert!(store.locate_layers(&layers).is_err());
        assert_empty(&store, dir.path());
    }
}

#[test]
fn pins_keep_layers_through_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pins.jsonl");
    let store = Store::open(dir.path()).unwrap();
    let incoming = store.incoming().unwrap();
    let layer = |text| incoming.layer(&mut small(text).as_slice()).unwrap();
    let (one, two, three) = (layer("1"), layer("2"), layer("3"));
    store.pin(pin("b", &[&one, &two])).unwrap();
    store.pin(pin("a", &[&two])).unwrap();
    store.pin(pin("gone", &[&three])).unwrap();
    // Set again, so it is the last one.
    store.pin(pin("b", &[&two, &one])).unwrap();
    store
        .unpin(&["gone".to_owned(), "unknown".to_owned()])
        .unwrap();
    assert_eq!(keys(&store), ["a", "b"]);
    let missing = pin("c", &[&digest_of(b"")]);
    assert!(matches!(store.pin(missing), Err(Error::NotFound(_))));
    drop(incoming);
    let has = |store: &Store, layer: &Digest| store.incoming().unwrap().has_layer(layer);
    assert!(!has(&store, &three));
    drop(store);

    // A write that did not end.
    let mut text = fs::read(&file).unwrap();
    assert_eq!(text.iter().filter(|&&b| b == b'\n').count(), 5);
    text.extend(b"{\"pin\":{\"key\":\"torn");
    fs::write(&file, text).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.pins(), [pin("a", &[&two]), pin("b", &[&two, &one])]);
    assert!(has(&store, &one) && has(&store, &two));
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    drop(store);

    // A layer is lost: so are the pins that name it.
    let hex = one.strip_prefix("sha256:").unwrap();
    fs::remove_dir_all(dir.path().join("layers/sha256").join(hex)).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(keys(&store), ["a"]);
    store.unpin(&["a".to_owned()]).unwrap();
    assert_empty(&store, dir.path());
    assert_eq!(store.pins(), []);
}

#[test]
fn a_pin_that_is_set_again_and_again_does_not_fill_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let incoming = store.incoming().unwrap();
    let layer = incoming.layer(&mut small("1").as_slice()).unwrap();
    for _ in 0..2100 {
        store.pin(pin("a", &[&layer])).unwrap();
    }
    let text = fs::read_to_string(dir.path().join("pins.jsonl")).unwrap();
    assert!(text.lines().count() < 1100);
    assert_eq!(keys(&store), ["a"]);
}

#[test]
fn a_stream_that_is_not_canonical_is_refused() {
    use TarKind::{Directory, File, HardLink};
    let cases: [(&[Member<'_>], &str); 8] = [
        (&[("d/f", File, "")], "its directory is not an entry"),
        (&[("b", File, ""), ("a", File, "")], "not in its place"),
        (&[("a", File, ""), ("a", File, "")], "not in its place"),
        (
            &[("a", File, ""), ("./", Directory, "")],
            "not in its place",
        ),
        (
            &[("d", Directory, ""), ("e", File, ""), ("d/f", File, "")],
            "not in its place",
        ),
        (
            &[("a", HardLink, "b"), ("b", File, "")],
            "no file before it",
        ),
        (
            &[
                ("d", Directory, ""),
                ("d/a", File, ""),
                ("d/.wh..wh..opq", File, ""),
            ],
            "does not follow its directory",
        ),
        (&[(".wh.a", File, ""), ("a", File, "")], "not in its place"),
    ];
    for form in FORMS {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Store::open_with(dir.path(), Some(form)).unwrap();
        let incoming = store.incoming().unwrap();
        for (entries, complaint) in cases {
            let error = incoming.layer(&mut stream(entries).as_slice()).unwrap_err();
            assert!(
                error.to_string().contains(complaint),
                "{entries:?}: {error}"
            );
        }
        let cut = small("cut");
        let error = incoming.layer(&mut &cut[..cut.len() - 1024]).unwrap_err();
        assert!(error.to_string().contains("truncated"), "{error}");
        // Nothing is left, though the work goes on.
        store.inner.trash.settle();
        let work: Vec<_> = fs::read_dir(dir.path().join("tmp"))
            .unwrap()
            .flat_map(|work| fs::read_dir(work.unwrap().path()).unwrap())
            .collect();
        assert!(work.is_empty(), "{work:?}");
        drop(incoming);
        assert_empty(&store, dir.path());
    }
}

fn fill(upper: &Path) {
    fs::create_dir_all(upper.join("etc/deep/er")).unwrap();
    fs::write(upper.join("etc/deep/er/f"), "f").unwrap();
    fs::write(upper.join("etc/deep.conf"), "c").unwrap();
    fs::write(upper.join("etc/hosts"), "h").unwrap();
    fs::write(upper.join(".wh.etc"), "no whiteout").unwrap();
    fs::hard_link(upper.join("etc/deep.conf"), upper.join("again")).unwrap();
    fs::set_permissions(upper, fs::Permissions::from_mode(0o750)).unwrap();
}

#[test]
fn changes_have_one_time_and_make_a_layer() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let options = DiffOptions {
        without: &["etc/hosts", "proc"],
        time: Some(1_000_000),
    };
    let mut streams = Vec::new();
    for key in ["one", "two"] {
        let upper = store.create_snapshot_on(key, &[], (0, 0)).unwrap().upper;
        let mut out = Vec::new();
        assert!(!store.diff_with(key, &options, &mut out).unwrap());
        fill(&upper);
        fs::create_dir_all(upper.join("proc/below")).unwrap();
        out.clear();
        assert!(store.diff_with(key, &options, &mut out).unwrap());
        streams.push(out);
    }
    assert!(streams[0] == streams[1]);
    let mut tar = crate::TarReader::new(streams[0].as_slice());
    let mut names = Vec::new();
    while let Some(entry) = tar.next().unwrap() {
        assert_eq!(entry.mtime.seconds, 1_000_000);
        names.push(String::from_utf8(entry.name).unwrap());
    }
    let expected = [
        "./",
        "again",
        "etc/",
        "etc/deep/",
        "etc/deep/er/",
        "etc/deep/er/f",
        "etc/deep.conf",
    ];
    assert_eq!(names, expected);
    let incoming = store.incoming().unwrap();
    let layer = incoming.layer(&mut streams[0].as_slice()).unwrap();
    assert_eq!(layer, digest_of(&streams[0]));
}

/// Run only by the test below, in a process of its own.
#[test]
#[ignore = "only as a process that is killed"]
fn building_until_killed() {
    let Ok(root) = std::env::var("BERTH_STORE_TEST_ROOT") else {
        return;
    };
    let store = Store::open(Path::new(&root)).unwrap();
    let incoming = store.incoming().unwrap();
    let layer = incoming.layer(&mut small("1").as_slice()).unwrap();
    store.pin(pin("a", &[&layer])).unwrap();
}

#[test]
fn a_kill_leaves_all_or_nothing() {
    for (point, pinned) in [("unpacked", false), ("layer", false), ("pinned", true)] {
        let dir = tempfile::tempdir().unwrap();
        killed("built::tests::building_until_killed", dir.path(), point);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.pins().len(), usize::from(pinned), "{point}");
        let layer = digest_of(&small("1"));
        assert_eq!(store.incoming().unwrap().has_layer(&layer), pinned);
        store.unpin(&["a".to_owned()]).unwrap();
        assert_empty(&store, dir.path());
    }
}

/// A stream of so many megabytes that no compression makes small.
fn large(megabytes: usize) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    let mut state = 1u64;
    let noise: Vec<u8> = (0..megabytes << 20)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let entry = TarEntry {
        name: b"large".to_vec(),
        size: noise.len() as u64,
        ..TarEntry::default()
    };
    tar.append(&entry, &mut noise.as_slice()).unwrap();
    tar.finish().unwrap()
}

/// Run only by the test below, in a process with a small file system.
#[test]
#[ignore = "only where the disk is small"]
fn building_where_the_disk_is_full() {
    let Ok(root) = std::env::var("BERTH_STORE_TEST_ROOT") else {
        return;
    };
    let root = Path::new(&root);
    let full = |result: Result<()>| match result {
        Err(Error::Io { source, .. }) => assert_eq!(source.raw_os_error(), Some(28)),
        other => panic!("{other:?}"),
    };
    let free = |root: &Path| {
        let disk = rustix::fs::statvfs(root).unwrap();
        disk.f_bavail * disk.f_frsize
    };
    let stream = large(66);
    for form in FORMS {
        let store = Store::open_with(root, Some(form)).unwrap();
        let incoming = store.incoming().unwrap();
        let before = free(root);
        let filler = root.join("filler");
        let leave = |bytes: u64| {
            let file = File::create(&filler).unwrap();
            let length = free(root) - bytes;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
        };
        // Also where it would just fit: the last of a disk is not for layers.
        for left in [67 << 20, 30 << 20] {
            leave(left);
            full(incoming.layer(&mut stream.as_slice()).map(drop));
            store.inner.trash.settle();
            assert!(free(root) + (1 << 20) > left, "nothing is left of it");
            fs::remove_file(&filler).unwrap();
        }
        let layer = incoming.layer(&mut stream.as_slice()).unwrap();
        leave(30 << 20);
        full(incoming.blob_of(&layer, PackAs::Zstd).map(drop));
        store.inner.trash.settle();
        assert!(free(root) + (1 << 20) > 30 << 20);
        // A pin that is not written down is none, and spoils no other.
        let mut filler_file = fs::OpenOptions::new().append(true).open(&filler).unwrap();
        while std::io::Write::write_all(&mut filler_file, &[0; 4096]).is_ok() {}
        full(store.pin(Pin {
            data: "x".repeat(1 << 20),
            ..pin("a", &[&layer])
        }));
        assert_eq!(store.pins(), []);
        drop(filler_file);
        fs::remove_file(&filler).unwrap();
        store.pin(pin("b", &[&layer])).unwrap();
        drop(incoming);
        drop(store);
        let store = Store::open_with(root, Some(form)).unwrap();
        assert_eq!(keys(&store), ["b"]);
        store.unpin(&["b".to_owned()]).unwrap();
        assert_empty(&store, root);
        assert!(free(root) + (1 << 20) > before);
    }
}

#[test]
fn a_full_disk_leaves_nothing_half_made() {
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=200m tmpfs \"$BERTH_STORE_TEST_ROOT\" && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("built::tests::building_where_the_disk_is_full")
        .env("BERTH_STORE_TEST_ROOT", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn a_layer_is_made_over_a_file_that_has_its_contents() {
    let big: String = "0123456789abcdef".repeat(20_000) + "end";
    let other = big.to_uppercase();
    let plain = stream(&[
        ("a", TarKind::File, "small"),
        ("d", TarKind::Directory, ""),
        ("d/big", TarKind::File, &big),
        ("d/link", TarKind::HardLink, "d/big"),
        ("other", TarKind::File, &other),
        ("z", TarKind::File, &big[..5000]),
    ]);
    for form in FORMS {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Store::open_with(dir.path(), Some(form)).unwrap();
        let mut contents = vec![0; Placed::HEAD as usize + 12_288];
        let at = Placed::HEAD + 12_288;
        contents.extend_from_slice(big.as_bytes());
        let path = dir.path().join("pack");
        fs::write(&path, &contents).unwrap();
        let placed = |at| Placed {
            file: File::options().read(true).write(true).open(&path).unwrap(),
            end: contents.len() as u64,
            contents: HashMap::from([(b"d/big".to_vec(), at)]),
        };
        let incoming = store.incoming().unwrap();
        if form == FormKind::Erofs {
            for bad in [at + 1, at + Placed::BLOCK] {
                let error = incoming.layer_over(Some(placed(bad)), &mut plain.as_slice());
                assert!(matches!(error, Err(Error::Invalid(_))), "{error:?}");
            }
            fs::write(&path, &contents).unwrap();
        }
        let layer = incoming
            .layer_over(Some(placed(at)), &mut plain.as_slice())
            .unwrap();
        assert_eq!(layer, digest_of(&plain));
        let now = fs::read(&path).unwrap();
        let from = at as usize;
        assert!(now[from..from + big.len()] == *big.as_bytes());
        // Those of the failed ones may still be on their way out.
        let is_shared = fs::metadata(&path).unwrap().nlink() > 1;
        assert_eq!(is_shared, form == FormKind::Erofs);
        // What is read, mounted and made again is all there.
        fs::remove_file(&path).unwrap();
        let layers = std::slice::from_ref(&layer);
        let snapshot = store.create_snapshot_on("s", layers, (0, 0)).unwrap();
        let root = mounted(&snapshot.layers[0]);
        for (name, text) in [
            ("a", "small"),
            ("d/big", &big),
            ("d/link", &big),
            ("other", &other),
        ] {
            assert!(
                fs::read_to_string(root.join(name)).unwrap() == *text,
                "{name}"
            );
        }
        assert_eq!(fs::metadata(root.join("d/big")).unwrap().nlink(), 2);
        drop(root);
        let blob = incoming.blob_of(&layer, PackAs::Plain).unwrap();
        let mut again = Vec::new();
        incoming
            .open_blob(&blob.digest)
            .unwrap()
            .0
            .read_to_end(&mut again)
            .unwrap();
        assert!(again == plain);
        store.remove_snapshot("s").unwrap();
    }
}
