//! `events`: what a container uses, in runc's JSON, and when the kernel killed a
//! process of it for lack of memory.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_cgroup::{BlkioEntry, Host, Layout, Stats};
use berth_runtime_core::RdtUsage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::detect_host;
use crate::args::{Args, Opt, Order, only};
use crate::error::{Context, Error, Result};
use crate::print;
use crate::state::{StateDir, Status};

/// How often it is looked whether the kernel had to kill something.
const OOM_INTERVAL: Duration = Duration::from_millis(250);

pub(crate) fn events(root: &Path, mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(
        &mut arguments,
        &[Opt::value("interval"), Opt::flag("stats")],
        Order::Anywhere,
    )?;
    let interval = duration(args.value("interval").unwrap_or("5s"))?;
    if interval.is_zero() {
        return Err(Error::new("duration interval must be greater than 0"));
    }
    let id = only(arguments, "container id")?;
    let dir = StateDir::open(root, &id)?;
    let state = dir.load()?;
    let host = detect_host()?;
    if state.status(&dir, &host) == Status::Stopped {
        return Err(Error::new(format!("container with id {id} is not running")));
    }
    let group = state.needed_group(&host)?;
    let rdt = state.rdt(&dir)?;
    let tell = |kind: &str, data: Option<Value>| {
        let mut event = json!({ "type": kind, "id": id });
        if let Some(data) = data {
            event["data"] = data;
        }
        print(&format!("{event}\n")).map(drop)
    };
    let stats = || {
        let stats = group
            .stats()
            .context(|| format!("read the statistics of {}", group.path()))?;
        let mut data = data(&stats, &host);
        if let Some(rdt) = &rdt {
            data["intel_rdt"] = rdt_data(&rdt.usage());
        }
        tell("stats", Some(data))
    };
    if args.has("stats") {
        stats()?;
        return Ok(0);
    }
    let Some(process) = state.process() else {
        return Ok(0);
    };
    let mut kills = group.oom_kills().unwrap_or_default();
    let mut next = Instant::now() + interval;
    loop {
        let pause = OOM_INTERVAL.min(next.saturating_duration_since(Instant::now()));
        let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: pause.subsec_nanos().into(),
        };
        rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))
            .context(|| format!("wait for {id}"))?;
        let now = group.oom_kills().unwrap_or(kills);
        if now > kills {
            kills = now;
            tell("oom", None)?;
        }
        if !fds[0].revents().is_empty() {
            return Ok(0);
        }
        if Instant::now() >= next {
            next += interval;
            stats()?;
        }
    }
}

/// Go's `time.ParseDuration`, as far as it makes sense here: "5s", "500ms",
/// "1m30s".
fn duration(text: &str) -> Result<Duration> {
    let bad = || {
        Error::new(format!(
            "invalid duration {text:?}: expected as in 5s or 500ms"
        ))
    };
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        total += Duration::try_from_secs_f64(number * unit).map_err(|_| bad())?;
    }
    Ok(total)
}

/// The shape of runc's `types.Stats`.
fn data(stats: &Stats, host: &Host) -> Value {
    let memory = &stats.memory;
    let raw: serde_json::Map<String, Value> = (memory.stat.iter())
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    // With the memory itself, as version 1 counts and runc shows it.
    let swap_limit = match host.layout() {
        Layout::V2 => memory.swap_limit.saturating_add(memory.limit),
        _ => memory.swap_limit,
    };
    let cache = raw.get("cache").or_else(|| raw.get("file")).cloned();
    json!({
        "cpu": {
            "usage": {
                "total": stats.cpu.total,
                "percpu": stats.cpu.per_cpu,
                "kernel": stats.cpu.system,
                "user": stats.cpu.user,
            },
            "throttling": {
                "periods": stats.cpu.periods,
                "throttledPeriods": stats.cpu.throttled_periods,
                "throttledTime": stats.cpu.throttled_time,
            },
        },
        "cpuset": {},
        "memory": {
            "cache": cache.unwrap_or_else(|| json!(0)),
            "usage": {
                "limit": memory.limit,
                "usage": memory.usage,
                "max": memory.max_usage.unwrap_or_default(),
                "failcnt": memory.failcnt,
            },
            "swap": {
                "limit": swap_limit,
                "usage": memory.swap_usage.saturating_add(memory.usage),
                "failcnt": 0,
            },
            "kernel": { "limit": 0, "failcnt": 0 },
            "kernelTCP": { "limit": 0, "failcnt": 0 },
            "raw": raw,
        },
        "pids": {
            "current": stats.pids.current,
            "limit": stats.pids.limit.unwrap_or_default(),
        },
        "blkio": {
            "ioServiceBytesRecursive": entries(&stats.blkio.service_bytes),
            "ioServicedRecursive": entries(&stats.blkio.serviced),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// runc's `cmt_stats` and `mbm_stats`, one for each last-level cache.
fn rdt_data(usage: &[RdtUsage]) -> Value {
    let mut shown = json!({});
    for cache in usage {
        if let Some(bytes) = cache.occupancy {
            push(&mut shown["cmt_stats"], json!({ "llc_occupancy": bytes }));
        }
        if cache.total.is_some() || cache.local.is_some() {
            let bytes = json!({ "mbm_total_bytes": cache.total, "mbm_local_bytes": cache.local });
            push(&mut shown["mbm_stats"], bytes);
        }
    }
    shown
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

fn entries(list: &[BlkioEntry]) -> Vec<Value> {
    list.iter()
        .map(|entry| {
            json!({
                "major": entry.major,
                "minor": entry.minor,
                "op": entry.op,
                "value": entry.value,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_counted_one_by_one() {
        let usage = |occupancy, total| RdtUsage {
            occupancy,
            total,
            local: None,
        };
        let both = [usage(Some(1), Some(2)), usage(Some(3), None)];
        assert_eq!(
            rdt_data(&both),
            json!({
                "cmt_stats": [{ "llc_occupancy": 1 }, { "llc_occupancy": 3 }],
                "mbm_stats": [{ "mbm_total_bytes": 2, "mbm_local_bytes": null }],
            })
        );
        assert_eq!(rdt_data(&[]), json!({}));
    }

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5s", 1500),
        ] {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis));
        }
        for bad in ["", "5", "s", "-1s", "1x", "9999999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
