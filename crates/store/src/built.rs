//! Layers that a build makes: without a blob until an image needs one, kept by
//! pins instead of by an image.
//!
//! A built layer's tar stream is canonical: each directory followed by what is
//! in it, in the order of names' bytes; the first name of a file in that order
//! is the file, the others are hard links; written by [`crate::TarWriter`]. So
//! the stream can be made again from the layer, byte for byte, and need not be
//! stored.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use crate::error::{Result, invalid};
use crate::{Digest, Incoming, LayerLocation, PackAs, Packed, Snapshot, Store};

/// Keeps layers from collection for as long as it stands, through restarts.
/// One per entry of the build cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Unique; a pin of the same key is replaced.
    pub key: String,
    /// Diff IDs.
    pub layers: Vec<Digest>,
    /// Whatever its owner wants to know of it (JSON).
    pub data: String,
}

/// How [`Store::diff_with`] writes changes.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions<'a> {
    /// Paths that are left out, with what is below them.
    pub without: &'a [&'a str],
    /// One time for all files, seconds since 1970; none = their own.
    pub time: Option<i64>,
}

impl Store {
    /// Written down before it returns (appended to `pins.jsonl`, not synced).
    ///
    /// # Errors
    /// `NotFound` if a layer is not here.
    pub fn pin(&self, pin: Pin) -> Result<()> {
        let Pin { key, .. } = pin;
        invalid(format!("pin {key} is not written yet"))
    }

    /// Takes pins away, and collects what nothing stands on then. Unknown keys
    /// are ignored.
    pub fn unpin(&self, keys: &[String]) -> Result<()> {
        invalid(format!("unpin {keys:?} is not written yet"))
    }

    /// All pins, in the order in which they were set.
    pub fn pins(&self) -> Vec<Pin> {
        Vec::new()
    }

    /// A writable root filesystem on these layers, bottom first; see
    /// [`Store::create_snapshot`].
    ///
    /// # Errors
    /// `Conflict` if the key is taken, `NotFound` if a layer is gone.
    pub fn create_snapshot_on(
        &self,
        key: &str,
        layers: &[Digest],
        mapped_root: (u32, u32),
    ) -> Result<Snapshot> {
        invalid(format!(
            "{key} {layers:?} {mapped_root:?} is not written yet"
        ))
    }

    /// Where these layers (bottom first) are, topmost first, as
    /// [`Store::layers`] says of an image's.
    ///
    /// # Errors
    /// `NotFound` if one is gone.
    pub fn locate_layers(&self, layers: &[Digest]) -> Result<Vec<LayerLocation>> {
        invalid(format!("{layers:?} is not written yet"))
    }

    /// [`Store::diff`] as a canonical stream; whether there were any changes.
    pub fn diff_with(
        &self,
        key: &str,
        options: &DiffOptions<'_>,
        out: &mut dyn Write,
    ) -> Result<bool> {
        let _ = (options, out);
        invalid(format!("{key} is not written yet"))
    }
}

impl Incoming {
    /// Makes a layer of a plain, canonical tar stream; no blob. It is kept while
    /// this lives. Returns its diff ID.
    pub fn layer(&self, plain: &mut dyn Read) -> Result<Digest> {
        let _ = plain;
        invalid("layers are not written yet".to_owned())
    }

    /// Keeps a layer that is here.
    ///
    /// # Errors
    /// `NotFound` if it is gone.
    pub fn keep_layer(&self, layer: &str) -> Result<()> {
        invalid(format!("{layer} is not written yet"))
    }

    /// The blob of a layer that was made by [`Incoming::layer`], for a manifest.
    /// Equal layers and compressions give equal blobs.
    ///
    /// # Errors
    /// `NotFound` if it is gone.
    pub fn blob_of(&self, layer: &str, compression: PackAs) -> Result<Packed> {
        invalid(format!("{layer} {compression:?} is not written yet"))
    }
}
