//! `attach`: this terminal becomes the container's.

use std::pin::pin;

use berth_api::container::Inspect;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::run::{attach_request, exit_status};
use crate::signals::Forwarding;
use crate::streams::{DetachKeys, End, Relay};
use crate::terminal;
use crate::transport::{Request, collect, segment};
use crate::tree::Outcome;

pub(crate) async fn attach(context: &Context, args: &Parsed) -> Outcome {
    let name = segment(args.words.first().map_or("", String::as_str));
    let container: Inspect = context
        .json(Request::get(format!("/containers/{name}/json")))
        .await?;
    let state = &container.state;
    if !state.running {
        return Err(Failure::new(
            "cannot attach to a stopped container, start it first",
        ));
    }
    if state.paused {
        return Err(Failure::new(
            "cannot attach to a paused container, unpause it first",
        ));
    }
    if state.restarting {
        return Err(Failure::new(
            "cannot attach to a restarting container, wait until it is running",
        ));
    }
    let tty = container.config.tty;
    let stdin = !args.on("no-stdin") && container.config.open_stdin;
    terminal::check_input(stdin, tty)?;
    let mut forwarding = Forwarding::start(args.on_by_default("sig-proxy") && !tty)?;
    let work = async {
        // Asked for before the streams can end, so that no exit is missed.
        let waiting = context
            .send(Request::post(format!("/containers/{name}/wait")))
            .await?;
        let end = stream(context, args, &name, tty, stdin).await?;
        if end == End::Detached {
            return Ok(0);
        }
        exit_status(collect(waiting).await?.as_ref())
    };
    forwarding.alongside(context, &name, work).await
}

/// Moves the streams of a running container until they end.
async fn stream(
    context: &Context,
    args: &Parsed,
    name: &str,
    tty: bool,
    stdin: bool,
) -> Result<End, Failure> {
    let keys = DetachKeys::parse(&context.detach_keys(args))?;
    let request = attach_request(name, args, context)
        .query("stderr", "1")
        .query_flag("stdin", stdin)
        .query("stdout", "1");
    let connection = context.hijack(request).await?;
    let _raw = terminal::Raw::enter(tty && stdin)?;
    let relay = Relay {
        connection,
        tty,
        stdin,
        keys,
    };
    let relaying = pin!(relay.run());
    terminal::alongside(context, tty, format!("/containers/{name}/resize"), relaying).await
}
