//! Help and usage texts, in Docker's layout.

use std::fmt::Write as _;

use crate::flags::{Flag, Kind};
use crate::tree::{self, Command};

/// Columns of the terminal on stdout or stdin; 80 when there is none.
fn width() -> usize {
    [rustix::stdio::stdin(), rustix::stdio::stdout()]
        .into_iter()
        .find_map(|fd| rustix::termios::tcgetwinsize(fd).ok())
        .map_or(80, |size| usize::from(size.ws_col).max(40))
}

/// "docker run [OPTIONS] IMAGE …" for the name as typed.
pub(crate) fn usage_line(command: &Command, typed: &str) -> String {
    format!("{typed} {}", command.usage).trim_end().to_owned()
}

pub(crate) fn command(program: &str, command: &Command, typed: &str) -> String {
    let mut text = format!(
        "Usage:  {}\n\n{}\n",
        usage_line(command, typed),
        command.about
    );
    if command.names.len() > 1 {
        let names: Vec<_> = command
            .names
            .iter()
            .map(|name| format!("{program} {name}"))
            .collect();
        let _ = write!(text, "\nAliases:\n  {}\n", names.join(", "));
    }
    let flags: Vec<_> = command.flags.iter().copied().flatten().collect();
    if !flags.is_empty() {
        text.push_str("\nOptions:\n");
        text.push_str(&options(flags, width()));
    }
    text
}

/// Help of "container", "image", …: none when there is no such group.
pub(crate) fn group(program: &str, name: &str) -> Option<String> {
    let group = tree::GROUPS.iter().find(|group| group.name == name)?;
    let mut text = format!(
        "Usage:  {program} {name} COMMAND\n\n{}\n\nCommands:\n",
        group.about
    );
    let rows = tree::commands().filter_map(|command| Some((member(command, name)?, command.about)));
    text.push_str(&rows_of(rows.collect()));
    let _ = write!(
        text,
        "\nRun '{program} {name} COMMAND --help' for more information on a command.\n"
    );
    Some(text)
}

/// The command's name within a group, if it is one of it.
pub(crate) fn member(command: &Command, group: &str) -> Option<&'static str> {
    command
        .names
        .iter()
        .find_map(|name| name.strip_prefix(group)?.strip_prefix(' '))
}

const COMMON: &[&str] = &[
    "run", "exec", "ps", "build", "pull", "images", "version", "info",
];

pub(crate) fn root(program: &str) -> String {
    let short = |name: &str| {
        let command = tree::find(name)?;
        command
            .names
            .iter()
            .find(|candidate| **candidate == name)
            .map(|name| (*name, command.about))
    };
    let mut text = format!(
        "Usage:  {program} [OPTIONS] COMMAND\n\nContainers, images and networks, fast and small\n\nCommon Commands:\n"
    );
    for name in COMMON {
        if let Some((name, about)) = short(name) {
            let _ = writeln!(text, "  {name:<11} {about}");
        }
    }
    text.push_str("\nManagement Commands:\n");
    text.push_str(&rows_of(
        tree::GROUPS
            .iter()
            .map(|group| (group.name, group.about))
            .collect(),
    ));
    text.push_str("\nCommands:\n");
    let mut rows: Vec<_> = tree::commands()
        .flat_map(|command| command.names.iter().map(|name| (*name, command.about)))
        .filter(|(name, _)| !name.contains(' ') && !COMMON.contains(name))
        .collect();
    rows.push((
        "completion",
        "Generate the autocompletion script for the specified shell",
    ));
    rows.push(("daemon", "Run the engine"));
    text.push_str(&rows_of(rows));
    text.push_str("\nGlobal Options:\n");
    text.push_str(&options(tree::GLOBAL.iter().collect(), width()));
    let _ = write!(
        text,
        "\nRun '{program} COMMAND --help' for more information on a command.\n"
    );
    text
}

fn rows_of(mut rows: Vec<(&str, &str)>) -> String {
    rows.sort_unstable();
    rows.iter().fold(String::new(), |mut text, (name, about)| {
        let _ = writeln!(text, "  {name:<11} {about}");
        text
    })
}

/// The table of flags, wrapped at `width` columns.
fn options(mut flags: Vec<&Flag>, width: usize) -> String {
    flags.retain(|flag| !flag.hidden);
    flags.sort_by_key(|flag| flag.name);
    let left: Vec<_> = flags
        .iter()
        .map(|flag| {
            let short = flag
                .short
                .map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
            format!("  {short}--{} {}", flag.name, flag.kind.type_name())
                .trim_end()
                .to_owned()
        })
        .collect();
    let column = left.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for (flag, left) in flags.iter().zip(&left) {
        let mut usage = flag.usage.to_owned();
        if !flag.default.is_empty() {
            let quotes = matches!(flag.kind, Kind::Text) && !flag.default.starts_with('[');
            let _ = if quotes {
                write!(usage, " (default \"{}\")", flag.default)
            } else {
                write!(usage, " (default {})", flag.default)
            };
        }
        let mut first = true;
        for line in usage.split('\n').flat_map(|line| wrap(line, width, column)) {
            let lead = if first { left.as_str() } else { "" };
            let _ = writeln!(text, "{lead:<column$}{line}");
            first = false;
        }
    }
    text
}

/// Breaks one line at spaces so that it fits behind `column`.
fn wrap(line: &str, width: usize, column: usize) -> Vec<String> {
    let room = width.saturating_sub(column).max(24);
    let mut lines = Vec::new();
    let mut rest = line;
    while rest.chars().count() > room {
        let limit = rest
            .char_indices()
            .nth(room)
            .map_or(rest.len(), |(at, _)| at);
        let Some(at) = rest[..=limit.min(rest.len() - 1)]
            .rfind(' ')
            .filter(|at| *at > 0)
        else {
            break;
        };
        lines.push(rest[..at].trim_end().to_owned());
        rest = rest[at..].trim_start();
    }
    lines.push(rest.to_owned());
    lines
}
