//! `berth-runtime`: the small binary. Roles: OCI command line, launcher.
fn main() {}
