//! `system df`.

use berth_api::container::Summary as Container;
use berth_api::image::Summary as Image;
use berth_api::volume::Volume;
use serde::Deserialize;

use crate::build::cache::{self, Record};
use crate::container::ls as containers;
use crate::context::Context;
use crate::flags::Parsed;
use crate::image::ls as images;
use crate::output::print;
use crate::output::template::{self, Listing, Row};
use crate::transport::Request;
use crate::tree::Outcome;
use crate::units::human_size;
use crate::volume as volumes;

const TABLE: &str = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
const HEADS: &[(&str, &str)] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const IMAGES: &str = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
const CONTAINERS: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
const VOLUMES: &str = "{{.Name}}\t{{.Links}}\t{{.Size}}";

/// Since 1.52 the engine adds up; before, the client does.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Reply {
    image_usage: Option<Usage<Image>>,
    container_usage: Option<Usage<Container>>,
    volume_usage: Option<Usage<VolumeUse>>,
    build_cache_usage: Option<Usage<Record>>,
    layers_size: i64,
    images: Option<Vec<Image>>,
    containers: Option<Vec<Container>>,
    volumes: Option<Vec<VolumeUse>>,
    build_cache: Option<Vec<Record>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage<T> {
    #[serde(default)]
    active_count: i64,
    #[serde(default)]
    total_count: i64,
    #[serde(default)]
    total_size: i64,
    #[serde(default)]
    reclaimable: i64,
    #[serde(default = "none")]
    items: Option<Vec<T>>,
}

fn none<T>() -> Option<Vec<T>> {
    None
}

impl<T> Default for Usage<T> {
    fn default() -> Self {
        Self {
            active_count: 0,
            total_count: 0,
            total_size: 0,
            reclaimable: 0,
            items: None,
        }
    }
}

#[derive(Deserialize)]
struct VolumeUse {
    #[serde(flatten)]
    volume: Volume,
    #[serde(default, rename = "UsageData")]
    usage: Option<UsageData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UsageData {
    /// -1 = not known.
    size: i64,
    ref_count: i64,
}

/// The same whichever way the engine told it.
struct Disk {
    images: Usage<Image>,
    containers: Usage<Container>,
    volumes: Usage<VolumeUse>,
    cache: Usage<Record>,
}

pub(crate) async fn df(context: &Context, args: &Parsed) -> Outcome {
    let verbose = args.on("verbose");
    let request = Request::get("/system/df").query_flag("verbose", verbose);
    let disk = Disk::from(context.json::<Reply>(request).await?);
    let format = args.get("format").unwrap_or_default();
    let text = if verbose {
        disk.verbose(format)?
    } else {
        let listing = Listing {
            format,
            table: TABLE,
            quiet: None,
            heads: HEADS,
        };
        listing.render(&disk.rows())?
    };
    print(&text);
    Ok(0)
}

impl From<Reply> for Disk {
    fn from(reply: Reply) -> Self {
        Self {
            images: reply
                .image_usage
                .unwrap_or_else(|| of_images(reply.layers_size, reply.images)),
            containers: reply
                .container_usage
                .unwrap_or_else(|| of_containers(reply.containers)),
            volumes: reply
                .volume_usage
                .unwrap_or_else(|| of_volumes(reply.volumes)),
            cache: reply
                .build_cache_usage
                .unwrap_or_else(|| of_cache(reply.build_cache)),
        }
    }
}

fn of_images(layers_size: i64, items: Option<Vec<Image>>) -> Usage<Image> {
    let list = items.as_deref().unwrap_or_default();
    // What only images in use hold stays.
    let used: i64 = list
        .iter()
        .filter(|image| image.containers != 0 && image.shared_size >= 0)
        .map(|image| image.size - image.shared_size)
        .sum();
    Usage {
        active_count: count(list, |image| image.containers > 0),
        total_count: count(list, |_| true),
        total_size: layers_size,
        reclaimable: layers_size - used,
        items,
    }
}

fn of_containers(items: Option<Vec<Container>>) -> Usage<Container> {
    let list = items.as_deref().unwrap_or_default();
    let active = |container: &Container| {
        ["running", "paused", "restarting"].contains(&container.state.as_str())
    };
    let size = |container: &Container| container.size_rw.unwrap_or(0);
    Usage {
        active_count: count(list, active),
        total_count: count(list, |_| true),
        total_size: list.iter().map(size).sum(),
        reclaimable: list.iter().filter(|one| !active(one)).map(size).sum(),
        items,
    }
}

fn of_volumes(items: Option<Vec<VolumeUse>>) -> Usage<VolumeUse> {
    let list = items.as_deref().unwrap_or_default();
    let active = |one: &VolumeUse| one.usage.as_ref().is_some_and(|usage| usage.ref_count > 0);
    let size = |one: &VolumeUse| one.usage.as_ref().map_or(0, |usage| usage.size.max(0));
    Usage {
        active_count: count(list, active),
        total_count: count(list, |_| true),
        total_size: list.iter().map(size).sum(),
        reclaimable: list.iter().filter(|one| !active(one)).map(size).sum(),
        items,
    }
}

/// What is shared is counted with images.
fn of_cache(items: Option<Vec<Record>>) -> Usage<Record> {
    let list = items.as_deref().unwrap_or_default();
    let own = |free: bool| {
        list.iter()
            .filter(|one| !(one.shared || free && one.in_use))
            .map(|one| one.size)
            .sum()
    };
    Usage {
        active_count: count(list, |one| one.in_use),
        total_count: count(list, |_| true),
        total_size: own(false),
        reclaimable: own(true),
        items,
    }
}

fn count<T>(list: &[T], wanted: impl Fn(&T) -> bool) -> i64 {
    i64::try_from(list.iter().filter(|one| wanted(one)).count()).unwrap_or(i64::MAX)
}

impl<T> Usage<T> {
    fn row(&self, kind: &str, percent: bool) -> Row {
        let free = human_size(self.reclaimable as f64, 4);
        let mut row = Row::default();
        row.set("Type", kind);
        row.set("TotalCount", self.total_count.to_string());
        row.set("Active", self.active_count.to_string());
        row.set("Size", human_size(self.total_size as f64, 4));
        row.set(
            "Reclaimable",
            if percent && self.total_size > 0 {
                let part = i128::from(self.reclaimable) * 100 / i128::from(self.total_size);
                format!("{free} ({part}%)")
            } else {
                free
            },
        );
        row
    }

    fn list(&self) -> &[T] {
        self.items.as_deref().unwrap_or_default()
    }
}

impl Disk {
    fn rows(&self) -> [Row; 4] {
        [
            self.images.row("Images", true),
            self.containers.row("Containers", true),
            self.volumes.row("Local Volumes", true),
            self.cache.row("Build Cache", false),
        ]
    }

    /// `--verbose`: every object.
    fn verbose(&self, format: &str) -> Result<String, crate::failure::Failure> {
        let table = format.is_empty() || format == "table";
        let images: Vec<_> = self
            .images
            .list()
            .iter()
            .map(|image| images::first_row(image, !table))
            .collect();
        let containers: Vec<_> = self
            .containers
            .list()
            .iter()
            .map(|container| containers::row_of_own_size(container, !table))
            .collect();
        let volumes: Vec<_> = self.volumes.list().iter().map(volume_row).collect();
        let cache: Vec<_> = self.cache.list().iter().map(Record::usage_row).collect();
        if !table {
            let json = |rows: &[Row]| {
                let rows: Vec<_> = rows.iter().map(Row::to_json).collect();
                format!("[{}]", rows.join(","))
            };
            let text = format!(
                "{{\"Images\":{},\"Containers\":{},\"Volumes\":{},\"BuildCache\":{}}}",
                json(&images),
                json(&containers),
                json(&volumes),
                json(&cache)
            );
            return if format == "json" {
                Ok(text)
            } else {
                template::over_json(format, &text)
            };
        }
        let section = |rows: &[Row], table, heads| {
            Listing {
                format: "",
                table,
                quiet: None,
                heads,
            }
            .render(rows)
        };
        Ok(format!(
            "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\nBuild cache usage: {}\n\n{}",
            section(&images, IMAGES, images::HEADS)?,
            section(&containers, CONTAINERS, containers::HEADS)?,
            section(&volumes, VOLUMES, volumes::HEADS)?,
            human_size(self.cache.total_size as f64, 4),
            section(&cache, cache::USAGE_TABLE, cache::USAGE_HEADS)?,
        ))
    }
}

fn volume_row(one: &VolumeUse) -> Row {
    let usage = one
        .usage
        .as_ref()
        .map(|usage| (usage.ref_count, usage.size));
    volumes::row(&one.volume, usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_engines_leave_the_sums_to_us() {
        let reply: Reply = serde_json::from_str(
            r#"{"LayersSize":100000,"Images":[
                {"Id":"sha256:1","Containers":1,"Size":60000,"SharedSize":10000,"RepoTags":["a:1"],"RepoDigests":[],"Created":1},
                {"Id":"sha256:2","Containers":0,"Size":50000,"SharedSize":10000,"RepoTags":[],"RepoDigests":[],"Created":1}],
              "Containers":[{"Id":"c","State":"running","SizeRw":10},{"Id":"d","State":"exited","SizeRw":5}],
              "Volumes":[{"Name":"v","UsageData":{"Size":7,"RefCount":1}},{"Name":"w","UsageData":{"Size":-1,"RefCount":0}}]}"#,
        )
        .unwrap();
        let disk = Disk::from(reply);
        let listing = Listing {
            format: "",
            table: TABLE,
            quiet: None,
            heads: HEADS,
        };
        assert_eq!(
            listing.render(&disk.rows()).unwrap(),
            "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\n\
             Images          2         1         100kB     50kB (50%)\n\
             Containers      2         1         15B       5B (33%)\n\
             Local Volumes   2         1         7B        0B (0%)\n\
             Build Cache     0         0         0B        0B\n"
        );
    }

    #[test]
    fn newer_engines_add_up() {
        let reply: Reply = serde_json::from_str(
            r#"{"ImageUsage":{"ActiveCount":1,"TotalCount":2,"TotalSize":10,"Reclaimable":5},"VolumeUsage":{"TotalCount":1,"Items":null}}"#,
        )
        .unwrap();
        let disk = Disk::from(reply);
        assert_eq!((disk.images.total_count, disk.volumes.total_count), (2, 1));
    }
}
