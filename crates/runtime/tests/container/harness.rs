//! A test harness without threads: each test runs alone in a process of its own,
//! in its own mount namespace. Speaks as much of libtest's command line as cargo
//! test and nextest use.

use std::process::Command;

pub(crate) type Test = (&'static str, fn());

/// Names the functions of a module as its tests.
macro_rules! tests {
    ($module:literal: $($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[crate::harness::Test] =
            &[$((concat!($module, "::", stringify!($name)), $name)),*];
    };
}
pub(crate) use tests;

pub(crate) fn main(tests: &[Test]) {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let filters: Vec<&String> = args
        .iter()
        .filter(|arg| !arg.starts_with('-') && *arg != "terse")
        .collect();
    if has("--list") {
        // None is ignored by default.
        for (name, _) in tests.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return;
    }
    let chosen: Vec<&Test> = tests
        .iter()
        .filter(|(name, _)| {
            filters.is_empty()
                || filters.iter().any(|filter| {
                    if has("--exact") {
                        *name == filter.as_str()
                    } else {
                        name.contains(*filter)
                    }
                })
        })
        .collect();
    if let ([(_, test)], true) = (chosen.as_slice(), has("--exact")) {
        isolate();
        test();
        return;
    }
    let failed: Vec<&str> = chosen
        .iter()
        .map(|(name, _)| *name)
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
