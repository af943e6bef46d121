//! What a manifest says: which kinds there are, what they refer to, and which
//! are refused.

use serde::Deserialize;

use super::errors::{Code, Failure};
use super::names::Digest;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A manifest as far as the registry needs to understand it.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) media_type: String,
    pub(crate) blobs: Vec<Link>,
    pub(crate) manifests: Vec<Link>,
    pub(crate) subject: Option<Digest>,
    /// Of the referrer, as the referrers API shows it; may be empty.
    pub(crate) artifact_type: String,
    pub(crate) annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Something that must be there before a manifest is accepted.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
    subject: Option<Descriptor>,
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn link(&self) -> Result<Link, Failure> {
        Ok(Link {
            digest: self.digest()?,
            size: self.size,
        })
    }

    fn digest(&self) -> Result<Digest, Failure> {
        Digest::parse(&self.digest).ok_or_else(|| {
            invalid(format!(
                "digest {:?} in the manifest is no sha256 or sha512 digest",
                self.digest
            ))
        })
    }

    /// Foreign layers live elsewhere.
    fn is_foreign(&self) -> bool {
        self.media_type
            .starts_with("application/vnd.docker.image.rootfs.foreign.")
            || self
                .media_type
                .starts_with("application/vnd.oci.image.layer.nondistributable.")
    }
}

pub(crate) fn is_manifest_type(media_type: &str) -> bool {
    [
        OCI_MANIFEST,
        OCI_INDEX,
        OCI_ARTIFACT,
        DOCKER_MANIFEST,
        DOCKER_LIST,
    ]
    .contains(&media_type)
}

fn invalid(why: impl Into<String>) -> Failure {
    Failure::new(Code::ManifestInvalid, why)
}

impl Document {
    /// Reads a manifest that came under `content_type`.
    ///
    /// # Errors
    /// `MANIFEST_INVALID`, also for one that could be read as two kinds.
    pub(crate) fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, Failure> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| invalid(format!("the manifest cannot be read: {error}")))?;
        if raw.fs_layers.is_some() || raw.schema_version == Some(1) {
            return Err(invalid(
                "manifests of Docker's schema 1 are not supported: push the image with a newer client",
            ));
        }
        if raw.schema_version.is_some_and(|version| version != 2) {
            return Err(invalid("schemaVersion of the manifest is not 2"));
        }
        let header = content_type
            .map(|text| text.split(';').next().unwrap_or_default().trim())
            .filter(|text| !text.is_empty() && *text != "application/json");
        let media_type = match (header, raw.media_type.as_deref()) {
            // CVE-2021-41190: the type is never a matter of opinion.
            (Some(header), Some(own)) if header != own => {
                return Err(invalid(format!(
                    "the manifest says it is {own:?}, but Content-Type is {header:?}"
                )));
            }
            (Some(one), _) | (None, Some(one)) => one.to_owned(),
            (None, None) => return Err(invalid("the manifest has no media type")),
        };
        let image = raw.config.is_some() || raw.layers.is_some();
        let index = raw.manifests.is_some();
        let artifact = raw.blobs.is_some();
        // CVE-2021-41190: what two clients could read differently is refused.
        if [image, index, artifact]
            .into_iter()
            .filter(|is| *is)
            .count()
            > 1
        {
            return Err(invalid(
                "the manifest is ambiguous: it has fields of several kinds (config or layers, manifests, blobs)",
            ));
        }
        let fits = match media_type.as_str() {
            OCI_MANIFEST | DOCKER_MANIFEST => {
                raw.schema_version.is_some() && raw.config.is_some() && raw.layers.is_some()
            }
            OCI_INDEX | DOCKER_LIST => raw.schema_version.is_some() && index,
            OCI_ARTIFACT => !image && !index,
            other => {
                return Err(invalid(format!("media type {other:?} is no manifest's")));
            }
        };
        if !fits {
            return Err(invalid(format!(
                "the manifest lacks what one of type {media_type:?} must have"
            )));
        }
        let mut blobs = Vec::new();
        let mut manifests = Vec::new();
        let layers = raw.layers.iter().chain(&raw.blobs).flatten();
        for descriptor in raw.config.iter().chain(layers) {
            let link = descriptor.link()?;
            if !descriptor.is_foreign() {
                blobs.push(link);
            }
        }
        for descriptor in raw.manifests.iter().flatten() {
            let link = descriptor.link()?;
            if is_manifest_type(&descriptor.media_type) {
                manifests.push(link);
            } else {
                blobs.push(link);
            }
        }
        let subject = raw.subject.as_ref().map(Descriptor::digest).transpose()?;
        let artifact_type = raw
            .artifact_type
            .filter(|text| !text.is_empty())
            .or_else(|| raw.config.map(|config| config.media_type))
            .unwrap_or_default();
        Ok(Self {
            media_type,
            blobs,
            manifests,
            subject,
            artifact_type,
            annotations: raw.annotations,
        })
    }

    /// As the referrers API lists this manifest.
    pub(crate) fn descriptor(&self, digest: &Digest, size: usize) -> serde_json::Value {
        let mut descriptor = serde_json::json!({
            "mediaType": self.media_type,
            "digest": digest.to_string(),
            "size": size,
        });
        if !self.artifact_type.is_empty() {
            descriptor["artifactType"] = self.artifact_type.clone().into();
        }
        if let Some(annotations) = &self.annotations {
            descriptor["annotations"] = annotations.clone().into();
        }
        descriptor
    }
}

/// An index of descriptors, as the referrers API answers.
pub(crate) fn index_of(descriptors: &[serde_json::Value]) -> String {
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": descriptors,
    })
    .to_string()
}

pub(crate) const INDEX_TYPE: &str = OCI_INDEX;

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> String {
        let digest = format!("sha256:{}", "0".repeat(64));
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":2}}"#)
    }

    #[test]
    fn kinds_and_their_links() {
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar");
        let foreign = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        let text = format!(
            r#"{{"schemaVersion":2,"config":{layer},"layers":[{layer},{foreign}],"subject":{layer}}}"#
        );
        let image = Document::parse(Some(OCI_MANIFEST), text.as_bytes()).unwrap();
        assert_eq!((image.blobs.len(), image.manifests.len()), (2, 0));
        assert!(image.subject.is_some());
        assert_eq!(
            image.artifact_type,
            "application/vnd.oci.image.layer.v1.tar"
        );
        let child = descriptor(DOCKER_MANIFEST);
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST}","manifests":[{child}]}}"#);
        let index = Document::parse(None, text.as_bytes()).unwrap();
        assert_eq!((index.blobs.len(), index.manifests.len()), (0, 1));
        assert_eq!(index.media_type, DOCKER_LIST);
    }

    #[test]
    fn what_is_refused() {
        let layer = descriptor("x/y");
        let image = format!(r#""schemaVersion":2,"config":{layer},"layers":[]"#);
        for (media_type, text) in [
            (OCI_MANIFEST, "{".to_owned()),
            (OCI_MANIFEST, "[]".to_owned()),
            (OCI_MANIFEST, format!("{{{image},\"manifests\":[]}}")),
            (
                OCI_MANIFEST,
                format!("{{{image},\"mediaType\":\"{DOCKER_MANIFEST}\"}}"),
            ),
            (OCI_INDEX, format!("{{{image}}}")),
            (
                OCI_INDEX,
                format!("{{{image},\"mediaType\":\"{OCI_MANIFEST}\"}}"),
            ),
            (
                OCI_MANIFEST,
                r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(),
            ),
            ("text/plain", format!("{{{image}}}")),
            ("", format!("{{{image}}}")),
            (OCI_MANIFEST, image.replace(":2,\"config", ":1,\"config")),
            (
                OCI_MANIFEST,
                format!("{{{}}}", image.replace("sha256:0", "sha256:g")),
            ),
            (
                OCI_MANIFEST,
                format!("{{{}}}", image.replace("\"size\":2", "\"size\":-2")),
            ),
        ] {
            assert!(
                Document::parse(Some(media_type), text.as_bytes()).is_err(),
                "{text}"
            );
        }
    }
}
