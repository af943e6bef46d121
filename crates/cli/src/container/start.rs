//! `start`, with or without this terminal.

use std::pin::pin;

use berth_api::container::Inspect;
use futures_util::future::{Either, select};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{print_line, warn};
use crate::run::{self, attach_request, exit_status};
use crate::signals::Forwarding;
use crate::streams::{DetachKeys, End, Relay};
use crate::terminal;
use crate::transport::{Request, collect, segment};
use crate::tree::Outcome;

pub(crate) async fn start(context: &Context, args: &Parsed) -> Outcome {
    if args.changed("checkpoint") || args.changed("checkpoint-dir") {
        return Err(Failure::new("checkpoints are not supported yet"));
    }
    if args.on("attach") || args.on("interactive") {
        return match args.words.as_slice() {
            [name] => attached(context, args, name).await,
            _ => Err(Failure::new(
                "you cannot start and attach multiple containers at once",
            )),
        };
    }
    let mut failed = Vec::new();
    for name in &args.words {
        match run::start(context, &segment(name)).await {
            Ok(()) => print_line(name),
            Err(failure) => {
                warn(&failure.message);
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(format!(
            "failed to start containers: {}",
            failed.join(", ")
        )))
    }
}

async fn attached(context: &Context, args: &Parsed, name: &str) -> Outcome {
    let container: Inspect = context
        .json(Request::get(format!("/containers/{}/json", segment(name))))
        .await?;
    let tty = container.config.tty;
    let stdin = args.on("interactive") && container.config.open_stdin;
    terminal::check_input(stdin, tty)?;
    let mut forwarding = Forwarding::start(!tty)?;
    forwarding
        .alongside(
            context,
            &container.id,
            streamed(context, args, &container, stdin),
        )
        .await
}

async fn streamed(context: &Context, args: &Parsed, container: &Inspect, stdin: bool) -> Outcome {
    let id = &container.id;
    let tty = container.config.tty;
    let keys = DetachKeys::parse(&context.detach_keys(args))?;
    let attach = attach_request(id, args, context)
        .query_flag("stderr", container.config.attach_stderr)
        .query_flag("stdin", stdin)
        .query_flag("stdout", container.config.attach_stdout);
    let connection = context.hijack(attach).await?;
    let condition = if container.host_config.auto_remove {
        "removed"
    } else {
        "next-exit"
    };
    let waiting = context
        .send(Request::post(format!("/containers/{id}/wait")).query("condition", condition))
        .await?;
    let raw = terminal::Raw::enter(tty && stdin)?;
    let relay = Relay {
        connection,
        tty,
        stdin,
        keys,
    };
    let relaying = pin!(relay.run());
    let starting = pin!(run::start(context, id));
    let end = match select(relaying, starting).await {
        Either::Left((end, starting)) => {
            starting.await?;
            end?
        }
        Either::Right((started, relaying)) => {
            started?;
            terminal::alongside(context, tty, format!("/containers/{id}/resize"), relaying).await?
        }
    };
    drop(raw);
    if end == End::Detached {
        return Ok(0);
    }
    exit_status(collect(waiting).await?.as_ref())
}
