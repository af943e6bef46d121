//! A Dockerfile and its options become a graph. Pure: what must be asked of the
//! world (configurations of base images) is named, and planning is called again
//! with the answers.

mod chmod;
mod config;
mod copy;
mod git;
mod path;
mod planner;
pub(crate) mod platform;
mod ports;
mod run;
mod signal;
mod sources;
mod stages;
mod steps;
#[cfg(test)]
mod tests;
mod text;
mod variables;

use std::collections::BTreeMap;

use berth_store::Platform;

pub use self::git::GitAddress;
use self::planner::Planner;
use self::stages::Stages;

use crate::dockerfile::{Dockerfile, Lines};
use crate::graph::{Plan, Variables};

/// What a build was asked for, as far as it decides the graph.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Stage by name or number; empty = the last.
    pub target: String,
    /// `--build-arg`. None: taken from the client's environment, unset there.
    pub build_args: BTreeMap<String, Option<String>>,
    pub labels: Variables,
    /// Of the machine that builds.
    pub build_platform: Platform,
    /// What is built for.
    pub platform: Platform,
    /// Several platforms are built: names of vertices say which.
    pub multi_platform: bool,
    pub no_cache: bool,
    /// Stages of `--no-cache-filter`.
    pub no_cache_filter: Vec<String>,
    /// Named contexts (`--build-context`): they go before stages and images of
    /// that name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// `--network` for steps that say none.
    pub network: crate::dockerfile::Network,
    pub extra_hosts: Vec<String>,
    pub hostname: String,
    /// See [`crate::graph::Exec::ulimits`].
    pub ulimits: Vec<String>,
    /// Bytes of /dev/shm; 0 = the engine's default.
    pub shm_size: i64,
}

/// Where a named context is from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamedContext {
    /// Files of the client, under this name.
    Local,
    /// `docker-image://…` or `oci-layout://…` (the engine has loaded it).
    Image(String),
    /// A repository.
    Git(String),
    Http(String),
}

/// A base image that must be looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Query {
    /// Normalised with tag or digest.
    pub reference: String,
    pub platform: Platform,
}

/// A question that is open, and the first place that asks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub query: Query,
    pub lines: Lines,
}

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// Manifest digest.
    pub digest: String,
    /// The whole OCI configuration.
    pub config: serde_json::Value,
    /// As it says.
    pub platform: Platform,
}

#[derive(Debug)]
pub enum Outcome {
    /// These must be answered first (all at once).
    Needs(Vec<Need>),
    Done(Box<Plan>),
}

/// What is wrong with a Dockerfile that reads well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// In BuildKit's words.
    pub message: String,
    pub lines: Option<Lines>,
}

/// Plans for one platform. `bases` holds the answers so far; stages that the
/// target does not need are never asked about.
///
/// # Errors
/// See [`Error`].
pub fn plan(
    file: &Dockerfile,
    options: &Options,
    bases: &BTreeMap<Query, Base>,
) -> Result<Outcome, Error> {
    let globals = variables::globals(file, options)?;
    let mut stages = Stages::read(file, options, &globals)?;
    let target = stages.target()?;
    let needed = match stages.needed(file, target, bases)? {
        Ok(stages) => stages,
        Err(needs) => return Ok(Outcome::Needs(needs)),
    };
    let planner = Planner::new(file, options, bases, &globals, &stages)?;
    Ok(Outcome::Done(Box::new(planner.plan(&needed, target)?)))
}

impl Error {
    fn new(message: impl Into<String>, lines: Option<Lines>) -> Self {
        Self {
            message: message.into(),
            lines,
        }
    }
}
