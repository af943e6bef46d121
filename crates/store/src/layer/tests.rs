//! Hostile and honest layers, seen through the store's front door.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::lgetxattr;

use super::{Content, Ending, FormKind, MAX_IMPLIED, Options, create, unpack};
use crate::Store;
use crate::testing::{Member, Mounted, Tar, docker_archive, load, mounted, refused_in};

/// Every test runs once with each form.
macro_rules! in_both_forms {
    ($($test:ident)*) => {
        mod directory {
            $(#[test] fn $test() { super::$test(super::FormKind::Directory) })*
        }
        mod erofs {
            $(#[test] fn $test() { super::$test(super::FormKind::Erofs) })*
        }
    };
}

in_both_forms! {
    names_that_point_outside_are_refused
    symlinks_lead_nowhere_but_into_the_layer
    the_last_component_is_replaced_and_never_followed
    hard_links_stay_inside
    limits_and_damage_are_refused
    implied_directories_are_counted
    attributes_are_kept_and_foreign_ones_dropped
    stacked_layers_show_what_docker_shows
    an_opaque_root_ends_the_chain
    a_tree_packed_by_gnu_tar_comes_out_the_same
}

/// Loads one layer and shows it.
fn unpacked(form: FormKind, dir: &Path, layer: Vec<u8>) -> Mounted {
    let store = Store::open_with(&dir.join("data"), Some(form)).unwrap();
    let images = load(&store, &docker_archive(&["test"], &[layer])).unwrap();
    let snapshot = store.create_snapshot("test", &images[0], (0, 0)).unwrap();
    mounted(&snapshot.layers[0])
}

fn refused_layer(form: FormKind, layer: Vec<u8>) -> String {
    refused_in(Some(form), &docker_archive(&["evil"], &[layer]))
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = [0; 256];
    let n = lgetxattr(path, name, &mut buffer).ok()?;
    Some(buffer[..n].to_vec())
}

fn names_that_point_outside_are_refused(form: FormKind) {
    for (name, words) in [
        ("../evil", "contains \"..\""),
        ("a/../../evil", "contains \"..\""),
        ("a/..", "contains \"..\""),
        ("..", "contains \"..\""),
        ("/etc/evil", "absolute"),
        ("//evil", "absolute"),
    ] {
        let message = refused_layer(form, Tar::default().file(name, b"x").finish());
        assert!(
            message.contains(words) && message.contains(name),
            "{message}"
        );
    }
    let message = refused_layer(form, Tar::default().file("x/.wh...", b"").finish());
    assert!(message.contains("whiteout without a name"), "{message}");
    let message = refused_layer(form, Tar::default().file(".wh..", b"").finish());
    assert!(message.contains("whiteout without a name"), "{message}");
    let message = refused_layer(
        form,
        Tar::default()
            .pax(&[("path", b"a\0b")])
            .file("x", b"")
            .finish(),
    );
    assert!(message.contains("zero byte"), "{message}");
    let message = refused_layer(
        form,
        Tar::default()
            .pax(&[("path", b"../up")])
            .file("x", b"")
            .finish(),
    );
    assert!(message.contains("contains \"..\""), "{message}");
}

fn symlinks_lead_nowhere_but_into_the_layer(form: FormKind) {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let absolute = outside.to_str().unwrap();
    for link in [absolute, "../../../../../../../../../../..", "../outside"] {
        let layer = Tar::default()
            .symlink("e", link)
            .file("e/owned/file", b"x")
            .finish();
        // Refused when the target is missing in the layer, else inside it.
        let root = tempfile::tempdir().unwrap();
        let store = Store::open_with(&root.path().join("data"), Some(form)).unwrap();
        match load(&store, &docker_archive(&["evil"], &[layer])) {
            Err(error) => assert!(error.to_string().contains("in its way"), "{error}"),
            Ok(_) => assert!(link.ends_with("..")),
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
    // In-root links work, absolute ones too, as they would in the container.
    let layer = Tar::default()
        .dir("usr/lib", 0o755)
        .symlink("lib", "/usr/lib")
        .symlink("lib64", "../../usr/lib")
        .file("lib/a", b"a")
        .file("lib64/b", b"b")
        .finish();
    let path = unpacked(form, dir.path(), layer);
    assert_eq!(std::fs::read(path.join("usr/lib/a")).unwrap(), b"a");
    assert_eq!(std::fs::read(path.join("usr/lib/b")).unwrap(), b"b");
}

fn the_last_component_is_replaced_and_never_followed(form: FormKind) {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "keep").unwrap();
    std::fs::set_permissions(&victim, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let name = victim.to_str().unwrap();
    let layer = Tar::default()
        .symlink("file", name)
        .file("file", b"new")
        .symlink("dir", dir.path().to_str().unwrap())
        .dir("dir", 0o777)
        .symlink("node", name)
        .device(b'6', "node", (0, 0))
        .file("one", b"1")
        .hardlink("two", "one")
        .file("two", b"2")
        .dir("tree", 0o755)
        .file("tree/below/file", b"x")
        .file("tree", b"now a file")
        .finish();
    let path = unpacked(form, dir.path(), layer);
    assert_eq!(std::fs::read(&victim).unwrap(), b"keep");
    assert_eq!(victim.metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read(path.join("file")).unwrap(), b"new");
    assert!(path.join("dir").symlink_metadata().unwrap().is_dir());
    assert_eq!(
        std::fs::read(path.join("one")).unwrap(),
        b"1",
        "written through a hard link"
    );
    assert_eq!(std::fs::read(path.join("tree")).unwrap(), b"now a file");
}

fn hard_links_stay_inside(form: FormKind) {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "keep").unwrap();
    for (layer, words) in [
        (
            Tar::default().hardlink("l", "../../../../victim"),
            "contains \"..\"",
        ),
        (
            Tar::default().hardlink("l", victim.to_str().unwrap()),
            "absolute",
        ),
        (Tar::default().hardlink("l", "missing"), "not in this layer"),
        (
            Tar::default().dir("d", 0o755).hardlink("l", "d"),
            "link to a directory",
        ),
        (
            Tar::default()
                .symlink("s", dir.path().to_str().unwrap())
                .hardlink("l", "s/victim"),
            "not in this layer",
        ),
    ] {
        let message = refused_layer(form, layer.finish());
        assert!(message.contains(words), "{message}");
    }
    // A link to a symbolic link is that link once more, not its target.
    let layer = Tar::default()
        .symlink("s", victim.to_str().unwrap())
        .hardlink("l", "s")
        .finish();
    let path = unpacked(form, dir.path(), layer);
    assert!(path.join("l").symlink_metadata().unwrap().is_symlink());
    assert_eq!(victim.metadata().unwrap().nlink(), 1);
}

fn limits_and_damage_are_refused(form: FormKind) {
    let deep = "d/".repeat(513) + "f";
    let message = refused_layer(
        form,
        Tar::default()
            .pax(&[("path", deep.as_bytes())])
            .file("x", b"")
            .finish(),
    );
    assert!(message.contains("deeper than 512"), "{message}");
    let long = "n".repeat(256);
    let message = refused_layer(
        form,
        Tar::default()
            .pax(&[("path", long.as_bytes())])
            .file("x", b"")
            .finish(),
    );
    assert!(message.contains("longer than 255"), "{message}");
    let longer = "n/".repeat(2100);
    let message = refused_layer(
        form,
        Tar::default()
            .pax(&[("path", longer.as_bytes())])
            .file("x", b"")
            .finish(),
    );
    assert!(message.contains("longer than 4095"), "{message}");
    let message = refused_layer(
        form,
        Tar::default()
            .pax(&[("comment", &vec![b'c'; 2 << 20])])
            .file("x", b"")
            .finish(),
    );
    assert!(message.contains("header extension"), "{message}");
    let message = refused_layer(form, Tar::default().file("f", b"x").raw(&[1; 512]).finish());
    assert!(message.contains("checksum"), "{message}");
    let mut cut = Tar::default().file("f", &[7; 2000]).unfinished();
    cut.truncate(1000);
    let message = refused_layer(form, cut);
    assert!(message.contains("truncated"), "{message}");
    let message = refused_layer(
        form,
        Tar::default()
            .pax(&[("size", b"99999999999999999999")])
            .file("f", b"")
            .finish(),
    );
    assert!(message.contains("PAX size"), "{message}");
    let message = refused_layer(
        form,
        Tar::default()
            .member(&Member {
                kind: b'Q',
                name: b"q",
                ..Member::default()
            })
            .finish(),
    );
    assert!(message.contains("unknown type"), "{message}");
    let message = refused_layer(
        form,
        Tar::default()
            .file("file", b"x")
            .file("file/below", b"y")
            .finish(),
    );
    assert!(message.contains("in its way"), "{message}");
    // CVE-2025-62518: the size in PAX rules, so what it covers is data.
    let inner = Tar::default().file("smuggled", b"x").unfinished();
    let size = inner.len().to_string();
    let dir = tempfile::tempdir().unwrap();
    let path = unpacked(
        form,
        dir.path(),
        Tar::default()
            .pax(&[("size", size.as_bytes())])
            .file("f", b"")
            .raw(&inner)
            .file("after", b"z")
            .finish(),
    );
    assert!(!path.join("smuggled").exists());
    assert_eq!(std::fs::read(path.join("f")).unwrap(), inner);
    assert_eq!(std::fs::read(path.join("after")).unwrap(), b"z");
}

/// A path of hundreds of directories is a few bytes once compressed.
fn implied_directories_are_counted(form: FormKind) {
    let dir = tempfile::tempdir().unwrap();
    let at = std::fs::File::open(dir.path()).unwrap().into();
    let options = Options {
        form,
        userxattr: false,
        devices: true,
    };
    let mut content = create(options, &at, None).unwrap();
    match &mut content {
        Content::Directory(form) => form.implied = MAX_IMPLIED - 2,
        Content::Erofs(form) => form.implied = MAX_IMPLIED - 2,
    }
    let tar = Tar::default()
        .file("a/b/f", b"")
        .file("a/c/f", b"")
        .finish();
    let error = unpack(&mut tar.as_slice(), Ending::Any, content).unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry \"a/c/f\": it has files in more than 1048576 directories that it does not contain"
    );
}

fn attributes_are_kept_and_foreign_ones_dropped(form: FormKind) {
    let dir = tempfile::tempdir().unwrap();
    // cap_net_raw+ep with a newline in its value.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0";
    let layer = Tar::default()
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
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.security.selinux", b"label"),
        ])
        .member(&Member {
            name: b"d/tool",
            mode: 0o4755,
            data: b"bin",
            ..Member::default()
        })
        .device(b'3', "d/null", (1, 3))
        .device(b'4', "d/loop", (7, 9))
        .device(b'6', "d/fifo", (0, 0))
        .member(&Member {
            kind: b'2',
            name: b"d/s",
            link: b"tool",
            owner: (5, 6),
            ..Member::default()
        })
        .hardlink("d/tool2", "d/tool")
        .dir("d/later", 0o700)
        .file("d/later/x", b"")
        .finish();
    let path = unpacked(form, dir.path(), layer);
    let tool = path.join("d/tool").metadata().unwrap();
    assert_eq!(
        (tool.uid(), tool.gid(), tool.mode() & 0o7777),
        (70000, 80000, 0o4755)
    );
    assert_eq!(
        (tool.mtime(), tool.mtime_nsec(), tool.nlink()),
        (1_234_567_890, 123_456_789, 2)
    );
    assert_eq!(tool.ino(), path.join("d/tool2").metadata().unwrap().ino());
    assert_eq!(
        xattr(&path.join("d/tool"), "security.capability").unwrap(),
        capability
    );
    assert_eq!(xattr(&path.join("d/tool"), "user.note").unwrap(), b"a=b\nc");
    for foreign in [
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.opaque",
    ] {
        assert_eq!(xattr(&path.join("d/tool"), foreign), None, "{foreign}");
    }
    let d = path.join("d").metadata().unwrap();
    assert_eq!(
        (d.mtime(), d.mtime_nsec(), d.mode() & 0o7777),
        (1_600_000_000, 500_000_000, 0o1777)
    );
    assert_eq!(
        path.join("d/later").metadata().unwrap().mtime(),
        1_700_000_000,
        "put back after its child"
    );
    assert_eq!(xattr(&path.join("d"), "user.note").unwrap(), b"dir");
    assert_eq!(
        path.join("d/null").metadata().unwrap().rdev(),
        rustix::fs::makedev(1, 3)
    );
    assert_eq!(
        path.join("d/loop").metadata().unwrap().rdev(),
        rustix::fs::makedev(7, 9)
    );
    assert_eq!(path.join("d/fifo").metadata().unwrap().mode(), 0o010_644);
    let s = path.join("d/s").symlink_metadata().unwrap();
    assert_eq!((s.uid(), s.gid(), s.mtime()), (5, 6, 1_700_000_000));
}

/// All that one sees of a tree, by path.
fn view(root: &Path) -> std::collections::BTreeMap<PathBuf, String> {
    let mut seen = std::collections::BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let content = if meta.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let link = std::fs::read_link(&path).unwrap_or_default();
        let name = path.strip_prefix(root).unwrap().to_path_buf();
        seen.insert(
            name,
            format!(
                "{:o} {}:{} {}.{} {} {link:?} {}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.rdev(),
                String::from_utf8_lossy(&content)
            ),
        );
    }
    seen
}

fn stacked_layers_show_what_docker_shows(form: FormKind) {
    let lower = Tar::default()
        .dir("./", 0o755)
        .dir("etc", 0o755)
        .file("etc/gone", b"1")
        .file("etc/kept", b"2")
        .file("etc/changed", b"3")
        .dir("opaque", 0o755)
        .file("opaque/old", b"4")
        .dir("replaced", 0o755)
        .file("replaced/old", b"5")
        .dir("removed/deep", 0o755)
        .finish();
    let upper = Tar::default()
        .member(&Member {
            kind: b'5',
            name: b".",
            mode: 0o711,
            owner: (3, 4),
            ..Member::default()
        })
        .file("etc/.wh.gone", b"")
        .file("etc/changed", b"new")
        .dir("opaque", 0o700)
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"6")
        .file(".wh.replaced", b"")
        .file("replaced/new", b"7")
        .dir("early", 0o755)
        .file(".wh.early", b"")
        .file(".wh.removed", b"")
        .file(".wh..wh.aufs", b"")
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(&dir.path().join("data"), Some(form)).unwrap();
    let images = load(&store, &docker_archive(&["two"], &[lower, upper])).unwrap();
    let snapshot = store.create_snapshot("c", &images[0], (0, 0)).unwrap();
    assert_eq!(snapshot.layers.len(), 2);
    let names: Vec<_> = overlay_view(&snapshot, dir.path())
        .into_iter()
        .map(|(path, text)| (path.to_str().unwrap().to_owned(), text))
        .collect();
    let find = |name: &str| {
        names
            .iter()
            .find(|(path, _)| path == name)
            .map(|(_, text)| text.as_str())
    };
    assert_eq!(find("etc/gone"), None);
    assert!(find("etc/kept").unwrap().ends_with(" 2"));
    assert!(find("etc/changed").unwrap().ends_with(" new"));
    assert_eq!(find("opaque/old"), None);
    assert!(find("opaque/new").is_some());
    assert_eq!(
        find("replaced/old"),
        None,
        "a whiteout and a directory in one layer"
    );
    assert!(find("replaced/new").is_some());
    assert!(find("early").is_some());
    assert_eq!(find("removed"), None);
    assert!(
        find("").unwrap().starts_with("40711 3:4 "),
        "{:?}",
        find("")
    );
    assert!(
        !names.iter().any(|(path, _)| path.contains(".wh.")),
        "{names:?}"
    );
}

/// Mounts the snapshot where only this thread sees it.
fn overlay_view(
    snapshot: &crate::Snapshot,
    dir: &Path,
) -> std::collections::BTreeMap<PathBuf, String> {
    use rustix::mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, mount, mount_change, move_mount,
    };
    let at = dir.join("merged");
    std::fs::create_dir(&at).unwrap();
    let layers: Vec<_> = snapshot.layers.iter().map(mounted).collect();
    let end = format!(
        "upperdir={},workdir={},{}",
        snapshot.upper.display(),
        snapshot.work.display(),
        snapshot.options.join(",")
    );
    let places = dir.join("layers");
    std::thread::spawn(move || {
        #[allow(deprecated)]
        rustix::thread::unshare(
            rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS,
        )
        .expect("a mount namespace (these tests need root)");
        mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .unwrap();
        // An overlay wants its layers mounted in this namespace.
        let mut lower = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let mut place = layer.to_path_buf();
            if let Some(mount) = layer.descriptor() {
                place = places.join(index.to_string());
                std::fs::create_dir_all(&place).unwrap();
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(mount, "", rustix::fs::CWD, &place, flags).unwrap();
            }
            lower.push(place.to_str().unwrap().to_owned());
        }
        let options = format!("lowerdir={},{end}\0", lower.join(":"));
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).unwrap();
        mount("overlay", &at, "overlay", MountFlags::empty(), options).unwrap();
        view(&at)
    })
    .join()
    .unwrap()
}

fn an_opaque_root_ends_the_chain(form: FormKind) {
    let lower = Tar::default().file("old", b"1").finish();
    let upper = Tar::default()
        .file(".wh..wh..opq", b"")
        .file("new", b"2")
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(&dir.path().join("data"), Some(form)).unwrap();
    let images = load(&store, &docker_archive(&["two"], &[lower, upper])).unwrap();
    let snapshot = store.create_snapshot("c", &images[0], (0, 0)).unwrap();
    assert_eq!(snapshot.layers.len(), 1);
    assert!(overlay_view(&snapshot, dir.path()).contains_key(Path::new("new")));
}

/// What tar reads from a real tree is what the layer shows.
fn a_tree_packed_by_gnu_tar_comes_out_the_same(form: FormKind) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let script = "mkdir -p $0/a/b && cd $0 && echo one > a/one && ln a/one a/b/two && ln -s ../one a/b/three && \
        chmod 4711 a/one && chown 12:34 a/b && mkfifo a/pipe && mknod a/dev c 1 5 && touch -d '2001-02-03 04:05:06.789' a/b \
        && truncate -s 9M a/sparse && echo mid | dd of=a/sparse bs=1 seek=4000000 conv=notrunc status=none && \
        echo end | dd of=a/sparse bs=1 seek=8388608 conv=notrunc status=none && for i in $(seq 40); do \
        echo x | dd of=a/many bs=1 seek=$((i*70000)) conv=notrunc status=none; done; \
        touch a/$(printf 'n%.0s' $(seq 200))";
    let run = |program: &str, args: &[&str]| {
        let output = std::process::Command::new(program)
            .args(args)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    let source_text = source.to_str().unwrap();
    run("sh", &["-ec", script, source_text]);
    for (index, format) in [
        &["--format=gnu"][..],
        &["--format=posix"],
        &["--format=gnu", "-S"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
    ]
    .into_iter()
    .enumerate()
    {
        let archive = run(
            "tar",
            &[&["-C", source_text][..], format, &["-c", "a"]].concat(),
        );
        let to = dir.path().join(index.to_string());
        std::fs::create_dir(&to).unwrap();
        let path = unpacked(form, &to, archive);
        let (mut want, mut got) = (view(&source), view(&path));
        want.remove(Path::new(""));
        got.remove(Path::new(""));
        if format[0] == "--format=gnu" {
            // Whole seconds only.
            for seen in [&mut want, &mut got] {
                for text in seen.values_mut() {
                    let start = text.find('.').unwrap();
                    let end = start + text[start..].find(' ').unwrap();
                    text.replace_range(start..end, "");
                }
            }
        }
        for (name, text) in &want {
            assert!(got.get(name) == Some(text), "{format:?} {name:?}");
        }
        assert_eq!(want.len(), got.len());
        if format.contains(&"-S") {
            let sparse = std::fs::File::open(path.join("a/sparse")).unwrap();
            let data = rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Data(0)).unwrap();
            assert!(data > 3_900_000, "holes are kept");
        }
    }
}
