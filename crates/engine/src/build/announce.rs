//! Vertices that no graph has: what the engine does before and besides.

use std::sync::atomic::{AtomicUsize, Ordering};

use berth_api::Error;
use berth_build::graph::Id;
use berth_build::progress::Event;

use super::session::Session;

/// Numbers of those vertices: after all that a graph can have.
const FIRST: Id = 1 << 24;

#[derive(Debug)]
pub(super) struct Numbers(AtomicUsize);

impl Numbers {
    pub(super) const fn new() -> Self {
        Self(AtomicUsize::new(FIRST))
    }

    pub(super) fn next(&self) -> Id {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Runs `work` as a vertex of that name.
pub(super) async fn announced<T, F>(
    session: &Session,
    name: &str,
    work: impl FnOnce(Id) -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let id = session.numbers.next();
    session.tell(Event::Known {
        id,
        name: name.to_owned(),
        text: String::new(),
        inputs: Vec::new(),
    });
    session.tell(Event::Started(id));
    let result = work(id).await;
    session.tell(Event::Completed {
        id,
        result: String::new(),
        error: result.as_ref().err().map(|error| error.message.clone()),
    });
    result
}
