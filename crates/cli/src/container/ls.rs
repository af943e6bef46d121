//! `ps`.

use berth_api::container::{Port, Summary};

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{ellipsis, print, short_id};
use crate::time;
use crate::transport::Request;
use crate::tree::Outcome;
use crate::units::human_size;

const TABLE: &str =
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

pub(crate) const HEADS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("HealthStatus", "HEALTH"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

pub(crate) async fn ls(context: &Context, args: &Parsed) -> Outcome {
    let last = if args.on("latest") {
        1
    } else if args.changed("last") {
        args.int("last")
    } else {
        -1
    };
    let format = match args.get("format") {
        Some(format) => format,
        None => &context.config.ps_format,
    };
    // Sizes take long: only when shown.
    let size = args.on("size") || format.contains(".Size");
    let request = Request::get("/containers/json")
        .query_flag("all", args.on("all"))
        .filters(&args.filters())
        .query_some(
            "limit",
            if last > 0 {
                last.to_string()
            } else {
                String::new()
            },
        )
        .query_flag("size", size);
    let containers: Vec<Summary> = context.json(request).await?;
    let full = args.on("no-trunc");
    let rows: Vec<_> = containers
        .iter()
        .map(|container| row(container, full))
        .collect();
    let table = if args.on("size") {
        format!("{TABLE}\t{{{{.Size}}}}")
    } else {
        TABLE.to_owned()
    };
    let listing = Listing {
        format,
        table: &table,
        quiet: args.on("quiet").then_some("{{.ID}}"),
        heads: HEADS,
    };
    print(&listing.render(&rows)?);
    Ok(0)
}

/// The row without the size of the image.
pub(crate) fn row_of_own_size(container: &Summary, full: bool) -> Row {
    let own = Summary {
        size_root_fs: None,
        ..container.clone()
    };
    row(&own, full)
}

fn row(container: &Summary, full: bool) -> Row {
    let mut row = Row::default();
    let id = if full {
        &container.id
    } else {
        short_id(&container.id)
    };
    row.set("ID", id);
    let names: Vec<_> = container
        .names
        .iter()
        .map(|name| name.trim_start_matches('/'))
        // Names with a slash are links of other containers.
        .filter(|name| full || !name.contains('/'))
        .collect();
    row.set("Names", names.join(","));
    row.set("Image", image(container, full));
    let command = if full {
        container.command.clone()
    } else {
        ellipsis(&container.command, 20)
    };
    row.set("Command", crate::flags::go_quote(&command));
    row.set("CreatedAt", time::local(container.created));
    row.set("RunningFor", time::ago(container.created));
    row.set("Ports", ports(&container.ports));
    row.set("State", container.state.clone());
    row.set("Status", container.status.clone());
    row.set(
        "HealthStatus",
        container
            .health
            .as_ref()
            .map(|health| health.status.clone())
            .unwrap_or_default(),
    );
    let own = human_size(container.size_rw.unwrap_or(0) as f64, 3);
    let all = container.size_root_fs.unwrap_or(0);
    row.set(
        "Size",
        if all > 0 {
            format!("{own} (virtual {})", human_size(all as f64, 3))
        } else {
            own
        },
    );
    row.set_labels(&container.labels);
    let mounts: Vec<_> = container
        .mounts
        .iter()
        .map(|mount| {
            if mount.name.is_empty() {
                &mount.source
            } else {
                &mount.name
            }
        })
        .map(|name| {
            if full {
                name.clone()
            } else {
                ellipsis(name, 15)
            }
        })
        .collect();
    row.set("Mounts", mounts.join(","));
    let volumes = container
        .mounts
        .iter()
        .filter(|mount| mount.driver == "local")
        .count();
    row.set("LocalVolumes", volumes.to_string());
    let networks: Vec<_> = container
        .network_settings
        .networks
        .keys()
        .cloned()
        .collect();
    row.set("Networks", networks.join(","));
    let platform = container
        .image_manifest_descriptor
        .as_ref()
        .and_then(|descriptor| descriptor.platform.as_ref());
    row.set(
        "Platform",
        platform.map_or(serde_json::Value::Null, |platform| {
            serde_json::json!({"architecture": platform.architecture, "os": platform.os})
        }),
    );
    row
}

/// The name it was made from; the ID's beginning when that name is gone.
fn image(container: &Summary, full: bool) -> String {
    if container.image.is_empty() {
        return "<no image>".to_owned();
    }
    if !full {
        let shown = short_id(&container.image);
        if shown == short_id(&container.image_id) {
            return shown.to_owned();
        }
        if let Some((name, _)) = container.image.split_once('@')
            && name.contains(':')
        {
            return name.to_owned();
        }
    }
    container.image.clone()
}

/// "0.0.0.0:8080->80/tcp, 90-92/udp": neighbouring ports in one.
pub(crate) fn ports(ports: &[Port]) -> String {
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by(|a, b| {
        (a.private_port, &a.ip, a.public_port, &a.r#type).cmp(&(
            b.private_port,
            &b.ip,
            b.public_port,
            &b.r#type,
        ))
    });
    // (address, protocol, whether public and private are the same) → ranges
    let mut groups: Vec<(String, Vec<u16>)> = Vec::new();
    let mut mapped = Vec::new();
    for port in sorted {
        let key = if port.ip.is_empty() {
            format!("/{}", port.r#type)
        } else if port.public_port == port.private_port {
            format!("{}/{}", port.ip, port.r#type)
        } else {
            let ip = bracketed(&port.ip);
            mapped.push(format!(
                "{ip}:{}->{}/{}",
                port.public_port, port.private_port, port.r#type
            ));
            continue;
        };
        match groups.iter_mut().find(|(have, _)| *have == key) {
            Some((_, list)) => list.push(port.private_port),
            None => groups.push((key, vec![port.private_port])),
        }
    }
    let mut texts = Vec::new();
    for (key, list) in groups {
        let (ip, protocol) = key.rsplit_once('/').unwrap_or(("", &key));
        let mut start = 0;
        while start < list.len() {
            let mut end = start;
            while end + 1 < list.len() && list[end + 1] == list[end].wrapping_add(1) {
                end += 1;
            }
            let range = if start == end {
                list[start].to_string()
            } else {
                format!("{}-{}", list[start], list[end])
            };
            texts.push(if ip.is_empty() {
                format!("{range}/{protocol}")
            } else {
                format!("{}:{range}->{range}/{protocol}", bracketed(ip))
            });
            start = end + 1;
        }
    }
    texts.extend(mapped);
    texts.join(", ")
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_one_line() {
        let port = |ip: &str, public: u16, private: u16| Port {
            ip: ip.to_owned(),
            private_port: private,
            public_port: public,
            r#type: "tcp".to_owned(),
        };
        let list = [
            port("0.0.0.0", 8080, 80),
            port("::", 8080, 80),
            port("", 0, 90),
            port("", 0, 91),
            port("1.1.1.1", 5, 5),
        ];
        assert_eq!(
            ports(&list),
            "1.1.1.1:5->5/tcp, 90-91/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
    }
}
