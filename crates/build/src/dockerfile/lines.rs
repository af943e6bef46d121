//! From text to statements: directives, comments, continued lines, heredocs.

use super::Error;
use super::expand::Expander;

/// Longest line, and longest Dockerfile, in bytes.
const MAX_LINE: usize = 64 << 10;
const MAX_FILE: usize = 2 << 20;

/// A range of lines; the first line of a file is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lines {
    pub start: usize,
    pub end: usize,
}

/// The `# key=value` lines that may stand at the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// What follows a line's end and a character to take as it is.
    pub escape: char,
    /// Which language the file wants; always served by this one.
    pub syntax: Option<String>,
    /// Which checks to skip, and whether to fail.
    pub check: Option<String>,
}

/// A document within a statement: `<<NAME` … `NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// As written, each line with its end.
    pub content: String,
    /// Variables in it are replaced: the name was not quoted.
    pub expand: bool,
    /// `<<-`: leading tabs of each line do not count.
    pub strip_tabs: bool,
    pub descriptor: Option<u32>,
}

impl Heredoc {
    /// The content without the tabs that `<<-` takes away.
    pub fn text(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }

    /// Reads one word of a statement: `<<NAME`, `<<-NAME`, `3<<"NAME"`.
    pub(crate) fn of_word(word: &str, escape: char) -> Option<Self> {
        let (descriptor, rest) = word.split_once("<<")?;
        if !descriptor.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let (strip_tabs, raw) = match rest.strip_prefix('-') {
            Some(raw) => (true, raw),
            None => (false, rest),
        };
        if raw.is_empty() || raw.contains('<') {
            return None;
        }
        let words = Expander::new(escape).keep_unset().words(raw).ok()?;
        let [name] = words.as_slice() else {
            return None;
        };
        Some(Self {
            name: name.clone(),
            content: String::new(),
            expand: name == raw,
            strip_tabs,
            descriptor: descriptor.parse().ok(),
        })
    }
}

/// One instruction as written, its lines joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) lines: Lines,
    pub(super) heredocs: Vec<Heredoc>,
    /// Comments right above it, without their `#`.
    pub(super) comments: Vec<String>,
    /// The line that it goes on to, past an empty one.
    pub(super) empty_continuation: Option<usize>,
}

/// Instructions that take heredocs.
const WITH_HEREDOCS: [&str; 3] = ["add", "copy", "run"];

pub(super) fn statements(text: &str) -> Result<(Directives, Vec<Statement>), Error> {
    if text.len() > MAX_FILE {
        return Err(Error::new(
            format!("the Dockerfile is longer than {MAX_FILE} bytes"),
            Lines { start: 1, end: 1 },
        ));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        lines: text.split_inclusive('\n'),
        number: 0,
        directives: Directives {
            escape: '\\',
            syntax: None,
            check: None,
        },
        in_directives: true,
    };
    let mut statements = Vec::new();
    let mut comments = Vec::new();
    while let Some(line) = reader.next()? {
        reader.directive(line)?;
        let line = line.trim_start();
        if let Some(comment) = line.strip_prefix('#') {
            match comment.trim() {
                "" => comments.clear(),
                comment => comments.push(comment.to_owned()),
            }
            continue;
        }
        let start = reader.number;
        let (first, mut goes_on) = reader.cut(line);
        if first.is_empty() && !goes_on {
            continue;
        }
        let mut statement = Statement {
            text: first.to_owned(),
            lines: Lines { start, end: start },
            heredocs: Vec::new(),
            comments: std::mem::take(&mut comments),
            empty_continuation: None,
        };
        let mut had_empty = false;
        while goes_on && let Some(line) = reader.next()? {
            let bare = line.trim_start();
            if bare.starts_with('#') {
                continue;
            }
            if bare.is_empty() {
                had_empty = true;
                continue;
            }
            let (part, more) = reader.cut(line);
            statement.text.push_str(part);
            goes_on = more;
        }
        statement.empty_continuation = had_empty.then_some(reader.number);
        reader.heredocs(&mut statement)?;
        statement.lines.end = reader.number;
        statements.push(statement);
    }
    Ok((reader.directives, statements))
}

struct Reader<'a> {
    lines: std::str::SplitInclusive<'a, char>,
    /// Of the line that was read last.
    number: usize,
    directives: Directives,
    in_directives: bool,
}

impl<'a> Reader<'a> {
    fn here(&self) -> Lines {
        Lines {
            start: self.number,
            end: self.number,
        }
    }

    fn next_raw(&mut self) -> Result<Option<&'a str>, Error> {
        let Some(line) = self.lines.next() else {
            return Ok(None);
        };
        self.number += 1;
        if line.len() > MAX_LINE {
            return Err(Error::new(
                format!(
                    "dockerfile line greater than max allowed size of {}",
                    MAX_LINE - 1
                ),
                self.here(),
            ));
        }
        Ok(Some(line))
    }

    /// Without its end.
    fn next(&mut self) -> Result<Option<&'a str>, Error> {
        let line = self.next_raw()?;
        Ok(line.map(|line| {
            let line = line.strip_suffix('\n').unwrap_or(line);
            line.strip_suffix('\r').unwrap_or(line)
        }))
    }

    /// Whether the line goes on in the next, and what of it counts: an escape
    /// before its end, perhaps with spaces behind, that is not itself escaped.
    fn cut(&self, line: &'a str) -> (&'a str, bool) {
        let escape = self.directives.escape;
        let bare = line.trim_end_matches([' ', '\t']);
        match bare.strip_suffix(escape) {
            Some(before) if !before.ends_with(escape) => (before, true),
            _ => (line, false),
        }
    }

    /// Directives come first; anything else ends them.
    fn directive(&mut self, line: &str) -> Result<(), Error> {
        if !self.in_directives {
            return Ok(());
        }
        let found = line.strip_prefix('#').and_then(|text| {
            let (key, value) = text.split_once('=')?;
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
            (!value.is_empty()).then(|| (key, value.to_owned()))
        });
        let Some((key, value)) = found else {
            self.in_directives = false;
            return Ok(());
        };
        let again = |key: &str| {
            Err(Error::new(
                format!("only one {key} parser directive can be used"),
                self.here(),
            ))
        };
        match key.as_str() {
            "syntax" if self.directives.syntax.is_some() => again(&key),
            "check" if self.directives.check.is_some() => again(&key),
            "syntax" => {
                self.directives.syntax = Some(value);
                Ok(())
            }
            "check" => {
                self.directives.check = Some(value);
                Ok(())
            }
            "escape" => match value.as_str() {
                "\\" | "`" => {
                    self.directives.escape = value.chars().next().unwrap_or('\\');
                    Ok(())
                }
                _ => Err(Error::new(
                    format!("invalid escape token '{value}' does not match ` or \\"),
                    self.here(),
                )),
            },
            _ => {
                self.in_directives = false;
                Ok(())
            }
        }
    }

    /// Takes the documents that the statement announces from the lines below.
    fn heredocs(&mut self, statement: &mut Statement) -> Result<(), Error> {
        if !takes_heredocs(&statement.text) {
            return Ok(());
        }
        let escape = self.directives.escape;
        let Ok(words) = Expander::new(escape).raw().words(&statement.text) else {
            return Ok(());
        };
        for word in words {
            let Some(mut heredoc) = Heredoc::of_word(&word, escape) else {
                continue;
            };
            loop {
                let Some(line) = self.next_raw()? else {
                    return Err(Error::new(
                        "unterminated heredoc",
                        Lines {
                            start: statement.lines.start,
                            end: self.number,
                        },
                    ));
                };
                let mut end = line.trim_end_matches(['\n', '\r']);
                if heredoc.strip_tabs {
                    end = end.trim_start_matches('\t');
                }
                if end == heredoc.name {
                    break;
                }
                heredoc.content.push_str(line);
            }
            statement.heredocs.push(heredoc);
        }
        Ok(())
    }
}

fn takes_heredocs(text: &str) -> bool {
    let mut words = text.split_whitespace().map(str::to_ascii_lowercase);
    let mut name = words.next().unwrap_or_default();
    if name == "onbuild" {
        name = words.next().unwrap_or_default();
    }
    // A command in JSON form goes to no shell.
    let is_list = words
        .find(|word| !word.starts_with("--"))
        .is_some_and(|word| word.starts_with('['));
    text.contains("<<") && WITH_HEREDOCS.contains(&name.as_str()) && !is_list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let (_, statements) = statements(text).unwrap();
        statements.into_iter().map(|s| s.text).collect()
    }

    #[test]
    fn lines_are_joined_and_comments_left_out() {
        assert_eq!(
            texts("# c\nRUN a \\\n  b \\ \n# inside\n\n  c\n\nRUN d\\\\\n"),
            ["RUN a   b   c", "RUN d\\\\"]
        );
        let (_, all) = statements("RUN a \\\n\n b\nRUN c").unwrap();
        assert_eq!(
            (all[0].empty_continuation, all[1].empty_continuation),
            (Some(3), None)
        );
        assert_eq!(all[0].lines, Lines { start: 1, end: 3 });
        assert_eq!(texts("RUN a\r\nRUN b \\\r\n c\r\n"), ["RUN a", "RUN b  c"]);
        assert_eq!(texts("RUN a \\"), ["RUN a "]);
    }

    #[test]
    fn directives_stand_first_and_once() {
        let (directives, all) = statements(
            "# syntax=docker/dockerfile:1\n# ESCAPE=`\n#check = skip=all\nRUN a`\nb\\\n",
        )
        .unwrap();
        assert_eq!(directives.escape, '`');
        assert_eq!(directives.syntax.as_deref(), Some("docker/dockerfile:1"));
        assert_eq!(directives.check.as_deref(), Some("skip=all"));
        assert_eq!(all[0].text, "RUN ab\\");
        let (directives, _) = statements("# hello\n# escape=`\nRUN a").unwrap();
        assert_eq!(directives.escape, '\\');
        assert!(statements("# escape=x\n").is_err());
        assert!(statements("# syntax=a\n# syntax=b\n").is_err());
    }

    #[test]
    fn heredocs_end_at_their_name() {
        let (_, all) = statements(
            "RUN <<EOF cat && <<-\"X Y\" b\nRUN no\n\\\nEOF\n\t$a\n\tX Y\nCOPY <<a <<b /\n1\na\n2\nb\nRUN [\"a\", \"<<b\"]\n",
        )
        .unwrap();
        let docs: Vec<_> = all[0]
            .heredocs
            .iter()
            .map(|doc| (doc.name.as_str(), doc.text(), doc.expand))
            .collect();
        assert_eq!(
            docs,
            [
                ("EOF", "RUN no\n\\\n".to_owned(), true),
                ("X Y", "$a\n".to_owned(), false)
            ]
        );
        assert_eq!(all[1].heredocs.len(), 2);
        assert_eq!(all.len(), 3);
        let error = statements("FROM a\nRUN <<EOF\nx\n").unwrap_err();
        assert_eq!(error.message, "unterminated heredoc");
        assert_eq!(error.lines.start, 2);
    }

    #[test]
    fn a_shell_may_use_the_same_signs_otherwise() {
        let (_, all) = statements("RUN echo $((1<<2)) \"<<EOF\" a<<b\nRUN c\n").unwrap();
        assert!(all[0].heredocs.is_empty());
        assert_eq!(all.len(), 2);
    }
}
