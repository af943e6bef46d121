//! Images: listing, inspection, removal.

use crate::container::{Config, Descriptor, Labels, Platform};

go_struct! {
    /// One row of `GET /images/json`.
    pub struct Summary {
        /// Number of containers; -1 = not counted.
        containers: i64,
        created: i64,
        id: String,
        labels: Option<Labels>,
        parent_id: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        descriptor: Option<Descriptor>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        manifests: Option<Vec<ManifestSummary>>,
        repo_digests: Vec<String>,
        repo_tags: Vec<String>,
        /// Bytes shared with other images; -1 = not counted.
        shared_size: i64,
        size: i64,
        /// Sent below 1.44 only.
        #[serde(skip_serializing_if = "crate::go::is_default")]
        virtual_size: Option<i64>,
    }
}

go_struct! {
    /// Reply of `GET /images/{name}/json`.
    pub struct Inspect {
        id: String,
        repo_tags: Vec<String>,
        repo_digests: Vec<String>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        parent: String,
        comment: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        created: String,
        author: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        docker_version: String,
        config: Option<Config>,
        architecture: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        variant: String,
        os: String,
        size: i64,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        virtual_size: Option<i64>,
        #[serde(rename = "RootFS")]
        root_fs: RootFs,
        metadata: Metadata,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        descriptor: Option<Descriptor>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        manifests: Option<Vec<ManifestSummary>>,
    }
}

go_struct! {
    /// One manifest of an image, with `manifests=1`.
    pub struct ManifestSummary {
        #[serde(rename = "ID")]
        id: String,
        descriptor: Descriptor,
        /// All its blobs are here.
        available: bool,
        size: ManifestSize,
        /// "image", "attestation" or "unknown".
        kind: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        image_data: Option<ImageData>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        attestation_data: Option<AttestationData>,
    }
}

go_struct! {
    /// Bytes.
    pub struct ManifestSize {
        /// Blobs that are here.
        content: i64,
        /// With the unpacked layers.
        total: i64,
    }
}

go_struct! {
    pub struct ImageData {
        platform: Platform,
        size: UnpackedSize,
        /// IDs of containers that were made from it.
        containers: Vec<String>,
    }
}

go_struct! {
    /// Bytes.
    pub struct UnpackedSize {
        unpacked: i64,
    }
}

go_struct! {
    pub struct AttestationData {
        /// Digest of the manifest that it describes.
        r#for: String,
    }
}

go_struct! {
    /// Reply of `POST /commit`.
    pub struct Created {
        id: String,
    }
}

go_struct! {
    /// Reply of `POST /images/prune`.
    pub struct PruneReport {
        images_deleted: Option<Vec<Deleted>>,
        /// Bytes.
        space_reclaimed: u64,
    }
}

go_struct! {
    pub struct RootFs {
        r#type: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        layers: Vec<String>,
    }
}

go_struct! {
    pub struct Metadata {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        last_tag_time: String,
    }
}

go_struct! {
    /// One line of `DELETE /images/{name}`'s reply.
    pub struct Deleted {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        untagged: String,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        deleted: String,
    }
}

go_struct! {
    /// One row of `GET /images/{name}/history`, newest first.
    pub struct HistoryItem {
        id: String,
        created: i64,
        created_by: String,
        tags: Option<Vec<String>>,
        size: i64,
        comment: String,
    }
}
