//! What every command needs: the host, the configuration, the event loop.

use std::cell::Cell;
use std::future::Future;

use berth_api::version::ApiVersion;

use crate::autostart::OnDemand;
use crate::config::{self, ConfigFile};
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::host::Host;

#[derive(Debug)]
pub(crate) struct Context {
    /// "berth" or "docker".
    pub(crate) program: String,
    /// `--debug`: say more.
    pub(crate) debug: bool,
    pub(crate) host: Host,
    /// The engine to start if none answers at `host`.
    pub(crate) on_demand: Option<OnDemand>,
    pub(crate) config: ConfigFile,
    /// The version in request paths; lowered when the engine is older.
    pub(crate) version: Cell<ApiVersion>,
    /// `DOCKER_API_VERSION` was set: no negotiation.
    pub(crate) version_is_fixed: bool,
    runtime: tokio::runtime::Runtime,
}

impl Context {
    pub(crate) fn new(program: &str, global: &Parsed) -> Result<Self, Failure> {
        let config = ConfigFile::load(&config::directory(global.get("config")));
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(level) = global.get("log-level") {
            const LEVELS: [&str; 8] = [
                "panic", "fatal", "error", "warn", "warning", "info", "debug", "trace",
            ];
            if !LEVELS.contains(&level.to_lowercase().as_str()) {
                return Err(Failure::new(format!(
                    "unable to parse logging level: {level}"
                )));
            }
        }
        let hosts = global.list("host");
        if hosts.len() > 1 {
            return Err(Failure::new(
                "Failed to initialize: unable to resolve docker endpoint: Specify only one -H",
            ));
        }
        if !hosts.is_empty() && global.changed("context") {
            return Err(Failure::new(
                "conflicting options: cannot specify both --host and --context",
            ));
        }
        let tls = ["tls", "tlsverify"].iter().any(|name| global.on(name))
            || ["tlscacert", "tlscert", "tlskey"]
                .iter()
                .any(|name| global.changed(name))
            || environment("DOCKER_TLS_VERIFY").is_some()
            || environment("DOCKER_TLS").is_some();
        let named = hosts.into_iter().next().or_else(|| {
            if global.changed("context") {
                return None;
            }
            environment("BERTH_HOST").or_else(|| environment("DOCKER_HOST"))
        });
        if named.is_none() {
            let context = global
                .get("context")
                .map(str::to_owned)
                .or_else(|| environment("DOCKER_CONTEXT"))
                .unwrap_or_else(|| config.current_context.clone());
            if !context.is_empty() && context != "default" {
                return Err(Failure::new(format!(
                    "Failed to initialize: unable to resolve docker endpoint: context {context:?}: only the context \"default\" is supported yet"
                )));
            }
        }
        let host = match &named {
            Some(text) => Host::parse(text)?,
            None => Host::default_for(program),
        };
        if tls && matches!(host, Host::Tcp { .. }) {
            return Err(Failure::new(format!(
                "cannot connect to {host}: TLS is not supported yet"
            )));
        }
        let (version, version_is_fixed) = match environment("DOCKER_API_VERSION") {
            Some(text) => (
                text.trim_start_matches('v')
                    .parse()
                    .map_err(|error: berth_api::Error| Failure::new(error.message))?,
                true,
            ),
            None => (ApiVersion::MAX, false),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("cannot start the event loop: {error}")))?;
        Ok(Self {
            program: program.to_owned(),
            debug: global.on("debug"),
            on_demand: OnDemand::for_host(named.as_deref(), &environment),
            host,
            config,
            version: Cell::new(version),
            version_is_fixed,
            runtime,
        })
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Ends without waiting for a thread that still reads stdin.
    pub(crate) fn end(self) {
        self.runtime.shutdown_background();
    }

    /// The keys that detach: the flag's, or the configuration's.
    pub(crate) fn detach_keys(&self, args: &Parsed) -> String {
        args.get("detach-keys")
            .map_or_else(|| self.config.detach_keys.clone(), str::to_owned)
    }
}
