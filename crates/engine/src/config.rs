//! Settings of an engine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::build::PruneOptions;

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
    pub registries: RegistryOptions,
    /// When images are removed by themselves; all 0: never.
    pub image_gc: berth_store::Limits,
    pub build_gc: BuildGc,
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

/// When the build cache gives space back by itself: after builds.
#[derive(Clone, Debug)]
pub enum BuildGc {
    Off,
    /// Docker's rules with these bounds; all 0: shares of the disk.
    Default(berth_build::solve::Bounds),
    /// One after the other.
    Rules(Vec<PruneOptions>),
}

/// How images come from registries and go there.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Base addresses that are asked before Docker Hub.
    pub mirrors: Vec<String>,
    /// Hosts (with port) and networks that may do without a trusted
    /// certificate; the loopback networks always may.
    pub insecure: Vec<String>,
    /// Blobs in transfer at a time, for the whole engine; 0 = no limit.
    pub max_downloads: usize,
    pub max_uploads: usize,
    /// Tries for one blob; at least 1.
    pub download_attempts: u32,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            max_downloads: 3,
            max_uploads: 5,
            download_attempts: 5,
        }
    }
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
