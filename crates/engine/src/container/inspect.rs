//! `GET /containers/{id}/json`.

use berth_api::Error;
use berth_api::container::{self as api, Inspect, NetworkSettings};

use crate::engine::Engine;
use crate::error::blocking;

impl Engine {
    pub async fn container_inspect(&self, name: &str, size: bool) -> Result<Inspect, Error> {
        let container = self.find(name)?;
        let record = container.record().clone();
        let file = |name: &str| container.file(name).display().to_string();
        let state = &record.state;
        let mut inspect = Inspect {
            id: record.id.clone(),
            created: record.created.clone(),
            path: record.path.clone(),
            args: record.args.clone(),
            state: api::State {
                status: state.status().into(),
                running: state.running,
                paused: state.paused,
                restarting: state.restarting,
                oom_killed: state.oom_killed,
                dead: state.dead,
                pid: state.pid,
                exit_code: state.exit_code,
                error: state.error.clone(),
                started_at: state.started_at.clone(),
                finished_at: state.finished_at.clone(),
                health: state.health.clone(),
            },
            image: record.image.clone(),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: if record.host_config.log_config.r#type == "none" {
                String::new()
            } else {
                container.log_path().display().to_string()
            },
            name: format!("/{}", record.name),
            restart_count: record.restart_count,
            driver: "overlayfs".into(),
            platform: "linux".into(),
            exec_ids: self.exec_ids(&record.id),
            mounts: record
                .mounts
                .iter()
                .filter(|mount| {
                    // As Docker: `--tmpfs` is in the host configuration only.
                    let tmpfs = record.host_config.tmpfs.iter().flatten();
                    let mut paths = tmpfs.map(|(path, _)| path.trim_end_matches('/'));
                    mount.point.r#type != "tmpfs"
                        || !paths.any(|path| path == mount.point.destination)
                })
                .map(|mount| mount.point.clone())
                .collect(),
            network_settings: NetworkSettings {
                sandbox_id: record
                    .endpoint
                    .as_ref()
                    .map_or_else(String::new, |endpoint| endpoint.id.clone()),
                sandbox_key: if state.running && state.pid > 0 {
                    format!("/proc/{}/ns/net", state.pid)
                } else {
                    String::new()
                },
                ports: api::PortMap::default(),
                networks: self.endpoint_settings(&record).into_iter().collect(),
            },
            host_config: record.host_config,
            config: record.config,
            ..Inspect::default()
        };
        if size {
            let (written, image) = self.sizes(&inspect.id, &inspect.image).await?;
            inspect.size_rw = Some(written);
            inspect.size_root_fs = Some(written + image);
        }
        Ok(inspect)
    }

    /// Bytes in the writable part and in the image.
    pub(crate) async fn sizes(&self, id: &str, image: &str) -> Result<(i64, i64), Error> {
        let (engine, id, image) = (self.clone(), id.to_owned(), image.to_owned());
        blocking(move || {
            let written = engine.0.store.snapshot_size(&id).unwrap_or(0);
            let image = engine.0.store.find(&image).map_or(0, |image| image.size);
            Ok((
                i64::try_from(written).unwrap_or(i64::MAX),
                i64::try_from(image).unwrap_or(i64::MAX),
            ))
        })
        .await
    }
}
