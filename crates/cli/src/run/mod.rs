//! `create` and `run`.

mod create;
mod device;
pub(crate) mod files;
mod mount;
mod network;
pub(crate) mod options;
mod port;
mod security;
pub(crate) mod validate;

use std::pin::pin;

use berth_api::container::{CreateRequest, WaitResponse};
use futures_util::future::{Either, select};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{print_line, warn};
use crate::signals::Forwarding;
use crate::streams::{DetachKeys, End, Relay};
use crate::terminal;
use crate::transport::{Request, collect};
use crate::tree::Outcome;

/// `create`: prints the new container's ID.
pub(crate) async fn create(context: &Context, args: &Parsed) -> Outcome {
    options::refuse_windows(args).map_err(Failure::new)?;
    let request = options::request(args, proxy(context))
        .map_err(|why| create::refused(context, "create", &why))?;
    let id = create::create(context, args, &request).await?;
    print_line(&id);
    Ok(0)
}

/// `run`: create, attach, wait, start, in the order of Docker's client.
pub(crate) async fn run(context: &Context, args: &Parsed) -> Outcome {
    options::refuse_windows(args).map_err(Failure::new)?;
    let refused = |why: &str| create::refused(context, "run", why);
    let mut request = options::request(args, proxy(context)).map_err(|why| refused(&why))?;
    let detach = args.on("detach");
    if detach {
        if args.changed("attach") {
            return Err(Failure::new(
                "conflicting options: cannot specify both --attach and --detach",
            ));
        }
        let config = &mut request.config;
        (
            config.attach_stdin,
            config.attach_stdout,
            config.attach_stderr,
        ) = (false, false, false);
        config.stdin_once = false;
    } else {
        terminal::check_input(request.config.attach_stdin, request.config.tty)?;
    }
    if request.config.tty
        && let Some((rows, columns)) = terminal::size()
    {
        request.host_config.console_size = [u32::from(rows), u32::from(columns)];
    }
    let keys = DetachKeys::parse(&context.detach_keys(args))?;
    let id = create::create(context, args, &request)
        .await
        .map_err(|failure| refused(&failure.message))?;
    let config = &request.config;
    if !(config.attach_stdin || config.attach_stdout || config.attach_stderr) {
        start(context, &id)
            .await
            .map_err(|failure| start_failure(context, &failure))?;
        print_line(&id);
        return Ok(0);
    }
    // Signals that arrive from now on are the container's.
    let mut forwarding = Forwarding::start(args.on_by_default("sig-proxy") && !config.tty)?;
    forwarding
        .alongside(
            context,
            &id,
            attached_run(context, args, &request, &id, keys),
        )
        .await
}

async fn attached_run(
    context: &Context,
    args: &Parsed,
    request: &CreateRequest,
    id: &str,
    keys: DetachKeys,
) -> Outcome {
    let refused = |failure: Failure| create::refused(context, "run", &failure.message);
    let config = &request.config;
    let attach = attach_request(id, args, context)
        .query_flag("stderr", config.attach_stderr)
        .query_flag("stdin", config.attach_stdin)
        .query_flag("stdout", config.attach_stdout);
    let connection = context.hijack(attach).await.map_err(refused)?;
    let condition = if request.host_config.auto_remove {
        "removed"
    } else {
        "next-exit"
    };
    let waiting = context
        .send(Request::post(format!("/containers/{id}/wait")).query("condition", condition))
        .await
        .map_err(refused)?;
    let raw = terminal::Raw::enter(config.tty && config.attach_stdin)?;
    let relay = Relay {
        connection,
        tty: config.tty,
        stdin: config.attach_stdin,
        keys,
    };
    let relaying = pin!(relay.run());
    let starting = pin!(start(context, id));
    let end = match select(relaying, starting).await {
        // The stream may end before the start's reply is here.
        Either::Left((end, starting)) => {
            starting
                .await
                .map_err(|failure| start_failure(context, &failure))?;
            end
        }
        Either::Right((Ok(()), relaying)) => {
            terminal::alongside(
                context,
                config.tty,
                format!("/containers/{id}/resize"),
                relaying,
            )
            .await
        }
        Either::Right((Err(failure), _)) => return Err(start_failure(context, &failure)),
    };
    drop(raw);
    if end? == End::Detached || !(config.attach_stdout || config.attach_stderr) {
        return Ok(0);
    }
    exit_status(collect(waiting).await?.as_ref())
}

/// What the engine's wait says.
pub(crate) fn exit_status(body: &[u8]) -> Outcome {
    let reply: WaitResponse = serde_json::from_slice(body).map_err(|error| {
        Failure::with_status(format!("Error waiting for container: {error}"), 125)
    })?;
    if let Some(error) = reply.error.filter(|error| !error.message.is_empty()) {
        warn(&format!("Error waiting for container: {}", error.message));
        return Ok(125);
    }
    Ok(i32::try_from(reply.status_code).unwrap_or(125))
}

pub(crate) async fn start(context: &Context, id: &str) -> Result<(), Failure> {
    context
        .done(Request::post(format!("/containers/{id}/start")))
        .await
}

/// The beginning of an attach request.
pub(crate) fn attach_request(id: &str, args: &Parsed, context: &Context) -> Request {
    Request::post(format!("/containers/{id}/attach"))
        .header("content-type", "text/plain")
        .query_some("detachKeys", context.detach_keys(args))
        .query("stream", "1")
}

fn proxy(context: &Context) -> Vec<(String, String)> {
    context.config.proxy_environment(&context.host.to_string())
}

/// 127: no such program; 126: it cannot be executed; 125: all else. The engine
/// says which only by its words.
fn start_failure(context: &Context, failure: &Failure) -> Failure {
    let message = &failure.message;
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let status = if has(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ]) {
        127
    } else if has(&["permission denied", "is a directory"]) {
        126
    } else {
        125
    };
    Failure {
        status,
        ..create::refused(context, "run", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses() {
        assert_eq!(exit_status(br#"{"StatusCode":3}"#), Ok(3));
        assert_eq!(
            exit_status(br#"{"Error":{"Message":"x"},"StatusCode":0}"#),
            Ok(125)
        );
        assert_eq!(exit_status(b"").unwrap_err().status, 125);
    }
}
