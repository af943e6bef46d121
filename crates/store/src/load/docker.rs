//! docker-archive: `manifest.json` names configurations, layers and tags.

use std::io::Read;

use serde::Deserialize;

use super::Offer;
use super::archive::Archive;
use crate::blob::Source;
use crate::decompress::{Compression, decompress};
use crate::error::{Error, Result, invalid};
use crate::manifest::{Family, write};
use crate::{Digest, Reference};

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Item {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Item {
    pub(super) fn names(&self) -> Result<Vec<Reference>> {
        self.repo_tags
            .iter()
            .flatten()
            .map(|name| match Reference::parse(name) {
                Ok(reference) if reference.digest.is_none() => Ok(reference),
                Ok(_) => invalid(format!("invalid tag {name:?}")),
                Err(error) => Err(error.within(&format!("invalid tag {name:?}"))),
            })
            .collect()
    }
}

/// Such an archive has no manifests as registries know them: they are made
/// here, byte for byte as containerd makes them.
pub(super) fn offers(archive: &Archive) -> Result<Vec<Offer>> {
    let items: Vec<Item> = archive.json("manifest.json")?;
    items
        .iter()
        .map(|item| {
            Ok(Offer {
                id: manifest(archive, item)?,
                names: item.names()?,
            })
        })
        .collect()
}

fn manifest(archive: &Archive, item: &Item) -> Result<Digest> {
    let config = find(archive, &item.config)?;
    let mut layers = Vec::new();
    for name in item.layers.iter().flatten() {
        let digest = find(archive, name)?;
        let (compression, plain) = decompress(archive.blobs().open(&digest)?)?;
        let (compression, digest) = match compression {
            // No media type says these: kept plain.
            Compression::Xz | Compression::Bzip2 => {
                (Compression::None, store(archive, plain, name)?)
            }
            known => (known, digest),
        };
        let size = size(archive, &digest)?;
        layers.push((compression, digest, size));
    }
    let layers: Vec<_> = layers
        .iter()
        .map(|(compression, digest, size)| (*compression, digest.as_str(), *size))
        .collect();
    let bytes = write(Family::Docker, (&config, size(archive, &config)?), &layers);
    archive.incoming().spool(&mut bytes.as_slice())
}

fn store(archive: &Archive, mut plain: Box<dyn Read + '_>, name: &str) -> Result<Digest> {
    archive
        .incoming()
        .spool(&mut plain)
        .map_err(|error| error.within(name))
}

fn find(archive: &Archive, name: &str) -> Result<Digest> {
    archive.find(name).cloned().map_or_else(
        || invalid(format!("the archive lacks {name}, named in manifest.json")),
        Ok,
    )
}

fn size(archive: &Archive, digest: &str) -> Result<u64> {
    archive
        .blobs()
        .size(digest)
        .ok_or_else(|| Error::Invalid(format!("blob {digest} is missing")))
}
