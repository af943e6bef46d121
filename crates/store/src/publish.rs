//! From a work directory to the visible store: layers unpacked, then blobs,
//! layers and names made visible together.

use std::collections::hash_map::Entry;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{Mode, mkdirat, renameat};

use crate::blob::{Spool, Tee};
use crate::decompress::decompress;
use crate::disk::{create_file, open_directory};
use crate::error::{Error, Result};
use crate::layer::{self, Ending, Layer, unpack};
use crate::manifest::Resolved;
use crate::state::{Saved, State, set_name};
use crate::store::{Inner, LAYER_RECORD, StoredBlobs, Work, crash_point, hex, publish};
use crate::{Digest, Image};

/// A layer complete in a work directory.
#[derive(Debug)]
pub(crate) struct NewLayer {
    pub(crate) diff_id: Digest,
    directory: String,
    layer: Layer,
}

/// Unpacks a layer's blob, compressed or not, and finds its diff ID.
pub(crate) fn unpack_layer(
    inner: &Inner,
    work: &Work<'_>,
    blob: &mut dyn Read,
    ending: Ending,
) -> Result<NewLayer> {
    let (_, plain) = decompress(blob)?;
    unpack_plain(inner, work, plain, ending)
}

/// The same for a plain stream.
pub(crate) fn unpack_plain(
    inner: &Inner,
    work: &Work<'_>,
    plain: impl Read,
    ending: Ending,
) -> Result<NewLayer> {
    let directory = inner.unique("layer");
    let failed = || Error::io("make layer", &directory);
    mkdirat(&work.fd, directory.as_str(), Mode::from_raw_mode(0o711)).map_err(failed())?;
    let at = open_directory(work.fd.as_fd(), directory.as_bytes()).map_err(failed())?;
    let mut plain = Tee::hash(plain);
    let layer = unpack(&mut plain, ending, layer::create(inner.options, &at)?)?;
    let (diff_id, _) = plain.finish().map_err(Error::stream("the archive"))?;

    let mut file = create_file(&at, LAYER_RECORD).map_err(failed())?;
    serde_json::to_vec(&layer)
        .map_err(std::io::Error::from)
        .and_then(|record| file.write_all(&record))
        .map_err(Error::io("make layer", &directory))?;
    Ok(NewLayer {
        diff_id,
        directory,
        layer,
    })
}

/// An image whose parts are in a work directory or in the store already.
#[derive(Debug)]
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) names: Vec<String>,
    pub(crate) resolved: Resolved,
    /// RFC 3339.
    pub(crate) loaded_at: String,
}

/// What becomes visible in one step.
pub(crate) struct Publication<'a> {
    inner: &'a Inner,
    work: &'a Work<'a>,
    spool: &'a Spool<'a>,
    layers: Vec<NewLayer>,
    pub(crate) images: Vec<NewImage>,
    /// Layers of the store that this counts on: kept until it is done.
    leases: Vec<Digest>,
}

impl<'a> Publication<'a> {
    pub(crate) fn new(inner: &'a Inner, work: &'a Work<'a>, spool: &'a Spool<'a>) -> Self {
        Self {
            inner,
            work,
            spool,
            layers: Vec::new(),
            images: Vec::new(),
            leases: Vec::new(),
        }
    }

    /// Whether a layer need not be unpacked; if so, it stays.
    pub(crate) fn has_layer(&mut self, diff_id: &Digest) -> bool {
        if self.layers.iter().any(|new| new.diff_id == *diff_id) || self.leases.contains(diff_id) {
            return true;
        }
        let state = &mut *self.inner.state();
        let there = state.layers.contains_key(diff_id);
        if there {
            *state.leases.entry(diff_id.clone()).or_default() += 1;
            self.leases.push(diff_id.clone());
        }
        there
    }

    pub(crate) fn add_layer(&mut self, layer: NewLayer) {
        self.layers.push(layer);
    }

    /// Blobs and layers first, the names that make them count last. Killed in
    /// between, the next open finds blobs and layers that nothing stands on.
    pub(crate) fn commit(mut self) -> Result<Vec<Image>> {
        let inner = self.inner;
        let state = &mut *inner.state();
        let ids: Vec<_> = self.images.iter().map(|image| image.id.clone()).collect();
        let result = self.publish(state);
        if let Err(error) = result {
            inner.collect(state)?;
            return Err(error);
        }
        release(state, &mut self.leases);
        let found = ids.iter().filter_map(|id| state.images.get(id));
        Ok(found.map(|record| record.image.clone()).collect())
    }

    fn publish(&mut self, state: &mut State) -> Result<()> {
        let inner = self.inner;
        for NewLayer {
            diff_id,
            directory,
            layer,
        } in self.layers.drain(..)
        {
            // Another load may have been faster.
            if let Entry::Vacant(place) = state.layers.entry(diff_id) {
                publish(
                    &self.work.fd,
                    &directory,
                    &inner.dirs.layers,
                    hex(place.key()),
                )
                .map_err(Error::io("publish layer", place.key()))?;
                place.insert(layer);
            }
        }
        crash_point("layers");
        let mut records = Vec::new();
        for image in self.images.drain(..) {
            for digest in &image.resolved.blobs {
                if let Some(blob) = self.spool.blob(digest)
                    && !state.blobs.contains_key(digest)
                {
                    renameat(
                        &self.work.fd,
                        blob.file.as_str(),
                        &inner.dirs.blobs,
                        hex(digest),
                    )
                    .map_err(Error::io("publish blob", digest))?;
                    state.blobs.insert(digest.clone(), blob.size);
                }
            }
            let old = state.images.get(&image.id);
            let saved = Saved {
                id: image.id,
                names: old.map(|old| old.saved.names.clone()).unwrap_or_default(),
                digests: old.map(|old| old.saved.digests.clone()).unwrap_or_default(),
                loaded_at: image.loaded_at.clone(),
                tagged_at: old.and_then(|old| old.saved.tagged_at.clone()),
            };
            let source = StoredBlobs {
                inner,
                sizes: state.blobs.clone(),
            };
            let record = state.describe(saved, image.resolved, &source)?;
            records.push((Arc::new(record), image.names, image.loaded_at));
        }
        crash_point("blobs");
        inner.update_images(state, |images| {
            for (record, names, now) in records {
                let id = record.saved.id.clone();
                images.insert(id.clone(), record);
                for name in names {
                    set_name(images, &id, &name, &now);
                }
            }
            Ok(())
        })
    }
}

impl Drop for Publication<'_> {
    fn drop(&mut self) {
        if !self.leases.is_empty() {
            release(&mut self.inner.state(), &mut self.leases);
        }
    }
}

/// What nothing else stands on is left to the next collection.
fn release(state: &mut State, leases: &mut Vec<Digest>) {
    for diff_id in leases.drain(..) {
        if let Some(count) = state.leases.get_mut(&diff_id) {
            *count -= 1;
            if *count == 0 {
                state.leases.remove(&diff_id);
            }
        }
    }
}
