//! `mounts`, the root and what is hidden (config.md, "Mounts"; config-linux.md), as
//! the container's mountinfo shows them.
#![allow(
    clippy::needless_pass_by_value,
    clippy::print_stderr,
    clippy::unwrap_used
)]

mod common;

use common::bundle::Bundle;
use serde_json::{Value, json};

const SHOW: &str = "cut -d' ' -f5- /proc/self/mountinfo | grep -E '^/m( |/)'; ";

/// What a script says about a mount at /m.
fn said(bundle: &mut Bundle, mount: Value, script: &str) -> String {
    let mut mount = mount;
    mount["destination"] = json!("/m");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|other| other["destination"] != "/m");
    mounts.push(mount);
    bundle.config["process"]["args"] = json!(["sh", "-c", format!("{SHOW}{script}")]);
    let output = bundle.ok(&["run", "a"]);
    bundle.assert_empty();
    output
}

/// A directory of the host with a file in it.
fn source(bundle: &Bundle) -> String {
    let source = bundle.path().join("source");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("file"), "data\n").unwrap();
    source.to_str().unwrap().to_owned()
}

#[test]
fn options_of_a_bind_mount() {
    let mut bundle = Bundle::new(&["true"]);
    let source = source(&bundle);
    for (options, shown) in [
        (json!(["bind"]), "rw,relatime"),
        (json!(["bind", "ro"]), "ro,relatime"),
        (json!(["bind", "ro", "rw"]), "rw,relatime"),
        (
            json!(["bind", "nosuid", "nodev", "noexec"]),
            "rw,nosuid,nodev,noexec,relatime",
        ),
        (
            json!(["bind", "nosuid", "suid", "nodev", "dev", "noexec", "exec"]),
            "rw,relatime",
        ),
        (
            json!(["bind", "noatime", "nodiratime"]),
            "rw,noatime,nodiratime",
        ),
        (json!(["bind", "strictatime"]), "rw"),
        (json!(["bind", "nosymfollow"]), "rw,relatime,nosymfollow"),
        (
            json!(["rbind", "rro", "rnosuid", "rnodev", "rnoexec"]),
            "ro,nosuid,nodev,noexec,relatime",
        ),
        (
            json!(["rbind", "rnoatime", "rnodiratime"]),
            "rw,noatime,nodiratime",
        ),
        (json!(["rbind", "rstrictatime"]), "rw"),
        (json!(["rbind", "rnosymfollow"]), "rw,relatime,nosymfollow"),
        (json!(["rbind", "rro", "rw"]), "rw,relatime"),
        (json!(["bind", "private"]), "rw,relatime"),
        (json!(["bind", "slave"]), "rw,relatime"),
        (json!(["bind", "unbindable"]), "rw,relatime unbindable"),
        (json!(["rbind", "runbindable"]), "rw,relatime unbindable"),
        // Of the filesystem, and no matter of a view of it; as runc takes them.
        (
            json!(["bind", "async", "sync", "dirsync", "lazytime", "defaults"]),
            "rw,relatime",
        ),
    ] {
        let mount = json!({ "type": "bind", "source": source, "options": options });
        let output = said(&mut bundle, mount, "cat /m/file");
        let expected = format!("/m {shown} - ");
        assert!(output.starts_with(&expected), "{options}: {output}");
        assert!(output.ends_with("data\n"), "{output}");
    }
    for options in [json!(["bind", "shared"]), json!(["rbind", "rshared"])] {
        let mount = json!({ "type": "bind", "source": source, "options": options });
        let output = said(&mut bundle, mount, "");
        assert!(output.starts_with("/m rw,relatime shared:"), "{output}");
    }
}

/// A tree of two mounts in the container: the source with a tmpfs below it, made in
/// a mount namespace of the test's own process.
#[test]
fn recursive_words_reach_what_is_below() {
    let bundle = Bundle::new(&["true"]);
    let source = source(&bundle);
    let script = |options: &str, expected: &[&str]| {
        let mut bundle = Bundle::new(&["sh", "-c", SHOW]);
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        let options: Vec<&str> = options.split(',').collect();
        mounts.push(
            json!({ "destination": "/m", "type": "bind", "source": source, "options": options }),
        );
        bundle.save();
        let command = format!(
            "mkdir -p {source}/below && mount -t tmpfs below {source}/below && exec {} --root {} run a",
            common::BINARY,
            bundle.state().display()
        );
        let output = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &command])
            .current_dir(bundle.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = text
            .lines()
            .map(|line| line.split(" - ").next().unwrap())
            .collect();
        assert_eq!(
            lines,
            expected,
            "{options:?}: {:?}",
            String::from_utf8(output.stderr)
        );
        bundle.assert_empty();
    };
    script("bind", &["/m rw,relatime"]);
    script("rbind", &["/m rw,relatime", "/m/below rw,relatime"]);
    script("rbind,ro", &["/m ro,relatime", "/m/below rw,relatime"]);
    script("rbind,rro", &["/m ro,relatime", "/m/below ro,relatime"]);
    script(
        "rbind,rnosuid,rnodev",
        &[
            "/m rw,nosuid,nodev,relatime",
            "/m/below rw,nosuid,nodev,relatime",
        ],
    );
    script(
        "rbind,rnoexec,rexec",
        &["/m rw,relatime", "/m/below rw,relatime"],
    );
    script("rbind,rro,rw", &["/m rw,relatime", "/m/below ro,relatime"]);
    script(
        "rbind,runbindable",
        &[
            "/m rw,relatime unbindable",
            "/m/below rw,relatime unbindable",
        ],
    );
}

#[test]
fn options_of_a_filesystem() {
    let mut bundle = Bundle::new(&["true"]);
    let mut of = |options: Value, script: &str| {
        said(
            &mut bundle,
            json!({ "type": "tmpfs", "source": "mine", "options": options }),
            script,
        )
    };
    assert!(
        of(json!(["size=64k", "mode=700", "uid=5", "gid=6"]), "")
            .contains("/m rw,relatime - tmpfs mine rw,size=64k,mode=700,uid=5,gid=6")
    );
    assert!(of(json!(["sync", "dirsync", "lazytime"]), "").contains("rw,sync,dirsync,lazytime"));
    assert!(of(json!(["ro", "noexec"]), "").starts_with("/m ro,noexec,relatime - "));
    assert!(of(json!(["rro", "rnosuid"]), "").starts_with("/m ro,nosuid,relatime - "));
    assert!(of(json!(["shared"]), "").starts_with("/m rw,relatime shared:"));
    assert!(
        of(
            json!(["nosymfollow"]),
            "ln -s x /m/link; cat /m/link 2>&1; true"
        )
        .contains("Too many")
    );
}

#[test]
fn a_tmpfs_starts_with_what_it_hides() {
    let mut bundle = Bundle::new(&["true"]);
    let below = bundle.path().join("rootfs/m");
    std::fs::create_dir_all(below.join("sub")).unwrap();
    std::fs::write(below.join("sub/file"), "data\n").unwrap();
    std::os::unix::fs::symlink("sub/file", below.join("link")).unwrap();
    let mount = json!({ "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro"] });
    let output = said(&mut bundle, mount, "cat /m/link; rm /m/link 2>&1; true");
    assert!(
        output.contains("data\n") && output.contains("Read-only file system"),
        "{output}"
    );
    assert!(below.join("link").is_symlink());
}

#[test]
fn users_of_a_mount() {
    let mut bundle = Bundle::new(&["true"]);
    // tmpfs can be mapped from Linux 6.3 on, the disk's filesystem long before.
    let disk = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(disk.path().join("file"), "data\n").unwrap();
    let map = |to: u32| json!([{ "containerID": 0, "hostID": to, "size": 1 }]);
    let mount = |options: Value, with_map: bool| {
        let mut mount = json!({ "type": "bind", "source": disk.path(), "options": options });
        if with_map {
            mount["uidMappings"] = map(777);
            mount["gidMappings"] = map(888);
        }
        mount
    };
    let owner = "stat -c %u:%g /m/file";
    for options in [
        json!(["bind"]),
        json!(["bind", "idmap"]),
        json!(["rbind", "ridmap"]),
    ] {
        bundle.config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| m["destination"] != "/m");
        let output = said(&mut bundle, mount(options, true), owner);
        assert!(
            output.contains("idmapped") && output.ends_with("777:888\n"),
            "{output}"
        );
    }
    // The container's own mapping, when the mount has none.
    let maps = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({ "type": "user" }));
    bundle.set(&[
        ("/linux/uidMappings", maps.clone()),
        ("/linux/gidMappings", maps),
    ]);
    for options in [json!(["bind", "idmap"]), json!(["rbind", "ridmap"])] {
        let output = said(&mut bundle, mount(options, false), owner);
        assert!(
            output.contains("idmapped") && output.ends_with("0:0\n"),
            "{output}"
        );
    }
    let output = said(&mut bundle, mount(json!(["bind"]), false), owner);
    assert!(
        !output.contains("idmapped") && output.ends_with("65534:65534\n"),
        "{output}"
    );
}

#[test]
fn mistakes_are_told() {
    let mut bundle = Bundle::new(&["true"]);
    let source = source(&bundle);
    for (mount, words) in [
        (
            json!({ "type": "bind", "source": source, "options": ["bind", "size=1"] }),
            "\"size\" is not an option of a bind mount",
        ),
        (
            json!({ "type": "bind", "source": source, "options": ["bind", "idmap"] }),
            "must have both uid and gid mappings",
        ),
        (
            json!({ "type": "tmpfs", "source": "x", "options": ["idmap"] }),
            "only bind mounts can be idmapped",
        ),
        (
            json!({ "type": "tmpfs", "source": "x", "options": ["bogus"] }),
            "bogus",
        ),
        (
            json!({ "type": "nosuchfs", "source": "x" }),
            "no such device",
        ),
        (
            json!({ "type": "bind", "source": "/no/such" }),
            "no such file or directory",
        ),
        (json!({ "source": "x" }), "no type"),
    ] {
        let mut mount = mount;
        mount["destination"] = json!("/m");
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|other| other["destination"] != "/m");
        mounts.push(mount);
        let error = bundle.fails(&["run", "a"]);
        assert!(
            error.contains("to rootfs at \"/m\"") && error.contains(words),
            "{error}"
        );
        bundle.assert_empty();
    }
}

#[test]
fn root() {
    let script = "cut -d' ' -f5-7 /proc/self/mountinfo | grep '^/ '; touch /x 2>&1";
    let root = |propagation: &str, readonly: bool| {
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        bundle.set(&[
            ("/linux/rootfsPropagation", json!(propagation)),
            ("/root/readonly", json!(readonly)),
        ]);
        let output = bundle.output(&["run", "a"]);
        bundle.assert_empty();
        String::from_utf8(output.stdout).unwrap()
    };
    for word in ["private", "rprivate", "slave", "rslave"] {
        assert_eq!(root(word, false), "/ rw,relatime -\n", "{word}");
    }
    for word in ["shared", "rshared"] {
        assert!(
            root(word, false).starts_with("/ rw,relatime shared:"),
            "{word}"
        );
    }
    for word in ["unbindable", "runbindable"] {
        assert_eq!(root(word, false), "/ rw,relatime unbindable\n", "{word}");
    }
    let output = root("", true);
    assert!(
        output.starts_with("/ ro,") && output.contains("Read-only"),
        "{output}"
    );
}

#[test]
fn hidden_and_read_only_paths() {
    let script =
        "cat /secret /proc/1/limits; ls /hidden; echo x > /fixed/file; echo $?; cat /fixed/file";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    let rootfs = bundle.path().join("rootfs");
    for directory in ["hidden", "fixed"] {
        std::fs::create_dir(rootfs.join(directory)).unwrap();
        std::fs::write(rootfs.join(directory).join("file"), "data\n").unwrap();
    }
    std::fs::write(rootfs.join("secret"), "secret\n").unwrap();
    bundle.set(&[
        (
            "/linux/maskedPaths",
            json!(["/secret", "/proc/1/limits", "/hidden", "/no/such"]),
        ),
        ("/linux/readonlyPaths", json!(["/fixed", "/no/such"])),
    ]);
    assert_eq!(bundle.ok(&["run", "a"]), "1\ndata\n");
    bundle.assert_empty();
}

#[test]
fn device_nodes() {
    let show = "for d in $*; do stat -c '%F %t:%T %a %u:%g' $d; done";
    let nodes = |devices: Value, paths: &[&str]| {
        let mut args = vec!["sh", "-c", show, "sh"];
        args.extend(paths);
        let mut bundle = Bundle::new(&args);
        bundle.set(&[("/linux/devices", devices)]);
        let output = bundle.ok(&["run", "a"]);
        bundle.assert_empty();
        output
    };
    let devices = json!([
        { "path": "/dev/c", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6 },
        { "path": "/dev/u", "type": "u", "major": 1, "minor": 5 },
        { "path": "/dev/b", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600 },
        { "path": "/dev/p", "type": "p", "fileMode": 0o622 },
        { "path": "/made/for/it", "type": "c", "major": 1, "minor": 7 },
        // One that every container has, but otherwise.
        { "path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "fileMode": 0o444, "gid": 9 },
    ]);
    let output = nodes(
        devices,
        &[
            "/dev/c",
            "/dev/u",
            "/dev/b",
            "/dev/p",
            "/made/for/it",
            "/dev/zero",
            "/dev/null",
        ],
    );
    let expected = "\
character special file 1:3 640 5:6
character special file 1:5 666 0:0
block special file 7:0 600 0:0
fifo 0:0 622 0:0
character special file 1:7 666 0:0
character special file 1:5 444 0:9
character special file 1:3 666 0:0
";
    assert_eq!(output, expected);
    let mut bundle = Bundle::new(&["true"]);
    for (device, words) in [
        (
            json!({ "path": "/dev/x", "type": "a" }),
            "type \"a\" is no type of a node",
        ),
        (
            json!({ "path": "/dev/x", "type": "z" }),
            "linux.devices[0].type",
        ),
        (
            json!({ "path": "/dev/x", "type": "c", "major": -1, "minor": 3 }),
            "-1 is not a device number",
        ),
        (
            json!({ "path": "/bin/busybox", "type": "c", "major": 1, "minor": 3 }),
            "make device /bin/busybox: file exists",
        ),
    ] {
        bundle.set(&[("/linux/devices", json!([device]))]);
        let error = bundle.fails(&["run", "a"]);
        assert!(error.contains(words), "{error}");
        bundle.assert_empty();
    }
    // One that is there and is the right one is taken.
    if rustix::fs::mknodat(
        rustix::fs::CWD,
        bundle.path().join("rootfs/node"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o600),
        rustix::fs::makedev(1, 3),
    )
    .is_ok()
    {
        bundle.set(&[(
            "/linux/devices",
            json!([{ "path": "/node", "type": "c", "major": 1, "minor": 3 }]),
        )]);
        bundle.ok(&["run", "a"]);
        bundle.assert_empty();
    } else {
        eprintln!("SKIPPED: no device nodes can be made here");
    }
}
