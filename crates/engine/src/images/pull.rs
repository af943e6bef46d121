//! Images from registries.

use berth_api::progress::Progress;
use berth_api::{Error, Kind};
use berth_store::Reference;
use tokio::sync::mpsc;

use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};

impl Engine {
    /// Only images that ship with berth ("hello-world") until registries come;
    /// others are `NotImplemented`.
    pub async fn image_pull(
        &self,
        name: &str,
        tag: &str,
        progress: mpsc::Sender<Progress>,
    ) -> Result<(), Error> {
        let text = match tag {
            "" => name.to_owned(),
            tag if tag.starts_with("sha256:") => format!("{name}@{tag}"),
            tag => format!("{name}:{tag}"),
        };
        let reference = Reference::parse(&text).api()?;
        if reference.full() != "docker.io/library/hello-world:latest" {
            return Err(Error::new(
                Kind::NotImplemented,
                format!(
                    "pull {}: registries are not supported yet; load or import the image instead",
                    reference.familiar()
                ),
            ));
        }
        let store = self.0.store.clone();
        let image = blocking(move || store.load_hello_world().api()).await?;
        self.image_event(&image.id, &reference.familiar(), "pull");
        for status in [
            "Pulling from library/hello-world (shipped with berth)".to_owned(),
            format!("Digest: {}", image.id),
            format!("Status: Image is up to date for {}", reference.familiar()),
        ] {
            let line = Progress {
                status,
                ..Progress::default()
            };
            if progress.send(line).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
