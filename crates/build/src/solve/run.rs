//! The scheduler: each vertex once its inputs are there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::cache::{Cache, Session};
use super::vertex::vertex;
use super::{Error, Job, SolveError, keeps_times};
use crate::files::Files;
use crate::graph::{Graph, Id};
use crate::progress::Event;
use crate::tree::{Layer, Value};

/// What came of a solve. While it lives, its layers and the records that it
/// used are not collected.
#[derive(Debug)]
pub struct Solved {
    /// In the order of [`Job::outputs`].
    pub outputs: Vec<Value>,
    /// By vertex; none of those that were not needed.
    pub vertices: Vec<Option<Arc<Done>>>,
    _session: Arc<Session>,
}

impl Solved {
    /// Whether a vertex made a layer, for [`crate::graph::History::vertex`].
    pub fn made_layer(&self, id: Id) -> bool {
        let done = self.vertices.get(id).and_then(Option::as_ref);
        done.is_some_and(|done| done.made > 0)
    }
}

/// What came of one vertex.
#[derive(Clone, Debug)]
pub struct Done {
    pub value: Value,
    /// Layers that it put on its base.
    pub made: usize,
    /// It was known.
    pub cached: bool,
    /// [`super::Record`] of the result.
    pub record: Option<String>,
    /// Keys of the result, the most exact one last; none of sources and merges.
    pub keys: Vec<String>,
}

impl Done {
    pub(super) fn source(value: Value) -> Self {
        Self {
            value,
            made: 0,
            cached: false,
            record: None,
            keys: Vec::new(),
        }
    }

    /// The one that it put on its base, if it is one.
    pub(super) fn layer(&self) -> Option<&Layer> {
        match &self.value {
            Value::Root(chain) if self.made > 0 => chain.last(),
            _ => None,
        }
    }

    fn result(&self) -> String {
        match &self.value {
            Value::Root(chain) => chain.last().map(|layer| layer.digest.clone()),
            Value::Tree(_) => None,
        }
        .unwrap_or_default()
    }
}

/// What all vertices of a solve share.
pub(super) struct Run {
    pub(super) job: Job,
    pub(super) files: Files,
    pub(super) session: Arc<Session>,
    pub(super) parallel: Semaphore,
    /// [`keeps_times`].
    pub(super) keeps: Vec<bool>,
    /// Started and not completed.
    open: Mutex<BTreeSet<Id>>,
}

impl Run {
    fn open(&self) -> MutexGuard<'_, BTreeSet<Id>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event) {
        (self.job.progress)(event);
    }

    /// Told once.
    pub(super) fn started(&self, id: Id) {
        if self.open().insert(id) {
            self.tell(Event::Started(id));
        }
    }

    pub(super) fn cached(&self, id: Id) {
        self.tell(Event::Cached(id));
    }

    fn completed(&self, id: Id, result: &Result<Done, Error>) {
        self.started(id);
        self.open().remove(&id);
        self.tell(Event::Completed {
            id,
            result: result.as_ref().map(Done::result).unwrap_or_default(),
            error: result.as_ref().err().map(ToString::to_string),
        });
    }

    fn known(&self, needed: &[bool]) {
        let vertices = self.job.graph.vertices.iter().enumerate();
        for (id, vertex) in vertices.filter(|(id, _)| needed[*id]) {
            self.tell(Event::Known {
                id,
                name: vertex.name.clone(),
                text: vertex.text.clone(),
                inputs: vertex.inputs.clone(),
            });
        }
    }
}

/// Runs what the outputs need. When a vertex fails, the others are cancelled,
/// and have ended when this returns. Dropping the future cancels all.
///
/// # Errors
/// That of the first vertex that failed.
pub async fn solve(job: Job, cache: &Cache, files: &Files) -> Result<Solved, SolveError> {
    let needed = needed(&job.graph, &job.outputs).map_err(|error| SolveError {
        vertex: None,
        error,
    })?;
    let run = Arc::new(Run {
        keeps: keeps_times(&job.graph),
        files: files.clone(),
        session: Arc::new(cache.session()?),
        parallel: Semaphore::new(job.parallel.clamp(1, Semaphore::MAX_PERMITS)),
        open: Mutex::default(),
        job,
    });
    run.known(&needed);
    let result = schedule(&run, &needed).await;
    let vertices = match result {
        Ok(vertices) => vertices,
        Err(error) => {
            let open: Vec<Id> = run.open().iter().copied().collect();
            for id in open {
                run.completed(id, &Err(Error::Cancelled));
            }
            return Err(error);
        }
    };
    let outputs = (run.job.outputs.iter())
        .filter_map(|id| vertices[*id].as_ref())
        .map(|done| done.value.clone())
        .collect();
    Ok(Solved {
        outputs,
        vertices,
        _session: run.session.clone(),
    })
}

async fn schedule(run: &Arc<Run>, needed: &[bool]) -> Result<Vec<Option<Arc<Done>>>, SolveError> {
    let vertices = &run.job.graph.vertices;
    let mut done: Vec<Option<Arc<Done>>> = vec![None; vertices.len()];
    // How many inputs are missing, and who misses a vertex.
    let mut missing = vec![0; vertices.len()];
    let mut waiting: Vec<Vec<Id>> = vec![Vec::new(); vertices.len()];
    // Dropped, it ends all its tasks.
    let mut tasks = JoinSet::new();
    let start = |tasks: &mut JoinSet<_>, id: Id, done: &[Option<Arc<Done>>]| {
        let inputs = vertices[id].inputs.iter();
        let inputs: Vec<_> = inputs.filter_map(|input| done[*input].clone()).collect();
        let run = run.clone();
        tasks.spawn(async move { (id, vertex(&run, id, inputs).await) });
    };
    for (id, vertex) in vertices.iter().enumerate().filter(|(id, _)| needed[*id]) {
        missing[id] = vertex.inputs.len();
        for input in &vertex.inputs {
            waiting[*input].push(id);
        }
        if vertex.inputs.is_empty() {
            start(&mut tasks, id, &done);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        let (id, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tasks.shutdown().await;
                return Err(SolveError {
                    vertex: None,
                    error: Error::System(format!("a step was lost: {error}")),
                });
            }
        };
        run.completed(id, &result);
        match result {
            Ok(result) => done[id] = Some(Arc::new(result)),
            Err(error) => {
                tasks.shutdown().await;
                return Err(SolveError {
                    vertex: Some(id),
                    error,
                });
            }
        }
        for user in std::mem::take(&mut waiting[id]) {
            missing[user] -= 1;
            if missing[user] == 0 {
                start(&mut tasks, user, &done);
            }
        }
    }
    Ok(done)
}

/// What the outputs stand on; and whether the graph is one.
fn needed(graph: &Graph, outputs: &[Id]) -> Result<Vec<bool>, Error> {
    let mut needed = vec![false; graph.vertices.len()];
    for &output in outputs {
        match needed.get_mut(output) {
            Some(needed) => *needed = true,
            None => return Err(Error::Invalid(format!("there is no step {output}"))),
        }
    }
    for (id, vertex) in graph.vertices.iter().enumerate().rev() {
        if let Some(input) = vertex.inputs.iter().find(|input| **input >= id) {
            return Err(Error::Invalid(format!(
                "step {id} stands on step {input}, which does not come before it"
            )));
        }
        if needed[id] {
            for &input in &vertex.inputs {
                needed[input] = true;
            }
        }
    }
    Ok(needed)
}
