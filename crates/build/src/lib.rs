//! Builds: a Dockerfile becomes a graph of steps, and that an image.
//!
//! What is here so far is the language: [`dockerfile`] reads a Dockerfile into
//! typed instructions, [`ignore`] says what of a context a build sees. All of
//! it is pure. Must not know HTTP.

pub mod dockerfile;
pub mod ignore;
