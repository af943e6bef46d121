//! `docker load`: an archive of images becomes images.
//!
//! The archive is a stream, and what its parts mean is said at its end, so:
//! spool every file while hashing it, then plan, then unpack the layers that
//! are missing, then make all visible in one step.

mod archive;
mod docker;
mod oci;

use std::fs::File;
use std::io::{self, Read};

use crate::blob::{Source, Spool, short};
use crate::error::{Result, invalid};
use crate::layer::Ending;
use crate::manifest::{Resolved, resolve};
use crate::publish::{NewImage, Publication, unpack_layer};
use crate::reference::familiar;
use crate::state::now;
use crate::store::{Inner, Work};
use crate::{Digest, Image, Progress, Reference, Store};

use self::archive::Archive;

/// Bytes between two reports on a layer.
const STEP: u64 = 1 << 20;

/// An image that an archive offers.
#[derive(Debug)]
struct Offer {
    /// Digest of the manifest or index.
    id: Digest,
    names: Vec<Reference>,
}

impl Store {
    /// Reads a docker-archive or OCI layout, plain or compressed (gzip, zstd,
    /// xz, bzip2, found by content). Nothing is visible until all is verified.
    ///
    /// # Errors
    /// `Invalid` says what is wrong with the archive; the store is as before.
    pub fn load(
        &self,
        archive: &mut dyn Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Image>> {
        let inner = &*self.inner;
        let work = Work::new(inner, "load")?;
        let mut archive = Archive::read(archive, Spool::new(&work.fd))?;
        let offers = if archive.has("oci-layout") || archive.has("index.json") {
            oci::offers(&archive)?
        } else if archive.has("manifest.json") {
            docker::offers(&mut archive)?
        } else {
            return invalid(
                "the archive is not an image: it has neither manifest.json nor index.json",
            );
        };
        if offers.is_empty() {
            return invalid("the archive holds no image");
        }
        let spool = archive.into_spool();
        let mut publication = Publication::new(inner, &work, &spool);
        let mut texts = Vec::new();
        for offer in offers {
            let resolved = resolve(&offer.id, &spool)?;
            layers(inner, &work, &resolved, &spool, &mut publication, progress)?;
            let names: Vec<_> = offer.names.iter().map(Reference::full).collect();
            if names.is_empty() {
                texts.push(format!("Loaded image ID: {}", offer.id));
            }
            texts.extend(
                names
                    .iter()
                    .map(|name| format!("Loaded image: {}", familiar(name))),
            );
            publication.images.push(NewImage {
                id: offer.id,
                names,
                resolved,
                loaded_at: now(),
            });
        }
        let images = publication.commit()?;
        for text in texts {
            progress(Progress::Loaded { text });
        }
        Ok(images)
    }
}

/// Unpacks those layers of an image that are nowhere yet.
fn layers(
    inner: &Inner,
    work: &Work<'_>,
    image: &Resolved,
    spool: &Spool<'_>,
    publication: &mut Publication<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    for (index, (diff_id, blob)) in image.layers.iter().enumerate() {
        let id = short(diff_id).to_owned();
        let Some(total) = spool.size(blob) else {
            return invalid(format!("blob {blob} of layer {index} is missing"));
        };
        if !publication.has_layer(diff_id) {
            let mut input = Reporting {
                file: spool.open(blob)?,
                done: 0,
                next: 0,
                report: &mut |done| {
                    progress(Progress::Layer {
                        id: id.clone(),
                        done,
                        total,
                    });
                },
            };
            let unpacked = unpack_layer(inner, work, &mut input, Ending::Any)
                .map_err(|error| error.within(&format!("layer {index} ({id})")))?;
            if unpacked.diff_id != *diff_id {
                return invalid(format!(
                    "invalid diffID for layer {index}: expected {diff_id:?}, got {:?}",
                    unpacked.diff_id
                ));
            }
            publication.add_layer(unpacked);
        }
        progress(Progress::LayerDone { id });
    }
    Ok(())
}

/// Counts what is read from a layer's blob.
struct Reporting<'a> {
    file: File,
    done: u64,
    next: u64,
    report: &'a mut dyn FnMut(u64),
}

impl Read for Reporting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.done += n as u64;
        if self.done >= self.next || n == 0 {
            (self.report)(self.done);
            self.next = self.done + STEP;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
