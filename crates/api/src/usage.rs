//! `GET /system/df` and `POST /system/check`.

use crate::{build, container, image, volume};

macro_rules! usage {
    ($(#[$outer:meta])* $name:ident of $item:ty) => {
        go_struct! {
            $(#[$outer])*
            pub struct $name {
                /// In use.
                #[serde(skip_serializing_if = "crate::go::is_default")]
                active_count: i64,
                /// With `verbose` only.
                #[serde(skip_serializing_if = "crate::go::is_default")]
                items: Option<Vec<$item>>,
                /// Bytes that come back when all that is in no use is removed.
                #[serde(skip_serializing_if = "crate::go::is_default")]
                reclaimable: i64,
                #[serde(skip_serializing_if = "crate::go::is_default")]
                total_count: i64,
                /// Bytes on disk.
                #[serde(skip_serializing_if = "crate::go::is_default")]
                total_size: i64,
            }
        }
    };
}

usage! {
    ImageUsage of image::Summary
}
usage! {
    /// With logs and records.
    ContainerUsage of container::Summary
}
usage! {
    VolumeUsage of volume::Volume
}
usage! {
    /// Sizes without what is shared: that is counted with images.
    BuildCacheUsage of build::CacheRecord
}

go_struct! {
    /// Reply of `GET /system/df` since 1.52; what was not asked for is absent.
    pub struct DiskUsage {
        #[serde(skip_serializing_if = "crate::go::is_default")]
        image_usage: Option<ImageUsage>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        container_usage: Option<ContainerUsage>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        volume_usage: Option<VolumeUsage>,
        #[serde(skip_serializing_if = "crate::go::is_default")]
        build_cache_usage: Option<BuildCacheUsage>,
    }
}

go_struct! {
    /// Reply of `POST /system/check`, an operation of berth's own.
    pub struct Check {
        /// Blobs, layers, images and snapshots that were looked at.
        checked: u64,
        damage: Vec<Damage>,
    }
}

go_struct! {
    pub struct Damage {
        /// "blob sha256:…", "layer sha256:…", "image …", "file …".
        what: String,
        problem: String,
        /// What repair did or would do.
        remedy: String,
        repaired: bool,
    }
}
