//! Strips the optimised binary. The profile asks for that too, but Cargo forgets
//! it for a package that has a profile of its own (`opt-level = "z"`).

//!
//! Names the sources that compile seccomp filters, and the versions of those that
//! read them, for the cache of what they made.

use std::hash::{DefaultHasher, Hasher};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../seccomp/src");
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let sources = std::fs::read_dir("../seccomp/src").expect("a crate of the same workspace");
    let mut sources: Vec<_> = sources.flatten().map(|entry| entry.path()).collect();
    sources.retain(|path| path.is_file());
    sources.sort();
    sources.push("../../Cargo.lock".into());
    let mut hasher = DefaultHasher::new();
    for source in sources {
        hasher.write(&std::fs::read(source).expect("a source file"));
    }
    println!(
        "cargo::rustc-env=BERTH_SECCOMP_SOURCES={:016x}",
        hasher.finish()
    );
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
}
