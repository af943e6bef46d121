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

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::arrival::{Arrival, ArrivalReader, Break};
use crate::blob::{Source, Tee, digest_of, hex_of, open_file};
use crate::disk::create_file;
use crate::error::{Error, Result, invalid};
use crate::lease::Lease;
use crate::publish::NewImage;
use crate::state::{State, now};
use crate::store::{Inner, Work, crash_point, hex};
use crate::unpack::{NewLayer, Unpacked, unpack_blob};
use crate::{BlobReader, Digest, Image, Reference, Store};

/// A collection of blobs and layers that will be an image. Cheap to clone;
/// its methods may be called from many threads at once. When the last clone is
/// dropped, what no image stands on is collected, except for whole and partial
/// downloads: they stay for a week, for the next try.
#[derive(Clone, Debug)]
pub struct Incoming {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    // In the order in which they must go.
    parts: Mutex<HashMap<Digest, Part>>,
    serial: AtomicUsize,
    work: Work,
    lease: Lease,
    inner: Arc<Inner>,
}

/// A blob that has come in or is coming.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Whole and verified, a file of that name in the work directory.
    Spooled { file: String, size: u64 },
    /// In `ingest/`, or on its way there.
    Arriving(Arc<Arrival>),
}

/// Where a blob is.
#[derive(Debug)]
pub enum Blob {
    /// Here, of this many bytes; kept for the [`Incoming`].
    Present(u64),
    /// To be written by whoever got this first; see [`Ingest::is_writer`].
    Arriving(Ingest),
}

/// A blob that is arriving. All who ask for the same digest at the same time
/// get the same one; the first is its writer. If the writer is dropped without
/// [`Ingest::finish`], the readers get an error, the bytes stay for the next
/// try, and whoever next calls [`Incoming::blob`] is the writer.
#[derive(Debug)]
pub struct Ingest {
    arrival: Arc<Arrival>,
    is_writer: bool,
}

/// Reads an arriving blob from its beginning; waits for bytes; its end is
/// announced only after length and digest were verified, else it is an error.
#[derive(Debug)]
pub struct IngestReader {
    reader: ArrivalReader,
}

impl Store {
    pub fn incoming(&self) -> Result<Incoming> {
        self.inner.sweep_ingests(&self.inner.state());
        Incoming::new(&self.inner, "incoming")
    }
}

impl Incoming {
    pub(crate) fn new(inner: &Arc<Inner>, kind: &str) -> Result<Self> {
        let shared = Shared {
            parts: Mutex::default(),
            serial: AtomicUsize::new(0),
            work: Work::new(inner, kind)?,
            lease: Lease::new(inner.clone()),
            inner: inner.clone(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.shared.inner
    }

    pub(crate) fn work(&self) -> &Work {
        &self.shared.work
    }

    fn parts(&self) -> MutexGuard<'_, HashMap<Digest, Part>> {
        let lock = self.shared.parts.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn part(&self, digest: &str) -> Option<Part> {
        self.parts().get(digest).cloned()
    }

    /// Keeps a blob and a layer of that digest, here or not yet.
    pub(crate) fn keep(&self, state: &mut State, digest: &str) {
        self.shared.lease.add(state, digest);
    }

    /// A file to write a blob to; to be given to [`Self::add`].
    pub(crate) fn create(&self) -> Result<(String, File)> {
        let serial = self.shared.serial.fetch_add(1, Ordering::Relaxed);
        let name = format!("blob-{serial}");
        let file = create_file(&self.shared.work.fd, &name)
            .map_err(Error::io("create temporary file", &name))?;
        Ok((name, file))
    }

    /// Adds a whole blob: a file in the work directory.
    pub(crate) fn add(&self, file: String, digest: Digest, size: u64) {
        self.keep(&mut self.inner().state(), &digest);
        self.parts().insert(digest, Part::Spooled { file, size });
    }

    /// Forgets all other blobs.
    pub(crate) fn retain(&self, kept: &HashSet<Digest>) {
        self.parts().retain(|digest, _| kept.contains(digest));
    }

    /// Adds a blob of unknown digest.
    pub(crate) fn spool(&self, input: &mut dyn Read) -> Result<Digest> {
        let (name, file) = self.create()?;
        let (digest, size) = Tee::copy(input, file)
            .finish()
            .map_err(Error::stream("the archive"))?;
        self.add(name, digest.clone(), size);
        Ok(digest)
    }

    /// Adds a manifest, index or configuration that is made here; its digest.
    pub fn add_document(&self, mut bytes: &[u8]) -> Result<Digest> {
        self.spool(&mut bytes)
    }

    /// Adds a manifest, index or configuration, held in memory.
    ///
    /// # Errors
    /// `Invalid` if it does not have the digest.
    pub fn put(&self, digest: &str, mut bytes: &[u8]) -> Result<()> {
        hex_of(digest)?;
        let found = digest_of(bytes);
        if found != digest {
            return invalid(format!(
                "blob {digest} does not match its digest: its content has {found}"
            ));
        }
        self.spool(&mut bytes).map(drop)
    }

    /// Adds a blob of a known length. One that an earlier try left whole is
    /// verified here; what it left in part is read again and counts as written.
    ///
    /// # Errors
    /// `Invalid` if it is here, or arriving for somebody else, with another
    /// length.
    pub fn blob(&self, digest: &str, size: u64) -> Result<Blob> {
        hex_of(digest)?;
        let (arrival, is_writer) = {
            let state = &mut *self.inner().state();
            self.keep(state, digest);
            let here = state.blob_size(digest);
            if let Some(here) = here.or_else(|| Arrived(self).size(digest)) {
                if here != size {
                    return invalid(format!(
                        "blob {digest} has {here} bytes where its manifest says {size}"
                    ));
                }
                return Ok(Blob::Present(size));
            }
            let (arrival, is_writer) = self.inner().ingest(digest, size)?;
            let part = Part::Arriving(arrival.clone());
            self.parts().insert(digest.to_owned(), part);
            (arrival, is_writer)
        };
        crash_point("ingest");
        let ingest = Ingest { arrival, is_writer };
        if is_writer && ingest.written() == 0 {
            ingest.arrival.resume()?;
            crash_point("resumed");
        }
        if ingest.arrival.done().is_some() {
            return Ok(Blob::Present(size));
        }
        Ok(Blob::Arriving(ingest))
    }

    /// Whether a layer is unpacked already; if so it is kept for this image.
    pub fn has_layer(&self, diff_id: &str) -> bool {
        let state = &mut *self.inner().state();
        let here = state.layers.contains_key(diff_id);
        if here {
            self.keep(state, diff_id);
        }
        here
    }

    /// Whether the layer in that blob is unpacked, as far as images tell.
    pub(crate) fn knows_layer_of(&self, blob: &str) -> bool {
        let state = self.inner().state();
        // A plain blob is its own diff ID.
        if state.layers.contains_key(blob) {
            return true;
        }
        let manifests = state.images.values().flat_map(|r| r.manifests.iter());
        let mut layers = manifests.flat_map(|found| &found.layers);
        layers.any(|(diff_id, of)| of == blob && state.layers.contains_key(diff_id))
    }

    /// Unpacks a layer from its blob, present or arriving (then it ends when
    /// the blob has arrived), and verifies blob digest and diff ID. `progress`
    /// is told the bytes of the blob that are unpacked. Two calls for one diff
    /// ID do the work once.
    pub fn unpack(&self, blob: &str, diff_id: &str, progress: &mut dyn FnMut(u64)) -> Result<()> {
        hex_of(diff_id)?;
        let _turn = self.inner().unpacking.turn(diff_id);
        if self.has_layer(diff_id) {
            return Ok(());
        }
        let unpacked = self.unpack_any(blob, progress)?;
        let found = unpacked.diff_id.unwrap_or_else(|| blob.to_owned());
        if found != diff_id {
            return invalid(format!(
                "invalid diffID: expected {diff_id:?}, got {found:?}"
            ));
        }
        self.add_layer(NewLayer {
            diff_id: found,
            directory: unpacked.directory,
            layer: unpacked.layer,
        })
    }

    fn unpack_any(&self, blob: &str, progress: &mut dyn FnMut(u64)) -> Result<Unpacked> {
        let inner = self.inner();
        let mut slot = Some(inner.slots.slot());
        let Some(Part::Arriving(arrival)) = self.part(blob) else {
            let Some((file, size)) = self.find_blob(blob)? else {
                return invalid(format!("blob {blob} is missing"));
            };
            return unpack_blob(inner, self.work(), file, size, progress);
        };
        loop {
            let mut reader = arrival.reader();
            let broken = reader.broken();
            reader = reader.with_slot(slot.take().unwrap_or_else(|| inner.slots.slot()));
            let error = match unpack_blob(inner, self.work(), reader, arrival.size(), progress) {
                Ok(unpacked) => return Ok(unpacked),
                Err(error) => error,
            };
            match ArrivalReader::why(&arrival, broken) {
                // The bytes to come are others than those unpacked so far.
                Some((Break::Restarted, _)) => {}
                Some((_, error)) => return Err(error),
                None => return Err(error),
            }
        }
    }

    /// Opens a blob that is here, whole; and its length.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn open_blob(&self, digest: &str) -> Result<(BlobReader, u64)> {
        hex_of(digest)?;
        let found = self.find_blob(digest)?;
        found.ok_or_else(|| Error::NotFound(format!("blob {digest} not found")))
    }

    fn find_blob(&self, digest: &str) -> Result<Option<(BlobReader, u64)>> {
        let stored = {
            let state = &mut *self.inner().state();
            let stored = state.blob_size(digest).is_some();
            if stored {
                self.keep(state, digest);
            }
            stored
        };
        if stored {
            return self.inner().open_blob(digest).map(Some);
        }
        let arrived = Arrived(self);
        let size = arrived.size(digest);
        size.map(|size| Ok((arrived.open(digest)?, size)))
            .transpose()
    }

    /// Makes `id` (a manifest or index that was put) an image with these names
    /// (tags) and digest names ("docker.io/library/busybox@sha256:…"). At least
    /// one platform of an index must be complete. All that was added stays
    /// locked against collection until this returns.
    pub fn commit(&self, id: &str, names: &[Reference], digests: &[String]) -> Result<Image> {
        let new = NewImage {
            id: id.to_owned(),
            names: names.iter().map(Reference::full).collect(),
            digests: digests.to_vec(),
            loaded_at: now(),
        };
        let image = self.publish(vec![new])?.pop();
        image.ok_or_else(|| Error::NotFound(format!("No such image: {id}")))
    }
}

/// The blobs that have come in, whole.
pub(crate) struct Arrived<'a>(pub(crate) &'a Incoming);

impl Source for Arrived<'_> {
    fn size(&self, digest: &str) -> Option<u64> {
        match self.0.part(digest)? {
            Part::Spooled { size, .. } => Some(size),
            Part::Arriving(arrival) => arrival.done().map(|_| arrival.size()),
        }
    }

    fn open(&self, digest: &str) -> Result<BlobReader> {
        let inner = self.0.inner();
        match self.0.part(digest) {
            Some(Part::Spooled { file, .. }) => open_file(&self.0.work().fd, &file),
            Some(Part::Arriving(_)) => open_file(&inner.dirs.ingest, hex(digest)),
            None => return invalid(format!("blob {digest} is missing")),
        }
        .map(BlobReader::from)
        .map_err(Error::io("open blob", digest))
    }
}

impl Ingest {
    /// Whether this one is to write; the others only read.
    pub fn is_writer(&self) -> bool {
        self.is_writer
    }

    /// Bytes there already, from an earlier try or so far.
    pub fn written(&self) -> u64 {
        self.arrival.written()
    }

    /// Appends. Must not exceed the length that was announced.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        self.check_writer()?;
        self.arrival.write(bytes)
    }

    /// Throws away what is there: the source gave something else.
    pub fn restart(&self) -> Result<()> {
        self.check_writer()?;
        self.arrival.restart()
    }

    /// All is written: verifies length and digest, syncs nothing, makes it a
    /// blob of the [`Incoming`]s that asked for it. On a wrong digest the bytes
    /// are thrown away, the readers get an error, and writing may begin anew.
    pub fn finish(&self) -> Result<()> {
        self.check_writer()?;
        self.arrival.finish()?;
        crash_point("finished");
        Ok(())
    }

    pub fn reader(&self) -> Result<IngestReader> {
        Ok(IngestReader {
            reader: self.arrival.reader(),
        })
    }

    fn check_writer(&self) -> Result<()> {
        if self.is_writer {
            return Ok(());
        }
        invalid("somebody else writes this blob")
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.is_writer {
            self.arrival.abandon();
        }
    }
}

impl Read for IngestReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

#[cfg(test)]
mod tests;
