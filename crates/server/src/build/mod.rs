//! `/build`: the classic builder's endpoint, and berth's own.

mod channels;
mod classic;
mod progress;
mod running;
mod session;

use berth_api::Error;
use berth_api::version::ApiVersion;
use berth_engine::build::PruneOptions;
use hyper::StatusCode;

pub(crate) use self::classic::build;
pub(crate) use self::running::Builds;
pub(crate) use self::session::{Session, session};
use crate::Call;
use crate::extract::Query;
use crate::reply::{self, Reply};

/// `POST /build/prune`
pub(crate) async fn prune(call: Call) -> Result<Reply, Error> {
    let options = prune_options(&call.query, call.version)?;
    let engine = call.engine;
    let report = Call::finish(call.guard, async move { engine.build_prune(options).await });
    reply::ok(&report.await?)
}

fn prune_options(query: &Query, version: ApiVersion) -> Result<PruneOptions, Error> {
    let bytes = |name: &str| -> Result<u64, Error> {
        match query.text(name) {
            "" => Ok(0),
            text => text.parse().map_err(|error| {
                Error::invalid(format!(
                    "{name} is in bytes and expects an integer, got {text}: {error}"
                ))
            }),
        }
    };
    let mut options = PruneOptions {
        all: version >= ApiVersion(1, 39) && query.flag("all"),
        ..PruneOptions::default()
    };
    if version >= ApiVersion(1, 39) {
        options.filters = query.filters()?;
    }
    if version >= ApiVersion(1, 48) {
        options.reserved_space = bytes("reserved-space")?;
        options.max_used_space = bytes("max-used-space")?;
        options.min_free_space = bytes("min-free-space")?;
    }
    if options.reserved_space == 0 {
        // Its name below 1.48.
        options.reserved_space = bytes("keep-storage")?;
    }
    Ok(options)
}

/// `POST /build/cancel`
pub(crate) async fn cancel(call: Call) -> Result<Reply, Error> {
    let id = call.query.text("id");
    if id.is_empty() {
        return Err(Error::invalid("build ID not provided"));
    }
    call.builds.cancel(id);
    Ok(reply::status(StatusCode::OK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prune_parameters_of_all_versions() {
        let read = |query: &str, minor| {
            let query = Query::parse(query).unwrap();
            prune_options(&query, ApiVersion(1, minor))
        };
        let all = "all=1&reserved-space=5&keep-storage=6&max-used-space=7&min-free-space=8";
        let new = read(all, 48).unwrap();
        assert!(new.all);
        assert_eq!(
            (new.reserved_space, new.max_used_space, new.min_free_space),
            (5, 7, 8)
        );
        let old = read(all, 47).unwrap();
        assert_eq!(
            (old.reserved_space, old.max_used_space, old.min_free_space),
            (6, 0, 0)
        );
        assert_eq!(read("keep-storage=9", 55).unwrap().reserved_space, 9);
        assert!(!read("all=1", 38).unwrap().all);
        for (query, begin) in [
            (
                "keep-storage=x",
                "keep-storage is in bytes and expects an integer, got x: ",
            ),
            (
                "max-used-space=-1",
                "max-used-space is in bytes and expects an integer, got -1: ",
            ),
            ("filters=x", ""),
        ] {
            let error = read(query, 55).unwrap_err();
            assert_eq!(error.kind, berth_api::Kind::Invalid);
            assert!(error.message.starts_with(begin), "{error}");
        }
    }
}
