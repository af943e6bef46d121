//! The launcher and the monitors: the processes that stand between the engine
//! and its containers, and outlive the engine.
//!
//! * [`protocol`]: what crosses the sockets. Versioned; only ever grows.
//! * [`launcher`]: one per engine; owns a private mount namespace with the
//!   layer mounts; forks a monitor for each start message and does nothing
//!   else.
//! * `monitor`: one per running container; builds the overlay, makes the
//!   control group, creates the container, moves its output, writes its log,
//!   reaps it, records its exit status, serves attach and exec.
//! * [`client`]: the engine's side, non-blocking primitives without a runtime.
//!
//! Must not know about HTTP or images.

pub mod client;
pub mod endpoint;
pub mod launcher;
mod log;
mod monitor;
mod overlay;
pub mod protocol;
pub mod sweep;
pub mod timestamp;

pub use berth_runtime_core::steps;

use std::io;

/// The same error with what was tried in front of it.
fn context(error: impl Into<io::Error>, tried: impl FnOnce() -> String) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{}: {error}", tried()))
}
