//! From the flags to the request, in buildx's words.

use std::collections::BTreeMap;

use berth_api::build::{BuildRequest, CacheSpec, Limits};
use berth_api::registry::AuthConfig;

use super::context::Contexts;
use super::output::Place;
use super::{call, csv, output, secret};
use crate::context::Context;
use crate::credentials;
use crate::flags::{Parsed, parse_bool};
use crate::platform;
use crate::reference::Reference;
use crate::run::validate;

/// What is asked for, and what this client has for it.
pub(super) struct Job {
    pub(super) request: BuildRequest,
    pub(super) contexts: Contexts,
    pub(super) secrets: BTreeMap<String, secret::Secret>,
    pub(super) agents: BTreeMap<String, std::path::PathBuf>,
    /// One for each output of the request.
    pub(super) places: Vec<Place>,
    /// `dest` and `src` of the local caches, by their place in the request.
    pub(super) cache_to: Vec<Option<std::path::PathBuf>>,
    pub(super) cache_from: Vec<Option<std::path::PathBuf>>,
    pub(super) call: Option<call::Call>,
}

pub(super) fn job(context: &Context, args: &Parsed) -> Result<Job, String> {
    refuse(args)?;
    let tags = tags(&args.list("tag"))?;
    let (outputs, places): (Vec<_>, Vec<_>) = output::parse(args)?.into_iter().unzip();
    if tags.is_empty()
        && outputs.iter().any(|output| {
            let named = output.attributes.contains_key("name");
            let pushed = output.kind == "registry"
                || output
                    .attributes
                    .get("push")
                    .is_some_and(|push| push == "true");
            pushed && !named
        })
    {
        return Err("tag is needed when pushing to registry".to_owned());
    }
    let is_files = |kind: &str| matches!(kind, "local" | "tar");
    if args.changed("iidfile") && outputs.iter().any(|output| is_files(&output.kind)) {
        return Err("local and tar exporters are incompatible with image ID file".to_owned());
    }
    let call = call::parse(args)?;
    let secrets = secret::secrets(&args.list("secret"))?;
    let agents = secret::agents(&args.list("ssh"))?;
    let (cache_from, from) = caches(&args.list("cache-from"), "src")?;
    let (cache_to, to) = caches(&args.list("cache-to"), "dest")?;
    let mut contexts = Contexts::find(args)?;
    let request = BuildRequest {
        dockerfile_name: contexts.dockerfile_name.clone(),
        dockerfile: contexts.dockerfile.take(),
        contexts: std::mem::take(&mut contexts.told),
        target: args.text("target"),
        build_args: build_args(context, args)?,
        labels: pairs(&args.list("label"))?,
        platforms: platforms(args)?,
        tags,
        no_cache: args.on("no-cache"),
        no_cache_filter: commas(&args.list("no-cache-filter")),
        pull: args.on("pull"),
        network: network(args)?,
        extra_hosts: commas(&args.list("add-host"))
            .iter()
            .filter_map(|text| validate::split_extra_host(text))
            .map(|(name, address)| format!("{name}:{address}"))
            .collect(),
        outputs,
        cache_from: from,
        cache_to: to,
        secrets: secrets.keys().cloned().collect(),
        ssh: agents.keys().cloned().collect(),
        allow: allowed(&commas(&args.list("allow")))?,
        call: call.as_ref().map_or("", |call| call.method).to_owned(),
        limits: limits(args)?,
        auth: auth(context),
        annotations: annotations(&args.list("annotation"))?,
    };
    Ok(Job {
        request,
        contexts,
        secrets,
        agents,
        places,
        cache_to,
        cache_from,
        call,
    })
}

/// What has no meaning here, by name: nothing is accepted and ignored.
fn refuse(args: &Parsed) -> Result<(), String> {
    if let Some(builder) = args.get("builder")
        && !matches!(builder, "" | "default")
    {
        return Err(format!("no builder {builder:?} found"));
    }
    for (name, why) in [
        ("compress", "only what changed is sent, and not over a wire"),
        ("squash", "use a multi-stage Dockerfile"),
        ("security-opt", "use RUN --security=insecure"),
        ("policy", "policies are not supported yet"),
    ] {
        if args.changed(name) && args.get(name) != Some("false") {
            return Err(format!("--{name} is not supported: {why}"));
        }
    }
    let isolation = args.text("isolation");
    if !matches!(isolation.as_str(), "" | "default") {
        return Err(format!(
            "invalid isolation mode {isolation:?}: only \"default\" is supported"
        ));
    }
    if !args.on_by_default("rm") {
        return Err("--rm=false is not supported: steps leave no containers behind".to_owned());
    }
    for name in ["provenance", "sbom"] {
        if let Some(text) = args.get(name)
            && parse_bool(text) != Ok(false)
        {
            return Err(format!(
                "--{name} is not supported yet (only --{name}=false)"
            ));
        }
    }
    for text in args.list("attest") {
        let parts = csv::pairs(&text)?;
        if parts
            .get("disabled")
            .is_none_or(|text| parse_bool(text) != Ok(true))
        {
            return Err(format!("--attest {text} is not supported yet"));
        }
    }
    Ok(())
}

/// Normalised, each once.
fn tags(texts: &[String]) -> Result<Vec<String>, String> {
    let mut tags: Vec<String> = Vec::new();
    for text in texts {
        let name = Reference::parse(text).map_err(|why| format!("invalid tag {text:?}: {why}"))?;
        if name.digest.is_some() {
            return Err(format!(
                "invalid tag {text:?}: refusing to create a tag with a digest reference"
            ));
        }
        let name = name.or_latest().full();
        if !tags.contains(&name) {
            tags.push(name);
        }
    }
    Ok(tags)
}

fn pairs(texts: &[String]) -> Result<BTreeMap<String, String>, String> {
    texts
        .iter()
        .map(|text| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            if key.is_empty() {
                return Err(format!("invalid key-value pair {text:?}: empty key"));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// With the proxies of the configuration, and SOURCE_DATE_EPOCH of the
/// environment.
fn build_args(
    context: &Context,
    args: &Parsed,
) -> Result<BTreeMap<String, Option<String>>, String> {
    let host = context.host.to_string();
    let mut found: BTreeMap<_, _> = context
        .config
        .proxy_environment(&host)
        .into_iter()
        .map(|(name, value)| (name, Some(value)))
        .collect();
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH")
        && !epoch.is_empty()
    {
        found.insert("SOURCE_DATE_EPOCH".to_owned(), Some(epoch));
    }
    for text in args.list("build-arg") {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), std::env::var(&text).ok()),
        };
        if name.is_empty() {
            return Err(format!("invalid key-value pair {text:?}: empty key"));
        }
        found.insert(name.to_owned(), value);
    }
    Ok(found)
}

fn platforms(args: &Parsed) -> Result<Vec<String>, String> {
    let mut texts = args.list("platform");
    if texts.is_empty()
        && let Ok(default) = std::env::var("DOCKER_DEFAULT_PLATFORM")
    {
        texts.push(default);
    }
    let mut platforms = Vec::new();
    for text in commas(&texts) {
        let one = if text == "local" {
            continue;
        } else {
            platform::parse(&text).map_err(|failure| failure.message)?
        };
        let name = platform::format(&one.os, &one.architecture, &one.variant);
        if !platforms.contains(&name) {
            platforms.push(name);
        }
    }
    Ok(platforms)
}

fn network(args: &Parsed) -> Result<String, String> {
    match args.get("network").unwrap_or("default") {
        "" => Ok("default".to_owned()),
        mode @ ("default" | "none" | "host") => Ok(mode.to_owned()),
        other => Err(format!(
            "network mode {other:?} not supported by buildkit: only \"default\", \"none\" and \"host\" are"
        )),
    }
}

/// Each also a list with commas.
fn commas(texts: &[String]) -> Vec<String> {
    texts
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
        .collect()
}

fn allowed(texts: &[String]) -> Result<Vec<String>, String> {
    match texts
        .iter()
        .find(|text| !matches!(text.as_str(), "network.host" | "security.insecure"))
    {
        Some(other) => Err(format!("unknown entitlement {other}")),
        None => Ok(texts.to_vec()),
    }
}

type Caches = (Vec<Option<std::path::PathBuf>>, Vec<CacheSpec>);

/// `place`: the attribute that names a directory of this machine.
fn caches(texts: &[String], place: &str) -> Result<Caches, String> {
    let mut places = Vec::new();
    let mut specs = Vec::new();
    for text in texts.iter().filter(|text| !text.is_empty()) {
        let mut attributes = if text.contains('=') {
            csv::pairs(text)?
        } else {
            // As it always was: a list of images.
            for reference in csv::fields(text)? {
                let attributes = BTreeMap::from([("ref".to_owned(), reference)]);
                specs.push(CacheSpec {
                    kind: "registry".to_owned(),
                    attributes,
                });
                places.push(None);
            }
            continue;
        };
        let kind = attributes
            .remove("type")
            .ok_or_else(|| format!("type required form> {text:?}"))?;
        let directory = match kind.as_str() {
            "local" => match attributes.remove(place) {
                Some(directory) if !directory.is_empty() => Some(directory.into()),
                _ => return Err(format!("{place} is required for a local cache")),
            },
            "inline" | "registry" => None,
            other => return Err(format!("cache type {other:?} is not supported")),
        };
        specs.push(CacheSpec { kind, attributes });
        places.push(directory);
    }
    Ok((places, specs))
}

fn limits(args: &Parsed) -> Result<Limits, String> {
    let mut ulimits = BTreeMap::new();
    for text in args.list("ulimit") {
        let ulimit = validate::parse_ulimit(&text)?;
        ulimits.insert(ulimit.name.clone(), ulimit);
    }
    Ok(Limits {
        memory: args.bytes("memory"),
        memory_swap: args.bytes("memory-swap"),
        cpu_shares: args.int("cpu-shares"),
        cpu_period: args.int("cpu-period"),
        cpu_quota: args.int("cpu-quota"),
        cpuset_cpus: args.text("cpuset-cpus"),
        cpuset_mems: args.text("cpuset-mems"),
        shm_size: args.bytes("shm-size"),
        ulimits: ulimits.into_values().collect(),
        cgroup_parent: args.text("cgroup-parent"),
    })
}

/// All that is known: which registries a Dockerfile needs, the engine finds out.
fn auth(context: &Context) -> BTreeMap<String, AuthConfig> {
    credentials::all(&context.config)
        .into_iter()
        .map(|(host, ours)| {
            let auth = AuthConfig {
                username: ours.username,
                password: ours.password,
                serveraddress: ours.serveraddress,
                identitytoken: ours.identitytoken,
                registrytoken: ours.registrytoken,
                ..AuthConfig::default()
            };
            (host, auth)
        })
        .collect()
}

/// "[level:]key=value"
fn annotations(texts: &[String]) -> Result<BTreeMap<String, String>, String> {
    const LEVELS: [&str; 4] = [
        "manifest",
        "index",
        "manifest-descriptor",
        "index-descriptor",
    ];
    texts
        .iter()
        .map(|text| {
            let (key, value) = text
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| format!("invalid annotation {text:?}, expected key=value"))?;
            if let Some((levels, _)) = key.split_once(':') {
                for level in levels.split(',') {
                    let kind = level.split('[').next().unwrap_or_default();
                    if !LEVELS.contains(&kind) {
                        return Err(format!("unknown annotation type {kind:?}"));
                    }
                }
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    fn parsed(line: &str) -> Parsed {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        Parsed::parse(tree::find("build").unwrap().flags, &words, false).unwrap()
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        for (line, why) in [
            ("--compress", "--compress is not supported"),
            ("--squash", "--squash is not supported"),
            ("--security-opt a", "--security-opt is not supported"),
            ("--isolation hyperv", "invalid isolation mode \"hyperv\""),
            ("--rm=false", "--rm=false is not supported"),
            ("--provenance mode=max", "--provenance is not supported yet"),
            ("--sbom true", "--sbom is not supported yet"),
            (
                "--attest type=sbom",
                "--attest type=sbom is not supported yet",
            ),
            ("--builder other", "no builder \"other\" found"),
        ] {
            let error = refuse(&parsed(line)).unwrap_err();
            assert!(error.starts_with(why), "{line}: {error}");
        }
        let fine = "--rm --force-rm --squash=false --provenance=false --sbom=false --attest type=sbom,disabled=true --builder default --isolation default";
        assert_eq!(refuse(&parsed(fine)), Ok(()));
    }

    #[test]
    fn tags_are_checked_and_completed() {
        let of = |text: &str| tags(&[text.to_owned()]);
        assert_eq!(of("a").unwrap(), ["docker.io/library/a:latest"]);
        assert_eq!(of("r.example:5000/a:1").unwrap(), ["r.example:5000/a:1"]);
        assert_eq!(
            of("UPPER").unwrap_err(),
            "invalid tag \"UPPER\": invalid reference format: repository name (library/UPPER) must be lowercase"
        );
        assert!(of("a b").is_err());
    }

    #[test]
    fn caches_in_both_forms() {
        let (places, specs) = caches(
            &["a,b".to_owned(), "type=local,src=/x,mode=max".to_owned()],
            "src",
        )
        .unwrap();
        assert_eq!(places, [None, None, Some("/x".into())]);
        assert_eq!(specs[1].attributes["ref"], "b");
        assert_eq!(specs[2].attributes.len(), 1);
        for text in ["type=gha", "type=local", "ref=x"] {
            assert!(caches(&[text.to_owned()], "src").is_err(), "{text}");
        }
    }

    #[test]
    fn annotations_and_entitlements() {
        let of = |text: &str| annotations(&[text.to_owned()]);
        assert_eq!(of("index:a=b").unwrap()["index:a"], "b");
        assert!(of("manifest[linux/amd64]:a=b").is_ok());
        assert!(of("a").is_err() && of("x:a=b").is_err());
        assert!(allowed(&["device".to_owned()]).is_err());
    }
}
