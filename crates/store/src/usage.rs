//! What takes space on disk, and giving it back within limits.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use rustix::fs::fstatvfs;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::measure::{below, entry_usage};
use crate::reference::familiar;
use crate::state::{Images, Record, SnapshotRecord, State, now};
use crate::store::{Inner, hex};
use crate::{Digest, Image, Removed, Store};

/// Bytes on disk, as `du` counts them.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub layers: Vec<LayerUsage>,
    pub blobs: Vec<BlobUsage>,
    /// Incomplete downloads, and what is on its way in or out.
    pub ingests: u64,
    /// Writable parts of containers, by key.
    pub snapshots: Vec<(String, u64)>,
    pub images: Vec<ImageUsage>,
}

impl Usage {
    /// Of everything that images take.
    pub fn total(&self) -> u64 {
        let layers: u64 = self.layers.iter().map(|layer| layer.size).sum();
        let blobs: u64 = self.blobs.iter().map(|blob| blob.size).sum();
        layers + blobs + self.ingests
    }

    /// Of what comes back when all images but those in use are removed.
    pub fn reclaimable(&self, in_use: &dyn Fn(&str) -> bool) -> u64 {
        let is_free = |images: &[Digest]| !images.iter().any(|id| in_use(id));
        let layers = self.layers.iter();
        let layers = layers.filter(|layer| !layer.has_snapshot && is_free(&layer.images));
        let blobs = self.blobs.iter().filter(|blob| is_free(&blob.images));
        layers.map(|layer| layer.size).sum::<u64>() + blobs.map(|blob| blob.size).sum::<u64>()
    }
}

#[derive(Clone, Debug)]
pub struct LayerUsage {
    pub diff_id: Digest,
    pub size: u64,
    /// Images that stand on it.
    pub images: Vec<Digest>,
    /// The writable part of a container stands on it.
    pub has_snapshot: bool,
}

#[derive(Clone, Debug)]
pub struct BlobUsage {
    pub digest: Digest,
    pub size: u64,
    /// Images that have it.
    pub images: Vec<Digest>,
}

/// One image, its layers and blobs.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    pub id: Digest,
    pub size: u64,
    /// Part of it that other images have as well.
    pub shared: u64,
}

/// When images are collected by themselves; bytes, 0 = no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Always allowed: nothing is collected below this.
    pub reserved: u64,
    /// Above this, images in no use are removed, least recently used first.
    pub max_used: u64,
    /// The same while the file system has less free than this.
    pub min_free: u64,
}

impl Limits {
    fn are_passed(self, used: u64, free: u64) -> bool {
        used > self.reserved
            && (self.max_used > 0 && used > self.max_used
                || self.min_free > 0 && free < self.min_free)
    }
}

impl Store {
    /// Blocking: walks the writable parts; layers are measured once.
    pub fn usage(&self) -> Result<Usage> {
        let inner = &*self.inner;
        let (images, blobs, snapshots) = {
            let state = inner.state();
            let blobs: Vec<Digest> = state.blobs.keys().cloned().collect();
            let snapshots: Vec<String> = state.snapshots.keys().cloned().collect();
            (state.images.clone(), blobs, snapshots)
        };
        let users = users(&images);
        let mut usage = Usage {
            layers: self.layer_usages()?,
            ..Usage::default()
        };
        let layers = usage.layers.clone();
        let mut sizes: HashMap<Part<'_>, u64> = (layers.iter())
            .map(|layer| (Part::Layer(&layer.diff_id), layer.size))
            .collect();
        for digest in &blobs {
            let size = or_nothing(entry_usage(&inner.dirs.blobs, hex(digest).as_bytes()))
                .map_err(Error::io("measure blob", digest))?;
            sizes.insert(Part::Blob(digest), size);
            usage.blobs.push(BlobUsage {
                size,
                images: users.get(&Part::Blob(digest)).cloned().unwrap_or_default(),
                digest: digest.clone(),
            });
        }
        for directory in [&inner.dirs.ingest, &inner.dirs.tmp] {
            usage.ingests += or_nothing(below(directory))
                .map_err(Error::io("measure", "incomplete downloads"))?;
        }
        for key in snapshots {
            let size = or_nothing(entry_usage(&inner.dirs.snapshots, key.as_bytes()))
                .map_err(Error::io("measure snapshot", &key))?;
            usage.snapshots.push((key, size));
        }
        for record in images.values() {
            let size = |part: Part<'_>| sizes.get(&part).copied().unwrap_or_default();
            let is_shared = |part: &Part<'_>| users.get(part).is_some_and(|by| by.len() > 1);
            usage.images.push(ImageUsage {
                id: record.saved.id.clone(),
                size: parts(record).into_iter().map(size).sum(),
                shared: parts(record).into_iter().filter(is_shared).map(size).sum(),
            });
        }
        usage.blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
        usage.snapshots.sort();
        Ok(usage)
    }

    /// All layers, in the order of their diff IDs. Blocking; a layer is measured
    /// once.
    pub fn layer_usages(&self) -> Result<Vec<LayerUsage>> {
        let (images, layers, below_snapshots) = {
            let state = self.inner.state();
            let below: HashSet<Digest> = (state.snapshots.values())
                .flat_map(|snapshot| snapshot.layers.iter().cloned())
                .collect();
            let layers: BTreeSet<Digest> = state.layers.keys().cloned().collect();
            (state.images.clone(), layers, below)
        };
        let users = users(&images);
        let usage = |diff_id: Digest| {
            Ok(LayerUsage {
                size: self.layer_usage(&diff_id)?,
                images: users
                    .get(&Part::Layer(&diff_id))
                    .cloned()
                    .unwrap_or_default(),
                has_snapshot: below_snapshots.contains(&diff_id),
                diff_id,
            })
        };
        layers.into_iter().map(usage).collect()
    }

    /// For each image, the bytes (as [`Image::size`] and `blob_size` count
    /// them) that other images have as well. Touches no disk.
    pub fn shared_sizes(&self) -> HashMap<Digest, u64> {
        let state = self.inner.state();
        let mut users: HashMap<Part<'_>, usize> = HashMap::new();
        for record in state.images.values() {
            for part in parts(record) {
                *users.entry(part).or_default() += 1;
            }
        }
        let size = |part| match part {
            Part::Layer(diff_id) => state.layers.get(diff_id).map_or(0, |layer| layer.size),
            Part::Blob(digest) => state.blobs.get(digest).copied().unwrap_or_default(),
        };
        (state.images.values())
            .map(|record| {
                let shared = parts(record)
                    .into_iter()
                    .filter(|part| users.get(part).is_some_and(|count| *count > 1));
                (record.saved.id.clone(), shared.map(size).sum())
            })
            .collect()
    }

    /// Bytes in the files of an unpacked layer; `None` if it is not here.
    pub fn layer_size(&self, diff_id: &str) -> Option<u64> {
        self.inner
            .state()
            .layers
            .get(diff_id)
            .map(|layer| layer.size)
    }

    /// A layer never changes, so its size on disk is taken once.
    fn layer_usage(&self, diff_id: &Digest) -> Result<u64> {
        let inner = &*self.inner;
        if let Some(size) = inner.measured().get(diff_id) {
            return Ok(*size);
        }
        let size = entry_usage(&inner.dirs.layers, hex(diff_id).as_bytes());
        let size = match size {
            // Removed since it was listed.
            Err(Errno::NOENT) => return Ok(0),
            other => other.map_err(Error::io("measure layer", diff_id))?,
        };
        inner.measured().insert(diff_id.clone(), size);
        Ok(size)
    }

    /// Remembers that an image was used now, for [`Store::collect_within`].
    /// Written down with the next change of the images.
    pub fn touch(&self, id: &str) {
        let state = &mut *self.inner.state();
        if let Some(record) = state.images.get_mut(id) {
            let record = Arc::make_mut(record);
            record.saved.used_at = Some(now());
            state.touched = true;
        }
    }

    /// Removes what the limits ask for and nothing stands on. `in_use` says
    /// whether a container needs the image. Returns what was removed, and the
    /// bytes that come back.
    pub fn collect_within(
        &self,
        limits: Limits,
        in_use: &dyn Fn(&Image) -> bool,
    ) -> Result<(Vec<Removed>, u64)> {
        let inner = &*self.inner;
        let mut removed = Vec::new();
        let free = self.free()?;
        let before = self.used_by_images()?;
        let mut used = before;
        while limits.are_passed(used, free.saturating_add(before.saturating_sub(used))) {
            {
                let turn = inner.turn();
                let state = inner.state();
                let Some(record) = least_recently_used(&state, in_use) else {
                    break;
                };
                removed.extend(names(&record));
                let change = |images: &mut Images| drop(images.remove(&record.saved.id));
                let mut state = inner.update_images(&turn, state, change)?;
                collect(inner, &mut state);
            }
            used = self.used_by_images()?;
        }
        let turn = inner.turn();
        let mut state = inner.state();
        if std::mem::take(&mut state.touched) {
            drop(inner.update_images(&turn, state, |_| ())?);
        }
        Ok((removed, before.saturating_sub(used)))
    }

    /// Removes the images that are wanted away, and what nothing stands on
    /// then; those that a snapshot was made on stay. Returns what was removed,
    /// and the bytes that come back.
    pub fn prune(&self, wanted: &dyn Fn(&Image) -> bool) -> Result<(Vec<Removed>, u64)> {
        let inner = &*self.inner;
        let before = self.stored()?;
        let mut removed = Vec::new();
        {
            let turn = inner.turn();
            let state = inner.state();
            let chosen: Vec<_> = (state.images.values())
                .filter(|record| !has_snapshot(&state, record) && wanted(&record.image))
                .cloned()
                .collect();
            if chosen.is_empty() {
                return Ok((removed, 0));
            }
            let mut state = inner.update_images(&turn, state, |images| {
                for record in &chosen {
                    images.remove(&record.saved.id);
                }
            })?;
            collect(inner, &mut state);
            removed.extend(chosen.iter().flat_map(|record| names(record)));
        }
        Ok((removed, before.saturating_sub(self.stored()?)))
    }

    /// Bytes on disk of all layers and blobs, without the writable parts.
    fn stored(&self) -> Result<u64> {
        let (layers, blobs) = self.usage_of_parts()?;
        Ok(layers.values().chain(blobs.values()).sum())
    }

    /// Bytes on disk of each layer and each blob.
    fn usage_of_parts(&self) -> Result<(Sizes, Sizes)> {
        let (layers, blobs) = {
            let state = self.inner.state();
            let layers: Vec<Digest> = state.layers.keys().cloned().collect();
            let blobs: Vec<Digest> = state.blobs.keys().cloned().collect();
            (layers, blobs)
        };
        let mut sizes = (Sizes::new(), Sizes::new());
        for diff_id in layers {
            let size = self.layer_usage(&diff_id)?;
            sizes.0.insert(diff_id, size);
        }
        for digest in blobs {
            let size = or_nothing(entry_usage(&self.inner.dirs.blobs, hex(&digest).as_bytes()))
                .map_err(Error::io("measure blob", &digest))?;
            sizes.1.insert(digest, size);
        }
        Ok(sizes)
    }

    /// Bytes on disk that images keep and pins do not: removing images can give
    /// no others back.
    fn used_by_images(&self) -> Result<u64> {
        let usage = self.usage_of_parts()?;
        let state = self.inner.state();
        let pinned: HashSet<&Digest> = state.pins.layers().collect();
        let parts: BTreeSet<Part<'_>> = (state.images.values())
            .flat_map(|record| parts(record))
            .filter(|part| !matches!(part, Part::Layer(layer) if pinned.contains(layer)))
            .collect();
        let size = |part: &Part<'_>| match part {
            Part::Layer(digest) => usage.0.get(*digest),
            Part::Blob(digest) => usage.1.get(*digest),
        };
        Ok(parts.iter().filter_map(size).sum())
    }

    /// Bytes free for everybody on the data root's file system.
    fn free(&self) -> Result<u64> {
        let inner = &*self.inner;
        let stat = fstatvfs(&inner.dirs.root).map_err(Error::io(
            "look at the file system of",
            inner.root.display(),
        ))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn collect(inner: &Inner, state: &mut State) {
    inner.collect(state);
    let State { layers, .. } = state;
    inner
        .measured()
        .retain(|diff_id, _| layers.contains_key(diff_id));
}

/// The image that was not needed for the longest time, of those whose removal
/// gives something back.
fn least_recently_used(state: &State, in_use: &dyn Fn(&Image) -> bool) -> Option<Arc<Record>> {
    let pinned: HashSet<&Digest> = state.pins.layers().collect();
    let gives = |record: &Record| {
        let layers = record.manifests.iter().flat_map(|found| &found.layers);
        let mut blobs = layers.map(|(_, blob)| blob);
        record.layers.iter().any(|layer| !pinned.contains(layer))
            || blobs.any(|blob| state.blobs.contains_key(blob))
    };
    (state.images.values())
        .filter(|record| gives(record))
        .filter(|record| !has_snapshot(state, record) && !in_use(&record.image))
        .min_by_key(|record| last_use(record))
        .cloned()
}

/// Whether a snapshot was made on an image. Its container may not be known yet.
fn has_snapshot(state: &State, record: &Record) -> bool {
    let is_below = |layers: &[(Digest, Digest)], snapshot: &SnapshotRecord| {
        let mut seen = HashSet::new();
        let mut top = (layers.iter().rev())
            .map(|(diff_id, _)| diff_id)
            .filter(|diff_id| seen.insert(*diff_id));
        snapshot
            .layers
            .iter()
            .all(|layer| top.next() == Some(layer))
    };
    state
        .snapshots
        .values()
        .any(|snapshot| (record.manifests.iter()).any(|found| is_below(&found.layers, snapshot)))
}

fn last_use(record: &Record) -> Option<jiff::Timestamp> {
    let saved = &record.saved;
    [
        Some(&saved.loaded_at),
        saved.tagged_at.as_ref(),
        saved.used_at.as_ref(),
    ]
    .into_iter()
    .flatten()
    .filter_map(|time| time.parse().ok())
    .max()
}

fn names(record: &Record) -> Vec<Removed> {
    let saved = &record.saved;
    (saved.names.iter().chain(&saved.digests))
        .map(|name| Removed::Untagged(familiar(name)))
        .chain([Removed::Deleted(saved.id.clone())])
        .collect()
}

/// A layer or a blob. That of a plain layer has the layer's digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part<'a> {
    Layer(&'a Digest),
    Blob(&'a Digest),
}

/// Bytes by digest.
type Sizes = HashMap<Digest, u64>;

/// Which images have a part.
fn users(images: &Images) -> HashMap<Part<'_>, Vec<Digest>> {
    let mut users: HashMap<Part<'_>, Vec<Digest>> = HashMap::new();
    for record in images.values() {
        for part in parts(record) {
            users.entry(part).or_default().push(record.saved.id.clone());
        }
    }
    users
}

/// Of an image, each once.
fn parts(record: &Record) -> BTreeSet<Part<'_>> {
    (record.layers.iter().map(Part::Layer))
        .chain(record.blobs.iter().map(Part::Blob))
        .collect()
}

fn or_nothing(size: rustix::io::Result<u64>) -> rustix::io::Result<u64> {
    match size {
        Err(Errno::NOENT) => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tar, docker_archive, load};

    /// About a megabyte on disk, unpacked and as a blob.
    fn image(store: &Store, name: &str, byte: u8) -> Image {
        let layer = Tar::default().file("f", &vec![byte; 500_000]).finish();
        load(store, &docker_archive(&[name], &[layer]))
            .unwrap()
            .remove(0)
    }

    #[test]
    fn limits_take_the_image_that_was_not_used_for_longest() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [a, b, c, d] =
            [("a:1", 1), ("b:1", 2), ("c:1", 3), ("d:1", 4)].map(|(n, b)| image(&store, n, b));
        store.touch(&a.id);
        store.create_snapshot("k", &b, (0, 0)).unwrap();
        let total = store.stored().unwrap();
        let collect = |limits: Limits| {
            let in_use = |image: &Image| image.id == c.id;
            store.collect_within(limits, &in_use).unwrap()
        };
        let limits = |reserved, max_used, min_free| Limits {
            reserved,
            max_used,
            min_free,
        };
        assert_eq!(collect(limits(0, total, 0)).0, []);
        assert_eq!(collect(limits(total, 1, u64::MAX)).0, []);
        let (removed, space) = collect(limits(0, total - 1, 0));
        let gone = |image: &Image| {
            vec![
                Removed::Untagged(familiar(&image.names[0])),
                Removed::Deleted(image.id.clone()),
            ]
        };
        assert_eq!(removed, gone(&d));
        assert!(space > 900_000, "{space}");
        // Uses are remembered; what is needed stays, whatever the limit.
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert!(store.inner.state().images[&a.id].saved.used_at.is_some());
        let in_use = |image: &Image| image.id == c.id;
        let (removed, _) = store
            .collect_within(limits(0, 0, u64::MAX), &in_use)
            .unwrap();
        assert_eq!(removed, gone(&a));
        let left: Vec<_> = store
            .images()
            .into_iter()
            .map(|image| image.names)
            .collect();
        assert_eq!(left.len(), 2);
        assert_eq!(store.prune(&|_| true).unwrap().0, gone(&c));
    }

    /// What the build cache keeps comes not back with its image.
    #[test]
    fn limits_leave_images_whose_removal_gives_nothing() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let incoming = store.incoming().unwrap();
        let plain = Tar::default().file("f", &[7; 500_000]).finish();
        let built = incoming.layer(&mut plain.as_slice()).unwrap();
        let mut plain = Vec::new();
        let mut blob = incoming.open_blob(&built).unwrap().0;
        std::io::Read::read_to_end(&mut blob, &mut plain).unwrap();
        let archive = docker_archive(&["built:1"], &[plain]);
        let kept = load(&store, &archive).unwrap().remove(0);
        let pin = crate::Pin {
            key: "step".to_owned(),
            layers: vec![built.clone()],
            data: String::new(),
        };
        store.pin(pin).unwrap();
        drop(incoming);
        // Used later, so that it would go last.
        let pulled = image(&store, "pulled:1", 1);
        let max_used = |max_used| Limits {
            max_used,
            ..Limits::default()
        };
        let collect = |limit| store.collect_within(max_used(limit), &|_| false).unwrap();
        assert_eq!(collect(1_200_000).0, []);
        let (removed, space) = collect(1);
        assert!(matches!(&removed[1], Removed::Deleted(id) if *id == pulled.id));
        assert!(space > 900_000, "{space}");
        assert_eq!(store.images().remove(0).id, kept.id);
        store.unpin(&["step".to_owned()]).unwrap();
        assert_eq!(collect(1).0.len(), 2);
        assert!(store.layer_usages().unwrap().is_empty());
    }

    #[test]
    fn shared_parts_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let layers = |byte: u8| {
            let base = Tar::default().file("base", &[9; 100_000]).finish();
            [base, Tar::default().file("own", &[byte; 50_000]).finish()]
        };
        for (name, byte) in [("a:1", 1), ("b:1", 2)] {
            load(&store, &docker_archive(&[name], &layers(byte))).unwrap();
        }
        let usage = store.usage().unwrap();
        let shared = usage.images[0].shared;
        assert!(
            shared > 200_000 && usage.images[1].shared == shared,
            "{usage:?}"
        );
        let sizes: u64 = usage.images.iter().map(|image| image.size).sum();
        assert_eq!(usage.total(), sizes - shared + usage.ingests);
        let a = store.find("a:1").unwrap().id;
        let back = usage.reclaimable(&|id| id == a);
        assert!(back > 100_000 && back < shared, "{back}");
        assert!(store.shared_sizes().values().all(|size| *size > 200_000));
    }
}
