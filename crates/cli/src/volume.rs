//! Commands on volumes.

use berth_api::container::Labels;
use berth_api::filters::Filters;
use berth_api::volume::{Volume, VolumeCreate, VolumeList, VolumePruneReport};

use crate::container::prune::{confirmed, listed, with_configured};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{print, print_line, warn};
use crate::transport::{Request, segment};
use crate::tree::Outcome;
use crate::units::human_size;

pub(crate) const HEADS: &[(&str, &str)] = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Availability", "AVAILABILITY"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Status", "STATUS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Group", "GROUP"),
];

pub(crate) async fn ls(context: &Context, args: &Parsed) -> Outcome {
    let request = Request::get("/volumes").filters(&args.filters());
    let list: VolumeList = context.json(request).await?;
    for warning in list.warnings.iter().flatten() {
        warn(warning);
    }
    let mut volumes = list.volumes;
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<_> = volumes.iter().map(|volume| row(volume, None)).collect();
    let listing = Listing {
        format: match args.get("format") {
            Some(format) => format,
            None => &context.config.volumes_format,
        },
        table: "{{.Driver}}\t{{.Name}}",
        quiet: args.on("quiet").then_some("{{.Name}}"),
        heads: HEADS,
    };
    print(&listing.render(&rows)?);
    Ok(0)
}

/// `usage`: how many containers use it, and its bytes (-1 = not known).
pub(crate) fn row(volume: &Volume, usage: Option<(i64, i64)>) -> Row {
    let mut row = Row::default();
    let labels: Vec<_> = volume
        .labels
        .iter()
        .flatten()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    row.set("Availability", "N/A");
    row.set("Driver", volume.driver.clone());
    row.set("Group", "N/A");
    row.set("Labels", labels.join(","));
    let unknown = || "N/A".to_owned();
    row.set(
        "Links",
        usage.map_or_else(unknown, |(links, _)| links.to_string()),
    );
    row.set("Mountpoint", volume.mountpoint.clone());
    row.set("Name", volume.name.clone());
    row.set("Scope", volume.scope.clone());
    row.set(
        "Size",
        usage.map_or_else(unknown, |(_, bytes)| human_size(bytes as f64, 4)),
    );
    row.set("Status", "N/A");
    row
}

pub(crate) async fn create(context: &Context, args: &Parsed) -> Outcome {
    let pairs = |texts: Vec<String>| -> Option<Labels> {
        let split = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        Some(texts.iter().map(split).collect::<Labels>()).filter(|map| !map.is_empty())
    };
    let request = VolumeCreate {
        name: args.words.first().cloned().unwrap_or_default(),
        driver: args.text("driver"),
        driver_opts: pairs(args.list("opt")),
        labels: pairs(args.list("label")),
        ..VolumeCreate::default()
    };
    let request = Request::post("/volumes/create").json(&request)?;
    let volume: Volume = context.json(request).await?;
    print_line(&volume.name);
    Ok(0)
}

pub(crate) async fn rm(context: &Context, args: &Parsed) -> Outcome {
    let mut failures = Vec::new();
    for name in &args.words {
        let request = Request::delete(format!("/volumes/{}", segment(name)))
            .query_flag("force", args.on("force"));
        match context.done(request).await {
            Ok(()) => print_line(name),
            Err(failure) => failures.push(failure.message),
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}

pub(crate) async fn prune(context: &Context, args: &Parsed) -> Outcome {
    let all = args.on("all");
    let what = if all { "all" } else { "anonymous" };
    let question = format!(
        "WARNING! This will remove {what} local volumes not used by at least one container.\nAre you sure you want to continue? [y/N] "
    );
    if !args.on("force") && !confirmed(&question) {
        return Ok(0);
    }
    let (text, space) = remove_unused(context, all, args.filters()).await?;
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
pub(crate) async fn remove_unused(
    context: &Context,
    all: bool,
    filters: Filters,
) -> Result<(String, u64), Failure> {
    let mut filters = with_configured(context, filters);
    if all {
        filters.insert("all", "true");
    }
    let report: VolumePruneReport = context
        .json(Request::post("/volumes/prune").filters(&filters))
        .await?;
    let deleted = report.volumes_deleted.unwrap_or_default();
    let text = listed("Deleted Volumes:", &deleted);
    Ok((text, report.space_reclaimed))
}
