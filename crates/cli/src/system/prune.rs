//! `system prune`.

use crate::build::cache;
use crate::container::prune::{self as containers, confirmed, with_configured};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::image::prune as images;
use crate::output::print_line;
use crate::tree::Outcome;
use crate::units::human_size;
use crate::volume as volumes;

pub(crate) async fn prune(context: &Context, args: &Parsed) -> Outcome {
    let (all, with_volumes) = (args.on("all"), args.on("volumes"));
    let filters = args.filters();
    if with_volumes && filters.contains("until") {
        return Err(Failure::new(
            "ERROR: The \"until\" filter is not supported with \"--volumes\"",
        ));
    }
    if !args.on("force") && !confirmed(&question(context, args)) {
        return Ok(0);
    }
    let mut parts = vec![containers::remove(context, filters.clone()).await?];
    if with_volumes {
        parts.push(volumes::remove_unused(context, false, filters.clone()).await?);
    }
    parts.push(images::remove(context, all, filters.clone()).await?);
    let filters = with_configured(context, filters);
    parts.push(cache::remove(context, all, &filters).await?);
    let mut space = 0;
    for (text, freed) in parts {
        space += freed;
        if !text.is_empty() {
            print_line(&text);
        }
    }
    print_line(&format!(
        "Total reclaimed space: {}",
        human_size(space as f64, 4)
    ));
    Ok(0)
}

/// What will be removed, all of it and nothing else.
fn question(context: &Context, args: &Parsed) -> String {
    let mut what = vec!["all stopped containers"];
    if args.on("volumes") {
        what.push("all anonymous volumes not used by at least one container");
    }
    what.push(if args.on("all") {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    });
    what.push(if args.on("all") {
        "all build cache"
    } else {
        "unused build cache"
    });
    let filters = with_configured(context, args.filters());
    let mut only: Vec<String> = ["label", "label!", "until"]
        .into_iter()
        .flat_map(|field| {
            filters
                .get(field)
                .map(move |value| format!("  - {field}={value}\n"))
                .collect::<Vec<_>>()
        })
        .collect();
    only.sort_unstable();
    let what: String = what.iter().map(|one| format!("  - {one}\n")).collect();
    let only = if only.is_empty() {
        String::new()
    } else {
        format!(
            "\n  Items to be pruned will be filtered with:\n{}",
            only.concat()
        )
    };
    format!("WARNING! This will remove:\n{what}{only}\nAre you sure you want to continue? [y/N] ")
}
