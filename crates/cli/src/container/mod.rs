//! Commands on containers.

pub(crate) mod attach;
pub(crate) mod commit;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod isolation;
pub(crate) mod lifecycle;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod port;
pub(crate) mod prune;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod top;
pub(crate) mod update;
