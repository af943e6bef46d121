//! OCI image layout: `index.json` points at manifests and indexes.

use std::collections::HashMap;

use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;

use super::archive::Archive;
use super::{Offer, docker};
use crate::Reference;
use crate::blob::hex_of;
use crate::error::{Result, invalid};
use crate::manifest::walk;

/// The full name, as containerd and Docker write it.
const NAME: &str = "io.containerd.image.name";
/// A tag by the letter of the specification, a full name by the habit of many.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

const VERSION: &str = "1.0.0";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

pub(super) fn offers(archive: &Archive) -> Result<Vec<Offer>> {
    let layout: Layout = archive.json("oci-layout")?;
    if layout.image_layout_version != VERSION {
        return invalid(format!(
            "OCI layout of version {:?}, not {VERSION}",
            layout.image_layout_version
        ));
    }
    let index: ImageIndex = archive.json("index.json")?;
    // Docker writes both kinds at once and goes by the names of its own.
    let items: Vec<docker::Item> = if archive.has("manifest.json") {
        archive.json("manifest.json")?
    } else {
        Vec::new()
    };

    let mut offers: Vec<Offer> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for descriptor in index.manifests() {
        let id = descriptor.digest().to_string();
        hex_of(&id)?;
        if is_referrer(descriptor) {
            continue;
        }
        let annotated = annotated(descriptor)?;
        let names = match named_by_docker(archive, &id, &items, annotated.as_ref())? {
            Some(names) => names,
            None => annotated.into_iter().collect(),
        };
        // One image of several names is listed once for each.
        let at = *seen.entry(id.clone()).or_insert_with(|| {
            offers.push(Offer {
                id,
                names: Vec::new(),
            });
            offers.len() - 1
        });
        for name in names {
            if !offers[at].names.contains(&name) {
                offers[at].names.push(name);
            }
        }
    }
    Ok(offers)
}

/// Signatures and attestations that lie beside images.
fn is_referrer(descriptor: &Descriptor) -> bool {
    descriptor.artifact_type().is_some()
        || descriptor
            .annotations()
            .as_ref()
            .is_some_and(|a| a.contains_key("vnd.docker.reference.type"))
}

fn named_by_docker(
    archive: &Archive,
    id: &str,
    items: &[docker::Item],
    annotated: Option<&Reference>,
) -> Result<Option<Vec<Reference>>> {
    if items.is_empty() {
        return Ok(None);
    }
    // It names the configuration of one of the platforms.
    let tree = walk(id, &archive.blobs())?;
    let of_this = |item: &&docker::Item| {
        let config = archive.find(&item.config);
        config.is_some_and(|config| {
            let mut manifests = tree.manifests.iter();
            manifests.any(|found| found.config_digest == *config)
        })
    };
    let mut named = Vec::new();
    for item in items.iter().filter(of_this) {
        let names = item.names()?;
        // Images may share a configuration: then the index says which it is.
        if annotated.is_some_and(|name| names.contains(name)) {
            return Ok(Some(names));
        }
        named.push(names);
    }
    Ok(named.into_iter().next().filter(|names| !names.is_empty()))
}

fn annotated(descriptor: &Descriptor) -> Result<Option<Reference>> {
    let Some(annotations) = descriptor.annotations() else {
        return Ok(None);
    };
    let name = match (annotations.get(NAME), annotations.get(REF_NAME)) {
        (Some(name), _) => name,
        // Only a tag: of what is not said.
        (None, Some(name)) if name.contains(['/', ':']) => name,
        _ => return Ok(None),
    };
    match Reference::parse(name) {
        Ok(reference) if reference.tag.is_some() && reference.digest.is_none() => {
            Ok(Some(reference))
        }
        Ok(_) => Ok(None),
        Err(error) => Err(error.within(&format!("invalid image name {name:?}"))),
    }
}
