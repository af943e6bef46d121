//! Builds: what `berth-build` plans and solves, done with this engine's images,
//! networks and containers.

mod announce;
mod builder;
mod cache;
mod caches;
mod call;
mod context;
mod images;
mod kept;
mod output;
mod peer;
mod prune;
mod resolve;
mod session;
mod sources;
mod step;
mod worker;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use berth_api::Error;
use berth_api::build::{BuildRequest, BuildResult};
use berth_build::FILE_TIME;
use berth_build::dockerfile::{self, Lines};
use berth_build::files::Files;
use berth_build::graph::{Graph, Id, Plan};
use berth_build::progress::{Event, Sink};
use berth_build::solve::{self, Job};
use berth_build::tree::Value;

use self::cache::Caching;
use self::output::{Outputs, Platformed, Solved};
use self::resolve::Source;
use self::session::Session;

pub(crate) use self::builder::Builder;
pub use self::peer::{Ask, Peer};
pub use self::prune::PruneOptions;
pub(crate) use self::step::{CGROUP_FILE, RUN_DIR, SNAPSHOTS};
use crate::engine::Engine;
use crate::error::blocking;

/// The name of the context that paths are of.
const MAIN_CONTEXT: &str = "context";

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

impl Failure {
    /// With the place in the Dockerfile.
    fn at(error: Error, file: &Source, lines: Option<Lines>) -> Self {
        let excerpt = lines.map(|lines| {
            let place = dockerfile::Error {
                message: String::new(),
                lines,
            };
            place.excerpt(&file.name, &file.text)
        });
        Self {
            error,
            excerpt: excerpt.unwrap_or_default(),
            exit_code: 0,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            excerpt: String::new(),
            exit_code: 0,
        }
    }
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
        let outputs = Outputs::parse(&request)?;
        let caching = Caching::parse(&request)?;
        let request = Arc::new(request);
        let (session, cleanups) = Session::new(self, request, peer, progress).await?;
        let result = run(&session, &outputs, &caching).await;
        cleanups.done(&session).await;
        self.collect_builds_soon();
        result
    }
}

/// In the words of the API.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn of_solve(error: solve::Error) -> Error {
    let message = error.to_string();
    match error {
        solve::Error::NotFound(_) => Error::not_found(message),
        solve::Error::System(_) | solve::Error::Cancelled => Error::system(message),
        solve::Error::Exit { .. } | solve::Error::Invalid(_) => Error::invalid(message),
    }
}

async fn run(
    session: &Session,
    outputs: &Outputs,
    caching: &Caching,
) -> Result<BuildResult, Failure> {
    let opened = session.clone();
    let files = blocking(move || opened.files().map_err(of_solve)).await?;
    let source = resolve::source(session).await?;
    session.tell(Event::Dockerfile(source.text.to_string()));
    if !session.request.call.is_empty() {
        return call::call(session, &source).await;
    }
    let mut bases = BTreeMap::new();
    let file = match dockerfile::parse(&source.text) {
        Ok(file) => file,
        Err(error) => {
            call::warn(session, &source, &bases).await?;
            let lines = Some(error.lines);
            return Err(Failure::at(
                Error::invalid(error.to_string()),
                &source,
                lines,
            ));
        }
    };
    let plans = resolve::plans(session, &source, &file, &mut bases).await;
    let warned = call::warn(session, &source, &bases).await;
    let plans = plans?;
    warned?;
    caching.import(session, &plans).await;
    let came = solve_all(session, &files, &source, &plans).await?;
    let mut results = platformed(plans, &came);
    for (result, offset) in results.iter_mut().zip(&came.offsets) {
        result.extra = caching.extra(&came, *offset, result);
    }
    let wanted = came.targets(&results);
    let solved = Solved {
        results,
        incoming: session.incoming.clone(),
        worker: Arc::new(session.clone()),
        peer: session.peer.clone(),
        progress: session.progress.clone(),
        first_id: session.numbers.next(),
    };
    let written = outputs
        .write(&session.engine, &session.request, solved)
        .await?;
    caching.export(session, &came, &wanted).await?;
    Ok(written)
}

/// Plans of several platforms are solved together: what they share (contexts,
/// stages of the machine's own platform) is done once.
struct Together {
    graph: Graph,
    /// Of each plan, where its vertices begin.
    offsets: Vec<Id>,
}

fn together(plans: &[Plan]) -> Together {
    let mut graph = Graph::default();
    let mut offsets = Vec::new();
    for plan in plans {
        let offset = graph.vertices.len();
        offsets.push(offset);
        graph
            .vertices
            .extend(plan.graph.vertices.iter().map(|vertex| {
                let mut vertex = vertex.clone();
                for input in &mut vertex.inputs {
                    *input += offset;
                }
                vertex
            }));
    }
    Together { graph, offsets }
}

/// What came of the plans.
struct Results {
    solved: solve::Solved,
    graph: Arc<Graph>,
    offsets: Vec<Id>,
}

impl Results {
    /// The vertices that were wanted.
    fn targets(&self, results: &[Platformed]) -> Vec<Id> {
        let targets = results.iter().zip(&self.offsets);
        let targets = targets.map(|(result, offset)| Some(result.plan.output? + offset));
        targets.flatten().collect()
    }
}

async fn solve_all(
    session: &Session,
    files: &Files,
    source: &Source,
    plans: &[Plan],
) -> Result<Results, Failure> {
    let Together { graph, offsets } = together(plans);
    for name in session.request.contexts.keys() {
        if let Some(paths) = context::selection(&graph, name) {
            session.select(name, paths);
        }
    }
    let outputs = plans.iter().zip(&offsets);
    let outputs = outputs.filter_map(|(plan, offset)| Some(plan.output? + offset));
    let time = (plans.iter()).find_map(|plan| plan.image.source_date_epoch);
    let graph = Arc::new(graph);
    let job = Job {
        outputs: outputs.collect(),
        graph: graph.clone(),
        worker: Arc::new(session.clone()),
        progress: session.progress.clone(),
        time: time.unwrap_or(FILE_TIME),
        parallel: parallel(),
    };
    let cache = &session.engine.0.builder.cache;
    let solved = solve::solve(job, cache, files).await.map_err(|failed| {
        let vertex = failed.vertex.and_then(|id| graph.vertices.get(id));
        let lines = vertex.and_then(|vertex| vertex.lines);
        let exit_code = match &failed.error {
            solve::Error::Exit { code, .. } => *code,
            _ => 0,
        };
        Failure {
            exit_code,
            ..Failure::at(of_solve(failed.error), source, lines)
        }
    })?;
    Ok(Results {
        solved,
        graph,
        offsets,
    })
}

/// Steps that run at the same time: most wait for something now and then.
fn parallel() -> usize {
    std::thread::available_parallelism().map_or(2, NonZeroUsize::get) * 2
}

fn platformed(plans: Vec<Plan>, results: &Results) -> Vec<Platformed> {
    let Results {
        solved, offsets, ..
    } = results;
    let mut outputs = solved.outputs.iter();
    let platformed = |(plan, offset): (Plan, &Id)| {
        let chain = match plan.output.and_then(|_| outputs.next()) {
            Some(Value::Root(chain)) => chain.clone(),
            _ => Arc::from([]),
        };
        let ids = 0..plan.graph.vertices.len();
        let produced = ids.filter(|id| solved.made_layer(id + offset)).collect();
        Platformed {
            plan,
            chain,
            produced,
            extra: serde_json::Map::new(),
        }
    };
    plans.into_iter().zip(offsets).map(platformed).collect()
}
