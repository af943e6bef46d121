//! Control groups: v1, v2 and hybrid hosts behind one interface.
//!
//! Owns: finding the hierarchies, making and removing groups, limits, device
//! rules, the freezer, statistics, out-of-memory counts. Must not know about
//! images, the Engine API, or how a container is started.

use std::io;
use std::os::fd::OwnedFd;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

/// Which control group layout a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Only version 1 hierarchies.
    V1,
    /// One version 2 hierarchy with all controllers.
    V2,
    /// Controllers on version 1; version 2 is mounted without any.
    Hybrid,
}

/// The host's hierarchies, read once from /proc.
#[derive(Clone, Debug)]
pub struct Host {}

impl Host {
    /// Reads /proc/self/mountinfo and /proc/self/cgroup.
    pub fn detect() -> Result<Self, Error> {
        todo!()
    }
    pub fn layout(&self) -> Layout {
        todo!()
    }
    /// Names of the controllers in use ("cpu", "memory", …).
    pub fn controllers(&self) -> Vec<String> {
        todo!()
    }
}

/// One group, named by its path below the root of every hierarchy
/// ("/berth/<id>").
#[derive(Clone, Debug)]
pub struct Cgroup {}

impl Cgroup {
    /// Makes the group in every hierarchy and applies `resources`. On error
    /// nothing made by this call is left behind.
    pub fn create(
        host: &Host,
        path: &str,
        resources: Option<&LinuxResources>,
    ) -> Result<Self, Error> {
        let _ = (host, path, resources);
        todo!()
    }
    /// Names a group that may exist; touches nothing.
    pub fn open(host: &Host, path: &str) -> Self {
        let _ = (host, path);
        todo!()
    }
    pub fn path(&self) -> &str {
        todo!()
    }
    pub fn exists(&self) -> bool {
        todo!()
    }
    /// Changes limits; fields that are `None` stay as they are.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        let _ = resources;
        todo!()
    }
    /// Opened before the clone, used by the child (v1) or by clone3 (v2).
    pub fn entry(&self) -> Result<Entry, Error> {
        todo!()
    }
    pub fn freeze(&self) -> Result<(), Error> {
        todo!()
    }
    pub fn thaw(&self) -> Result<(), Error> {
        todo!()
    }
    pub fn is_frozen(&self) -> Result<bool, Error> {
        todo!()
    }
    /// All processes in the group and below it, as seen from the host.
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        todo!()
    }
    /// SIGKILL to everything in the group and below, until none is left.
    pub fn kill_all(&self) -> Result<(), Error> {
        todo!()
    }
    pub fn stats(&self) -> Result<Stats, Error> {
        todo!()
    }
    /// How many processes of the group the kernel killed for lack of memory.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        todo!()
    }
    /// Removes the group and its children; a group that is gone is no error.
    pub fn remove(&self) -> Result<(), Error> {
        todo!()
    }
}

/// How a new process enters a group without waiting for an RCU grace period.
///
/// Moving another process costs 7–17 ms on an idle host, on v1 and v2 alike.
/// v2 clones straight into the group. On v1 a single-threaded process that
/// writes "0" to `tasks` moves itself and takes no lock that waits (Linux 5.5
/// and later): 0.7 ms for ten hierarchies, measured.
#[derive(Debug)]
pub enum Entry {
    /// For `clone3(CLONE_INTO_CGROUP)`.
    Clone(OwnedFd),
    /// The `tasks` files, for [`Entry::enter`] in the child.
    Tasks(Vec<OwnedFd>),
}

impl Entry {
    /// Moves the calling, single-threaded process in. After a clone into the
    /// group there is nothing to do. Does not allocate.
    pub fn enter(&self) -> io::Result<()> {
        todo!()
    }
}

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

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BlkioStats {
    pub service_bytes: Vec<BlkioEntry>,
    pub serviced: Vec<BlkioEntry>,
}

/// `op` is "read", "write", … in lower case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    pub op: String,
    pub value: u64,
}

/// Says the file, what was written and the kernel's answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Invalid(String),
    #[error("{action} {path}: {source}")]
    Io {
        action: &'static str,
        path: String,
        source: io::Error,
    },
}
