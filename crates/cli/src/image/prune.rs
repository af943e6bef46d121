//! `image prune`.

use berth_api::filters::Filters;
use berth_api::image::Deleted;
use serde::Deserialize;

use crate::container::prune::{confirmed, with_configured};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{print, print_line};
use crate::transport::Request;
use crate::tree::Outcome;
use crate::units::human_size;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Report {
    images_deleted: Option<Vec<Deleted>>,
    space_reclaimed: u64,
}

pub(crate) async fn prune(context: &Context, args: &Parsed) -> Outcome {
    let all = args.on("all");
    let what = if all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    let question =
        format!("WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] ");
    if !args.on("force") && !confirmed(&question) {
        return Ok(0);
    }
    let (text, space) = remove(context, all, args.filters()).await?;
    if !text.is_empty() {
        print(&text);
        print_line("");
    }
    print_line(&format!(
        "Total reclaimed space: {}",
        human_size(space as f64, 4)
    ));
    Ok(0)
}

/// What was removed, and the bytes that came free.
pub(crate) async fn remove(
    context: &Context,
    all: bool,
    mut filters: Filters,
) -> Result<(String, u64), Failure> {
    filters.insert("dangling", if all { "false" } else { "true" });
    let filters = with_configured(context, filters);
    let report: Report = context
        .json(Request::post("/images/prune").filters(&filters))
        .await?;
    let deleted = report.images_deleted.unwrap_or_default();
    if deleted.is_empty() {
        return Ok((String::new(), 0));
    }
    let mut text = "Deleted Images:\n".to_owned();
    for one in deleted {
        text += &if one.untagged.is_empty() {
            format!("deleted: {}\n", one.deleted)
        } else {
            format!("untagged: {}\n", one.untagged)
        };
    }
    Ok((text, report.space_reclaimed))
}
