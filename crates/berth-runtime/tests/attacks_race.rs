//! Somebody exchanges directories, links and files of a volume or of the root while
//! containers are made: what was looked at must be what is used.
//!
//! The other one is a thread that renames with `RENAME_EXCHANGE` until the rounds
//! are over; how often it hits the moment is chance, that nothing happens is not.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::bundle::Bundle;
use common::*;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use serde_json::json;

const ROUNDS: usize = 16;

/// What the container's program finds in a directory of the host.
const SECRET: &str = "the host's";

/// A bundle with a volume at /vol, in which `a` and `b` change places.
struct Race {
    bundle: Bundle,
    outside: PathBuf,
    volume: PathBuf,
}

impl Race {
    fn new(program: &[&str]) -> Self {
        let mut bundle = Bundle::new(program);
        let outside = bundle.path().join("outside");
        let volume = bundle.path().join("volume");
        for dir in [&outside, &volume] {
            fs::create_dir(dir).unwrap();
        }
        fs::create_dir(outside.join("below")).unwrap();
        for file in ["file", "below/file"] {
            fs::write(outside.join(file), SECRET).unwrap();
        }
        bundle.bind(&volume, "/vol");
        Self {
            bundle,
            outside,
            volume,
        }
    }

    /// An honest directory and a link to the host.
    fn directory_and_link(&self) -> [PathBuf; 2] {
        let [a, b] = ["a", "b"].map(|name| self.volume.join(name));
        fs::create_dir_all(a.join("below")).unwrap();
        fs::write(a.join("file"), "").unwrap();
        symlink(&self.outside, &b).unwrap();
        [a, b]
    }

    /// Makes containers while `places` change; returns how many have run.
    fn run(&self, places: &[PathBuf; 2]) -> usize {
        let before = snapshot(&self.outside);
        let (over, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
        let ran = std::thread::scope(|scope| {
            scope.spawn(|| {
                let [a, b] = places;
                while !over.load(Ordering::Relaxed) {
                    if renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            let ran = (0..ROUNDS).filter(|_| self.once()).count();
            over.store(true, Ordering::Relaxed);
            ran
        });
        assert!(swaps.into_inner() > 0, "nothing was exchanged");
        assert_eq!(snapshot(&self.outside), before);
        assert_no_mounts(self.bundle.path());
        self.bundle.assert_empty();
        ran
    }

    fn once(&self) -> bool {
        let child = (self.bundle.command(&["run", "a"]))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let output = ended(child.unwrap(), "it ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!text.contains(SECRET), "{output:?}");
        output.status.success()
    }
}

#[test]
fn cve_2021_30465_destination_in_a_volume() {
    for below in ["", "/below", "/made/by/us"] {
        let mut race = Race::new(&["sh", "-c", "cat /vol/a/file /vol/b/file; true"]);
        let places = race.directory_and_link();
        let source = race.bundle.path().join("source");
        fs::create_dir(&source).unwrap();
        race.bundle.bind(&source, &format!("/vol/a{below}"));
        race.bundle.mount(json!({
            "destination": format!("/vol/b{below}"), "type": "tmpfs", "source": "tmpfs",
        }));
        race.run(&places);
    }
}

#[test]
fn cve_2021_30465_file_destination_in_a_volume() {
    let mut race = Race::new(&["true"]);
    let places = race.directory_and_link();
    let source = race.bundle.path().join("source");
    fs::write(&source, "").unwrap();
    race.bundle.bind(&source, "/vol/a/file");
    race.bundle.bind(&source, "/vol/a/new");
    race.run(&places);
}

#[test]
fn cve_2024_45310_directories_are_made_in_a_volume() {
    let mut race = Race::new(&["true"]);
    let places = race.directory_and_link();
    race.bundle.config["process"]["cwd"] = json!("/vol/a/deep/er");
    race.bundle.config["linux"]["devices"] = json!([
        { "path": "/vol/a/devices/null", "type": "c", "major": 1, "minor": 3 },
        { "path": "/vol/b/devices/pipe", "type": "p" },
    ]);
    race.run(&places);
}

#[test]
fn cve_2024_21626_working_directory_in_a_volume() {
    let mut race = Race::new(&["sh", "-c", "cat file ../file below/file; true"]);
    let places = race.directory_and_link();
    race.bundle.config["process"]["cwd"] = json!("/vol/a");
    // Both names lead to something: it runs each time, but never outside.
    race.run(&places);
}

#[test]
fn cve_2025_31133_masked_paths_in_a_volume() {
    let mut race = Race::new(&["sh", "-c", "cat /vol/a/file /vol/b/file; true"]);
    let places = race.directory_and_link();
    race.bundle.config["linux"]["maskedPaths"] =
        json!(["/vol/a", "/vol/b/file", "/vol/a/below", "/vol/b"]);
    race.bundle.config["linux"]["readonlyPaths"] = json!(["/vol/a/file", "/vol/b"]);
    race.run(&places);
}

#[test]
fn tmpfs_is_filled_from_a_volume() {
    let mut race = Race::new(&["sh", "-c", "cat /vol/c/*/file; true"]);
    let [a, b] = race.directory_and_link();
    // Inside of what is copied.
    let inner = race.volume.join("c");
    fs::create_dir(&inner).unwrap();
    let places = [inner.join("a"), inner.join("b")];
    fs::rename(a, &places[0]).unwrap();
    fs::rename(b, &places[1]).unwrap();
    race.bundle.mount(json!({
        "destination": "/vol/c", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup"],
    }));
    race.run(&places);
}

/// A file becomes a pipe under the reader.
#[test]
fn files_are_read_from_a_changing_root() {
    for name in ["passwd", "group"] {
        let mut race = Race::new(&["true"]);
        let etc = race.bundle.rootfs().join("etc");
        let places = [etc.join(name), etc.join("pipe")];
        fs::write(etc.join("group"), "root:x:0:\n").unwrap();
        mknodat(CWD, &places[1], FileType::Fifo, Mode::from(0o666), 0).unwrap();
        race.bundle.config["process"]["user"] =
            json!({ "uid": 0, "gid": 0, "username": "root:root" });
        race.run(&places);
    }
}

/// Another container of the same root.
#[test]
fn cve_2019_19921_directories_of_a_shared_root() {
    for name in ["proc", "sys", "dev"] {
        for own_dev in [false, true] {
            let script = "cat /proc/1/status /sys/kernel/uevent_seqnum > /dev/null; \
                          cat /dev/file /proc/file /sys/file; true";
            let mut race = Race::new(&["sh", "-c", script]);
            let root = race.bundle.rootfs();
            let places = [root.join(name), root.join("evil")];
            symlink(&race.outside, &places[1]).unwrap();
            if own_dev {
                let mounts = race.bundle.config["mounts"].as_array_mut().unwrap();
                mounts.retain(|mount| {
                    !Path::new(mount["destination"].as_str().unwrap()).starts_with("/dev")
                });
            }
            race.run(&places);
        }
    }
}

/// CVE-2025-52565: with a terminal, whose other side goes on /dev/console.
#[test]
fn cve_2025_52565_console_of_a_shared_root() {
    let mut race = Race::new(&["true"]);
    let mounts = race.bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/dev");
    race.bundle.config["process"]["terminal"] = json!(true);
    let dev = race.bundle.rootfs().join("dev");
    for name in ["pts", "shm", "mqueue"] {
        fs::create_dir(dev.join(name)).unwrap();
    }
    let places = [dev.join("console"), dev.join("evil")];
    fs::write(&places[0], "").unwrap();
    symlink(race.outside.join("file"), &places[1]).unwrap();
    race.run(&places);
}

/// The runtime's own state: whoever may write there is root already, but a link
/// is no container.
#[test]
fn state_directory_is_no_link() {
    let bundle = Bundle::new(&["true"]);
    let outside = bundle.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("state.json"), "{}").unwrap();
    fs::create_dir(bundle.state()).unwrap();
    symlink(&outside, bundle.state().join("a")).unwrap();
    let before = snapshot(&outside);
    for verb in ["state", "start", "kill", "pause", "delete", "events"] {
        assert!(
            bundle.fails(&[verb, "a"]).contains("does not exist"),
            "{verb}"
        );
    }
    bundle.ok(&["delete", "--force", "a"]);
    assert!(bundle.fails(&["create", "a"]).contains("already exists"));
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    assert_eq!(snapshot(&outside), before);
    // Nor are its files.
    bundle.leave(&["create", "b"]);
    let config = bundle.state().join("b/config.json");
    fs::rename(&config, outside.join("config.json")).unwrap();
    symlink(outside.join("config.json"), &config).unwrap();
    assert!(bundle.fails(&["state", "b"]).contains("config.json"));
    let state = bundle.state().join("b/state.json");
    fs::rename(&state, outside.join("real.json")).unwrap();
    mknodat(CWD, &state, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    assert!(bundle.fails(&["state", "b"]).contains("state.json"));
    fs::rename(outside.join("real.json"), &state).unwrap();
    bundle.ok(&["delete", "--force", "b"]);
    fs::remove_file(bundle.state().join("a")).unwrap();
    bundle.assert_empty();
}
