//! `container prune`.

use std::io::BufRead as _;

use berth_api::container::PruneReport;

use crate::context::Context;
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
        return Err(crate::failure::Failure::new(
            "container prune has been cancelled",
        ));
    }
    let mut filters = args.filters();
    for text in &context.config.prune_filters {
        if let Some((field, value)) = text.split_once('=') {
            filters.insert(field, value);
        }
    }
    let report: PruneReport = context
        .json(Request::post("/containers/prune").filters(&filters))
        .await?;
    let deleted = report.containers_deleted.unwrap_or_default();
    if !deleted.is_empty() {
        print_line("Deleted Containers:");
        for id in deleted {
            print_line(&id);
        }
        print_line("");
    }
    print_line(&format!(
        "Total reclaimed space: {}",
        human_size(report.space_reclaimed as f64, 4)
    ));
    Ok(0)
}

/// Asks; anything but "y" or "yes" is a no.
pub(crate) fn confirmed(question: &str) -> bool {
    print(question);
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer).is_ok();
    read && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}
