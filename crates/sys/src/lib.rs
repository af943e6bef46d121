//! Safe wrappers for the kernel calls that rustix lacks, and the few idioms
//! built directly on them. The only crate of berth that may use `unsafe`.
//!
//! It must not know what a container is: a wrapper takes descriptors, numbers
//! and byte strings, and returns `io::Result` or rustix's `Errno`.
#![warn(missing_docs)]

pub mod bpf;
pub mod clone;
pub mod erofs;
pub mod exec;
pub mod fork;
pub mod inherited;
pub mod loop_device;
pub mod memory;
pub mod mount;
pub mod netns;
pub mod security;
pub mod signals;
pub mod socket;
pub mod trace;
