//! Commands that do one thing to each container named: stop, kill, rm, …

use berth_api::container::WaitResponse;
use futures_util::stream::{self, StreamExt as _};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{print_line, warn};
use crate::transport::{Request, segment};
use crate::tree::Outcome;

/// Requests under way at once.
const PARALLEL: usize = 50;

/// Sends a request per name, many at once (each of ten stops may take ten
/// seconds), and prints the names that went well, in their order. All are
/// tried; the failures follow, one per line.
async fn each(context: &Context, names: &[String], request: impl Fn(&str) -> Request) -> Outcome {
    let mut replies = stream::iter(names)
        .map(|name| {
            let request = request(name);
            async move { (name, context.done(request).await) }
        })
        .buffered(PARALLEL);
    let mut failures = Vec::new();
    while let Some((name, reply)) = replies.next().await {
        match reply {
            Ok(()) => print_line(name),
            Err(failure) => failures.push(failure.message),
        }
    }
    all_done(&failures)
}

fn all_done(failures: &[String]) -> Outcome {
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}

fn post(name: &str, action: &str) -> Request {
    Request::post(format!("/containers/{}/{action}", segment(name)))
}

pub(crate) async fn stop(context: &Context, args: &Parsed) -> Outcome {
    stopping(context, args, "stop").await
}

pub(crate) async fn restart(context: &Context, args: &Parsed) -> Outcome {
    stopping(context, args, "restart").await
}

async fn stopping(context: &Context, args: &Parsed, action: &str) -> Outcome {
    if args.changed("time") && args.changed("timeout") {
        return Err(Failure::new(
            "conflicting options: cannot specify both --timeout and --time",
        ));
    }
    let timeout = args
        .get("timeout")
        .or_else(|| args.get("time"))
        .unwrap_or_default();
    each(context, &args.words, |name| {
        post(name, action)
            .query_some("signal", args.text("signal"))
            .query_some("t", timeout)
    })
    .await
}

pub(crate) async fn kill(context: &Context, args: &Parsed) -> Outcome {
    each(context, &args.words, |name| {
        post(name, "kill").query_some("signal", args.text("signal"))
    })
    .await
}

pub(crate) async fn pause(context: &Context, args: &Parsed) -> Outcome {
    each(context, &args.words, |name| post(name, "pause")).await
}

pub(crate) async fn unpause(context: &Context, args: &Parsed) -> Outcome {
    each(context, &args.words, |name| post(name, "unpause")).await
}

pub(crate) async fn rename(context: &Context, args: &Parsed) -> Outcome {
    let [old, new] = args.words.as_slice() else {
        return Err(Failure::new("rename takes an old and a new name"));
    };
    if old.trim().is_empty() || new.trim().is_empty() {
        return Err(Failure::new(
            "Error: Neither old nor new names may be empty",
        ));
    }
    context
        .done(post(old.trim(), "rename").query("name", new.trim()))
        .await
        .map_err(|failure| Failure {
            message: format!(
                "{}\nfailed to rename container named {old}",
                failure.message
            ),
            ..failure
        })?;
    Ok(0)
}

pub(crate) async fn rm(context: &Context, args: &Parsed) -> Outcome {
    let force = args.on("force");
    let mut replies = stream::iter(&args.words)
        .map(|name| {
            let name = name.trim_matches('/');
            let request = Request::delete(format!("/containers/{}", segment(name)))
                .query_flag("force", force)
                .query_flag("link", args.on("link"))
                .query_flag("v", args.on("volumes"));
            async move {
                if name.is_empty() {
                    return (name, Err(Failure::new("Container name cannot be empty")));
                }
                (name, context.done(request).await)
            }
        })
        .buffered(PARALLEL);
    let mut failures = Vec::new();
    while let Some((name, reply)) = replies.next().await {
        match reply {
            Ok(()) => print_line(name),
            // What shall be gone is gone.
            Err(failure) if force && failure.is_not_found() => warn(&failure.message),
            Err(failure) => failures.push(failure.message),
        }
    }
    all_done(&failures)
}

/// `wait`: prints each one's exit status.
pub(crate) async fn wait(context: &Context, args: &Parsed) -> Outcome {
    let mut failures = Vec::new();
    for name in &args.words {
        match context.json::<WaitResponse>(post(name, "wait")).await {
            Ok(reply) => match reply.error {
                Some(error) if !error.message.is_empty() => failures.push(error.message),
                _ => print_line(&reply.status_code.to_string()),
            },
            Err(failure) => failures.push(failure.message),
        }
    }
    all_done(&failures)
}
