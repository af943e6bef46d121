//! `registry`: runs one, and looks into others.

pub(crate) mod serve;
