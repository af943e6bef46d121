//! What builds keep between them.
//!
//! ```text
//! <data-root>/build/files/          contents of files from outside
//! <data-root>/build/contexts/       what clients' contexts held
//! <data-root>/build/cache-mounts/   directories of RUN --mount=type=cache
//! <data-root>/build/git/, http/      what saves fetching sources again
//! <data-root>/build/empty/          an empty directory
//! <exec-root>/build/<id>/           a step that runs
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_api::Error;
use berth_build::solve::Cache;
use berth_store::Store;

use super::caches::Caches;
use super::kept::Contents;
use super::prune::Collects;
use super::sources::Sources;
use crate::Config;
use crate::engine::Engine;
use crate::error::{IntoApi as _, io};
use crate::files;
use crate::registries::USER_AGENT;

#[derive(Debug)]
pub(crate) struct Builder {
    pub(super) contents: Arc<Contents>,
    pub(super) caches: Arc<Caches>,
    pub(super) sources: Arc<Sources>,
    pub(super) cache: Cache,
    pub(super) collects: Collects,
}

impl Builder {
    /// Makes the directories, reads what is known.
    pub(crate) fn open(config: &Config, store: &Store) -> Result<Self, Error> {
        let root = config.data_root.join("build");
        for (path, mode) in [
            (root.clone(), 0o700),
            (root.join("empty"), 0o755),
            (root.join("contexts"), 0o700),
            (root.join("cache-mounts"), 0o700),
            (root.join("git"), 0o700),
            (root.join("http"), 0o700),
            (config.exec_root.join("build"), 0o700),
        ] {
            files::make_dir(&path, mode).map_err(|error| io("make", &path, &error))?;
        }
        let caches = Arc::new(Caches::new(root.join("cache-mounts")));
        let cache = Cache::open(Arc::new(store.clone())).api()?;
        cache.register(caches.clone());
        let sources = Arc::new(Sources::new(&root, USER_AGENT));
        cache.register(sources.clone());
        let contents = Contents::new(root);
        cache.register(contents.clone());
        Ok(Self {
            contents,
            caches,
            sources,
            cache,
            collects: Collects::default(),
        })
    }
}

impl Engine {
    /// Where a running step keeps its files.
    pub(super) fn steps_dir(&self) -> PathBuf {
        steps_dir(&self.0.config.exec_root)
    }

    /// Below all layers, where there must be two.
    pub(super) fn empty_dir(&self) -> PathBuf {
        self.0.config.data_root.join("build/empty")
    }
}

fn steps_dir(exec_root: &Path) -> PathBuf {
    exec_root.join("build")
}
