//! The Dockerfile language, as the stable `docker/dockerfile:1` reads it.
//!
//! ```text
//! text ─lines─▶ statements ─instruction─▶ stages of typed instructions
//! ```
//!
//! Variables stay as they are written; [`expand`] replaces them when a build
//! knows their values.

mod error;
mod expand;
mod flags;
mod health;
mod instruction;
mod lines;
mod mount;
mod notes;
mod parse;
mod pattern;
mod suggest;
mod words;

pub use self::error::Error;
pub use self::expand::{Expanded, Expander};
pub use self::health::Health;
pub use self::instruction::{
    Add, Arg, Command, Copy, Instruction, Line, Network, Run, Security, Source, Sources, Stage,
};
pub use self::lines::{Directives, Heredoc, Lines};
pub use self::mount::{Mount, MountKind, Sharing};
pub use self::parse::{Dockerfile, Reading, Warning, instruction, parse, read};
pub(crate) use self::suggest::{hinted, nearest};
pub(crate) use self::words::is_legacy_pair;
