//! Images as clients see them; the store does the work.

use std::collections::{BTreeMap, HashMap};

use berth_api::container::Config;
use berth_api::filters::Filters;
use berth_api::image::{self, Deleted, HistoryItem, Metadata, RootFs};
use berth_api::progress::{Detail, Progress};
use berth_api::{Error, Kind};
use berth_store::{Image, Reference, Removed};
use serde::Deserialize;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};
use crate::{changes, time};

/// The configuration section of an image, Docker's additions included.
pub(crate) fn config_of(image: &Image) -> Result<Config, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Raw {
        config: Option<Config>,
    }
    let raw: Raw = serde_json::from_slice(&image.raw_config).map_err(|error| {
        Error::system(format!("read the configuration of {}: {error}", image.id))
    })?;
    Ok(raw.config.unwrap_or_default())
}

fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Engine {
    /// With Docker's words when there is none: the name with its tag.
    pub(crate) fn find_image(&self, name: &str) -> Result<Image, Error> {
        match self.0.store.find(name) {
            Err(berth_store::Error::NotFound(_)) => {
                let shown = match Reference::parse(name) {
                    Ok(reference) if !name.starts_with("sha256:") => reference.familiar(),
                    _ => name.to_owned(),
                };
                Err(Error::not_found(format!("No such image: {shown}")))
            }
            other => other.api(),
        }
    }

    fn image_event(&self, id: &str, name: &str, action: &str) {
        let attributes = BTreeMap::from([("name".to_owned(), name.to_owned())]);
        self.0.events.emit("image", action, id, attributes);
    }

    pub async fn image_list(
        &self,
        _all: bool,
        filters: &Filters,
    ) -> Result<Vec<image::Summary>, Error> {
        filters.validate(&[
            "before",
            "dangling",
            "label",
            "label!",
            "reference",
            "since",
            "until",
        ])?;
        let dangling = filters.boolean("dangling", false)?;
        let border = |field: &str| {
            let name = filters.get(field).next();
            name.map(|name| self.find_image(name).map(|image| image.created))
                .transpose()
        };
        let (before, since) = (border("before")?, border("since")?);
        let until = match filters.get("until").next() {
            Some(text) => Some(
                time::parse_filter_time(text)
                    .ok_or_else(|| Error::invalid(format!("invalid value for until: {text}")))?
                    / 1_000_000_000,
            ),
            None => None,
        };
        let mut used: HashMap<String, i64> = HashMap::new();
        for container in self.index().all() {
            *used.entry(container.record().image.clone()).or_default() += 1;
        }
        let mut rows = Vec::new();
        for image in self.0.store.images() {
            let labels = config_of(&image)?.labels;
            let all_labels = labels.clone().unwrap_or_default();
            let mut tags: Vec<String> = image.names.iter().map(|name| familiar(name)).collect();
            if filters.contains("reference") {
                tags.retain(|tag| {
                    filters
                        .get("reference")
                        .any(|pattern| matches(pattern, tag))
                });
                if tags.is_empty() {
                    continue;
                }
            }
            let wanted = (!filters.contains("dangling") || image.names.is_empty() == dangling)
                && before.is_none_or(|border| image.created < border)
                && since.is_none_or(|border| image.created > border)
                && until.is_none_or(|border| image.created < border)
                && filters.labels("label", &all_labels)
                && (!filters.contains("label!") || !filters.labels("label!", &all_labels));
            if wanted {
                rows.push(image::Summary {
                    containers: used.get(&image.id).copied().unwrap_or(0),
                    created: image.created,
                    id: image.id.clone(),
                    labels,
                    repo_digests: image.digests.iter().map(|name| familiar(name)).collect(),
                    repo_tags: tags,
                    shared_size: -1,
                    size: number(image.size + image.blob_size),
                    ..image::Summary::default()
                });
            }
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.created));
        Ok(rows)
    }

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
        Ok(removed
            .into_iter()
            .map(|step| match step {
                Removed::Untagged(name) => {
                    let name = familiar(&name);
                    self.image_event(&image.id, &name, "untag");
                    Deleted {
                        untagged: name,
                        ..Deleted::default()
                    }
                }
                Removed::Deleted(digest) => {
                    self.image_event(&digest, &digest, "delete");
                    Deleted {
                        deleted: digest,
                        ..Deleted::default()
                    }
                }
            })
            .collect())
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

    /// `archive` is the body as it arrives; progress lines go to `progress`.
    pub async fn image_load(
        &self,
        archive: DuplexStream,
        quiet: bool,
        progress: mpsc::Sender<Progress>,
    ) -> Result<(), Error> {
        let engine = self.clone();
        let mut reader = SyncIoBridge::new(archive);
        blocking(move || {
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
            let images = engine.0.store.load(&mut reader, &mut report).api()?;
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
        let config = changes::image_configuration(changes, message, platform)?;
        let mut reader = SyncIoBridge::new(archive);
        let store = self.0.store.clone();
        let name = reference.clone();
        let image =
            blocking(move || store.import(&mut reader, config, name.as_ref()).api()).await?;
        let shown = reference.map_or_else(|| image.id.clone(), |name| name.familiar());
        self.image_event(&image.id, &shown, "import");
        Ok(image.id)
    }

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

/// Go's `path.Match` for `*` and `?`, on the name with and without its tag.
fn matches(pattern: &str, tag: &str) -> bool {
    fn glob(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], text) => {
                let end = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
                (0..=end).any(|skip| glob(rest, &text[skip..]))
            }
            ([b'?', rest @ ..], [byte, more @ ..]) if *byte != b'/' => glob(rest, more),
            ([a, rest @ ..], [b, more @ ..]) if a == b => glob(rest, more),
            _ => false,
        }
    }
    let bare = tag.rsplit_once(':').map_or(tag, |(bare, _)| bare);
    [tag, bare]
        .iter()
        .any(|text| glob(pattern.as_bytes(), text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_patterns() {
        for (pattern, tag, same) in [
            ("busybox", "busybox:latest", true),
            ("busy*", "busybox:latest", true),
            ("busybox:l?test", "busybox:latest", true),
            ("*", "a/b:c", false),
            ("*/*", "a/b:c", true),
            ("box", "busybox:latest", false),
        ] {
            assert_eq!(matches(pattern, tag), same, "{pattern} {tag}");
        }
    }
}
