//! Manifests at registries.

use berth_registry::client::{Access, Client, Error, Options, Repository};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};

use super::entry::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Entry, OCI_INDEX, OCI_MANIFEST, Platform,
};
use crate::context::Context;
use crate::credentials;
use crate::failure::Failure;
use crate::reference::Reference;

/// Longest configuration of an image, in bytes.
const MAX_CONFIG: usize = 8 * 1024 * 1024;
/// Most images of a list.
const MAX_LIST: usize = 1000;

/// One repository, and how others of its registry are reached.
pub(super) struct Remote {
    repository: Repository,
}

pub(super) enum Found {
    Image(Box<Entry>),
    List(Vec<Entry>),
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Remote {
    pub(super) fn connect(
        context: &Context,
        name: &Reference,
        insecure: bool,
        access: Access,
    ) -> Result<Self, Failure> {
        let options = Options {
            user_agent: concat!("berth/", env!("CARGO_PKG_VERSION")).to_owned(),
            insecure: if insecure {
                vec![name.domain.clone()]
            } else {
                Vec::new()
            },
            ..Options::default()
        };
        let credentials = credentials::for_host(&context.config, &name.domain)?.into();
        let repository = Client::new(options)
            .and_then(|client| client.repository(&name.domain, name.path(), &credentials, access))
            .map_err(|error| failure(&error, name))?;
        Ok(Self { repository })
    }

    /// The image or list of that name.
    pub(super) async fn any(&self, name: &Reference) -> Result<Found, Failure> {
        let manifest = self
            .repository
            .manifest(name.version())
            .await
            .map_err(|error| failure(&error, name))?;
        let descriptor = Descriptor {
            media_type: manifest.media_type,
            digest: manifest.digest,
            size: manifest.bytes.len() as u64,
            platform: None,
        };
        match descriptor.media_type.as_str() {
            DOCKER_MANIFEST | OCI_MANIFEST => {
                let entry = self.entry(name.full(), descriptor, &manifest.bytes).await?;
                Ok(Found::Image(Box::new(entry)))
            }
            DOCKER_LIST | OCI_INDEX => self.list(name, &manifest.bytes).await.map(Found::List),
            other => Err(Failure::new(format!(
                "unsupported manifest format: {} of {}",
                crate::output::harmless(other),
                name.full()
            ))),
        }
    }

    /// One image; a list is refused.
    pub(super) async fn image(&self, name: &Reference) -> Result<Entry, Failure> {
        match self.any(name).await? {
            Found::Image(entry) => Ok(*entry),
            Found::List(_) => Err(Failure::new(format!("{} is a manifest list", name.full()))),
        }
    }

    async fn list(&self, name: &Reference, bytes: &[u8]) -> Result<Vec<Entry>, Failure> {
        let list: List = serde_json::from_slice(bytes).map_err(|error| {
            Failure::new(format!("{} is not a manifest list: {error}", name.full()))
        })?;
        if list.manifests.len() > MAX_LIST {
            return Err(Failure::new(format!(
                "{} lists more than {MAX_LIST} images",
                name.full()
            )));
        }
        let mut entries = Vec::new();
        for listed in list.manifests {
            let manifest = self
                .repository
                .manifest(&listed.digest)
                .await
                .map_err(|error| failure(&error, name))?;
            let reference = format!("{}@{}", name.full(), listed.digest);
            let descriptor = Descriptor {
                media_type: manifest.media_type,
                digest: manifest.digest,
                size: manifest.bytes.len() as u64,
                platform: listed.platform,
            };
            entries.push(Entry::new(reference, descriptor, &manifest.bytes)?);
        }
        Ok(entries)
    }

    /// With the platform that the image's configuration names.
    async fn entry(
        &self,
        reference: String,
        descriptor: Descriptor,
        bytes: &[u8],
    ) -> Result<Entry, Failure> {
        let mut entry = Entry::new(reference, descriptor, bytes)?;
        let digest = entry.manifest()?.config.digest;
        let config = self.config(&digest).await?;
        let platform: Platform = serde_json::from_slice(&config).map_err(|error| {
            Failure::new(format!(
                "the configuration of {} cannot be read: {error}",
                entry.reference
            ))
        })?;
        entry.descriptor.platform = Some(platform);
        Ok(entry)
    }

    async fn config(&self, digest: &str) -> Result<Vec<u8>, Failure> {
        let said = |error: Error| Failure::new(error.to_string());
        let mut blob = self.repository.blob(digest, 0, &[]).await.map_err(said)?;
        let mut bytes = Vec::new();
        while let Some(piece) = blob.stream.next().await {
            bytes.extend_from_slice(&piece.map_err(said)?);
            if bytes.len() > MAX_CONFIG {
                return Err(Failure::new(format!(
                    "the configuration {digest} is longer than {MAX_CONFIG} bytes"
                )));
            }
        }
        let found = match digest.split_once(':') {
            Some(("sha512", _)) => format!("sha512:{}", hex(&Sha512::digest(&bytes))),
            _ => format!("sha256:{}", hex(&Sha256::digest(&bytes))),
        };
        if found == digest {
            Ok(bytes)
        } else {
            Err(Failure::new(format!(
                "image config verification failed for digest {digest}"
            )))
        }
    }

    /// Takes an image over from another repository of the registry.
    pub(super) async fn bring(&self, source: &Reference, entry: &Entry) -> Result<String, Failure> {
        let said = |error: Error| Failure::new(error.to_string());
        let manifest = entry.manifest()?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            let mounted = self
                .repository
                .mount_blob(&blob.digest, source.path())
                .await
                .map_err(said)?;
            let there = mounted
                || self
                    .repository
                    .blob_size(&blob.digest)
                    .await
                    .map_err(said)?
                    .is_some();
            if !there {
                return Err(Failure::new(format!(
                    "error mounting {}@{}: the registry does not share blobs between repositories: push the image to the list's repository first",
                    source.full_name(),
                    blob.digest
                )));
            }
        }
        self.repository
            .push_manifest(
                &entry.descriptor.digest,
                &entry.descriptor.media_type,
                Bytes::from(entry.bytes()?),
            )
            .await
            .map_err(said)
    }

    pub(super) async fn put(
        &self,
        name: &Reference,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<String, Failure> {
        self.repository
            .push_manifest(name.version(), media_type, bytes)
            .await
            .map_err(|error| failure(&error, name))
    }
}

fn failure(error: &Error, name: &Reference) -> Failure {
    match error {
        Error::NotFound(_) => Failure::new(format!("no such manifest: {}", name.full())),
        other => Failure::new(crate::output::harmless_lines(&other.to_string())),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
