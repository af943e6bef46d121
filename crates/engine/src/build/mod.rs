//! Builds: what `berth-build` plans and solves, done with this engine's images,
//! networks and containers.

#[allow(dead_code, reason = "called by the next commit of Engine::build")]
mod builder;
mod caches;
mod output;
mod peer;
mod prune;
mod session;
mod step;

use std::sync::Arc;

use berth_api::Error;
use berth_api::build::{BuildRequest, BuildResult};
use berth_build::progress::Sink;

pub(crate) use self::builder::Builder;
pub use self::peer::{Ask, Peer};
pub use self::prune::PruneOptions;
pub(crate) use self::step::{CGROUP_FILE, RUN_DIR, SNAPSHOTS};
use crate::engine::Engine;

/// Why a build failed, and the place in the Dockerfile to show above it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    pub error: Error,
    /// As BuildKit shows it; may be empty.
    pub excerpt: String,
    /// Of a RUN that failed; else 0.
    pub exit_code: i32,
}

impl Engine {
    /// Builds. Dropping the future cancels: what runs is killed, and nothing
    /// half-built is left.
    pub async fn build(
        &self,
        request: BuildRequest,
        peer: Arc<dyn Peer>,
        progress: Sink,
    ) -> Result<BuildResult, Failure> {
        let _ = (request, peer, progress);
        Err(Failure {
            error: Error::not_implemented("builds are not written yet"),
            excerpt: String::new(),
            exit_code: 0,
        })
    }
}
