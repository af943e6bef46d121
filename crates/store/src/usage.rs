//! What takes space, giving it back within limits, finding damage.

use crate::error::Result;
use crate::{Digest, Image, Removed, Store};

/// Bytes on disk, as `du` counts them.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub layers: Vec<LayerUsage>,
    /// By digest: blobs of images.
    pub blobs: Vec<(Digest, u64)>,
    /// Incomplete downloads.
    pub ingests: u64,
    /// Writable parts of containers, by key.
    pub snapshots: Vec<(String, u64)>,
}

#[derive(Clone, Debug)]
pub struct LayerUsage {
    pub diff_id: Digest,
    pub size: u64,
    /// Images that stand on it.
    pub images: Vec<Digest>,
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

/// Something that `check` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// "blob sha256:…", "layer sha256:…", "image …", "file …".
    pub what: String,
    pub problem: String,
    /// What repair did or would do.
    pub remedy: String,
    pub repaired: bool,
}

impl Store {
    pub fn usage(&self) -> Result<Usage> {
        Err(unwritten())
    }

    /// Removes what the limits ask for and nothing stands on. `in_use` says
    /// whether a container needs the image.
    pub fn collect_within(
        &self,
        _limits: Limits,
        _in_use: &dyn Fn(&Image) -> bool,
    ) -> Result<(Vec<Removed>, u64)> {
        Err(unwritten())
    }

    /// Verifies every blob, layer, record and reference against each other.
    /// With `repair`, mends what can be mended from what is here (a layer from
    /// its blob, a blob's length or digest from nothing: it is removed with the
    /// images that need it, which are named).
    pub fn check(&self, _repair: bool) -> Result<Vec<Damage>> {
        Err(unwritten())
    }
}

fn unwritten() -> crate::Error {
    crate::Error::Invalid("not written yet".to_owned())
}
