//! What an image says of itself, and its history.

use berth_api::Error;
use berth_api::container::Platform;
use berth_api::image::{self, HistoryItem, Metadata, RootFs};

use super::manifests::descriptor;
use super::{config_of, familiar, number};
use crate::engine::Engine;
use crate::time;

impl Engine {
    /// One platform of it, or the one that runs here; with `manifests` also
    /// what else its index holds.
    pub async fn image_inspect(
        &self,
        name: &str,
        platform: Option<&Platform>,
        manifests: bool,
    ) -> Result<image::Inspect, Error> {
        if manifests && platform.is_some() {
            return Err(Error::invalid(
                "conflicting options: manifests and platform options cannot both be set",
            ));
        }
        let image = self.find_image_for(name, platform)?;
        let manifests = manifests
            .then(|| self.manifest_summaries(&image, &self.image_users()))
            .transpose()?;
        let config = &image.config;
        Ok(image::Inspect {
            id: image.id.clone(),
            repo_tags: image.names.iter().map(|name| familiar(name)).collect(),
            repo_digests: image.digests.iter().map(|name| familiar(name)).collect(),
            comment: config
                .history()
                .as_ref()
                .and_then(|history| history.last()?.comment().clone())
                .unwrap_or_default(),
            created: config.created().clone().unwrap_or_default(),
            author: config.author().clone().unwrap_or_default(),
            config: Some(config_of(&image)?),
            architecture: config.architecture().to_string(),
            variant: config.variant().clone().unwrap_or_default(),
            os: config.os().to_string(),
            size: number(image.size + image.blob_size),
            root_fs: RootFs {
                r#type: "layers".into(),
                layers: config.rootfs().diff_ids().clone(),
            },
            metadata: Metadata {
                last_tag_time: image.tagged_at.clone().unwrap_or_default(),
            },
            descriptor: Some(descriptor(&image)),
            manifests,
            ..image::Inspect::default()
        })
    }

    pub async fn image_history(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Vec<HistoryItem>, Error> {
        let image = self.find_image_for(name, platform)?;
        // Steps and layers go together from the first on; a step may be of
        // none, and of an image that does not tell its history none is known.
        let mut layers = image.config.rootfs().diff_ids().iter();
        let mut items: Vec<HistoryItem> = image
            .config
            .history()
            .iter()
            .flatten()
            .map(|step| HistoryItem {
                size: match step.empty_layer() {
                    Some(true) => 0,
                    _ => layers
                        .next()
                        .and_then(|diff_id| self.0.store.layer_size(diff_id))
                        .map_or(0, number),
                },
                id: "<missing>".into(),
                created: step
                    .created()
                    .as_ref()
                    .and_then(|text| time::parse(text))
                    .map_or(0, jiff::Timestamp::as_second),
                created_by: step.created_by().clone().unwrap_or_default(),
                comment: step.comment().clone().unwrap_or_default(),
                ..HistoryItem::default()
            })
            .collect();
        items.reverse();
        if let Some(first) = items.first_mut() {
            first.id.clone_from(&image.id);
            first.tags = Some(image.names.iter().map(|name| familiar(name)).collect());
        }
        Ok(items)
    }
}
