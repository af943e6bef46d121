//! Strips the optimised binary. The profile asks for that too, but Cargo forgets
//! it for a package that has a profile of its own (`opt-level = "s"`).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo::rustc-link-arg-bins=-Wl,--strip-all");
    }
}
