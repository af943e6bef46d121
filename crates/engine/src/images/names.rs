//! Tagging, untagging, removal.

use berth_api::Error;
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
            let in_use = |image: &Image| engine.image_user(image, force);
            engine.0.store.remove(&given, force, &in_use).api()
        })
        .await?;
        Ok(self.tell_removed(removed, &image.id))
    }

    /// Why an image must stay, in Docker's words. Forcing takes names from
    /// stopped containers' images, never from running ones'.
    fn image_user(&self, image: &Image, force: bool) -> Option<String> {
        self.index().all().iter().find_map(|container| {
            let record = container.record();
            if record.image != image.id {
                return None;
            }
            let short = record.id.get(..12).unwrap_or(&record.id).to_owned();
            if record.state.running {
                return Some(format!("image is being used by running container {short}"));
            }
            (!force).then(|| format!("image is being used by stopped container {short}"))
        })
    }
}
