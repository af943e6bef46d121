//! Images whose files are not what a runtime expects: each known way out, tried
//! with the real program. More of them are in `crates/runtime/tests/container`.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Output, Stdio};

use common::bundle::Bundle;
use common::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

/// What stands where something else should be.
#[derive(Clone, Copy, Debug)]
enum Evil {
    /// To a directory of the host.
    AbsoluteLink,
    ClimbingLink,
    /// To a file of the host.
    FileLink,
    Dangling,
    Loop,
    /// Whoever opens it waits for ever.
    Fifo,
    File,
    Directory,
    Socket,
}

const ALL: [Evil; 9] = [
    Evil::AbsoluteLink,
    Evil::ClimbingLink,
    Evil::FileLink,
    Evil::Dangling,
    Evil::Loop,
    Evil::Fifo,
    Evil::File,
    Evil::Directory,
    Evil::Socket,
];

impl Evil {
    fn put(self, at: &Path, outside: &Path) {
        if fs::symlink_metadata(at).is_ok_and(|found| found.is_dir()) {
            fs::remove_dir_all(at).unwrap();
        } else {
            let _ = fs::remove_file(at);
        }
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let climbing = format!("../../../../../../../../..{}", outside.display());
        match self {
            Self::AbsoluteLink => symlink(outside, at).unwrap(),
            Self::ClimbingLink => symlink(climbing, at).unwrap(),
            Self::FileLink => symlink(outside.join("file"), at).unwrap(),
            Self::Dangling => symlink(outside.join("new"), at).unwrap(),
            Self::Loop => symlink(at.file_name().unwrap(), at).unwrap(),
            Self::Fifo => mknodat(CWD, at, FileType::Fifo, Mode::from(0o666), 0).unwrap(),
            Self::File => fs::write(at, "fake").unwrap(),
            Self::Directory => fs::create_dir(at).unwrap(),
            Self::Socket => drop(UnixListener::bind(at).unwrap()),
        }
    }
}

/// Runs `program` with each evil thing at `path` of the image. The container may
/// start or be refused, but at once, and nothing of the host changes.
fn contained(path: &str, program: &[&str], change: impl Fn(&mut Bundle)) -> Vec<(Evil, Output)> {
    let one = |evil: Evil| {
        let mut bundle = Bundle::new(program);
        let outside = bundle.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "the host's").unwrap();
        change(&mut bundle);
        evil.put(&bundle.rootfs().join(path), &outside);
        let before = snapshot(&outside);
        let child = (bundle.command(&["run", "a"]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = ended(child, &format!("{path} as {evil:?} ends"));
        assert_eq!(snapshot(&outside), before, "{path} as {evil:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            !text.contains("the host's"),
            "{path} as {evil:?}: {output:?}"
        );
        let error = String::from_utf8_lossy(&output.stderr);
        if error.starts_with("berth-runtime: ") {
            assert_eq!(error.lines().count(), 1, "{path} as {evil:?}: {error}");
        }
        bundle.assert_empty();
        assert_no_mounts(bundle.path());
        (evil, output)
    };
    ALL.map(one).into()
}

/// The container's own view of what a runtime gives it.
const LOOK: [&str; 3] = [
    "sh",
    "-c",
    "grep -q '^proc /proc proc ' /proc/mounts && test -e /proc/1/status && \
     echo x > /dev/null && test ! -s /dev/null && cat /dev/null && echo sound",
];

/// Whoever runs has a real /proc and real devices.
fn sound(results: &[(Evil, Output)]) {
    for (evil, output) in results {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            !output.status.success() || text == "sound\n",
            "{evil:?}: {output:?}"
        );
    }
}

fn without_mount(bundle: &mut Bundle, destination: &str) {
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != destination);
}

/// Without a tmpfs on /dev, and what lies in it: the image's own counts.
fn with_own_dev(bundle: &mut Bundle) {
    for destination in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        without_mount(bundle, destination);
    }
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642.
#[test]
fn cve_2019_19921_proc_of_the_image() {
    let results = contained("proc", &LOOK, |_| {});
    sound(&results);
    for (evil, output) in results {
        let refused = !output.status.success();
        assert_eq!(
            refused,
            !matches!(evil, Evil::Directory),
            "{evil:?}: {output:?}"
        );
    }
}

#[test]
fn cve_2019_19921_sys_of_the_image() {
    sound(&contained("sys", &LOOK, |_| {}));
}

/// CVE-2026-41579, CVE-2026-47766.
#[test]
fn cve_2026_41579_dev_of_the_image() {
    sound(&contained("dev", &LOOK, |_| {}));
    sound(&contained("dev", &LOOK, with_own_dev));
}

#[test]
fn cve_2025_31133_null_of_the_image() {
    // A masked file is empty, whatever the image calls /dev/null.
    let program = [
        "sh",
        "-c",
        "test -c /dev/null && ! grep . /masked/file && ! echo x > /masked/file && \
         test \"$(ls -A /masked/dir)\" = '' && echo hidden",
    ];
    let results = contained("dev/null", &program, |bundle| {
        with_own_dev(bundle);
        fs::create_dir_all(bundle.rootfs().join("masked/dir")).unwrap();
        fs::write(bundle.rootfs().join("masked/file"), "masked\n").unwrap();
        fs::write(bundle.rootfs().join("masked/dir/file"), "masked\n").unwrap();
        bundle.config["linux"]["maskedPaths"] = json!(["/masked/file", "/masked/dir"]);
    });
    for (evil, output) in results {
        assert!(
            !output.status.success(),
            "{evil:?} was taken for the null device: {output:?}"
        );
    }
}

#[test]
fn cve_2025_31133_masked_path_of_the_image() {
    for path in ["masked", "masked/file"] {
        contained(path, &["cat", "/masked", "/masked/file"], |bundle| {
            bundle.config["linux"]["maskedPaths"] = json!(["/masked", "/masked/file"]);
            bundle.config["linux"]["readonlyPaths"] = json!(["/masked", "/masked/file"]);
        });
    }
}

/// With a terminal: its other side is bound on /dev/console.
fn with_terminal(bundle: &mut Bundle) {
    bundle.config["process"]["terminal"] = json!(true);
}

#[test]
fn cve_2025_52565_console_of_the_image() {
    contained("dev/console", &["true"], |bundle| {
        with_own_dev(bundle);
        bundle.mount(json!({
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666"],
        }));
        with_terminal(bundle);
    });
}

#[test]
fn cve_2025_52565_pts_of_the_image() {
    for path in [
        "dev/pts",
        "dev/pts/ptmx",
        "dev/ptmx",
        "dev/tty",
        "dev/pts/0",
    ] {
        let results = contained(path, &["true"], |bundle| {
            with_own_dev(bundle);
            with_terminal(bundle);
        });
        for (evil, output) in results {
            assert!(
                !output.status.success(),
                "{path}: {evil:?} gave a terminal: {output:?}"
            );
        }
    }
}

#[test]
fn other_places_of_the_image() {
    for path in [
        "dev/fd",
        "dev/stdin",
        "dev/core",
        "dev/zero",
        "dev/shm",
        "dev/mqueue",
        "dev/ptmx",
        "sys/fs/cgroup",
        "tmp",
    ] {
        contained(path, &["true"], |bundle| {
            if path.starts_with("dev/") && !path.ends_with("shm") && !path.ends_with("mqueue") {
                with_own_dev(bundle);
            }
        });
    }
}

/// A name is looked up in the image's own files, which may be anything.
#[test]
fn users_of_the_image() {
    for path in ["etc/passwd", "etc/group", "etc"] {
        contained(path, &["sh", "-c", "echo $HOME"], |bundle| {
            bundle.config["process"]["user"] =
                json!({ "uid": 0, "gid": 0, "username": "root:root" });
        });
        contained(path, &["sh", "-c", "echo $HOME"], |_| {});
    }
}

/// CVE-2021-30465, CVE-2024-45310: nothing is made or mounted outside.
#[test]
fn cve_2024_45310_destination_of_the_image() {
    for destination in ["/place/below/it", "place", "../place", "/tmp/../place/./y"] {
        for kind in ["bind", "file", "tmpfs", "copyup"] {
            contained("place", &["true"], |bundle| {
                let source = bundle.path().join("source");
                fs::create_dir(&source).unwrap();
                fs::write(source.join("file"), "").unwrap();
                match kind {
                    "bind" => bundle.bind(&source, destination),
                    "file" => bundle.bind(&source.join("file"), destination),
                    "tmpfs" => bundle.mount(json!({
                        "destination": destination, "type": "tmpfs", "source": "tmpfs",
                    })),
                    _ => bundle.mount(json!({
                        "destination": destination, "type": "tmpfs", "source": "tmpfs",
                        "options": ["tmpcopyup"],
                    })),
                }
            });
        }
    }
}

#[test]
fn cve_2024_45310_device_of_the_image() {
    contained("place", &["true"], |bundle| {
        bundle.config["linux"]["devices"] = json!([
            { "path": "/place/below/null", "type": "c", "major": 1, "minor": 3 },
        ]);
    });
    contained("place", &["true"], |bundle| {
        bundle.config["linux"]["devices"] = json!([
            { "path": "/place", "type": "c", "major": 1, "minor": 3 },
        ]);
    });
}

/// CVE-2024-21626.
#[test]
fn cve_2024_21626_working_directory_of_the_image() {
    for cwd in ["/place", "/place/below"] {
        contained("place", &["sh", "-c", "cat file; cat ../file"], |bundle| {
            bundle.config["process"]["cwd"] = json!(cwd);
        });
    }
}

/// CVE-2019-16884, CVE-2025-52881: nothing but a procfs lies on /proc, and nothing
/// in it, however it is named.
#[test]
fn cve_2025_52881_mounts_over_proc() {
    for destination in [
        "/proc",
        "proc",
        "/proc/",
        "/tmp/../proc",
        "/proc/self/attr",
        "/proc/1/attr/exec",
        "/proc/sys",
        "/proc/sys/kernel",
        "/link",
        "/link/kernel",
    ] {
        for kind in ["bind", "tmpfs"] {
            let mut bundle = Bundle::new(&["true"]);
            symlink("/proc/sys", bundle.rootfs().join("link")).unwrap();
            let source = bundle.path().join("source");
            fs::create_dir_all(source.join("kernel")).unwrap();
            match kind {
                "bind" => bundle.bind(&source, destination),
                _ => bundle.mount(json!({
                    "destination": destination, "type": "tmpfs", "source": "tmpfs",
                })),
            }
            let output = bundle.output(&["run", "a"]);
            assert!(!output.status.success(), "{kind} at {destination}");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                error.contains("cannot be mounted because it is") || error.contains("attr/exec"),
                "{destination}: {error}"
            );
            // Without any procfs too.
            if destination.ends_with("proc") {
                let mounts = bundle.config["mounts"].as_array_mut().unwrap();
                mounts.retain(|mount| mount["type"] != "proc");
                assert!(bundle.fails(&["run", "a"]).contains("not of type proc"));
            }
            bundle.assert_empty();
        }
    }
    // What lxcfs does, and a procfs from elsewhere.
    let mut bundle = Bundle::new(&["cat", "/proc/uptime"]);
    let source = bundle.path().join("uptime");
    fs::write(&source, "1 1\n").unwrap();
    bundle.bind(&source, "/proc/uptime");
    assert_eq!(bundle.ok(&["run", "a"]), "1 1\n");
    let mut bundle = Bundle::new(&["true"]);
    without_mount(&mut bundle, "/proc");
    bundle.bind(Path::new("/proc"), "/proc");
    bundle.ok(&["run", "a"]);
}

/// Files of another kind below a source are the container's to have, and no one
/// waits for them.
#[test]
fn sources_of_any_kind() {
    for evil in [Evil::Fifo, Evil::Socket, Evil::Loop, Evil::Dangling] {
        let mut bundle = Bundle::new(&["test", "-e", "/place"]);
        let outside = bundle.path().join("outside");
        let source = bundle.path().join("source");
        evil.put(&source, &outside);
        bundle.bind(&source, "/place");
        let child = bundle
            .command(&["run", "a"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let output = ended(child.unwrap(), "it ends");
        let special = fs::metadata(&source).is_ok_and(|found| {
            let kind = found.file_type();
            kind.is_fifo() || kind.is_socket()
        });
        assert_eq!(output.status.success(), special, "{evil:?}: {output:?}");
        bundle.assert_empty();
    }
}

/// Else the attacks above would prove nothing.
#[test]
fn an_honest_image_is_sound() {
    let bundle = Bundle::new(&LOOK);
    assert_eq!(bundle.ok(&["run", "a"]), "sound\n");
    let mut bundle = Bundle::new(&LOOK);
    with_own_dev(&mut bundle);
    assert_eq!(bundle.ok(&["run", "a"]), "sound\n");
}
