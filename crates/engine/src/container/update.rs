//! `POST /containers/{id}/update`.

use berth_api::Error;
use berth_api::container::{Update, UpdateResponse};

use super::validate;
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};
use crate::spec::resources;

impl Engine {
    pub async fn container_update(
        &self,
        name: &str,
        update: Update,
    ) -> Result<UpdateResponse, Error> {
        let container = self.find(name)?;
        let _gate = container.gate.lock().await;
        let record = container.record().clone();
        if record.state.removing || record.state.dead {
            return Err(Error::conflict(format!(
                "Cannot update container {}: container is marked for removal and cannot be \"update\"",
                container.id
            )));
        }
        let wrap = |error: Error| {
            Error::new(
                error.kind,
                format!(
                    "Cannot update container {}: {}",
                    container.id, error.message
                ),
            )
        };
        let new = validate::merge(&record.host_config, &update, &self.0.host).map_err(wrap)?;
        if record.state.running && !record.state.restarting {
            let limits = resources::limits(&new)?;
            let cgroup = self.cgroup(&record);
            // The kernel first: what it refuses is not stored.
            blocking(move || cgroup.apply(&limits).api())
                .await
                .map_err(wrap)?;
        }
        let record = container.change(|record| {
            record.host_config = new;
            record.clone()
        })?;
        self.container_event(&record, "update", &[]);
        Ok(UpdateResponse::default())
    }
}
