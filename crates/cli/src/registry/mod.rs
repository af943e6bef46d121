//! `registry`: runs one, and looks into others.

mod documents;
pub(crate) mod inspect;
pub(crate) mod ls;
mod remote;
pub(crate) mod rm;
pub(crate) mod serve;
