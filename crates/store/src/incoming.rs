//! An image on its way in, from a registry, an archive, a commit or a build.
//!
//! ```text
//! <root>/ingest/sha256/<hex>    a blob that is arriving; survives a kill, so
//!                               that the next try goes on where it stopped
//! ```
//!
//! [`Incoming`] collects blobs and unpacked layers, keeps them from collection
//! while it lives, and makes the image visible in one step at the end. Blobs
//! arrive through [`Ingest`]: one writes, any number read at the same time from
//! the beginning, so a layer is hashed, inflated and unpacked while it is
//! downloaded. All is blocking except [`Ingest::write`], which is short.

use std::io::{self, Read};

use crate::error::Result;
use crate::{Digest, Image, ManifestSummary, Platform, Reference, Store};

/// A collection of blobs and layers that will be an image. Cheap to clone;
/// its methods may be called from many threads at once.
#[derive(Clone, Debug)]
pub struct Incoming {}

/// Where a blob is.
#[derive(Debug)]
pub enum Blob {
    /// In the store, of this many bytes; kept for the [`Incoming`].
    Present(u64),
    /// To be written by whoever got this first; see [`Ingest::is_writer`].
    Arriving(Ingest),
}

/// A blob that is arriving. All who ask for the same digest at the same time
/// get the same one; the first is its writer. If the writer is dropped without
/// [`Ingest::finish`], the readers get an error and the bytes stay for the
/// next try.
#[derive(Debug)]
pub struct Ingest {}

/// Reads an arriving blob from its beginning; waits for bytes; its end is
/// announced only after length and digest were verified, else it is an error.
#[derive(Debug)]
pub struct IngestReader {}

impl Store {
    pub fn incoming(&self) -> Result<Incoming> {
        Err(unwritten())
    }

    /// Opens a blob for reading: the file and its length.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn open_blob(&self, _digest: &str) -> Result<(std::fs::File, u64)> {
        Err(unwritten())
    }

    /// The manifests of an image, in the index's order.
    pub fn manifests(&self, _id: &str) -> Result<Vec<ManifestSummary>> {
        Err(unwritten())
    }

    /// Like [`Store::find`], for a platform other than this machine's; its
    /// `config` and sizes are that platform's, its `id` stays the index's.
    ///
    /// # Errors
    /// `NotFound` ("image with reference x was found but does not provide the
    /// specified platform (linux/arm64)").
    pub fn find_platform(&self, _reference: &str, _platform: &Platform) -> Result<Image> {
        Err(unwritten())
    }
}

impl Incoming {
    /// Adds a manifest, index or configuration, held in memory.
    ///
    /// # Errors
    /// `Invalid` if it does not have the digest.
    pub fn put(&self, _digest: &str, _bytes: &[u8]) -> Result<()> {
        Err(unwritten())
    }

    /// Adds a blob of a known length.
    pub fn blob(&self, _digest: &str, _size: u64) -> Result<Blob> {
        Err(unwritten())
    }

    /// Whether a layer is unpacked already; if so it is kept for this image.
    pub fn has_layer(&self, _diff_id: &str) -> bool {
        false
    }

    /// Unpacks a layer from its blob, present or arriving (then it ends when
    /// the blob has arrived), and verifies blob digest and diff ID. `progress`
    /// is told the bytes of the blob that are unpacked. Two calls for one diff
    /// ID do the work once.
    pub fn unpack(
        &self,
        _blob: &str,
        _diff_id: &str,
        _progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        Err(unwritten())
    }

    /// Unpacks a plain tar stream that is in no blob yet, which becomes one,
    /// compressed as given (commit, build): the layer's descriptor.
    pub fn pack(&self, _plain: &mut dyn Read, _compression: PackAs) -> Result<Packed> {
        Err(unwritten())
    }

    /// Makes `id` (a manifest or index that was put) an image with these names
    /// (tags) and digest names ("docker.io/library/busybox@sha256:…"). At least
    /// one platform of an index must be complete. All that was added stays
    /// locked against collection until this returns.
    pub fn commit(&self, _id: &str, _names: &[Reference], _digests: &[String]) -> Result<Image> {
        Err(unwritten())
    }
}

/// Compression of a blob that is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackAs {
    Plain,
    Gzip,
    Zstd,
}

/// A layer made by [`Incoming::pack`].
#[derive(Clone, Debug)]
pub struct Packed {
    pub diff_id: Digest,
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

impl Ingest {
    /// Whether this one is to write; the others only read.
    pub fn is_writer(&self) -> bool {
        false
    }

    /// Bytes there already, from an earlier try or so far.
    pub fn written(&self) -> u64 {
        0
    }

    /// Appends. Must not exceed the length that was announced.
    pub fn write(&self, _bytes: &[u8]) -> Result<()> {
        Err(unwritten())
    }

    /// Throws away what is there: the source gave something else.
    pub fn restart(&self) -> Result<()> {
        Err(unwritten())
    }

    /// All is written: verifies length and digest (unless a reader has done
    /// so), syncs nothing, makes it a blob of the [`Incoming`]s that asked for
    /// it. On a wrong digest the bytes are thrown away.
    pub fn finish(&self) -> Result<()> {
        Err(unwritten())
    }

    pub fn reader(&self) -> Result<IngestReader> {
        Err(unwritten())
    }
}

impl Read for IngestReader {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn unwritten() -> crate::Error {
    crate::Error::Invalid("not written yet".to_owned())
}
