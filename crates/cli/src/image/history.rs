//! `history`.

use berth_api::image::HistoryItem;

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{ellipsis, print, short_id};
use crate::platform;
use crate::time;
use crate::transport::{Request, image_segment};
use crate::tree::Outcome;
use crate::units::human_size;

const HEADS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

pub(crate) async fn history(context: &Context, args: &Parsed) -> Outcome {
    let name = args.words.first().map_or("", String::as_str);
    let request = Request::get(format!("/images/{}/history", image_segment(name)))
        .query_some("platform", platform::to_json(&args.text("platform"))?);
    let items: Vec<HistoryItem> = context.json(request).await?;
    let full = args.on("no-trunc");
    let human = args.on_by_default("human");
    let rows: Vec<_> = items.iter().map(|item| row(item, full, human)).collect();
    let listing = Listing {
        format: args.get("format").unwrap_or_default(),
        table: if human {
            "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
        } else {
            "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
        },
        quiet: args.on("quiet").then_some("{{.ID}}"),
        heads: HEADS,
    };
    print(&listing.render(&rows)?);
    Ok(0)
}

fn row(item: &HistoryItem, full: bool, human: bool) -> Row {
    let mut row = Row::default();
    row.set(
        "ID",
        if full {
            item.id.as_str()
        } else {
            short_id(&item.id)
        },
    );
    row.set("CreatedSince", time::ago(item.created));
    row.set("CreatedAt", time::rfc3339(item.created));
    let by = item.created_by.replace('\t', " ");
    row.set("CreatedBy", if full { by } else { ellipsis(&by, 45) });
    row.set(
        "Size",
        if human {
            human_size(item.size as f64, 3)
        } else {
            item.size.to_string()
        },
    );
    row.set("Comment", item.comment.clone());
    row
}
