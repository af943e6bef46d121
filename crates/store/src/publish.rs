//! What has come in becomes images: layers and blobs first, the names that make
//! them count last, in one visible step.

use std::collections::hash_map::Entry;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::renameat;

use crate::blob::Source;
use crate::disk::open_directory;
use crate::error::{Error, Result, invalid};
use crate::incoming::{Arrived, Incoming, Part};
use crate::layer::FormKind;
use crate::state::{Record, Saved, State, describe, now, set_name};
use crate::store::{Inner, LAYER_RECORD, StoredBlobs, Work, crash_point, hex, publish};
use crate::unpack::NewLayer;
use crate::{BlobReader, Digest, Image};

/// An image to be, all of whose parts have come in.
#[derive(Debug)]
pub(crate) struct NewImage {
    /// Digest of the manifest or index.
    pub(crate) id: Digest,
    /// Full names with tags; they leave the images that had them.
    pub(crate) names: Vec<String>,
    /// Full names with digests.
    pub(crate) digests: Vec<String>,
    /// RFC 3339.
    pub(crate) loaded_at: String,
}

impl Incoming {
    /// Makes a verified layer visible; it is kept for the images to come.
    pub(crate) fn add_layer(&self, new: NewLayer) -> Result<()> {
        let inner = self.inner();
        crash_point("unpacked");
        let state = &mut *inner.state();
        let diff_id = new.diff_id.clone();
        self.keep(state, &diff_id);
        match state.layers.entry(diff_id.clone()) {
            Entry::Vacant(place) => {
                publish(
                    &self.work().fd,
                    &new.directory,
                    &inner.dirs.layers,
                    hex(&diff_id),
                )
                .map_err(Error::io("publish layer", &diff_id))?;
                place.insert(new.layer);
            }
            // Somebody else was faster, or it came with an image.
            Entry::Occupied(mut there) => {
                let layer = there.get_mut();
                if layer.built.is_none() && new.layer.built.is_some() {
                    replace(inner, self.work(), &diff_id, &new, layer.form)?;
                    *layer = new.layer;
                }
                inner.discard(&self.work().fd, new.directory.as_bytes());
            }
        }
        crash_point("layer");
        Ok(())
    }

    /// All or none of them. Killed in between, the next open finds blobs and
    /// layers that nothing stands on; what was downloaded is an ingest still.
    pub(crate) fn publish(&self, images: Vec<NewImage>) -> Result<Vec<Image>> {
        let inner = self.inner();
        let turn = inner.turn();
        let mut guard = inner.state();
        let state = &mut *guard;
        let ids: Vec<_> = images.iter().map(|image| image.id.clone()).collect();
        state.publication += 1;
        let publication = state.publication;
        let mut records = Vec::new();
        for new in images {
            let old = state.images.get(&new.id);
            let mut saved = Saved {
                id: new.id,
                names: old.map(|old| old.saved.names.clone()).unwrap_or_default(),
                digests: old.map(|old| old.saved.digests.clone()).unwrap_or_default(),
                loaded_at: new.loaded_at.clone(),
                tagged_at: old.and_then(|old| old.saved.tagged_at.clone()),
                used_at: old.and_then(|old| old.saved.used_at.clone()),
                publication,
            };
            for digest in new.digests {
                if !saved.digests.contains(&digest) {
                    saved.digests.push(digest);
                    saved.digests.sort();
                }
            }
            let record = self.describe(state, saved)?;
            records.push((Arc::new(record), new.names, new.loaded_at));
        }
        let mut ingests = Vec::new();
        for digest in records.iter().flat_map(|(record, ..)| &record.blobs) {
            self.publish_blob(state, digest)?;
            if let Some(Part::Arriving(_)) = self.part(digest) {
                ingests.push(digest.clone());
            }
        }
        // Others may collect while the images are written.
        for (record, ..) in &records {
            let parts = record.blobs.iter().chain(&record.layers);
            parts.for_each(|digest| self.keep(state, digest));
        }
        crash_point("blobs");
        let state = inner.update_images(&turn, guard, |images| {
            // All first: an archive may list one image several times.
            for (record, ..) in &records {
                images.insert(record.saved.id.clone(), record.clone());
            }
            for (record, names, now) in &records {
                for name in names {
                    set_name(images, &record.saved.id, name, now);
                }
            }
        })?;
        inner.syncer.push(publication);
        for digest in ingests {
            inner.forget_ingest(&digest);
            crash_point("forgotten");
        }
        let found = ids.iter().filter_map(|id| state.images.get(id));
        Ok(found.map(|record| record.image.clone()).collect())
    }

    /// What an image of that ID would be.
    pub(crate) fn record(&self, id: &str) -> Result<Record> {
        let saved = Saved {
            id: id.to_owned(),
            loaded_at: now(),
            ..Saved::default()
        };
        self.describe(&self.inner().state(), saved)
    }

    fn describe(&self, state: &State, saved: Saved) -> Result<Record> {
        let source = Both {
            incoming: self,
            stored: StoredBlobs {
                inner: self.inner(),
                sizes: &state.blobs,
                layers: &state.layers,
            },
        };
        let record = describe(saved, &state.layers, &source)?;
        if let Some(layer) = record.missing(&state.layers) {
            return invalid(format!(
                "layer {layer} of image {} is missing",
                record.saved.id
            ));
        }
        if !record.manifests.iter().any(|found| found.available) {
            return invalid(format!("image {} is incomplete", record.saved.id));
        }
        Ok(record)
    }

    fn publish_blob(&self, state: &mut State, digest: &Digest) -> Result<()> {
        let inner: &Inner = self.inner();
        // What a layer gives is not stored as well.
        if state.blob_size(digest).is_some() {
            return Ok(());
        }
        let size = match self.part(digest) {
            Some(Part::Spooled { file, size }) => {
                let name = hex(digest);
                renameat(&self.work().fd, file.as_str(), &inner.dirs.blobs, name)
                    .map_err(Error::io("publish blob", digest))?;
                size
            }
            Some(Part::Arriving(arrival)) => {
                inner.link_ingest(digest)?;
                arrival.size()
            }
            None => return invalid(format!("blob {digest} is missing")),
        };
        state.blobs.insert(digest.clone(), size);
        Ok(())
    }
}

/// Makes a layer that came with an image one that was built here. The content
/// is the same unless it has the other form, so only the record changes.
fn replace(
    inner: &Inner,
    work: &Work,
    diff_id: &str,
    new: &NewLayer,
    form: FormKind,
) -> Result<()> {
    let failed = || Error::io("replace layer", diff_id);
    if form == new.layer.form {
        let made = open_directory(work.fd.as_fd(), new.directory.as_bytes()).map_err(failed())?;
        let there = inner.open_layer(diff_id).map_err(failed())?;
        return renameat(&made, LAYER_RECORD, &there, LAYER_RECORD).map_err(failed());
    }
    inner.discard(&inner.dirs.layers, hex(diff_id).as_bytes());
    publish(&work.fd, &new.directory, &inner.dirs.layers, hex(diff_id)).map_err(failed())?;
    inner.measured().remove(diff_id);
    inner.tell_removed();
    Ok(())
}

/// What has come in and what was there before: an index of which another
/// platform is pulled keeps those it has.
struct Both<'a> {
    incoming: &'a Incoming,
    stored: StoredBlobs<'a>,
}

impl Source for Both<'_> {
    fn size(&self, digest: &str) -> Option<u64> {
        let stored = self.stored.size(digest);
        stored.or_else(|| Arrived(self.incoming).size(digest))
    }

    fn made(&self, digest: &str) -> Option<u64> {
        self.stored.made(digest)
    }

    fn open(&self, digest: &str) -> Result<BlobReader> {
        if self.stored.size(digest).is_some() {
            self.stored.open(digest)
        } else {
            Arrived(self.incoming).open(digest)
        }
    }
}
