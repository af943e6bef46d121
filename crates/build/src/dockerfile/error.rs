//! A complaint about a Dockerfile, with the place it is about.

use std::fmt::Write as _;

use super::Lines;

/// Lines shown before and after the place.
const CONTEXT: usize = 2;

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

/// `lines` of `text`, marked, with two lines around them.
pub(crate) fn excerpt(name: &str, text: &str, lines: Lines) -> String {
    const RULE: &str = "--------------------\n";
    let first = lines.start.saturating_sub(CONTEXT).max(1);
    let last = lines.end + CONTEXT;
    let mut out = format!("{name}:{}\n{RULE}", lines.start);
    for (at, line) in text.lines().enumerate() {
        let number = at + 1;
        if number < first || number > last {
            continue;
        }
        let mark = if (lines.start..=lines.end).contains(&number) {
            ">>>"
        } else {
            "   "
        };
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
