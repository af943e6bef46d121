//! Volumes as the Engine API shows them.

use crate::container::Labels;

go_struct! {
    pub struct Volume {
        created_at: String,
        driver: String,
        labels: Option<Labels>,
        /// On the host.
        mountpoint: String,
        name: String,
        options: Option<Labels>,
        scope: String,
        /// In `GET /system/df` only.
        #[serde(skip_serializing_if = "crate::go::is_default")]
        usage_data: Option<UsageData>,
    }
}

go_struct! {
    pub struct UsageData {
        /// Containers that have it.
        ref_count: i64,
        /// Bytes on disk.
        size: i64,
    }
}

go_struct! {
    /// Reply of `GET /volumes`.
    pub struct VolumeList {
        volumes: Vec<Volume>,
        warnings: Option<Vec<String>>,
    }
}

go_struct! {
    /// Body of `POST /volumes/create`.
    pub struct VolumeCreate {
        name: String,
        driver: String,
        driver_opts: Option<Labels>,
        labels: Option<Labels>,
        cluster_volume_spec: Option<serde_json::Value>,
    }
}

go_struct! {
    /// Reply of `POST /volumes/prune`.
    pub struct VolumePruneReport {
        volumes_deleted: Option<Vec<String>>,
        /// Bytes.
        space_reclaimed: u64,
    }
}
