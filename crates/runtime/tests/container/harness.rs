//! A test harness without threads: each test runs alone in a process of its own,
//! in its own mount namespace, twice: as the kernel allows, and with nothing but
//! the fallbacks. Speaks as much of libtest's command line as cargo test and nextest
//! use.

use std::process::Command;

use berth_runtime_core::probe::{self, Ways};

pub(crate) type Test = (&'static str, fn());

/// Names the functions of a module as its tests.
macro_rules! tests {
    ($module:literal: $($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::harness::Test] =
            &[$((concat!($module, "::", stringify!($name)), $name)),*];
    };
}
pub(crate) use tests;

/// In front of a test's name when the fallbacks are forced.
const OLD: &str = "old_ways::";

pub(crate) fn main(tests: &[Test]) {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let names: Vec<String> = ["", OLD]
        .iter()
        .flat_map(|prefix| tests.iter().map(move |(name, _)| format!("{prefix}{name}")))
        .collect();
    if has("--list") {
        // None is ignored by default.
        for name in names.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return;
    }
    let filters: Vec<&String> = args
        .iter()
        .filter(|arg| !arg.starts_with('-') && *arg != "terse")
        .collect();
    if let ([name], true) = (filters.as_slice(), has("--exact")) {
        return run(tests, name);
    }
    let failed: Vec<&String> = names
        .iter()
        .filter(|name| filters.is_empty() || filters.iter().any(|part| name.contains(*part)))
        .filter(|name| {
            let status = Command::new("/proc/self/exe")
                .args(["--exact", name])
                .status()
                .unwrap();
            println!(
                "test {name} ... {}",
                if status.success() { "ok" } else { "FAILED" }
            );
            !status.success()
        })
        .collect();
    if !failed.is_empty() {
        eprintln!("failed: {failed:?}");
        std::process::exit(1);
    }
}

fn run(tests: &[Test], name: &str) {
    if name.starts_with(OLD) {
        probe::force(Ways::OLD);
    }
    let name = name.trim_start_matches(OLD);
    let (_, test) = tests
        .iter()
        .find(|(known, _)| *known == name)
        .expect("no such test");
    isolate();
    test();
}

fn isolate() {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests need root"
    );
    berth_sys::clone::unshare(berth_sys::clone::CLONE_NEWNS).unwrap();
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .unwrap();
}
