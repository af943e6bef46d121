//! What is told about an output while it is written.

use berth_api::Error;
use berth_api::progress::Progress;
use berth_build::graph::Id;
use berth_build::progress::{Event, Sink};
use tokio::sync::mpsc;

/// One output, which is a vertex.
#[derive(Clone)]
pub(super) struct Steps {
    sink: Sink,
    id: Id,
}

/// A part of it that has begun; it is done when this is dropped.
pub(super) struct Part {
    steps: Steps,
    name: String,
    /// Bytes that were moved.
    bytes: u64,
}

impl Part {
    pub(super) fn ended(mut self, bytes: u64) {
        self.bytes = bytes;
    }
}

impl Steps {
    pub(super) fn begin(sink: &Sink, id: Id, title: &str) -> Self {
        sink(Event::Known {
            id,
            name: title.to_owned(),
            text: String::new(),
            inputs: Vec::new(),
        });
        sink(Event::Started(id));
        Self {
            sink: sink.clone(),
            id,
        }
    }

    pub(super) fn end(&self, result: &Result<(), Error>) {
        (self.sink)(Event::Completed {
            id: self.id,
            result: String::new(),
            error: result.as_ref().err().map(|error| error.message.clone()),
        });
    }

    pub(super) fn part(&self, name: &str) -> Part {
        self.status(name, 0, 0, false);
        Part {
            steps: self.clone(),
            name: name.to_owned(),
            bytes: 0,
        }
    }

    fn status(&self, name: &str, current: u64, total: u64, done: bool) {
        (self.sink)(Event::Status {
            id: self.id,
            name: name.to_owned(),
            current,
            total,
            done,
        });
    }

    /// Takes the lines of a push and shows those of its layers; ends when the
    /// sender is dropped.
    pub(super) fn board(&self) -> (mpsc::Sender<Progress>, impl Future<Output = ()>) {
        const WAITING: usize = 64;
        let (sender, mut lines) = mpsc::channel::<Progress>(WAITING);
        let steps = self.clone();
        let shown = async move {
            while let Some(line) = lines.recv().await {
                let done = match line.status.as_str() {
                    "Pushed" | "Layer already exists" => true,
                    status if status.starts_with("Mounted from") => true,
                    _ => false,
                };
                if line.id.is_empty() {
                    continue;
                }
                let detail = line.detail.unwrap_or_default();
                steps.status(
                    &format!("pushing layer {}", line.id),
                    detail.current.unsigned_abs(),
                    detail.total.unsigned_abs(),
                    done,
                );
            }
        };
        (sender, shown)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.steps.status(&self.name, self.bytes, self.bytes, true);
    }
}
