//! `exec`: a further process in a running container.

use std::pin::pin;

use berth_api::exec::{ExecConfig, ExecCreated, ExecInspect, ExecStart};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::run::files;
use crate::streams::{DetachKeys, End, Relay};
use crate::terminal;
use crate::transport::{Request, segment};
use crate::tree::Outcome;

pub(crate) async fn exec(context: &Context, args: &Parsed) -> Outcome {
    let (name, command) = args
        .words
        .split_first()
        .ok_or_else(|| Failure::new("no container was named"))?;
    let detach = args.on("detach");
    let tty = args.on("tty");
    let stdin = args.on("interactive") && !detach;
    let keys = DetachKeys::parse(&context.detach_keys(args))?;
    // Before the exec is made: it would be left behind.
    terminal::check_input(stdin, tty)?;
    let environment =
        files::environment(&args.list("env-file"), &args.list("env")).map_err(Failure::new)?;
    let console_size = if tty {
        terminal::size().map(|(rows, columns)| [u32::from(rows), u32::from(columns)])
    } else {
        None
    };
    let config = ExecConfig {
        user: args.text("user"),
        privileged: args.on("privileged"),
        tty,
        console_size,
        attach_stdin: stdin,
        attach_stderr: !detach,
        attach_stdout: !detach,
        detach_keys: context.detach_keys(args),
        env: (!environment.is_empty()).then_some(environment),
        working_dir: args.text("workdir"),
        cmd: command.to_vec(),
    };
    let create = Request::post(format!("/containers/{}/exec", segment(name))).json(&config)?;
    let id = context.json::<ExecCreated>(create).await?.id;
    if id.is_empty() {
        return Err(Failure::new("exec ID empty"));
    }
    let id = segment(&id);
    let start = Request::post(format!("/exec/{id}/start")).json(&ExecStart {
        detach,
        tty,
        console_size,
    })?;
    if detach {
        context
            .done(start)
            .await
            .map_err(|failure| start_failure(&failure))?;
        return Ok(0);
    }
    let connection = context
        .hijack(start)
        .await
        .map_err(|failure| start_failure(&failure))?;
    let raw = terminal::Raw::enter(tty && stdin)?;
    let relay = Relay {
        connection,
        tty,
        stdin,
        keys,
    };
    let relaying = pin!(relay.run());
    let end = terminal::alongside(context, tty, format!("/exec/{id}/resize"), relaying).await;
    drop(raw);
    if end? == End::Detached {
        return Ok(0);
    }
    let inspect: ExecInspect = context
        .json(Request::get(format!("/exec/{id}/json")))
        .await?;
    Ok(inspect
        .exit_code
        .and_then(|code| i32::try_from(code).ok())
        .unwrap_or_default())
}

/// A command that cannot be started has the statuses of a shell.
fn start_failure(failure: &Failure) -> Failure {
    let status = if failure.message.contains("executable file not found")
        || failure.message.contains("no such file or directory")
    {
        127
    } else if failure.message.contains("permission denied") {
        126
    } else {
        failure.status
    };
    Failure {
        status,
        ..failure.clone()
    }
}
