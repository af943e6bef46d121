//! `GET /containers/json`: filters and rows.

use std::cmp::Reverse;

use berth_api::Error;
use berth_api::container::{Port, Summary, SummaryHealth, SummaryHostConfig, SummaryNetworks};
use berth_api::filters::Filters;
use jiff::Timestamp;

use super::Record;
use crate::engine::Engine;
use crate::time;

const FIELDS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "is-task",
];

const STATUSES: &[&str] = &[
    "created",
    "restarting",
    "running",
    "removing",
    "paused",
    "exited",
    "dead",
];

impl Engine {
    pub async fn container_list(
        &self,
        all: bool,
        limit: usize,
        size: bool,
        filters: &Filters,
    ) -> Result<Vec<Summary>, Error> {
        filters.validate(FIELDS)?;
        for status in filters.get("status") {
            if !STATUSES.contains(&status) {
                return Err(Error::invalid(format!(
                    "invalid value for state ({status}): must be one of {}",
                    STATUSES.join(", ")
                )));
            }
        }
        for health in filters.get("health") {
            if !["starting", "healthy", "unhealthy", "none"].contains(&health) {
                return Err(Error::invalid(format!("invalid filter 'health={health}'")));
            }
        }
        let exited = filters
            .get("exited")
            .map(|code| {
                code.parse::<i64>()
                    .map_err(|_| Error::invalid(format!("invalid filter 'exited={code}'")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let task = filters.boolean("is-task", false)?;
        let ancestors = self.ancestors(filters);
        let border = |field: &str| {
            let name = filters.get(field).next();
            name.map(|name| self.find(name).map(|c| c.record().created.clone()))
                .transpose()
        };
        let (before, since) = (border("before")?, border("since")?);
        // As Docker: these say which states are meant.
        let all = all
            || limit > 0
            || ["status", "exited", "before", "since"]
                .iter()
                .any(|field| filters.contains(field));

        let mut records: Vec<Record> = self
            .index()
            .all()
            .iter()
            .map(|container| container.record().clone())
            .filter(|record| {
                (all || record.state.running)
                    && !task
                    && before
                        .as_ref()
                        .is_none_or(|border| record.created < *border)
                    && since.as_ref().is_none_or(|border| record.created > *border)
                    && (exited.is_empty()
                        || (exited.contains(&record.state.exit_code)
                            && !record.state.running
                            && record.state.started_at != time::NEVER))
                    && ancestors
                        .as_ref()
                        .is_none_or(|ids| ids.contains(&record.image))
                    && self.matches(record, filters)
            })
            .collect();
        records.sort_by_cached_key(|record| Reverse(record.created.clone()));
        if limit > 0 {
            records.truncate(limit);
        }
        let mut rows = Vec::with_capacity(records.len());
        for record in &records {
            let mut row = self.row(record);
            if size {
                let (written, image) = self.sizes(&record.id, &record.image).await?;
                row.size_rw = Some(written);
                row.size_root_fs = Some(written + image);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Identifiers of the images that `ancestor` means, with those built on them.
    fn ancestors(&self, filters: &Filters) -> Option<Vec<String>> {
        if !filters.contains("ancestor") {
            return None;
        }
        let images = self.0.store.images();
        let mut ids = Vec::new();
        for name in filters.get("ancestor") {
            let Ok(base) = self.0.store.find(name) else {
                continue;
            };
            let layers = base.config.rootfs().diff_ids();
            ids.extend(
                images
                    .iter()
                    .filter(|image| image.config.rootfs().diff_ids().starts_with(layers))
                    .map(|image| image.id.clone()),
            );
        }
        Some(ids)
    }

    fn matches(&self, record: &Record, filters: &Filters) -> bool {
        let any = |field: &str, test: &dyn Fn(&str) -> bool| {
            !filters.contains(field) || filters.get(field).any(test)
        };
        let labels = record.config.labels.clone().unwrap_or_default();
        let ports = record.config.exposed_ports.clone().unwrap_or_default();
        any("id", &|wanted| record.id.starts_with(wanted))
            && any("name", &|wanted| {
                name_matches(&record.name, wanted)
            })
            && any("status", &|wanted| record.state.status() == wanted)
            && any("health", &|wanted| {
                let health = record.state.health.as_ref();
                wanted == health.map_or("none", |health| &health.status)
            })
            && any("isolation", &|wanted| wanted == "default")
            && any("network", &|wanted| {
                record.network() == wanted
                    || self
                        .0
                        .networks
                        .identify(record.network())
                        .is_some_and(|(_, id)| id.starts_with(wanted))
            })
            && any("volume", &|wanted| {
                record.mounts.iter().any(|mount| {
                    let point = &mount.point;
                    point.name == wanted || point.source == wanted || point.destination == wanted
                })
            })
            && any("expose", &|wanted| {
                ports.keys().any(|port| {
                    port == wanted || port.split('/').next() == wanted.split('/').next()
                })
            })
            // Nothing is published yet.
            && !filters.contains("publish")
            && filters.labels("label", &labels)
    }

    fn row(&self, record: &Record) -> Summary {
        let mut words = vec![record.path.clone()];
        words.extend(record.args.iter().cloned());
        let now = Timestamp::now().as_second();
        Summary {
            id: record.id.clone(),
            names: vec![format!("/{}", record.name)],
            image: self.image_name(record),
            image_id: record.image.clone(),
            command: words.join(" "),
            created: time::parse(&record.created).map_or(0, Timestamp::as_second),
            ports: record
                .config
                .exposed_ports
                .iter()
                .flatten()
                .filter(|_| record.state.running)
                .filter_map(|(port, _)| {
                    let (number, kind) = port.split_once('/').unwrap_or((port, "tcp"));
                    Some(Port {
                        private_port: number.parse().ok()?,
                        r#type: kind.into(),
                        ..Port::default()
                    })
                })
                .collect(),
            labels: record.config.labels.clone().unwrap_or_default(),
            state: record.state.status().into(),
            status: record.state.text(now),
            health: record.state.health.as_ref().map(|health| SummaryHealth {
                status: health.status.clone(),
                failing_streak: health.failing_streak,
            }),
            host_config: SummaryHostConfig {
                network_mode: record.host_config.network_mode.clone(),
                annotations: record.host_config.annotations.clone(),
            },
            network_settings: SummaryNetworks {
                networks: self.endpoint_settings(record).into_iter().collect(),
            },
            mounts: record
                .mounts
                .iter()
                .map(|mount| mount.point.clone())
                .collect(),
            ..Summary::default()
        }
    }

    /// As the user wrote it, unless that name means another image by now.
    fn image_name(&self, record: &Record) -> String {
        match self.0.store.find(&record.config.image) {
            Ok(image) if image.id == record.image => record.config.image.clone(),
            _ => record.image.clone(),
        }
    }
}

/// A part of the name; `^` and `$` tie it to the ends, a slash goes before it.
fn name_matches(name: &str, wanted: &str) -> bool {
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    let (start, wanted) = match wanted.strip_prefix('^') {
        Some(rest) => (true, rest.strip_prefix('/').unwrap_or(rest)),
        None => (false, wanted),
    };
    match (start, wanted.strip_suffix('$')) {
        (true, Some(exact)) => name == exact,
        (true, None) => name.starts_with(wanted),
        (false, Some(end)) => name.ends_with(end),
        (false, None) => name.contains(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_part_and_by_ends() {
        for (wanted, matches) in [
            ("eb", true),
            ("^web$", true),
            ("^/web$", true),
            ("/web", true),
            ("^eb", false),
            ("we$", false),
            ("b$", true),
        ] {
            assert_eq!(name_matches("web", wanted), matches, "{wanted}");
        }
    }
}
