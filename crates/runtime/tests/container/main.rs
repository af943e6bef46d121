//! Real containers, made by this process: needs root, a kernel of 5.12 or later,
//! and /bin/busybox (static).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tests"
)]

mod basics;
mod defences;
mod exec;
mod fixture;
mod harness;
mod mounts;
mod namespaces;
mod users;

fn main() {
    let mut tests = Vec::new();
    tests.extend_from_slice(basics::TESTS);
    tests.extend_from_slice(defences::TESTS);
    tests.extend_from_slice(exec::TESTS);
    tests.extend_from_slice(mounts::TESTS);
    tests.extend_from_slice(namespaces::TESTS);
    tests.extend_from_slice(users::TESTS);
    harness::main(&tests);
}
