//! Images from archives.

use berth_api::Error;
use berth_api::container::Platform;
use berth_api::progress::{Detail, Progress};
use berth_store::Reference;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use super::{familiar, number};
use crate::changes;
use crate::engine::Engine;
use crate::error::{IntoApi as _, waiting};

impl Engine {
    /// `archive` is the body as it arrives; progress lines go to `progress`.
    /// With `platforms`, only those are loaded.
    pub async fn image_load(
        &self,
        archive: DuplexStream,
        platforms: &[Platform],
        quiet: bool,
        progress: mpsc::Sender<Progress>,
    ) -> Result<(), Error> {
        let engine = self.clone();
        let platforms: Vec<_> = platforms.iter().map(super::platform).collect();
        let mut reader = SyncIoBridge::new(archive);
        waiting("load", move || {
            let mut report = |step: berth_store::Progress| {
                let line = match step {
                    berth_store::Progress::Loaded { text } => Progress {
                        stream: format!("{text}\n"),
                        ..Progress::default()
                    },
                    _ if quiet => return,
                    berth_store::Progress::Layer { id, done, total } => Progress {
                        status: "Loading layer".into(),
                        id,
                        detail: Some(Detail {
                            current: number(done),
                            total: number(total),
                        }),
                        ..Progress::default()
                    },
                    berth_store::Progress::LayerDone { id } => Progress {
                        status: "Load complete".into(),
                        id,
                        ..Progress::default()
                    },
                };
                // A client that went away does not undo the load.
                let _ = progress.blocking_send(line);
            };
            let store = &engine.0.store;
            let images = store
                .load_platforms(&mut reader, &platforms, &mut report)
                .api()?;
            for image in images {
                let name = image.names.first().unwrap_or(&image.id);
                engine.image_event(&image.id, &familiar(name), "load");
            }
            Ok(())
        })
        .await
    }

    /// Returns the new image's ID.
    pub async fn image_import(
        &self,
        archive: DuplexStream,
        repo: &str,
        tag: &str,
        message: &str,
        changes: &[String],
        platform: &str,
    ) -> Result<String, Error> {
        let reference = match (repo, tag) {
            ("", _) => None,
            (repo, "") => Some(Reference::parse(repo).api()?),
            (repo, tag) => Some(Reference::parse(&format!("{repo}:{tag}")).api()?),
        };
        let (config, own) = changes::image_configuration(changes, message, platform)?;
        let mut reader = SyncIoBridge::new(archive);
        let store = self.0.store.clone();
        let name = reference.clone();
        let image = waiting("import", move || {
            store.import(&mut reader, config, own, name.as_ref()).api()
        })
        .await?;
        let shown = reference.map_or_else(|| image.id.clone(), |name| name.familiar());
        self.image_event(&image.id, &shown, "import");
        Ok(image.id)
    }
}
