//! `isolation`: what holds a container, for people.

use std::fmt::Write as _;

use berth_api::isolation::{Isolation, Layer, Limit};

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::{print, print_line};
use crate::transport::{Request, segment};
use crate::tree::Outcome;
use crate::units::human_binary;

pub(crate) async fn isolation(context: &Context, args: &Parsed) -> Outcome {
    let name = args.words.first().map_or("", String::as_str);
    let request = Request::get(format!("/containers/{}/isolation", segment(name)));
    let isolation: Isolation = context.json(request).await?;
    if args.text("format") == "json" {
        print_line(&serde_json::to_string(&isolation).unwrap_or_default());
    } else {
        print(&text(&isolation));
    }
    Ok(0)
}

fn text(isolation: &Isolation) -> String {
    let mut out = String::new();
    let mut row = |title: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{title:<16}{value}");
    };
    let of = |shared: bool| {
        let names: Vec<_> = isolation
            .namespaces
            .iter()
            .filter(|namespace| namespace.shared_with_host == shared)
            .map(|namespace| namespace.kind.as_str())
            .collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(" ")
        }
    };
    row("Namespaces", &of(false));
    row("  of the host", &of(true));
    row(
        "User",
        &format!("{}:{}", isolation.user.uid, isolation.user.gid),
    );
    for map in &isolation.user.uid_map {
        // The identity over all numbers is no user namespace.
        if map != "0 0 4294967295" {
            row("  mapped", map);
        }
    }
    row("Capabilities", &capabilities(&isolation.capabilities));
    if isolation.bounding_capabilities != isolation.capabilities {
        row("  at most", &capabilities(&isolation.bounding_capabilities));
    }
    row("Seccomp", &isolation.seccomp);
    row(
        "New privileges",
        if isolation.no_new_privileges {
            "cannot be gained"
        } else {
            "by setuid programs"
        },
    );
    row("Masked", &format!("{} paths", isolation.masked_paths.len()));
    row(
        "Read-only",
        &format!(
            "{} paths{}",
            isolation.readonly_paths.len(),
            if isolation.filesystem.readonly_root {
                ", and the root"
            } else {
                ""
            }
        ),
    );
    for limit in &isolation.limits {
        row(&format!("Limit {}", limit.name), &limited(limit));
    }
    row("Layers", &layers(&isolation.filesystem.layers));
    row(
        "Writable",
        &format!(
            "{} in {}",
            human_binary(isolation.filesystem.writable_size as f64),
            isolation.filesystem.writable
        ),
    );
    for sentence in &isolation.loosened {
        row("Loosened", sentence);
    }
    out
}

/// How many of each form, and their size.
fn layers(list: &[Layer]) -> String {
    let mut out = format!("{} read-only, shared", list.len());
    for (form, name) in [("erofs", "EROFS files"), ("directory", "directories")] {
        let sizes = list.iter().filter(|l| l.form == form).map(|l| l.size);
        let count = sizes.clone().count();
        if count > 0 {
            let size = human_binary(sizes.sum::<u64>() as f64);
            out.push_str(&format!("; {size} in {count} {name}"));
        }
    }
    out
}

fn capabilities(names: &[String]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    let short: Vec<_> = names
        .iter()
        .map(|name| name.trim_start_matches("CAP_").to_lowercase())
        .collect();
    short.join(" ")
}

fn limited(limit: &Limit) -> String {
    let shown = |value: u64| match limit.unit.as_str() {
        "bytes" => human_binary(value as f64),
        "thousandths of a CPU" => format!("{}.{:03} CPUs", value / 1000, value % 1000),
        _ => value.to_string(),
    };
    let most = limit.limit.map_or_else(|| "no limit".to_owned(), shown);
    match limit.used {
        Some(used) => format!("{} of {most}", shown(used)),
        None => most,
    }
}
