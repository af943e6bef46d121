//! `build`: what is on the command line becomes a request; while the engine
//! works, this client gives it what it asks for and shows how far it is.
//!
//! ```text
//! flags ─request─▶ Job ─session─▶ engine
//!                   │                │ Walk, Read, Secret …  ─▶ serve
//!                   │                │ Status                ─▶ progress
//!                   └─▶ report ◀─────┘ Done, Failed
//! ```

pub(crate) mod builders;
pub(crate) mod cache;
mod call;
mod context;
mod csv;
mod files;
mod layout;
mod output;
mod progress;
mod report;
mod request;
mod save;
mod secret;
mod serve;
mod session;
mod unpack;
mod walk;
mod wire;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::tree::Outcome;

use progress::{Display, Mode};
use request::Job;

/// `build`, `image build`, `builder build`, `buildx build`.
pub(crate) async fn build(context: &Context, args: &Parsed) -> Outcome {
    let debug = context.debug || args.on("debug");
    let mode = Mode::choose(args.get("progress"), args.on("quiet")).map_err(failed)?;
    let Job {
        request,
        contexts,
        secrets,
        agents,
        places,
        cache_to,
        cache_from,
        call,
    } = request::job(context, args).map_err(failed)?;
    let iidfile = args.text("iidfile");
    report::remove_stale(&iidfile).map_err(failed)?;
    let goods = serve::Goods {
        contexts: contexts.sources,
        secrets,
        agents,
        places,
        cache_to,
        cache_from,
    };
    let mut display = Display::new(mode);
    let outcome = session::run(context, request, goods, &mut display).await;
    let warnings = display.warnings();
    if !matches!(mode, Mode::Quiet | Mode::RawJson) && call.is_none() {
        report::warnings(warnings, debug);
    }
    let result = outcome?;
    if let (Some(call), Some(found)) = (&call, &result.call) {
        let shown = call::show(call, found, &contexts.shown_path).map_err(failed)?;
        return report::call(&shown);
    }
    report::done(&result, mode, &iidfile, &args.text("metadata-file")).map_err(failed)?;
    Ok(0)
}

/// In buildx's words.
fn failed(why: impl std::fmt::Display) -> Failure {
    Failure::new(format!("ERROR: failed to build: {why}"))
}
