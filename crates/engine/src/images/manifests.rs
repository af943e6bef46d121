//! What an index holds: `manifests=1` of list and inspection.

use std::collections::HashMap;

use berth_api::Error;
use berth_api::container::{Descriptor, Platform};
use berth_api::image::{AttestationData, ImageData, ManifestSize, ManifestSummary, UnpackedSize};
use berth_store::{Image, ManifestKind};

use super::number;
use crate::engine::Engine;
use crate::error::IntoApi as _;

/// IDs of containers by the image and configuration they were made from.
pub(super) type Users = HashMap<(String, String), Vec<String>>;

impl Engine {
    pub(super) fn image_users(&self) -> Users {
        let mut users = Users::new();
        for container in self.index().all() {
            let record = container.record();
            users
                .entry((record.image.clone(), record.image_config.clone()))
                .or_default()
                .push(record.id.clone());
        }
        users
    }

    pub(super) fn manifest_summaries(
        &self,
        image: &Image,
        users: &Users,
    ) -> Result<Vec<ManifestSummary>, Error> {
        let manifests = self.0.store.manifests(&image.id).api()?;
        let summary = |manifest: berth_store::ManifestSummary| {
            let platform = Platform {
                architecture: manifest.platform.architecture,
                os: manifest.platform.os,
                os_version: manifest.platform.os_version,
                variant: manifest.platform.variant,
            };
            let mut row = ManifestSummary {
                id: manifest.digest.clone(),
                descriptor: Descriptor {
                    media_type: manifest.media_type,
                    digest: manifest.digest,
                    size: number(manifest.size),
                    annotations: None,
                    platform: Some(platform.clone()),
                },
                available: manifest.available,
                size: ManifestSize {
                    content: number(manifest.content_size),
                    total: number(manifest.content_size + manifest.unpacked_size),
                },
                ..ManifestSummary::default()
            };
            match manifest.kind {
                ManifestKind::Image => {
                    let key = (image.id.clone(), manifest.config_digest);
                    row.kind = "image".into();
                    row.image_data = Some(ImageData {
                        platform,
                        size: UnpackedSize {
                            unpacked: number(manifest.unpacked_size),
                        },
                        containers: users.get(&key).cloned().unwrap_or_default(),
                    });
                }
                ManifestKind::Attestation(of) => {
                    row.kind = "attestation".into();
                    row.attestation_data = Some(AttestationData { r#for: of });
                }
                ManifestKind::Unknown => row.kind = "unknown".into(),
            }
            row
        };
        Ok(manifests.into_iter().map(summary).collect())
    }
}

/// Of the manifest or index that is the image's ID.
pub(super) fn descriptor(image: &Image) -> Descriptor {
    Descriptor {
        media_type: image.media_type.clone(),
        digest: image.id.clone(),
        size: number(image.manifest_size),
        annotations: None,
        platform: None,
    }
}
