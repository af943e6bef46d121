//! CVE-2019-5736: a container that is told to execute `/proc/self/exe` runs this
//! program, and must not be able to write it, now or when it has ended; whatever
//! the way in which it is protected.

// A failure here fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use berth_sys::mount::{MOUNT_ATTR_RDONLY, MountAttr, mount_setattr};
use common::BINARY;
use common::bundle::Bundle;
use rustix::fs::{AtFlags, Mode, OFlags, Timestamps, fcntl_get_seals, open, utimensat};
use rustix::io::Errno;
use rustix::mount::{
    FsPickFlags, MountFlags, OpenTreeFlags, fspick, mount_bind, mount_remount, open_tree,
};
use serde_json::json;

/// A container whose first process is the runtime's own program, by its name in
/// there; with all privileges that a container can have.
fn bundle() -> Bundle {
    let mut bundle = Bundle::new(&["/proc/self/exe", "init", "--", "sleep", "1000"]);
    let all = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    let names: Vec<String> = serde_json::from_str::<serde_json::Value>(&bundle.ok(&["features"]))
        .unwrap()["linux"]["capabilities"]
        .as_array()
        .unwrap()
        .iter()
        .take(all.trim().parse::<usize>().unwrap() + 1)
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    // What this test lacks itself it cannot give.
    let own = rustix::thread::capabilities(None).unwrap().permitted;
    let names: Vec<_> = (names.into_iter().enumerate())
        .filter(|(number, _)| own.bits() & (1 << number) != 0)
        .map(|(_, name)| name)
        .collect();
    for set in ["bounding", "effective", "permitted"] {
        bundle.config["process"]["capabilities"][set] = json!(names);
    }
    bundle
}

/// The program of a container's first process, as a container sees it.
fn program(bundle: &Bundle) -> OwnedFd {
    let pid = &bundle.state_of("a")["pid"];
    let exe = format!("/proc/{pid}/exe");
    common::eventually("the program runs in the container", || {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        arguments.starts_with(b"/proc/self/exe\0").then_some(())
    });
    open(exe, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Every way to write a file by its descriptor, with the error that each gives.
fn writes(file: BorrowedFd<'_>) -> Vec<(&'static str, Errno)> {
    let path = &path(file);
    let write = |options: &mut OpenOptions| {
        let written = options.open(path).and_then(|mut file| file.write(b"x"));
        errno(&written.unwrap_err())
    };
    let truncated = OpenOptions::new().write(true).open(path);
    let truncated = truncated.and_then(|file| file.set_len(0));
    vec![
        ("write", write(OpenOptions::new().write(true))),
        (
            "read and write",
            write(OpenOptions::new().read(true).write(true)),
        ),
        ("append", write(OpenOptions::new().append(true))),
        ("truncate", errno(&truncated.unwrap_err())),
    ]
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap()
}

/// A copy of the program that nobody else executes, as that too is an obstacle
/// to those who would write it. On a filesystem that programs are executed from.
struct Program(tempfile::TempDir);

impl Program {
    fn new() -> Self {
        let program = Self(tempfile::tempdir_in("/var/tmp").unwrap());
        std::fs::copy(BINARY, program.path()).unwrap();
        program
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("berth-runtime")
    }

    /// Number, mode, time of modification, content.
    fn state(&self) -> (u64, u32, i64, Vec<u8>) {
        let metadata = std::fs::metadata(self.path()).unwrap();
        let bytes = std::fs::read(self.path()).unwrap();
        (
            metadata.ino(),
            metadata.mode(),
            metadata.mtime_nsec(),
            bytes,
        )
    }

    /// Runs the bundle as "a", detached; `before` is a shell command in a mount
    /// namespace of its own, of the program's directory `$1`.
    fn run(&self, bundle: &Bundle, before: &str) {
        bundle.save();
        let status = Command::new("unshare")
            .args(["--mount", "sh", "-ec"])
            .arg(format!(
                "{before}; exec \"$2\" --root \"$3\" run -d --bundle \"$4\" a"
            ))
            .arg("sh")
            .args([self.0.path(), &self.path(), &bundle.state(), bundle.path()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }
}

#[test]
fn a_program_in_a_dissolved_mount_cannot_be_written() {
    let file = Program::new();
    let before = file.state();
    let bundle = bundle();
    file.run(&bundle, ":");
    let program = program(&bundle);
    let found = rustix::fs::fstat(&program).unwrap();
    assert_eq!(found.st_ino, before.0, "no copy is made");

    for (what, error) in writes(program.as_fd()) {
        assert!(
            matches!(error, Errno::ROFS | Errno::TXTBSY),
            "{what}: {error}"
        );
    }
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
    // Nobody executes it any more, which alone would be an obstacle.
    for (what, error) in writes(program.as_fd()) {
        assert_eq!(error, Errno::ROFS, "{what}");
    }
    let mode = Permissions::from_mode(0o777);
    let error = std::fs::set_permissions(path(program.as_fd()), mode).unwrap_err();
    assert_eq!(errno(&error), Errno::ROFS);
    let times = Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 1,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 1,
        },
    };
    let error = utimensat(
        rustix::fs::CWD,
        path(program.as_fd()),
        &times,
        AtFlags::empty(),
    );
    assert_eq!(error, Err(Errno::ROFS));

    // The mount cannot be changed, used anew, or lead to its filesystem.
    let writable = MountAttr {
        clear: MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    let error = mount_setattr(program.as_fd(), &writable, false).unwrap_err();
    assert_eq!(errno(&error), Errno::INVAL);
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    for flags in [clone, clone | OpenTreeFlags::AT_RECURSIVE] {
        assert_eq!(open_tree(&program, "", flags).unwrap_err(), Errno::INVAL);
    }
    let flags = FsPickFlags::FSPICK_EMPTY_PATH;
    assert_eq!(fspick(&program, "", flags).unwrap_err(), Errno::INVAL);
    let by_number = path(program.as_fd());
    let other = bundle.path().join("other");
    File::create(&other).unwrap();
    assert_eq!(mount_bind(&by_number, &other), Err(Errno::INVAL));
    let flags = MountFlags::BIND;
    assert_eq!(mount_remount(&by_number, flags, ""), Err(Errno::INVAL));
    assert_eq!(
        mount_remount(&by_number, MountFlags::empty(), ""),
        Err(Errno::INVAL)
    );

    assert_eq!(file.state(), before, "the host's file has changed");
}

/// As where the program lies on a mount that cannot be cloned; or nothing may be
/// mounted at all.
#[test]
fn without_a_mount_the_program_is_a_sealed_copy() {
    let file = Program::new();
    let before = file.state();
    let bundle = bundle();
    let unbindable = "mount --bind \"$1\" \"$1\"; mount --make-unbindable \"$1\"";
    file.run(&bundle, unbindable);
    let program = program(&bundle);
    let found = rustix::fs::readlinkat(rustix::fs::CWD, path(program.as_fd()), Vec::new());
    let found = found.unwrap().into_string().unwrap();
    assert!(found.starts_with("/memfd:berth-runtime"), "{found}");

    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
    for (what, error) in writes(program.as_fd()) {
        assert_eq!(error, Errno::PERM, "{what}");
    }
    let readable = File::open(path(program.as_fd())).unwrap();
    assert!(!fcntl_get_seals(&readable).unwrap().is_empty());
    assert_eq!(file.state(), before, "the host's file has changed");
}
