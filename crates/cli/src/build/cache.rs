//! `builder prune` and `builder du`, and the rows of the build cache that
//! `system df` shows.

use berth_api::build::PruneReport;
use berth_api::filters::Filters;
use serde::Deserialize;

use crate::container::prune::{confirmed, listed, with_configured};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{harmless, print, print_line, table, warn};
use crate::time;
use crate::transport::Request;
use crate::tree::Outcome;
use crate::units::human_size;

/// One entry of the cache, as the engine lists it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Record {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(alias = " Parents")]
    parents: Option<Vec<String>>,
    pub(crate) r#type: String,
    description: String,
    pub(crate) in_use: bool,
    pub(crate) shared: bool,
    pub(crate) size: i64,
    created_at: String,
    last_used_at: Option<String>,
    usage_count: i64,
    /// berth's own: why it is kept.
    reasons: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Reply {
    build_cache_usage: Option<Usage>,
    /// Before 1.52.
    build_cache: Option<Vec<Record>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Usage {
    items: Option<Vec<Record>>,
}

impl Record {
    fn last_used(&self) -> String {
        self.last_used_at
            .as_deref()
            .and_then(time::seconds)
            .map(time::ago)
            .unwrap_or_default()
    }

    /// A row of `system df --verbose`.
    pub(crate) fn usage_row(&self) -> Row {
        let mut row = Row::default();
        let ago = |text: Option<&str>| {
            let seconds = text.and_then(time::seconds);
            seconds.map(time::ago).unwrap_or_default()
        };
        let id: String = harmless(&self.id).chars().take(12).collect();
        row.set("ID", if self.in_use { id + "*" } else { id });
        row.set("Parent", self.parents().join(", "));
        row.set("CacheType", harmless(&self.r#type));
        row.set("Description", harmless(&self.description));
        row.set("InUse", if self.in_use { "true" } else { "false" });
        row.set("Shared", if self.shared { "true" } else { "false" });
        row.set("Size", human_size(self.size as f64, 3));
        row.set("CreatedSince", ago(Some(&self.created_at)));
        row.set("CreatedAt", self.created_at.clone());
        row.set("LastUsedSince", ago(self.last_used_at.as_deref()));
        row.set("LastUsedAt", self.last_used_at.clone().unwrap_or_default());
        row.set("UsageCount", self.usage_count.to_string());
        row
    }

    fn parents(&self) -> Vec<String> {
        let parents = self.parents.iter().flatten();
        parents.map(|id| harmless(id)).collect()
    }

    fn reasons(&self) -> String {
        let reasons: Vec<_> = self
            .reasons
            .iter()
            .flatten()
            .map(|text| harmless(text))
            .collect();
        reasons.join(", ")
    }

    /// A row of `builder du`.
    fn row(&self) -> Row {
        let mut row = Row::default();
        row.set("ID", harmless(&self.id));
        row.set("Parents", self.parents().join(", "));
        row.set("CreatedAt", self.created_at.clone());
        row.set("Mutable", if self.is_mutable() { "true" } else { "false" });
        row.set("Reclaimable", if self.in_use { "false" } else { "true" });
        row.set("Shared", if self.shared { "true" } else { "false" });
        let mark = if self.shared { "*" } else { "" };
        row.set("Size", human_size(self.size as f64, 4) + mark);
        row.set("Description", harmless(&self.description));
        row.set("UsageCount", self.usage_count.to_string());
        row.set("LastUsedAt", self.last_used_at.clone().unwrap_or_default());
        row.set("LastUsedAtSince", self.last_used());
        row.set("Type", harmless(&self.r#type));
        row.set("Reasons", self.reasons());
        row
    }

    /// Written to by every build.
    fn is_mutable(&self) -> bool {
        self.r#type == "exec.cachemount"
    }

    /// `--verbose`, field by field.
    fn fields(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut add = |name: &str, value: String| {
            if !value.is_empty() {
                lines.push(format!("{name}:\t{value}"));
            }
        };
        add("ID", harmless(&self.id));
        add("Parents", self.parents().join(","));
        add("Created at", time::go_string(&self.created_at));
        add("Mutable", self.is_mutable().to_string());
        add("Reclaimable", (!self.in_use).to_string());
        add("Shared", self.shared.to_string());
        add("Size", human_size(self.size as f64, 4));
        add("Description", harmless(&self.description));
        add("Usage count", self.usage_count.to_string());
        add("Last used", self.last_used());
        add("Type", harmless(&self.r#type));
        add("Kept because", self.reasons());
        lines
    }
}

/// Of `system df --verbose`.
pub(crate) const USAGE_TABLE: &str = "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}";
pub(crate) const USAGE_HEADS: &[(&str, &str)] = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
    ("Shared", "SHARED"),
];

const TABLE: &str = "{{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{.LastUsedAtSince}}\t{{.Reasons}}";
const HEADS: &[(&str, &str)] = &[
    ("ID", "ID"),
    ("Parents", "PARENTS"),
    ("CreatedAt", "CREATED AT"),
    ("Mutable", "MUTABLE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Shared", "SHARED"),
    ("Size", "SIZE"),
    ("Description", "DESCRIPTION"),
    ("UsageCount", "USAGE COUNT"),
    ("LastUsedAt", "LAST USED AT"),
    ("LastUsedAtSince", "LAST ACCESSED"),
    ("Type", "TYPE"),
    ("Reasons", "KEPT BECAUSE"),
];

async fn records(context: &Context) -> Result<Vec<Record>, Failure> {
    let request = Request::get("/system/df")
        .query("type", "build-cache")
        .query_flag("verbose", true);
    let reply: Reply = context.json(request).await?;
    let items = reply.build_cache_usage.and_then(|usage| usage.items);
    Ok(items.or(reply.build_cache).unwrap_or_default())
}

/// `builder du`
pub(crate) async fn du(context: &Context, args: &Parsed) -> Outcome {
    one_builder(args)?;
    let filters = args.filters();
    let mut records = records(context).await?;
    records.retain(|record| matches(record, &filters));
    let format = args.text("format");
    if args.on("verbose") || format == "pretty" {
        print(&verbose(&records));
    } else {
        let listing = Listing {
            format: &format,
            table: TABLE,
            quiet: None,
            heads: HEADS,
        };
        let rows: Vec<_> = records.iter().map(Record::row).collect();
        print(&listing.render(&rows)?);
    }
    let sums = format.is_empty() || format == "table" || format == "pretty";
    if sums && filters.is_empty() {
        print(&summary(&records));
    }
    Ok(0)
}

fn verbose(records: &[Record]) -> String {
    records
        .iter()
        .map(|record| table::align_with(&record.fields(), 0, 2) + "\n")
        .collect()
}

fn summary(records: &[Record]) -> String {
    let sum = |wanted: fn(&Record) -> bool| -> i64 {
        records
            .iter()
            .filter(|record| wanted(record))
            .map(|record| record.size.max(0))
            .sum()
    };
    let (all, shared) = (sum(|_| true), sum(|record| record.shared));
    let mut lines = Vec::new();
    let mut add = |name: &str, size: i64| {
        lines.push(format!("{name}:\t{}", human_size(size as f64, 4)));
    };
    if shared > 0 {
        add("Shared", shared);
        add("Private", all - shared);
    }
    add("Reclaimable", sum(|record| !record.in_use));
    add("Total", all);
    table::align_with(&lines, 0, 2)
}

/// The filters of `du`, which the engine knows for prune only.
fn matches(record: &Record, filters: &Filters) -> bool {
    let is = |flag: bool, text: &str| text.is_empty() || text == flag.to_string();
    let one = |field: &str, wanted: &dyn Fn(&str) -> bool| {
        !filters.contains(field) || filters.get(field).any(wanted)
    };
    one("id", &|text| record.id.contains(text))
        && one("parent", &|text| {
            record.parents.iter().flatten().any(|id| id == text)
        })
        && one("type", &|text| record.r#type == text)
        && one("description", &|text| record.description.contains(text))
        && one("inuse", &|text| is(record.in_use, text))
        && one("mutable", &|text| is(record.is_mutable(), text))
        && one("shared", &|text| is(record.shared, text))
        && one("private", &|text| is(!record.shared, text))
}

fn one_builder(args: &Parsed) -> Result<(), Failure> {
    match args.get("builder") {
        None | Some("" | "default") => Ok(()),
        Some(other) => Err(Failure::new(format!("ERROR: no builder {other:?} found"))),
    }
}

/// `builder prune`
pub(crate) async fn prune(context: &Context, args: &Parsed) -> Outcome {
    one_builder(args)?;
    let all = args.on("all");
    let question = if all {
        "WARNING! This will remove all build cache. Are you sure you want to continue? [y/N] "
    } else {
        "WARNING! This will remove all dangling build cache. Are you sure you want to continue? [y/N] "
    };
    let filters = args.filters();
    if filters.contains("until") && filters.contains("unused-for") {
        return Err(Failure::new(
            "ERROR: conflicting filters \"until\" and \"unused-for\"",
        ));
    }
    if !args.on("force") && !confirmed(question) {
        return Ok(0);
    }
    let mut reserved = args.bytes("reserved-space");
    if args.changed("keep-storage") {
        warn(
            "Flag --keep-storage has been deprecated, keep-storage flag has been changed to reserved-space",
        );
        reserved = args.bytes("keep-storage");
    }
    // What they were: the engine's answer names them only.
    let before = records(context).await?;
    let bytes = |size: i64| {
        if size == 0 {
            String::new()
        } else {
            size.to_string()
        }
    };
    let request = Request::post("/build/prune")
        .query_flag("all", all)
        .query_some("reserved-space", bytes(reserved))
        .query_some("max-used-space", bytes(args.bytes("max-used-space")))
        .query_some("min-free-space", bytes(args.bytes("min-free-space")))
        .filters(&with_configured(context, filters));
    let report: PruneReport = context.json(request).await?;
    let deleted = report.caches_deleted.unwrap_or_default();
    let records: Vec<_> = deleted
        .into_iter()
        .map(|id| {
            let known = before.iter().find(|record| record.id == id).cloned();
            known.unwrap_or_else(|| Record {
                id,
                ..Record::default()
            })
        })
        .collect();
    if args.on("verbose") {
        print(&verbose(&records));
    } else if !records.is_empty() {
        let listing = Listing {
            format: "",
            table: "{{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{.LastUsedAtSince}}",
            quiet: None,
            heads: HEADS,
        };
        let rows: Vec<_> = records.iter().map(Record::row).collect();
        print(&listing.render(&rows)?);
    }
    print_line(&format!(
        "Total:\t{}",
        human_size(report.space_reclaimed as f64, 4)
    ));
    Ok(0)
}

/// For `system prune`: what was removed, and the bytes that came free.
pub(crate) async fn remove(
    context: &Context,
    all: bool,
    filters: &Filters,
) -> Result<(String, u64), Failure> {
    // Entries have no labels: none has one, and all lack it.
    if filters.contains("label") {
        return Ok((String::new(), 0));
    }
    let mut until = Filters::default();
    filters
        .get("until")
        .for_each(|text| until.insert("until", text));
    let request = Request::post("/build/prune")
        .query_flag("all", all)
        .filters(&until);
    let report: PruneReport = context.json(request).await?;
    let deleted = report.caches_deleted.unwrap_or_default();
    let text = listed("Deleted build cache objects:", &deleted);
    Ok((text, report.space_reclaimed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record> {
        serde_json::from_str(
            r#"[{"ID":"aaa","Parents":null,"Type":"regular","Description":"RUN make","InUse":true,"Shared":true,"Size":1500000,"CreatedAt":"2024-05-01T12:00:00Z","LastUsedAt":null,"UsageCount":2,"Reasons":["image app:1"]},
                {"ID":"bbb","Parents":["aaa"],"Type":"exec.cachemount","Size":20,"CreatedAt":"2024-05-01T12:00:00Z","LastUsedAt":"2024-05-01T12:00:00Z","UsageCount":1}]"#,
        )
        .unwrap()
    }

    #[test]
    fn usage_with_reasons() {
        let records = records();
        let listing = Listing {
            format: "",
            table: TABLE,
            quiet: None,
            heads: HEADS,
        };
        let rows: Vec<_> = records.iter().map(Record::row).collect();
        let text = listing.render(&rows).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("ID        RECLAIMABLE   SIZE")
                && lines[0].ends_with("KEPT BECAUSE")
        );
        assert!(
            lines[1].starts_with("aaa       false         1.5MB*")
                && lines[1].ends_with("image app:1")
        );
        assert_eq!(
            summary(&records),
            "Shared:       1.5MB\nPrivate:      20B\nReclaimable:  20B\nTotal:        1.5MB\n"
        );
        let verbose = verbose(&records);
        assert!(
            verbose
                .starts_with("ID:            aaa\nCreated at:    2024-05-01 12:00:00 +0000 UTC\n"),
            "{verbose}"
        );
        assert!(
            verbose.contains("Kept because:  image app:1\n\nID:"),
            "{verbose}"
        );
    }

    #[test]
    fn filters_of_du() {
        let left = |field: &str, value: &str| {
            let mut filters = Filters::default();
            filters.insert(field, value);
            let mut records = records();
            records.retain(|record| matches(record, &filters));
            records
                .into_iter()
                .map(|record| record.id)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(left("id", "a"), "aaa");
        assert_eq!(left("type", "exec.cachemount"), "bbb");
        assert_eq!(left("inuse", "true"), "aaa");
        assert_eq!(left("private", ""), "aaa bbb");
        assert_eq!(left("parent", "aaa"), "bbb");
    }
}
