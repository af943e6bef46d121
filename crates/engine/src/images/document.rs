//! Manifests and indexes as a registry serves them, read with bounds.

use std::collections::BTreeMap;

use berth_api::Error;
use serde::Deserialize;
use serde_json::Value;

use super::platform::Wanted;

/// Entries of an index, layers of a manifest.
const MAX_ENTRIES: usize = 4096;

const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// What a descriptor says; `null` and absent are the same.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    media_type: Option<String>,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) os: Option<String>,
    #[serde(default)]
    pub(crate) architecture: Option<String>,
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

impl Manifest {
    /// Bottom first.
    pub(crate) fn layers(&self) -> &[Descriptor] {
        self.layers.as_deref().unwrap_or_default()
    }
}

impl Platform {
    pub(crate) fn rank(&self, wanted: &Wanted) -> Option<usize> {
        wanted.rank(
            self.os.as_deref().unwrap_or_default(),
            self.architecture.as_deref().unwrap_or_default(),
            self.variant.as_deref().unwrap_or_default(),
        )
    }
}

impl Descriptor {
    pub(crate) fn media_type(&self) -> &str {
        self.media_type.as_deref().unwrap_or_default()
    }

    pub(crate) fn urls(&self) -> &[String] {
        self.urls.as_deref().unwrap_or_default()
    }

    pub(crate) fn platform(&self) -> Option<&Platform> {
        self.platform.as_ref()
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        Some(self.annotations.as_ref()?.get(name)?.as_str())
    }

    pub(crate) fn is_attestation(&self) -> bool {
        self.annotation(REFERENCE_TYPE).is_some()
    }

    /// Whether it describes the manifest with this digest.
    pub(crate) fn attests(&self, digest: &str) -> bool {
        self.annotation(REFERENCE_DIGEST) == Some(digest)
    }

    /// Whether it is of an image that can be run; else of an artifact.
    pub(crate) fn is_image_config(&self) -> bool {
        matches!(
            self.media_type(),
            "" | "application/vnd.oci.image.config.v1+json"
                | "application/vnd.docker.container.image.v1+json"
                | "application/octet-stream"
        )
    }

    /// Kept by its publisher: to be fetched from its URLs, never pushed.
    pub(crate) fn is_foreign(&self) -> bool {
        let kind = self.media_type();
        (kind.contains(".foreign.") || kind.contains(".nondistributable."))
            && !self.urls().is_empty()
    }

    /// Twelve digits, as clients show a layer.
    pub(crate) fn short(&self) -> String {
        let hex = self.digest.rsplit(':').next().unwrap_or_default();
        hex.chars().take(12).collect()
    }
}

/// What a document is to be served as when nobody says: as it says, else OCI.
pub(crate) fn media_type(bytes: &[u8], document: &Document) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let own = serde_json::from_slice::<Typed>(bytes)
        .ok()
        .and_then(|typed| typed.media_type);
    own.unwrap_or_else(|| {
        match document {
            Document::Index(_) => "application/vnd.oci.image.index.v1+json",
            Document::Manifest(_) => "application/vnd.oci.image.manifest.v1+json",
        }
        .to_owned()
    })
}

pub(crate) fn parse(digest: &str, bytes: &[u8]) -> Result<Document, Error> {
    let bad = |error: serde_json::Error| {
        Error::system(format!("manifest {digest} is not valid: {error}"))
    };
    let value: Value = serde_json::from_slice(bytes).map_err(bad)?;
    let has = |key: &str| value.get(key).is_some_and(|value| !value.is_null());
    if value.get("schemaVersion") == Some(&Value::from(1)) {
        return Err(Error::not_implemented(
            "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. Ask the image's publisher for an image in the OCI format or Docker's schema 2",
        ));
    }
    // CVE-2021-41190: a document must not be one thing to us and another to
    // whoever signed or scanned it.
    let document = match (has("manifests"), has("config") || has("layers")) {
        (true, true) => {
            return Err(Error::system(format!(
                "manifest {digest} is both an index and a manifest"
            )));
        }
        (true, false) => Document::Index(
            Vec::deserialize(value.get("manifests").unwrap_or(&Value::Null)).map_err(bad)?,
        ),
        (false, true) => Document::Manifest(Manifest::deserialize(&value).map_err(bad)?),
        (false, false) => {
            return Err(Error::system(format!(
                "{digest} is neither an index nor a manifest"
            )));
        }
    };
    let entries = match &document {
        Document::Index(entries) => entries.len(),
        Document::Manifest(manifest) => manifest.layers().len(),
    };
    if entries > MAX_ENTRIES {
        return Err(Error::system(format!(
            "manifest {digest} has {entries} entries; at most {MAX_ENTRIES} are taken"
        )));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_told_apart() {
        let index = br#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:ab","size":3,"platform":{"os":"linux","architecture":"amd64"},"annotations":null}]}"#;
        let Document::Index(entries) = parse("x", index).unwrap() else {
            panic!("it is an index");
        };
        let wanted = Wanted::parse("linux/amd64").unwrap();
        assert_eq!(entries[0].platform().unwrap().rank(&wanted), Some(0));
        assert!(!entries[0].is_attestation());
        let manifest =
            br#"{"schemaVersion":2,"config":{"digest":"sha256:ab","size":3},"layers":null}"#;
        assert!(
            matches!(parse("x", manifest).unwrap(), Document::Manifest(m) if m.layers().is_empty())
        );
        for (text, words) in [
            (
                &br#"{"manifests":[],"layers":[]}"#[..],
                "both an index and a manifest",
            ),
            (
                br#"{"schemaVersion":1,"fsLayers":[]}"#,
                "schema 1 support has been removed",
            ),
            (br#"{"manifests":[{"digest":"x","size":-1}]}"#, "not valid"),
            (b"{}", "neither"),
            (b"[", "not valid"),
        ] {
            let error = parse("x", text).unwrap_err();
            assert!(error.message.contains(words), "{error}");
        }
    }
}
