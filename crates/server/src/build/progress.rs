//! What a build tells, on its way to a client: held until the client has taken
//! what came before, and put into BuildKit's words.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use berth_api::build::{Status, Vertex, VertexLog, VertexStatus, VertexWarning};
use berth_build::check;
use berth_build::graph::Id;
use berth_build::progress::{Event, Sink};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

/// Bytes of steps' output that may wait for a slow client. A step is never held
/// up; what is more is left out, and that is said.
const MAX_WAITING: usize = 16 << 20;

/// What an event costs besides its output, in bytes, about.
const EVENT_BYTES: usize = 256;

/// Output of one step that is told at once, in bytes.
const LOG_CHUNK: usize = 64 * 1024;

/// Bytes of output in one [`Status`], far below a frame's bound.
const STATUS_BYTES: usize = 256 * 1024;

/// Further entries in one [`Status`].
const STATUS_ENTRIES: usize = 512;

const CLIPPED: &[u8] = b"[output clipped: the client reads it too slowly]\n";

/// Events on their way, with the time when each came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<(Timestamp, Event)>,
    /// Where the last state of a part of a vertex stands in `events`: a newer
    /// one takes its place.
    states: HashMap<(Id, String), usize>,
    log_bytes: usize,
    clipped: bool,
}

impl Queue {
    pub(super) fn sink(self: &Arc<Self>) -> Sink {
        let queue = Arc::clone(self);
        Arc::new(move |event| queue.push(event))
    }

    fn push(&self, event: Event) {
        self.lock().push(event);
        self.came.notify_one();
    }

    /// Waits for events, then takes all there are.
    pub(super) async fn next(&self) -> Vec<(Timestamp, Event)> {
        loop {
            let events = self.take();
            if !events.is_empty() {
                return events;
            }
            self.came.notified().await;
        }
    }

    /// What is there now.
    pub(super) fn take(&self) -> Vec<(Timestamp, Event)> {
        std::mem::take(&mut *self.lock()).events
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(&mut self, mut event: Event) {
        let now = Timestamp::now();
        match &mut event {
            Event::Status { id, name, .. } => match self.states.entry((*id, name.clone())) {
                Entry::Occupied(place) => {
                    self.events[*place.get()] = (now, event);
                    return;
                }
                Entry::Vacant(place) => {
                    place.insert(self.events.len());
                }
            },
            Event::Log { id, stderr, data } => {
                if self.log_bytes + data.len() > MAX_WAITING {
                    if std::mem::replace(&mut self.clipped, true) {
                        return;
                    }
                    *data = CLIPPED.to_vec();
                }
                let bytes = data.len();
                if let Some((
                    _,
                    Event::Log {
                        id: last,
                        stderr: last_stderr,
                        data: waiting,
                    },
                )) = self.events.last_mut()
                    && (&*last, &*last_stderr) == (&*id, &*stderr)
                    && waiting.len() + data.len() <= LOG_CHUNK
                {
                    waiting.append(data);
                    self.log_bytes += bytes;
                    return;
                }
                // A byte to each stream in turn is an event each.
                self.log_bytes += bytes + EVENT_BYTES;
            }
            _ => {}
        }
        self.events.push((now, event));
    }
}

/// Puts events into BuildKit's words.
#[derive(Debug, Default)]
pub(super) struct Translator {
    vertices: HashMap<Id, Vertex>,
    /// Begin of each part of a vertex.
    begun: HashMap<(Id, String), String>,
    /// Warnings are shown with the first vertex, which reads the Dockerfile.
    first: String,
}

impl Translator {
    /// Each status fits into a frame.
    pub(super) fn statuses(&mut self, events: Vec<(Timestamp, Event)>) -> Vec<Status> {
        let mut done = Vec::new();
        let mut status = Status::default();
        let (mut bytes, mut entries) = (0, 0);
        for (time, event) in events {
            if let Event::Log { data, .. } = &event {
                bytes += data.len();
            }
            entries += 1;
            self.add(&mut status, &format!("{time:.9}"), event);
            if bytes >= STATUS_BYTES || entries >= STATUS_ENTRIES {
                done.push(std::mem::take(&mut status));
                (bytes, entries) = (0, 0);
            }
        }
        if status != Status::default() {
            done.push(status);
        }
        done
    }

    fn add(&mut self, status: &mut Status, time: &str, event: Event) {
        match event {
            Event::Dockerfile(_) => {}
            Event::Known {
                id, name, inputs, ..
            } => {
                let vertex = Vertex {
                    digest: digest(id, &name),
                    inputs: (inputs.iter())
                        .filter_map(|input| Some(self.vertices.get(input)?.digest.clone()))
                        .collect(),
                    name,
                    ..Vertex::default()
                };
                if self.first.is_empty() {
                    self.first.clone_from(&vertex.digest);
                }
                self.vertices.insert(id, vertex.clone());
                status.vertexes.push(vertex);
            }
            Event::Started(id) => self.change(status, id, |vertex| {
                vertex.started = Some(time.to_owned());
            }),
            Event::Cached(id) => self.change(status, id, |vertex| {
                vertex.started.get_or_insert_with(|| time.to_owned());
                vertex.completed = Some(time.to_owned());
                vertex.cached = true;
            }),
            Event::Completed { id, error, .. } => {
                let known = |vertex: &Vertex| vertex.cached && vertex.completed.is_some();
                if error.is_none() && self.vertices.get(&id).is_some_and(known) {
                    return;
                }
                self.change(status, id, |vertex| {
                    vertex.started.get_or_insert_with(|| time.to_owned());
                    vertex.completed = Some(time.to_owned());
                    vertex.error = error.unwrap_or_default();
                });
            }
            Event::Log { id, stderr, data } => status.logs.push(VertexLog {
                vertex: self.digest(id),
                stream: if stderr { 2 } else { 1 },
                data: BASE64_STANDARD.encode(data),
                timestamp: time.to_owned(),
            }),
            Event::Status {
                id,
                name,
                current,
                total,
                done,
            } => {
                let key = (id, name);
                let begun = self.begun.entry(key.clone());
                let started = begun.or_insert_with(|| time.to_owned()).clone();
                if done {
                    self.begun.remove(&key);
                }
                status.statuses.push(VertexStatus {
                    id: key.1,
                    vertex: self.digest(id),
                    name: String::new(),
                    total: i64::try_from(total).unwrap_or(i64::MAX),
                    current: i64::try_from(current).unwrap_or(i64::MAX),
                    timestamp: time.to_owned(),
                    started: Some(started),
                    completed: done.then(|| time.to_owned()),
                });
            }
            Event::Warning {
                rule,
                message,
                url,
                lines,
            } => {
                let place = lines.map(|lines| format!(" (line {})", lines.start));
                let rule_name = match rule.as_str() {
                    "" => String::new(),
                    rule => format!("{rule}: "),
                };
                let short = format!("{rule_name}{message}{}", place.unwrap_or_default());
                let detail =
                    check::find(&rule).map(|rule| BASE64_STANDARD.encode(rule.description));
                status.warnings.push(VertexWarning {
                    vertex: self.first.clone(),
                    level: 1,
                    short: BASE64_STANDARD.encode(short),
                    detail: detail.into_iter().collect(),
                    url,
                });
            }
        }
    }

    fn change(&mut self, status: &mut Status, id: Id, change: impl FnOnce(&mut Vertex)) {
        let Some(vertex) = self.vertices.get_mut(&id) else {
            return;
        };
        change(vertex);
        status.vertexes.push(vertex.clone());
    }

    fn digest(&self, id: Id) -> String {
        let known = self.vertices.get(&id);
        known.map_or_else(|| digest(id, ""), |vertex| vertex.digest.clone())
    }
}

/// What tells a vertex from the others of its build.
fn digest(id: Id, name: &str) -> String {
    let hash = Sha256::digest(format!("{id} {name}"));
    let mut text = String::from("sha256:");
    for byte in hash {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(id: Id, data: &[u8]) -> Event {
        Event::Log {
            id,
            stderr: false,
            data: data.to_vec(),
        }
    }

    fn part(current: u64, done: bool) -> Event {
        Event::Status {
            id: 0,
            name: "transferring context:".to_owned(),
            current,
            total: 0,
            done,
        }
    }

    #[tokio::test]
    async fn a_slow_client_costs_a_bounded_amount_of_memory() {
        let queue = Arc::new(Queue::default());
        let sink = queue.sink();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..64 {
            sink(log(1, &piece));
            sink(part(1, false));
            sink(log(2, b"a"));
            sink(log(2, b"b"));
        }
        let events = queue.next().await;
        let mut bytes = 0;
        let mut told = 0;
        let mut states = 0;
        for (_, event) in &events {
            match event {
                Event::Log { data, .. } => {
                    bytes += data.len();
                    told += usize::from(data.ends_with(CLIPPED));
                }
                Event::Status { .. } => states += 1,
                _ => {}
            }
        }
        assert!(bytes <= MAX_WAITING + CLIPPED.len(), "{bytes}");
        assert_eq!((told, states), (1, 1));
        // However it comes in pieces.
        for turn in 0..1 << 20 {
            sink(Event::Log {
                id: 1,
                stderr: turn % 2 == 0,
                data: b"x".to_vec(),
            });
        }
        assert!(queue.next().await.len() <= MAX_WAITING / EVENT_BYTES + 1);
        // What is taken makes room again.
        sink(log(1, b"again"));
        assert_eq!(queue.take().len(), 1);
    }

    #[test]
    fn events_become_what_buildkit_says() {
        let known = |id: Id, name: &str, inputs: &[Id]| Event::Known {
            id,
            name: name.to_owned(),
            text: String::new(),
            inputs: inputs.to_vec(),
        };
        let completed = |id, error: Option<&str>| Event::Completed {
            id,
            result: String::new(),
            error: error.map(str::to_owned),
        };
        let events = [
            known(0, "[1/2] FROM busybox", &[]),
            known(1, "[2/2] RUN false", &[0]),
            Event::Cached(0),
            completed(0, None),
            Event::Started(1),
            log(1, b"out"),
            part(5, false),
            part(9, true),
            completed(1, Some("failed")),
            Event::Warning {
                rule: "FromAsCasing".to_owned(),
                message: "casing".to_owned(),
                url: "https://x".to_owned(),
                lines: Some(berth_build::dockerfile::Lines { start: 3, end: 3 }),
            },
        ];
        let timed = |(second, event)| (Timestamp::from_second(second).unwrap(), event);
        let events = (0..).zip(events).map(timed).collect();
        let statuses = Translator::default().statuses(events);
        let [status] = &statuses[..] else {
            panic!("{statuses:?}");
        };
        let time = |second: u8| Some(format!("1970-01-01T00:00:0{second}.000000000Z"));
        let [first, second, cached, started, failed] = &status.vertexes[..] else {
            panic!("{status:?}");
        };
        assert!(first.digest.starts_with("sha256:") && first.digest.len() == 71);
        assert_eq!(second.inputs, std::slice::from_ref(&first.digest));
        assert_eq!((&cached.completed, cached.cached), (&time(2), true));
        assert_eq!((&started.started, &started.completed), (&time(4), &None));
        assert_eq!((&failed.completed, &*failed.error), (&time(8), "failed"));
        assert_eq!(status.logs[0].vertex, second.digest);
        assert_eq!(status.logs[0].data, "b3V0");
        assert_eq!(status.statuses[1].started, time(6));
        assert_eq!(status.statuses[1].completed, time(7));
        let short = BASE64_STANDARD.decode(&status.warnings[0].short).unwrap();
        assert_eq!(short, b"FromAsCasing: casing (line 3)");
        let [detail] = &status.warnings[0].detail[..] else {
            panic!("{:?}", status.warnings);
        };
        let detail = BASE64_STANDARD.decode(detail).unwrap();
        assert!(detail.starts_with(b"The 'as' keyword should match"));
    }

    #[test]
    fn much_output_is_told_in_several_statuses() {
        let now = Timestamp::now();
        let events = (0..20)
            .map(|_| (now, log(0, &[0; LOG_CHUNK])))
            .collect::<Vec<_>>();
        let statuses = Translator::default().statuses(events);
        assert_eq!(statuses.iter().map(|s| s.logs.len()).sum::<usize>(), 20);
        for status in statuses {
            let size = serde_json::to_vec(&status).unwrap().len();
            assert!(size < berth_api::build::frame::MAX_PAYLOAD / 2, "{size}");
        }
    }
}
