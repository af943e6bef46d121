//! In place of the crate `regex`: the small implementation by the same authors.
//!
//! The only user is oci-spec, which checks one field of `process` with it
//! (`execCPUAffinity`). The full crate's engines and Unicode tables would make up
//! a quarter of `berth-runtime`, which has to stay small.

pub use regex_lite::{Captures, Error, Match, Regex, RegexBuilder};
