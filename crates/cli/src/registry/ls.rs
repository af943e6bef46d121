//! `registry ls`: the repositories of a registry, or the tags of one.

use std::collections::HashMap;

use berth_registry::client::{Access, Repository};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::documents::{self, Document, Platform};
use super::remote::{DEFAULT, Place, Remote, told};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{harmless, print};
use crate::tree::Outcome;
use crate::units::human_size;

/// Requests at once.
const AT_ONCE: usize = 8;

/// Images of one index that are asked for their sizes, at most.
const MAX_IMAGES: usize = 64;

const REPOSITORIES: &str = "{{.Name}}\t{{.Tags}}";
const TAGS: &str = "{{.Tag}}\t{{.Digest}}\t{{.Size}}\t{{.Platforms}}";

const HEADS: &[(&str, &str)] = &[
    ("Name", "REPOSITORY"),
    ("Tags", "TAGS"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("MediaType", "MEDIA TYPE"),
    ("Size", "SIZE"),
    ("Platforms", "PLATFORMS"),
];

pub(crate) async fn ls(context: &Context, args: &Parsed) -> Outcome {
    let place = Place::parse(args.words.first().map_or(DEFAULT, String::as_str))?;
    if !place.reference.is_empty() {
        return Err(Failure::new(
            "ls lists a registry or a repository: use 'registry inspect' for one image",
        ));
    }
    let remote = Remote::new(context, args, place.host)?;
    let (rows, table, quiet) = if place.repository.is_empty() {
        (repositories(&remote).await?, REPOSITORIES, "{{.Name}}")
    } else {
        let repository = remote.repository(place.repository, Access::Pull)?;
        (tags(&repository).await?, TAGS, "{{.Tag}}")
    };
    let format = if args.on("json") {
        "json"
    } else {
        args.get("format").unwrap_or_default()
    };
    let listing = Listing {
        format,
        table,
        quiet: args.on("quiet").then_some(quiet),
        heads: HEADS,
    };
    print(&listing.render(&rows)?);
    Ok(0)
}

async fn repositories(remote: &Remote) -> Result<Vec<Row>, Failure> {
    stream::iter(remote.catalog().await?)
        .map(|name| async move {
            let tags = remote.repository(&name, Access::Pull)?.tags().await;
            let mut row = Row::default();
            row.set("Name", harmless(&name));
            // One without tags is unknown to some registries.
            row.set("Tags", tags.map_or(0, |tags| tags.len()));
            Ok(row)
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

async fn tags(repository: &Repository) -> Result<Vec<Row>, Failure> {
    stream::iter(repository.tags().await.map_err(told)?)
        .map(|tag| async move {
            let manifest = repository.manifest(&tag).await.map_err(told)?;
            let document = Document::parse(&manifest.bytes)?;
            let mut image = Image::default();
            image
                .blobs
                .insert(manifest.digest.clone(), manifest.bytes.len() as u64);
            image.add(repository, &document).await?;
            let mut row = Row::default();
            row.set("Tag", harmless(&tag));
            row.set("Digest", manifest.digest);
            row.set("MediaType", harmless(&manifest.media_type));
            row.set("Size", human_size(image.size() as f64, 3));
            row.set("Platforms", image.platforms.join(", "));
            Ok(row)
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// What is behind a tag, all platforms together.
#[derive(Default)]
struct Image {
    /// Sizes by digest: what platforms share counts once.
    blobs: HashMap<String, u64>,
    platforms: Vec<String>,
}

impl Image {
    fn size(&self) -> u64 {
        self.blobs
            .values()
            .fold(0, |sum, size| sum.saturating_add(*size))
    }

    async fn add(&mut self, repository: &Repository, document: &Document) -> Result<(), Failure> {
        self.count(document);
        if let Some(config) = &document.config
            && config.media_type.ends_with("+json")
            && document.manifests.is_empty()
        {
            let text = documents::config(repository, config).await?;
            let platform = serde_json::from_slice::<Platform>(&text).unwrap_or_default();
            self.platforms.extend(platform.name());
        }
        for entry in document.manifests.iter().take(MAX_IMAGES) {
            self.blobs.insert(entry.digest.clone(), entry.size);
            self.platforms
                .extend(entry.platform.as_ref().and_then(Platform::name));
            // An index may name images that are elsewhere.
            if let Ok(manifest) = repository.manifest(&entry.digest).await {
                self.count(&Document::parse(&manifest.bytes)?);
            }
        }
        for platform in &mut self.platforms {
            *platform = harmless(platform);
        }
        Ok(())
    }

    fn count(&mut self, document: &Document) {
        for entry in document.blobs() {
            self.blobs.insert(entry.digest.clone(), entry.size);
        }
    }
}
