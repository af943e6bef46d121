//! `images`.

use berth_api::image::Summary;

use super::tree;
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{print, short_id, warn};
use crate::time;
use crate::transport::Request;
use crate::tree::Outcome;
use crate::units::human_size;

const TABLE: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
const DIGESTS: &str =
    "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

pub(crate) const HEADS: &[(&str, &str)] = &[
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
    let expanded = args.on("tree");
    // What the view for people cannot show.
    for (on, flag) in [
        (args.on("quiet"), "quiet"),
        (args.on("no-trunc"), "no-trunc"),
        (args.on("digests"), "show-digest"),
        (!args.text("format").is_empty(), "format"),
    ] {
        if on && expanded {
            return Err(Failure::new(format!(
                "--{flag} is not yet supported with --tree"
            )));
        }
    }
    let mut filters = args.filters();
    if let Some(name) = args.words.first() {
        filters.insert("reference", name);
    }
    let all = args.on("all");
    let configured = &context.config.images_format;
    let format = match args.get("format").filter(|format| !format.is_empty()) {
        Some(format) => format,
        None if args.on("quiet") || expanded => "",
        None => configured,
    };
    let plain = args.on("quiet") || args.on("no-trunc") || args.on("digests");
    let view = expanded || (!plain && format.is_empty());
    let request = Request::get("/images/json")
        .query_flag("all", all)
        .query_flag("manifests", view)
        .filters(&filters);
    // Images without a name are shown only when asked for.
    let shows_dangling = all || filters.contains("dangling");
    if view {
        let images: Vec<tree::Image> = context.json(request).await?;
        return Ok(people(context, args, images, shows_dangling));
    }
    let mut images: Vec<Summary> = context.json(request).await?;
    images.retain(|image| {
        shows_dangling || !(image.repo_tags.is_empty() && image.repo_digests.is_empty())
    });
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

fn people(
    context: &Context,
    args: &Parsed,
    mut images: Vec<tree::Image>,
    shows_dangling: bool,
) -> i32 {
    images.retain(|image| shows_dangling || !image.is_dangling());
    let out = rustix::stdio::stdout();
    let terminal = rustix::termios::isatty(out);
    let width = rustix::termios::tcgetwinsize(out).map_or(0, |size| usize::from(size.ws_col));
    if !terminal {
        warn(
            "WARNING: This output is designed for human readability. For machine-readable output, please use --format.",
        );
    }
    let screen = tree::Screen {
        width: if terminal { width.max(20) } else { 0 },
        colours: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        terminal,
    };
    print(&tree::render(
        &images,
        args.on("all"),
        args.on("tree"),
        screen,
    ));
    if let Some(name) = args.words.first()
        && images.is_empty()
        && args.typed.ends_with(" images")
        && crate::tree::find(&format!("image {name}")).is_some()
    {
        let program = &context.program;
        warn(&format!(
            "\nNo images found matching \"{name}\": did you mean \"{program} image {name}\"?"
        ));
    }
    0
}

/// The row of an image's first name, for the sums of `system df`.
pub(crate) fn first_row(image: &Summary, full: bool) -> Row {
    let (name, tag) = image
        .repo_tags
        .first()
        .and_then(|text| text.rsplit_once(':'))
        .unwrap_or((NONE, NONE));
    row(image, name, tag, "", full)
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
        known(image.shared_size, human_size(image.shared_size as f64, 4)),
    );
    row.set(
        "UniqueSize",
        known(
            image.shared_size,
            human_size((image.size - image.shared_size) as f64, 4),
        ),
    );
    row.set(
        "Containers",
        known(image.containers, image.containers.to_string()),
    );
    row
}
