//! The OCI distribution protocol, both ends: a client that pulls and pushes,
//! and a server.
//!
//! Must not know about containers, the engine or the image store's layers.

pub mod client;
pub mod server;
