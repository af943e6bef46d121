//! Shell completion: each shell's script asks this program for the words that
//! may follow, so the scripts never go out of date.

use berth_api::container::Summary as Container;
use berth_api::image::Summary as Image;
use berth_api::network::Network;
use berth_api::volume::VolumeList;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::{Kind, Parsed};
use crate::help;
use crate::output::print;
use crate::transport::Request;
use crate::tree;

/// Hidden verb: the words typed so far follow it, the last one unfinished.
pub(crate) const QUERY: &str = "__complete";

const BASH: &str = r#"# bash completion for @; source this file
_@_complete() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$(@ __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o bashdefault -o default -F _@_complete @
"#;

const ZSH: &str = r#"#compdef @
_@() {
    local -a words_
    words_=(${(f)"$(@ __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#words_} )); then
        compadd -- $words_
    else
        _files
    fi
}
compdef _@ @
"#;

const FISH: &str = r#"# fish completion for @
function __@_complete
    set -l typed (commandline -opc) (commandline -ct)
    @ __complete -- $typed[2..-1] 2>/dev/null
end
complete -c @ -a '(__@_complete)'
"#;

const POWERSHELL: &str = r#"# powershell completion for @
Register-ArgumentCompleter -Native -CommandName '@' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $typed = @($commandAst.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
    if ($wordToComplete -eq '') { $typed += '""' }
    & '@' __complete '--' @typed 2>$null | Where-Object { $_ -like "$wordToComplete*" } |
        ForEach-Object { [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_) }
}
"#;

/// `completion SHELL`: prints the script.
pub(crate) fn script(program: &str, words: &[String]) -> Result<i32, Failure> {
    let text = match words.first().map(String::as_str) {
        Some("bash") => BASH,
        Some("zsh") => ZSH,
        Some("fish") => FISH,
        Some("powershell") => POWERSHELL,
        None | Some("--help" | "-h") => {
            print(&format!(
                "Usage:  {program} completion bash|zsh|fish|powershell\n\nGenerate the autocompletion script for the specified shell\n"
            ));
            return Ok(0);
        }
        Some(other) => {
            return Err(Failure::new(format!(
                "{program}: there is no completion for {other}: only for bash, zsh, fish and powershell"
            )));
        }
    };
    // In the powershell script "@typed" and "@(" are the shell's own.
    let text = if text == POWERSHELL {
        text.replace("'@'", &format!("'{program}'"))
            .replace("for @", &format!("for {program}"))
    } else {
        text.replace("{(@)", "{(\u{1})")
            .replace("[@]", "[\u{1}]")
            .replace('@', program)
            .replace('\u{1}', "@")
    };
    print(&text);
    Ok(0)
}

/// `__complete -- WORDS`: prints what may stand for the last word, one a line.
pub(crate) fn query(program: &str, global: &Parsed) -> Result<i32, Failure> {
    let words = &global.words[1..];
    let words = match words.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => words,
    };
    let (unfinished, before) = match words.split_last() {
        Some((last, before)) => (last.trim_matches('"'), before),
        None => ("", words),
    };
    let mut found = candidates(program, global, before, unfinished);
    found.retain(|word| word.starts_with(unfinished));
    found.sort_unstable();
    found.dedup();
    print(
        &found
            .iter()
            .fold(String::new(), |text, word| text + word + "\n"),
    );
    Ok(0)
}

fn candidates(program: &str, global: &Parsed, before: &[String], unfinished: &str) -> Vec<String> {
    let named: Vec<&String> = before
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let two = named.get(..2).map(|two| format!("{} {}", two[0], two[1]));
    let command = two
        .as_deref()
        .and_then(tree::find)
        .map(|command| (command, 2))
        .or_else(|| {
            named
                .first()
                .and_then(|one| tree::find(one))
                .map(|command| (command, 1))
        });
    let Some((command, depth)) = command else {
        return match named.first() {
            Some(group) => members(group),
            None if unfinished.starts_with('-') => tree::GLOBAL
                .iter()
                .map(|flag| format!("--{}", flag.name))
                .collect(),
            None => tree::commands()
                .flat_map(|command| command.names)
                .filter(|name| !name.contains(' '))
                .map(|name| (*name).to_owned())
                .chain(tree::GROUPS.iter().map(|group| group.name.to_owned()))
                .chain(["completion", "daemon", "help"].map(str::to_owned))
                .collect(),
        };
    };
    let flags = || {
        command
            .flags
            .iter()
            .copied()
            .flatten()
            .filter(|flag| !flag.hidden)
    };
    if unfinished.starts_with('-') {
        return flags().map(|flag| format!("--{}", flag.name)).collect();
    }
    if let Some(values) = before.last().and_then(|word| values(command, word)) {
        return values.iter().map(|value| (*value).to_owned()).collect();
    }
    // A flag that still lacks its value: leave it to the shell (a file, most likely).
    let needs_value = before
        .last()
        .and_then(|word| word.strip_prefix("--"))
        .is_some_and(|name| flags().any(|flag| flag.name == name && flag.kind != Kind::Bool));
    if needs_value {
        return Vec::new();
    }
    let first_word = named.len() == depth;
    match command
        .usage
        .split(' ')
        .find(|part| !part.starts_with("[OPTIONS"))
    {
        Some("CONTAINER" | "[CONTAINER...]")
            if first_word || command.usage.contains("CONTAINER...") =>
        {
            let running = ["stop", "kill", "exec", "attach", "pause", "top", "stats"]
                .iter()
                .any(|name| command.names.contains(name));
            containers(program, global, !running)
        }
        Some("IMAGE" | "NAME[:TAG]" | "SOURCE_IMAGE[:TAG]" | "[REPOSITORY[:TAG]]")
            if first_word || command.usage.contains("IMAGE...") =>
        {
            images(program, global)
        }
        Some("VOLUME") if command.usage.contains("VOLUME...") => volumes(program, global),
        Some("NETWORK") => networks(program, global),
        Some("NAME|ID") => {
            let mut all = containers(program, global, true);
            all.extend(images(program, global));
            all
        }
        _ => Vec::new(),
    }
}

/// What may stand behind a flag of which all values are known.
fn values(command: &tree::Command, flag: &str) -> Option<&'static [&'static str]> {
    if !command.names.contains(&"build") {
        return None;
    }
    Some(match flag {
        "--progress" => &["auto", "none", "plain", "quiet", "rawjson", "tty"],
        "--call" => &["build", "check", "outline", "targets"],
        "--network" => &["default", "host", "none"],
        "--allow" => &["network.host", "security.insecure"],
        "--builder" => &["default"],
        _ => return None,
    })
}

fn members(group: &str) -> Vec<String> {
    tree::commands()
        .filter_map(|command| help::member(command, group))
        .map(str::to_owned)
        .collect()
}

/// Asks the engine; without one there is nothing to offer, and none is started.
fn ask<T: serde::de::DeserializeOwned>(program: &str, global: &Parsed, request: Request) -> Vec<T> {
    let Ok(mut context) = Context::new(program, global) else {
        return Vec::new();
    };
    context.on_demand = None;
    context.block_on(context.json(request)).unwrap_or_default()
}

fn containers(program: &str, global: &Parsed, all: bool) -> Vec<String> {
    let request = Request::get("/containers/json").query_flag("all", all);
    ask::<Container>(program, global, request)
        .into_iter()
        .flat_map(|container| container.names)
        .map(|name| name.trim_start_matches('/').to_owned())
        .collect()
}

fn images(program: &str, global: &Parsed) -> Vec<String> {
    ask::<Image>(program, global, Request::get("/images/json"))
        .into_iter()
        .flat_map(|image| image.repo_tags)
        .collect()
}

fn volumes(program: &str, global: &Parsed) -> Vec<String> {
    let Ok(mut context) = Context::new(program, global) else {
        return Vec::new();
    };
    context.on_demand = None;
    let list = context.block_on(context.json::<VolumeList>(Request::get("/volumes")));
    let volumes = list.map(|list| list.volumes).unwrap_or_default();
    volumes.into_iter().map(|volume| volume.name).collect()
}

fn networks(program: &str, global: &Parsed) -> Vec<String> {
    ask::<Network>(program, global, Request::get("/networks"))
        .into_iter()
        .map(|network| network.name)
        .collect()
}
