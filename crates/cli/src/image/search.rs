//! `search`.

use serde::Deserialize;

use crate::context::Context;
use crate::credentials;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{ellipsis, print};
use crate::transport::Request;
use crate::tree::Outcome;

const HEADS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Found {
    name: String,
    description: Option<String>,
    star_count: i64,
    is_official: bool,
    is_automated: bool,
}

pub(crate) async fn search(context: &Context, args: &Parsed) -> Outcome {
    let term = args.words.first().map_or("", String::as_str);
    let limit = args.int("limit");
    let request = Request::get("/images/search")
        .registry_auth(&credentials::for_host(&context.config, host_of(term))?)
        .query("term", term)
        .query_some(
            "limit",
            if limit == 0 {
                String::new()
            } else {
                limit.to_string()
            },
        )
        .filters(&args.filters());
    let mut found: Vec<Found> = context.json(request).await?;
    found.sort_by_key(|one| std::cmp::Reverse(one.star_count));
    let full = args.on("no-trunc");
    let rows: Vec<_> = found.iter().map(|one| row(one, full)).collect();
    let listing = Listing {
        format: args.get("format").unwrap_or_default(),
        table: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
        quiet: None,
        heads: HEADS,
    };
    print(&listing.render(&rows)?);
    Ok(0)
}

/// The registry that a term names; Docker Hub if it names none.
fn host_of(term: &str) -> &str {
    match term.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

fn row(found: &Found, full: bool) -> Row {
    let mark = |on| if on { "[OK]" } else { "" };
    let description = found
        .description
        .as_deref()
        .unwrap_or_default()
        .replace(['\n', '\r'], " ");
    let mut row = Row::default();
    row.set("Name", found.name.as_str());
    row.set(
        "Description",
        if full {
            description
        } else {
            ellipsis(&description, 45)
        },
    );
    row.set("StarCount", found.star_count.to_string());
    row.set("IsOfficial", mark(found.is_official));
    row.set("IsAutomated", mark(found.is_automated));
    row
}
