//! ADD of archives.

use super::*;

fn add(unpack: Unpack, copy: Copy) -> Copy {
    Copy { unpack, ..copy }
}

/// Members: name, kind, text or target, mode, owner.
pub(super) fn tar(members: &[(&str, TarKind, &str, u32, u32)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for &(name, kind, text, mode, owner) in members {
        let mut entry = TarEntry {
            name: name.into(),
            kind,
            mode,
            uid: owner,
            gid: owner,
            ..TarEntry::default()
        };
        match kind {
            TarKind::File => entry.size = text.len() as u64,
            CharDevice => entry.device = (1, 3),
            _ => entry.link = text.into(),
        }
        tar.append(&entry, &mut text.as_bytes()).unwrap();
    }
    tar.finish().unwrap()
}

use TarKind::{CharDevice, Directory, Fifo, File as Regular, HardLink, Symlink};

fn archive() -> Vec<u8> {
    tar(&[
        ("./", Directory, "", 0o700, 3),
        ("a/", Directory, "", 0o711, 3),
        ("a/f", Regular, "x", 0o4711, 3),
        ("noparent/g", Regular, "g", 0o644, 4),
        ("l", Symlink, "a", 0o777, 0),
        ("l/through", Regular, "t", 0o600, 0),
        ("h", HardLink, "a/f", 0, 0),
        ("existing", Directory, "", 0o777, 9),
        ("existing/sub/n", Regular, "n", 0o644, 0),
        ("abs/viaabs", Regular, "v", 0o644, 0),
        ("etcl", Symlink, "/etc", 0o777, 0),
        ("etcl/evil", Regular, "e", 0o644, 0),
        ("p", Fifo, "", 0o600, 0),
        ("c", CharDevice, "", 0o600, 0),
        ("bin", Directory, "", 0o755, 0),
        ("bin/x", Regular, "x", 0o755, 0),
    ])
}

#[test]
fn archives_are_unpacked() {
    let rig = Rig::new().with("a.tar", &archive());
    rig.check(
        add(Unpack::Archives, copy(&["a.tar"], "/t")),
        &[
            "t/ 755 0:0",
            "t/a/ 711 3:3",
            "t/a/f 1 0 0:0",
            "t/a/through 1 600 0:0",
            "t/abs/ 755 0:0",
            "t/abs/viaabs 1 644 0:0",
            "t/bin/ 755 0:0",
            "t/bin/x 1 755 0:0",
            "t/c c 600 0:0",
            "t/etc/ 755 0:0",
            "t/etc/evil 1 644 0:0",
            "t/etcl -> /etc 777 0:0",
            "t/existing/ 777 9:9",
            "t/existing/sub/ 755 0:0",
            "t/existing/sub/n 1 644 0:0",
            "t/h = t/a/f 0 0:0",
            "t/l -> a 777 0:0",
            "t/noparent/ 755 0:0",
            "t/noparent/g 1 644 4:4",
            "t/p p 600 0:0",
        ],
    );
    rig.check(
        add(Unpack::Always, copy(&["a.tar"], "/")),
        &[
            "a/ 711 3:3",
            "a/f 1 0 0:0",
            "a/through 1 600 0:0",
            "bin/ 755 0:0",
            "bin/x 1 755 0:0",
            "c c 600 0:0",
            "etc/ 755 0:0",
            "etc/evil 1 644 0:0",
            "etcl -> /etc 777 0:0",
            "existing/ 777 9:9",
            "existing/sub/ 700 7:7",
            "existing/sub/n 1 644 0:0",
            "existing/viaabs 1 644 0:0",
            "h = a/f 0 0:0",
            "l -> a 777 0:0",
            "noparent/ 755 0:0",
            "noparent/g 1 644 4:4",
            "p p 600 0:0",
        ],
    );
    rig.check(
        add(Unpack::Never, copy(&["a.tar"], "/t/")),
        &[
            "t/ 755 0:0",
            &format!("t/a.tar {} 644 0:0", archive().len()),
        ],
    );
    rig.fails(
        add(Unpack::Archives, copy(&["a.tar"], "/file")),
        "mkdir /file: not a directory",
    );
}

/// The store takes each stream as it is: nothing in it is not canonical.
#[test]
fn layers_are_canonical() {
    let redirected = tar(&[
        ("existing", Regular, "file", 0o644, 0),
        ("existing/", Directory, "", 0o700, 0),
        ("existing/hl", HardLink, "usr/bin/sh", 0o644, 0),
        ("sl", Symlink, "x", 0o777, 0),
        ("sl2", HardLink, "sl", 0o777, 0),
    ]);
    let rig = Rig::new()
        .with("a.tar", &archive())
        .with("b.tar", &redirected);
    set_mode(rig.dir.path(), "base", 0o711);
    let root = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = berth_store::Store::open(root.path()).unwrap();
    let incoming = store.incoming().unwrap();
    for copy in [
        copy(&["."], "/existing"),
        from_root("/", "/all"),
        add(Unpack::Archives, copy(&["a.tar"], "/")),
        add(Unpack::Archives, copy(&["b.tar"], "/")),
    ] {
        let stream = rig.stream(vec![FileAction::Copy(copy)]).unwrap();
        assert!(stream.starts_with(b"./\0"));
        let digest = incoming.layer(&mut &stream[..]).unwrap();
        assert_eq!(digest, berth_store::digest_of(&stream));
    }
}

#[test]
fn what_is_no_archive_is_a_file() {
    let rig = Rig::new()
        .with("notar.gz", b"hello")
        .with("zero.tar", &[0; 1024]);
    for (name, size) in [("notar.gz", 5), ("zero.tar", 1024)] {
        rig.check(
            add(Unpack::Archives, copy(&[name], "/t/")),
            &["t/ 755 0:0", &format!("t/{name} {size} 644 0:0")],
        );
        rig.fails(add(Unpack::Always, copy(&[name], "/t/")), "is no archive");
    }
}

#[test]
fn compressed_archives_are_known_by_their_bytes() {
    let plain = tar(&[("a/f", Regular, "x", 0o4711, 3)]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("plain"), &plain).unwrap();
    for tool in ["gzip", "bzip2", "xz", "zstd"] {
        let packed = std::process::Command::new(tool)
            .arg("-c")
            .stdin(File::open(dir.path().join("plain")).unwrap())
            .output()
            .unwrap();
        assert!(packed.status.success(), "{tool}");
        let rig = Rig::new().with("any.name", &packed.stdout);
        let unpacked = add(Unpack::Archives, copy(&["any.name", "f1"], "/t/"));
        rig.check(
            unpacked.clone(),
            &[
                "t/ 755 0:0",
                "t/a/ 755 0:0",
                "t/a/f 1 4711 3:3",
                "t/f1 3 640 0:0",
            ],
        );
        // An owner is of all that is in it, a mode is not.
        rig.check(
            chmod(
                "600",
                owned(
                    "web",
                    Copy {
                        sources: vec!["any.name".to_owned()],
                        ..unpacked
                    },
                ),
            ),
            &["t/ 600 33:34", "t/a/ 755 0:0", "t/a/f 1 4711 33:34"],
        );
    }
}

#[test]
fn nothing_leads_out_of_the_base() {
    for (members, wanted) in [
        (
            vec![("hl", HardLink, "usr/bin/sh", 0o644, 0)],
            &[
                "hl 2 644 0:0",
                "usr/ 755 0:0",
                "usr/bin/ 755 0:0",
                "usr/bin/sh = hl 644 0:0",
            ][..],
        ),
        (
            vec![("hl", HardLink, "/file", 0o644, 0)],
            &["file 4 644 0:0", "hl = file 644 0:0"],
        ),
        (
            vec![("/abs/f", Regular, "u", 0o644, 0)],
            &["existing/ 711 5:5", "existing/f 1 644 0:0"],
        ),
        (
            vec![("out/f", Regular, "u", 0o644, 0)],
            &["existing/ 711 5:5", "existing/f 1 644 0:0"],
        ),
        (
            vec![
                ("up", Symlink, "../../..", 0o777, 0),
                ("up/etc/passwd", Regular, "u", 0o644, 0),
            ],
            &[
                "etc/ 755 0:0",
                "etc/passwd 1 644 0:0",
                "up -> ../../.. 777 0:0",
            ],
        ),
        // What takes the place of a directory hides it, also if it becomes one.
        (
            vec![
                ("existing", Regular, "now a file", 0o644, 0),
                ("existing/", Directory, "", 0o700, 0),
                ("existing/new", Regular, "n", 0o644, 0),
            ],
            &[
                "existing/ 700 0:0",
                "existing/.wh..wh..opq 0 0 0:0",
                "existing/new 1 644 0:0",
            ],
        ),
        (
            vec![("existing", Regular, "file", 0o644, 0)],
            &["existing 4 644 0:0"],
        ),
    ] {
        let rig = Rig::new().with("a.tar", &tar(&members));
        rig.check(add(Unpack::Archives, copy(&["a.tar"], "/")), wanted);
    }
    for (member, message) in [
        (
            ("../up", Regular, "u", 0o644, 0),
            "leads out of the archive",
        ),
        (("h", HardLink, "../../x", 0, 0), "leads out of the archive"),
        (("h", HardLink, "nothing", 0, 0), "no file that is there"),
        (("h", HardLink, "existing", 0, 0), "no file that is there"),
        (("x/.wh.y", Regular, "", 0, 0), "begins with .wh."),
    ] {
        let rig = Rig::new().with("a.tar", &tar(&[member]));
        rig.fails(add(Unpack::Archives, copy(&["a.tar"], "/t/")), message);
    }
}
