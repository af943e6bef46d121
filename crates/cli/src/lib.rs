//! The command line: a client of the Engine API with Docker's verbs, flags and
//! output. Owns what people type and read; must not know how anything is done.
//!
//! The way of a command: `lib` (which command) → `flags` (its words) → a
//! handler in `run`, `container`, `image`, `network`, `volume`, `system`, `inspect` →
//! `transport` (the engine) → `output` (tables, templates).

mod autostart;
mod build;
mod completion;
mod config;
mod container;
mod context;
mod credentials;
mod failure;
mod flags;
mod help;
mod host;
mod image;
mod inspect;
mod login;
mod manifest;
mod network;
mod output;
mod platform;
mod reference;
mod registry;
mod run;
mod signals;
mod streams;
mod system;
mod terminal;
mod time;
mod transport;
mod tree;
mod units;
mod volume;

use std::ffi::OsString;

use context::Context;
use failure::Failure;
use flags::Parsed;
use output::{print, warn};

/// Runs the command line `args` (the program's name first) and returns the exit
/// status.
pub fn main(args: Vec<OsString>) -> i32 {
    match words(args).and_then(|(program, words)| dispatch(&program, &words)) {
        Ok(status) => status,
        Err(failure) => {
            if !failure.message.is_empty() {
                warn(&failure.message);
            }
            failure.status
        }
    }
}

/// The program's name ("docker" or "berth") and the words after it.
fn words(args: Vec<OsString>) -> Result<(String, Vec<String>), Failure> {
    let mut words = Vec::with_capacity(args.len());
    for word in args {
        words.push(word.into_string().map_err(|word| {
            Failure::new(format!("{} is not valid UTF-8", word.to_string_lossy()))
        })?);
    }
    let first = if words.is_empty() {
        String::new()
    } else {
        words.remove(0)
    };
    let name = first.rsplit('/').next().unwrap_or_default();
    let program = if name == "docker" { "docker" } else { "berth" };
    Ok((program.to_owned(), words))
}

fn dispatch(program: &str, words: &[String]) -> Result<i32, Failure> {
    let global = Parsed::parse(&[tree::GLOBAL], words, true).map_err(|why| {
        Failure::with_status(
            format!("{why}\n\nUsage:  {program} [OPTIONS] COMMAND [ARG...]\n\nRun '{program} --help' for more information"),
            125,
        )
    })?;
    if global.on("version") {
        print(&version_line(program));
        return Ok(0);
    }
    let Some(first) = global.words.first() else {
        let text = help::root(program);
        if global.help {
            print(&text);
        } else {
            warn(text.trim_end());
        }
        return Ok(0);
    };
    match first.as_str() {
        "help" => return help_for(program, &global.words[1..]),
        "completion" => return completion::script(program, &global.words[1..]),
        autostart::LAUNCH => return autostart::launch(&global.words[1..]),
        completion::QUERY => return completion::query(program, &global),
        _ if global.help => {
            return help_for(program, &global.words);
        }
        _ => {}
    }
    let (name, rest) = command_name(program, &global.words)?;
    let Some(command) = tree::find(&name) else {
        // A group alone, or with --help.
        if let Some(text) = help::group(program, &name) {
            if rest.is_empty() {
                warn(text.trim_end());
                return Ok(0);
            }
            if rest.iter().all(|word| word == "--help" || word == "-h") {
                print(&text);
                return Ok(0);
            }
            if let Some(flag) = rest.iter().find(|word| word.starts_with('-')) {
                return Err(Failure::with_status(
                    format!(
                        "unknown flag: {flag}\n\nUsage:  {program} {name} COMMAND\n\nRun '{program} {name} --help' for more information"
                    ),
                    125,
                ));
            }
        }
        return Err(unknown(program, &name));
    };
    let typed = format!("{program} {name}");
    let usage = help::usage_line(command, &typed);
    let mut parsed = Parsed::parse(command.flags, rest, command.stop_at_word).map_err(|why| {
        Failure::with_status(
            format!("{why}\n\nUsage:  {usage}\n\nRun '{typed} --help' for more information"),
            125,
        )
    })?;
    if parsed.help {
        print(&help::command(program, command, &typed));
        return Ok(0);
    }
    if let Err((why, hint)) = command.words.check(parsed.words.len()) {
        return Err(Failure::new(format!(
            "{program}: '{typed}' {why}\n\nUsage:  {usage}\n\n{hint} '{typed} --help' for more information"
        )));
    }
    parsed.typed = typed;
    let context = Context::new(program, &global)?;
    let outcome = context.block_on((command.run)(&context, &parsed));
    context.end();
    outcome
}

fn version_line(program: &str) -> String {
    if program == "docker" {
        format!(
            "Docker version {}, build berth {}\n",
            berth_api::version::DOCKER_VERSION,
            env!("CARGO_PKG_VERSION")
        )
    } else {
        format!("berth version {}\n", env!("CARGO_PKG_VERSION"))
    }
}

/// Splits the words into a command's name (one or two words) and the rest.
fn command_name<'a>(program: &str, words: &'a [String]) -> Result<(String, &'a [String]), Failure> {
    let Some((first, rest)) = words.split_first() else {
        return Err(unknown(program, ""));
    };
    match rest.split_first() {
        Some((second, rest)) if !second.starts_with('-') => {
            let name = format!("{first} {second}");
            if tree::find(&name).is_some() {
                return Ok((name, rest));
            }
            if tree::is_group(first) {
                return Err(unknown(program, &name));
            }
        }
        _ => {}
    }
    if tree::find(first).is_some() || tree::is_group(first) {
        Ok((first.clone(), rest))
    } else {
        Err(unknown(program, first))
    }
}

/// For a name that is no command: one that berth will have, or a mistake.
fn unknown(program: &str, name: &str) -> Failure {
    if tree::comes_later(name) {
        return Failure::new(format!(
            "{program}: '{program} {name}' is not supported yet\n\nRun '{program} --help' for what is"
        ));
    }
    match name.split_once(' ') {
        Some((group, _)) => Failure::new(format!(
            "{program}: unknown command: {program} {name}\n\nUsage:  {program} {group}\n\nRun '{program} {group} --help' for more information"
        )),
        None => Failure::new(format!(
            "{program}: unknown command: {program} {name}\n\nRun '{program} --help' for more information"
        )),
    }
}

fn help_for(program: &str, words: &[String]) -> Result<i32, Failure> {
    if words.is_empty() {
        print(&help::root(program));
        return Ok(0);
    }
    let (name, _) = command_name(program, words)?;
    if let Some(command) = tree::find(&name) {
        print(&help::command(
            program,
            command,
            &format!("{program} {name}"),
        ));
    } else if let Some(text) = help::group(program, &name) {
        print(&text);
    }
    Ok(0)
}
