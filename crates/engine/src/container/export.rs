//! `GET /containers/{id}/export`: a container's filesystem as a tar stream,
//! running or not, with the mount points but not what is mounted there.

use std::os::fd::AsFd;

use berth_api::Error;

use crate::Download;
use crate::archive::Archive;
use crate::download::download;
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};

impl Engine {
    pub async fn container_export(&self, name: &str) -> Result<Download, Error> {
        let container = self.find(name)?;
        let record = container.record().clone();
        let state = &record.state;
        for (is, how) in [(state.dead, "Dead"), (state.removing, "being removed")] {
            if is {
                let id = &record.id;
                return Err(Error::conflict(format!(
                    "You cannot export container {id} which is {how}"
                )));
            }
        }
        let (engine, id) = (self.clone(), record.id.clone());
        let root = blocking(move || {
            let snapshot = engine.0.store.snapshot(&id).api()?;
            engine.merged_root(&snapshot)
        })
        .await?;
        let stream = download("export", move |out| {
            let mut archive = Archive::new(out, None);
            archive.tree(root.as_fd(), b"")?;
            archive.finish()
        })
        .await?;
        self.container_event(&record, "export", &[]);
        Ok(stream)
    }
}
