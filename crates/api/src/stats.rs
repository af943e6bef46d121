//! `GET /containers/{id}/stats`: names are snake_case on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One sample with the one before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub name: String,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub id: String,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub os_type: String,
    pub read: String,
    pub preread: String,
    pub cpu_stats: Cpu,
    pub precpu_stats: Cpu,
    pub memory_stats: Memory,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub networks: Option<BTreeMap<String, Interface>>,
    pub pids_stats: Pids,
    pub blkio_stats: Blkio,
    pub num_procs: u32,
    pub storage_stats: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    pub cpu_usage: CpuUsage,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub system_cpu_usage: u64,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub online_cpus: u32,
    pub throttling_data: Throttling,
}

/// Nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    pub total_usage: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_usage: Vec<u64>,
    pub usage_in_kernelmode: u64,
    pub usage_in_usermode: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub usage: u64,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub max_usage: u64,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub stats: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub failcnt: u64,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub limit: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub current: u64,
    #[serde(skip_serializing_if = "crate::go::is_default")]
    pub limit: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blkio {
    pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
    pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
    pub io_queue_recursive: Option<Vec<BlkioEntry>>,
    pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
    pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
    pub io_merged_recursive: Option<Vec<BlkioEntry>>,
    pub io_time_recursive: Option<Vec<BlkioEntry>>,
    pub sectors_recursive: Option<Vec<BlkioEntry>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    pub op: String,
    pub value: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}
