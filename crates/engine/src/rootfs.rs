//! Root filesystems as the launcher mounts them: writable for a container, or
//! merged and read-only for the engine itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_api::Error;
use berth_monitor::protocol::{Layer, RootFs};
use berth_store::{Image, LayerLocation, Snapshot};
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};

/// For a start message.
pub(crate) fn describe(snapshot: &Snapshot) -> RootFs {
    RootFs {
        layers: layers(&snapshot.layers),
        upper: snapshot.upper.clone(),
        work: snapshot.work.clone(),
        options: snapshot.options.clone(),
    }
}

pub(crate) fn layers(locations: &[LayerLocation]) -> Vec<Layer> {
    let layer = |location: &LayerLocation| match location {
        LayerLocation::Directory(path) => Layer::Directory { path: path.clone() },
        LayerLocation::Erofs(path) => Layer::Erofs { path: path.clone() },
    };
    locations.iter().map(layer).collect()
}

impl Engine {
    /// The root directory of a container's filesystem, without what is mounted
    /// in it, read-only. It works whether the container runs or not; what it
    /// changes meanwhile may or may not be seen. The mount lasts as long as the
    /// descriptor or a file in it is open. Blocks.
    pub(crate) fn merged_root(&self, snapshot: &Snapshot) -> Result<OwnedFd, Error> {
        let upper = Layer::Directory {
            path: snapshot.upper.clone(),
        };
        let mut all = vec![upper];
        all.extend(layers(&snapshot.layers));
        self.0.launcher.mount(all, snapshot.options.clone())
    }

    /// The same of an image.
    pub(crate) fn merged_image(&self, image: &Image) -> Result<OwnedFd, Error> {
        let locations = self.0.store.layers(image).api()?;
        self.0.launcher.mount(layers(&locations), Vec::new())
    }

    /// Tells the launcher when layers were removed, so that it lets them go.
    /// Holds no reference to the engine while it waits.
    pub(crate) fn watch_layers(&self) {
        let removed = Arc::new(Notify::new());
        // What the store removed when it was opened, or what an engine before
        // could not tell any more.
        removed.notify_one();
        let tell = removed.clone();
        self.0.store.on_layers_removed(move || tell.notify_one());
        let weak = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                removed.notified().await;
                let Some(inner) = weak.upgrade() else { return };
                let engine = Self(inner);
                if let Err(error) = blocking(move || engine.0.launcher.forget_removed()).await {
                    tracing::warn!("let removed layers go: {error}");
                }
            }
        });
    }
}
