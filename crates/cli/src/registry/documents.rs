//! Manifests and configurations as far as people are shown of them.

use berth_registry::client::Repository;
use futures_util::StreamExt as _;
use serde::Deserialize;

use super::remote::told;
use crate::failure::Failure;

/// Longest configuration that is read.
const MAX_CONFIG: usize = 8 << 20;

/// A manifest or an index.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Document {
    pub(crate) config: Option<Entry>,
    pub(crate) layers: Vec<Entry>,
    pub(crate) manifests: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
}

/// Of an index, and as a configuration begins.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

impl Platform {
    /// "linux/arm64/v8"; nothing for what is for none (attestations).
    pub(crate) fn name(&self) -> Option<String> {
        if self.os.is_empty() || self.os == "unknown" {
            return None;
        }
        let mut name = format!("{}/{}", self.os, self.architecture);
        if !self.variant.is_empty() {
            name = format!("{name}/{}", self.variant);
        }
        Some(name)
    }
}

impl Document {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(bytes)
            .map_err(|error| Failure::new(format!("the manifest cannot be read: {error}")))
    }

    /// What is referred to, each once.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Entry> {
        self.config.iter().chain(&self.layers)
    }
}

/// The text of a configuration.
pub(crate) async fn config(repository: &Repository, entry: &Entry) -> Result<Vec<u8>, Failure> {
    let blob = repository.blob(&entry.digest, 0, &[]).await;
    let mut stream = blob.map_err(told)?.stream;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.map_err(told)?);
        if bytes.len() > MAX_CONFIG {
            return Err(Failure::new(format!(
                "configuration {} is longer than {MAX_CONFIG} bytes",
                entry.digest
            )));
        }
    }
    Ok(bytes)
}
