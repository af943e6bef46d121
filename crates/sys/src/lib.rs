//! Safe wrappers for the kernel calls that rustix lacks, and the few idioms
//! built directly on them. The only crate of berth that may use `unsafe`.
//!
//! It must not know what a container is: a wrapper takes descriptors, numbers
//! and byte strings, and returns `io::Result` or rustix's `Errno`.
#![warn(missing_docs)]

pub mod inherit;
pub mod socket;
