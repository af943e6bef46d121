//! `registry serve`: the registry in this process, in the foreground.

use std::path::PathBuf;
use std::time::Duration;

use berth_registry::server::{Authentication, Options, Proxy, Registry, TlsFiles};

use super::remote::DEFAULT;
use crate::context::Context;
use crate::failure::{Failure, path_error};
use crate::flags::Parsed;
use crate::output::print_line;
use crate::tree::Outcome;

/// Threads for what blocks, at most: files and hashing.
const BLOCKING: usize = 64;

/// How long what a tag stands for is not asked for again.
const PROXY_TTL: Duration = Duration::from_secs(300);

const SHORTEST_EXPIRY: Duration = Duration::from_secs(1);

pub(crate) async fn serve(_: &Context, args: &Parsed) -> Outcome {
    let options = options(args)?;
    // Commands run on one thread; a server wants all processors.
    tokio::task::spawn_blocking(move || run(options))
        .await
        .map_err(|error| Failure::new(error.to_string()))?
}

fn run(options: Options) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING)
        .thread_name("berth-registry")
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(async {
        let registry = Registry::bind(options).await?;
        print_line(&format!("Serving the registry at {}", registry.url()));
        if let Some(url) = registry.metrics_url() {
            print_line(&format!("Metrics are at {url}"));
        }
        registry.run().await
    });
    runtime.shutdown_background();
    outcome
        .map(|()| 0)
        .map_err(|error| Failure::new(error.to_string()))
}

fn options(args: &Parsed) -> Result<Options, Failure> {
    let path = |name: &str| {
        args.get(name)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    };
    let root = path("root")
        .ok_or_else(|| Failure::new("--root is missing: say where the registry keeps its data"))?;
    let mut options = Options::new(args.get("addr").unwrap_or(DEFAULT), root);
    options.read_only = args.on("read-only");
    options.insecure_no_auth = args.on("insecure-no-auth");
    options.insecure_no_tls = args.on("insecure-no-tls");
    options.gc_untagged = args.on("gc-untagged");
    options.metrics_address = args.get("metrics-addr").map(str::to_owned);
    options.authentication = authentication(args)?;
    options.tls = match (path("tls-cert"), path("tls-key"), path("tls-client-ca")) {
        (None, None, None) => None,
        (Some(cert), Some(key), client_ca) => Some(TlsFiles {
            cert,
            key,
            client_ca,
        }),
        _ => return Err(Failure::new("--tls-cert and --tls-key go together")),
    };
    if args.changed("max-manifest") {
        options.max_manifest = usize::try_from(args.bytes("max-manifest"))
            .ok()
            .filter(|bytes| (1024..=1 << 30).contains(bytes))
            .ok_or_else(|| Failure::new("--max-manifest must be from 1k to 1g"))?;
    }
    if let Some(time) = duration(args, "gc-interval")? {
        options.gc_interval = Some(time).filter(|time| !time.is_zero());
    }
    if let Some(time) = duration(args, "gc-grace")? {
        options.gc_grace = time;
    }
    if let Some(time) = duration(args, "upload-expiry")? {
        if time < SHORTEST_EXPIRY {
            return Err(Failure::new("--upload-expiry must be at least 1s"));
        }
        options.upload_expiry = time;
    }
    options.proxy = proxy(args)?;
    Ok(options)
}

fn duration(args: &Parsed, name: &str) -> Result<Option<Duration>, Failure> {
    if !args.changed(name) {
        return Ok(None);
    }
    u64::try_from(args.duration(name))
        .map(|nanoseconds| Some(Duration::from_nanos(nanoseconds)))
        .map_err(|_| Failure::new(format!("--{name} must not be negative")))
}

/// Refuses options that say nothing without another.
fn alone(args: &Parsed, without: &str, names: &[&str]) -> Result<(), Failure> {
    match names.iter().find(|name| args.changed(name)) {
        Some(name) => Err(Failure::new(format!("--{name} needs --{without}"))),
        None => Ok(()),
    }
}

fn authentication(args: &Parsed) -> Result<Authentication, Failure> {
    const TOKENS: [&str; 4] = ["token-realm", "token-service", "token-issuer", "token-keys"];
    let tokens = TOKENS.iter().filter(|name| args.changed(name)).count();
    if tokens > 0 {
        if tokens < TOKENS.len() {
            return Err(Failure::new(
                "--token-realm, --token-service, --token-issuer and --token-keys go together",
            ));
        }
        if args.changed("htpasswd") {
            return Err(Failure::new(
                "--htpasswd and --token-realm exclude each other: either this registry knows the users or the token server does",
            ));
        }
    }
    let own = args.on("htpasswd-tokens");
    if !own {
        alone(args, "htpasswd-tokens", &["anonymous-pull", "public-url"])?;
    }
    if let Some(htpasswd) = args.get("htpasswd").map(PathBuf::from) {
        return Ok(if own {
            Authentication::OwnTokens {
                htpasswd,
                anonymous_pull: args.on("anonymous-pull"),
                public_url: args.get("public-url").map(str::to_owned),
            }
        } else {
            Authentication::Basic { htpasswd }
        });
    }
    alone(args, "htpasswd", &["htpasswd-tokens"])?;
    if tokens == 0 {
        return Ok(Authentication::None);
    }
    Ok(Authentication::Tokens {
        realm: args.text("token-realm"),
        service: args.text("token-service"),
        issuer: args.text("token-issuer"),
        keys: args.text("token-keys").into(),
    })
}

fn proxy(args: &Parsed) -> Result<Option<Proxy>, Failure> {
    let Some(url) = args.get("proxy") else {
        alone(
            args,
            "proxy",
            &["proxy-user", "proxy-password-file", "proxy-ttl"],
        )?;
        return Ok(None);
    };
    if args.changed("proxy-user") != args.changed("proxy-password-file") {
        return Err(Failure::new(
            "--proxy-user and --proxy-password-file go together",
        ));
    }
    let password = match args.get("proxy-password-file") {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::new(path_error("open", path, &error)))?
            .trim_end_matches(['\r', '\n'])
            .to_owned(),
    };
    Ok(Some(Proxy {
        url: url.to_owned(),
        user: args.text("proxy-user"),
        password,
        ttl: duration(args, "proxy-ttl")?.unwrap_or(PROXY_TTL),
    }))
}
