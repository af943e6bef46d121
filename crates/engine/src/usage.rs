//! `GET /system/df`: what takes space in the data root, as `du` counts it, and
//! whether the store is as it should be.

use std::collections::{HashMap, HashSet};

use berth_api::Error;
use berth_api::container::Summary;
use berth_api::filters::Filters;
use berth_api::usage::{Check, ContainerUsage, Damage, DiskUsage, ImageUsage, VolumeUsage};
use berth_api::volume::UsageData;
use berth_store::{Usage, disk_usage};

use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, waiting};

/// What `df` can be asked for.
const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Engine {
    /// With all items; no types are all types.
    pub async fn disk_usage(&self, types: &[String]) -> Result<DiskUsage, Error> {
        if let Some(unknown) = types.iter().find(|kind| !TYPES.contains(&kind.as_str())) {
            return Err(Error::invalid(format!("unknown object type: {unknown}")));
        }
        let wants = |kind: &str| types.is_empty() || types.iter().any(|wanted| wanted == kind);
        let mut usage = DiskUsage::default();
        if wants("image") || wants("container") {
            let engine = self.clone();
            let store = blocking(move || engine.0.store.usage().api()).await?;
            if wants("image") {
                usage.image_usage = Some(self.image_usage(&store).await?);
            }
            if wants("container") {
                usage.container_usage = Some(self.container_usage(&store).await?);
            }
        }
        if wants("volume") {
            usage.volume_usage = Some(self.volume_usage().await?);
        }
        if wants("build-cache") {
            usage.build_cache_usage = Some(self.build_usage().await?);
        }
        Ok(usage)
    }

    async fn image_usage(&self, store: &Usage) -> Result<ImageUsage, Error> {
        let mut rows = self.image_list(&Filters::default(), false, false).await?;
        let sizes: HashMap<&str, _> = (store.images.iter())
            .map(|image| (image.id.as_str(), image))
            .collect();
        let mut active = HashSet::new();
        for row in &mut rows {
            if let Some(image) = sizes.get(row.id.as_str()) {
                row.size = number(image.size);
                row.shared_size = number(image.shared);
            }
            if row.containers > 0 {
                active.insert(row.id.clone());
            }
        }
        Ok(ImageUsage {
            active_count: active.len() as i64,
            total_count: rows.len() as i64,
            reclaimable: number(store.reclaimable(&|id| active.contains(id))),
            total_size: number(store.total()),
            items: Some(rows),
        })
    }

    async fn container_usage(&self, store: &Usage) -> Result<ContainerUsage, Error> {
        let rows = self
            .container_list(true, 0, false, &Filters::default())
            .await?;
        let written: HashMap<String, u64> = store.snapshots.iter().cloned().collect();
        let engine = self.clone();
        blocking(move || {
            let mut usage = ContainerUsage::default();
            let mut items = Vec::new();
            for mut row in rows {
                let image = engine.0.store.find(&row.image_id);
                // With its log and record, which are as real.
                let records = engine.containers_dir().join(&row.id);
                let size = written.get(&row.id).copied().unwrap_or_default()
                    + disk_usage(&records).unwrap_or_default();
                row.size_rw = Some(number(size));
                row.size_root_fs = Some(number(size + image.map_or(0, |image| image.size)));
                if is_active(&row) {
                    usage.active_count += 1;
                } else {
                    usage.reclaimable += number(size);
                }
                usage.total_size += number(size);
                items.push(row);
            }
            usage.total_count = items.len() as i64;
            usage.items = Some(items);
            Ok(usage)
        })
        .await
    }

    async fn volume_usage(&self) -> Result<VolumeUsage, Error> {
        let volumes = self.volume_list(&Filters::default()).await?.volumes;
        let engine = self.clone();
        blocking(move || {
            let mut usage = VolumeUsage::default();
            let mut items = Vec::new();
            for mut volume in volumes {
                let data = std::path::Path::new(&volume.mountpoint);
                // With what is known of it, beside its files.
                let whole = data.parent().unwrap_or(data);
                let size = number(disk_usage(whole).unwrap_or_default());
                let users = engine.volume_users(&volume.name).len() as i64;
                volume.usage_data = Some(UsageData {
                    ref_count: users,
                    size,
                });
                if users > 0 {
                    usage.active_count += 1;
                } else {
                    usage.reclaimable += size;
                }
                usage.total_size += size;
                items.push(volume);
            }
            usage.total_count = items.len() as i64;
            usage.items = Some(items);
            Ok(usage)
        })
        .await
    }

    /// Verifies the store; with `repair`, mends what can be mended.
    pub async fn system_check(&self, repair: bool) -> Result<Check, Error> {
        let engine = self.clone();
        waiting("check", move || {
            let store = &engine.0.store;
            let before = store.snapshot_keys().api()?;
            let report = store.check(repair).api()?;
            let mut check = Check {
                checked: report.checked,
                damage: (report.damage.into_iter())
                    .map(|damage| Damage {
                        what: damage.what,
                        problem: damage.problem,
                        remedy: damage.remedy,
                        repaired: damage.repaired,
                    })
                    .collect(),
            };
            let after: HashSet<String> = store.snapshot_keys().api()?.into_iter().collect();
            let containers: HashSet<String> = (engine.index().all().iter())
                .map(|container| container.id.clone())
                .collect();
            // One that is made or removed just now is in only one of them.
            for key in before.iter().filter(|key| after.contains(*key)) {
                if !containers.contains(key) {
                    check.damage.push(Damage {
                        what: format!("file snapshots/{key}"),
                        problem: "no container has these files".into(),
                        remedy: "look at them, then remove them by hand".into(),
                        repaired: false,
                    });
                }
            }
            for id in containers.iter().filter(|id| !after.contains(*id)) {
                if engine.find(id).is_ok() && store.snapshot(id).is_err() {
                    check.damage.push(Damage {
                        what: format!("container {id}"),
                        problem: "its files are missing".into(),
                        remedy: "remove it".into(),
                        repaired: false,
                    });
                }
            }
            Ok(check)
        })
        .await
    }
}

fn is_active(row: &Summary) -> bool {
    matches!(row.state.as_str(), "running" | "paused" | "restarting")
}
