//! The command tree: which words name a command, its flags, what runs it.

mod build;
mod container;
mod image;
mod other;
mod registry;
mod run_flags;

use std::future::Future;
use std::pin::Pin;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::{Flag, Kind, Parsed, flag};

/// A handler's result: the exit status of the program.
pub(crate) type Outcome = Result<i32, Failure>;
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// Help of `--format`, the same for all commands.
const FORMAT: &str = "Format output using a custom template:\n'table':            Print output in table format with column headers (default)\n'table TEMPLATE':   Print output in table format using the given Go template\n'json':             Print in JSON format\n'TEMPLATE':         Print output using the given Go template.\nRefer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates";

/// How many words a command takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Words {
    Any,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
}

/// One command under all its names.
#[derive(Clone, Copy)]
pub(crate) struct Command {
    /// The first is the full one: "container ls"; then "ps" and others.
    pub(crate) names: &'static [&'static str],
    /// What follows the name in the usage line.
    pub(crate) usage: &'static str,
    pub(crate) about: &'static str,
    pub(crate) flags: &'static [&'static [Flag]],
    pub(crate) words: Words,
    /// Flags end at the first word.
    pub(crate) stop_at_word: bool,
    pub(crate) run: for<'a> fn(&'a Context, &'a Parsed) -> Running<'a>,
}

/// A word under which commands are grouped.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
}

pub(crate) static GROUPS: &[Group] = &[
    Group {
        name: "builder",
        about: "Manage builds",
    },
    Group {
        name: "buildx",
        about: "Docker Buildx",
    },
    Group {
        name: "container",
        about: "Manage containers",
    },
    Group {
        name: "image",
        about: "Manage images",
    },
    Group {
        name: "manifest",
        about: "Manage Docker image manifests and manifest lists",
    },
    Group {
        name: "network",
        about: "Manage networks",
    },
    Group {
        name: "registry",
        about: "Run and inspect registries",
    },
    Group {
        name: "system",
        about: "Manage berth",
    },
    Group {
        name: "volume",
        about: "Manage volumes",
    },
];

/// What Docker has and berth does not have yet.
static LATER: &[&str] = &[
    "bake",
    "buildx bake",
    "buildx create",
    "buildx dap",
    "buildx debug",
    "buildx dial-stdio",
    "buildx history",
    "buildx imagetools",
    "buildx install",
    "buildx policy",
    "buildx rm",
    "buildx stop",
    "buildx uninstall",
    "buildx use",
    "checkpoint",
    "compose",
    "config",
    "container cp",
    "container diff",
    "context",
    "cp",
    "diff",
    "network connect",
    "network create",
    "network disconnect",
    "network prune",
    "network remove",
    "network rm",
    "node",
    "plugin",
    "secret",
    "service",
    "stack",
    "swarm",
    "system dial-stdio",
    "trust",
    "volume update",
];

pub(crate) static GLOBAL: &[Flag] = &[
    flag("config", Kind::Text, "Location of client config files").default("~/.docker"),
    flag(
        "context",
        Kind::Text,
        "Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and default context set with \"docker context use\")",
    )
    .short('c'),
    flag("debug", Kind::Bool, "Enable debug mode").short('D'),
    flag("host", Kind::List, "Daemon socket to connect to").short('H'),
    flag(
        "log-level",
        Kind::Text,
        "Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\")",
    )
    .short('l')
    .default("info"),
    flag("tls", Kind::Bool, "Use TLS; implied by --tlsverify"),
    flag("tlscacert", Kind::Text, "Trust certs signed only by this CA").default("~/.docker/ca.pem"),
    flag("tlscert", Kind::Text, "Path to TLS certificate file").default("~/.docker/cert.pem"),
    flag("tlskey", Kind::Text, "Path to TLS key file").default("~/.docker/key.pem"),
    flag("tlsverify", Kind::Bool, "Use TLS and verify the remote"),
    flag("version", Kind::Bool, "Print version information and quit").short('v'),
];

/// All commands, containers first.
pub(crate) fn commands() -> impl Iterator<Item = &'static Command> {
    container::COMMANDS
        .iter()
        .chain(image::COMMANDS)
        .chain(build::COMMANDS)
        .chain(other::COMMANDS)
        .chain(registry::COMMANDS)
}

/// The command a full name means.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    commands().find(|command| command.names.contains(&name))
}

pub(crate) fn is_group(word: &str) -> bool {
    GROUPS.iter().any(|group| group.name == word)
}

/// Whether Docker knows this name, and berth will.
pub(crate) fn comes_later(name: &str) -> bool {
    LATER.contains(&name)
        || name
            .split_once(' ')
            .is_some_and(|(group, _)| !is_group(group) && LATER.contains(&group))
}

impl Words {
    /// Docker's words for a wrong count, and whether the hint is "See" (as
    /// Docker has it for "at least") or "Run".
    pub(crate) fn check(self, count: usize) -> Result<(), (String, &'static str)> {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        match self {
            Self::Exactly(0) if count > 0 => Err(("accepts no arguments".to_owned(), "Run")),
            Self::Exactly(n) if count != n => {
                Err((format!("requires {n} argument{}", plural(n)), "Run"))
            }
            Self::AtLeast(n) if count < n => Err((
                format!("requires at least {n} argument{}", plural(n)),
                "See",
            )),
            Self::AtMost(n) if count > n => {
                Err((format!("requires at most {n} argument{}", plural(n)), "Run"))
            }
            Self::Between(low, high) if !(low..=high).contains(&count) => Err((
                format!(
                    "requires at least {low} and at most {high} argument{}",
                    plural(high)
                ),
                "Run",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_flags_too() {
        let mut names: Vec<_> = commands().flat_map(|command| command.names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for command in commands() {
            let mut flags: Vec<_> = command.flags.iter().copied().flatten().collect();
            let count = flags.len();
            flags.sort_by_key(|flag| flag.name);
            flags.dedup_by_key(|flag| flag.name);
            assert_eq!(flags.len(), count, "{:?}", command.names);
        }
        assert!(!commands().any(|command| command.names.iter().any(|name| comes_later(name))));
    }

    #[test]
    fn run_has_all_documented_flags() {
        let run = find("run").map(|command| {
            command
                .flags
                .iter()
                .copied()
                .flatten()
                .filter(|flag| !flag.hidden)
                .count()
        });
        // 102 documented, of which --help is not in the table.
        assert_eq!(run, Some(101));
    }
}
