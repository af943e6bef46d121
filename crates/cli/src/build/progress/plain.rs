//! Progress as lines, for logs: "#5 [2/3] RUN make", "#5 0.123 output",
//! "#5 DONE 1.2s".

use std::collections::HashMap;
use std::io::Write;

use berth_api::build::Status;
use jiff::Timestamp;

use super::trace::{Changed, Part, Trace, Vertex, amount, seconds};

/// A step that others wait behind is left after this many seconds.
const PATIENCE: f64 = 5.0;
/// A transfer is told again when it moved by this part, or after that time.
const MOVED: f64 = 0.05;
const MOVED_SECONDS: f64 = 5.0;
/// Lines of a step that failed, told again at the end.
const LAST_LINES: usize = 10;

pub(super) struct Plain<W> {
    out: W,
    trace: Trace,
    /// Number of each vertex as it is shown.
    numbers: HashMap<usize, usize>,
    /// The vertex that the last line was about, while it runs.
    current: Option<usize>,
    /// When it became that.
    since: Option<Timestamp>,
    /// Vertices with something to tell, in order.
    waiting: Vec<usize>,
    /// What was told of each part.
    told: HashMap<(usize, usize), (i64, Option<Timestamp>)>,
    /// The last line has no end yet.
    mid_line: bool,
    first: bool,
}

impl<W: Write> Plain<W> {
    pub(super) fn new(mut out: W, builder: &str) -> Self {
        let _ = writeln!(out, "#0 building with {builder}\n");
        Self {
            out,
            trace: Trace::default(),
            numbers: HashMap::new(),
            current: None,
            since: None,
            waiting: Vec::new(),
            told: HashMap::new(),
            mid_line: false,
            first: true,
        }
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn update(&mut self, status: &Status, now: Timestamp) {
        let changed = self.trace.update(status, now);
        self.wait(&changed);
        self.tell(now);
    }

    fn wait(&mut self, changed: &[Changed]) {
        for &Changed(number) in changed {
            let started = self.trace.vertices[number].started.is_some();
            if started && !self.waiting.contains(&number) {
                self.waiting.push(number);
            }
        }
    }

    /// Tells of the vertex that is at it, of those that are done, and of another
    /// when that one has none to follow or was at it for long enough.
    pub(super) fn tell(&mut self, now: Timestamp) {
        let done = |trace: &Trace, number: usize| trace.vertices[number].completed.is_some();
        if let Some(current) = self.current
            && self.waiting.contains(&current)
        {
            self.vertex(current, now);
        }
        let mut finished: Vec<_> = self.waiting.clone();
        finished.retain(|&number| done(&self.trace, number));
        finished.sort_by_key(|&number| self.trace.vertices[number].completed);
        for number in finished {
            self.vertex(number, now);
        }
        let long = self
            .since
            .is_some_and(|since| seconds(since, now) > PATIENCE);
        if let Some(&next) = self.waiting.first()
            && (self.current.is_none() || long)
        {
            self.vertex(next, now);
        }
    }

    /// The rest, and what failed.
    pub(super) fn finish(&mut self, now: Timestamp, give_up: bool) {
        if give_up {
            let changed = self.trace.give_up(now);
            self.wait(&changed);
        }
        while let Some(&next) = self.waiting.first() {
            self.vertex(next, now);
        }
        self.end_line();
        let failures = self.trace.failures(Some(LAST_LINES));
        let _ = self.out.write_all(failures.as_bytes());
        let _ = self.out.flush();
    }

    fn end_line(&mut self) {
        if self.mid_line {
            let _ = writeln!(self.out);
            self.mid_line = false;
        }
    }

    /// All that is new of one vertex.
    fn vertex(&mut self, number: usize, now: Timestamp) {
        self.waiting.retain(|&other| other != number);
        let next = self.numbers.len() + 1;
        let shown = *self.numbers.entry(number).or_insert(next);
        if self.current != Some(number) {
            self.end_line();
            if let Some(left) = self.current {
                let _ = writeln!(self.out, "#{} ...", self.numbers[&left]);
            }
            if !self.first {
                let _ = writeln!(self.out);
            }
            self.first = false;
            let _ = writeln!(self.out, "#{shown} {}", self.trace.vertices[number].name);
            self.since = Some(now);
        }
        self.current = Some(number);
        self.parts(number, shown);
        self.log(number, shown);
        let vertex = &self.trace.vertices[number];
        if let Some(end) = end(vertex) {
            self.end_line();
            let _ = writeln!(self.out, "#{shown} {end}");
            self.current = None;
            self.since = None;
        }
        let _ = self.out.flush();
    }

    fn parts(&mut self, number: usize, shown: usize) {
        let mut lines = Vec::new();
        for (at, part) in self.trace.vertices[number].parts.iter_mut().enumerate() {
            if !std::mem::take(&mut part.changed) {
                continue;
            }
            if let Some(&(current, when)) = self.told.get(&(number, at))
                && part.completed.is_none()
                && !has_moved(part, current, when)
            {
                continue;
            }
            self.told.insert((number, at), (part.current, part.told));
            lines.push(format!("#{shown} {}", part_line(part)));
        }
        if !lines.is_empty() {
            self.end_line();
        }
        for line in lines {
            let _ = writeln!(self.out, "{line}");
        }
    }

    fn log(&mut self, number: usize, shown: usize) {
        let log = &mut self.trace.vertices[number].log;
        let last = log.fresh.len().saturating_sub(1);
        for (at, line) in log.fresh.drain(..).enumerate() {
            let goes_on = std::mem::take(&mut self.mid_line);
            let lead = if goes_on {
                String::new()
            } else {
                format!("#{shown} ")
            };
            let _ = write!(self.out, "{lead}{line}");
            if at == last && log.is_open {
                self.mid_line = true;
            } else {
                let _ = writeln!(self.out);
            }
        }
    }
}

fn has_moved(part: &Part, current: i64, when: Option<Timestamp>) -> bool {
    let moved = if part.total > 0 {
        (part.current - current) as f64 / part.total as f64
    } else {
        0.0
    };
    let passed = match (when, part.told) {
        (Some(from), Some(to)) => seconds(from, to),
        _ => 0.0,
    };
    moved >= MOVED || passed >= MOVED_SECONDS
}

fn part_line(part: &Part) -> String {
    let mut line = part.id.clone();
    let amount = amount(part);
    if !amount.is_empty() {
        line += &format!(" {amount}");
    }
    if let (Some(started), Some(end)) = (part.started, part.completed.or(part.told)) {
        let took = seconds(started, end);
        if took > 0.01 {
            line += &format!(" {took:.1}s");
        }
    }
    if part.completed.is_some() {
        line += " done";
    }
    line
}

/// How it ended, if it did.
fn end(vertex: &Vertex) -> Option<String> {
    let completed = vertex.completed?;
    Some(if vertex.is_cancelled() {
        "CANCELED".to_owned()
    } else if !vertex.error.is_empty() {
        format!("ERROR: {}", vertex.error)
    } else if vertex.cached {
        "CACHED".to_owned()
    } else {
        match vertex.started {
            Some(started) => format!("DONE {:.1}s", seconds(started, completed)),
            None => "DONE".to_owned(),
        }
    })
}
