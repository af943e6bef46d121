//! What a Dockerfile says, typed. Variables are as they are written.

use serde::{Deserialize, Serialize};

use super::{Health, Heredoc, Lines};

/// From one FROM to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// An image, an earlier stage, or "scratch".
    pub base: String,
    /// After AS, in lower case.
    pub name: Option<String>,
    pub platform: Option<String>,
    pub lines: Lines,
    /// As written.
    pub text: String,
    /// The comment above it that begins with its name.
    pub comment: Option<String>,
    pub commands: Vec<Command>,
}

/// One instruction of a stage and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub instruction: Instruction,
    pub lines: Lines,
    /// As written, lines joined: for the history and for progress.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    Add(Add),
    Arg(Vec<Arg>),
    Cmd(Line),
    Copy(Copy),
    Entrypoint(Line),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Healthcheck(Health),
    Label(Vec<(String, String)>),
    Maintainer(String),
    /// The instruction to run later, as written.
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    Stopsignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// A command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// As a JSON list: executed as it is.
    Exec(Vec<String>),
    /// As text: given to the shell.
    Shell(String),
}

/// `NAME` or `NAME=default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    pub name: String,
    pub default: Option<String>,
    pub comment: Option<String>,
    pub lines: Lines,
}

/// What COPY and ADD put where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    pub sources: Vec<Source>,
    pub target: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern, or (ADD) an address.
    Path(String),
    /// A file whose content stands in the Dockerfile.
    Inline(Heredoc),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub files: Sources,
    /// Stage, image or named context; else the build's context.
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    pub files: Sources,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub link: bool,
    pub keep_git_dir: Option<bool>,
    pub checksum: Option<String>,
    /// Whether archives are unpacked; else local ones are, fetched ones not.
    pub unpack: Option<bool>,
    pub exclude: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub line: Line,
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, as written: variables in them are replaced when it runs.
    pub mounts: Vec<String>,
    pub network: Network,
    pub security: Security,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    #[default]
    Default,
    None,
    Host,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Security {
    #[default]
    Sandbox,
    Insecure,
}
