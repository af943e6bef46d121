//! Removal, by hand and by prune.

use std::sync::Arc;

use berth_api::Error;
use berth_api::container::{PruneReport, WaitCondition};
use berth_api::filters::Filters;

use super::Container;
use crate::engine::Engine;
use crate::error::{blocking, io};
use crate::time;

impl Engine {
    pub async fn container_remove(
        &self,
        name: &str,
        force: bool,
        volumes: bool,
    ) -> Result<(), Error> {
        let container = self.find(name)?;
        self.remove(&container, force, volumes).await
    }

    pub(crate) async fn remove(
        &self,
        container: &Arc<Container>,
        force: bool,
        volumes: bool,
    ) -> Result<(), Error> {
        if self.closing() {
            return Err(Error::system("the engine is shutting down"));
        }
        loop {
            {
                let record = container.record();
                let state = &record.state;
                if state.removing {
                    return Err(Error::conflict(format!(
                        "removal of container {} is already in progress",
                        record.name
                    )));
                }
                if state.running && !force {
                    let reason = match state.status() {
                        "paused" => "container is paused and must be unpaused first".to_owned(),
                        status => format!(
                            "container is {status}: stop the container before removing or force remove"
                        ),
                    };
                    return Err(Error::conflict(format!(
                        "cannot remove container \"{}\": {reason}",
                        record.name
                    )));
                }
            }
            if container.record().state.running {
                self.kill_and_wait(container).await?;
            }
            let _gate = container.gate.lock().await;
            // A start may have come first. Not written: for an engine that opens
            // after a kill, the rename in `erase` is the removal.
            let claimed = {
                let state = &mut container.record().state;
                let free = !state.running && !state.removing;
                state.removing |= free;
                free
            };
            if !claimed {
                continue;
            }
            container.notify();
            container.until(|c| c.live().channel.is_none()).await;
            let result = self.erase(container, volumes).await;
            if result.is_err() {
                container.change_logged(|record| {
                    record.state.removing = false;
                    record.state.dead = true;
                });
            }
            return result;
        }
    }

    async fn erase(&self, container: &Arc<Container>, volumes: bool) -> Result<(), Error> {
        // The rename is the moment of removal: what is left after a kill is
        // found by its name and deleted when the engine opens.
        let hidden = self
            .containers_dir()
            .join(format!(".removed-{}", container.id));
        container.live().removed = true;
        if let Err(error) = std::fs::rename(&container.dir, &hidden)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            container.live().removed = false;
            return Err(io("remove", &container.dir, &error));
        }
        let record = container.record().clone();
        self.index_mut().remove(&container.id);
        self.forget_execs(&container.id);
        // Attached streams that waited for a start end here.
        container.live().pending.clear();
        self.container_event(&record, "destroy", &[]);
        container.notify_exit(&[WaitCondition::Removed]);

        let engine = self.clone();
        let erased = blocking(move || {
            let mut result = Ok(());
            if let Err(error) = engine.0.store.remove_snapshot(&record.id)
                && !matches!(error, berth_store::Error::NotFound(_))
            {
                result = Err(Error::system(error.to_string()));
            }
            if let Err(error) = std::fs::remove_dir_all(&hidden)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                result = Err(io("remove", &hidden, &error));
            }
            if volumes {
                let _gate = engine.0.volumes.gate();
                let used = |name: &str| engine.uses_volume(name);
                for name in engine.0.volumes.remove_anonymous(&record, used) {
                    engine.volume_event(&name, "destroy");
                }
            }
            result
        });
        // It is gone for everyone; what could not be deleted is collected later.
        if let Err(error) = erased.await {
            tracing::warn!(container = container.id, "{error}");
        }
        Ok(())
    }

    pub async fn container_prune(&self, filters: &Filters) -> Result<PruneReport, Error> {
        filters.validate(&["label", "label!", "until"])?;
        let until = match filters.get("until").next() {
            Some(text) => Some(
                time::parse_filter_time(text)
                    .ok_or_else(|| Error::invalid(format!("invalid value for until: {text}")))?,
            ),
            None => None,
        };
        let mut report = PruneReport::default();
        let all = self.index().all();
        for container in all {
            let wanted = {
                let record = container.record();
                let labels = record.config.labels.clone().unwrap_or_default();
                let created = time::parse(&record.created).map_or(0, time::nanoseconds);
                !record.state.running
                    && until.is_none_or(|until| created < until)
                    && filters.labels("label", &labels)
                    && (!filters.contains("label!") || !filters.labels("label!", &labels))
            };
            if !wanted {
                continue;
            }
            let engine = self.clone();
            let id = container.id.clone();
            let size = blocking(move || Ok(engine.0.store.snapshot_size(&id).unwrap_or(0))).await?;
            match self.remove(&container, false, false).await {
                Ok(()) => {
                    report.space_reclaimed += size;
                    report
                        .containers_deleted
                        .get_or_insert_default()
                        .push(container.id.clone());
                }
                Err(error) => tracing::warn!(container = container.id, "prune: {error}"),
            }
        }
        Ok(report)
    }
}
