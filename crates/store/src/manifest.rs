//! From a digest to what an image is made of: indexes, manifests, platforms.

use std::collections::HashSet;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde_json::Value;

use crate::blob::{Source, hex_of};
use crate::error::{Error, Result, invalid};
use crate::{Digest, ManifestKind, Platform};

/// Bounds on indexes within indexes.
const MAX_NESTING: usize = 4;
const MAX_MANIFESTS: usize = 4096;

/// Marks a manifest that describes another (provenance, SBOM), and says which.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A manifest that is here, or that an index speaks of.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    /// Bytes of the manifest itself.
    pub(crate) size: u64,
    pub(crate) kind: ManifestKind,
    pub(crate) platform: Platform,
    /// It and all its blobs are here.
    pub(crate) available: bool,
    pub(crate) config_digest: Digest,
    /// Of an image, bottom first: diff ID and blob.
    pub(crate) layers: Vec<(Digest, Digest)>,
    /// Those that are here, itself included.
    pub(crate) blobs: Vec<Digest>,
    /// How well it suits this machine, 0 best; none if it is not to be run.
    rank: Option<u8>,
}

/// All that hangs on one manifest or index.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// In the order of the index.
    pub(crate) manifests: Vec<Found>,
    /// All blobs that are here, each once.
    pub(crate) blobs: Vec<Digest>,
    /// Of the document that all hangs on.
    pub(crate) media_type: String,
}

/// An image found through its manifest.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) config_digest: Digest,
    pub(crate) raw_config: Vec<u8>,
    pub(crate) config: ImageConfiguration,
    /// Bottom first: diff ID and blob.
    pub(crate) layers: Vec<(Digest, Digest)>,
    /// It is no image: there is nothing to run.
    pub(crate) is_artifact: bool,
}

enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

/// Follows `id`, a manifest or an index, to all that is here of it.
pub(crate) fn walk(id: &str, source: &dyn Source) -> Result<Tree> {
    let mut walk = Walk {
        source,
        visited: HashSet::new(),
        blobs: Vec::new(),
        manifests: Vec::new(),
        media_type: String::new(),
    };
    walk.visit(id, None, MAX_NESTING)?;
    let mut blobs = walk.blobs;
    blobs.sort_unstable();
    blobs.dedup();
    Ok(Tree {
        manifests: walk.manifests,
        blobs,
        media_type: walk.media_type,
    })
}

impl Tree {
    /// The manifest to run on this machine: whole ones first, of those the
    /// unpacked ones, of those the best platform, of those the first.
    pub(crate) fn choose(&self, unpacked: &dyn Fn(&str) -> bool) -> Option<&Found> {
        let images = self.manifests.iter().enumerate();
        let (_, best) = images
            .filter_map(|(at, found)| Some((found.rank?, at, found)))
            .map(|(rank, at, found)| {
                let whole = found.available;
                let ready = whole && found.layers.iter().all(|(diff_id, _)| unpacked(diff_id));
                ((!whole, !ready, rank, at), found)
            })
            .min_by_key(|(key, _)| *key)?;
        Some(best)
    }

    /// The whole manifest that suits a platform best.
    pub(crate) fn provide(&self, platform: &Platform) -> Option<&Found> {
        provide(&self.manifests, platform)
    }

    /// All blobs but those of images that are not wanted; what describes a
    /// wanted one belongs to it.
    pub(crate) fn blobs_with(&self, wanted: &[&Found]) -> HashSet<Digest> {
        let is_wanted = |digest: &str| wanted.iter().any(|found| found.digest == digest);
        let (with, without): (Vec<_>, Vec<_>) =
            (self.manifests.iter()).partition(|found| match &found.kind {
                ManifestKind::Attestation(of) => is_wanted(of),
                _ => is_wanted(&found.digest),
            });
        let mut blobs: HashSet<_> = self.blobs.iter().cloned().collect();
        for blob in without.iter().flat_map(|found| &found.blobs) {
            blobs.remove(blob);
        }
        blobs.extend(with.iter().flat_map(|found| found.blobs.iter().cloned()));
        blobs
    }

    /// The image for this machine, or the artifact that is there instead.
    pub(crate) fn resolve(
        &self,
        id: &str,
        unpacked: &dyn Fn(&str) -> bool,
        source: &dyn Source,
    ) -> Result<Resolved> {
        if let Some(found) = self.choose(unpacked) {
            return image(found, source);
        }
        let is_artifact = |found: &&Found| found.available && found.kind == ManifestKind::Unknown;
        match self.manifests.iter().find(is_artifact) {
            Some(found) => artifact(found, source),
            None => invalid(format!("{id} has no manifest of an image")),
        }
    }
}

/// The whole image that suits a platform best.
pub(crate) fn provide<'a>(manifests: &'a [Found], platform: &Platform) -> Option<&'a Found> {
    let whole = manifests
        .iter()
        .filter(|found| found.available && found.kind == ManifestKind::Image);
    let (_, found) = whole
        .filter_map(|found| Some((platform.rank(&found.platform)?, found)))
        .min_by_key(|(rank, _)| *rank)?;
    Some(found)
}

struct Walk<'a> {
    source: &'a dyn Source,
    visited: HashSet<Digest>,
    blobs: Vec<Digest>,
    manifests: Vec<Found>,
    media_type: String,
}

impl Walk<'_> {
    fn visit(
        &mut self,
        digest: &str,
        descriptor: Option<&Descriptor>,
        nesting: usize,
    ) -> Result<()> {
        // An index that names one thing a thousand times is no more work.
        if !self.visited.insert(digest.to_owned()) {
            return Ok(());
        }
        self.keep(digest, descriptor, self.source.size(digest))?;
        let (document, media_type, size) = parse(digest, &self.source.document(digest)?)?;
        if nesting == MAX_NESTING {
            self.media_type.clone_from(&media_type);
        }
        match document {
            Document::Index(index) => {
                if nesting == 0 {
                    return invalid(format!("index {digest} is nested too deeply"));
                }
                for child in index.manifests() {
                    let digest = child.digest().to_string();
                    // Other platforms may have been left out.
                    if self.source.size(&digest).is_some() {
                        self.visit(&digest, Some(child), nesting - 1)?;
                    } else if self.visited.insert(digest) {
                        self.add(absent(child))?;
                    }
                }
                Ok(())
            }
            Document::Manifest(manifest) => {
                let found = self.manifest(digest, media_type, size, &manifest, descriptor)?;
                self.blobs.extend_from_slice(&found.blobs);
                self.add(found)
            }
        }
    }

    fn add(&mut self, found: Found) -> Result<()> {
        if self.manifests.len() == MAX_MANIFESTS {
            return invalid(format!("index with more than {MAX_MANIFESTS} manifests"));
        }
        self.manifests.push(found);
        Ok(())
    }

    fn keep(
        &mut self,
        digest: &str,
        descriptor: Option<&Descriptor>,
        size: Option<u64>,
    ) -> Result<()> {
        hex_of(digest)?;
        if let (Some(descriptor), Some(size)) = (descriptor, size)
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

    fn manifest(
        &mut self,
        digest: &str,
        media_type: String,
        size: u64,
        manifest: &ImageManifest,
        descriptor: Option<&Descriptor>,
    ) -> Result<Found> {
        let mut available = true;
        let mut blobs = vec![digest.to_owned()];
        let layers = manifest.layers().iter().map(|layer| (layer, true));
        for (part, is_layer) in layers.chain([(manifest.config(), false)]) {
            let digest = part.digest().to_string();
            let mut size = self.source.size(&digest);
            if size.is_none() && is_layer {
                size = self.source.made(&digest);
            }
            if size.is_some() {
                self.keep(&digest, Some(part), size)?;
                blobs.push(digest);
            } else {
                available = false;
            }
        }
        let config_digest = manifest.config().digest().to_string();
        let summary = self.summary(&config_digest);
        let mut kind = kind(descriptor);
        if kind == ManifestKind::Image && !is_image(manifest, summary.as_ref()) {
            kind = ManifestKind::Unknown;
        }
        let platform = match descriptor.and_then(|d| d.platform().as_ref()) {
            Some(platform) => described(platform),
            None => summary.as_ref().map(Summary::platform).unwrap_or_default(),
        };
        let diff_ids = summary.map(|summary| summary.rootfs.diff_ids);
        let layers = manifest.layers().iter().map(|l| l.digest().to_string());
        let layers: Vec<_> = match &diff_ids {
            Some(ids) if kind == ManifestKind::Image && ids.len() == manifest.layers().len() => {
                ids.iter().cloned().zip(layers).collect()
            }
            _ => Vec::new(),
        };
        let rank = (kind == ManifestKind::Image && platform.architecture != "unknown")
            .then(|| rank(&platform));
        Ok(Found {
            digest: digest.to_owned(),
            media_type,
            size,
            kind,
            platform,
            available,
            config_digest,
            layers,
            blobs,
            rank,
        })
    }

    fn summary(&self, config: &str) -> Option<Summary> {
        let bytes = self.source.document(config).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

/// What of any platform's configuration matters here.
#[derive(Deserialize)]
struct Summary {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

impl Summary {
    fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone().unwrap_or_default(),
            os_version: self.os_version.clone().unwrap_or_default(),
        }
    }
}

fn described(platform: &oci_spec::image::Platform) -> Platform {
    Platform {
        os: platform.os().to_string(),
        architecture: platform.architecture().to_string(),
        variant: platform.variant().clone().unwrap_or_default(),
        os_version: platform.os_version().clone().unwrap_or_default(),
    }
}

/// An image, unless what lists it or what it is made of says otherwise.
fn kind(descriptor: Option<&Descriptor>) -> ManifestKind {
    let annotation = |key: &str| {
        let annotations = descriptor.and_then(|d| d.annotations().as_ref());
        annotations.and_then(|a| a.get(key))
    };
    match (annotation(REFERENCE_TYPE), annotation(REFERENCE_DIGEST)) {
        (Some(_), Some(of)) => ManifestKind::Attestation(of.clone()),
        (Some(_), None) => ManifestKind::Unknown,
        (None, _) => ManifestKind::Image,
    }
}

/// By the type of its configuration; an unknown type may still describe one.
fn is_image(manifest: &ImageManifest, summary: Option<&Summary>) -> bool {
    match manifest.config().media_type() {
        MediaType::ImageConfig => true,
        MediaType::Other(kind) if kind == DOCKER_CONFIG => true,
        _ => summary.is_some_and(|summary| {
            let diff_ids = &summary.rootfs.diff_ids;
            !diff_ids.is_empty() && diff_ids.len() == manifest.layers().len()
        }),
    }
}

/// A manifest of which only the index's entry is here.
fn absent(descriptor: &Descriptor) -> Found {
    Found {
        digest: descriptor.digest().to_string(),
        media_type: descriptor.media_type().to_string(),
        size: descriptor.size(),
        kind: match descriptor.media_type() {
            MediaType::ImageIndex => ManifestKind::Unknown,
            _ => kind(Some(descriptor)),
        },
        platform: (descriptor.platform().as_ref())
            .map(described)
            .unwrap_or_default(),
        available: false,
        config_digest: Digest::new(),
        layers: Vec::new(),
        blobs: Vec::new(),
        rank: None,
    }
}

fn rank(platform: &Platform) -> u8 {
    match (platform.os.as_str(), platform.architecture.as_str()) {
        // The last resort: if chosen, what is wrong with it is said.
        ("", _) | (_, "") => 4,
        ("linux", arch) if arch == host_architecture().to_string() => {
            // The base level runs everywhere; higher ones only perhaps.
            match platform.variant.as_str() {
                "" | "v1" | "v8" => 0,
                "v7" => 1,
                _ => 2,
            }
        }
        _ => 3,
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

/// The document, its media type and its length.
fn parse(digest: &str, bytes: &[u8]) -> Result<(Document, String, u64)> {
    let bad = |error: serde_json::Error| {
        Error::Invalid(format!("manifest {digest} is not valid: {error}"))
    };
    let value: Value = serde_json::from_slice(bytes).map_err(bad)?;
    let has = |key: &str| value.get(key).is_some_and(|v| !v.is_null());
    let media_type = value.get("mediaType").and_then(Value::as_str);
    let media_type = media_type.map(str::to_owned);
    // CVE-2021-41190: a document must not be one thing to us and another to
    // whoever signed or scanned it.
    let (document, usual) = match (has("manifests"), has("config") || has("layers")) {
        (true, true) => {
            return invalid(format!("manifest {digest} is both an index and a manifest"));
        }
        (true, false) => (
            Document::Index(serde_json::from_value(value).map_err(bad)?),
            MediaType::ImageIndex,
        ),
        (false, true) => (
            Document::Manifest(serde_json::from_value(value).map_err(bad)?),
            MediaType::ImageManifest,
        ),
        (false, false) => {
            return invalid(format!("{digest} is neither an index nor a manifest"));
        }
    };
    let media_type = media_type.unwrap_or_else(|| usual.to_string());
    Ok((document, media_type, bytes.len() as u64))
}

/// The image of a manifest; says what is missing or wrong.
pub(crate) fn image(found: &Found, source: &dyn Source) -> Result<Resolved> {
    let (document, ..) = parse(&found.digest, &source.document(&found.digest)?)?;
    let Document::Manifest(manifest) = document else {
        return invalid(format!("{} is not a manifest", found.digest));
    };
    let config_digest = found.config_digest.clone();
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
        is_artifact: false,
    })
}

fn artifact(found: &Found, source: &dyn Source) -> Result<Resolved> {
    Ok(Resolved {
        config_digest: found.config_digest.clone(),
        raw_config: source.document(&found.config_digest)?,
        config: ImageConfiguration::default(),
        layers: Vec::new(),
        is_artifact: true,
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
