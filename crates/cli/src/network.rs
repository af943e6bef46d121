//! Commands on networks.

use berth_api::network::Network;

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{print, short_id};
use crate::time;
use crate::transport::Request;
use crate::tree::Outcome;

const HEADS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

pub(crate) async fn ls(context: &Context, args: &Parsed) -> Outcome {
    let request = Request::get("/networks").filters(&args.filters());
    let mut networks: Vec<Network> = context.json(request).await?;
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    let full = args.on("no-trunc");
    let rows: Vec<_> = networks.iter().map(|network| row(network, full)).collect();
    let listing = Listing {
        format: match args.get("format") {
            Some(format) => format,
            None => &context.config.networks_format,
        },
        table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
        quiet: args.on("quiet").then_some("{{.ID}}"),
        heads: HEADS,
    };
    print(&listing.render(&rows)?);
    Ok(0)
}

fn row(network: &Network, full: bool) -> Row {
    let mut row = Row::default();
    let id = if full {
        network.id.as_str()
    } else {
        short_id(&network.id)
    };
    row.set("ID", id);
    row.set("Name", network.name.clone());
    row.set("Driver", network.driver.clone());
    row.set("Scope", network.scope.clone());
    row.set("IPv4", network.enable_ipv4.to_string());
    row.set("IPv6", network.enable_ipv6.to_string());
    row.set("Internal", network.internal.to_string());
    row.set_labels(&network.labels);
    row.set("CreatedAt", time::go_string(&network.created));
    row
}
