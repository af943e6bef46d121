//! Images become archives.

use std::collections::HashSet;

use berth_api::Error;
use berth_api::container::Platform;
use berth_store::{Image, Reference};

use super::platform;
use crate::Download;
use crate::download::download;
use crate::engine::Engine;
use crate::error::IntoApi as _;

impl Engine {
    /// An archive of images by name or ID. A repository without a tag stands
    /// for all its tags; an ID for the image without names. Several platforms
    /// keep the index, one is saved as its manifest alone; none is all.
    pub async fn image_save(
        &self,
        names: &[String],
        platforms: &[Platform],
    ) -> Result<Download, Error> {
        let mut images: Vec<(Image, Vec<String>)> = Vec::new();
        for name in names {
            for (image, names) in self.named(name)? {
                match images.iter_mut().find(|(have, _)| have.id == image.id) {
                    Some((_, have)) => {
                        let seen: HashSet<String> = have.iter().cloned().collect();
                        have.extend(names.into_iter().filter(|name| !seen.contains(name)));
                    }
                    None => images.push((image, names)),
                }
            }
        }
        if images.is_empty() {
            return Err(Error::invalid("no images were named to be saved"));
        }
        let platforms: Vec<_> = platforms.iter().map(platform).collect();
        let engine = self.clone();
        download("save", move |out| {
            engine.0.store.save(&images, &platforms, out).api()?;
            for (image, _) in &images {
                engine.image_event(&image.id, &image.id, "save");
            }
            Ok(())
        })
        .await
    }

    /// The images that a word stands for, with the names to save for each.
    fn named(&self, text: &str) -> Result<Vec<(Image, Vec<String>)>, Error> {
        let found = self.find_image(text);
        if let Ok(image) = &found {
            let bare = text.strip_prefix("sha256:").unwrap_or(text);
            let is_id = |digest: &str| {
                let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
                hex.starts_with(bare)
            };
            if text.contains('@') || is_id(&image.id) || is_id(&image.config_digest) {
                return Ok(vec![(image.clone(), Vec::new())]);
            }
        }
        let reference = Reference::parse(text).api()?;
        if text
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'))
        {
            return Ok(vec![(found?, vec![reference.full()])]);
        }
        let repository = format!("{}:", reference.repository());
        let mut all: Vec<_> = (self.0.store.images().into_iter())
            .filter_map(|image| {
                let names = image.names.iter();
                let names: Vec<_> = names
                    .filter(|name| name.starts_with(&repository))
                    .cloned()
                    .collect();
                (!names.is_empty()).then_some((image, names))
            })
            .collect();
        if all.is_empty() {
            return Err(Error::not_found(format!(
                "No such image: {}",
                reference.familiar()
            )));
        }
        all.sort_by(|(_, a), (_, b)| a.cmp(b));
        Ok(all)
    }
}
