//! Images become archives: an OCI layout that also carries Docker's
//! `manifest.json`, so that both kinds of readers take it.
//!
//! What is saved is leased, so that it may be removed meanwhile. Every blob is
//! hashed on its way out: a damaged one ends the archive instead of getting
//! into a backup.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use crate::blob::{Source, Tee};
use crate::error::{Error, Result};
use crate::incoming::{Arrived, Incoming};
use crate::lease::Lease;
use crate::manifest::Found;
use crate::reference::familiar;
use crate::state::Record;
use crate::store::{Inner, hex};
use crate::tar::{Entry, Kind, TarWriter};
use crate::{BlobReader, Digest, Image, ManifestKind, Platform, Reference, Store};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How containerd and the OCI layout name an image.
const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

impl Store {
    /// Writes the images with the names given for each (none: only by digest),
    /// all platforms that are here or only those given, blobs byte for byte.
    /// Equal images give equal archives. One platform is saved as its manifest
    /// alone, as Docker does; several keep the index.
    ///
    /// # Errors
    /// `NotFound` if an image lacks a platform that was asked for.
    pub fn save(
        &self,
        images: &[(Image, Vec<String>)],
        platforms: &[Platform],
        out: &mut dyn Write,
    ) -> Result<()> {
        let pinned = Pinned::new(self, images)?;
        let mut plan = Plan::new(&pinned, platforms);
        for (image, names) in images {
            plan.add(image, names)?;
        }
        plan.write(out, true)
    }
}

impl Incoming {
    /// Writes what would become an image as an archive, with these full names,
    /// all its platforms; see [`Store::save`]. `for_docker`: with Docker's
    /// `manifest.json`. Nothing becomes visible.
    pub fn save(
        &self,
        id: &str,
        names: &[Reference],
        for_docker: bool,
        out: &mut dyn Write,
    ) -> Result<()> {
        let record = self.record(id)?;
        let image = record.image.clone();
        let inner = self.inner();
        let state = inner.state();
        let size = |digest: &Digest| {
            let stored = state.blob_size(digest);
            stored.or_else(|| Arrived(self).size(digest))
        };
        let sizes = (record.blobs.iter())
            .filter_map(|digest| Some((digest.clone(), size(digest)?)))
            .collect();
        drop(state);
        let pinned = Pinned {
            inner,
            arrived: Some(Arrived(self)),
            records: HashMap::from([(id.to_owned(), Arc::new(record))]),
            sizes,
            _lease: None,
        };
        let names: Vec<_> = names.iter().map(Reference::full).collect();
        let mut plan = Plan::new(&pinned, &[]);
        plan.add(&image, &names)?;
        plan.write(out, for_docker)
    }
}

/// The blobs of the images, kept while this lives.
struct Pinned<'a> {
    inner: &'a Arc<Inner>,
    /// Those that are in no image yet, and keeps all.
    arrived: Option<Arrived<'a>>,
    records: HashMap<Digest, Arc<Record>>,
    sizes: HashMap<Digest, u64>,
    _lease: Option<Lease>,
}

impl<'a> Pinned<'a> {
    fn new(store: &'a Store, images: &[(Image, Vec<String>)]) -> Result<Self> {
        let lease = Lease::new(store.inner.clone());
        let (mut records, mut sizes) = (HashMap::new(), HashMap::new());
        let state = &mut *store.inner.state();
        for (image, _) in images {
            let Some(record) = state.images.get(&image.id).cloned() else {
                return Err(Error::NotFound(format!("No such image: {}", image.id)));
            };
            for digest in &record.blobs {
                if let Some(size) = state.blob_size(digest) {
                    sizes.insert(digest.clone(), size);
                    lease.add(state, digest);
                }
            }
            records.insert(image.id.clone(), record);
        }
        Ok(Self {
            inner: &store.inner,
            arrived: None,
            records,
            sizes,
            _lease: Some(lease),
        })
    }
}

impl Source for Pinned<'_> {
    fn size(&self, digest: &str) -> Option<u64> {
        self.sizes.get(digest).copied()
    }

    fn open(&self, digest: &str) -> Result<BlobReader> {
        let stored = self.inner.state().blob_size(digest).is_some();
        match &self.arrived {
            Some(arrived) if !stored => arrived.open(digest),
            _ => self.inner.open_blob(digest).map(|(reader, _)| reader),
        }
    }
}

/// A descriptor, in the order in which Go writes it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<OfPlatform>,
}

#[derive(Clone, Debug, Serialize)]
struct OfPlatform {
    architecture: String,
    os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    os_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// One image of Docker's `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What goes into the archive.
struct Plan<'a> {
    pinned: &'a Pinned<'a>,
    platforms: &'a [Platform],
    blobs: BTreeMap<Digest, u64>,
    manifests: Vec<Descriptor>,
    items: Vec<Item>,
}

impl<'a> Plan<'a> {
    fn new(pinned: &'a Pinned<'a>, platforms: &'a [Platform]) -> Self {
        Self {
            pinned,
            platforms,
            blobs: BTreeMap::new(),
            manifests: Vec::new(),
            items: Vec::new(),
        }
    }

    fn add(&mut self, image: &Image, names: &[String]) -> Result<()> {
        let Some(record) = self.pinned.records.get(&image.id) else {
            return Err(Error::NotFound(format!("No such image: {}", image.id)));
        };
        let chosen = self.choose(record)?;
        let root = match (self.platforms, chosen.first()) {
            ([_], Some(only)) => of_manifest(only),
            _ => Descriptor {
                media_type: image.media_type.clone(),
                digest: image.id.clone(),
                size: image.manifest_size,
                annotations: BTreeMap::new(),
                platform: None,
            },
        };
        if self.platforms.len() != 1 {
            // What belongs to no manifest is the index, and those within it.
            let inside: HashSet<&Digest> = record.manifests.iter().flat_map(|m| &m.blobs).collect();
            for digest in record.blobs.iter().filter(|blob| !inside.contains(blob)) {
                self.keep(digest);
            }
        }
        for found in &chosen {
            self.keep(&found.digest);
            // As Docker: of an incomplete one only the manifest, which tells
            // that there is more.
            for blob in found.blobs.iter().filter(|_| found.available) {
                self.keep(blob);
            }
        }
        self.name(record, names, &root, &chosen);
        Ok(())
    }

    /// Only what was asked for: attestations stay with what they describe.
    fn choose<'r>(&self, record: &'r Record) -> Result<Vec<&'r Found>> {
        if self.platforms.is_empty() {
            return Ok(record.manifests.iter().collect());
        }
        let mut chosen: HashSet<&Digest> = HashSet::new();
        for wanted in self.platforms {
            let best = (record.manifests.iter())
                .filter(|found| is_whole_image(found))
                .filter_map(|found| Some((wanted.rank(&found.platform)?, found)))
                .min_by_key(|(rank, _)| *rank);
            let Some((_, best)) = best else {
                let saved = &record.saved;
                let name = saved.names.first().unwrap_or(&saved.id);
                return Err(Error::NotFound(format!(
                    "image with reference {} was found but does not provide the specified platform ({wanted})",
                    familiar(name)
                )));
            };
            chosen.insert(&best.digest);
        }
        let describes_one = |found: &Found| match &found.kind {
            ManifestKind::Attestation(of) => self.platforms.len() > 1 && chosen.contains(of),
            _ => false,
        };
        Ok((record.manifests.iter())
            .filter(|found| chosen.contains(&found.digest) || describes_one(found))
            .collect())
    }

    fn keep(&mut self, digest: &str) {
        if let Some(size) = self.pinned.size(digest) {
            self.blobs.insert(digest.to_owned(), size);
        }
    }

    /// One entry of `index.json` for each name, one of `manifest.json` for
    /// each image.
    fn name(&mut self, record: &Record, names: &[String], root: &Descriptor, chosen: &[&Found]) {
        if names.is_empty() {
            self.manifests.push(root.clone());
        }
        for name in names {
            let mut entry = root.clone();
            let tag = name.rsplit_once(':').map_or(name.as_str(), |(_, tag)| tag);
            for (key, value) in [(NAME, name.as_str()), (REF_NAME, tag)] {
                entry.annotations.insert(key, value.to_owned());
            }
            self.manifests.push(entry);
        }
        let images = || chosen.iter().filter(|found| is_whole_image(found));
        let preferred = images()
            .find(|found| found.config_digest == record.image.config_digest)
            .or_else(|| images().next());
        let Some(preferred) = preferred else { return };
        let tags: Vec<_> = names.iter().map(|name| familiar(name)).collect();
        self.items.push(Item {
            config: file_name(&preferred.config_digest),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: (preferred.layers.iter())
                .map(|(_, blob)| file_name(blob))
                .collect(),
        });
    }

    /// In the order of names, with no time in it.
    fn write(self, out: &mut dyn Write, for_docker: bool) -> Result<()> {
        let mut tar = TarWriter::new(out);
        for name in ["blobs", "blobs/sha256"] {
            tar.append(&entry(name, Kind::Directory, 0o755, 0), &mut &b""[..])?;
        }
        for (digest, &size) in &self.blobs {
            let name = file_name(digest);
            let mut data = Tee::hash(self.pinned.open(digest)?);
            let damaged = |why: &dyn std::fmt::Display| {
                Error::Invalid(format!(
                    "blob {digest} is damaged ({why}): check the store with \"berth system check\""
                ))
            };
            tar.append(&entry(&name, Kind::File, 0o444, size), &mut data)
                .map_err(|error| match error {
                    Error::Invalid(why) => damaged(&why),
                    other => other,
                })?;
            let (is, length) = data.finish().map_err(Error::io("read blob", digest))?;
            if is != *digest || length != size {
                return Err(damaged(&format!("it is {is} of {length} bytes")));
            }
        }
        let index = Index {
            schema_version: 2,
            media_type: OCI_INDEX,
            manifests: self.manifests,
        };
        document(&mut tar, "index.json", 0o644, &index)?;
        if for_docker {
            document(&mut tar, "manifest.json", 0o644, &self.items)?;
        }
        let layout = BTreeMap::from([("imageLayoutVersion", "1.0.0")]);
        document(&mut tar, "oci-layout", 0o444, &layout)?;
        tar.finish()?;
        Ok(())
    }
}

fn entry(name: &str, kind: Kind, mode: u32, size: u64) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        kind,
        mode,
        size,
        ..Entry::default()
    }
}

fn document(
    tar: &mut TarWriter<&mut dyn Write>,
    name: &str,
    mode: u32,
    value: &impl Serialize,
) -> Result<()> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| Error::io("encode", name)(std::io::Error::from(error)))?;
    let entry = entry(name, Kind::File, mode, bytes.len() as u64);
    tar.append(&entry, &mut bytes.as_slice())
}

fn file_name(digest: &str) -> String {
    format!("blobs/sha256/{}", hex(digest))
}

fn is_whole_image(found: &Found) -> bool {
    found.available && found.kind == ManifestKind::Image
}

fn of_manifest(found: &Found) -> Descriptor {
    let Platform {
        os,
        architecture,
        variant,
        os_version,
    } = found.platform.clone();
    Descriptor {
        media_type: found.media_type.clone(),
        digest: found.digest.clone(),
        size: found.size,
        annotations: BTreeMap::new(),
        platform: Some(OfPlatform {
            architecture,
            os,
            os_version,
            variant,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tar, docker_archive, load};

    #[test]
    fn what_is_saved_is_loaded_again_and_damage_is_not_passed_on() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::open(from.path()).unwrap();
        let layers = [
            Tar::default().file("f", b"first").finish(),
            Tar::default().file("g", &[7; 5000]).finish(),
        ];
        let image = load(&store, &docker_archive(&["a:1", "b:2"], &layers))
            .unwrap()
            .remove(0);
        let wanted = [(image.clone(), image.names.clone())];
        let save = |platforms: &[Platform]| {
            let mut archive = Vec::new();
            store
                .save(&wanted, platforms, &mut archive)
                .map(|()| archive)
        };
        let archive = save(&[]).unwrap();
        assert!(archive == save(&[]).unwrap());
        let other = Store::open(to.path()).unwrap();
        let loaded = load(&other, &archive).unwrap().remove(0);
        assert_eq!(
            (loaded.id, loaded.names),
            (image.id.clone(), image.names.clone())
        );

        let missing = Platform {
            os: "plan9".to_owned(),
            ..Platform::default()
        };
        let error = save(&[missing]).unwrap_err().to_string();
        assert!(
            error.contains("a:1 was found but does not provide"),
            "{error}"
        );
        let blobs = from.path().join("blobs/sha256");
        let path = blobs.join(hex(&image.config_digest));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = save(&[]).unwrap_err().to_string();
        assert!(error.contains("is damaged"), "{error}");
        // Nothing is kept once it is done.
        assert!(store.inner.state().leases.is_empty());
    }

    #[test]
    fn what_is_no_image_yet_is_saved_alike() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::open(from.path()).unwrap();
        let layer = Tar::default().file("f", b"first").finish();
        let incoming = store.incoming().unwrap();
        let packed = incoming
            .pack(&mut layer.as_slice(), crate::PackAs::Gzip)
            .unwrap();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            packed.diff_id
        );
        let config_digest = incoming.add_document(config.as_bytes()).unwrap();
        let manifest = crate::manifest::write(
            crate::manifest::Family::Oci,
            (&config_digest, config.len() as u64),
            &[(
                crate::decompress::Compression::Gzip,
                &packed.digest,
                packed.size,
            )],
        );
        let id = incoming.add_document(&manifest).unwrap();
        let names = [Reference::parse("built:1").unwrap()];
        let save = |for_docker| {
            let mut archive = Vec::new();
            incoming
                .save(&id, &names, for_docker, &mut archive)
                .unwrap();
            archive
        };
        let archive = save(true);
        assert!(store.images().is_empty());
        let other = Store::open(to.path()).unwrap();
        let loaded = load(&other, &archive).unwrap().remove(0);
        assert_eq!(
            (&loaded.id, loaded.names[0].as_str()),
            (&id, "docker.io/library/built:1")
        );
        let has = |archive: &[u8], name: &str| {
            archive
                .windows(name.len())
                .any(|window| window == name.as_bytes())
        };
        assert!(has(&archive, "manifest.json") && !has(&save(false), "manifest.json"));
        // An image of it is the same archive.
        let image = incoming.commit(&id, &names, &[]).unwrap();
        assert!(save(true) == archive);
        let mut again = Vec::new();
        let wanted = [(image.clone(), image.names.clone())];
        store.save(&wanted, &[], &mut again).unwrap();
        assert!(again == archive);
    }
}
