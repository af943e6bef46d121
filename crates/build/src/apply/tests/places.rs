//! Where copies go, and with which modes and owners.

use super::*;

const DIR: [&str; 6] = [
    "d/a 1 600 0:0",
    "d/b.txt 1 644 0:0",
    "d/sub/ 750 0:0",
    "d/sub/c 1 755 0:0",
    "d/sub/d.txt 1 644 0:0",
    "d/z = d/a 600 0:0",
];

/// [`DIR`] at another place, after these entries.
fn dir_at<'a>(place: &str, before: &[&'a str], found: &'a mut Vec<String>) -> Vec<&'a str> {
    let moved = |line: &&str| line.replace("d/", "\0").replace("\0", "D/");
    *found = (DIR.iter().map(moved))
        .map(|line| line.replacen("D/", &format!("{place}/"), 1))
        .map(|line| {
            line.replace("= D/", &format!("= {place}/"))
                .replace("D/", "d/")
        })
        .collect();
    before
        .iter()
        .copied()
        .chain(found.iter().map(String::as_str))
        .collect()
}

#[test]
fn files_go_where_buildkit_puts_them() {
    let rig = Rig::new();
    for (source, target, wanted) in [
        ("f1", "/new", &["new 3 640 0:0"][..]),
        ("f1", "/new/", &["new/ 755 0:0", "new/f1 3 640 0:0"]),
        ("f1", "/new/.", &["new/ 755 0:0", "new/f1 3 640 0:0"]),
        (
            "f1",
            "/n/e/w",
            &["n/ 755 0:0", "n/e/ 755 0:0", "n/e/w 3 640 0:0"],
        ),
        (
            "f1",
            "/existing",
            &["existing/ 711 5:5", "existing/f1 3 640 0:0"],
        ),
        ("f1", "/", &["f1 3 640 0:0"]),
        ("f1", "/file", &["file 3 640 0:0"]),
        ("f1", "/flink", &["file 3 640 0:0"]),
        (
            "f1",
            "/abs",
            &["existing/ 711 5:5", "existing/f1 3 640 0:0"],
        ),
        (
            "f1",
            "/abs/",
            &["existing/ 711 5:5", "existing/f1 3 640 0:0"],
        ),
        (
            "f1",
            "/bin/tool",
            &["usr/ 755 0:0", "usr/bin/ 755 0:0", "usr/bin/tool 3 640 0:0"],
        ),
        (
            "f1",
            "/dangling",
            &["nowhere/ 755 0:0", "nowhere/x 3 640 0:0"],
        ),
        (
            "f1",
            "/out/x",
            &["existing/ 711 5:5", "existing/x 3 640 0:0"],
        ),
        ("f2", "/x", &["x 3 4755 0:0"]),
        ("link", "/", &["link 3 640 0:0"]),
        ("link", "/l", &["l 3 640 0:0"]),
        ("abslink", "/", &["abslink 3 640 0:0"]),
        ("empty", "/e", &["e/ 755 0:0"]),
        ("dir/../f1", "/g", &["g 3 640 0:0"]),
    ] {
        rig.check(copy(&[source], target), wanted);
    }
    for (source, target, message) in [
        ("f1", "/loop/x", "too many links"),
        ("f1", "/file/", "mkdir /file: not a directory"),
        ("f1", "/file/x", "mkdir /file: not a directory"),
        ("dir", "/file", "cannot copy to non-directory: /file"),
        ("dir", "/flink", "cannot copy to non-directory: /file"),
        (
            "shadow",
            "/",
            "cannot replace to directory /existing with file",
        ),
        ("overdir", "/", "cannot copy to non-directory: /file"),
        ("blink", "/", "cannot copy to non-directory: /bin"),
        ("broken", "/", "\"/broken\": not found"),
        ("outlink", "/", "\"/outlink\": not found"),
        ("missing", "/d/", "\"/missing\": not found"),
        ("dir/missing", "/d/", "\"/dir/missing\": not found"),
        ("./dir/../missing/", "/d/", "\"/missing\": not found"),
    ] {
        rig.fails(copy(&[source], target), message);
    }
}

#[test]
fn of_a_directory_the_contents_are_copied() {
    let rig = Rig::new();
    let mut lines = Vec::new();
    let made = dir_at("d", &["d/ 755 0:0"], &mut lines);
    for (source, target) in [
        ("dir", "/d"),
        ("dir/", "/d/"),
        ("dirlink", "/d"),
        ("./dir", "/d/."),
    ] {
        rig.check(copy(&[source], target), &made);
    }
    // Over a directory of the base: it keeps its mode, those in it do not.
    let mut lines = Vec::new();
    let merged = dir_at("existing", &["existing/ 711 5:5"], &mut lines);
    for target in ["/existing", "/abs", "/out/"] {
        rig.check(copy(&["dir"], target), &merged);
    }
    let mut lines = Vec::new();
    let before = ["nowhere/ 755 0:0", "nowhere/x/ 755 0:0"];
    let dangling = dir_at("nowhere/x", &before, &mut lines);
    rig.check(copy(&["dir"], "/dangling"), &dangling);
    rig.check(
        copy(&["merge"], "/"),
        &[
            "existing/ 750 0:0",
            "existing/keep 1 644 0:0",
            "existing/sub/ 770 0:0",
            "existing/sub/new 1 644 0:0",
        ],
    );
    let all = rig
        .run(vec![FileAction::Copy(copy(&["."], "/all/"))])
        .unwrap();
    assert_eq!(all.len(), 1 + rig.tree.entries.len());
    for wanted in [
        "all/dir/ 700 0:0",
        "all/dir/z = all/dir/a 600 0:0",
        "all/broken -> none 777 0:0",
        "all/outlink -> ../../etc/passwd 777 0:0",
        "all/w[1].txt 1 644 0:0",
    ] {
        assert!(all.iter().any(|line| line == wanted), "{wanted}: {all:?}");
    }
}

#[test]
fn several_sources_and_wildcards() {
    let rig = Rig::new();
    let both = ["d/ 755 0:0", "d/f1 3 640 0:0", "d/f2 3 4755 0:0"];
    rig.check(copy(&["f1", "f2"], "/d/"), &both);
    rig.check(copy(&["f*"], "/d/"), &both);
    rig.check(copy(&["nomatch*", "f?"], "/d/"), &both);
    rig.check(copy(&["[e-g][12]"], "/d/."), &both);
    rig.check(copy(&["f*1"], "/d"), &["d 3 640 0:0"]);
    rig.check(copy(&["nomatch*"], "/d/"), &[]);
    rig.check(
        copy(&["dir/su?"], "/d/"),
        &["d/ 755 0:0", "d/c 1 755 0:0", "d/d.txt 1 644 0:0"],
    );
    rig.check(
        copy(&["*/deep"], "/d"),
        &["d/ 755 0:0", "d/one.txt 1 644 0:0", "d/two.md 1 644 0:0"],
    );
    rig.check(copy(&["*/a"], "/d/"), &["d/ 755 0:0", "d/a 1 600 0:0"]);
    rig.check(copy(&["**/a"], "/d/"), &["d/ 755 0:0", "d/a 1 600 0:0"]);
    rig.check(
        copy(&["w[[]1].txt"], "/d/"),
        &["d/ 755 0:0", "d/w[1].txt 1 644 0:0"],
    );
    rig.check(copy(&["w[1].txt"], "/d/"), &[]);
    rig.check(
        copy(&["w\\[1].txt"], "/d/"),
        &["d/ 755 0:0", "d/w[1].txt 1 644 0:0"],
    );
    rig.check(
        copy(&["dirlink/b*"], "/existing"),
        &["existing/ 711 5:5", "existing/b.txt 1 644 0:0"],
    );
    let several = "When using COPY with more than one source file, the destination must be a directory and end with a /";
    rig.fails(copy(&["f1", "f2"], "/d"), several);
    rig.check(
        copy(&["f1", "f2"], "/existing"),
        &[
            "existing/ 711 5:5",
            "existing/f1 3 640 0:0",
            "existing/f2 3 4755 0:0",
        ],
    );
    rig.check(
        copy(&["dir/sub", "f1"], "/d"),
        &[
            "d/ 755 0:0",
            "d/c 1 755 0:0",
            "d/d.txt 1 644 0:0",
            "d/f1 3 640 0:0",
        ],
    );
    rig.fails(
        copy(&["f1", "dir/sub"], "/d"),
        "cannot copy to non-directory: /d",
    );
    rig.fails(copy(&["f*"], "/d"), several);
    rig.fails(copy(&["f["], "/d/"), "syntax error in pattern");
}

#[test]
fn modes_and_owners() {
    let rig = Rig::new();
    for (copy, wanted) in [
        (
            chmod("600", copy(&["dir/sub"], "/d")),
            &["d/ 600 0:0", "d/c 1 600 0:0", "d/d.txt 1 600 0:0"][..],
        ),
        (
            chmod("640", copy(&["f1"], "/p/q")),
            &["p/ 640 0:0", "p/q 3 640 0:0"],
        ),
        (chmod("7755", copy(&["f1"], "/p")), &["p 3 7755 0:0"]),
        (
            chmod("u=rwX,go=rX", copy(&["dir"], "/d")),
            &[
                "d/ 755 0:0",
                "d/a 1 644 0:0",
                "d/b.txt 1 644 0:0",
                "d/sub/ 755 0:0",
                "d/sub/c 1 755 0:0",
                "d/sub/d.txt 1 644 0:0",
                "d/z = d/a 644 0:0",
            ],
        ),
        (
            chmod("go-rwx,u+s", copy(&["dir"], "/d/")),
            &[
                "d/ 755 0:0",
                "d/a 1 4600 0:0",
                "d/b.txt 1 4600 0:0",
                "d/sub/ 4700 0:0",
                "d/sub/c 1 4700 0:0",
                "d/sub/d.txt 1 4600 0:0",
                "d/z = d/a 4600 0:0",
            ],
        ),
        (
            owned("web", copy(&["dir/sub"], "/d/e")),
            &[
                "d/ 755 33:34",
                "d/e/ 755 33:34",
                "d/e/c 1 755 33:34",
                "d/e/d.txt 1 644 33:34",
            ],
        ),
        (
            owned("web:staff", copy(&["f1"], "/p/q")),
            &["p/ 755 33:50", "p/q 3 640 33:50"],
        ),
        (owned("5", copy(&["f1"], "/p")), &["p 3 640 5:5"]),
        (owned("no", copy(&["f1"], "/p")), &["p 3 640 0:0"]),
        (owned("web:no", copy(&["f1"], "/p")), &["p 3 640 33:34"]),
        (
            owned("web", copy(&["f1"], "/existing/sub/x")),
            &[
                "existing/ 711 5:5",
                "existing/sub/ 700 7:7",
                "existing/sub/x 3 640 33:34",
            ],
        ),
    ] {
        rig.check(copy, wanted);
    }
    rig.fails(
        chmod("u+q", copy(&["f1"], "/p")),
        "invalid chmod parameter: 'u+q'",
    );
}

#[test]
fn from_a_root_owners_stay() {
    let rig = Rig::new();
    for (copy, wanted) in [
        (
            from_root("/existing", "/e"),
            &[
                "e/ 755 0:0",
                "e/old 3 644 0:0",
                "e/sub/ 700 7:7",
                "e/sub/deep 4 600 7:7",
            ][..],
        ),
        (
            from_root("/abs", "/r/"),
            &[
                "r/ 755 0:0",
                "r/old 3 644 0:0",
                "r/sub/ 700 7:7",
                "r/sub/deep 4 600 7:7",
            ],
        ),
        (from_root("/bin/sh", "/s"), &["s 2 755 0:0"]),
        (
            from_root("/out/../usr/bin/s*", "/s/"),
            &["s/ 755 0:0", "s/sh 2 755 0:0"],
        ),
        (
            owned("1:2", from_root("/existing", "/e")),
            &[
                "e/ 755 1:2",
                "e/old 3 644 1:2",
                "e/sub/ 700 1:2",
                "e/sub/deep 4 600 1:2",
            ],
        ),
    ] {
        rig.check(copy, wanted);
    }
    rig.fails(from_root("/loop", "/r/"), "too many links");
    rig.fails(from_root("/dangling", "/r/"), "\"/dangling\": not found");
    let all = rig
        .run(vec![FileAction::Copy(from_root("/", "/r/"))])
        .unwrap();
    assert_eq!(all.len(), 18, "{all:?}");
}

#[test]
fn directories_and_documents() {
    let rig = Rig::new();
    let make = |path: &str| {
        let path = path.to_owned();
        FileAction::MakeDir {
            path,
            mode: 0o755,
            owner: None,
        }
    };
    for (path, wanted) in [
        ("/a/b", &["a/ 755 0:0", "a/b/ 755 0:0"][..]),
        (
            "/existing/new",
            &["existing/ 711 5:5", "existing/new/ 755 0:0"],
        ),
        ("/existing", &[]),
        ("/abs/sub", &[]),
        ("/", &[]),
        (
            "/bin/w",
            &["usr/ 755 0:0", "usr/bin/ 755 0:0", "usr/bin/w/ 755 0:0"],
        ),
    ] {
        assert_eq!(rig.run(vec![make(path)]).unwrap(), wanted, "{path}");
    }
    assert_eq!(
        rig.run(vec![make("/file")]).unwrap_err(),
        "mkdir /file: not a directory"
    );
    let write = |target: &str, owner: Option<&str>| FileAction::Write {
        target: target.to_owned(),
        data: Arc::from(&b"hello\n"[..]),
        mode: None,
        owner: owner.map(str::to_owned),
    };
    assert_eq!(
        rig.run(vec![write("/doc", None)]).unwrap(),
        ["doc 6 644 0:0"]
    );
    assert_eq!(
        rig.run(vec![write("/x/a", Some("web"))]).unwrap(),
        ["x/ 755 33:34", "x/a 6 644 33:34"]
    );
    // Later actions see and replace what earlier ones made.
    let actions = vec![
        make("/w"),
        write("/w/f1", None),
        FileAction::Copy(copy(&["f1", "dir/sub"], "/w/")),
        write("/w/c", None),
    ];
    let wanted = [
        "w/ 755 0:0",
        "w/c 6 644 0:0",
        "w/d.txt 1 644 0:0",
        "w/f1 3 640 0:0",
    ];
    assert_eq!(rig.run(actions).unwrap(), wanted);
}

#[test]
fn own_times_and_contents() {
    let rig = Rig::new();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(77, 5);
    let context = rig.dir.path().join("context");
    File::options()
        .write(true)
        .open(context.join("f1"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    let tree = rig.files.take_directory(&context, &|_| false).unwrap();
    let operation = graph::Files {
        base: None,
        actions: vec![FileAction::Copy(copy(&["f1"], "/f"))],
    };
    let mut out = Vec::new();
    let sources = [Source::Tree(&tree)];
    assert!(apply(&rig.files, &operation, None, &sources, None, &mut out).unwrap());
    let mut tar = TarReader::new(&out[..]);
    let entry = tar.next().unwrap().unwrap();
    assert_eq!((entry.mtime.seconds, entry.mtime.nanoseconds), (77, 5));
    let mut text = String::new();
    io::Read::read_to_string(&mut tar, &mut text).unwrap();
    assert_eq!(text, "one");
}

#[test]
fn attributes_are_kept() {
    let rig = Rig::new();
    let root = rig.dir.path().join("base");
    let set = |name: &str, key: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root.join(name), key, value, flags).unwrap();
    };
    // Version 2, effective, CAP_NET_BIND_SERVICE.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("usr/bin/sh", "security.capability", &capability);
    set("existing", "user.x", b"y");
    set("existing", "trusted.x", b"z");
    let base = File::open(&root).unwrap();
    let copies = [
        from_root("/bin/sh", "/existing/cap"),
        copy(&["f1"], "/existing/"),
    ];
    let operation = graph::Files {
        base: Some(0),
        actions: copies.into_iter().map(FileAction::Copy).collect(),
    };
    let sources = [Source::Tree(&rig.tree), Source::Root(base.as_fd())];
    let mut out = Vec::new();
    let (time, base) = (Some(TIME), Some(base.as_fd()));
    apply(&rig.files, &operation, base, &sources, time, &mut out).unwrap();
    let mut tar = TarReader::new(&out[..]);
    let existing = tar.next().unwrap().unwrap();
    assert_eq!(existing.xattrs, [(b"user.x".to_vec(), b"y".to_vec())]);
    let cap = tar.next().unwrap().unwrap();
    assert_eq!(
        cap.xattrs,
        [(b"security.capability".to_vec(), capability.to_vec())]
    );
}
