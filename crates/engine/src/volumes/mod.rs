//! Local volumes: directories that outlive containers.
//!
//! ```text
//! <data-root>/volumes/<name>/_data
//! ```
//!
//! Made on demand. A new, empty volume is filled with what the image has at
//! its mount point ("copy-up").

mod fill;
mod manage;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_api::Error;
use berth_api::container::Labels;
use jiff::Timestamp;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::container::{MountRecord, Record};
use crate::error::io;
use crate::{files, time};

pub(crate) use fill::fill;

/// The label of a volume that was given no name.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A directory itself, not what a link in its place leads to.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

#[derive(Debug)]
pub(crate) struct Volumes {
    root: PathBuf,
    gate: Mutex<()>,
}

/// `volume.json`: what is known of a volume besides its files.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Meta {
    created_at: String,
    labels: Option<Labels>,
    options: Option<Labels>,
}

impl Meta {
    fn new(labels: Option<Labels>, options: Option<Labels>) -> Self {
        Self {
            created_at: time::format_seconds(Timestamp::now()),
            labels,
            options,
        }
    }

    fn read(volume: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(volume.join("volume.json")).ok()?).ok()
    }

    /// Of a volume of an engine that did not write it down.
    fn of(data: &fs::Metadata, name: &str) -> Self {
        let anonymous = || Labels::from([(ANONYMOUS.to_owned(), String::new())]);
        Self {
            created_at: Timestamp::from_second(data.mtime())
                .map_or_else(|_| time::NEVER.to_owned(), time::format_seconds),
            labels: files::is_id(name).then(anonymous),
            options: None,
        }
    }
}

impl Volumes {
    pub(crate) fn open(root: PathBuf) -> Result<Self, Error> {
        files::make_dir(&root, 0o711).map_err(|error| io("make", &root, &error))?;
        Ok(Self {
            root,
            gate: Mutex::default(),
        })
    }

    /// Held from before it is decided which containers have a volume until
    /// what follows from that is done. Blocks.
    pub(crate) fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, name: &str, meta: &Meta) -> Result<(), Error> {
        let dir = self.root.join(name);
        let data = dir.join("_data");
        let making = |error: std::io::Error| io("make the volume", &dir, &error);
        files::make_dir(&dir, 0o711).map_err(making)?;
        let json = serde_json::to_vec(meta)
            .map_err(|error| Error::system(format!("describe the volume {name}: {error}")))?;
        files::replace(&dir.join("volume.json"), &json, 0o600).map_err(making)?;
        files::make_dir(&data, 0o755).map_err(making)
    }

    /// Gives a container's volumes names and sources; new ones are made and
    /// filled from `image`, which gives the root of the image's filesystem.
    /// Returns the names of the new ones; on an error none is left. Blocks.
    pub(crate) fn provide(
        &self,
        mounts: &mut [MountRecord],
        image: impl Fn() -> Result<OwnedFd, Error>,
    ) -> Result<Vec<String>, Error> {
        let mut made = Vec::new();
        let mut root = None;
        for mount in mounts {
            if mount.point.r#type == "volume"
                && let Err(error) = self.provide_one(mount, &image, &mut root, &mut made)
            {
                self.take_back(&made);
                return Err(error);
            }
        }
        Ok(made)
    }

    fn provide_one(
        &self,
        mount: &mut MountRecord,
        image: &impl Fn() -> Result<OwnedFd, Error>,
        root: &mut Option<OwnedFd>,
        made: &mut Vec<String>,
    ) -> Result<(), Error> {
        if mount.point.name.is_empty() {
            mount.point.name = files::random_id()
                .map_err(|error| Error::system(format!("make an ID: {error}")))?;
        }
        let data = self.root.join(&mount.point.name).join("_data");
        mount.point.source = data.display().to_string();
        if data.is_dir() && fs::read_dir(&data).is_ok_and(|mut dir| dir.next().is_some()) {
            return Ok(());
        }
        let new = !data.is_dir();
        if new {
            let anonymous = || Labels::from([(ANONYMOUS.to_owned(), String::new())]);
            let labels = mount
                .labels
                .clone()
                .or_else(|| mount.anonymous.then(anonymous));
            made.push(mount.point.name.clone());
            self.make(&mount.point.name, &Meta::new(labels, None))?;
        }
        if mount.options.iter().any(|option| option == "nocopy") {
            return Ok(());
        }
        let root = match root {
            Some(root) => root,
            None => root.insert(image()?),
        };
        fill(root.as_fd(), &mount.point.destination, &data, new)
    }

    /// Removes volumes just made for a container that is not to be.
    pub(crate) fn take_back(&self, made: &[String]) {
        for name in made {
            let path = self.root.join(name);
            if let Err(error) = berth_store::remove_directory(&path) {
                tracing::warn!("remove the volume {}: {error}", path.display());
            }
        }
    }

    /// Removes what was made with a container, unless another one has it too
    /// (`--volumes-from`).
    pub(crate) fn remove_anonymous(
        &self,
        record: &Record,
        used: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut removed = Vec::new();
        for mount in &record.mounts {
            let name = &mount.point.name;
            if mount.anonymous && files::is_id(name) && !used(name) {
                let path = self.root.join(&mount.point.name);
                match berth_store::remove_directory(&path) {
                    Ok(()) => removed.push(name.clone()),
                    Err(error) => {
                        tracing::warn!("remove the volume {}: {error}", path.display());
                    }
                }
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ones_are_filled_and_a_failure_takes_them_back() {
        let dir = std::env::temp_dir().join(files::random_id().unwrap());
        fs::create_dir_all(dir.join("image/data")).unwrap();
        fs::write(dir.join("image/data/a"), "image").unwrap();
        let image = || Ok(OwnedFd::from(fs::File::open(dir.join("image")).unwrap()));
        let volumes = Volumes::open(dir.join("volumes")).unwrap();
        let mut mounts = [MountRecord::default(), MountRecord::default()];
        for mount in &mut mounts {
            mount.point.r#type = "volume".into();
            mount.point.destination = "/data".into();
            mount.anonymous = true;
        }
        mounts[1].point.name = "named".into();
        let broken = || Err(Error::system("no image"));
        assert!(volumes.provide(&mut mounts, broken).is_err());
        assert_eq!(fs::read_dir(dir.join("volumes")).unwrap().count(), 0);

        let made = volumes.provide(&mut mounts, image).unwrap();
        assert_eq!(made.len(), 2);
        let data = PathBuf::from(&mounts[0].point.source);
        assert_eq!(fs::read_to_string(data.join("a")).unwrap(), "image");
        // What is not empty is not asked about.
        assert!(volumes.provide(&mut mounts, broken).unwrap().is_empty());
        let record = Record {
            mounts: mounts.to_vec(),
            ..Record::default()
        };
        volumes.remove_anonymous(&record, |_| true);
        assert!(data.exists());
        volumes.remove_anonymous(&record, |_| false);
        assert!(!data.exists());
        assert!(dir.join("volumes/named").exists());
        volumes.take_back(&["named".to_owned()]);
        assert!(!dir.join("volumes/named").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
