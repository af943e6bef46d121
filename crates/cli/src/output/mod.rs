//! What a person or a script sees.

pub(crate) mod archive;
pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod transfer;

use std::io::Write as _;

/// Writes to stdout. A reader that went away (`berth ps | head -1`) is no error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

pub(crate) fn print_line(text: &str) {
    print(&format!("{text}\n"));
}

/// Writes a line to stderr.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A remark of several lines, set off by "Info" as Docker does it.
pub(crate) fn note(text: &str, terminal: bool) -> String {
    let head = if terminal { "i Info → " } else { " Info -> " };
    let lines = harmless_lines(text).replace('\n', "\n         ");
    format!("\n{head}{lines}\n")
}

/// Escapes what could drive a terminal: names and messages come from elsewhere.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// The same of text with several lines.
pub(crate) fn harmless_lines(text: &str) -> String {
    text.split('\n')
        .map(harmless)
        .collect::<Vec<_>>()
        .join("\n")
}

/// At most `most` characters, the last an ellipsis when cut.
pub(crate) fn ellipsis(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        text.to_owned()
    } else {
        let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
        cut.push('…');
        cut
    }
}

/// "sha256:0123…" or "0123…" to its first twelve digits.
pub(crate) fn short_id(id: &str) -> &str {
    let id = id.split_once(':').map_or(id, |(_, hex)| hex);
    id.get(..12).unwrap_or(id)
}
