//! The rig of the end-to-end tests: real binaries, one engine per test in a
//! data root, a network namespace and a control group of its own, so that tests
//! run in parallel and leave nothing behind.

// The rig speaks to whoever reads the test output.
#![allow(clippy::print_stderr)]

use std::time::Duration;

pub mod engine;
pub mod image;
pub mod leaks;
pub mod oci;
pub mod registry;
pub mod run;
pub mod serve;

pub use engine::{Engine, clients};
pub use run::Run;

/// `seconds`, times BERTH_TEST_PATIENCE where it is set: emulated machines are
/// slow.
pub fn patience(seconds: u32) -> Duration {
    let factor = std::env::var("BERTH_TEST_PATIENCE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    Duration::from_secs(u64::from(seconds) * factor)
}

/// Waits until `ready` gives something, asking every few milliseconds; fails
/// the test with `what` after ten seconds.
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + patience(10);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "never happened: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True when the test can run; else says why not, so that no skip is silent.
pub fn possible(what: &str, condition: bool) -> bool {
    if !condition {
        eprintln!("SKIPPED: this machine has no {what}");
    }
    condition
}

/// Whether a program is installed.
pub fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
