//! `/volumes`.

use berth_api::Error;
use berth_api::version::ApiVersion;
use berth_api::volume::VolumeCreate;
use hyper::StatusCode;

use crate::reply::{self, Reply};
use crate::{Call, extract};

pub(crate) async fn list(call: Call) -> Result<Reply, Error> {
    reply::ok(&call.engine.volume_list(&call.query.filters()?).await?)
}

pub(crate) async fn create(call: Call) -> Result<Reply, Error> {
    let request = extract::json::<VolumeCreate>(&call.head.headers, call.body)
        .await?
        .unwrap_or_default();
    let engine = call.engine;
    let volume = Call::finish(
        call.guard,
        async move { engine.volume_create(request).await },
    )
    .await?;
    reply::json(StatusCode::CREATED, &volume)
}

pub(crate) async fn inspect(call: Call) -> Result<Reply, Error> {
    reply::ok(&call.engine.volume_inspect(&call.name).await?)
}

pub(crate) async fn remove(call: Call) -> Result<Reply, Error> {
    let force = call.query.flag("force");
    let (engine, name) = (call.engine, call.name);
    Call::finish(call.guard, async move {
        engine.volume_remove(&name, force).await
    })
    .await?;
    Ok(reply::no_content())
}

pub(crate) async fn prune(call: Call) -> Result<Reply, Error> {
    let mut filters = call.query.filters()?;
    if call.version < ApiVersion(1, 42) {
        // There was no difference between named and anonymous ones.
        filters.insert("all", "true");
    }
    let engine = call.engine;
    let report = Call::finish(
        call.guard,
        async move { engine.volume_prune(&filters).await },
    )
    .await?;
    reply::ok(&report)
}
