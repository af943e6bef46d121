//! Settings of an engine.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings that come from the command line and daemon.json.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// The small binary that stands between engine and containers.
    pub runtime: PathBuf,
    /// Parent of the containers' control groups ("/berth").
    pub cgroup_parent: String,
    pub bridge: BridgeOptions,
    pub log_driver: String,
    pub log_opts: BTreeMap<String, String>,
    pub labels: Vec<String>,
    pub default_ulimits: Vec<berth_api::container::Ulimit>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opts: Vec<String>,
    /// Bytes.
    pub default_shm_size: i64,
    pub default_ipc_mode: String,
    pub default_cgroupns_mode: String,
    /// Seconds.
    pub default_stop_timeout: i64,
    pub no_new_privileges: bool,
    /// Path of a profile, "builtin" or "unconfined".
    pub seccomp_profile: String,
    pub init: bool,
    pub experimental: bool,
    pub debug: bool,
    /// Ready network namespaces of each kind.
    pub network_pool: usize,
}

/// The default bridge network.
#[derive(Clone, Debug, Default)]
pub struct BridgeOptions {
    /// `--bridge none` turns it off.
    pub disabled: bool,
    /// Interface name; default "berth0".
    pub interface: Option<String>,
    /// `--bip`: address with prefix length.
    pub address: Option<String>,
    pub mtu: u32,
    pub masquerade: bool,
}
