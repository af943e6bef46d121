//! Commands on the engine itself.

pub(crate) mod check;
pub(crate) mod df;
pub(crate) mod events;
pub(crate) mod info;
pub(crate) mod prune;
pub(crate) mod version;
