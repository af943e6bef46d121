//! `images`.

use berth_api::image::Summary;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{print, short_id};
use crate::time;
use crate::transport::Request;
use crate::tree::Outcome;
use crate::units::human_size;

const TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const DIGESTS: &str =
    "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

const HEADS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "VIRTUAL SIZE"),
    ("Containers", "CONTAINERS"),
];

const NONE: &str = "<none>";

pub(crate) async fn ls(context: &Context, args: &Parsed) -> Outcome {
    if args.on("tree") {
        return Err(Failure::new("--tree is not supported yet"));
    }
    let mut filters = args.filters();
    if let Some(name) = args.words.first() {
        filters.insert("reference", name);
    }
    let format = match args.get("format") {
        Some(format) => format,
        None => &context.config.images_format,
    };
    let request = Request::get("/images/json")
        .query_flag("all", args.on("all"))
        .filters(&filters);
    let images: Vec<Summary> = context.json(request).await?;
    let full = args.on("no-trunc");
    let digests = args.on("digests") || format.contains(".Digest");
    let rows: Vec<_> = images
        .iter()
        .flat_map(|image| rows(image, full, digests))
        .collect();
    let listing = Listing {
        format,
        table: if args.on("digests") { DIGESTS } else { TABLE },
        quiet: args.on("quiet").then_some("{{.ID}}"),
        heads: HEADS,
    };
    print(&listing.render(&rows)?);
    Ok(0)
}

/// One row per name; with digests, names and digests of a repository are paired.
fn rows(image: &Summary, full: bool, digests: bool) -> Vec<Row> {
    let digest_of = |repository: &str| {
        image
            .repo_digests
            .iter()
            .filter_map(|text| text.split_once('@'))
            .find(|(name, _)| *name == repository)
            .map_or(NONE, |(_, digest)| digest)
    };
    let mut names: Vec<(&str, &str, &str)> = image
        .repo_tags
        .iter()
        .filter_map(|text| text.rsplit_once(':'))
        .map(|(name, tag)| (name, tag, digest_of(name)))
        .collect();
    if names.is_empty() || digests {
        for (name, digest) in image
            .repo_digests
            .iter()
            .filter_map(|text| text.split_once('@'))
        {
            if !names.iter().any(|(have, ..)| *have == name) {
                names.push((name, NONE, digest));
            }
        }
    }
    if names.is_empty() {
        names.push((NONE, NONE, NONE));
    }
    names
        .into_iter()
        .map(|(name, tag, digest)| {
            // Docker looks for digests only when they are shown.
            row(image, name, tag, if digests { digest } else { NONE }, full)
        })
        .collect()
}

fn row(image: &Summary, name: &str, tag: &str, digest: &str, full: bool) -> Row {
    let mut row = Row::default();
    let id = if full {
        image.id.as_str()
    } else {
        short_id(&image.id)
    };
    row.set("ID", id);
    row.set("Repository", name);
    row.set("Tag", tag);
    row.set("Digest", digest);
    row.set("CreatedSince", time::ago(image.created));
    row.set("CreatedAt", time::local(image.created));
    let known = |value: i64, text: String| if value < 0 { "N/A".to_owned() } else { text };
    row.set("Size", human_size(image.size as f64, 3));
    row.set("VirtualSize", human_size(image.size as f64, 4));
    row.set(
        "SharedSize",
        known(image.shared_size, human_size(image.shared_size as f64, 3)),
    );
    row.set(
        "UniqueSize",
        known(
            image.shared_size,
            human_size((image.size - image.shared_size) as f64, 3),
        ),
    );
    row.set(
        "Containers",
        known(image.containers, image.containers.to_string()),
    );
    row
}
