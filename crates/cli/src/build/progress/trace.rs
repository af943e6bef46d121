//! What is known of a build while it runs: its vertices in the order in which
//! they started, as the engine's statuses tell.

use std::collections::{HashMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_api::build::{Status, VertexWarning};
use jiff::Timestamp;

/// Most vertices, parts of one and warnings that are followed; more is a broken
/// engine.
const MAX_VERTICES: usize = 100_000;
const MAX_PARTS: usize = 10_000;
const MAX_WARNINGS: usize = 10_000;
/// Bytes of a step's output that are kept to show when it fails.
const MAX_KEPT: usize = 1024 * 1024;
/// Lines of a step's output that are shown while it runs.
const TAIL: usize = 6;
/// Bytes of one such line.
const MAX_LINE: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) vertices: Vec<Vertex>,
    /// Those that started, in that order.
    pub(super) order: Vec<usize>,
    by_digest: HashMap<String, usize>,
    pub(super) warnings: Vec<VertexWarning>,
    /// When the first vertex started, by the engine's clock.
    pub(super) start: Option<Timestamp>,
    /// What this client's clock is ahead of the engine's, in seconds.
    pub(super) ahead: f64,
}

#[derive(Debug, Default)]
pub(super) struct Vertex {
    pub(super) name: String,
    pub(super) started: Option<Timestamp>,
    pub(super) completed: Option<Timestamp>,
    pub(super) cached: bool,
    pub(super) error: String,
    /// Of those that started.
    pub(super) parts: Vec<Part>,
    /// Its last lines as a terminal has them.
    pub(super) tail: Tail,
    /// What it wrote, each line after the seconds since it started.
    pub(super) log: Log,
    pub(super) warnings: Vec<String>,
}

/// Something within a vertex: a transfer.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) id: String,
    pub(super) current: i64,
    pub(super) total: i64,
    pub(super) started: Option<Timestamp>,
    pub(super) completed: Option<Timestamp>,
    pub(super) told: Option<Timestamp>,
    pub(super) changed: bool,
}

/// What changed by one status, for those who print as it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed(pub(super) usize);

impl Vertex {
    pub(super) fn is_cancelled(&self) -> bool {
        self.error.ends_with("context canceled")
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.error.is_empty() && !self.is_cancelled()
    }

    pub(super) fn is_running(&self) -> bool {
        self.started.is_some() && self.completed.is_none()
    }
}

impl Trace {
    /// Takes a status in; gives the vertices that it changed.
    pub(super) fn update(&mut self, status: &Status, now: Timestamp) -> Vec<Changed> {
        let mut changed = Vec::new();
        for told in &status.vertexes {
            let Some(number) = self.number(&told.digest) else {
                continue;
            };
            let started = time(told.started.as_deref());
            if let Some(started) = started
                && self.start.is_none()
            {
                self.start = Some(started);
                self.ahead = seconds(started, now);
            }
            let vertex = &mut self.vertices[number];
            vertex.name.clone_from(&told.name);
            // A second announcement takes nothing back.
            if started.is_some() {
                if vertex.started.is_none() {
                    self.order.push(number);
                }
                vertex.started = started;
                vertex.completed = time(told.completed.as_deref());
                vertex.cached = told.cached;
                vertex.error.clone_from(&told.error);
                changed.push(Changed(number));
            }
        }
        for told in &status.statuses {
            let Some(number) = self.known(&told.vertex) else {
                continue;
            };
            let parts = &mut self.vertices[number].parts;
            let at = match parts.iter().position(|part| part.id == told.id) {
                Some(at) => at,
                None if parts.len() < MAX_PARTS => {
                    parts.push(Part {
                        id: told.id.clone(),
                        ..Part::default()
                    });
                    parts.len() - 1
                }
                None => continue,
            };
            let part = &mut parts[at];
            part.current = told.current;
            part.total = told.total;
            part.started = time(told.started.as_deref()).or(part.started);
            part.completed = time(told.completed.as_deref());
            part.told = time(Some(&told.timestamp)).or(part.told);
            part.changed = true;
            changed.push(Changed(number));
        }
        for told in &status.logs {
            let Some(number) = self.known(&told.vertex) else {
                continue;
            };
            let Ok(data) = STANDARD.decode(&told.data) else {
                continue;
            };
            let vertex = &mut self.vertices[number];
            let since = match (vertex.started, time(Some(&told.timestamp))) {
                (Some(started), Some(at)) => seconds(started, at),
                _ => 0.0,
            };
            vertex.tail.write(&data);
            vertex.log.write(&data, since);
            changed.push(Changed(number));
        }
        for warning in &status.warnings {
            if self.warnings.len() == MAX_WARNINGS {
                break;
            }
            self.warnings.push(warning.clone());
            if let Some(number) = self.known(&warning.vertex) {
                let short = decoded(&warning.short);
                self.vertices[number].warnings.push(short);
                changed.push(Changed(number));
            }
        }
        changed
    }

    fn known(&self, digest: &str) -> Option<usize> {
        self.by_digest.get(digest).copied()
    }

    fn number(&mut self, digest: &str) -> Option<usize> {
        if let Some(number) = self.known(digest) {
            return Some(number);
        }
        if self.vertices.len() == MAX_VERTICES {
            return None;
        }
        let number = self.vertices.len();
        self.vertices.push(Vertex::default());
        self.by_digest.insert(digest.to_owned(), number);
        Some(number)
    }

    /// What still runs when nobody will tell its end, ends as cancelled.
    pub(super) fn give_up(&mut self, now: Timestamp) -> Vec<Changed> {
        let mut changed = Vec::new();
        for &number in &self.order {
            let vertex = &mut self.vertices[number];
            if vertex.is_running() {
                vertex.completed = Some(now);
                "context canceled".clone_into(&mut vertex.error);
                changed.push(Changed(number));
            }
        }
        changed
    }

    /// Vertices that are done, and all.
    pub(super) fn counts(&self) -> (usize, usize) {
        let done = self.vertices.iter().filter(|one| one.completed.is_some());
        (done.count(), self.vertices.len())
    }

    /// What the steps that failed wrote, as BuildKit shows it.
    pub(super) fn failures(&self, last_lines: Option<usize>) -> String {
        let mut text = String::new();
        for &number in &self.order {
            let vertex = &self.vertices[number];
            if !vertex.has_failed() {
                continue;
            }
            text += &format!("------\n > {}:\n", vertex.name);
            let lines = &vertex.log.kept;
            let from = last_lines.map_or(0, |most| lines.len().saturating_sub(most));
            for line in lines.iter().skip(from) {
                text += line;
                text.push('\n');
            }
            text += "------\n";
        }
        text
    }
}

/// RFC 3339, or none.
pub(super) fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// From one to the other; never negative.
pub(super) fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    let nanoseconds = to.as_nanosecond() - from.as_nanosecond();
    (nanoseconds as f64 / 1e9).max(0.0)
}

pub(in crate::build) fn decoded(text: &str) -> String {
    let bytes = STANDARD.decode(text).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// "32.77kB", as transfers are told.
pub(super) fn bytes(count: i64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count}B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.995 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// "1.05MB / 2.10MB", "2B" or "".
pub(super) fn amount(part: &Part) -> String {
    match (part.current, part.total) {
        (0, 0) => String::new(),
        (current, 0) => bytes(current),
        (current, total) => format!("{} / {}", bytes(current), bytes(total)),
    }
}

/// What a step wrote, line by line.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Whole lines and the beginning of one, "0.123 text", that were not taken.
    pub(super) fresh: VecDeque<String>,
    /// The last of `fresh` goes on.
    pub(super) is_open: bool,
    /// The last lines; together not above [`MAX_KEPT`].
    kept: VecDeque<String>,
    kept_bytes: usize,
}

impl Log {
    fn write(&mut self, data: &[u8], since: f64) {
        let text = String::from_utf8_lossy(data);
        for piece in text.split_inclusive('\n') {
            let (line, ends) = match piece.strip_suffix('\n') {
                Some(line) => (line, true),
                None => (piece, false),
            };
            if self.is_open {
                // What was taken of the line goes on as another piece.
                match self.fresh.back_mut() {
                    Some(last) => last.push_str(line),
                    None => self.fresh.push_back(line.to_owned()),
                }
                if let Some(last) = self.kept.back_mut() {
                    last.push_str(line);
                }
            } else {
                let line = format!("{} {line}", clock(since));
                self.fresh.push_back(line.clone());
                self.kept.push_back(line);
            }
            self.kept_bytes += line.len() + 1;
            self.is_open = !ends;
            while self.kept_bytes > MAX_KEPT && self.kept.len() > 1 {
                let gone = self.kept.pop_front().map_or(0, |line| line.len() + 1);
                self.kept_bytes = self.kept_bytes.saturating_sub(gone);
            }
        }
    }
}

/// Seconds in at least five columns: "0.123", "12.34", "123.4".
fn clock(seconds: f64) -> String {
    let places = match seconds {
        0.0..10.0 => 3,
        10.0..100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.places$}")
}

/// The last lines of an output, as a terminal would have them: a carriage
/// return writes over its line, sequences that drive terminals are left out.
#[derive(Debug, Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    line: String,
    /// The next letter begins the line anew.
    returned: bool,
    escape: Escape,
    /// Of a letter that came in parts.
    cut: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    /// CSI: until a letter.
    Control,
    /// OSC and the like: until BEL or ESC \.
    Text,
}

impl Tail {
    fn write(&mut self, data: &[u8]) {
        self.cut.extend_from_slice(data);
        let bytes = std::mem::take(&mut self.cut);
        for chunk in bytes.utf8_chunks() {
            chunk.valid().chars().for_each(|letter| self.letter(letter));
            let invalid = chunk.invalid();
            let at_end = invalid.as_ptr_range().end == bytes.as_ptr_range().end;
            if at_end && !invalid.is_empty() && invalid.len() < 4 {
                self.cut = invalid.to_vec();
            } else if !invalid.is_empty() {
                self.letter('\u{fffd}');
            }
        }
    }

    fn letter(&mut self, letter: char) {
        match (self.escape, letter) {
            (Escape::None, '\x1b') => self.escape = Escape::Begun,
            (Escape::None, '\n') => {
                self.returned = false;
                let line = std::mem::take(&mut self.line);
                self.lines.push_back(line);
                if self.lines.len() > TAIL {
                    self.lines.pop_front();
                }
            }
            (Escape::None, '\r') => self.returned = true,
            (Escape::None, letter) => {
                if self.returned {
                    self.line.clear();
                    self.returned = false;
                }
                if letter == '\t' {
                    let columns = self.line.chars().count();
                    self.line.push_str(&" ".repeat(8 - columns % 8));
                } else if !letter.is_control() && self.line.len() < MAX_LINE {
                    self.line.push(letter);
                }
            }
            (Escape::Begun, '[') => self.escape = Escape::Control,
            (Escape::Begun, ']' | 'P' | 'X' | '^' | '_') => self.escape = Escape::Text,
            (Escape::Begun, ' '..='/') => {}
            (Escape::Begun, _) | (Escape::Text, '\x07') => self.escape = Escape::None,
            (Escape::Control, '@'..='~') => self.escape = Escape::None,
            (Escape::Text, '\x1b') => self.escape = Escape::Begun,
            (Escape::Control | Escape::Text, _) => {}
        }
    }

    /// Lines with something in them, the last `most`.
    pub(super) fn lines(&self, most: usize) -> Vec<&str> {
        let mut lines: Vec<_> = self
            .lines
            .iter()
            .chain([&self.line])
            .map(String::as_str)
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines.drain(..lines.len().saturating_sub(most.min(TAIL)));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(pieces: &[&[u8]]) -> Vec<String> {
        let mut tail = Tail::default();
        pieces.iter().for_each(|piece| tail.write(piece));
        tail.lines(9).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn tails_are_what_a_terminal_shows() {
        assert_eq!(tail(&[b"a\nb"]), ["a", "b"]);
        assert_eq!(tail(&[b"10%\r20%\r\n", b"x\r"]), ["20%", "x"]);
        assert_eq!(
            tail(&[b"\x1b[31mred\x1b[0m \x1b]0;ti", b"tle\x07on\x1b(B"]),
            ["red on"]
        );
        assert_eq!(tail(&[b"\x1b[2J\x1b[", b"H\x07bell\tend"]), ["bell    end"]);
        assert_eq!(
            tail(&["ü".as_bytes().split_at(1).0, "ü".as_bytes().split_at(1).1]),
            ["ü"]
        );
        assert_eq!(
            tail(&[b"1\n2\n3\n4\n5\n6\n7\n8\n"]),
            ["3", "4", "5", "6", "7", "8"]
        );
    }

    #[test]
    fn amounts_as_people_know_them() {
        for (count, text) in [
            (0, "0B"),
            (2, "2B"),
            (999, "999B"),
            (32_768, "32.77kB"),
            (1_048_576, "1.05MB"),
            (999_999, "1.00MB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(
            (
                clock(0.1234).as_str(),
                clock(12.345).as_str(),
                clock(123.45).as_str()
            ),
            ("0.123", "12.35", "123.5")
        );
    }
}
