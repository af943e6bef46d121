//! Progress of pulls, pushes and loads: Docker's lines where output is read by
//! programs, a live display on a terminal.

use std::io::Write as _;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use berth_api::progress::Progress;
use rustix::termios::{isatty, tcgetwinsize};
use tokio::signal::unix::{SignalKind, signal};

use super::transfer::{Transfer, columns};
use super::{harmless, harmless_lines};
use crate::failure::Failure;
use crate::transport::Lines;

/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(100);

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Stdout,
    /// For `run`: stdout is the container's.
    Stderr,
    /// Only errors count.
    Nowhere,
}

impl To {
    fn write(self, text: &str) {
        match self {
            Self::Stdout => super::print(text),
            Self::Stderr => {
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
            Self::Nowhere => {}
        }
    }

    fn descriptor(self) -> BorrowedFd<'static> {
        match self {
            Self::Stderr => rustix::stdio::stderr(),
            Self::Stdout | Self::Nowhere => rustix::stdio::stdout(),
        }
    }

    /// A terminal that can move its cursor.
    fn is_screen(self) -> bool {
        self != Self::Nowhere
            && isatty(self.descriptor())
            && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
    }
}

/// Shows `lines` until they end, and returns what the engine adds to them for
/// programs ("aux"). An error line is the command's failure.
pub(crate) async fn show(lines: &mut Lines, to: To) -> Result<Vec<serde_json::Value>, Failure> {
    if to.is_screen() {
        return on_screen(lines, to).await;
    }
    let mut additions = Vec::new();
    while let Some(line) = lines.next::<Progress>().await? {
        if let Some(failure) = failure_in(&line) {
            return Err(failure);
        }
        if let Some(addition) = line.aux {
            additions.push(addition);
        } else if !line.stream.is_empty() {
            to.write(&harmless_lines(&line.stream));
        } else if !is_moving(&line) && !line.status.is_empty() {
            to.write(&format!("{}\n", text_of(&line)));
        }
    }
    Ok(additions)
}

/// What is on the screen below the fixed lines.
struct Screen {
    to: To,
    /// Columns of each line as it was drawn.
    drawn: Vec<usize>,
}

impl Screen {
    fn size(&self) -> (usize, usize) {
        tcgetwinsize(self.to.descriptor())
            .ok()
            .filter(|size| size.ws_row > 0 && size.ws_col > 0)
            .map_or((80, 24), |size| {
                (usize::from(size.ws_col), usize::from(size.ws_row))
            })
    }

    /// Replaces the live lines by `fixed`, which stay, and new live ones.
    fn draw(&mut self, fixed: &[String], live: &[String]) {
        let (width, _) = self.size();
        // In a terminal that became narrower, a line takes several rows.
        let up: usize = self
            .drawn
            .iter()
            .map(|columns| columns.div_ceil(width).max(1))
            .sum();
        let mut text = String::new();
        if up > 0 {
            text.push_str(&format!("\x1b[{up}A"));
        }
        text.push_str("\r\x1b[J");
        for line in fixed.iter().chain(live) {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = live.iter().map(|line| columns(line)).collect();
        self.to.write(&text);
    }
}

async fn on_screen(lines: &mut Lines, to: To) -> Result<Vec<serde_json::Value>, Failure> {
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let start = Instant::now();
    let mut screen = Screen {
        to,
        drawn: Vec::new(),
    };
    let mut transfer = Transfer::default();
    let mut additions = Vec::new();
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut resized = signal(SignalKind::window_change())
        .map_err(|error| Failure::new(format!("cannot follow the terminal's size: {error}")))?;
    let picture = |transfer: &Transfer, screen: &Screen| {
        if transfer.is_empty() {
            return Vec::new();
        }
        let (width, height) = screen.size();
        // The last column stays free: some terminals wrap when it is filled.
        transfer.render(width.saturating_sub(1), height, start.elapsed(), colours)
    };
    loop {
        let line = tokio::select! {
            biased;
            _ = frames.tick() => None,
            _ = resized.recv() => None,
            line = lines.next::<Progress>() => Some(line),
        };
        let line = match line {
            None => {
                let live = picture(&transfer, &screen);
                if !live.is_empty() {
                    screen.draw(&[], &live);
                }
                continue;
            }
            Some(Ok(Some(line))) => line,
            Some(end) => {
                screen.draw(&transfer.last(), &[]);
                return end.map(|_| additions);
            }
        };
        if let Some(failure) = failure_in(&line) {
            screen.draw(&transfer.last(), &[]);
            return Err(failure);
        }
        if let Some(addition) = line.aux {
            additions.push(addition);
        } else if !line.stream.is_empty() || (line.id.is_empty() && !line.status.is_empty()) {
            // A word on the whole: the layers before it are finished.
            let mut fixed = transfer.last();
            transfer = Transfer::default();
            if line.stream.is_empty() {
                fixed.push(text_of(&line));
            } else {
                let text = harmless_lines(&line.stream);
                fixed.extend(text.trim_end_matches('\n').split('\n').map(str::to_owned));
            }
            screen.draw(&fixed, &[]);
        } else if Transfer::concerns(&line) {
            transfer.update(&line, start.elapsed());
        } else if !line.status.is_empty() {
            screen.draw(&[text_of(&line)], &picture(&transfer, &screen));
        }
    }
}

/// A position in some work, which only a terminal can show.
fn is_moving(line: &Progress) -> bool {
    line.detail
        .as_ref()
        .is_some_and(|detail| detail.current > 0 || detail.total > 0)
}

fn text_of(line: &Progress) -> String {
    if line.id.is_empty() {
        harmless(&line.status)
    } else {
        harmless(&format!("{}: {}", line.id, line.status))
    }
}

fn failure_in(line: &Progress) -> Option<Failure> {
    let detail = line
        .error_detail
        .as_ref()
        .map(|detail| detail.message.as_str());
    let message = detail.unwrap_or(&line.error);
    (detail.is_some() || !message.is_empty()).then(|| Failure::new(harmless_lines(message)))
}
