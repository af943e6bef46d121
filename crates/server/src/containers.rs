//! `/containers`.

use std::time::Duration;

use berth_api::Error;
use berth_api::container::{CreateRequest, Update, WaitCondition};
use berth_api::stats::Stats;
use berth_api::version::ApiVersion;
use berth_engine::{AttachOptions, Engine, LogOptions};
use futures_util::stream;
use hyper::StatusCode;
use hyper::body::Body;

use crate::extract::Query;
use crate::hijack::{self, Hijack};
use crate::reply::{self, Reply};
use crate::streams::{self, Lines};
use crate::{Call, connection, extract, versions};

/// Time between two samples of `stats`.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn list(call: Call) -> Result<Reply, Error> {
    let query = &call.query;
    let mut filters = query.filters()?;
    for legacy in ["since", "before"] {
        if query.has(legacy) {
            filters.insert(legacy, query.text(legacy));
        }
    }
    let limit = query.number::<i64>("limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut rows = call
        .engine
        .container_list(query.flag("all"), limit, query.flag("size"), &filters)
        .await?;
    for row in &mut rows {
        versions::container_summary(call.version, row);
    }
    reply::ok(&rows)
}

pub(crate) async fn create(call: Call) -> Result<Reply, Error> {
    let request = extract::json::<CreateRequest>(&call.head.headers, call.body).await?;
    let Some(mut request) = request else {
        return Err(Error::invalid(
            "config cannot be empty in order to create a container",
        ));
    };
    let mut warnings = versions::create_request(call.version, &mut request)?;
    let name = call.query.text("name").to_owned();
    let platform = if call.version < ApiVersion(1, 41) {
        String::new()
    } else {
        call.query.text("platform").to_owned()
    };
    let engine = call.engine;
    let mut created = Call::finish(call.guard, async move {
        engine.container_create(&name, &platform, request).await
    })
    .await?;
    created.warnings.append(&mut warnings);
    reply::json(StatusCode::CREATED, &created)
}

pub(crate) async fn inspect(call: Call) -> Result<Reply, Error> {
    let size = call.query.flag("size");
    let inspect = call.engine.container_inspect(&call.name, size).await?;
    reply::ok(&versions::container_inspect(call.version, &inspect)?)
}

pub(crate) async fn top(call: Call) -> Result<Reply, Error> {
    let ps_args = call.query.text("ps_args");
    reply::ok(&call.engine.container_top(&call.name, ps_args).await?)
}

/// An operation of berth's own.
pub(crate) async fn isolation(call: Call) -> Result<Reply, Error> {
    reply::ok(&call.engine.container_isolation(&call.name).await?)
}

/// One operation on one container that answers with nothing.
macro_rules! simple {
    ($call:ident, |$engine:ident, $name:ident| $work:expr) => {{
        let ($engine, $name) = ($call.engine, $call.name);
        Call::finish($call.guard, async move { $work.await }).await?;
        Ok(reply::no_content())
    }};
}

pub(crate) async fn start(call: Call) -> Result<Reply, Error> {
    // A configuration in the body left with 1.24; an empty object is let pass.
    if call.body.size_hint().lower() > 2 {
        return Err(Error::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    if !call.query.text("checkpoint").is_empty() {
        return Err(Error::not_implemented(
            "checkpointing containers is not supported by berth yet",
        ));
    }
    simple!(call, |engine, name| engine.container_start(&name))
}

pub(crate) async fn stop(call: Call) -> Result<Reply, Error> {
    let (signal, timeout) = signal_and_timeout(&call)?;
    simple!(call, |engine, name| engine
        .container_stop(&name, &signal, timeout))
}

pub(crate) async fn restart(call: Call) -> Result<Reply, Error> {
    let (signal, timeout) = signal_and_timeout(&call)?;
    simple!(call, |engine, name| engine
        .container_restart(&name, &signal, timeout))
}

fn signal_and_timeout(call: &Call) -> Result<(String, Option<i64>), Error> {
    let signal = if call.version < ApiVersion(1, 42) {
        ""
    } else {
        call.query.text("signal")
    };
    Ok((signal.to_owned(), call.query.number("t")?))
}

pub(crate) async fn kill(call: Call) -> Result<Reply, Error> {
    let signal = call.query.text("signal").to_owned();
    simple!(call, |engine, name| engine.container_kill(&name, &signal))
}

pub(crate) async fn pause(call: Call) -> Result<Reply, Error> {
    simple!(call, |engine, name| engine.container_pause(&name))
}

pub(crate) async fn unpause(call: Call) -> Result<Reply, Error> {
    simple!(call, |engine, name| engine.container_unpause(&name))
}

pub(crate) async fn rename(call: Call) -> Result<Reply, Error> {
    let new = call.query.text("name").to_owned();
    simple!(call, |engine, name| engine.container_rename(&name, &new))
}

pub(crate) async fn remove(call: Call) -> Result<Reply, Error> {
    if call.query.flag("link") {
        return Err(Error::not_implemented(
            "removing links is not supported by berth yet",
        ));
    }
    let force = call.query.flag("force");
    let volumes = call.query.flag("v");
    simple!(call, |engine, name| engine
        .container_remove(&name, force, volumes))
}

pub(crate) async fn resize(call: Call) -> Result<Reply, Error> {
    let (width, height) = size(&call.query)?;
    let (engine, name) = (&call.engine, &call.name);
    engine.container_resize(name, width, height).await?;
    Ok(reply::status(StatusCode::OK))
}

/// Width and height of a terminal, both required.
pub(crate) fn size(query: &Query) -> Result<(u16, u16), Error> {
    let cells = |name: &str| {
        query.number::<u16>(name)?.ok_or_else(|| {
            Error::invalid(format!(
                "invalid value \"\" for parameter \"{name}\": it is missing"
            ))
        })
    };
    let height = cells("h")?;
    Ok((cells("w")?, height))
}

pub(crate) async fn update(call: Call) -> Result<Reply, Error> {
    let update: Update = extract::json(&call.head.headers, call.body)
        .await?
        .unwrap_or_default();
    let (engine, name) = (call.engine, call.name);
    let updated = Call::finish(call.guard, async move {
        engine.container_update(&name, update).await
    })
    .await?;
    reply::ok(&updated)
}

pub(crate) async fn prune(call: Call) -> Result<Reply, Error> {
    let filters = call.query.filters()?;
    let engine = call.engine;
    let report = Call::finish(
        call.guard,
        async move { engine.container_prune(&filters).await },
    )
    .await?;
    reply::ok(&report)
}

/// Answers at once, so that clients know that the wait has begun; the body
/// follows when the condition holds.
pub(crate) async fn wait(call: Call) -> Result<Reply, Error> {
    let condition = match call.query.text("condition") {
        _ if call.version < ApiVersion(1, 30) => WaitCondition::NotRunning,
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(Error::invalid(format!("invalid condition: \"{other}\""))),
    };
    let exit = call.engine.container_wait(&call.name, condition).await?;
    let body = stream::once(async move {
        match exit.await {
            Ok(response) => Lines::Json.line(&response),
            // The engine is stopping: the client sees a body cut short.
            Err(_) => bytes::Bytes::new(),
        }
    });
    Ok(reply::with_type(
        StatusCode::OK,
        reply::JSON,
        reply::stream_body(body),
    ))
}

pub(crate) async fn logs(call: Call) -> Result<Reply, Error> {
    let query = &call.query;
    let options = LogOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since: query.time("since")?.filter(|since| *since > 0),
        until: query.time("until")?.filter(|until| *until > 0),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
        // "all", and anything else that is no number, is everything.
        tail: query.text("tail").parse().ok(),
    };
    if !options.stdout && !options.stderr {
        return Err(Error::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let logs = call.engine.container_logs(&call.name, options).await?;
    Ok(reply::with_type(
        StatusCode::OK,
        hijack::content_type(call.version, logs.tty),
        reply::stream_body(streams::logs(logs)),
    ))
}

/// The container's filesystem as a tar stream.
pub(crate) async fn export(call: Call) -> Result<Reply, Error> {
    let archive = call.engine.container_export(&call.name).await?;
    Ok(reply::with_type(
        StatusCode::OK,
        "application/octet-stream",
        reply::download(archive),
    ))
}

pub(crate) async fn stats(call: Call) -> Result<Reply, Error> {
    let follow = call.query.flag_or("stream", true);
    let one_shot = call.query.flag("one-shot") && call.version >= ApiVersion(1, 41);
    if follow && one_shot {
        return Err(Error::invalid("cannot have stream=true and one-shot=true"));
    }
    let (engine, name, version) = (call.engine, call.name, call.version);
    let first = engine.container_stats(&name, None).await?;
    if !follow {
        let stats = if one_shot {
            first
        } else {
            // Rates need two samples.
            tokio::time::sleep(STATS_INTERVAL).await;
            engine.container_stats(&name, Some(&first)).await?
        };
        return reply::ok(&fit_stats(version, stats));
    }
    let chunks = stream::unfold((None, Some(first)), move |state| {
        next_stats(engine.clone(), name.clone(), version, state)
    });
    Ok(reply::with_type(
        StatusCode::OK,
        reply::JSON,
        reply::stream_body(chunks),
    ))
}

/// The sample before, and one that is ready to be sent.
type Samples = (Option<Stats>, Option<Stats>);

async fn next_stats(
    engine: Engine,
    name: String,
    version: ApiVersion,
    (previous, ready): Samples,
) -> Option<(bytes::Bytes, Samples)> {
    let sample = match ready {
        Some(sample) => sample,
        None => {
            tokio::time::sleep(STATS_INTERVAL).await;
            engine
                .container_stats(&name, previous.as_ref())
                .await
                .ok()?
        }
    };
    let line = Lines::Json.line(&fit_stats(version, sample.clone()));
    Some((line, (Some(sample), None)))
}

fn fit_stats(version: ApiVersion, mut stats: Stats) -> Stats {
    if version < ApiVersion(1, 52) {
        stats.os_type.clear();
    }
    stats
}

pub(crate) async fn attach(call: Call) -> Result<Reply, Error> {
    let query = &call.query;
    let options = AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        detach_keys: query.text("detachKeys").to_owned(),
    };
    let stdin = options.stdin;
    let upgrade = connection::wants_upgrade(&call.head.headers);
    // Whatever body there is comes before the stream.
    extract::collect(call.body, extract::MAX_JSON).await?;
    let attachment = call.engine.container_attach(&call.name, options).await?;
    let tty = attachment.tty;
    let start = async { Ok(attachment) };
    let hijack = Hijack::new(upgrade, call.version, tty, stdin, start);
    Ok(call.hijack.take_over(hijack).await)
}
