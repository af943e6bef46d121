//! One image of a list, in the form Docker's client keeps it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::failure::Failure;

pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Entry {
    #[serde(rename = "Ref")]
    pub(super) reference: String,
    pub(super) descriptor: Descriptor,
    /// The manifest, byte for byte, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    raw: String,
    #[serde(
        default,
        rename = "SchemaV2Manifest",
        skip_serializing_if = "Option::is_none"
    )]
    docker: Option<Box<RawValue>>,
    #[serde(
        default,
        rename = "OCIManifest",
        skip_serializing_if = "Option::is_none"
    )]
    oci: Option<Box<RawValue>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub(super) os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub(super) os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) variant: String,
}

/// What of a manifest is needed to copy its image.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Manifest {
    pub(super) config: Blob,
    pub(super) layers: Vec<Blob>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Blob {
    pub(super) digest: String,
    pub(super) size: u64,
}

impl Entry {
    /// `bytes` is the manifest of `descriptor`.
    pub(super) fn new(
        reference: String,
        descriptor: Descriptor,
        bytes: &[u8],
    ) -> Result<Self, Failure> {
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let parsed: Box<RawValue> = serde_json::from_str(text)
            .map_err(|error| Failure::new(format!("{reference} is not a manifest: {error}")))?;
        let (docker, oci) = if descriptor.media_type == DOCKER_MANIFEST {
            (Some(parsed), None)
        } else {
            (None, Some(parsed))
        };
        Ok(Self {
            reference,
            descriptor,
            raw: STANDARD.encode(bytes),
            docker,
            oci,
        })
    }

    /// Clients before 28 kept no bytes.
    pub(super) fn is_complete(&self) -> bool {
        !self.raw.is_empty()
    }

    /// The manifest, byte for byte.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, Failure> {
        STANDARD
            .decode(&self.raw)
            .ok()
            .filter(|bytes| !bytes.is_empty())
            .ok_or_else(|| Failure::new(format!("{} has no payload", self.reference)))
    }

    pub(super) fn manifest_text(&self) -> Result<String, Failure> {
        if !self.is_complete()
            && let Some(parsed) = self.docker.as_ref().or(self.oci.as_ref())
        {
            return Ok(parsed.get().to_owned());
        }
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    pub(super) fn manifest(&self) -> Result<Manifest, Failure> {
        serde_json::from_str(&self.manifest_text()?)
            .map_err(|error| Failure::new(format!("{} is not a manifest: {error}", self.reference)))
    }

    pub(super) fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::new(error.to_string()))
    }
}

/// An index where the images are OCI's, else Docker's list.
pub(super) fn list_type(entries: &[Entry]) -> &'static str {
    match entries.first() {
        Some(entry) if entry.descriptor.media_type == OCI_MANIFEST => OCI_INDEX,
        _ => DOCKER_LIST,
    }
}

/// The list of `entries`, indented as registries know it from Docker.
pub(super) fn list(entries: &[Entry]) -> Result<String, Failure> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct List<'a> {
        schema_version: u8,
        media_type: &'a str,
        manifests: Vec<Item<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Item<'a> {
        media_type: &'a str,
        size: u64,
        digest: &'a str,
        platform: Platform,
    }
    let list = List {
        schema_version: 2,
        media_type: list_type(entries),
        manifests: entries
            .iter()
            .map(|entry| Item {
                media_type: &entry.descriptor.media_type,
                size: entry.descriptor.size,
                digest: &entry.descriptor.digest,
                platform: entry.descriptor.platform.clone().unwrap_or_default(),
            })
            .collect(),
    };
    let text = serde_json::to_string(&list).map_err(|error| Failure::new(error.to_string()))?;
    Ok(crate::output::json::indent(&text, "   "))
}

/// Operating systems and processors that Docker lets stand in a list.
pub(super) fn is_known(os: &str, architecture: &str) -> bool {
    let known: &[&str] = match os {
        "darwin" => &["386", "amd64", "arm", "arm64"],
        "dragonfly" | "solaris" => &["amd64"],
        "freebsd" | "netbsd" | "openbsd" => &["386", "amd64", "arm"],
        "linux" => &[
            "386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "ppc64le", "riscv64",
            "s390x",
        ],
        "plan9" => &["386", "amd64"],
        "windows" => &["386", "amd64", "arm64"],
        _ => &[],
    };
    known.contains(&architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &[u8] = br#"{ "schemaVersion": 2,"config":{"digest":"sha256:c","size":1},"layers":[{"digest":"sha256:l","size":2}]}"#;

    fn entry(media_type: &str) -> Entry {
        let descriptor = Descriptor {
            media_type: media_type.to_owned(),
            digest: "sha256:m".to_owned(),
            size: 5,
            platform: Some(Platform {
                architecture: "arm".to_owned(),
                os: "linux".to_owned(),
                variant: "v7".to_owned(),
                ..Platform::default()
            }),
        };
        Entry::new("docker.io/library/x:1".to_owned(), descriptor, MANIFEST).unwrap()
    }

    #[test]
    fn entries_keep_the_bytes() {
        let text = entry(DOCKER_MANIFEST).to_json().unwrap();
        assert!(text.starts_with(
            r#"{"Ref":"docker.io/library/x:1","Descriptor":{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","digest":"sha256:m","size":5,"platform":{"architecture":"arm","os":"linux","variant":"v7"}},"Raw":""#
        ), "{text}");
        assert!(text.contains("\"SchemaV2Manifest\":{"));
        let back: Entry = serde_json::from_str(&text).unwrap();
        assert_eq!(back.bytes().unwrap(), MANIFEST);
        assert_eq!(back.manifest().unwrap().layers[0].digest, "sha256:l");
    }

    #[test]
    fn lists_follow_their_images() {
        assert_eq!(
            list(&[entry(DOCKER_MANIFEST)]).unwrap(),
            "{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"application/vnd.docker.distribution.manifest.list.v2+json\",\n   \"manifests\": [\n      {\n         \"mediaType\": \"application/vnd.docker.distribution.manifest.v2+json\",\n         \"size\": 5,\n         \"digest\": \"sha256:m\",\n         \"platform\": {\n            \"architecture\": \"arm\",\n            \"os\": \"linux\",\n            \"variant\": \"v7\"\n         }\n      }\n   ]\n}"
        );
        assert_eq!(list_type(&[entry(OCI_MANIFEST)]), OCI_INDEX);
    }
}
