//! Netlink, synchronously: requests go out, answers are matched by sequence
//! number. The kernel answers within the send call, so nothing here waits for
//! anyone else.

pub(crate) mod attribute;
mod message;
mod socket;

pub(crate) use message::{Message, Request};
pub(crate) use socket::{Socket, flags};
