//! The engine's parts, and how it opens and closes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use berth_api::Error;
use berth_api::container::LogConfig;
use berth_network::Manager;
use berth_store::Store;

use crate::build::Builder;
use crate::container::{Container, Index};
use crate::error::{IntoApi as _, blocking, io};
use crate::events::EventLog;
use crate::exec::Execs;
use crate::info::Host;
use crate::launcher::Launcher;
use crate::networks::Networks;
use crate::registries::Registries;
use crate::seccomp::Seccomp;
use crate::spec::process;
use crate::volumes::Volumes;
use crate::{Config, files, logs, recover};

/// The engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    /// Stable across restarts; shown by `info`.
    pub(crate) id: String,
    pub(crate) store: Store,
    pub(crate) manager: Manager,
    pub(crate) networks: Networks,
    pub(crate) volumes: Volumes,
    pub(crate) registries: Registries,
    pub(crate) cgroups: berth_cgroup::Host,
    pub(crate) launcher: Launcher,
    pub(crate) seccomp: Seccomp,
    pub(crate) host: Host,
    pub(crate) events: EventLog,
    pub(crate) execs: Execs,
    pub(crate) builder: Builder,
    index: RwLock<Index>,
    closing: AtomicBool,
}

impl Engine {
    /// Opens the data root, finds the monitors of running containers again,
    /// settles what a crash left behind, starts the launcher.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let engine = blocking(move || Self::assemble(config)).await?;
        recover::recover(&engine).await?;
        engine.watch_launcher();
        engine.watch_images();
        engine.watch_layers();
        Ok(engine)
    }

    fn assemble(config: Config) -> Result<Self, Error> {
        check_defaults(&config)?;
        // Others may pass through to a volume, but not look around.
        for (path, mode) in [
            (config.data_root.clone(), 0o710),
            (config.data_root.join("containers"), 0o710),
            (config.exec_root.clone(), 0o700),
            (config.exec_root.join("containers"), 0o700),
        ] {
            files::make_dir(&path, mode).map_err(|error| io("make", &path, &error))?;
            // Also when it was there already: who can reach a container's files
            // could run its set-user-ID programs on the host (CVE-2021-41091).
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions)
                .map_err(|error| io("set the mode of", &path, &error))?;
        }
        let store = Store::open(&config.data_root).api()?;
        let cgroups = berth_cgroup::Host::detect().api()?;
        let manager = Manager::new(config.network_pool).api()?;
        let networks = Networks::open(&config, &manager)?;
        let seccomp = Seccomp::new(&config.seccomp_profile)?;
        let builder = Builder::open(&config, &store)?;
        let inner = Inner {
            id: engine_id(&config.data_root.join("engine-id"))?,
            store,
            manager,
            networks,
            registries: Registries::new(&config.registries)?,
            volumes: Volumes::open(config.data_root.join("volumes"))?,
            host: Host::read(&cgroups),
            cgroups,
            launcher: Launcher::new(&config),
            seccomp,
            events: EventLog::new(),
            execs: Execs::default(),
            builder,
            index: RwLock::default(),
            closing: AtomicBool::new(false),
            config,
        };
        inner.launcher.ensure()?;
        Ok(Self(Arc::new(inner)))
    }

    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Saves state and lets go; containers keep running.
    pub async fn close(&self) {
        self.0.closing.store(true, Ordering::SeqCst);
        for container in self.index().all() {
            let mut live = container.live();
            // The monitor notices that nobody listens, and goes on.
            live.channel = None;
            live.checks = None;
        }
        self.flush_build_cache().await;
    }

    /// Nothing is started or removed any more.
    pub(crate) fn closing(&self) -> bool {
        self.0.closing.load(Ordering::SeqCst)
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.0.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>, Error> {
        self.index().find(name)
    }

    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.0.config.data_root.join("containers")
    }

    /// Where the monitor of a container keeps its socket.
    pub(crate) fn run_dir(&self, id: &str) -> PathBuf {
        self.0.config.exec_root.join("containers").join(id)
    }

    /// The control group of a container.
    pub(crate) fn cgroup_path(&self, parent: &str, id: &str) -> String {
        let parent = if parent.is_empty() {
            &self.0.config.cgroup_parent
        } else {
            parent
        };
        format!("/{}/{id}", parent.trim_matches('/'))
    }

    /// Starts another launcher when the present one ends. Holds no reference
    /// to the engine while it waits, so that dropping the engine ends it.
    fn watch_launcher(&self) {
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                let Some(connection) = weak.upgrade().and_then(|inner| inner.launcher.watch())
                else {
                    return;
                };
                connection.closed().await;
                let Some(inner) = weak.upgrade() else { return };
                let engine = Self(inner);
                if engine.closing() {
                    return;
                }
                tracing::warn!("the launcher ended; starting another");
                let result = blocking(move || engine.0.launcher.ensure()).await;
                if let Err(error) = result {
                    tracing::error!("{error}");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        });
    }
}

/// A default that no container could be made with is the daemon's mistake, and
/// told when it starts.
fn check_defaults(config: &Config) -> Result<(), Error> {
    logs::Options::parse(&LogConfig {
        r#type: config.log_driver.clone(),
        config: Some(config.log_opts.clone()),
    })?;
    for limit in &config.default_ulimits {
        process::rlimit_type(&limit.name)?;
    }
    for server in &config.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid(format!("invalid IP address: {server}")));
        }
    }
    Ok(())
}

/// Made once, kept for ever.
fn engine_id(path: &std::path::Path) -> Result<String, Error> {
    if let Ok(text) = std::fs::read_to_string(path) {
        let text = text.trim();
        if !text.is_empty() {
            return Ok(text.to_owned());
        }
    }
    let id = files::random_id().map_err(|error| io("make", path, &error))?;
    files::replace(path, id.as_bytes(), 0o600).map_err(|error| io("write", path, &error))?;
    Ok(id)
}
