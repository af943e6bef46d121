//! Statistics of a group, from both versions' files to one form.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Cgroup, Error, files};

/// What a group has used, in the units of the kernel files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub blkio: BlkioStats,
}

/// Times in nanoseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CpuStats {
    pub total: u64,
    pub user: u64,
    pub system: u64,
    /// v1 only; empty on v2.
    pub per_cpu: Vec<u64>,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

/// Bytes. `limit` is `u64::MAX` when there is none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MemoryStats {
    pub usage: u64,
    /// v1 only.
    pub max_usage: Option<u64>,
    pub limit: u64,
    pub failcnt: u64,
    pub swap_usage: u64,
    pub swap_limit: u64,
    /// The lines of memory.stat, as the kernel names them.
    pub stat: Vec<(String, u64)>,
}

/// `limit` is `None` for "max".
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PidsStats {
    pub current: u64,
    pub limit: Option<u64>,
}

/// Per device and operation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BlkioStats {
    pub service_bytes: Vec<BlkioEntry>,
    pub serviced: Vec<BlkioEntry>,
}

/// `op` is "read", "write", … in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    pub op: String,
    pub value: u64,
}

/// A file that this kernel does not have counts as empty.
fn optional<T: Default>(result: Result<T, Error>) -> Result<T, Error> {
    match result {
        Err(error) if error.is_absent() => Ok(T::default()),
        other => other,
    }
}

fn find(pairs: &[(String, u64)], key: &str) -> u64 {
    pairs
        .iter()
        .find(|(name, _)| name == key)
        .map_or(0, |(_, value)| *value)
}

fn unlimited(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

pub(crate) fn v1(group: &Cgroup) -> Result<Stats, Error> {
    let mut stats = Stats::default();
    if let Ok(dir) = group.controller("cpuacct") {
        stats.cpu.total = optional(files::number(&dir.join("cpuacct.usage")))?;
        stats.cpu.per_cpu = optional(files::read(&dir.join("cpuacct.usage_percpu")))?
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        // In clock ticks, of which Linux always shows 100 a second.
        let ticks = optional(files::pairs(&dir.join("cpuacct.stat")))?;
        stats.cpu.user = find(&ticks, "user") * 10_000_000;
        stats.cpu.system = find(&ticks, "system") * 10_000_000;
    }
    if let Ok(dir) = group.controller("cpu") {
        let pairs = optional(files::pairs(&dir.join("cpu.stat")))?;
        stats.cpu.periods = find(&pairs, "nr_periods");
        stats.cpu.throttled_periods = find(&pairs, "nr_throttled");
        stats.cpu.throttled_time = find(&pairs, "throttled_time");
    }
    if let Ok(dir) = group.controller("memory") {
        let number = |file: &str| optional(files::number(&dir.join(file)));
        stats.memory = MemoryStats {
            usage: number("memory.usage_in_bytes")?,
            max_usage: Some(number("memory.max_usage_in_bytes")?),
            limit: number("memory.limit_in_bytes")?,
            failcnt: number("memory.failcnt")?,
            swap_usage: number("memory.memsw.usage_in_bytes")?,
            swap_limit: number("memory.memsw.limit_in_bytes")?,
            stat: optional(files::pairs(&dir.join("memory.stat")))?,
        };
        stats.memory.swap_usage = stats.memory.swap_usage.saturating_sub(stats.memory.usage);
        // v1 shows "no limit" as the largest multiple of the page size.
        if stats.memory.limit >= 1 << 62 {
            stats.memory.limit = u64::MAX;
        }
    }
    if let Ok(dir) = group.controller("pids") {
        stats.pids.current = optional(files::number(&dir.join("pids.current")))?;
        stats.pids.limit = unlimited(optional(files::number(&dir.join("pids.max")))?);
    }
    if let Ok(dir) = group.controller("blkio") {
        let read = |name: &str| -> Result<Vec<BlkioEntry>, Error> {
            for prefix in ["blkio.bfq.", "blkio.throttle."] {
                let entries = parse_v1_blkio(&optional(files::read(
                    &dir.join(format!("{prefix}{name}_recursive")),
                ))?);
                if !entries.is_empty() {
                    return Ok(entries);
                }
            }
            Ok(Vec::new())
        };
        stats.blkio = BlkioStats {
            service_bytes: read("io_service_bytes")?,
            serviced: read("io_serviced")?,
        };
    }
    Ok(stats)
}

/// "8:0 Read 4096"; the line "Total 4096" at the end has no device.
fn parse_v1_blkio(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: words.next()?.to_lowercase(),
                value: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

pub(crate) fn v2(dir: &Path) -> Result<Stats, Error> {
    let cpu = files::pairs(&dir.join("cpu.stat"))?;
    let micros = |key| find(&cpu, key) * 1000;
    let number = |file: &str| optional(files::number(&dir.join(file)));
    let memory_limit = match number("memory.max")? {
        0 => u64::MAX,
        limit => limit,
    };
    let io = optional(files::read(&dir.join("io.stat")))?;
    Ok(Stats {
        cpu: CpuStats {
            total: micros("usage_usec"),
            user: micros("user_usec"),
            system: micros("system_usec"),
            per_cpu: Vec::new(),
            periods: find(&cpu, "nr_periods"),
            throttled_periods: find(&cpu, "nr_throttled"),
            throttled_time: micros("throttled_usec"),
        },
        memory: MemoryStats {
            usage: number("memory.current")?,
            max_usage: None,
            limit: memory_limit,
            failcnt: optional(files::keyed(&dir.join("memory.events"), "max"))?,
            swap_usage: number("memory.swap.current")?,
            swap_limit: number("memory.swap.max")?,
            stat: optional(files::pairs(&dir.join("memory.stat")))?,
        },
        pids: PidsStats {
            current: number("pids.current")?,
            limit: unlimited(number("pids.max")?),
        },
        blkio: BlkioStats {
            service_bytes: parse_v2_io(&io, &[("rbytes", "read"), ("wbytes", "write")]),
            serviced: parse_v2_io(&io, &[("rios", "read"), ("wios", "write")]),
        },
    })
}

/// "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6"
fn parse_v2_io(text: &str, keys: &[(&str, &str)]) -> Vec<BlkioEntry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
            continue;
        };
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                continue;
            };
            let Some((_, op)) = keys.iter().find(|(name, _)| *name == key) else {
                continue;
            };
            let Ok(value) = value.parse() else { continue };
            entries.push(BlkioEntry {
                major,
                minor,
                op: (*op).to_owned(),
                value,
            });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_io_of_both_versions() {
        let entry = |op: &str, value| BlkioEntry {
            major: 8,
            minor: 16,
            op: op.into(),
            value,
        };
        let v1 = "8:16 Read 4096\n8:16 Write 512\nTotal 4608\nnonsense\n";
        assert_eq!(
            parse_v1_blkio(v1),
            [entry("read", 4096), entry("write", 512)]
        );
        let v2 = "8:16 rbytes=4096 wbytes=512 rios=1 wios=2 dbytes=0 dios=0\nbad line\n";
        assert_eq!(
            parse_v2_io(v2, &[("rbytes", "read"), ("wbytes", "write")]),
            [entry("read", 4096), entry("write", 512)]
        );
        assert_eq!(parse_v2_io(v2, &[("rios", "read")]), [entry("read", 1)]);
    }
}
