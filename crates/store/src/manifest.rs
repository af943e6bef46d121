//! From a digest to what an image is made of: indexes, manifests, platforms.

use oci_spec::image::{
    Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};
use serde_json::Value;

use crate::Digest;
use crate::blob::{Source, hex_of};
use crate::error::{Error, Result, invalid};

/// Bounds on indexes within indexes.
const MAX_NESTING: usize = 4;
const MAX_MANIFESTS: usize = 4096;

/// Marks a manifest that describes another (provenance, SBOM).
const ATTESTATION: &str = "vnd.docker.reference.type";

/// An image found through its manifest.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) config_digest: Digest,
    pub(crate) raw_config: Vec<u8>,
    pub(crate) config: ImageConfiguration,
    /// Bottom first: diff ID and blob.
    pub(crate) layers: Vec<(Digest, Digest)>,
    /// All that the image needs and has, other platforms included.
    pub(crate) blobs: Vec<Digest>,
}

enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

/// Follows `id`, a manifest or an index, to the image for this machine's
/// platform (or the first there is).
pub(crate) fn resolve(id: &str, source: &dyn Source) -> Result<Resolved> {
    let mut walk = Walk {
        source,
        blobs: Vec::new(),
        candidates: Vec::new(),
    };
    walk.visit(id, None, MAX_NESTING)?;
    let best = walk
        .candidates
        .into_iter()
        .enumerate()
        .min_by_key(|(at, candidate)| (candidate.rank, *at));
    let Some((_, candidate)) = best else {
        return invalid(format!("{id} has no manifest of an image"));
    };
    let mut resolved = image(&candidate.manifest, source)?;
    walk.blobs.sort_unstable();
    walk.blobs.dedup();
    resolved.blobs = walk.blobs;
    Ok(resolved)
}

struct Walk<'a> {
    source: &'a dyn Source,
    blobs: Vec<Digest>,
    candidates: Vec<Candidate>,
}

struct Candidate {
    manifest: Box<ImageManifest>,
    rank: u8,
}

impl Walk<'_> {
    fn visit(
        &mut self,
        digest: &str,
        descriptor: Option<&Descriptor>,
        nesting: usize,
    ) -> Result<()> {
        self.keep(digest, descriptor)?;
        match parse(digest, &self.source.document(digest)?)? {
            Document::Index(index) => {
                if nesting == 0 {
                    return invalid(format!("index {digest} is nested too deeply"));
                }
                for child in index.manifests() {
                    let digest = child.digest().to_string();
                    // Other platforms may have been left out of an archive.
                    if self.source.size(&digest).is_some() {
                        self.visit(&digest, Some(child), nesting - 1)?;
                    }
                }
            }
            Document::Manifest(manifest) => {
                if self.candidates.len() == MAX_MANIFESTS {
                    return invalid(format!("index with more than {MAX_MANIFESTS} manifests"));
                }
                for part in manifest.layers().iter().chain([manifest.config()]) {
                    let digest = part.digest().to_string();
                    if self.source.size(&digest).is_some() {
                        self.keep(&digest, Some(part))?;
                    }
                }
                if let Some(rank) = self.rank(&manifest, descriptor) {
                    self.candidates.push(Candidate { manifest, rank });
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, digest: &str, descriptor: Option<&Descriptor>) -> Result<()> {
        hex_of(digest)?;
        if let (Some(descriptor), Some(size)) = (descriptor, self.source.size(digest))
            && descriptor.size() != size
        {
            return invalid(format!(
                "blob {digest} has {size} bytes where its manifest says {}",
                descriptor.size()
            ));
        }
        self.blobs.push(digest.to_owned());
        Ok(())
    }

    fn config(&self, manifest: &ImageManifest) -> Option<ImageConfiguration> {
        let bytes = self
            .source
            .document(manifest.config().digest().as_ref())
            .ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// How well a manifest suits this machine, 0 best; none if it is no image.
    fn rank(&self, manifest: &ImageManifest, descriptor: Option<&Descriptor>) -> Option<u8> {
        let annotations = descriptor.and_then(|d| d.annotations().as_ref());
        if annotations.is_some_and(|a| a.contains_key(ATTESTATION)) {
            return None;
        }
        let (os, arch, variant) = match descriptor.and_then(|d| d.platform().as_ref()) {
            Some(platform) => (
                platform.os().clone(),
                platform.architecture().clone(),
                platform.variant().clone(),
            ),
            None => match self.config(manifest) {
                Some(config) => (
                    config.os().clone(),
                    config.architecture().clone(),
                    config.variant().clone(),
                ),
                // The last resort: if chosen, what is wrong with it is said.
                None => return Some(4),
            },
        };
        if arch.to_string() == "unknown" {
            return None;
        }
        if os != Os::Linux || arch != host_architecture() {
            return Some(3);
        }
        // The base level runs everywhere; higher ones only perhaps.
        Some(match variant.as_deref() {
            None | Some("" | "v1" | "v8") => 0,
            Some("v7") => 1,
            Some(_) => 2,
        })
    }
}

/// This machine's, in Go's words.
pub(crate) fn host_architecture() -> Arch {
    match std::env::consts::ARCH {
        "x86_64" => Arch::Amd64,
        "aarch64" => Arch::ARM64,
        "x86" => Arch::i386,
        "powerpc64" => Arch::PowerPC64le,
        "loongarch64" => Arch::LoongArch64,
        other => Arch::from(other),
    }
}

fn parse(digest: &str, bytes: &[u8]) -> Result<Document> {
    let bad = |error: serde_json::Error| {
        Error::Invalid(format!("manifest {digest} is not valid: {error}"))
    };
    let value: Value = serde_json::from_slice(bytes).map_err(bad)?;
    let has = |key: &str| value.get(key).is_some_and(|v| !v.is_null());
    // CVE-2021-41190: a document must not be one thing to us and another to
    // whoever signed or scanned it.
    match (has("manifests"), has("config") || has("layers")) {
        (true, true) => invalid(format!("manifest {digest} is both an index and a manifest")),
        (true, false) => Ok(Document::Index(serde_json::from_value(value).map_err(bad)?)),
        (false, true) => Ok(Document::Manifest(
            serde_json::from_value(value).map_err(bad)?,
        )),
        (false, false) => invalid(format!("{digest} is neither an index nor a manifest")),
    }
}

fn image(manifest: &ImageManifest, source: &dyn Source) -> Result<Resolved> {
    let config_digest = manifest.config().digest().to_string();
    let raw_config = source.document(&config_digest)?;
    let config: ImageConfiguration = serde_json::from_slice(&raw_config).map_err(|error| {
        Error::Invalid(format!(
            "image configuration {config_digest} is not valid: {error}"
        ))
    })?;
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != manifest.layers().len() {
        return invalid(format!(
            "invalid manifest, layers length mismatch: expected {}, got {}",
            diff_ids.len(),
            manifest.layers().len()
        ));
    }
    let mut layers = Vec::new();
    for (diff_id, layer) in diff_ids.iter().zip(manifest.layers()) {
        hex_of(diff_id)?;
        let blob = layer.digest().to_string();
        hex_of(&blob)?;
        layers.push((diff_id.clone(), blob));
    }
    Ok(Resolved {
        config_digest,
        raw_config,
        config,
        layers,
        blobs: Vec::new(),
    })
}

/// A manifest with the media types of one family, as compact JSON.
pub(crate) fn write(
    family: Family,
    config: (&str, u64),
    layers: &[(crate::decompress::Compression, &str, u64)],
) -> Vec<u8> {
    use crate::decompress::Compression;
    let (manifest_type, config_type, layer_type) = match family {
        Family::Oci => (
            MediaType::ImageManifest.to_string(),
            MediaType::ImageConfig.to_string(),
            "application/vnd.oci.image.layer.v1.tar".to_owned(),
        ),
        Family::Docker => (
            "application/vnd.docker.distribution.manifest.v2+json".to_owned(),
            "application/vnd.docker.container.image.v1+json".to_owned(),
            "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
        ),
    };
    let joint = match family {
        Family::Oci => '+',
        Family::Docker => '.',
    };
    // By hand for the order of the keys, on which the digest depends: it is
    // the one in which containerd writes it, so equal archives get equal IDs.
    let descriptor = |kind: &str, digest: &str, size: u64| {
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
    };
    let layers: Vec<_> = layers
        .iter()
        .map(|&(compression, digest, size)| {
            let kind = match compression {
                Compression::Gzip => format!("{layer_type}{joint}gzip"),
                Compression::Zstd => format!("{layer_type}{joint}zstd"),
                _ => layer_type.clone(),
            };
            descriptor(&kind, digest, size)
        })
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{manifest_type}","config":{},"layers":[{}]}}"#,
        descriptor(&config_type, config.0, config.1),
        layers.join(",")
    )
    .into_bytes()
}

/// Whose media types a manifest uses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Family {
    Oci,
    Docker,
}
