//! The client against a real registry, and against servers that misbehave.

mod rig;
mod server;

mod distribution;
mod faults;
