//! What becomes of a build's results: images in the store, pushes, archives,
//! directories.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_api::Error;
use berth_api::build::{BuildRequest, BuildResult};
use berth_build::graph::{Id, Plan};
use berth_build::progress::Sink;
use berth_build::solve::Worker;
use berth_build::tree::Chain;
use berth_store::Incoming;
use serde_json::{Map, Value};

use super::Peer;
use crate::engine::Engine;

/// What is written where; read from the request before anything is built.
#[derive(Clone, Debug, Default)]
pub(super) struct Outputs {}

/// What one platform came to.
#[derive(Clone, Debug)]
pub(super) struct Platformed {
    pub(super) plan: Plan,
    /// The root filesystem of the target; empty for scratch.
    pub(super) chain: Chain,
    /// The vertices (of `plan.graph`) that put a layer on what they stand on:
    /// a history entry of another vertex becomes an empty layer.
    pub(super) produced: BTreeSet<Id>,
    /// Keys that the image's configuration gets besides (inline cache).
    pub(super) extra: Map<String, Value>,
}

/// A build that is solved.
#[allow(missing_debug_implementations, reason = "its parts are closures")]
pub(super) struct Solved {
    /// In the order of the request's platforms; one at least.
    pub(super) results: Vec<Platformed>,
    /// Keeps the results' layers while outputs are written.
    pub(super) incoming: Incoming,
    /// For "local" and "tar".
    pub(super) worker: Arc<dyn Worker>,
    pub(super) peer: Arc<dyn Peer>,
    pub(super) progress: Sink,
    /// Outputs are vertices of their own for progress, from this number on.
    pub(super) first_id: Id,
}

impl Outputs {
    /// Without any output: the image store. "cacheonly" is none.
    ///
    /// # Errors
    /// A name, an attribute or a kind that is not valid or not known.
    pub(super) fn parse(request: &BuildRequest) -> Result<Self, Error> {
        let _ = request;
        Err(Error::not_implemented("outputs are not written yet"))
    }

    /// Writes all of them. Dropping the future leaves nothing.
    pub(super) async fn write(
        &self,
        engine: &Engine,
        request: &BuildRequest,
        solved: Solved,
    ) -> Result<BuildResult, Error> {
        let _ = (engine, request, solved);
        Err(Error::not_implemented("outputs are not written yet"))
    }
}
