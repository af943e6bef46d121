//! What a pull, push or load looks like on a terminal: a line per layer and one
//! for all, as a pure function of what the engine said so far, the time and the
//! terminal's size.

use std::collections::VecDeque;
use std::time::Duration;

use berth_api::progress::Progress;

use super::harmless;
use crate::units::human_size;

/// Speeds are those of the last seconds.
const WINDOW: Duration = Duration::from_secs(3);
/// Samples kept for a speed.
const SAMPLES: usize = 64;
/// Most layers followed; more is a broken engine.
const MAX_LAYERS: usize = 10_000;
const BAR: std::ops::RangeInclusive<usize> = 10..=40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    /// Bytes go over the wire, or into the engine.
    Moving,
    /// All arrived; the rest is the engine's work.
    Working,
    Done,
}

#[derive(Debug)]
struct Layer {
    id: String,
    status: String,
    stage: Stage,
    /// Bytes moved, and how many there are (0 = not known).
    current: u64,
    total: u64,
    /// Part of the engine's own work that is done.
    worked: Option<(u64, u64)>,
    speed: Speed,
}

/// Bytes at points in time.
#[derive(Debug, Default)]
struct Speed {
    samples: VecDeque<(Duration, u64)>,
}

impl Speed {
    fn add(&mut self, now: Duration, bytes: u64) {
        // The newest gives way while it is too near to the one before.
        let near = self.samples.len() > 1
            && now.saturating_sub(self.samples[self.samples.len() - 2].0)
                < WINDOW / (SAMPLES as u32);
        if near {
            self.samples.pop_back();
        }
        self.samples.push_back((now, bytes));
        while self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// Bytes a second; none before there is anything to measure.
    fn rate(&self, now: Duration) -> Option<f64> {
        let from = now.saturating_sub(WINDOW);
        let (_, newest) = self.samples.back()?;
        let (at, bytes) = self.samples.iter().find(|(at, _)| *at >= from)?;
        let seconds = now.saturating_sub(*at).as_secs_f64();
        (seconds >= 0.2 && newest > bytes).then(|| (newest - bytes) as f64 / seconds)
    }
}

/// All layers of one transfer.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    layers: Vec<Layer>,
    speed: Speed,
}

impl Transfer {
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Whether `line` is about a layer, and not a remark to stand above.
    pub(crate) fn concerns(line: &Progress) -> bool {
        !line.id.is_empty() && line.detail.is_some()
    }

    pub(crate) fn update(&mut self, line: &Progress, now: Duration) {
        let detail = line.detail.as_ref();
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        let current = detail.map_or(0, |detail| number(detail.current));
        let total = detail.map_or(0, |detail| number(detail.total));
        let at = match self.layers.iter().position(|layer| layer.id == line.id) {
            Some(at) => at,
            None if self.layers.len() >= MAX_LAYERS => return,
            None => {
                self.layers.push(Layer {
                    id: line.id.clone(),
                    status: String::new(),
                    stage: Stage::Waiting,
                    current: 0,
                    total: 0,
                    worked: None,
                    speed: Speed::default(),
                });
                self.layers.len() - 1
            }
        };
        let layer = &mut self.layers[at];
        layer.status.clone_from(&line.status);
        layer.stage = stage_of(&line.status);
        layer.worked = None;
        match layer.stage {
            Stage::Moving => {
                layer.current = current;
                layer.total = layer.total.max(total);
                layer.speed.add(now, current);
            }
            Stage::Working => {
                layer.current = layer.total;
                layer.worked = (total > 0).then_some((current, total));
            }
            Stage::Done => layer.current = layer.total,
            Stage::Waiting => {}
        }
        let moved = self.layers.iter().map(|layer| layer.current).sum();
        self.speed.add(now, moved);
    }

    /// Lines for a terminal of this size, each at most `width` columns. What
    /// does not fit is told in one line.
    pub(crate) fn render(
        &self,
        width: usize,
        height: usize,
        now: Duration,
        colours: bool,
    ) -> Vec<String> {
        let paint = Paint { width, colours };
        // One row stays for the cursor, one for the total.
        let room = height.saturating_sub(2).max(1);
        let mut shown: Vec<usize> = (0..self.layers.len()).collect();
        let mut hidden = None;
        if shown.len() > room {
            let room = room.saturating_sub(1);
            // Those at work first, then those to come.
            shown.sort_by_key(|&at| match self.layers[at].stage {
                Stage::Moving | Stage::Working => (0, at),
                Stage::Waiting => (1, at),
                Stage::Done => (2, self.layers.len() - at),
            });
            let rest = shown.split_off(room.min(shown.len()));
            shown.sort_unstable();
            let done = rest
                .iter()
                .filter(|&&at| self.layers[at].stage == Stage::Done)
                .count();
            hidden = Some(format!("… {} more, {done} of them done", rest.len()));
        }
        let names = shown
            .iter()
            .map(|&at| self.layers[at].id.chars().count())
            .max()
            .unwrap_or(0)
            .clamp(5, 20);
        let mut lines: Vec<_> = shown
            .iter()
            .map(|&at| self.layers[at].line(&paint, names, now))
            .collect();
        lines.extend(hidden.map(|text| paint.dim(&cut(&text, width))));
        lines.push(self.total_line(&paint, names, now));
        lines
    }

    fn total_line(&self, paint: &Paint, names: usize, now: Duration) -> String {
        let count = |stage| {
            self.layers
                .iter()
                .filter(|layer| layer.stage == stage)
                .count()
        };
        let done = count(Stage::Done);
        let current: u64 = self.layers.iter().map(|layer| layer.current).sum();
        let total: u64 = self.layers.iter().map(|layer| layer.total).sum();
        let moving = count(Stage::Moving) + count(Stage::Waiting) > 0;
        // With layers of unknown size the end cannot be told.
        let known = self
            .layers
            .iter()
            .all(|layer| layer.total > 0 || matches!(layer.stage, Stage::Done | Stage::Working));
        let rate = self.speed.rate(now).filter(|_| moving);
        paint.line(&Parts {
            name: format!("{:<names$}", "total"),
            status: format!("{done}/{} done", self.layers.len()),
            finished: done == self.layers.len(),
            bar: (total > 0).then_some((current, total)),
            bytes: bytes(current, total),
            speed: rate.map(speed).unwrap_or_default(),
            left: if known {
                left(rate, current, total)
            } else {
                String::new()
            },
        })
    }

    /// What stays on the screen: a line per layer as it ended.
    pub(crate) fn last(&self) -> Vec<String> {
        self.layers
            .iter()
            .map(|layer| harmless(&format!("{}: {}", layer.id, layer.status)))
            .collect()
    }
}

/// The engine says by words what it does.
fn stage_of(status: &str) -> Stage {
    match status {
        "Pull complete"
        | "Already exists"
        | "Pushed"
        | "Layer already exists"
        | "Load complete" => Stage::Done,
        "Downloading" | "Pushing" | "Loading layer" => Stage::Moving,
        "Verifying Checksum" | "Download complete" | "Extracting" => Stage::Working,
        mounted if mounted.starts_with("Mounted from") => Stage::Done,
        _ => Stage::Waiting,
    }
}

impl Layer {
    fn line(&self, paint: &Paint, names: usize, now: Duration) -> String {
        let moving = self.stage == Stage::Moving;
        let rate = self.speed.rate(now).filter(|_| moving);
        let finished = self.stage == Stage::Done;
        paint.line(&Parts {
            name: format!("{:<names$}", cut(&harmless(&self.id), names)),
            status: harmless(&self.status),
            finished,
            bar: match self.worked {
                Some(worked) => Some(worked),
                None => (moving && self.total > 0).then_some((self.current, self.total)),
            },
            bytes: match (self.stage, self.worked) {
                (Stage::Moving, _) => bytes(self.current, self.total),
                (Stage::Working, Some((done, all))) => bytes(done, all),
                _ if self.total > 0 => human_size(self.total as f64, 3),
                _ => String::new(),
            },
            speed: rate.map(speed).unwrap_or_default(),
            left: left(rate, self.current, self.total),
        })
    }
}

/// Columns of a line, before it is known which fit.
struct Parts {
    name: String,
    status: String,
    finished: bool,
    bar: Option<(u64, u64)>,
    bytes: String,
    speed: String,
    left: String,
}

struct Paint {
    width: usize,
    colours: bool,
}

/// Widths of the columns behind the bar.
const STATUS: usize = 20;
const BYTES: usize = 15;
const SPEED: usize = 9;
const LEFT: usize = 7;

impl Paint {
    /// Name and status always; then bytes, bar, speed and time left, as long as
    /// there is room.
    fn line(&self, parts: &Parts) -> String {
        let name = parts.name.chars().count();
        let mut room = self.width.saturating_sub(name + 1);
        let mut fits = |need: usize| {
            let yes = room >= need;
            if yes {
                room -= need;
            }
            yes
        };
        let status = if fits(STATUS) { STATUS } else { 0 };
        let has_bytes = status > 0 && fits(BYTES + 1);
        let has_bar = has_bytes && fits(BAR.start() + 3);
        let has_speed = has_bar && fits(SPEED + 1);
        let has_left = has_speed && fits(LEFT + 1);
        if status == 0 {
            return cut(&format!("{} {}", parts.name, parts.status), self.width);
        }
        let mut text = format!(
            "{} {}",
            parts.name,
            self.status(&parts.status, parts.finished)
        );
        if has_bar {
            let length = (BAR.start() + room).min(*BAR.end());
            text.push(' ');
            match parts.bar {
                Some((done, all)) => text.push_str(&self.bar(done, all, length)),
                None => text.push_str(&" ".repeat(length + 2)),
            }
        }
        if has_bytes {
            text.push_str(&format!(" {:>BYTES$}", parts.bytes));
        }
        if has_speed {
            text.push_str(&format!(" {:>SPEED$}", parts.speed));
        }
        if has_left {
            text.push_str(&format!(" {:>LEFT$}", parts.left));
        }
        text.trim_end().to_owned()
    }

    fn status(&self, status: &str, finished: bool) -> String {
        let text = format!("{:<STATUS$}", cut(status, STATUS));
        if self.colours && finished {
            format!("\x1b[32m{text}\x1b[0m")
        } else {
            text
        }
    }

    fn bar(&self, done: u64, all: u64, length: usize) -> String {
        let part = (done.min(all) as u128 * length as u128 / u128::from(all.max(1))) as usize;
        let full = if part < length && part > 0 {
            "=".repeat(part - 1) + ">"
        } else {
            "=".repeat(part)
        };
        let rest = " ".repeat(length - part);
        if self.colours {
            format!("[\x1b[36m{full}\x1b[0m{rest}]")
        } else {
            format!("[{full}{rest}]")
        }
    }

    fn dim(&self, text: &str) -> String {
        if self.colours {
            format!("\x1b[2m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

fn bytes(current: u64, total: u64) -> String {
    let current_text = human_size(current as f64, 3);
    match (current, total) {
        (0, 0) => String::new(),
        (_, 0) => current_text,
        _ => format!("{current_text}/{}", human_size(total as f64, 3)),
    }
}

fn speed(rate: f64) -> String {
    format!("{}/s", human_size(rate, 3))
}

/// "12s", "3m05s", "2h10m"; "" if it cannot be told.
fn left(rate: Option<f64>, current: u64, total: u64) -> String {
    let Some(rate) = rate.filter(|_| total > current) else {
        return String::new();
    };
    let seconds = ((total - current) as f64 / rate).ceil();
    if seconds >= 360_000.0 {
        return String::new();
    }
    let seconds = seconds as u64;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// At most `most` characters.
fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// Columns that a line with colours takes.
pub(crate) fn columns(line: &str) -> usize {
    let mut escape = false;
    line.chars()
        .filter(|&letter| {
            let was = escape;
            escape = match letter {
                '\x1b' => true,
                'm' => false,
                _ => escape,
            };
            !was && !escape
        })
        .count()
}

#[cfg(test)]
mod tests;
