//! `/volumes`: list, create, inspect, remove, prune.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use berth_api::Error;
use berth_api::filters::Filters;
use berth_api::volume::{Volume, VolumeCreate, VolumeList, VolumePruneReport};

use super::{ANONYMOUS, Meta};
use crate::engine::Engine;
use crate::error::{blocking, io};
use crate::files;
use crate::spec::mounts::check_volume_name;

const DRIVER: &str = "local";

fn missing(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}

impl Engine {
    pub async fn volume_list(&self, filters: &Filters) -> Result<VolumeList, Error> {
        filters.validate(&["dangling", "driver", "label", "name"])?;
        let dangling = match filters.contains("dangling") {
            true => Some(filters.boolean("dangling", false)?),
            false => None,
        };
        let (engine, filters) = (self.clone(), filters.clone());
        blocking(move || {
            let mut volumes = engine.0.volumes.all()?;
            volumes.retain(|volume| {
                let labels = volume.labels.clone().unwrap_or_default();
                let named = !filters.contains("name")
                    || filters.get("name").any(|part| volume.name.contains(part));
                named
                    && filters.exact("driver", DRIVER)
                    && filters.labels("label", &labels)
                    && dangling.is_none_or(|wanted| wanted != engine.uses_volume(&volume.name))
            });
            Ok(VolumeList {
                volumes,
                warnings: None,
            })
        })
        .await
    }

    /// The one that exists when there is one of that name.
    pub async fn volume_create(&self, request: VolumeCreate) -> Result<Volume, Error> {
        if request.cluster_volume_spec.is_some() {
            return Err(Error::not_implemented("cluster volumes are not supported"));
        }
        if !matches!(request.driver.as_str(), "" | DRIVER) {
            let driver = &request.driver;
            return Err(Error::not_found(format!(
                "create {}: error looking up volume plugin {driver}: plugin \"{driver}\" not found",
                request.name
            )));
        }
        if let Some((key, _)) = request.driver_opts.iter().flatten().next() {
            return Err(Error::not_implemented(format!(
                "create {}: options of the local volume driver ({key}) are not supported yet",
                request.name
            )));
        }
        let engine = self.clone();
        blocking(move || {
            let volumes = &engine.0.volumes;
            let _gate = volumes.gate();
            let mut labels = request.labels;
            let name = if request.name.is_empty() {
                labels
                    .get_or_insert_default()
                    .insert(ANONYMOUS.into(), String::new());
                files::random_id().map_err(|error| Error::system(format!("make an ID: {error}")))?
            } else {
                check_volume_name(&request.name)?;
                request.name
            };
            if let Some(volume) = volumes.get(&name) {
                return Ok(volume);
            }
            volumes.make(&name, &Meta::new(labels, request.driver_opts))?;
            let volume = volumes.get(&name).ok_or_else(|| missing(&name))?;
            engine.volume_event(&name, "create");
            Ok(volume)
        })
        .await
    }

    pub async fn volume_inspect(&self, name: &str) -> Result<Volume, Error> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || engine.0.volumes.get(&name).ok_or_else(|| missing(&name))).await
    }

    /// `force`: no error when there is none.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<(), Error> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let _gate = engine.0.volumes.gate();
            if engine.0.volumes.get(&name).is_none() {
                return if force { Ok(()) } else { Err(missing(&name)) };
            }
            let users = engine.volume_users(&name);
            if !users.is_empty() {
                return Err(Error::conflict(format!(
                    "remove {name}: volume is in use - [{}]",
                    users.join(", ")
                )));
            }
            engine.0.volumes.remove(&name)?;
            engine.volume_event(&name, "destroy");
            Ok(())
        })
        .await
    }

    /// Removes what no container has: anonymous volumes, or with the filter
    /// `all` also named ones.
    pub async fn volume_prune(&self, filters: &Filters) -> Result<VolumePruneReport, Error> {
        filters.validate(&["all", "label", "label!"])?;
        let all = filters.boolean("all", false)?;
        let (engine, filters) = (self.clone(), filters.clone());
        blocking(move || {
            let volumes = &engine.0.volumes;
            let _gate = volumes.gate();
            let mut report = VolumePruneReport::default();
            for volume in volumes.all()? {
                let labels = volume.labels.unwrap_or_default();
                let wanted = (all || labels.contains_key(ANONYMOUS))
                    && filters.labels("label", &labels)
                    && (!filters.contains("label!") || !filters.labels("label!", &labels))
                    && !engine.uses_volume(&volume.name);
                if !wanted {
                    continue;
                }
                let size = size(Path::new(&volume.mountpoint));
                match volumes.remove(&volume.name) {
                    Ok(()) => {
                        engine.volume_event(&volume.name, "destroy");
                        report.space_reclaimed += size;
                        report
                            .volumes_deleted
                            .get_or_insert_default()
                            .push(volume.name);
                    }
                    Err(error) => tracing::warn!("prune: {error}"),
                }
            }
            let reclaimed = report.space_reclaimed.to_string();
            let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed)]);
            engine.0.events.emit("volume", "prune", "", attributes);
            Ok(report)
        })
        .await
    }

    pub(crate) fn volume_event(&self, name: &str, action: &str) {
        let attributes = BTreeMap::from([("driver".to_owned(), DRIVER.to_owned())]);
        self.0.events.emit("volume", action, name, attributes);
    }

    /// Identifiers of the containers that have a volume, also of those that do
    /// not run.
    pub(crate) fn volume_users(&self, name: &str) -> Vec<String> {
        let all = self.index().all();
        all.iter()
            .filter(|container| {
                let record = container.record();
                let mut mounts = record.mounts.iter();
                mounts.any(|mount| mount.point.r#type == "volume" && mount.point.name == name)
            })
            .map(|container| container.id.clone())
            .collect()
    }

    pub(crate) fn uses_volume(&self, name: &str) -> bool {
        !self.volume_users(name).is_empty()
    }
}

impl super::Volumes {
    fn all(&self) -> Result<Vec<Volume>, Error> {
        let entries = fs::read_dir(&self.root).map_err(|error| io("read", &self.root, &error))?;
        let mut list: Vec<Volume> = entries
            .flatten()
            .filter_map(|entry| self.get(entry.file_name().to_str()?))
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// `None` when there is no such volume; a name from outside leads nowhere
    /// else.
    fn get(&self, name: &str) -> Option<Volume> {
        check_volume_name(name).ok()?;
        let data = self.root.join(name).join("_data");
        let metadata = fs::symlink_metadata(&data)
            .ok()
            .filter(|data| data.is_dir())?;
        let meta = Meta::read(&self.root.join(name)).unwrap_or_else(|| Meta::of(&metadata, name));
        Some(Volume {
            created_at: meta.created_at,
            driver: DRIVER.into(),
            labels: meta.labels,
            mountpoint: data.display().to_string(),
            name: name.to_owned(),
            options: meta.options,
            scope: "local".into(),
            usage_data: None,
        })
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.root.join(name);
        berth_store::remove_directory(&path).map_err(|error| io("remove the volume", &path, &error))
    }
}

/// Bytes on disk, links not followed; a file with two names counts once. A list
/// and no recursion: a container may have made the tree as deep as it likes.
fn size(path: &Path) -> u64 {
    let mut seen = std::collections::HashSet::new();
    let mut open = vec![path.to_owned()];
    let mut bytes = 0;
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.nlink() == 1 || seen.insert(metadata.ino()) {
                bytes += metadata.len();
            }
        }
    }
    bytes
}
