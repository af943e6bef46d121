//! Commands.

/// Runs the command line; returns the exit status.
pub fn main(args: Vec<std::ffi::OsString>) -> i32 {
    let _ = args;
    todo!()
}
