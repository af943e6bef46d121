//! Commands on images.

pub(crate) mod history;
pub(crate) mod load;
pub(crate) mod ls;
pub(crate) mod pull;
pub(crate) mod rm;
