//! Local volumes: directories that outlive containers.
//!
//! ```text
//! <data-root>/volumes/<name>/_data
//! ```
//!
//! Made on demand. A new, empty volume is filled with what the image has at
//! its mount point ("copy-up"): that needs no mount, because a layer is a
//! directory and whiteouts say what a higher one hides.

mod manage;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_api::Error;
use berth_api::container::Labels;
use berth_store::{LayerLocation, Snapshot};
use jiff::Timestamp;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use crate::container::{MountRecord, Record};
use crate::error::io;
use crate::{files, time};

/// The label of a volume that was given no name.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

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
    /// filled. Returns the names of the new ones. Blocks.
    pub(crate) fn provide(
        &self,
        mounts: &mut [MountRecord],
        snapshot: &Snapshot,
    ) -> Result<Vec<String>, Error> {
        let mut made = Vec::new();
        for mount in mounts {
            if mount.point.r#type != "volume" {
                continue;
            }
            if mount.point.name.is_empty() {
                mount.point.name = files::random_id()
                    .map_err(|error| Error::system(format!("make an ID: {error}")))?;
            }
            let data = self.root.join(&mount.point.name).join("_data");
            mount.point.source = data.display().to_string();
            let fill = !mount.options.iter().any(|option| option == "nocopy");
            if data.is_dir() && fs::read_dir(&data).is_ok_and(|mut dir| dir.next().is_some()) {
                continue;
            }
            if !data.is_dir() {
                let anonymous = || Labels::from([(ANONYMOUS.to_owned(), String::new())]);
                let labels = mount
                    .labels
                    .clone()
                    .or_else(|| mount.anonymous.then(anonymous));
                self.make(&mount.point.name, &Meta::new(labels, None))?;
                made.push(mount.point.name.clone());
            }
            if fill {
                copy_up(snapshot, &mount.point.destination, &data)?;
            }
        }
        Ok(made)
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
                match fs::remove_dir_all(&path) {
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

fn copy_up(snapshot: &Snapshot, inside: &str, to: &Path) -> Result<(), Error> {
    let mut layers = Vec::new();
    for layer in &snapshot.layers {
        match layer {
            LayerLocation::Directory(path) => layers.push(path.as_path()),
            LayerLocation::Erofs(_) => {
                return Err(Error::not_implemented(
                    "filling a volume from packed layers is not supported yet; use nocopy",
                ));
            }
        }
    }
    // Lowest first: each layer changes what is there.
    for layer in layers.into_iter().rev() {
        // The image may hold links: resolved inside the layer (CVE-2022-23648).
        let Ok(root) = rustix::fs::open(
            layer,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) else {
            continue;
        };
        let found = rustix::fs::openat2(
            &root,
            inside.trim_start_matches('/'),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        );
        let Ok(fd) = found else { continue };
        // Layers are read-only and ours: the path below the descriptor is stable.
        use std::os::fd::AsRawFd as _;
        let from = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let metadata = fs::metadata(&from).map_err(|error| io("stat", &from, &error))?;
        if metadata.is_dir() {
            merge(&from, to).map_err(|error| io("fill the volume", to, &error))?;
            own(&metadata, to).map_err(|error| io("fill the volume", to, &error))?;
        }
    }
    Ok(())
}

/// Puts one layer's directory over what is there.
fn merge(from: &Path, to: &Path) -> std::io::Result<()> {
    let opaque = rustix::fs::getxattr(from, "trusted.overlay.opaque", &mut [0u8; 1][..]);
    if opaque.is_ok() {
        for entry in fs::read_dir(to)? {
            remove(&entry?.path())?;
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = fs::symlink_metadata(&source)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            if !fs::symlink_metadata(&target).is_ok_and(|there| there.is_dir()) {
                remove(&target)?;
                fs::create_dir(&target)?;
            }
            merge(&source, &target)?;
            own(&metadata, &target)?;
            continue;
        }
        remove(&target)?;
        if kind.is_char_device() && metadata.rdev() == 0 {
            // A whiteout: hidden from here on.
            continue;
        }
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
            std::os::unix::fs::lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
            own(&metadata, &target)?;
        } else {
            let kind = if kind.is_fifo() {
                rustix::fs::FileType::Fifo
            } else if kind.is_char_device() {
                rustix::fs::FileType::CharacterDevice
            } else if kind.is_block_device() {
                rustix::fs::FileType::BlockDevice
            } else {
                continue;
            };
            let mode = Mode::from_raw_mode(metadata.mode() & 0o7777);
            rustix::fs::mknodat(rustix::fs::CWD, &target, kind, mode, metadata.rdev())?;
            own(&metadata, &target)?;
        }
    }
    Ok(())
}

fn own(metadata: &fs::Metadata, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() & 0o7777))
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_from_layers_in_order() {
        let dir = std::env::temp_dir().join(files::random_id().unwrap());
        let (low, high) = (dir.join("low"), dir.join("high"));
        for path in [low.join("data/sub"), high.join("data/sub")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(low.join("data/a"), "low").unwrap();
        fs::write(low.join("data/gone"), "low").unwrap();
        fs::write(high.join("data/sub/b"), "high").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", high.join("data/link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            high.join("data/gone"),
            rustix::fs::FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        let snapshot = Snapshot {
            layers: vec![
                LayerLocation::Directory(high),
                LayerLocation::Directory(low),
            ],
            upper: dir.join("upper"),
            work: dir.join("work"),
            options: Vec::new(),
        };
        let volumes = Volumes::open(dir.join("volumes")).unwrap();
        let mut mounts = [MountRecord::default()];
        mounts[0].point.r#type = "volume".into();
        mounts[0].point.destination = "/data".into();
        mounts[0].anonymous = true;
        volumes.provide(&mut mounts, &snapshot).unwrap();
        let data = PathBuf::from(&mounts[0].point.source);
        assert_eq!(fs::read_to_string(data.join("a")).unwrap(), "low");
        assert_eq!(fs::read_to_string(data.join("sub/b")).unwrap(), "high");
        assert!(!data.join("gone").exists());
        assert!(
            fs::symlink_metadata(data.join("link"))
                .unwrap()
                .is_symlink()
        );
        let record = Record {
            mounts: mounts.to_vec(),
            ..Record::default()
        };
        volumes.remove_anonymous(&record, |_| true);
        assert!(data.exists());
        volumes.remove_anonymous(&record, |_| false);
        assert!(!data.exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
