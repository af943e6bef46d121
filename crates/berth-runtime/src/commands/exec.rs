//! `exec`.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use berth_runtime_core::{Exec, Listener, Started, Stdio};
use oci_spec::runtime::{Capability, Process};

use super::create::announce;
use super::detect_host;
use crate::args::{Args, Opt, Order};
use crate::config;
use crate::console::{self, Proxy};
use crate::error::{Context, Error, Result};
use crate::filters;
use crate::inherit::{Inherit, PRESERVE_FDS};
use crate::rootless;
use crate::state::{StateDir, Status};
use crate::wait::Waiter;

pub(crate) const OPTIONS: &[Opt] = &[
    Opt::value("process").short('p'),
    Opt::value("cwd"),
    Opt::value("env").short('e'),
    Opt::flag("tty").short('t'),
    Opt::value("user").short('u'),
    Opt::value("additional-gids").short('g'),
    Opt::flag("no-new-privs"),
    Opt::value("cap").short('c'),
    Opt::value("console-socket"),
    Opt::value("pidfd-socket"),
    Opt::value("pid-file"),
    Opt::flag("detach").short('d'),
    Opt::value("process-label"),
    Opt::value("apparmor"),
    Opt::value("cgroup"),
    Opt::flag("ignore-paused"),
    Opt::flag("no-subreaper"),
    PRESERVE_FDS,
];

pub(crate) fn exec(root: &Path, mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(&mut arguments, OPTIONS, Order::OptionsFirst)?;
    // Before anything is opened.
    let inherit = Inherit::parse(&args)?;
    let mut arguments = arguments.into_iter().map(|argument| {
        argument
            .into_string()
            .map_err(|_| Error::usage("an argument is not valid UTF-8"))
    });
    let id = arguments
        .next()
        .ok_or_else(|| Error::usage("the container id is missing"))??;
    let command = arguments.collect::<Result<Vec<_>>>()?;

    let dir = StateDir::open(root, &id)?;
    let state = dir.load()?;
    let host = detect_host()?;
    let pidfd = match (state.process(), state.status(&dir, &host)) {
        (Some(_), Status::Paused) if !args.has("ignore-paused") => {
            return Err(Error::new(
                "cannot exec in a paused container (use --ignore-paused to override)",
            ));
        }
        (Some(pidfd), _) => pidfd,
        _ => return Err(stopped()),
    };
    rootless::join(state.pid)?;
    let (spec, filter) = dir.load_config_and_filter()?;
    let section = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    let seccomp = section
        .map(|section| match &filter {
            Some(text) => filters::program(root, text.get(), section),
            None => berth_seccomp::compile(section),
        })
        .transpose()
        .context(|| "compile the seccomp profile".to_owned())?;
    let listener = Listener::new(&spec, &id, &state.bundle)?;
    let mut process = process_of(&args, command, spec.process().as_ref())?;
    inherit.announce(&mut process);
    config::check_environment(&process)?;
    let terminal = process.terminal().unwrap_or(false);
    let console_socket = args.value("console-socket").map(Path::new);
    if args.has("detach") && terminal && console_socket.is_none() {
        return Err(Error::new(
            "a terminal of a detached process needs --console-socket",
        ));
    }
    if !terminal && console_socket.is_some() {
        return Err(Error::new(
            "--console-socket is for a process with a terminal",
        ));
    }

    let group = state.group(&host);
    let below = groups_below(&args)?;
    if !below.is_empty() {
        state.needed_group(&host)?;
    }
    let rdt = state.rdt(&dir)?;

    let waiter = if args.has("detach") {
        None
    } else {
        Some(Waiter::new().context(|| "prepare to wait for the process".to_owned())?)
    };
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut started = berth_runtime_core::exec(&Exec {
        pid: state.pid,
        pidfd: pidfd.as_fd(),
        process: &process,
        linux: spec.linux().as_ref(),
        stdio: if terminal {
            let (width, height) = console::size(Some(&process));
            Stdio::Terminal { width, height }
        } else {
            Stdio::Fds([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
        },
        cgroup: group.as_ref(),
        below: &below,
        rdt: rdt.as_ref(),
        seccomp: seccomp.as_ref(),
        listener: listener.as_ref(),
        inherit: inherit.what(),
    })
    .map_err(|error| match state.is_ending() {
        true => stopped(),
        false => error.into(),
    })?;
    attend(&args, console_socket, waiter.as_ref(), &mut started).inspect_err(|_| started.end())
}

/// What is to be done with a process that runs.
fn attend(
    args: &Args,
    console_socket: Option<&Path>,
    waiter: Option<&Waiter>,
    started: &mut Started,
) -> Result<u8> {
    announce(args, started)?;
    let mut proxy = match (started.console.take(), console_socket) {
        (Some(console), Some(path)) => {
            console::send(path, &console)?;
            None
        }
        (Some(console), None) => {
            Some(Proxy::new(console).context(|| "prepare the terminal".to_owned())?)
        }
        (None, _) => None,
    };
    match waiter {
        None => Ok(0),
        Some(waiter) => waiter
            .wait(started, proxy.as_mut())
            .context(|| "wait for the process".to_owned()),
    }
}

fn stopped() -> Error {
    Error::new("cannot exec in a stopped container")
}

/// `--cgroup [<controller>[,<controller>…]:]<path>`, below the container's group.
fn groups_below(args: &Args) -> Result<Vec<(Option<&str>, &str)>> {
    let given: Vec<&str> = args.values("cgroup").collect();
    let mut seen: Vec<&str> = Vec::new();
    let mut below = Vec::new();
    for &argument in &given {
        let Some((controllers, path)) = argument.split_once(':') else {
            if given.len() > 1 {
                return Err(Error::new(format!(
                    "invalid --cgroup argument: {argument} (missing <controller>: prefix)"
                )));
            }
            below.push((None, argument));
            continue;
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return Err(Error::new(format!(
                    "invalid --cgroup argument (empty <controller> prefix): {argument}"
                )));
            }
            if seen.contains(&controller) {
                return Err(Error::new(format!(
                    "invalid --cgroup argument(s): controller {controller} specified multiple times"
                )));
            }
            seen.push(controller);
        }
        below.push((Some(controllers), path));
    }
    Ok(below)
}

/// The process to run: from a file, or the container's own with the command
/// and the options in place of its parts.
fn process_of(args: &Args, command: Vec<String>, own: Option<&Process>) -> Result<Process> {
    if let Some(path) = args.value("process") {
        let bytes = std::fs::read(path).context(|| format!("read {path}"))?;
        let mut process = config::parse_process(Path::new(path), &bytes)?;
        if let Some(own) = own {
            fill_in(&mut process, own);
        }
        return Ok(process);
    }
    if command.is_empty() {
        return Err(Error::new("the command is missing"));
    }
    let mut process = own
        .cloned()
        .ok_or_else(|| Error::new("the container's configuration has no process"))?;
    process
        .set_args(Some(command))
        .set_terminal(Some(args.has("tty")));
    if let Some(cwd) = args.value("cwd") {
        process.set_cwd(cwd.into());
    }
    let mut env = process.env().clone().unwrap_or_default();
    for variable in args.values("env") {
        let name = variable.split('=').next();
        env.retain(|known| known.split('=').next() != name);
        env.push(variable.to_owned());
    }
    process.set_env(Some(env));
    if args.value("no-new-privs").is_some() {
        process.set_no_new_privileges(Some(args.has("no-new-privs")));
    }
    if let Some(label) = args.value("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if let Some(profile) = args.value("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    set_user(&mut process, args)?;
    add_capabilities(&mut process, args)?;
    Ok(process)
}

/// What a process from a file leaves open is as the container has it.
fn fill_in(process: &mut Process, own: &Process) {
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(own.rlimits().clone());
    }
    let unset = |label: &Option<String>| label.as_ref().is_none_or(String::is_empty);
    if unset(process.apparmor_profile()) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if unset(process.selinux_label()) {
        process.set_selinux_label(own.selinux_label().clone());
    }
}

/// `--user uid[:gid]`: numbers only, as names are the container's business.
fn set_user(process: &mut Process, args: &Args) -> Result<()> {
    let mut user = process.user().clone();
    if let Some(text) = args.value("user") {
        let (uid, gid) = parse_user(text)?;
        user.set_uid(uid);
        if let Some(gid) = gid {
            user.set_gid(gid);
        }
    }
    let mut groups = user.additional_gids().clone().unwrap_or_default();
    for text in args
        .values("additional-gids")
        .flat_map(|list| list.split(','))
    {
        let group = text.parse();
        groups.push(group.map_err(|_| Error::usage(format!("invalid group {text:?}")))?);
    }
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    Ok(())
}

/// CVE-2026-30892: `-u 1` must not become user 0.
fn parse_user(text: &str) -> Result<(u32, Option<u32>)> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid, Some(gid)),
        None => (text, None),
    };
    let number = |part: &str| {
        part.parse::<u32>()
            .map_err(|_| Error::new(format!("invalid user {text:?}: expected <uid>[:<gid>]")))
    };
    Ok((number(uid)?, gid.map(number).transpose()?))
}

/// `--cap` adds to the bounding, effective and permitted sets, never to the
/// inheritable one (CVE-2022-29162).
fn add_capabilities(process: &mut Process, args: &Args) -> Result<()> {
    let names: Vec<&str> = args.values("cap").collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    for name in names {
        let capability: Capability = serde_json::from_value(serde_json::Value::from(name))
            .map_err(|_| Error::new(format!("unknown capability {name:?}")))?;
        for set in ["bounding", "effective", "permitted"] {
            let mut list = match set {
                "bounding" => sets.bounding(),
                "effective" => sets.effective(),
                _ => sets.permitted(),
            }
            .clone()
            .unwrap_or_default();
            list.insert(capability);
            match set {
                "bounding" => sets.set_bounding(Some(list)),
                "effective" => sets.set_effective(Some(list)),
                _ => sets.set_permitted(Some(list)),
            };
        }
    }
    process.set_capabilities(Some(sets));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_what_was_asked_for() {
        assert_eq!(parse_user("1").unwrap(), (1, None));
        assert_eq!(parse_user("1:2").unwrap(), (1, Some(2)));
        assert_eq!(parse_user("0:0").unwrap(), (0, Some(0)));
        for bad in [
            "",
            ":",
            "1:",
            ":1",
            "root",
            "-1",
            "4294967296",
            "1:2:3",
            "1 ",
        ] {
            assert!(parse_user(bad).is_err(), "{bad}");
        }
    }
}
