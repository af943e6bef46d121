//! Which operation a request means: the table, and how paths are matched.

use std::pin::Pin;

use berth_api::Error;
use berth_api::version::ApiVersion;
use hyper::{Method, Uri};

use crate::extract::{self, Query};
use crate::reply::Reply;
use crate::unsupported::{MISSING, Missing};
use crate::{Call, build, containers, execs, images, networks, registry, system, volumes};

type Answer = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>;

/// One line of the table.
pub(crate) struct Route {
    method: Method,
    /// `{}` stands for a name, which may contain slashes.
    path: &'static str,
    /// The first API version that has it.
    since: ApiVersion,
    pub(crate) handler: fn(Call) -> Answer,
}

macro_rules! table {
    ($($method:ident $path:literal $since:literal => $handler:path;)*) => {
        &[$(Route {
            method: Method::$method,
            path: $path,
            since: ApiVersion(1, $since),
            handler: |call| Box::pin($handler(call)),
        }),*]
    };
}

/// Operations that are answered, with the minor version they came with; 24 is
/// the oldest served.
static ROUTES: &[Route] = table! {
    GET    "/_ping"                      24 => system::ping;
    HEAD   "/_ping"                      24 => system::ping;
    GET    "/version"                    24 => system::version;
    GET    "/info"                       24 => system::info;
    GET    "/events"                     24 => system::events;
    GET    "/system/df"                  25 => system::disk_usage;
    POST   "/system/check"               24 => system::check;

    GET    "/containers/json"            24 => containers::list;
    POST   "/containers/create"          24 => containers::create;
    POST   "/containers/prune"           25 => containers::prune;
    GET    "/containers/{}/json"         24 => containers::inspect;
    GET    "/containers/{}/top"          24 => containers::top;
    GET    "/containers/{}/isolation"    24 => containers::isolation;
    GET    "/containers/{}/export"       24 => containers::export;
    GET    "/containers/{}/logs"         24 => containers::logs;
    GET    "/containers/{}/stats"        24 => containers::stats;
    POST   "/containers/{}/start"        24 => containers::start;
    POST   "/containers/{}/stop"         24 => containers::stop;
    POST   "/containers/{}/restart"      24 => containers::restart;
    POST   "/containers/{}/kill"         24 => containers::kill;
    POST   "/containers/{}/pause"        24 => containers::pause;
    POST   "/containers/{}/unpause"      24 => containers::unpause;
    POST   "/containers/{}/rename"       24 => containers::rename;
    POST   "/containers/{}/resize"       24 => containers::resize;
    POST   "/containers/{}/update"       24 => containers::update;
    POST   "/containers/{}/attach"       24 => containers::attach;
    POST   "/containers/{}/wait"         24 => containers::wait;
    DELETE "/containers/{}"              24 => containers::remove;

    POST   "/containers/{}/exec"         24 => execs::create;
    POST   "/exec/{}/start"              24 => execs::start;
    POST   "/exec/{}/resize"             24 => execs::resize;
    GET    "/exec/{}/json"               24 => execs::inspect;

    POST   "/commit"                     24 => images::commit;
    GET    "/images/json"                24 => images::list;
    POST   "/images/create"              24 => images::create;
    POST   "/images/load"                24 => images::load;
    POST   "/images/prune"               25 => images::prune;
    GET    "/images/get"                 24 => images::save;
    GET    "/images/{}/get"              24 => images::save_one;
    GET    "/images/search"              24 => registry::search;
    POST   "/images/{}/push"             24 => registry::push;
    GET    "/images/{}/json"             24 => images::inspect;
    GET    "/images/{}/history"          24 => images::history;
    POST   "/images/{}/tag"              24 => images::tag;
    DELETE "/images/{}"                  24 => images::remove;

    POST   "/build"                      24 => build::build;
    POST   "/build/prune"                31 => build::prune;
    POST   "/build/cancel"               24 => build::cancel;
    POST   "/build/session"              24 => build::session;

    POST   "/auth"                       24 => registry::auth;
    GET    "/distribution/{}/json"       30 => registry::distribution;

    GET    "/networks"                   24 => networks::list;
    GET    "/networks/"                  24 => networks::list;
    GET    "/networks/{}"                24 => networks::inspect;

    GET    "/volumes"                    24 => volumes::list;
    POST   "/volumes/create"             24 => volumes::create;
    POST   "/volumes/prune"              25 => volumes::prune;
    GET    "/volumes/{}"                 24 => volumes::inspect;
    DELETE "/volumes/{}"                 24 => volumes::remove;
};

/// What a path means in one version.
enum Found {
    Route(&'static Route),
    Missing(&'static Missing),
}

/// A request's operation and what it is about.
pub(crate) struct Target {
    pub(crate) route: &'static Route,
    /// The newest when the path names none.
    pub(crate) version: ApiVersion,
    /// What stands for `{}`; empty for a path without one.
    pub(crate) name: String,
    pub(crate) query: Query,
}

/// Finds out what a request means. An unknown path and a known one with
/// another method are the same to Docker: nothing found.
pub(crate) fn resolve(method: &Method, uri: &Uri, minimum: ApiVersion) -> Result<Target, Error> {
    let path = extract::decode(uri.path())?;
    let (version, path) = split_version(&path);
    let version = match version {
        Some(text) => text.parse::<ApiVersion>()?.check(minimum)?,
        None => ApiVersion::MAX,
    };
    let query = Query::parse(uri.query().unwrap_or_default())?;
    match find(method, path, version) {
        Some((Found::Route(route), name)) => Ok(Target {
            route,
            version,
            name: name.to_owned(),
            query,
        }),
        Some((Found::Missing(missing), _)) => Err(missing.error()),
        None => Err(Error::not_found("page not found")),
    }
}

/// Splits "/v1.41/info" into the version, if there is one, and "/info".
fn split_version(path: &str) -> (Option<&str>, &str) {
    let version = path.strip_prefix("/v").and_then(|rest| {
        let end = rest.find('/')?;
        let version = &rest[..end];
        let digits = |byte: u8| byte.is_ascii_digit() || byte == b'.';
        (!version.is_empty() && version.bytes().all(digits)).then_some((version, &rest[end..]))
    });
    match version {
        Some((version, rest)) => (Some(version), rest),
        None => (None, path),
    }
}

/// The operation and the name in its path.
fn find<'a>(method: &Method, path: &'a str, version: ApiVersion) -> Option<(Found, &'a str)> {
    let known = ROUTES
        .iter()
        .filter(|route| route.method == *method && route.since <= version)
        .find_map(|route| Some((Found::Route(route), matches(route.path, path)?)));
    known.or_else(|| {
        MISSING
            .iter()
            .filter(|missing| missing.method == *method && missing.since <= version)
            .find_map(|missing| Some((Found::Missing(missing), matches(missing.path, path)?)))
    })
}

/// The name that stands for `{}`; empty for a pattern without one.
fn matches<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    match pattern.split_once("{}") {
        None => (pattern == path).then_some(""),
        Some((before, after)) => path
            .strip_prefix(before)?
            .strip_suffix(after)
            .filter(|name| !name.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name<'a>(method: &Method, path: &'a str) -> Option<&'a str> {
        find(method, path, ApiVersion::MAX).map(|(_, name)| name)
    }

    #[test]
    fn versions_are_split_off() {
        assert_eq!(split_version("/v1.41/info"), (Some("1.41"), "/info"));
        assert_eq!(split_version("/version"), (None, "/version"));
        assert_eq!(split_version("/v1.41"), (None, "/v1.41"));
        assert_eq!(split_version("/vx/info"), (None, "/vx/info"));
    }

    #[test]
    fn names_may_hold_slashes_and_words_of_other_paths() {
        assert_eq!(
            name(&Method::GET, "/images/a/b/json/json"),
            Some("a/b/json")
        );
        assert_eq!(name(&Method::GET, "/images/json"), Some(""));
        assert_eq!(name(&Method::GET, "/containers/x/json"), Some("x"));
        assert_eq!(name(&Method::DELETE, "/images/r.io/a:b"), Some("r.io/a:b"));
        assert_eq!(name(&Method::GET, "/containers//json"), None);
        assert_eq!(name(&Method::PUT, "/containers/json"), None);
        assert_eq!(name(&Method::GET, "/nowhere"), None);
    }

    /// `| 4 | `GET /containers/{id}/top` | works | …` says what the table does.
    #[test]
    fn the_compatibility_page_is_true() {
        let page = include_str!("../../../docs/compatibility.md");
        let mut rows = 0;
        for line in page
            .lines()
            .filter(|line| line.starts_with("| ") && line.contains("| `"))
        {
            let mut cells = line.split(" | ");
            let number = cells
                .next()
                .and_then(|cell| cell.trim_start_matches("| ").parse::<u32>().ok());
            let (Some(_), Some(operation), Some(state)) = (number, cells.next(), cells.next())
            else {
                continue;
            };
            let Some((method, path)) = operation.trim_matches('`').split_once(' ') else {
                continue;
            };
            rows += 1;
            let served = ROUTES.iter().any(|route| {
                let mut ours = route.path.split('/');
                let mut theirs = path.split('/');
                route.method.as_str() == method
                    && ours
                        .by_ref()
                        .zip(theirs.by_ref())
                        .all(|(a, b)| a == b || (a == "{}" && b.starts_with('{')))
                    && route.path.split('/').count() == path.split('/').count()
            });
            assert_eq!(state.starts_with("works"), served, "{line}");
        }
        assert_eq!(rows, 108);
    }

    #[test]
    fn operations_appear_with_their_version() {
        let prune = |version| find(&Method::POST, "/containers/prune", version).is_some();
        assert!(prune(ApiVersion(1, 25)) && !prune(ApiVersion(1, 24)));
    }

    /// Every operation of the documented API is either answered or refused
    /// with a reason; none is "page not found".
    #[test]
    fn every_documented_operation_is_known() {
        let mut count = 0;
        for line in include_str!("../tests/operations.txt").lines() {
            let (method, path) = line.split_once(' ').unwrap();
            let path = path.replace("{id}", "x").replace("{name}", "x");
            let method = method.parse().unwrap();
            assert!(find(&method, &path, ApiVersion::MAX).is_some(), "{line}");
            count += 1;
        }
        assert_eq!(count, 108);
    }
}
