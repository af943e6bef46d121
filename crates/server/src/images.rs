//! `/images`.

use berth_api::Error;
use berth_api::container::Config;
use berth_api::image::Created;
use berth_api::progress::Progress;
use berth_api::version::ApiVersion;
use berth_engine::CommitOptions;
use hyper::StatusCode;
use tokio::sync::mpsc;

use crate::reply::{self, Reply};
use crate::streams::{self, Lines};
use crate::{Call, extract, platform, registry, versions};

/// Lines of progress that may wait for a slow client.
pub(crate) const PROGRESS_BUFFER: usize = 64;

pub(crate) async fn list(call: Call) -> Result<Reply, Error> {
    let mut filters = call.query.filters()?;
    if call.version < ApiVersion(1, 41) && call.query.has("filter") {
        filters.insert("reference", call.query.text("filter"));
    }
    let mut rows = call
        .engine
        .image_list(
            &filters,
            call.query.flag("shared-size"),
            call.query.flag("manifests"),
        )
        .await?;
    for row in &mut rows {
        versions::image_summary(call.version, row);
    }
    reply::ok(&rows)
}

pub(crate) async fn inspect(call: Call) -> Result<Reply, Error> {
    let platform = platform::one(&call.query)?;
    let manifests = call.query.flag("manifests");
    let inspect = call
        .engine
        .image_inspect(&call.name, platform.as_ref(), manifests)
        .await?;
    reply::ok(&versions::image_inspect(call.version, &inspect)?)
}

pub(crate) async fn history(call: Call) -> Result<Reply, Error> {
    let platform = platform::one(&call.query)?;
    let history = call
        .engine
        .image_history(&call.name, platform.as_ref())
        .await?;
    reply::ok(&history)
}

pub(crate) async fn tag(call: Call) -> Result<Reply, Error> {
    let (engine, name) = (call.engine, call.name);
    let repo = call.query.text("repo").to_owned();
    let tag = call.query.text("tag").to_owned();
    Call::finish(call.guard, async move {
        engine.image_tag(&name, &repo, &tag).await
    })
    .await?;
    Ok(reply::status(StatusCode::CREATED))
}

pub(crate) async fn remove(call: Call) -> Result<Reply, Error> {
    let platforms = platform::listed(&call.query, "platforms")?;
    let force = call.query.flag("force");
    let prune = !call.query.flag("noprune");
    let (engine, name) = (call.engine, call.name);
    let removed = Call::finish(call.guard, async move {
        if platforms.is_empty() {
            engine.image_remove(&name, force, prune).await
        } else {
            engine
                .image_remove_platforms(&name, &platforms, force)
                .await
        }
    })
    .await?;
    reply::ok(&removed)
}

pub(crate) async fn load(call: Call) -> Result<Reply, Error> {
    let platforms = platform::all(&call.query)?;
    let quiet = call.query.flag("quiet");
    let lines = Lines::negotiate(&call.head.headers, call.version);
    let (sender, messages) = mpsc::channel(PROGRESS_BUFFER);
    let (archive, pump) = streams::upload(call.body);
    let engine = call.engine;
    let work = async move {
        let load = engine.image_load(archive, &platforms, quiet, sender);
        streams::with_upload(pump, load).await
    };
    streams::progress(call.version, lines, messages, work).await
}

/// `POST /images/prune`
pub(crate) async fn prune(call: Call) -> Result<Reply, Error> {
    let filters = call.query.filters()?;
    let engine = call.engine;
    let report = Call::finish(
        call.guard,
        async move { engine.image_prune(&filters).await },
    );
    reply::ok(&report.await?)
}

/// `POST /commit`
pub(crate) async fn commit(call: Call) -> Result<Reply, Error> {
    let query = &call.query;
    let text = |name: &str| query.text(name).to_owned();
    let mut options = CommitOptions {
        container: text("container"),
        repo: text("repo"),
        tag: text("tag"),
        comment: text("comment"),
        author: text("author"),
        changes: query.all("changes").map(str::to_owned).collect(),
        pause: query.flag_or("pause", true),
        config: None,
    };
    // Clients without one send `null`.
    let config: Option<Option<Config>> = extract::json(&call.head.headers, call.body).await?;
    options.config = config.flatten();
    let engine = call.engine;
    let id = Call::finish(call.guard, async move { engine.commit(options).await }).await?;
    reply::json(StatusCode::CREATED, &Created { id })
}

/// `GET /images/get?names=…`
pub(crate) async fn save(call: Call) -> Result<Reply, Error> {
    let names: Vec<String> = call.query.all("names").map(str::to_owned).collect();
    save_all(&call, &names).await
}

pub(crate) async fn save_one(call: Call) -> Result<Reply, Error> {
    save_all(&call, std::slice::from_ref(&call.name)).await
}

async fn save_all(call: &Call, names: &[String]) -> Result<Reply, Error> {
    let platforms = platform::all(&call.query)?;
    let archive = call.engine.image_save(names, &platforms).await?;
    Ok(reply::with_type(
        StatusCode::OK,
        "application/x-tar",
        reply::download(archive),
    ))
}

/// `POST /images/create`: a pull with `fromImage`, an import with `fromSrc`.
pub(crate) async fn create(call: Call) -> Result<Reply, Error> {
    if call.query.has("fromImage") && !call.query.text("fromImage").is_empty() {
        registry::pull(call).await
    } else {
        import(call).await
    }
}

async fn import(call: Call) -> Result<Reply, Error> {
    let source = call.query.text("fromSrc");
    if source != "-" {
        return Err(if source.is_empty() {
            Error::invalid("either fromImage or fromSrc must be given")
        } else {
            Error::not_implemented("importing from a URL is not supported by berth yet")
        });
    }
    let query = call.query;
    let lines = Lines::negotiate(&call.head.headers, call.version);
    let (sender, messages) = mpsc::channel(1);
    let (archive, pump) = streams::upload(call.body);
    let engine = call.engine;
    let work = async move {
        let changes: Vec<String> = query.all("changes").map(str::to_owned).collect();
        let import = engine.image_import(
            archive,
            query.text("repo"),
            query.text("tag"),
            query.text("message"),
            &changes,
            query.text("platform"),
        );
        let id = streams::with_upload(pump, import).await?;
        let line = Progress {
            status: id,
            ..Default::default()
        };
        // Fails only when the client is gone.
        let _ = sender.send(line).await;
        Ok(())
    };
    streams::progress(call.version, lines, messages, work).await
}
