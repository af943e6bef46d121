//! Progress of pulls and loads: one line per layer, redrawn on a terminal.

use std::fmt::Write as _;
use std::io::Write as _;

use berth_api::progress::Progress;

use super::harmless;
use crate::failure::Failure;
use crate::transport::Lines;
use crate::units::human_size;

/// Shows `lines` on stdout (or on stderr, for `run`) until they end. An error
/// line is the command's failure.
pub(crate) async fn show(lines: &mut Lines, to_stderr: bool) -> Result<(), Failure> {
    let terminal = if to_stderr {
        rustix::termios::isatty(rustix::stdio::stderr())
    } else {
        rustix::termios::isatty(rustix::stdio::stdout())
    };
    let write = |text: &str| {
        if to_stderr {
            let _ = std::io::stderr().write_all(text.as_bytes());
        } else {
            super::print(text);
        }
    };
    // Rows on the terminal, by id, in order of appearance.
    let mut rows: Vec<String> = Vec::new();
    while let Some(line) = lines.next::<Progress>().await? {
        if let Some(failure) = failure_in(&line) {
            return Err(failure);
        }
        if !line.stream.is_empty() {
            write(&line.stream);
            continue;
        }
        if line.status.is_empty() {
            continue;
        }
        let moving = line
            .detail
            .as_ref()
            .is_some_and(|detail| detail.current > 0 || detail.total > 0);
        if !terminal && moving {
            continue;
        }
        let text = text_of(&line);
        if !terminal || line.id.is_empty() {
            write(&format!("{text}\n"));
            if terminal {
                // What is above is not redrawn any more.
                rows.clear();
            }
            continue;
        }
        match rows.iter().position(|id| *id == line.id) {
            Some(at) => {
                let up = rows.len() - at;
                write(&format!("\x1b[{up}A\x1b[2K\r{text}\r\x1b[{up}B"));
            }
            None => {
                rows.push(line.id.clone());
                write(&format!("{text}\n"));
            }
        }
    }
    Ok(())
}

fn text_of(line: &Progress) -> String {
    let mut text = String::new();
    if !line.id.is_empty() {
        let _ = write!(text, "{}: ", harmless(&line.id));
    }
    text.push_str(&harmless(&line.status));
    if let Some(detail) = &line.detail
        && detail.current > 0
    {
        let current = human_size(detail.current as f64, 4);
        if detail.total > 0 {
            let part = (detail.current.min(detail.total) * 50 / detail.total) as usize;
            let bar = format!(
                "{}>{}",
                "=".repeat(part.saturating_sub(1)),
                " ".repeat(50 - part.max(1))
            );
            let _ = write!(
                text,
                " [{bar}]  {current:>8}/{}",
                human_size(detail.total as f64, 4)
            );
        } else {
            let _ = write!(text, " {current:>8}");
        }
    }
    text
}

/// Shows nothing; an error line is the command's failure.
pub(crate) async fn fail_only(lines: &mut Lines) -> Result<(), Failure> {
    while let Some(line) = lines.next::<Progress>().await? {
        if let Some(failure) = failure_in(&line) {
            return Err(failure);
        }
    }
    Ok(())
}

fn failure_in(line: &Progress) -> Option<Failure> {
    let detail = line
        .error_detail
        .as_ref()
        .map(|detail| detail.message.as_str());
    let message = detail.unwrap_or(&line.error);
    (detail.is_some() || !message.is_empty()).then(|| Failure::new(harmless(message)))
}
