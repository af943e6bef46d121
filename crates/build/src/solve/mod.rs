//! Runs a graph: what is needed, in parallel, and only what no cache knows.
//!
//! **Keys are of content.** A result's key is the SHA-256 of its operation and
//! of the content of its inputs: layer digests of root filesystems; paths,
//! modes, owners and digests of the selected files of trees. Never of times,
//! names or places. A step that runs again and gives the same as before lets
//! all after it be known again.
//!
//! **Times.** A built layer is written with one time for all its files
//! ([`crate::FILE_TIME`]), so equal inputs give equal bytes. Where a later
//! RUN has a cache mount, tools that compare times (make, cargo) would take
//! what is in the cache for newer than the sources that changed: for those
//! inputs ([`keeps_times`]) the layers that are mounted keep the files' own
//! times, and the canonical ones are made for the image only.

mod cache;
mod collect;
mod flight;
mod key;
mod layers;
mod pass;
mod portable;
mod run;
#[cfg(test)]
mod tests;
mod usage;
mod vertex;

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;

pub use self::cache::{Cache, Record};
pub use self::collect::{Bounds, Collected, Condition, Disk, Rule, default_rules};
pub use self::layers::{Hold, Layers};
pub use self::portable::{Document, INLINE, own_steps};
pub use self::run::{Done, Solved, solve};
pub use self::usage::{CACHE_MOUNT, GIT, LOCAL, Measured, REGULAR, Row, Shelf};

use crate::graph::{Exec, Git, Graph, Http, Id, Image, Local, MountKind, Op};
use crate::progress::Sink;
use crate::tree::{Chain, Layer, Tree, Value};

pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Why a vertex failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A RUN ended with another code than 0: BuildKit's words.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    Exit { command: String, code: i32 },
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    System(String),
    #[error("context canceled")]
    Cancelled,
}

/// A vertex failed, and with it the solve.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct SolveError {
    /// None: it was none of them (no place to write to, a graph that is none).
    pub vertex: Option<Id>,
    pub error: Error,
}

/// What a solve needs done by the engine. Dropping a future cancels the work,
/// and leaves nothing behind.
pub trait Worker: Send + Sync {
    /// Pulls if need be.
    fn image<'a>(&'a self, id: Id, image: &'a Image) -> Boxed<'a, Chain>;
    fn local<'a>(&'a self, id: Id, local: &'a Local) -> Boxed<'a, Arc<Tree>>;
    fn git<'a>(&'a self, id: Id, git: &'a Git) -> Boxed<'a, Arc<Tree>>;
    fn http<'a>(&'a self, id: Id, http: &'a Http) -> Boxed<'a, Arc<Tree>>;
    /// Runs the program and makes a layer of what it changed; none if nothing.
    fn exec<'a>(&'a self, id: Id, step: Step) -> Boxed<'a, Option<Layer>>;
    /// The merged root of these layers, read-only; lasts as long as the
    /// descriptor.
    fn mount<'a>(&'a self, chain: &'a Chain) -> Boxed<'a, OwnedFd>;
}

/// An [`Exec`] with its inputs.
#[derive(Clone, Debug)]
pub struct Step {
    pub exec: Exec,
    /// In the order of the vertex's inputs.
    pub inputs: Vec<Value>,
    /// Write the layer with the files' own times, too.
    pub keep_times: bool,
    /// Time of files in the canonical layer; seconds since 1970.
    pub time: i64,
}

/// Everything about one run.
#[allow(missing_debug_implementations, reason = "its parts are closures")]
pub struct Job {
    pub graph: Arc<Graph>,
    /// What is wanted.
    pub outputs: Vec<Id>,
    pub worker: Arc<dyn Worker>,
    pub progress: Sink,
    /// Seconds since 1970; see [`crate::FILE_TIME`].
    pub time: i64,
    /// Steps (RUN) at the same time.
    pub parallel: usize,
}

/// For each vertex, whether the files' own times matter in what it gives: an
/// [`Exec`] with a cache mount stands on it.
pub fn keeps_times(graph: &Graph) -> Vec<bool> {
    let mut keeps = vec![false; graph.vertices.len()];
    // From the end, so that those who stand on a vertex come before it.
    for (id, vertex) in graph.vertices.iter().enumerate().rev() {
        let has_cache = match &vertex.op {
            Op::Exec(exec) => {
                (exec.mounts.iter()).any(|mount| matches!(mount.kind, MountKind::Cache { .. }))
            }
            _ => false,
        };
        if has_cache || keeps[id] {
            for &input in &vertex.inputs {
                keeps[input] = true;
            }
        }
    }
    keeps
}
