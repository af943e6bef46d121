//! The client against a real registry, and against servers that misbehave.

#![allow(clippy::unwrap_used)]

mod rig;
mod server;

mod distribution;
mod faults;
mod mirrors;
mod tls;
mod tokens;
mod uploads;
