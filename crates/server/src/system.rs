//! `/_ping`, `/version`, `/info`, `/events`, `/system`.

use berth_api::Error;
use berth_api::version::ApiVersion;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue, PRAGMA};
use serde_json::Value;

use crate::reply::{self, Reply};
use crate::streams::{self, Lines};
use crate::{Call, versions};

/// 1 = the classic builder. Not 2 before the BuildKit interface is served:
/// clients would wait for it.
const BUILDER: &str = "1";

pub(crate) async fn ping(call: Call) -> Result<Reply, Error> {
    let body = if call.head.method == hyper::Method::HEAD {
        reply::empty_body()
    } else {
        reply::full_body("OK")
    };
    let mut reply = reply::with_type(StatusCode::OK, "text/plain; charset=utf-8", body);
    let headers = reply.headers_mut();
    for (name, value) in [
        (HeaderName::from_static("builder-version"), BUILDER),
        (HeaderName::from_static("swarm"), "inactive"),
        (CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (PRAGMA, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(reply)
}

pub(crate) async fn version(call: Call) -> Result<Reply, Error> {
    let mut version = call.engine.version();
    version.min_api_version = call.settings.min_api.to_string();
    reply::ok(&version)
}

pub(crate) async fn info(call: Call) -> Result<Reply, Error> {
    let info = call.engine.info().await?;
    let mut info = serde_json::to_value(&info)
        .map_err(|error| Error::system(format!("cannot write the reply as JSON: {error}")))?;
    if let Value::Object(info) = &mut info {
        versions::info(call.version, info);
    }
    reply::ok(&info)
}

pub(crate) async fn events(call: Call) -> Result<Reply, Error> {
    let filters = call.query.filters()?;
    let since = call.query.time("since")?;
    let until = call.query.time("until")?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(Error::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.query.text("since"),
            call.query.text("until"),
        )));
    }
    let lines = Lines::negotiate(&call.head.headers, call.version);
    let events = call.engine.events(since, &filters)?;
    let chunks = streams::events(call.version, lines, events, filters, until);
    Ok(reply::with_type(
        StatusCode::OK,
        lines.content_type(),
        reply::stream_body(chunks),
    ))
}

pub(crate) async fn disk_usage(call: Call) -> Result<Reply, Error> {
    let mut types: Vec<String> = call.query.all("type").map(str::to_owned).collect();
    if call.version < ApiVersion(1, 42) {
        types.clear();
    }
    let usage = call.engine.disk_usage(&types).await?;
    let verbose = call.query.flag("verbose");
    reply::ok(&versions::disk_usage(call.version, usage, verbose)?)
}

/// An operation of berth's own.
pub(crate) async fn check(call: Call) -> Result<Reply, Error> {
    let (engine, repair) = (call.engine, call.query.flag("repair"));
    let check = Call::finish(call.guard, async move { engine.system_check(repair).await });
    reply::ok(&check.await?)
}
