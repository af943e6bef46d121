//! `stats`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use berth_api::container::Summary;
use berth_api::stats::Stats;
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::template::{Listing, Row};
use crate::output::{print, short_id};
use crate::transport::{Lines, Request, segment};
use crate::tree::Outcome;
use crate::units::{human_binary, human_size};

const TABLE: &str = "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

const HEADS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// How often the picture is drawn, and the list of containers read.
const INTERVAL: Duration = Duration::from_millis(500);

pub(crate) async fn stats(context: &Context, args: &Parsed) -> Outcome {
    let format = match args.get("format") {
        Some(format) => format,
        None => &context.config.stats_format,
    };
    let full = args.on("no-trunc");
    let listing = Listing {
        format,
        table: TABLE,
        quiet: None,
        heads: HEADS,
    };
    let show = |samples: &BTreeMap<String, Stats>, order: &[String]| {
        let rows: Vec<_> = order
            .iter()
            .map(|name| row(name, samples.get(name), full))
            .collect();
        listing.render(&rows)
    };
    if args.on("no-stream") {
        let names = names(context, args).await?;
        let mut samples = BTreeMap::new();
        let mut asked: FuturesUnordered<_> = names
            .iter()
            .map(|name| async move {
                let request = Request::get(format!("/containers/{}/stats", segment(name)))
                    .query("stream", "0");
                (name, context.json::<Stats>(request).await)
            })
            .collect();
        while let Some((name, sample)) = asked.next().await {
            samples.insert(name.clone(), sample?);
        }
        print(&show(&samples, &names)?);
        return Ok(0);
    }
    // Without names containers come and go; with names the first error ends it.
    let samples = RefCell::new(BTreeMap::new());
    let mut followed: BTreeMap<String, ()> = BTreeMap::new();
    let mut following = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    let named = !args.words.is_empty();
    let mut order = names(context, args).await?;
    loop {
        for name in &order {
            if followed.insert(name.clone(), ()).is_none() {
                let name = name.clone();
                following.push(async {
                    let result = follow(context, &name, &samples).await;
                    (name, result)
                });
            }
        }
        tokio::select! {
            Some((name, result)) = following.next() => {
                samples.borrow_mut().remove(&name);
                followed.remove(&name);
                if named {
                    result?;
                    order.retain(|have| *have != name);
                    if order.is_empty() {
                        return Ok(0);
                    }
                }
            }
            _ = ticks.tick() => {
                if !named {
                    order = names(context, args).await?;
                }
                let table = show(&samples.borrow(), &order)?;
                print(&format!("\x1b[H\x1b[J{table}"));
            }
        }
    }
}

async fn follow(
    context: &Context,
    name: &str,
    samples: &RefCell<BTreeMap<String, Stats>>,
) -> Result<(), Failure> {
    let request = Request::get(format!("/containers/{}/stats", segment(name))).query("stream", "1");
    let mut lines = Lines::new(context.send(request).await?);
    while let Some(sample) = lines.next::<Stats>().await? {
        samples.borrow_mut().insert(name.to_owned(), sample);
    }
    Ok(())
}

async fn names(context: &Context, args: &Parsed) -> Result<Vec<String>, Failure> {
    if !args.words.is_empty() {
        return Ok(args.words.clone());
    }
    let request = Request::get("/containers/json").query_flag("all", args.on("all"));
    let containers: Vec<Summary> = context.json(request).await?;
    Ok(containers
        .iter()
        .map(|container| short_id(&container.id).to_owned())
        .collect())
}

fn row(asked: &str, sample: Option<&Stats>, full: bool) -> Row {
    let mut row = Row::default();
    row.set("Container", asked);
    let Some(sample) = sample else {
        for field in ["ID", "Name", "CPUPerc", "MemPerc", "PIDs"] {
            row.set(field, "--");
        }
        for field in ["MemUsage", "NetIO", "BlockIO"] {
            row.set(field, "-- / --");
        }
        return row;
    };
    let id = if full {
        sample.id.as_str()
    } else {
        short_id(&sample.id)
    };
    row.set("ID", id);
    row.set("Name", sample.name.trim_start_matches('/'));
    row.set("CPUPerc", format!("{:.2}%", cpu_percent(sample)));
    let used = memory_used(sample);
    let limit = sample.memory_stats.limit as f64;
    row.set(
        "MemUsage",
        format!("{} / {}", human_binary(used), human_binary(limit)),
    );
    let percent = if limit > 0.0 {
        used / limit * 100.0
    } else {
        0.0
    };
    row.set("MemPerc", format!("{percent:.2}%"));
    let networks = sample.networks.iter().flat_map(BTreeMap::values);
    let (rx, tx) = networks.fold((0, 0), |(rx, tx), one| {
        (rx + one.rx_bytes, tx + one.tx_bytes)
    });
    row.set(
        "NetIO",
        format!(
            "{} / {}",
            human_size(rx as f64, 3),
            human_size(tx as f64, 3)
        ),
    );
    let (mut read, mut written) = (0, 0);
    for entry in sample
        .blkio_stats
        .io_service_bytes_recursive
        .iter()
        .flatten()
    {
        match entry.op.chars().next() {
            Some('r' | 'R') => read += entry.value,
            Some('w' | 'W') => written += entry.value,
            _ => {}
        }
    }
    row.set(
        "BlockIO",
        format!(
            "{} / {}",
            human_size(read as f64, 3),
            human_size(written as f64, 3)
        ),
    );
    row.set("PIDs", sample.pids_stats.current.to_string());
    row
}

/// Percent of one processor since the sample before.
fn cpu_percent(sample: &Stats) -> f64 {
    let (now, before) = (&sample.cpu_stats, &sample.precpu_stats);
    let used = now.cpu_usage.total_usage as f64 - before.cpu_usage.total_usage as f64;
    let system = now.system_cpu_usage as f64 - before.system_cpu_usage as f64;
    let cpus = if now.online_cpus == 0 {
        now.cpu_usage.percpu_usage.len() as f64
    } else {
        f64::from(now.online_cpus)
    };
    if used > 0.0 && system > 0.0 {
        used / system * cpus * 100.0
    } else {
        0.0
    }
}

/// Without the cache that the kernel can drop.
fn memory_used(sample: &Stats) -> f64 {
    let memory = &sample.memory_stats;
    let stat = |name: &str| {
        memory
            .stats
            .as_ref()
            .and_then(|stats| stats.get(name))
            .copied()
    };
    let cache = stat("total_inactive_file")
        .or_else(|| stat("inactive_file"))
        .unwrap_or(0);
    if cache < memory.usage {
        (memory.usage - cache) as f64
    } else {
        memory.usage as f64
    }
}
