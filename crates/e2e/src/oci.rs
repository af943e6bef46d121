//! Images as registries have them, made here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// This machine's architecture, as images name it.
pub const HOST: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// Blobs by digest, and what tags stand for.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// By tag and by digest: media type and digest of a manifest or index.
    pub manifests: BTreeMap<String, (String, String)>,
}

pub fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("memory can be written");
    }
    text
}

/// A gzip layer with these files, and its diff ID.
pub fn layer(files: &[(&str, &[u8])]) -> (Vec<u8>, String) {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        archive
            .append_data(&mut header, path, *bytes)
            .expect("memory can be written");
    }
    compressed(&archive.into_inner().expect("memory can be written"))
}

/// An archive as a gzip layer, and its diff ID.
pub fn compressed(archive: &[u8]) -> (Vec<u8>, String) {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(archive).expect("memory can be written");
    let blob = gzip.finish().expect("memory can be written");
    (blob, digest(archive))
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl Content {
    pub fn blob(&mut self, bytes: Vec<u8>) -> String {
        let digest = digest(&bytes);
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    fn descriptor(&self, media_type: &str, digest: &str) -> Value {
        json!({"mediaType": media_type, "digest": digest, "size": self.blobs[digest].len()})
    }

    pub fn document(&mut self, media_type: &str, document: &Value) -> String {
        let digest = self.blob(serde_json::to_vec(document).expect("JSON can be written"));
        self.manifests
            .insert(digest.clone(), (media_type.to_owned(), digest.clone()));
        digest
    }

    /// An image of these layers; returns its manifest's digest.
    pub fn image(&mut self, architecture: &str, layers: Vec<(Vec<u8>, String)>) -> String {
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for (blob, diff_id) in layers {
            let digest = self.blob(blob);
            descriptors.push(self.descriptor(LAYER, &digest));
            diff_ids.push(diff_id);
        }
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Cmd": ["sh"], "Env": [format!("ARCH={architecture}")]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob(serde_json::to_vec(&config).expect("JSON can be written"));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.descriptor(CONFIG, &config), "layers": descriptors,
        });
        self.document(MANIFEST, &manifest)
    }

    /// Something that is no image; returns its manifest's digest.
    pub fn artifact(&mut self, bytes: &[u8]) -> String {
        let config = self.blob(b"{}".to_vec());
        let content = self.blob(bytes.to_vec());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.x",
            "config": self.descriptor("application/vnd.oci.empty.v1+json", &config),
            "layers": [self.descriptor("application/vnd.x.content", &content)],
        });
        self.document(MANIFEST, &manifest)
    }

    /// A document about a manifest, as BuildKit makes them; returns its digest.
    pub fn attestation(&mut self, text: &str) -> String {
        let statement = self.blob(text.as_bytes().to_vec());
        let diff_id = statement.clone();
        let config = json!({
            "architecture": "unknown", "os": "unknown",
            "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let config = self.blob(serde_json::to_vec(&config).expect("JSON can be written"));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.descriptor(CONFIG, &config),
            "layers": [self.descriptor("application/vnd.in-toto+json", &statement)],
        });
        self.document(MANIFEST, &manifest)
    }

    /// An index of images (with their architecture), the last optionally with
    /// what attests to it; returns its digest.
    pub fn index(&mut self, images: &[(&str, &str)], attests: &[(&str, &str)]) -> String {
        let mut entries = Vec::new();
        for (digest, architecture) in images {
            let mut entry = self.descriptor(MANIFEST, digest);
            entry["platform"] = json!({"architecture": architecture, "os": "linux"});
            entries.push(entry);
        }
        for (digest, subject) in attests {
            let mut entry = self.descriptor(MANIFEST, digest);
            entry["platform"] = json!({"architecture": "unknown", "os": "unknown"});
            entry["annotations"] = json!({
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": subject,
            });
            entries.push(entry);
        }
        self.document(
            INDEX,
            &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}),
        )
    }

    pub fn tag(&mut self, tag: &str, digest: &str) {
        let manifest = self.manifests[digest].clone();
        self.manifests.insert(tag.to_owned(), manifest);
    }

    /// As an OCI layout, for skopeo; `digest` under `tag`.
    pub fn write_layout(&self, dir: &Path, tag: &str, digest: &str) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).expect("the directory can be made");
        for (digest, bytes) in &self.blobs {
            let hex = digest.trim_start_matches("sha256:");
            std::fs::write(blobs.join(hex), bytes).expect("the directory can be written");
        }
        let (media_type, _) = &self.manifests[digest];
        let mut entry = self.descriptor(media_type, digest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        for (name, text) in [
            ("index.json", index.to_string()),
            ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned()),
        ] {
            std::fs::write(dir.join(name), text).expect("the directory can be written");
        }
    }
}
