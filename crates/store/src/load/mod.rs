//! `docker load`: an archive of images becomes images.
//!
//! The archive is a stream, and what its parts mean is said at its end, so:
//! spool every file while hashing it, then plan, then unpack the layers that
//! are missing, then make all visible in one step.

mod archive;
mod docker;
mod oci;

use std::io::Read;

use crate::blob::{Source, short};
use crate::error::{Result, invalid};
use crate::incoming::{Arrived, Incoming};
use crate::manifest::{Resolved, walk};
use crate::publish::NewImage;
use crate::reference::familiar;
use crate::state::now;
use crate::{Digest, Image, Progress, Reference, Store};

use self::archive::Archive;

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
        let incoming = Incoming::new(&self.inner, "load")?;
        let archive = Archive::read(archive, incoming.clone())?;
        let offers = if archive.has("oci-layout") || archive.has("index.json") {
            oci::offers(&archive)?
        } else if archive.has("manifest.json") {
            docker::offers(&archive)?
        } else {
            return invalid(
                "the archive is not an image: it has neither manifest.json nor index.json",
            );
        };
        if offers.is_empty() {
            return invalid("the archive holds no image");
        }
        let mut images = Vec::new();
        let mut texts = Vec::new();
        for offer in offers {
            let blobs = Arrived(&incoming);
            let resolved = walk(&offer.id, &blobs)?.resolve(&offer.id, &|_| false, &blobs)?;
            layers(&incoming, &resolved, progress)?;
            let names: Vec<_> = offer.names.iter().map(Reference::full).collect();
            if names.is_empty() {
                texts.push(format!("Loaded image ID: {}", offer.id));
            }
            texts.extend(
                names
                    .iter()
                    .map(|name| format!("Loaded image: {}", familiar(name))),
            );
            images.push(NewImage {
                id: offer.id,
                names,
                digests: Vec::new(),
                loaded_at: now(),
            });
        }
        let images = incoming.publish(images)?;
        for text in texts {
            progress(Progress::Loaded { text });
        }
        Ok(images)
    }
}

/// Unpacks those layers of an image that are nowhere yet.
fn layers(incoming: &Incoming, image: &Resolved, progress: &mut dyn FnMut(Progress)) -> Result<()> {
    for (index, (diff_id, blob)) in image.layers.iter().enumerate() {
        let id = short(diff_id).to_owned();
        let Some(total) = Arrived(incoming).size(blob) else {
            return invalid(format!("blob {blob} of layer {index} is missing"));
        };
        let mut report = |done| {
            progress(Progress::Layer {
                id: id.clone(),
                done,
                total,
            });
        };
        report(0);
        incoming
            .unpack(blob, diff_id, &mut report)
            .map_err(|error| error.within(&format!("layer {index} ({id})")))?;
        report(total);
        progress(Progress::LayerDone { id });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
