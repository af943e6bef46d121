//! What is told while a build runs. The shapes are those of BuildKit's
//! `SolveStatus`; the engine turns them into what crosses the wire.

use crate::dockerfile::Lines;
use crate::graph::Id;

/// Takes events; cheap to clone, never blocks for long.
pub type Sink = std::sync::Arc<dyn Fn(Event) + Send + Sync>;

#[derive(Clone, Debug)]
pub enum Event {
    /// Text of the Dockerfile, as soon as it has been read.
    Dockerfile(String),
    /// First event about a vertex: told for all before the first starts.
    Known {
        id: Id,
        name: String,
        text: String,
        inputs: Vec<Id>,
    },
    Started(Id),
    /// The result was known.
    Cached(Id),
    /// Output of a step.
    Log {
        id: Id,
        stderr: bool,
        data: Vec<u8>,
    },
    /// A part of a vertex: "transferring context", a layer that is pulled.
    /// Bytes, or 0 of 0; `done` with the last.
    Status {
        id: Id,
        name: String,
        current: u64,
        total: u64,
        done: bool,
    },
    Completed {
        id: Id,
        /// What came of it, in short: digest of the last layer.
        result: String,
        error: Option<String>,
    },
    Warning {
        rule: String,
        message: String,
        url: String,
        lines: Option<Lines>,
    },
}
