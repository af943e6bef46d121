//! Builds: a Dockerfile becomes a graph of steps, and that an image.
//!
//! ```text
//! text ─dockerfile─▶ instructions ─plan─▶ graph ─solve─▶ layers ─image─▶ documents
//!                                    │              │
//!                         answers about base images │ runs steps, fetches sources:
//!                         (the engine's)            │ solve::Worker (the engine's)
//! ```
//!
//! * [`dockerfile`]: the language; [`ignore`]: `.dockerignore`; both pure.
//! * [`check`]: the build checks; pure.
//! * [`plan`]: a Dockerfile becomes a graph.
//! * [`graph`]: the low-level definition; shaped like BuildKit's LLB.
//! * [`tree`]: files from outside, root filesystems as layers.
//! * [`files`]: contents of files from outside; [`apply`]: COPY and ADD;
//!   `draft`: the filesystem in memory that both make.
//! * [`image`]: configuration, manifest, index.
//! * [`solve`]: runs a graph with a cache that is keyed by content.
//!
//! Must not know HTTP, nor how a step is run.

pub mod apply;
pub mod check;
pub mod dockerfile;
mod draft;
pub mod files;
pub mod graph;
pub mod ignore;
pub mod image;
pub mod plan;
pub mod progress;
pub mod solve;
pub mod tree;

/// Time of every file that a build adds, unless SOURCE_DATE_EPOCH says another:
/// 2 January 1980, the first day that ZIP archives can say in every time zone.
/// Seconds since 1970.
pub const FILE_TIME: i64 = 315_619_200;
