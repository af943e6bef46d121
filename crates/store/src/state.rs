//! What the store holds: `images.json` on disk, and the index in memory that
//! is built from it, the blobs, the layers and the snapshots at open.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::blob::Source;
use crate::durable::lost_blob;
use crate::error::{Error, Result, invalid};
use crate::layer::Layer;
use crate::manifest::{Found, walk};
use crate::pins::Pins;
use crate::store::{Inner, StoredBlobs};
use crate::{Digest, Image, Reference};

const VERSION: u32 = 1;

/// `images.json`.
#[derive(Debug, Serialize, Deserialize)]
struct File<S> {
    version: u32,
    images: Vec<S>,
}

/// What of an image is not in its blobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    /// Digest of the manifest or index.
    pub(crate) id: Digest,
    pub(crate) names: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) digests: Vec<String>,
    /// RFC 3339.
    pub(crate) loaded_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tagged_at: Option<String>,
    /// When a container was last made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) used_at: Option<String>,
    /// Number of the publication that brought it; they count up.
    #[serde(default)]
    pub(crate) publication: u64,
}

impl Saved {
    /// A name and all that goes with it: with a repository's last tag the
    /// digests that were known by it.
    pub(crate) fn with(&self, name: &str) -> Vec<String> {
        let repository = repository_of(name);
        let inside = |other: &&String| repository_of(other) == repository;
        let mut all = vec![name.to_owned()];
        if self.names.iter().filter(inside).all(|other| other == name) {
            all.extend(self.digests.iter().filter(inside).cloned());
        }
        all
    }

    /// Takes names and digests away.
    pub(crate) fn forget(&mut self, gone: &[String]) {
        self.names.retain(|name| !gone.contains(name));
        self.digests.retain(|digest| !gone.contains(digest));
    }
}

/// A full name without its tag or digest.
pub(crate) fn repository_of(name: &str) -> String {
    Reference::parse(name)
        .map(|reference| reference.repository())
        .unwrap_or_default()
}

/// An image and what it stands on.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) saved: Saved,
    pub(crate) image: Image,
    /// Diff IDs of the layers that are unpacked, of all its platforms.
    pub(crate) layers: Vec<Digest>,
    /// All that are here.
    pub(crate) blobs: Vec<Digest>,
    /// In the index's order.
    pub(crate) manifests: Arc<[Found]>,
    /// There is nothing to run in it.
    pub(crate) is_artifact: bool,
}

pub(crate) type Images = BTreeMap<Digest, Arc<Record>>;

/// The index. Changes go through one lock, disk first.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) images: Images,
    /// By diff ID.
    pub(crate) layers: HashMap<Digest, Layer>,
    /// Length by digest.
    pub(crate) blobs: HashMap<Digest, u64>,
    pub(crate) snapshots: HashMap<String, SnapshotRecord>,
    pub(crate) pins: Pins,
    /// Blobs and layers that operations in flight count on: how many do.
    pub(crate) leases: HashMap<Digest, usize>,
    /// Images were used since they were last written down.
    pub(crate) touched: bool,
    /// Number of the last publication.
    pub(crate) publication: u64,
}

/// `snapshot.json`: what a snapshot was made on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    /// Diff IDs, topmost first.
    pub(crate) layers: Vec<Digest>,
}

impl State {
    /// What nothing stands on: blobs and layers.
    pub(crate) fn unreachable(&self) -> (Vec<Digest>, Vec<Digest>) {
        let blobs: HashSet<&Digest> = (self.images.values().flat_map(|record| &record.blobs))
            .chain(self.leases.keys())
            .collect();
        // A plain blob may be one that its layer gives.
        let images = self.images.values();
        let layers: HashSet<&Digest> = images
            .flat_map(|record| record.layers.iter().chain(&record.blobs))
            .chain(
                self.snapshots
                    .values()
                    .flat_map(|snapshot| &snapshot.layers),
            )
            .chain(self.pins.layers())
            .chain(self.leases.keys())
            .collect();
        (
            self.blobs
                .keys()
                .filter(|digest| !blobs.contains(digest))
                .cloned()
                .collect(),
            self.layers
                .keys()
                .filter(|digest| !layers.contains(digest))
                .cloned()
                .collect(),
        )
    }

    /// Length of a blob that is here, as a file or as a layer that gives it.
    pub(crate) fn blob_size(&self, digest: &str) -> Option<u64> {
        let file = self.blobs.get(digest).copied();
        file.or_else(|| made(&self.layers, digest))
    }

    pub(crate) fn is_used(&self, layer: &Digest) -> bool {
        self.leases.contains_key(layer)
            || self
                .images
                .values()
                .any(|record| record.layers.contains(layer) || record.blobs.contains(layer))
            || self
                .snapshots
                .values()
                .any(|snapshot| snapshot.layers.contains(layer))
            || self.pins.layers().any(|pinned| pinned == layer)
    }

    /// Reads `images.json`. An image that has lost a part is left out with a
    /// warning: one damaged image must not keep the engine from starting. What
    /// was published after `durable` may be damaged: its blobs are read.
    pub(crate) fn read_images(
        &mut self,
        text: &[u8],
        inner: &Inner,
        durable: Option<u64>,
    ) -> Result<()> {
        let source = StoredBlobs {
            inner,
            sizes: &self.blobs,
            layers: &self.layers,
        };
        for saved in read_saved(text)? {
            let id = saved.id.clone();
            self.publication = self.publication.max(saved.publication);
            let is_doubtful = durable.is_some_and(|durable| saved.publication > durable);
            let record = describe(saved, &self.layers, &source);
            match record {
                Ok(record) => {
                    if is_doubtful && let Some(blob) = lost_blob(inner, &self.layers, &record) {
                        let names = record.saved.names.join(", ");
                        tracing::error!(%id, %names, %blob, "image lost in a power cut: pull or load it again");
                        continue;
                    }
                    if let Some(layer) = record.missing(&self.layers) {
                        tracing::warn!(%id, %layer, "a layer of an image is missing: check the store");
                    }
                    self.images.insert(id, Arc::new(record));
                }
                // The disk's fault, perhaps a passing one: to go on would give
                // the image up, and its layers with it.
                Err(error @ Error::Io { .. }) if !is_absent(&error) => return Err(error),
                Err(error) => tracing::warn!(%id, %error, "image is damaged and left out"),
            }
        }
        Ok(())
    }
}

/// Length of the plain blob that a built layer gives.
pub(crate) fn made(layers: &HashMap<Digest, Layer>, digest: &str) -> Option<u64> {
    Some(layers.get(digest)?.built.as_ref()?.length)
}

pub(crate) fn read_saved(text: &[u8]) -> Result<Vec<Saved>> {
    let file: File<Saved> = serde_json::from_slice(text)
        .map_err(|e| Error::Invalid(format!("images.json is damaged: {e}")))?;
    if file.version != VERSION {
        return invalid(format!(
            "images.json has version {}, this engine knows {VERSION}",
            file.version
        ));
    }
    Ok(file.images)
}

impl Record {
    /// A layer that it needs, but that is not unpacked.
    pub(crate) fn missing(&self, unpacked: &HashMap<Digest, Layer>) -> Option<&Digest> {
        let mut layers = self.layers.iter();
        layers.find(|diff_id| !unpacked.contains_key(*diff_id))
    }
}

/// Describes an image from its blobs. That all its layers are unpacked is for
/// the caller to see: one that has lost some can still be repaired.
pub(crate) fn describe(
    saved: Saved,
    unpacked: &HashMap<Digest, Layer>,
    source: &dyn Source,
) -> Result<Record> {
    let tree = walk(&saved.id, source)?;
    let resolved = tree.resolve(&saved.id, &|layer| unpacked.contains_key(layer), source)?;
    let size = (resolved.layers.iter())
        .filter_map(|(diff_id, _)| Some(unpacked.get(diff_id)?.size))
        .sum();
    let own = resolved.layers.iter().map(|(diff_id, _)| diff_id);
    let others = tree.manifests.iter().flat_map(|found| &found.layers);
    let others = others.map(|(diff_id, _)| diff_id);
    let layers: HashSet<_> = own
        .chain(others.filter(|diff_id| unpacked.contains_key(*diff_id)))
        .cloned()
        .collect();
    let created = resolved.config.created().as_deref().and_then(seconds);
    let image = Image {
        id: saved.id.clone(),
        config_digest: resolved.config_digest,
        config: resolved.config.into(),
        raw_config: resolved.raw_config.into(),
        names: saved.names.clone(),
        digests: saved.digests.clone(),
        size,
        blob_size: (tree.blobs.iter())
            .filter_map(|digest| source.size(digest))
            .sum(),
        created: created
            .or_else(|| seconds(&saved.loaded_at))
            .unwrap_or_default(),
        tagged_at: saved.tagged_at.clone(),
        media_type: tree.media_type,
        manifest_size: source.size(&saved.id).unwrap_or_default(),
    };
    Ok(Record {
        saved,
        image,
        layers: layers.into_iter().collect(),
        blobs: tree.blobs,
        manifests: tree.manifests.into(),
        is_artifact: resolved.is_artifact,
    })
}

fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

pub(crate) fn write_images(images: &Images) -> Result<Vec<u8>> {
    let file = File {
        version: VERSION,
        images: images.values().map(|record| &record.saved).collect(),
    };
    let mut text = serde_json::to_vec_pretty(&file).map_err(|e| Error::Io {
        action: "encode",
        path: "images.json".to_owned(),
        source: e.into(),
    })?;
    text.push(b'\n');
    Ok(text)
}

/// Moves `name` to `record`, away from whatever had it.
pub(crate) fn set_name(images: &mut Images, id: &Digest, name: &str, now: &str) {
    for record in images.values_mut() {
        let has = record.saved.names.iter().any(|n| n == name);
        let is_target = record.saved.id == *id;
        if has && !is_target {
            edit(record, |saved| {
                let gone = saved.with(name);
                saved.forget(&gone);
            });
        } else if is_target {
            edit(record, |saved| {
                if !has {
                    saved.names.push(name.to_owned());
                    saved.names.sort();
                }
                saved.tagged_at = Some(now.to_owned());
            });
        }
    }
}

/// Changes the saved part and what is shown of it.
pub(crate) fn edit(record: &mut Arc<Record>, change: impl FnOnce(&mut Saved)) {
    let record = Arc::make_mut(record);
    change(&mut record.saved);
    record.image.names.clone_from(&record.saved.names);
    record.image.digests.clone_from(&record.saved.digests);
    record.image.tagged_at.clone_from(&record.saved.tagged_at);
}

pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

fn seconds(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>()
        .ok()
        .map(jiff::Timestamp::as_second)
}
