//! Networks: bridges, endpoints, addresses, firewall, ready-made network
//! namespaces. Netlink is spoken directly; nothing is executed.
//!
//! Blocking; callers with an event loop use a thread. Must not know about
//! images, HTTP or how containers start.
//!
//! The kernel holds the state: bridges and firewall rules outlive the engine and
//! are adopted by the next one ([`Manager::add_bridge`], [`Manager::adopt`]).
//! What only this process holds, the ready namespaces, goes with it.

mod address;
mod bridge;
mod counters;
mod firewall;
mod mac;
mod manager;
mod netlink;
mod pool;
mod random;
mod reaper;
mod resolv;
mod route;
mod subnet;
mod sysctl;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

pub use manager::Manager;

/// A bridge network as its owner stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// Network identifier, 64 hex digits.
    pub id: String,
    /// "bridge"
    pub name: String,
    /// Interface name on the host ("docker0"-like; ours is "berth0").
    pub interface: String,
    /// Gateway address with prefix length; the bridge's own address.
    pub gateway: Ipv4Addr,
    pub prefix_len: u8,
    pub mtu: u32,
    /// Outgoing traffic leaves with the host's address.
    pub masquerade: bool,
    /// The interface is the user's, who gave it this address: its other
    /// addresses and its MTU are not ours to change.
    #[serde(default)]
    pub foreign: bool,
}

/// A container's place in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: String,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Ipv4Addr,
    /// "02:42:ac:11:00:02"-like; random since Docker 28.
    pub mac: String,
    /// Name inside the container ("eth0") and on the host.
    pub interface: String,
    pub host_interface: String,
}

/// A network namespace ready for a container. Its interfaces vanish with the
/// last descriptor or process in it.
#[derive(Debug)]
pub struct Namespace {
    pub fd: OwnedFd,
}

/// Counters of one interface, from the container's view.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub interface: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// The resolv.conf a container gets: the host's without loopback servers, with
/// the user's overrides (`--dns`, `--dns-search`, `--dns-option`).
pub fn resolv_conf(
    host: &str,
    servers: &[IpAddr],
    search: &[String],
    options: &[String],
) -> String {
    resolv::resolv_conf(host, servers, search, options)
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Exhausted(String),
    #[error("{action}: {source}")]
    Kernel { action: String, source: io::Error },
}

impl Error {
    fn kernel(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Kernel {
            action: action.into(),
            source: source.into(),
        }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
