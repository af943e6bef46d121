//! An image as it is stored: its documents, and the blobs they name.

use std::collections::HashSet;
use std::io::Read as _;

use berth_api::Error;
use berth_store::{BlobReader, Incoming, Store};
use bytes::Bytes;

use super::document::{self, Descriptor, Document, Manifest, Platform};
use crate::error::IntoApi as _;

/// Bytes of a manifest or index, and of a configuration.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Indexes within indexes.
const MAX_NESTING: usize = 4;

/// Where blobs are read from.
#[derive(Clone, Debug)]
pub(crate) enum Blobs {
    Stored(Store),
    /// What is no image yet, and the store.
    Incoming(Incoming),
}

impl Blobs {
    /// The blob and its length.
    pub(crate) fn open(&self, digest: &str) -> Result<(BlobReader, u64), berth_store::Error> {
        match self {
            Self::Stored(store) => store.open_blob(digest),
            Self::Incoming(incoming) => incoming.open_blob(digest),
        }
    }
}

/// A manifest or index.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) digest: String,
    pub(crate) media_type: String,
    pub(crate) bytes: Bytes,
    document: Document,
}

/// A manifest that is here with all its blobs.
#[derive(Clone, Debug)]
pub(crate) struct Complete {
    pub(crate) digest: String,
    pub(crate) platform: Platform,
}

#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) root: Node,
    /// What the root names, children before what names them.
    pub(crate) children: Vec<Node>,
    /// Each once; foreign ones are named even if they are not here.
    pub(crate) blobs: Vec<Descriptor>,
    configs: HashSet<String>,
    /// Complete manifests of images.
    pub(crate) images: Vec<Complete>,
    /// Manifests that are named but not here with all their blobs.
    pub(crate) missing: Vec<Descriptor>,
}

impl Tree {
    fn new(root: Node) -> Self {
        Self {
            root,
            children: Vec::new(),
            blobs: Vec::new(),
            configs: HashSet::new(),
            images: Vec::new(),
            missing: Vec::new(),
        }
    }

    pub(crate) fn documents(&self) -> impl Iterator<Item = &Node> {
        self.children.iter().chain([&self.root])
    }

    pub(crate) fn is_config(&self, blob: &Descriptor) -> bool {
        self.configs.contains(&blob.digest)
    }

    /// One of its manifests alone.
    pub(crate) fn part(&self, digest: &str) -> Result<Self, Error> {
        let node = self.documents().find(|node| node.digest == digest);
        let node = node.ok_or_else(|| Error::not_found(format!("{digest}: not found")))?;
        let mut part = Self::new(node.clone());
        if let Document::Manifest(manifest) = &node.document {
            part.add_blobs(manifest);
        }
        Ok(part)
    }

    fn add_blobs(&mut self, manifest: &Manifest) {
        self.configs.insert(manifest.config.digest.clone());
        for blob in [&manifest.config].into_iter().chain(manifest.layers()) {
            if !self.blobs.iter().any(|have| have.digest == blob.digest) {
                self.blobs.push(blob.clone());
            }
        }
    }

    fn visit(
        &mut self,
        store: &Blobs,
        entries: &[Descriptor],
        nesting: usize,
    ) -> Result<(), Error> {
        if nesting == 0 {
            return Err(Error::system("the image's index is nested too deeply"));
        }
        for entry in entries {
            if self.children.iter().any(|node| node.digest == entry.digest) {
                continue;
            }
            let Some(node) = node(store, &entry.digest, entry.media_type())? else {
                self.missing.push(entry.clone());
                continue;
            };
            match &node.document {
                Document::Index(entries) => self.visit(store, entries, nesting - 1)?,
                Document::Manifest(manifest) => {
                    if !self.take(store, &entry.digest, manifest, Some(entry))? {
                        self.missing.push(entry.clone());
                        continue;
                    }
                }
            }
            self.children.push(node);
        }
        Ok(())
    }

    /// Adds the blobs of a manifest if all are here.
    fn take(
        &mut self,
        store: &Blobs,
        digest: &str,
        manifest: &Manifest,
        entry: Option<&Descriptor>,
    ) -> Result<bool, Error> {
        let here = |blob: &Descriptor| blob.is_foreign() || store.open(&blob.digest).is_ok();
        if ![&manifest.config]
            .into_iter()
            .chain(manifest.layers())
            .all(here)
        {
            return Ok(false);
        }
        self.add_blobs(manifest);
        if !entry.is_some_and(Descriptor::is_attestation) {
            let platform = match entry.and_then(Descriptor::platform) {
                Some(platform) => platform.clone(),
                None => config_platform(store, &manifest.config)?,
            };
            self.images.push(Complete {
                digest: digest.to_owned(),
                platform,
            });
        }
        Ok(true)
    }
}

/// Reads what is stored of an image. Blocking.
pub(crate) fn read(store: &Blobs, id: &str) -> Result<Tree, Error> {
    let root = node(store, id, "")?
        .ok_or_else(|| Error::not_found(format!("content digest {id}: not found")))?;
    let mut tree = Tree::new(root);
    match tree.root.document.clone() {
        Document::Index(entries) => tree.visit(store, &entries, MAX_NESTING)?,
        Document::Manifest(manifest) => {
            if !tree.take(store, id, &manifest, None)? {
                return Err(Error::not_found(format!(
                    "content of image {id} is incomplete: pull it again"
                )));
            }
        }
    }
    Ok(tree)
}

fn node(store: &Blobs, digest: &str, media_type: &str) -> Result<Option<Node>, Error> {
    let Some(bytes) = bytes(store, digest)? else {
        return Ok(None);
    };
    let document = document::parse(digest, &bytes)?;
    let media_type = match media_type {
        "" => document::media_type(&bytes, &document),
        given => given.to_owned(),
    };
    Ok(Some(Node {
        digest: digest.to_owned(),
        media_type,
        bytes,
        document,
    }))
}

/// A document of the store; none if it is not there.
fn bytes(store: &Blobs, digest: &str) -> Result<Option<Bytes>, Error> {
    let (file, size) = match store.open(digest) {
        Err(berth_store::Error::NotFound(_)) => return Ok(None),
        other => other.api()?,
    };
    if size > MAX_DOCUMENT {
        return Err(Error::system(format!(
            "{digest} has {size} bytes; at most {MAX_DOCUMENT} are taken"
        )));
    }
    let mut bytes = Vec::new();
    file.take(size)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::system(format!("read {digest}: {error}")))?;
    Ok(Some(bytes.into()))
}

/// What an image says of itself; nothing if it is something else (an artifact).
fn config_platform(store: &Blobs, config: &Descriptor) -> Result<Platform, Error> {
    let bytes = bytes(store, &config.digest)?.unwrap_or_default();
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}
