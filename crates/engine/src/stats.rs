//! One sample of what a container uses.

use std::collections::BTreeMap;

use berth_api::Error;
use berth_api::stats::{
    Blkio, BlkioEntry, Cpu, CpuUsage, Interface, Memory, Pids, Stats, Throttling,
};
use berth_network::Manager;

use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};
use crate::info::online_cpus;
use crate::time;

/// Ticks per second of /proc/stat: USER_HZ, the same on every architecture.
const TICKS: u64 = 100;

impl Engine {
    /// One sample; `previous` fills `precpu_stats`.
    pub async fn container_stats(
        &self,
        name: &str,
        previous: Option<&Stats>,
    ) -> Result<Stats, Error> {
        let container = self.find(name)?;
        let record = container.record().clone();
        let mut stats = Stats {
            name: format!("/{}", record.name),
            id: record.id.clone(),
            os_type: "linux".into(),
            read: time::NEVER.into(),
            preread: time::NEVER.into(),
            ..Stats::default()
        };
        if record.state.running && record.state.pid > 0 {
            let cgroup = self.cgroup(&record);
            let own_network = record.network() != "host";
            let memory = self.0.host.memory;
            let pid = u32::try_from(record.state.pid).unwrap_or(0);
            let sample = blocking(move || {
                let used = cgroup.stats().api()?;
                let interfaces = if own_network {
                    Manager::counters(pid).api()?
                } else {
                    Vec::new()
                };
                Ok((used, interfaces, memory))
            })
            .await;
            match sample {
                Ok((used, interfaces, memory)) => {
                    stats.read = time::now();
                    fill(&mut stats, used, memory);
                    stats.networks = own_network.then(|| {
                        interfaces
                            .into_iter()
                            .filter(|counters| counters.interface != "lo")
                            .map(|c| {
                                let name = c.interface.clone();
                                (name, interface(&c))
                            })
                            .collect()
                    });
                }
                // It may have ended meanwhile; then there is nothing to tell.
                Err(error) if container.record().state.running => return Err(error),
                Err(_) => {}
            }
        }
        if let Some(previous) = previous {
            stats.preread.clone_from(&previous.read);
            stats.precpu_stats = previous.cpu_stats.clone();
        }
        Ok(stats)
    }
}

fn fill(stats: &mut Stats, used: berth_cgroup::Stats, host_memory: u64) {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    stats.cpu_stats = Cpu {
        cpu_usage: CpuUsage {
            total_usage: used.cpu.total,
            percpu_usage: used.cpu.per_cpu,
            usage_in_kernelmode: used.cpu.system,
            usage_in_usermode: used.cpu.user,
        },
        system_cpu_usage: system_time(&read("/proc/stat")),
        online_cpus: online_cpus(&read("/sys/devices/system/cpu/online")),
        throttling_data: Throttling {
            periods: used.cpu.periods,
            throttled_periods: used.cpu.throttled_periods,
            throttled_time: used.cpu.throttled_time,
        },
    };
    stats.memory_stats = Memory {
        usage: used.memory.usage,
        max_usage: used.memory.max_usage.unwrap_or(0),
        stats: Some(used.memory.stat.into_iter().collect::<BTreeMap<_, _>>()),
        failcnt: used.memory.failcnt,
        // Without a limit of its own, all there is.
        limit: used.memory.limit.min(host_memory),
    };
    stats.pids_stats = Pids {
        current: used.pids.current,
        limit: used.pids.limit.unwrap_or(u64::MAX),
    };
    let entries = |list: Vec<berth_cgroup::BlkioEntry>| {
        let list: Vec<BlkioEntry> = list
            .into_iter()
            .map(|entry| BlkioEntry {
                major: entry.major,
                minor: entry.minor,
                op: entry.op,
                value: entry.value,
            })
            .collect();
        Some(list).filter(|list| !list.is_empty())
    };
    stats.blkio_stats = Blkio {
        io_service_bytes_recursive: entries(used.blkio.service_bytes),
        io_serviced_recursive: entries(used.blkio.serviced),
        ..Blkio::default()
    };
}

fn interface(counters: &berth_network::Counters) -> Interface {
    Interface {
        rx_bytes: counters.rx_bytes,
        rx_packets: counters.rx_packets,
        rx_errors: counters.rx_errors,
        rx_dropped: counters.rx_dropped,
        tx_bytes: counters.tx_bytes,
        tx_packets: counters.tx_packets,
        tx_errors: counters.tx_errors,
        tx_dropped: counters.tx_dropped,
    }
}

/// Nanoseconds of all processors together, idle time included: the first seven
/// numbers of the first line, as Docker counts them.
fn system_time(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let ticks: u64 = line
        .split_whitespace()
        .skip(1)
        .take(7)
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    ticks.saturating_mul(1_000_000_000 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_numbers_count() {
        assert_eq!(
            system_time("cpu  1 2 3 4 5 6 7 100 100\ncpu0 9"),
            280_000_000
        );
        assert_eq!(system_time(""), 0);
    }
}
