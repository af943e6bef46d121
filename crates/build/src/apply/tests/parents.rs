//! `--parents` and `--exclude`.

use super::*;

fn parents(sources: &[&str], target: &str) -> Copy {
    Copy {
        parents: true,
        ..copy(sources, target)
    }
}

#[test]
fn parents_are_kept() {
    let rig = Rig::new();
    let one = [
        "d/ 755 0:0",
        "d/x/ 755 0:0",
        "d/x/deep/ 755 0:0",
        "d/x/deep/one.txt 1 644 0:0",
    ];
    for source in [
        "x/deep/one.txt",
        "./x/deep/one.txt",
        "/x/deep/one.txt",
        "x/*/one*",
        "x/**/one.txt",
    ] {
        rig.check(parents(&[source], "/d/"), &one);
    }
    rig.check(
        parents(&["x/./deep/one.txt"], "/d/"),
        &["d/ 755 0:0", "d/deep/ 755 0:0", "d/deep/one.txt 1 644 0:0"],
    );
    rig.check(
        parents(&["**/*.md", "**/three.txt"], "/d/"),
        &[
            "d/ 755 0:0",
            "d/x/ 755 0:0",
            "d/x/deep/ 755 0:0",
            "d/x/deep/two.md 1 644 0:0",
            "d/x/three.txt 1 644 0:0",
        ],
    );
    // Directories come whole.
    rig.check(
        parents(&["dir/sub"], "/d/"),
        &[
            "d/ 755 0:0",
            "d/dir/ 700 0:0",
            "d/dir/sub/ 750 0:0",
            "d/dir/sub/c 1 755 0:0",
            "d/dir/sub/d.txt 1 644 0:0",
        ],
    );
    // The way through a link before the pivot is followed, behind it is not.
    rig.check(
        parents(&["dirlink/./a"], "/d/"),
        &["d/ 755 0:0", "d/a 1 600 0:0"],
    );
    rig.fails(parents(&["dirlink/a"], "/d/"), "\"/dirlink/a\": not found");
    rig.fails(parents(&["x/nomatch"], "/d/"), "\"/x/nomatch\": not found");
    rig.check(parents(&["nomatch/*"], "/d/"), &["d/ 755 0:0"]);
    rig.check(
        parents(&["link"], "/d/"),
        &["d/ 755 0:0", "d/link -> f1 777 0:0"],
    );
    // A directory of the base on the way gets the mode of the source's.
    rig.check(
        parents(&["merge/./existing/keep"], "/"),
        &["existing/ 750 5:5", "existing/keep 1 644 0:0"],
    );
    rig.check(
        Copy {
            from: 1,
            ..parents(&["/existing/./sub/d*"], "/d/")
        },
        &["d/ 755 0:0", "d/sub/ 700 7:7", "d/sub/deep 4 600 7:7"],
    );
}

#[test]
fn patterns_leave_out() {
    let rig = Rig::new();
    let x = |exclude: &[&str]| without(exclude, copy(&["x"], "/d/"));
    let deep = [
        "d/ 755 0:0",
        "d/deep/ 755 0:0",
        "d/deep/one.txt 1 644 0:0",
        "d/deep/two.md 1 644 0:0",
    ];
    rig.check(x(&["*.txt"]), &deep);
    rig.check(
        x(&["**/*.txt"]),
        &["d/ 755 0:0", "d/deep/ 755 0:0", "d/deep/two.md 1 644 0:0"],
    );
    rig.check(x(&["deep"]), &["d/ 755 0:0", "d/three.txt 1 644 0:0"]);
    rig.check(
        x(&["deep", "!deep/one.txt"]),
        &[
            "d/ 755 0:0",
            "d/deep/ 755 0:0",
            "d/deep/one.txt 1 644 0:0",
            "d/three.txt 1 644 0:0",
        ],
    );
    let mut all = deep.to_vec();
    all.push("d/three.txt 1 644 0:0");
    rig.check(x(&["x/deep"]), &all);
    rig.check(x(&["/deep"]), &all);
    // A file that the instruction names is no file in a directory.
    rig.check(without(&["f2"], copy(&["f2"], "/d")), &["d 3 4755 0:0"]);
    rig.check(
        without(&["sub"], from_root("/existing", "/d/")),
        &["d/ 755 0:0", "d/old 3 644 0:0"],
    );
    rig.check(
        without(&["**/one.txt"], parents(&["x/deep", "y"], "/d/")),
        &[
            "d/ 755 0:0",
            "d/x/ 755 0:0",
            "d/x/deep/ 755 0:0",
            "d/x/deep/two.md 1 644 0:0",
            "d/y/ 755 0:0",
            "d/y/deep/ 755 0:0",
        ],
    );
    rig.fails(x(&["[a"]), "invalid excludepatterns");
}

#[test]
fn contents_are_named_for_keys() {
    let rig = Rig::new();
    let name = |copy: &Copy, tree: &Tree| content_of(Some(copy), "", tree).unwrap();
    let deep = copy(&["x"], "/d/");
    let first = name(&deep, &rig.tree);
    let context = rig.dir.path().join("context");
    let changed = |change: &dyn Fn(&Path)| {
        change(&context);
        rig.files.take_directory(&context, &|_| false).unwrap()
    };
    // Times, owners and other files do not count.
    let tree = changed(&|root| {
        file(root, "other", "o", 0o644);
        file(root, "x/three.txt", "3", 0o644);
        chown(root.join("x/three.txt"), Some(9), Some(9)).unwrap();
    });
    assert_eq!(name(&deep, &tree), first);
    assert_ne!(
        content_of(None, "/", &tree).unwrap(),
        content_of(None, "/", &rig.tree).unwrap()
    );
    assert_eq!(
        content_of(None, "/x", &tree).unwrap(),
        content_of(None, "x/", &rig.tree).unwrap()
    );
    let tree = changed(&|root| set_mode(root, "x/three.txt", 0o600));
    assert_ne!(name(&deep, &tree), first);
    // What is excluded does not, either.
    let less = without(&["*.txt"], deep.clone());
    assert_eq!(name(&less, &tree), name(&less, &rig.tree));
    let tree = changed(&|root| file(root, "x/three.txt", "4", 0o600));
    let one = parents(&["x/deep/one.txt"], "/d/");
    assert_eq!(name(&one, &tree), name(&one, &rig.tree));
    // Modes on the way do.
    let tree = changed(&|root| set_mode(root, "x/deep", 0o700));
    assert_ne!(name(&one, &tree), name(&one, &rig.tree));
    let tree = changed(&|root| fs::rename(root.join("x/deep"), root.join("x/deeq")).unwrap());
    assert_ne!(name(&deep, &tree), first);
    assert!(matches!(
        content_of(Some(&one), "", &tree),
        Err(Error::NotFound(_))
    ));
    assert!(matches!(
        content_of(None, "nope", &tree),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn roots_are_named_for_keys() {
    let rig = Rig::new();
    let base = rig.dir.path().join("base");
    let name = |path: &str| {
        let root = File::open(&base).unwrap();
        content_below(root.as_fd(), path).unwrap()
    };
    let (existing, all) = (name("/existing"), name("/"));
    assert_eq!(
        name("/abs"),
        content_below(File::open(base.join("existing")).unwrap().as_fd(), "/")
            .map(|_| name("/abs"))
            .unwrap()
    );
    file(&base, "usr/bin/sh", "ash", 0o755);
    assert_eq!(name("/existing"), existing);
    assert_ne!(name("/"), all);
    set_mode(&base, "existing", 0o700);
    let locked = name("/existing");
    assert_ne!(locked, existing);
    chown(base.join("existing/old"), Some(3), None).unwrap();
    assert_ne!(name("/existing"), locked);
}

#[test]
fn a_tree_becomes_a_layer() {
    let rig = Rig::new();
    let layer = |source: &str| {
        let mut out = Vec::new();
        let any = tree_layer(&rig.files, &rig.tree, source, Some(TIME), &mut out).unwrap();
        let entries = listing(&out);
        assert_eq!(any, !entries.is_empty());
        entries
    };
    assert_eq!(layer("/").len(), rig.tree.entries.len());
    assert_eq!(layer("/dir/sub"), ["c 1 755 0:0", "d.txt 1 644 0:0"]);
    assert_eq!(layer("/link"), ["link 3 640 0:0"]);
    assert!(layer("empty").is_empty());
}
