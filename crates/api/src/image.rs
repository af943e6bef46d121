//! Images: listing, inspection, removal.

use crate::container::{Config, Descriptor, Labels};

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
