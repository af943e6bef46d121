//! `registry` and what is below it.

use super::{Command, Words};
use crate::flags::Kind::*;
use crate::flags::flag;
use crate::registry;

pub(super) static COMMANDS: &[Command] = &[Command {
    names: &["registry serve"],
    usage: "[OPTIONS] --root DIR",
    about: "Run a registry in the foreground",
    flags: &[&[
        flag("addr", Text, "Address to listen on, HOST:PORT").default("127.0.0.1:5000"),
        flag("root", Text, "Directory of the registry's data"),
        flag("read-only", Bool, "Refuse all that changes something"),
    ]],
    words: Words::Exactly(0),
    stop_at_word: false,
    run: |cx, args| Box::pin(registry::serve::serve(cx, args)),
}];
