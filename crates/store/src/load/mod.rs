//! `docker load`: an archive of images becomes images.
//!
//! The archive is a stream, and what its parts mean is said at its end, so:
//! spool every file while hashing it, then plan, then unpack the layers that
//! are missing, then make all visible in one step.

mod archive;
mod docker;
mod oci;

use std::collections::HashSet;
use std::io::Read;

use crate::blob::{Source, short};
use crate::error::{Error, Result, invalid};
use crate::incoming::{Arrived, Incoming};
use crate::manifest::{Found, Resolved, Tree, image, walk};
use crate::publish::NewImage;
use crate::reference::familiar;
use crate::state::now;
use crate::{Digest, Image, Platform, Progress, Reference, Store};

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
        self.load_platforms(archive, &[], progress)
    }

    /// The same for some platforms only: nothing of the others is kept. None
    /// given: all are kept, and this machine's is unpacked.
    ///
    /// # Errors
    /// `NotFound` ("requested platform (linux/arm64) not found: …") if an image
    /// of the archive lacks one.
    pub fn load_platforms(
        &self,
        archive: &mut dyn Read,
        platforms: &[Platform],
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
        let mut kept = HashSet::new();
        for offer in offers {
            let blobs = Arrived(&incoming);
            let tree = walk(&offer.id, &blobs)?;
            if platforms.is_empty() {
                let resolved = tree.resolve(&offer.id, &|_| false, &blobs)?;
                layers(&incoming, &resolved, progress)?;
            } else {
                let wanted = pick(&offer, &tree, platforms)?;
                for found in &wanted {
                    layers(&incoming, &image(found, &blobs)?, progress)?;
                }
                kept.extend(tree.blobs_with(&wanted));
            }
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
        if !platforms.is_empty() {
            incoming.retain(&kept);
        }
        let images = incoming.publish(images)?;
        for text in texts {
            progress(Progress::Loaded { text });
        }
        Ok(images)
    }
}

/// The best manifest for each platform.
fn pick<'a>(offer: &Offer, tree: &'a Tree, platforms: &[Platform]) -> Result<Vec<&'a Found>> {
    let one = |platform: &Platform| {
        tree.provide(platform).ok_or_else(|| {
            let name = offer.names.first().map(Reference::familiar);
            Error::NotFound(format!(
                "requested platform ({platform}) not found: image {} does not provide it",
                name.as_ref().unwrap_or(&offer.id)
            ))
        })
    };
    platforms.iter().map(one).collect()
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
