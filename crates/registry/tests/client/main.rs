//! The client against a real registry, and against servers that misbehave.

mod rig;

mod distribution;
