//! Real containers, made by this process: needs root, a kernel of 5.12 or later,
//! and /bin/busybox (static).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    reason = "tests"
)]

mod basics;
mod defences;
mod exec;
mod fixture;
mod groups;
mod harness;
mod mounts;
mod namespaces;
mod users;

fn main() {
    let modules = [
        basics::TESTS,
        defences::TESTS,
        exec::TESTS,
        groups::TESTS,
        mounts::TESTS,
        namespaces::TESTS,
        users::TESTS,
    ];
    harness::main(&modules.concat());
}
