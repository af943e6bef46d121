//! Images on disk: content by digest, layers by diff ID, snapshots, names.
//!
//! Blocking; callers with an event loop use a thread. Must not know about the
//! network, HTTP or containers (a snapshot is named by an opaque key).
//!
//! ```text
//! <root>/blobs/sha256/<hex>          what was loaded, byte for byte
//! <root>/layers/sha256/<hex>/        one per diff ID: layer.json, and the content:
//!                                    layer.erofs or, as a directory, fs/
//! <root>/snapshots/<key>/{upper,work}
//! <root>/images.json                 images by manifest digest, and their names
//! <root>/pins.jsonl                  what the build cache keeps
//! <root>/synced.json                 how much of that a power cut cannot take
//! <root>/ingest/sha256/<hex>         downloads, partial or in no image yet
//! <root>/tmp/                        emptied at open; made visible by rename
//! ```
//!
//! A kill at any moment leaves the old or the new state.

mod arrival;
mod blob;
mod built;
mod busy;
mod canonical;
mod changes;
mod check;
mod decompress;
mod diff;
mod disk;
mod durable;
mod error;
mod hashing;
mod hello;
mod images;
mod import;
mod incoming;
mod ingest;
mod layer;
mod lease;
mod load;
mod manifest;
mod measure;
mod merged;
mod pack;
mod pins;
mod platform;
mod publish;
mod reader;
mod reference;
mod regenerate;
mod save;
mod slots;
mod snapshot;
mod state;
mod store;
mod tar;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trash;
mod unpack;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

pub use crate::blob::digest_of;
pub use crate::built::Placed;
pub use crate::check::{Damage, Report};
pub use crate::decompress::inflate;
pub use crate::diff::DiffOptions;
pub use crate::disk::remove_directory;
pub use crate::error::Error;
pub use crate::incoming::{Blob, Incoming, Ingest, IngestReader};
pub use crate::layer::is_wanted as is_wanted_xattr;
pub use crate::measure::disk_usage;
pub use crate::pack::{PackAs, Packed};
pub use crate::pins::Pin;
pub use crate::reader::BlobReader;
pub use crate::reference::Reference;
pub use crate::tar::{
    Entry as TarEntry, Extent as TarExtent, Kind as TarKind, Reader as TarReader, TarWriter,
    Time as TarTime,
};
pub use crate::unpack::is_nearly_full;
pub use crate::usage::{BlobUsage, ImageUsage, LayerUsage, Limits, Usage};

/// "sha256:<hex>".
pub type Digest = String;

/// The store. Cheap to share (`Arc` inside); safe from many threads.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<store::Inner>,
}

/// An image as the engine sees it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of the manifest (or of the index): Docker 29's image ID with the
    /// containerd store.
    pub id: Digest,
    /// Digest of the configuration blob; also accepted as an ID.
    pub config_digest: Digest,
    /// The configuration, parsed, and its bytes (Docker's additions included).
    /// Shared: a list of a thousand images copies none of them.
    pub config: Arc<ImageConfiguration>,
    pub raw_config: Arc<[u8]>,
    /// Normalised names with tags ("docker.io/library/busybox:latest").
    pub names: Vec<String>,
    /// Normalised names with digests, for images that were pulled or pushed.
    pub digests: Vec<String>,
    /// Bytes: unpacked layers, and blobs as stored.
    pub size: u64,
    pub blob_size: u64,
    /// Seconds since 1970: configuration's `created`, else the time of import.
    pub created: i64,
    /// Last time a name was set; RFC 3339.
    pub tagged_at: Option<String>,
    /// Of the manifest or index that is its ID, and its bytes.
    pub media_type: String,
    pub manifest_size: u64,
}

/// What [`Store::load`] reports as it goes.
#[derive(Clone, Debug)]
pub enum Progress {
    /// A layer of the archive: its short diff ID, bytes done and in all.
    Layer {
        id: String,
        done: u64,
        total: u64,
    },
    LayerDone {
        id: String,
    },
    /// "Loaded image: busybox:latest" or "Loaded image ID: sha256:…".
    Loaded {
        text: String,
    },
}

/// How an image was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    Untagged(String),
    Deleted(Digest),
}

/// A writable root filesystem, described for whoever mounts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Topmost first.
    pub layers: Vec<LayerLocation>,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub options: Vec<String>,
}

/// Where a layer's content is and in which form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerLocation {
    Directory(PathBuf),
    Erofs(PathBuf),
}

/// A platform as manifests and `--platform` name it. Empty = any.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: String,
    pub os_version: String,
}

/// One manifest of an image: an entry of its index, or its only one.
#[derive(Clone, Debug)]
pub struct ManifestSummary {
    pub digest: Digest,
    pub media_type: String,
    /// Bytes of the manifest itself.
    pub size: u64,
    pub kind: ManifestKind,
    pub platform: Platform,
    /// All its blobs are here.
    pub available: bool,
    /// Bytes: the blobs that are here, and the unpacked layers that are here.
    pub content_size: u64,
    pub unpacked_size: u64,
    pub config_digest: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    Image,
    /// Describes the manifest of that digest (provenance, SBOM).
    Attestation(Digest),
    Unknown,
}
