//! What crosses the wire between a Docker client and the engine: types,
//! errors, filters, stream framing, version rules. Shared by both sides.
//!
//! The types follow the Engine API 1.55 and serialise as Docker's own do: the
//! same field order, `null` where Go writes a nil slice or map, absent where Go
//! says `omitempty`. Reading is as tolerant as Go: an absent field or a `null`
//! is the type's default, an unknown field is ignored. That is why they are
//! written here and not taken from a generated crate, which can do neither.
//!
//! Must not know how anything is done.

#[macro_use]
mod go;

pub mod build;
pub mod container;
pub mod error;
pub mod event;
pub mod exec;
pub mod filters;
pub mod frame;
pub mod image;
pub mod isolation;
pub mod network;
pub mod progress;
pub mod registry;
pub mod stats;
pub mod system;
pub mod usage;
pub mod version;
pub mod volume;

pub use error::{Error, Kind};
pub use go::{Empty, StringOrList};
