//! How a build is shown while it runs: `--progress`.

mod plain;
mod trace;
mod tty;

use std::io::{Stderr, Write as _};

use berth_api::build::{Status, VertexWarning};
use jiff::Timestamp;
use rustix::termios::{isatty, tcgetwinsize};

use self::plain::Plain;
use self::trace::Trace;
pub(super) use self::trace::decoded;
use self::tty::Canvas;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Tty,
    Plain,
    Quiet,
    RawJson,
}

impl Mode {
    /// `--progress`, `BUILDKIT_PROGRESS`, `--quiet`.
    pub(super) fn choose(flag: Option<&str>, quiet: bool) -> Result<Self, String> {
        let environment = std::env::var("BUILDKIT_PROGRESS").ok();
        let environment = environment.as_deref().filter(|text| !text.is_empty());
        let given = flag.or(environment).unwrap_or("auto");
        if quiet {
            return match given {
                "auto" | "" | "quiet" | "none" => Ok(Self::Quiet),
                other => Err(format!(
                    "progress={other} and quiet cannot be used together"
                )),
            };
        }
        let screen = || {
            isatty(rustix::stdio::stderr())
                && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
        };
        match given {
            "auto" | "" if screen() => Ok(Self::Tty),
            "auto" | "" | "plain" => Ok(Self::Plain),
            "tty" if isatty(rustix::stdio::stderr()) => Ok(Self::Tty),
            "tty" => Err("failed to get console: provided file is not a console".to_owned()),
            "quiet" | "none" => Ok(Self::Quiet),
            "rawjson" => Ok(Self::RawJson),
            other => Err(format!("invalid progress mode {other}")),
        }
    }
}

/// Takes statuses and shows them on stderr.
pub(super) struct Display {
    kind: Kind,
}

enum Kind {
    Tty(Box<Screen>),
    Plain(Box<Plain<Stderr>>),
    Quiet(Box<Trace>),
    RawJson(Box<Trace>),
}

struct Screen {
    trace: Trace,
    desc: String,
    colours: bool,
    /// Columns of each line as it was drawn.
    drawn: Vec<usize>,
}

impl Display {
    pub(super) fn new(mode: Mode) -> Self {
        let kind = match mode {
            Mode::Tty => Kind::Tty(Box::new(Screen {
                trace: Trace::default(),
                desc: "docker:default".to_owned(),
                colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
                drawn: Vec::new(),
            })),
            Mode::Plain => Kind::Plain(Box::new(Plain::new(
                std::io::stderr(),
                "\"default\" instance using docker driver",
            ))),
            Mode::Quiet => Kind::Quiet(Box::default()),
            Mode::RawJson => Kind::RawJson(Box::default()),
        };
        Self { kind }
    }

    /// Takes a status in. A terminal is drawn with the next [`Self::tick`].
    pub(super) fn update(&mut self, status: &Status) {
        let now = Timestamp::now();
        match &mut self.kind {
            Kind::Tty(screen) => drop(screen.trace.update(status, now)),
            Kind::Plain(plain) => plain.update(status, now),
            Kind::Quiet(trace) => drop(trace.update(status, now)),
            Kind::RawJson(trace) => {
                trace.update(status, now);
                if let Ok(mut line) = serde_json::to_vec(status) {
                    line.push(b'\n');
                    let _ = std::io::stderr().write_all(&line);
                }
            }
        }
    }

    /// Time passed, or the terminal's size changed.
    pub(super) fn tick(&mut self) {
        let now = Timestamp::now();
        match &mut self.kind {
            Kind::Tty(screen) => screen.draw(now, false),
            Kind::Plain(plain) => plain.tell(now),
            Kind::Quiet(_) | Kind::RawJson(_) => {}
        }
    }

    /// The last picture, and what failed. `give_up`: nobody tells the end of
    /// what still runs.
    pub(super) fn finish(&mut self, give_up: bool) {
        let now = Timestamp::now();
        match &mut self.kind {
            Kind::Tty(screen) => {
                if give_up {
                    screen.trace.give_up(now);
                }
                screen.draw(now, true);
                let failures = screen.trace.failures(None);
                let _ = std::io::stderr().write_all(failures.as_bytes());
            }
            Kind::Plain(plain) => plain.finish(now, give_up),
            // Only what failed, or nobody would know why.
            Kind::Quiet(trace) => {
                let _ = std::io::stderr().write_all(trace.failures(None).as_bytes());
            }
            Kind::RawJson(_) => {}
        }
    }

    pub(super) fn warnings(&self) -> &[VertexWarning] {
        match &self.kind {
            Kind::Tty(screen) => &screen.trace.warnings,
            Kind::Plain(plain) => &plain.trace().warnings,
            Kind::Quiet(trace) | Kind::RawJson(trace) => &trace.warnings,
        }
    }
}

impl Screen {
    fn draw(&mut self, now: Timestamp, last: bool) {
        if self.trace.order.is_empty() && !last {
            return;
        }
        let size = tcgetwinsize(rustix::stdio::stderr())
            .ok()
            .filter(|size| size.ws_row > 0 && size.ws_col > 0)
            .map_or((80, 24), |size| {
                (usize::from(size.ws_col), usize::from(size.ws_row))
            });
        let canvas = Canvas {
            // Some terminals wrap when the last column is filled.
            width: size.0.saturating_sub(1),
            height: size.1,
            colours: self.colours,
        };
        let lines = tty::picture(&self.trace, now, canvas, &self.desc, last);
        let text = redraw(&self.drawn, &lines, size.0);
        self.drawn = lines
            .iter()
            .map(|line| crate::output::transfer::columns(line))
            .collect();
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// What replaces the lines drawn before by new ones, in one go: each line is
/// written over, then the rest is cleared, so that nothing flickers. In a
/// terminal that became narrower an old line takes several rows.
fn redraw(drawn: &[usize], lines: &[String], width: usize) -> String {
    let up: usize = drawn
        .iter()
        .map(|columns| columns.div_ceil(width.max(1)).max(1))
        .sum();
    // Hidden cursor, and all at once where the terminal can.
    let mut text = "\x1b[?2026h\x1b[?25l".to_owned();
    if up > 0 {
        text += &format!("\x1b[{up}A");
    }
    text.push('\r');
    for line in lines {
        text += line;
        text += "\x1b[K\n";
    }
    text += "\x1b[J\x1b[?25h\x1b[?2026l";
    text
}

#[cfg(test)]
mod tests;
