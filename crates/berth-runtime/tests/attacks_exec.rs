//! A container that lies in wait for an exec, and what its processes inherit.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::bundle::Bundle;
use common::*;

/// A file of the host that no container may see.
const SECRET: &str = "secret-of-the-host";

/// How often the container gets a chance.
const ROUNDS: usize = 60;

/// The attacker: a copy of this test program in the container, bound at `/attacker`
/// and called with `--ignored --exact`. Looks at every process that shows up until
/// `/stop` is there, and writes down what it could get hold of.
#[test]
#[ignore = "what the attacks run in their containers"]
fn role_watch() {
    assert_eq!(fs::read_to_string("/role").unwrap(), "watch");
    let own = std::process::id();
    let mut found = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    fs::write("/ready", "").unwrap();
    while !Path::new("/stop").exists() {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            if pid != own && pid != 1 {
                seen.insert(pid);
                look_at(pid, &mut found);
            }
        }
    }
    found.sort();
    found.dedup();
    fs::write("/seen", seen.len().to_string()).unwrap();
    fs::write("/found", found.join("\n")).unwrap();
}

fn look_at(pid: u32, found: &mut Vec<String>) {
    let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    for way in ["root", "cwd"] {
        if of(way).join(SECRET).exists() || of(way).join("..").join(SECRET).exists() {
            found.push(format!("{way} is the host's"));
        }
    }
    let mut places: Vec<PathBuf> = (3..24).map(|fd| of(&format!("fd/{fd}"))).collect();
    places.push(of("exe"));
    for place in places {
        if place.join(SECRET).exists() {
            found.push("a descriptor is of a directory of the host".to_owned());
        }
        let Ok(target) = fs::read_link(&place) else {
            continue;
        };
        if target.to_string_lossy().contains("berth-runtime")
            && let Ok(mut file) = fs::File::options().write(true).open(&place)
        {
            let written = std::io::Write::write_all(&mut file, b"#!/evil");
            found.push(format!("{} opened, {written:?}", target.display()));
        }
    }
    // The right to attach a debugger.
    if let Ok(mut memory) = fs::File::options().write(true).open(of("mem"))
        && fs::read_to_string(of("comm")).is_ok_and(|name| name.contains("berth"))
        && std::io::Write::flush(&mut memory).is_ok()
    {
        found.push("its memory".to_owned());
    }
}

/// A directory that the attacker knows as the host's: `/secret-of-the-host` cannot
/// be made on a machine that is not ours, so the callers' own directory has it.
struct Watched {
    bundle: Bundle,
    program: PathBuf,
    before: Vec<u8>,
}

impl Watched {
    /// Runs the attacker, with execs passing by.
    fn new(change: impl FnOnce(&mut Bundle)) -> Self {
        let mut bundle = Bundle::new(&[
            "/attacker",
            "--ignored",
            "--exact",
            "role_watch",
            "--test-threads",
            "1",
        ]);
        fs::write(bundle.rootfs().join("attacker"), "").unwrap();
        fs::write(bundle.rootfs().join("role"), "watch").unwrap();
        bundle.bind(&std::env::current_exe().unwrap(), "/attacker");
        change(&mut bundle);
        fs::write(bundle.path().join(SECRET), "").unwrap();
        // Not the program that other tests run.
        let program = bundle.path().join("berth-runtime");
        fs::copy(BINARY, &program).unwrap();
        let before = fs::read(&program).unwrap();
        Self {
            bundle,
            program,
            before,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bundle.command_of(&self.program, args);
        command.stdin(Stdio::null());
        command.stdout(Stdio::null());
        command
    }

    /// What the attacker got hold of while others went by.
    fn found(self) -> String {
        let root = self.bundle.rootfs();
        let status = self
            .command(&["run", "-d", "a"])
            .stderr(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        eventually("the attacker is ready", || {
            root.join("ready").exists().then_some(())
        });
        for _ in 0..ROUNDS {
            let status = self.command(&["exec", "a", "/bin/true"]).status();
            assert!(status.unwrap().success());
        }
        fs::write(root.join("stop"), "").unwrap();
        let found = eventually("the attacker is done", || {
            fs::read_to_string(root.join("found")).ok()
        });
        let seen = fs::read_to_string(root.join("seen")).unwrap();
        assert_ne!(seen, "0", "the attacker saw nobody");
        self.bundle.ok(&["delete", "--force", "a"]);
        self.bundle.assert_empty();
        assert_eq!(
            fs::read(&self.program).unwrap(),
            self.before,
            "CVE-2019-5736"
        );
        found
    }
}

/// CVE-2019-5736, CVE-2016-9962: nothing of a process that joins is within reach.
#[test]
fn cve_2016_9962_exec_passes_by_a_container() {
    assert_eq!(Watched::new(|_| {}).found(), "");
}

/// With CAP_SYS_PTRACE an undumpable process can be looked at: then the root and
/// the working directory it shows must be the container's already.
#[test]
fn cve_2016_9962_exec_passes_by_a_debugger() {
    let found = Watched::new(|bundle| bundle.allow("CAP_SYS_PTRACE")).found();
    let host: Vec<&str> = (found.lines())
        .filter(|line| line.contains("host") || line.contains("Ok(())"))
        .collect();
    assert!(host.is_empty(), "{host:#?}");
}
