//! `/build`: the classic builder's endpoint, and berth's own.

mod channels;
mod progress;
mod session;

pub(crate) use session::{Session, session};
