//! Progress on a terminal: a picture of the build as a pure function of what is
//! known of it, the time and the terminal's size.

use jiff::Timestamp;

use super::trace::{Trace, Vertex, amount, seconds};
use crate::output::harmless;

/// Lines of output under a running step.
const TAIL: usize = 6;
/// Shorter is not worth a time's column.
const MIN_NAME: usize = 12;

/// Terminal and taste.
#[derive(Clone, Copy, Debug)]
pub(super) struct Canvas {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) colours: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Plain,
    Done,
    Failed,
    Cancelled,
    Faint,
}

/// One line before it is known whether there is room.
struct Line {
    text: String,
    /// To the right of the text.
    status: String,
    /// To the right of all; none for output.
    seconds: Option<f64>,
    look: Look,
    running: bool,
    /// Whose output may follow.
    vertex: Option<usize>,
}

/// `last`: the picture that stays, with all lines. `desc`: at the right of the
/// first line.
pub(super) fn picture(
    trace: &Trace,
    now: Timestamp,
    canvas: Canvas,
    desc: &str,
    last: bool,
) -> Vec<String> {
    // By the engine's clock.
    let ahead = jiff::SignedDuration::try_from_secs_f64(trace.ahead).unwrap_or_default();
    let now = now.checked_sub(ahead).unwrap_or(now);
    let (done, all) = trace.counts();
    let took = trace.start.map_or(0.0, |start| seconds(start, now));
    let finished = if last && done == all && done > 0 {
        "FINISHED"
    } else {
        ""
    };
    let head = format!("[+] Building {took:.1}s ({done}/{all}) {finished}");
    let mut picture = vec![align(head.trim_end(), desc, canvas.width)];
    let lines = lines(trace, now);
    let room = if last {
        usize::MAX
    } else {
        // The head, and the line of the cursor.
        canvas.height.saturating_sub(2)
    };
    let tails = tails(trace, &lines, room);
    let taken: usize = tails.iter().map(|(_, count)| count).sum();
    for line in chosen(lines, room.saturating_sub(taken)) {
        let Some(text) = line.draw(canvas) else {
            continue;
        };
        picture.push(text);
        let tail = line
            .vertex
            .and_then(|number| tails.iter().find(|(other, _)| *other == number));
        if let Some(&(number, count)) = tail {
            let width = canvas.width;
            for text in trace.vertices[number].tail.lines(count) {
                let text = cut(&format!(" => => # {text}"), width);
                picture.push(paint(&text, Look::Faint, canvas.colours));
            }
        }
    }
    picture
}

/// All lines, oldest vertex first.
fn lines(trace: &Trace, now: Timestamp) -> Vec<Line> {
    let mut lines = Vec::new();
    for &number in &trace.order {
        let vertex = &trace.vertices[number];
        let Some(started) = vertex.started else {
            continue;
        };
        let until = vertex.completed.unwrap_or(now);
        lines.push(Line {
            text: format!(
                "{}{}",
                state(vertex),
                harmless(&vertex.name).replace('\t', " ")
            ),
            status: String::new(),
            seconds: Some(seconds(started, until)),
            look: match () {
                () if vertex.completed.is_none() => Look::Plain,
                () if vertex.is_cancelled() => Look::Cancelled,
                () if vertex.has_failed() => Look::Failed,
                () => Look::Done,
            },
            running: vertex.completed.is_none(),
            vertex: Some(number),
        });
        for part in &vertex.parts {
            let Some(started) = part.started.or(part.told) else {
                continue;
            };
            lines.push(Line {
                text: format!("=> {}", harmless(&part.id)),
                status: amount(part),
                seconds: Some(seconds(started, part.completed.unwrap_or(until))),
                look: if part.completed.is_some() {
                    Look::Done
                } else {
                    Look::Plain
                },
                running: part.completed.is_none() && vertex.completed.is_none(),
                vertex: None,
            });
        }
        for warning in &vertex.warnings {
            lines.push(Line {
                text: format!("WARN: {}", harmless(warning)),
                status: String::new(),
                seconds: Some(0.0),
                look: Look::Cancelled,
                running: false,
                vertex: None,
            });
        }
    }
    lines
}

fn state(vertex: &Vertex) -> &'static str {
    if vertex.is_cancelled() {
        "CANCELED "
    } else if vertex.has_failed() {
        "ERROR "
    } else if vertex.cached {
        "CACHED "
    } else {
        ""
    }
}

/// Which running steps show how many lines of their output: the latest first,
/// while there is room for all that runs.
fn tails(trace: &Trace, lines: &[Line], room: usize) -> Vec<(usize, usize)> {
    if room == usize::MAX {
        return Vec::new();
    }
    let running = lines.iter().filter(|line| line.running).count();
    let mut free = room.saturating_sub(running);
    let mut tails = Vec::new();
    for line in lines.iter().rev().filter(|line| line.running) {
        let Some(number) = line.vertex else {
            continue;
        };
        let count = trace.vertices[number].tail.lines(TAIL.min(free)).len();
        if count > 0 {
            tails.push((number, count));
            free -= count;
        }
    }
    tails
}

/// What fits: all that runs, and the latest of what is done, in their order.
fn chosen(lines: Vec<Line>, room: usize) -> Vec<Line> {
    let running = lines.iter().filter(|line| line.running).count();
    let mut done_to_hide = (lines.len() - running).saturating_sub(room.saturating_sub(running));
    let mut running_to_hide = running.saturating_sub(room);
    lines
        .into_iter()
        .filter(|line| {
            let hidden = if line.running {
                &mut running_to_hide
            } else {
                &mut done_to_hide
            };
            let hide = *hidden > 0;
            *hidden = hidden.saturating_sub(1);
            !hide
        })
        .collect()
}

impl Line {
    /// None where there is no room for a line.
    fn draw(&self, canvas: Canvas) -> Option<String> {
        let seconds = self.seconds.unwrap_or_default();
        // Less is no time.
        let seconds = if seconds < 0.05 { 0.0 } else { seconds };
        let timer = format!("{seconds:3.1}s");
        let mut left = canvas.width.checked_sub(" => ".len() + timer.len() + 1)?;
        let mut status = "";
        if !self.status.is_empty() && left > self.status.len() + MIN_NAME {
            status = &self.status;
            left -= status.len() + 1;
        }
        if left < MIN_NAME {
            return None;
        }
        let mut text = format!(" => {}", cut(&self.text, left));
        if !status.is_empty() {
            text.push(' ');
            text.push_str(status);
        }
        Some(paint(
            &align(&text, &timer, canvas.width),
            self.look,
            canvas.colours,
        ))
    }
}

fn paint(text: &str, look: Look, colours: bool) -> String {
    let code = match look {
        Look::Plain => return text.to_owned(),
        _ if !colours => return text.to_owned(),
        Look::Done => "34",
        Look::Failed => "31",
        Look::Cancelled => "33",
        Look::Faint => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Text at the left and at the right; the left gives way.
fn align(left: &str, right: &str, width: usize) -> String {
    let needed = columns(right) + usize::from(!right.is_empty());
    let Some(room) = width.checked_sub(needed).filter(|room| *room >= MIN_NAME) else {
        return cut(left, width);
    };
    if right.is_empty() {
        return cut(left, width);
    }
    let left = cut(left, room);
    let gap = " ".repeat(width - columns(&left) - columns(right));
    format!("{left}{gap}{right}")
}

/// At most `width` columns.
fn cut(text: &str, width: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|&letter| {
            used += letter_columns(letter);
            used <= width
        })
        .collect()
}

fn columns(text: &str) -> usize {
    text.chars().map(letter_columns).sum()
}

/// Columns of a letter on a terminal: East Asian ones and pictures take two,
/// what only changes the letter before it none.
fn letter_columns(letter: char) -> usize {
    match letter as u32 {
        0x300..=0x36f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xe0100..=0xe01ef => {
            0
        }
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xa960..=0xa97c
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}
