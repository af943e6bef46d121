//! Images that nothing needs: removed when somebody asks, or by themselves
//! above limits.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use berth_api::Error;
use berth_api::filters::Filters;
use berth_api::image::{Deleted, PruneReport};
use berth_store::{Image, Limits, Removed};
use tokio::sync::broadcast::error::RecvError;

use super::{config_of, familiar, is_dangling};
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};
use crate::time;

/// Limits are looked at so often, even if nothing happens: others fill the
/// disk, too.
const INTERVAL: Duration = Duration::from_secs(60);

impl Engine {
    /// Removes images without a name, with `dangling=false` all, that no
    /// container has.
    pub async fn image_prune(&self, filters: &Filters) -> Result<PruneReport, Error> {
        filters.validate(&["dangling", "label", "label!", "until"])?;
        let dangling = filters.boolean("dangling", true)?;
        let until = match filters.get("until").next() {
            Some(text) => Some(
                time::parse_filter_time(text)
                    .ok_or_else(|| Error::invalid(format!("invalid value for until: {text}")))?
                    / 1_000_000_000,
            ),
            None => None,
        };
        let (engine, filters) = (self.clone(), filters.clone());
        let (removed, space) = blocking(move || {
            let wanted = |image: &Image| {
                let labels = config_of(image).map(|config| config.labels.unwrap_or_default());
                let Ok(labels) = labels else { return false };
                (!dangling || is_dangling(image))
                    && until.is_none_or(|until| image.created < until)
                    && filters.labels("label", &labels)
                    && (!filters.contains("label!") || !filters.labels("label!", &labels))
                    && !engine.is_image_used(image)
            };
            engine.0.store.prune(&wanted).api()
        })
        .await?;
        let deleted = self.tell_removed(removed, "");
        let attributes = BTreeMap::from([("reclaimed".to_owned(), space.to_string())]);
        self.0.events.emit("image", "prune", "", attributes);
        Ok(PruneReport {
            images_deleted: Some(deleted).filter(|list| !list.is_empty()),
            space_reclaimed: space,
        })
    }

    fn is_image_used(&self, image: &Image) -> bool {
        self.index()
            .all()
            .iter()
            .any(|container| container.record().image == image.id)
    }

    /// Events of a removal, and its lines in a reply. Names come before the
    /// image they belonged to, or belonged to `image`, which stays.
    pub(super) fn tell_removed(&self, removed: Vec<Removed>, image: &str) -> Vec<Deleted> {
        let mut ids = Vec::new();
        let mut next = image.to_owned();
        for step in removed.iter().rev() {
            if let Removed::Deleted(id) = step {
                next.clone_from(id);
            }
            ids.push(next.clone());
        }
        removed
            .into_iter()
            .zip(ids.into_iter().rev())
            .map(|(step, id)| match step {
                Removed::Untagged(name) => {
                    let untagged = familiar(&name);
                    self.image_event(&id, &untagged, "untag");
                    Deleted {
                        untagged,
                        ..Deleted::default()
                    }
                }
                Removed::Deleted(deleted) => {
                    self.image_event(&deleted, &deleted, "delete");
                    Deleted {
                        deleted,
                        ..Deleted::default()
                    }
                }
            })
            .collect()
    }

    /// Keeps images within the limits, if there are any: after each change that
    /// can pass them, and now and then. Holds no reference to the engine while
    /// it waits.
    pub(crate) fn watch_images(&self) {
        let limits = self.0.config.image_gc;
        if limits == Limits::default() {
            return;
        }
        let weak = Arc::downgrade(&self.0);
        let mut events = self.0.events.live();
        tokio::spawn(async move {
            loop {
                {
                    let Some(inner) = weak.upgrade() else { return };
                    let engine = Self(inner);
                    if engine.closing() {
                        return;
                    }
                    if let Err(error) = engine.collect_images(limits).await {
                        tracing::error!("images cannot be kept within their limits: {error}");
                    }
                }
                let grown = async {
                    loop {
                        match events.recv().await {
                            Ok(event) if can_pass(&event.r#type, &event.action) => return true,
                            Ok(_) => {}
                            Err(RecvError::Lagged(_)) => return true,
                            Err(RecvError::Closed) => return false,
                        }
                    }
                };
                if let Ok(false) = tokio::time::timeout(INTERVAL, grown).await {
                    return;
                }
            }
        });
    }

    async fn collect_images(&self, limits: Limits) -> Result<(), Error> {
        let engine = self.clone();
        let (removed, space) = blocking(move || {
            let in_use = |image: &Image| engine.is_image_used(image);
            engine.0.store.collect_within(limits, &in_use).api()
        })
        .await?;
        if removed.is_empty() {
            return Ok(());
        }
        let names: HashSet<String> = (self.tell_removed(removed, "").into_iter())
            .map(|line| {
                if line.untagged.is_empty() {
                    line.deleted
                } else {
                    line.untagged
                }
            })
            .collect();
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort();
        tracing::info!(
            "images above their limits are removed, {space} bytes come back: {}",
            names.join(", ")
        );
        Ok(())
    }
}

/// Whether after this event more is stored, or less is needed.
fn can_pass(kind: &str, action: &str) -> bool {
    match kind {
        "image" => matches!(action, "pull" | "load" | "import" | "tag"),
        "container" => matches!(action, "commit" | "destroy"),
        _ => false,
    }
}
