//! What an image says of itself, and its history.

use berth_api::Error;
use berth_api::image::{self, HistoryItem, Metadata, RootFs};

use super::{config_of, familiar, number};
use crate::engine::Engine;
use crate::time;

impl Engine {
    pub async fn image_inspect(&self, name: &str) -> Result<image::Inspect, Error> {
        let image = self.find_image(name)?;
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
            ..image::Inspect::default()
        })
    }

    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryItem>, Error> {
        let image = self.find_image(name)?;
        let mut items: Vec<HistoryItem> = image
            .config
            .history()
            .iter()
            .flatten()
            .rev()
            .map(|step| HistoryItem {
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
        // The store knows the sum; with one layer it is that layer's.
        let with_content = image
            .config
            .history()
            .iter()
            .flatten()
            .rev()
            .map(|step| step.empty_layer() != Some(true));
        if image.config.rootfs().diff_ids().len() == 1 {
            for (item, has_content) in items.iter_mut().zip(with_content) {
                if has_content {
                    item.size = number(image.size);
                }
            }
        }
        if let Some(first) = items.first_mut() {
            first.id.clone_from(&image.id);
            first.tags = Some(image.names.iter().map(|name| familiar(name)).collect());
        }
        Ok(items)
    }
}
