//! `container prune`.

use std::io::BufRead as _;

use berth_api::container::PruneReport;
use berth_api::filters::Filters;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{print, print_line};
use crate::transport::Request;
use crate::tree::Outcome;
use crate::units::human_size;

pub(crate) async fn prune(context: &Context, args: &Parsed) -> Outcome {
    if !args.on("force")
        && !confirmed(
            "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ",
        )
    {
        return Ok(0);
    }
    let (text, space) = remove(context, args.filters()).await?;
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
pub(crate) async fn remove(context: &Context, filters: Filters) -> Result<(String, u64), Failure> {
    let filters = with_configured(context, filters);
    let report: PruneReport = context
        .json(Request::post("/containers/prune").filters(&filters))
        .await?;
    let deleted = report.containers_deleted.unwrap_or_default();
    let text = listed("Deleted Containers:", &deleted);
    Ok((text, report.space_reclaimed))
}

/// A heading and its lines; nothing for no lines.
pub(crate) fn listed(heading: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("{heading}\n{}\n", lines.join("\n"))
}

/// With `pruneFilters` of the configuration.
pub(crate) fn with_configured(context: &Context, mut filters: Filters) -> Filters {
    for text in &context.config.prune_filters {
        if let Some((field, value)) = text.split_once('=') {
            filters.insert(field, value);
        }
    }
    filters
}

/// Asks; anything but "y" or "yes" is a no.
pub(crate) fn confirmed(question: &str) -> bool {
    print(question);
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer).is_ok();
    read && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}
