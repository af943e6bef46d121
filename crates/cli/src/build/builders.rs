//! The one builder there is, "default": `buildx ls`, `inspect` and `version`.

use berth_api::system::Version;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{harmless, print, print_line, table};
use crate::platform;
use crate::transport::Request;
use crate::tree::Outcome;

struct Builder {
    version: String,
    platform: String,
}

async fn builder(context: &Context) -> Result<Builder, Failure> {
    let version: Version = context.json(Request::get("/version")).await?;
    Ok(Builder {
        version: harmless(&version.version),
        platform: platform::format(&version.os, &version.arch, ""),
    })
}

pub(crate) async fn ls(context: &Context, args: &Parsed) -> Outcome {
    let found = builder(context).await?;
    let rows = [
        ("default*", "docker", ""),
        (" \\_ default", " \\_ default", "running"),
    ]
    .map(|(name, driver, status)| {
        let mut row = Row::default();
        row.set("Name", name);
        row.set("DriverEndpoint", driver);
        row.set("Status", status);
        let node = !status.is_empty();
        row.set("Buildkit", if node { found.version.as_str() } else { "" });
        row.set("Platforms", if node { found.platform.as_str() } else { "" });
        row
    });
    let format = args.text("format");
    let listing = Listing {
        format: &format,
        table: "{{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Buildkit}}\t{{.Platforms}}",
        quiet: None,
        heads: &[
            ("Name", "NAME/NODE"),
            ("DriverEndpoint", "DRIVER/ENDPOINT"),
            ("Status", "STATUS"),
            ("Buildkit", "BUILDKIT"),
            ("Platforms", "PLATFORMS"),
        ],
    };
    print(&listing.render(&rows)?);
    Ok(0)
}

pub(crate) async fn inspect(context: &Context, args: &Parsed) -> Outcome {
    for name in args
        .words
        .first()
        .map(String::as_str)
        .iter()
        .chain(&args.get("builder"))
    {
        if !matches!(*name, "" | "default") {
            return Err(Failure::new(format!("ERROR: no builder {name:?} found")));
        }
    }
    let found = builder(context).await?;
    let lines = [
        "Name:\tdefault".to_owned(),
        "Driver:\tdocker".to_owned(),
        String::new(),
        "Nodes:".to_owned(),
        "Name:\tdefault".to_owned(),
        "Endpoint:\tdefault".to_owned(),
        "Status:\trunning".to_owned(),
        format!("BuildKit version:\t{}", found.version),
        format!("Platforms:\t{}", found.platform),
    ];
    print(&table::align_with(&lines, 0, 1));
    Ok(0)
}

/// There is no plugin: the program itself answers.
pub(crate) async fn version(_: &Context, _: &Parsed) -> Outcome {
    print_line(concat!("berth ", env!("CARGO_PKG_VERSION")));
    Ok(0)
}
