//! Tagging, untagging, removal.

use berth_api::Error;
use berth_api::container::Platform;
use berth_api::image::Deleted;
use berth_store::{Image, Reference};

use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};

impl Engine {
    pub async fn image_tag(&self, name: &str, repo: &str, tag: &str) -> Result<(), Error> {
        let image = self.find_image(name)?;
        let text = if tag.is_empty() {
            repo.to_owned()
        } else {
            format!("{repo}:{tag}")
        };
        let reference = Reference::parse(&text).api()?;
        if reference.digest.is_some() {
            return Err(Error::invalid(
                "refusing to create a tag with a digest reference",
            ));
        }
        let store = self.0.store.clone();
        let (id, wanted) = (image.id.clone(), reference.clone());
        blocking(move || store.tag(&id, &wanted).api()).await?;
        self.image_event(&image.id, &reference.familiar(), "tag");
        Ok(())
    }

    pub async fn image_remove(
        &self,
        name: &str,
        force: bool,
        _prune: bool,
    ) -> Result<Vec<Deleted>, Error> {
        let image = self.find_image(name)?;
        let (engine, given) = (self.clone(), name.to_owned());
        let removed = blocking(move || {
            let in_use = |image: &Image| engine.image_user(image);
            engine.0.store.remove(&given, force, &in_use).api()
        })
        .await?;
        Ok(self.tell_removed(removed, &image.id))
    }

    /// Removes single platforms of an image. Only by force, as other images may
    /// have them as well.
    pub async fn image_remove_platforms(
        &self,
        name: &str,
        platforms: &[Platform],
        force: bool,
    ) -> Result<Vec<Deleted>, Error> {
        self.find_image(name)?;
        if !force {
            return Err(Error::conflict(
                "Content will be removed from all images referencing this variant. Use --force to force delete.",
            ));
        }
        let platforms: Vec<_> = platforms.iter().map(super::platform).collect();
        let (engine, given) = (self.clone(), name.to_owned());
        let removed = blocking(move || {
            let in_use = |config: &str| engine.runs_with(config);
            let store = &engine.0.store;
            let removed = store.remove_platforms(&given, &platforms, &in_use).api()?;
            // What is to be run now may be here as blobs only.
            store.unpack(&engine.find_image(&given)?).api()?;
            Ok(removed)
        })
        .await?;
        let deleted = |deleted| Deleted {
            deleted,
            ..Deleted::default()
        };
        Ok(removed.into_iter().map(deleted).collect())
    }

    /// The running container whose image has that configuration, in Docker's
    /// words.
    fn runs_with(&self, config: &str) -> Option<String> {
        self.index().all().iter().find_map(|container| {
            let record = container.record();
            let short = record.id.get(..12).unwrap_or(&record.id);
            (record.state.running && record.image_config == config)
                .then(|| format!("image is being used by running container {short}"))
        })
    }

    /// Why an image should stay, in Docker's words: a running container before
    /// one that is stopped.
    fn image_user(&self, image: &Image) -> Option<String> {
        let containers = self.index().all();
        let users = containers.iter().filter_map(|container| {
            let record = container.record();
            let short = record.id.get(..12).unwrap_or(&record.id).to_owned();
            (record.image == image.id).then_some((record.state.running, short))
        });
        let (running, short) = users.max_by_key(|(running, _)| *running)?;
        let how = if running { "running" } else { "stopped" };
        Some(format!("image is being used by {how} container {short}"))
    }
}
