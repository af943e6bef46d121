//! What all steps of one build share.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use berth_api::Error;
use berth_api::build::BuildRequest;
use berth_api::container::{Config, HostConfig};
use berth_build::files::{Files, Hold};
use berth_build::progress::{Event, Sink};
use berth_build::solve;
use berth_build::tree::Tree;
use berth_store::{Digest, Incoming, LayerLocation};
use tokio::sync::{OnceCell, mpsc};

use super::Peer;
use super::announce::Numbers;
use super::images::Found;
use crate::container::validate_limits;
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};
use crate::rootfs;

/// Read once.
pub(super) type Context = Arc<OnceCell<Arc<Tree>>>;

/// A build under way, as its steps see it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Session(Arc<Shared>);

pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) request: Arc<BuildRequest>,
    pub(super) peer: Arc<dyn Peer>,
    pub(super) progress: Sink,
    /// Keeps the layers of this build until something else does.
    pub(super) incoming: Incoming,
    /// The limits of each step, and the engine's defaults.
    pub(super) host: HostConfig,
    /// Trees as layers, for bind mounts: what they hold → diff ID.
    trees: Mutex<HashMap<Digest, Digest>>,
    /// Base images by manifest digest.
    images: Mutex<HashMap<Digest, Arc<Found>>>,
    contexts: Mutex<HashMap<String, Context>>,
    /// What of each context is needed; none = all, or not known yet.
    selected: Mutex<HashMap<String, Vec<String>>>,
    pub(super) numbers: Numbers,
    /// One per step that is not cleaned up yet.
    cleanups: Mutex<Option<mpsc::Sender<()>>>,
    /// Keeps the contents that this build found or took in.
    contents: OnceLock<Hold>,
}

impl std::ops::Deref for Session {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Session {
    /// # Errors
    /// `Invalid` if limits are not valid.
    pub(super) async fn new(
        engine: &Engine,
        request: Arc<BuildRequest>,
        peer: Arc<dyn Peer>,
        progress: Sink,
    ) -> Result<(Self, Cleanups), Error> {
        let host = host_config(engine, &request)?;
        let store = engine.0.store.clone();
        let incoming = blocking(move || store.incoming().api()).await?;
        let (cleanups, ended) = mpsc::channel(1);
        let shared = Shared {
            engine: engine.clone(),
            request,
            peer,
            progress,
            incoming,
            host,
            trees: Mutex::default(),
            images: Mutex::default(),
            contexts: Mutex::default(),
            selected: Mutex::default(),
            numbers: Numbers::new(),
            cleanups: Mutex::new(Some(cleanups)),
            contents: OnceLock::new(),
        };
        Ok((Self(Arc::new(shared)), Cleanups(ended)))
    }

    pub(super) fn files(&self) -> Result<Files, solve::Error> {
        let files = self.engine.0.builder.contents.open()?;
        self.contents.get_or_init(|| files.hold());
        Ok(files)
    }

    pub(super) fn tell(&self, event: Event) {
        (self.progress)(event);
    }

    pub(super) fn trees(&self) -> MutexGuard<'_, HashMap<Digest, Digest>> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn images(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Found>>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the files of a context are put, once.
    pub(super) fn context(&self, name: &str) -> Context {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        contexts.entry(name.to_owned()).or_default().clone()
    }

    pub(super) fn selected(&self, name: &str) -> Option<Vec<String>> {
        let selected = self.selected.lock().unwrap_or_else(PoisonError::into_inner);
        selected.get(name).cloned()
    }

    pub(super) fn select(&self, name: &str, paths: Vec<String>) {
        let mut selected = self.selected.lock().unwrap_or_else(PoisonError::into_inner);
        selected.insert(name.to_owned(), paths);
    }

    /// Of the Dockerfile in its context.
    pub(super) fn dockerfile_path(&self) -> &str {
        let name = self.request.dockerfile_name.trim_start_matches("./");
        match name.trim_start_matches('/') {
            "" => "Dockerfile",
            name => name,
        }
    }

    /// Held by a step until all of it is removed.
    pub(super) fn cleanup(&self) -> Option<mpsc::Sender<()>> {
        let lock = self.cleanups.lock();
        lock.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// No further step will begin.
    pub(super) fn end(&self) {
        let mut lock = self.cleanups.lock().unwrap_or_else(PoisonError::into_inner);
        *lock = None;
    }

    /// The merged root of layers (bottom first), read-only; lasts as long as the
    /// descriptor. Blocks.
    pub(super) fn merged(&self, layers: &[Digest]) -> Result<OwnedFd, Error> {
        if layers.is_empty() {
            let path = self.engine.empty_dir();
            let empty = std::fs::File::open(&path);
            return empty
                .map(Into::into)
                .map_err(|error| crate::error::io("open", &path, &error));
        }
        let found = rootfs::layers(&self.locate(layers)?);
        self.engine.0.launcher.mount(found, Vec::new())
    }

    /// The layers of a root filesystem, topmost first, with an empty one below
    /// all: so there are always two, as a read-only overlay wants. Blocks.
    pub(super) fn locate(&self, layers: &[Digest]) -> Result<Vec<LayerLocation>, Error> {
        let mut list = self.engine.0.store.locate_layers(layers).api()?;
        list.push(LayerLocation::Directory(self.engine.empty_dir()));
        Ok(list)
    }
}

/// Waits until all that the steps left is removed.
pub(super) struct Cleanups(mpsc::Receiver<()>);

impl Cleanups {
    pub(super) async fn done(mut self, session: &Session) {
        session.end();
        while self.0.recv().await.is_some() {}
    }
}

/// The bounds of a step as those of a container.
fn host_config(engine: &Engine, request: &BuildRequest) -> Result<HostConfig, Error> {
    let limits = &request.limits;
    let mut host = HostConfig {
        memory: limits.memory,
        memory_swap: limits.memory_swap,
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        shm_size: limits.shm_size,
        ulimits: Some(limits.ulimits.clone()),
        cgroup_parent: limits.cgroup_parent.clone(),
        ipc_mode: "private".into(),
        ..HostConfig::default()
    };
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    validate_limits(&host, &engine.0.host)?;
    for limit in &limits.ulimits {
        crate::spec::process::rlimit_type(&limit.name)?;
    }
    let mut warnings = Vec::new();
    engine.fill_defaults(&Config::default(), &mut host, &mut warnings);
    Ok(host)
}

/// In the words of a solve.
pub(super) fn failed(error: Error) -> solve::Error {
    use berth_api::Kind;
    match error.kind {
        Kind::NotFound => solve::Error::NotFound(error.message),
        Kind::Invalid | Kind::NotImplemented => solve::Error::Invalid(error.message),
        _ => solve::Error::System(error.message),
    }
}
