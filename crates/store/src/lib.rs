//! Images on disk: content by digest, layers by diff ID, snapshots, names.
//!
//! Blocking; callers with an event loop use a thread. Must not know about the
//! network, HTTP or containers (a snapshot is named by an opaque key).
//!
//! ```text
//! <root>/blobs/sha256/<hex>          what was loaded, byte for byte
//! <root>/layers/sha256/<hex>/        one per diff ID: form + content
//! <root>/snapshots/<key>/{upper,work}
//! <root>/images.json                 names → manifest digests
//! <root>/tmp/                        emptied at open; made visible by rename
//! ```
//!
//! A kill at any moment leaves the old or the new state.

use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

/// "sha256:<hex>".
pub type Digest = String;

/// The store. Cheap to share (`Arc` inside); safe from many threads.
#[derive(Clone, Debug)]
pub struct Store {}

/// An image as the engine sees it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of the manifest (or of the index): Docker 29's image ID with the
    /// containerd store.
    pub id: Digest,
    /// Digest of the configuration blob; also accepted as an ID.
    pub config_digest: Digest,
    /// The configuration, parsed, and its bytes (Docker's additions included).
    pub config: ImageConfiguration,
    pub raw_config: Vec<u8>,
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
}

/// What a reference to an image can be: a name, or an ID or its beginning.
/// Follows the distribution reference grammar and Docker's familiar names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// "docker.io"
    pub domain: String,
    /// "library/busybox"
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises; adds `:latest` when there is neither tag nor
    /// digest. Errors are Docker's words ("invalid reference format: …").
    pub fn parse(text: &str) -> Result<Self, Error> {
        let _ = text;
        todo!()
    }
    /// As people write it: "busybox:latest".
    pub fn familiar(&self) -> String {
        todo!()
    }
    /// In full: "docker.io/library/busybox:latest".
    pub fn full(&self) -> String {
        todo!()
    }
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

impl Store {
    /// Opens or makes a store; finishes or undoes what a crash interrupted.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let _ = root;
        todo!()
    }

    pub fn images(&self) -> Vec<Image> {
        todo!()
    }

    /// Finds by name, full ID, or unambiguous beginning of an ID.
    pub fn find(&self, reference: &str) -> Result<Image, Error> {
        let _ = reference;
        todo!()
    }

    /// Points `name` (normalised) at the image; takes it from another if need be.
    pub fn tag(&self, id: &str, name: &Reference) -> Result<(), Error> {
        let _ = (id, name);
        todo!()
    }

    /// Docker's rules: a name is untagged; the last name takes the image with
    /// it; an ID with several names needs `force`. `in_use(config or manifest
    /// digest)` says whether a container uses the image, with Docker's words.
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        in_use: &dyn Fn(&Image) -> Option<String>,
    ) -> Result<Vec<Removed>, Error> {
        let _ = (reference, force, in_use);
        todo!()
    }

    /// Reads a docker-archive or OCI layout, plain or compressed (gzip, zstd,
    /// xz, bzip2, found by content). Nothing is visible until all is verified.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Image>, Error> {
        let _ = (archive, progress);
        todo!()
    }

    /// Makes a one-layer image from a root filesystem archive (compressed or
    /// not) and a configuration whose `rootfs` and `history` are filled in here.
    pub fn import(
        &self,
        archive: &mut dyn Read,
        config: ImageConfiguration,
        name: Option<&Reference>,
    ) -> Result<Image, Error> {
        let _ = (archive, config, name);
        todo!()
    }

    /// The `hello-world` image that ships with berth, loaded under its name.
    pub fn load_hello_world(&self) -> Result<Image, Error> {
        todo!()
    }

    /// Makes the writable part of a root filesystem on top of an image.
    /// `mapped_root` owns the upper directory (0, 0 without user namespaces).
    pub fn create_snapshot(
        &self,
        key: &str,
        image: &Image,
        mapped_root: (u32, u32),
    ) -> Result<Snapshot, Error> {
        let _ = (key, image, mapped_root);
        todo!()
    }

    pub fn snapshot(&self, key: &str) -> Result<Snapshot, Error> {
        let _ = key;
        todo!()
    }

    /// Hides it at once (rename into tmp); the files go in the background.
    pub fn remove_snapshot(&self, key: &str) -> Result<(), Error> {
        let _ = key;
        todo!()
    }

    pub fn snapshot_keys(&self) -> Result<Vec<String>, Error> {
        todo!()
    }

    /// Bytes in the writable part.
    pub fn snapshot_size(&self, key: &str) -> Result<u64, Error> {
        let _ = key;
        todo!()
    }
}

/// Kinds that clients tell apart; the words are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// "No such image: x"
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    /// Bad reference, bad archive.
    #[error("{0}")]
    Invalid(String),
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },
}
