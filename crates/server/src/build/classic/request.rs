//! The parameters of `POST /build`, with Docker's checks and words.

use std::collections::BTreeMap;

use berth_api::Error;
use berth_api::build::{BuildRequest, CacheSpec, ContextSource, Limits, Output};
use berth_api::container::Ulimit;
use berth_api::registry::AuthConfig;
use berth_api::version::ApiVersion;
use hyper::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::steps::Shown;
use crate::extract::Query;
use crate::registry;

/// Credentials for all registries of the client, by registry.
const AUTH_HEADER: &str = "x-registry-config";

/// Name of the main context.
pub(super) const CONTEXT: &str = "context";

/// `ImageBuildOutput`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireOutput {
    #[serde(alias = "type", deserialize_with = "nullable", rename = "Type")]
    kind: String,
    #[serde(alias = "attrs", deserialize_with = "nullable", rename = "Attrs")]
    attributes: BTreeMap<String, String>,
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What is built, for an engine.
pub(super) fn build_request(
    query: &Query,
    headers: &HeaderMap,
    version: ApiVersion,
    experimental: bool,
) -> Result<BuildRequest, Error> {
    refuse(query, experimental)?;
    let text = |name: &str| query.text(name).to_owned();
    let dockerfile_name = match query.text("dockerfile") {
        "" => "Dockerfile".to_owned(),
        name => name.to_owned(),
    };
    let platform = if version >= ApiVersion(1, 32) {
        query.text("platform")
    } else {
        ""
    };
    check_platform(platform)?;
    let cache_from: Vec<String> = json(query, "cachefrom", "error reading cache-from")?;
    let network = network(query.text("networkmode"))?;
    // Who may use this endpoint may give a container the host's network too.
    let allow = (network == "host").then(|| "network.host".to_owned());
    Ok(BuildRequest {
        dockerfile_name,
        contexts: BTreeMap::from([(CONTEXT.to_owned(), context(query)?)]),
        target: text("target"),
        build_args: json(query, "buildargs", "error reading build args")?,
        labels: json(query, "labels", "error reading labels")?,
        platforms: (!platform.is_empty())
            .then(|| platform.to_owned())
            .into_iter()
            .collect(),
        tags: (query.all("t").filter(|tag| !tag.is_empty()))
            .map(str::to_owned)
            .collect(),
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        network,
        allow: allow.into_iter().collect(),
        extra_hosts: extra_hosts(query)?,
        outputs: outputs(query, version)?,
        cache_from: cache_from.into_iter().map(from_registry).collect(),
        limits: limits(query)?,
        auth: credentials(headers),
        ..BuildRequest::default()
    })
}

/// What of it shows in the steps.
pub(super) fn shown(request: &BuildRequest) -> Shown {
    Shown {
        target: request.target.clone(),
        labels: request.labels.clone(),
        args: request.build_args.keys().cloned().collect(),
    }
}

/// What Docker refuses, and what only BuildKit's interface can do.
fn refuse(query: &Query, experimental: bool) -> Result<(), Error> {
    if query.has("securityopt") {
        return Err(Error::invalid(
            "security options are not supported on linux",
        ));
    }
    let isolation = query.text("isolation");
    if !isolation.is_empty() && !isolation.eq_ignore_ascii_case("default") {
        return Err(Error::invalid(format!(
            "unsupported isolation: \"{isolation}\""
        )));
    }
    match query.text("version") {
        "" | "1" => {}
        "2" => {
            return Err(Error::not_implemented(
                "BuildKit's interface (version=2) is not supported by berth yet: build with DOCKER_BUILDKIT=0, or with berth build",
            ));
        }
        other => return Err(Error::invalid(format!("invalid version \"{other}\""))),
    }
    if query.flag("squash") {
        return Err(if experimental {
            Error::not_implemented("squashing images is not supported by berth")
        } else {
            Error::invalid("squash is only supported with experimental mode")
        });
    }
    Ok(())
}

fn context(query: &Query) -> Result<ContextSource, Error> {
    let url = query.text("remote");
    match url {
        "" => Ok(ContextSource::Archive),
        "client-session" => Err(Error::invalid(
            "experimental session with v1 builder is no longer supported, use builder version v2 (BuildKit) instead",
        )),
        url if is_remote(url) => Ok(ContextSource::Remote {
            url: url.to_owned(),
        }),
        url => Err(Error::invalid(format!(
            "remoteURL ({url}) could not be recognized as URL"
        ))),
    }
}

fn is_remote(url: &str) -> bool {
    const BEGINNINGS: &[&str] = &[
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
    ];
    BEGINNINGS
        .iter()
        .any(|beginning| url.starts_with(beginning))
}

fn network(mode: &str) -> Result<String, Error> {
    match mode {
        "" | "default" | "bridge" => Ok("default".to_owned()),
        "none" | "host" => Ok(mode.to_owned()),
        other => Err(Error::not_implemented(format!(
            "building in network \"{other}\" is not supported by berth yet: use default, none or host"
        ))),
    }
}

fn extra_hosts(query: &Query) -> Result<Vec<String>, Error> {
    let one = |host: &str| match host.split_once([':', '=']) {
        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
            Ok(format!("{name}:{address}"))
        }
        _ => Err(Error::invalid(format!(
            "bad format for add-host: \"{host}\""
        ))),
    };
    query.all("extrahosts").map(one).collect()
}

/// There is no way back for files here: the answer is the builder's text.
fn outputs(query: &Query, version: ApiVersion) -> Result<Vec<Output>, Error> {
    if version < ApiVersion(1, 40) {
        return Ok(Vec::new());
    }
    let wire: Vec<WireOutput> = json(query, "outputs", "invalid outputs specified")?;
    let output = |wire: WireOutput| match wire.kind.as_str() {
        "image" | "registry" | "cacheonly" => Ok(Output {
            kind: wire.kind,
            attributes: wire.attributes,
        }),
        other => Err(Error::not_implemented(format!(
            "output of type \"{other}\" is not supported by the classic builder: use berth build"
        ))),
    };
    wire.into_iter().map(output).collect()
}

/// "os/architecture[/variant]", in the words of Docker; what it means is the
/// engine's.
fn check_platform(platform: &str) -> Result<(), Error> {
    let parts: Vec<&str> = platform.split('/').collect();
    let is_empty = |part: &&str| part.is_empty();
    if !platform.is_empty() && (parts.len() > 3 || parts.iter().any(is_empty)) {
        return Err(Error::invalid(format!(
            "\"{platform}\": cannot parse platform specifier: invalid argument"
        )));
    }
    Ok(())
}

fn from_registry(reference: String) -> CacheSpec {
    CacheSpec {
        kind: "registry".to_owned(),
        attributes: BTreeMap::from([("ref".to_owned(), reference)]),
    }
}

fn limits(query: &Query) -> Result<Limits, Error> {
    // Docker takes what is no number for none.
    let number = |name: &str| query.text(name).trim().parse().unwrap_or_default();
    let shm_size = query.text("shmsize");
    let ulimits: Vec<Ulimit> = json(query, "ulimits", "error reading ulimit settings")?;
    Ok(Limits {
        memory: number("memory"),
        memory_swap: number("memswap"),
        cpu_shares: number("cpushares"),
        cpu_period: number("cpuperiod"),
        cpu_quota: number("cpuquota"),
        cpuset_cpus: query.text("cpusetcpus").to_owned(),
        cpuset_mems: query.text("cpusetmems").to_owned(),
        shm_size: match shm_size {
            "" => 0,
            text => text.parse().map_err(|_| {
                Error::invalid(format!(
                    "invalid value \"{text}\" for parameter \"shmsize\": it must be a number of bytes"
                ))
            })?,
        },
        ulimits,
        cgroup_parent: query.text("cgroupparent").to_owned(),
    })
}

/// A parameter in JSON; the default when absent, empty or `null`.
fn json<T: Default + DeserializeOwned>(query: &Query, name: &str, bad: &str) -> Result<T, Error> {
    let text = query.text(name);
    if text.is_empty() {
        return Ok(T::default());
    }
    let value: Option<T> =
        serde_json::from_str(text).map_err(|error| Error::invalid(format!("{bad}: {error}")))?;
    Ok(value.unwrap_or_default())
}

/// Docker passes over what it cannot read, and then a registry says "denied".
fn credentials(headers: &HeaderMap) -> BTreeMap<String, AuthConfig> {
    let header = headers.get(AUTH_HEADER);
    let all = header.and_then(|value| registry::decode_all(value.as_bytes()));
    let all = all.unwrap_or_default().into_iter();
    all.map(|(address, auth)| (registry_host(&address), auth))
        .collect()
}

/// The host of an address as the credentials file has it.
fn registry_host(address: &str) -> String {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    match bare.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<BuildRequest, Error> {
        let query = Query::parse(query).unwrap();
        build_request(&query, &HeaderMap::new(), ApiVersion::MAX, false)
    }

    #[test]
    fn parameters_become_a_request() {
        let request = read(concat!(
            "dockerfile=a/Dockerfile.x&t=one&t=two:2&t=&nocache=1&pull=true&target=end",
            "&buildargs=%7B%22A%22%3A%22b%22%2C%22C%22%3Anull%7D&labels=%7B%22l%22%3A%22v%22%7D",
            "&networkmode=none&extrahosts=h%3A%3A%3A1&extrahosts=g%3Dhost-gateway",
            "&cachefrom=%5B%22x%3Ay%22%5D&platform=linux%2Farm64&rm=1&forcerm=0&q=0&version=1",
            "&memory=1048576&memswap=-1&cpushares=2&cpuperiod=3&cpuquota=4&cpusetcpus=0-1",
            "&cpusetmems=0&shmsize=65536&cgroupparent=/x&isolation=default",
            "&ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A1%2C%22Hard%22%3A2%7D%5D",
            "&outputs=%5B%7B%22Type%22%3A%22image%22%2C%22Attrs%22%3Anull%7D%5D",
        ))
        .unwrap();
        assert_eq!(request.dockerfile_name, "a/Dockerfile.x");
        assert_eq!(request.contexts[CONTEXT], ContextSource::Archive);
        assert_eq!(request.tags, ["one", "two:2"]);
        assert!(request.no_cache && request.pull);
        assert_eq!(request.target, "end");
        assert_eq!(request.build_args["A"].as_deref(), Some("b"));
        assert_eq!(request.build_args["C"], None);
        assert_eq!(request.labels["l"], "v");
        assert_eq!(request.network, "none");
        assert_eq!(request.allow, Vec::<String>::new());
        let host = read("networkmode=host").unwrap();
        assert_eq!(host.allow, ["network.host"]);
        assert_eq!(request.extra_hosts, ["h:::1", "g:host-gateway"]);
        assert_eq!(request.cache_from[0].attributes["ref"], "x:y");
        assert_eq!(request.platforms, ["linux/arm64"]);
        assert_eq!(request.outputs[0].kind, "image");
        let limits = request.limits;
        assert_eq!((limits.memory, limits.memory_swap), (1 << 20, -1));
        assert_eq!(
            (limits.cpu_shares, limits.cpu_period, limits.cpu_quota),
            (2, 3, 4)
        );
        assert_eq!((&*limits.cpuset_cpus, &*limits.cpuset_mems), ("0-1", "0"));
        assert_eq!((limits.shm_size, &*limits.cgroup_parent), (65536, "/x"));
        assert_eq!(limits.ulimits[0].hard, 2);
        assert_eq!(read("").unwrap().dockerfile_name, "Dockerfile");
        assert_eq!(read("memory=abc").unwrap().limits.memory, 0);
        let remote = read("remote=https%3A%2F%2Fx%2Fy.git%23main").unwrap();
        let url = "https://x/y.git#main".to_owned();
        assert_eq!(remote.contexts[CONTEXT], ContextSource::Remote { url });
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (query, status, message) in [
            (
                "securityopt=",
                400,
                "security options are not supported on linux",
            ),
            ("isolation=hyperv", 400, "unsupported isolation: \"hyperv\""),
            ("version=3", 400, "invalid version \"3\""),
            ("version=2", 501, "BuildKit's interface"),
            (
                "squash=1",
                400,
                "squash is only supported with experimental mode",
            ),
            (
                "remote=foo",
                400,
                "remoteURL (foo) could not be recognized as URL",
            ),
            ("remote=client-session", 400, "experimental session with v1"),
            ("buildargs=x", 400, "error reading build args: "),
            ("labels=x", 400, "error reading labels: "),
            ("cachefrom=x", 400, "error reading cache-from: "),
            ("ulimits=x", 400, "error reading ulimit settings: "),
            ("outputs=x", 400, "invalid outputs specified: "),
            (
                "outputs=[{\"Type\":\"local\"}]",
                501,
                "output of type \"local\"",
            ),
            ("shmsize=x", 400, "invalid value \"x\""),
            ("extrahosts=foo", 400, "bad format for add-host: \"foo\""),
            (
                "platform=a/b/c/d",
                400,
                "\"a/b/c/d\": cannot parse platform",
            ),
            ("networkmode=mine", 501, "building in network \"mine\""),
        ] {
            let error = read(query).unwrap_err();
            assert_eq!(error.kind.status(), status, "{query}");
            assert!(error.message.starts_with(message), "{query}: {error}");
        }
    }

    #[test]
    fn credentials_are_by_host() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            let value = hyper::header::HeaderValue::from_static(value);
            headers.insert(AUTH_HEADER, value);
            credentials(&headers)
        };
        // {"https://index.docker.io/v1/":{"username":"a","password":"b"},
        //  "r.example:5000":{"auth":"YTpi"},"bad":{"auth":"!"}}
        let all = read(
            "eyJodHRwczovL2luZGV4LmRvY2tlci5pby92MS8iOnsidXNlcm5hbWUiOiJhIiwicGFzc3dvcmQiOiJiIn0sInIuZXhhbXBsZTo1MDAwIjp7ImF1dGgiOiJZVHBpIn0sImJhZCI6eyJhdXRoIjoiISJ9fQ==",
        );
        let hosts: Vec<_> = all.keys().map(String::as_str).collect();
        assert_eq!(hosts, ["docker.io", "r.example:5000"]);
        assert!(
            all.values()
                .all(|auth| auth.username == "a" && auth.password == "b")
        );
        assert!(read("nonsense").is_empty());
    }

    #[test]
    fn older_versions_do_not_know_all() {
        let query = Query::parse("outputs=x&platform=linux/arm64").unwrap();
        let request = build_request(&query, &HeaderMap::new(), ApiVersion(1, 31), false).unwrap();
        assert!(request.outputs.is_empty() && request.platforms.is_empty());
    }
}
