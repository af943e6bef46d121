//! A complaint about a Dockerfile, with the place it is about.

use std::fmt::Write as _;

use super::Lines;

/// What is wrong, where, and what was perhaps meant. The words are BuildKit's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dockerfile parse error on line {}: {message}", .lines.start)]
pub struct Error {
    pub message: String,
    pub lines: Lines,
}

impl Error {
    pub(super) fn new(message: impl Into<String>, lines: Lines) -> Self {
        Self {
            message: message.into(),
            lines,
        }
    }

    /// The place in the file, as BuildKit prints it above the error.
    pub fn excerpt(&self, name: &str, text: &str) -> String {
        excerpt(name, text, self.lines)
    }
}

/// `lines` of `text`, marked, with some around them: exactly those that BuildKit
/// shows, the empty one after the last newline included.
pub(crate) fn excerpt(name: &str, text: &str, lines: Lines) -> String {
    const RULE: &str = "--------------------\n";
    let all: Vec<&str> = text.split('\n').collect();
    let (mut first, mut last) = (lines.start.max(1), lines.end.min(all.len()));
    let wanted = if lines.start == lines.end { 4 } else { 2 };
    let mut around = 0;
    while around < wanted {
        if first > 1 {
            first -= 1;
            around += 1;
        }
        if last < all.len() {
            last += 1;
            around += 1;
        }
        around += 1;
    }
    let mut out = format!("{name}:{}\n{RULE}", lines.start);
    for (number, line) in (1..).zip(all) {
        if number < first || number > last {
            continue;
        }
        let mark = if (lines.start..=lines.end).contains(&number) {
            ">>>"
        } else {
            "   "
        };
        let line = line.strip_suffix('\r').unwrap_or(line);
        // Writing to a String cannot fail.
        let _ = writeln!(out, " {number:>3} | {mark} {line}");
    }
    out.push_str(RULE);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_shown_with_its_surroundings() {
        let error = Error::new("unknown instruction: FOO", Lines { start: 3, end: 3 });
        let text = "FROM a\nRUN b\nFOO c\nRUN d\nRUN e\nRUN f\n";
        assert_eq!(
            error.excerpt("Dockerfile", text),
            "Dockerfile:3\n--------------------\n   1 |     FROM a\n   2 |     RUN b\n   3 | >>> FOO c\n   4 |     RUN d\n   5 |     RUN e\n--------------------\n"
        );
        assert_eq!(
            error.to_string(),
            "dockerfile parse error on line 3: unknown instruction: FOO"
        );
    }
}
