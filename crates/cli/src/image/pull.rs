//! `pull`, and the pull that `run` and `create` do.

use crate::context::Context;
use crate::credentials;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::print_line;
use crate::output::progress::{self, To};
use crate::reference::Reference;
use crate::transport::{Lines, Request};
use crate::tree::Outcome;

pub(crate) async fn pull(context: &Context, args: &Parsed) -> Outcome {
    let text = args.words.first().map_or("", String::as_str);
    let named = Reference::parse(text).map_err(Failure::new)?;
    let all = args.on("all-tags");
    let quiet = args.on("quiet");
    if all && (named.tag.is_some() || named.digest.is_some()) {
        return Err(Failure::new("tag can't be used with --all-tags/-a"));
    }
    let reference = if all {
        named
    } else {
        if named.tag.is_none() && named.digest.is_none() && !quiet {
            print_line("Using default tag: latest");
        }
        named.or_latest()
    };
    let mut lines = begin(context, &reference, &platform_of(args)).await?;
    let to = if quiet { To::Nowhere } else { To::Stdout };
    progress::show(&mut lines, to).await?;
    print_line(&reference.full());
    Ok(0)
}

/// Progress goes to stderr: stdout is the container's.
pub(crate) async fn pull_for_run(
    context: &Context,
    reference: &Reference,
    platform: &str,
    quiet: bool,
) -> Result<(), Failure> {
    let mut lines = begin(context, reference, platform).await?;
    let to = if quiet { To::Nowhere } else { To::Stderr };
    progress::show(&mut lines, to).await.map(drop)
}

/// `--platform`, or the default that the environment sets.
pub(crate) fn platform_of(args: &Parsed) -> String {
    args.get("platform")
        .map(str::to_owned)
        .or_else(|| std::env::var("DOCKER_DEFAULT_PLATFORM").ok())
        .unwrap_or_default()
}

async fn begin(context: &Context, reference: &Reference, platform: &str) -> Result<Lines, Failure> {
    let tag = reference.digest.as_ref().or(reference.tag.as_ref());
    let request = Request::post("/images/create")
        .registry_auth(&credentials::for_host(&context.config, &reference.domain)?)
        .query("fromImage", reference.full_name())
        .query_some("tag", tag.cloned().unwrap_or_default())
        .query_some("platform", platform);
    Ok(Lines::new(context.send(request).await?))
}
