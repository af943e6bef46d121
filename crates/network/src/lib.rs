//! Networks: bridges, endpoints, addresses, firewall, ready-made network
//! namespaces. Netlink is spoken directly; nothing is executed.
//!
//! Blocking; callers with an event loop use a thread. Must not know about
//! images, HTTP or how containers start.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

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

/// Bridges, addresses in use, and the pool of ready namespaces.
#[derive(Debug)]
pub struct Manager {}

impl Manager {
    /// Starts with nothing; [`Manager::add_bridge`] and [`Manager::adopt`]
    /// bring in what exists. `pool` is the number of namespaces kept ready of
    /// each kind (bare, and one per bridge); a background thread refills it.
    pub fn new(pool: usize) -> Result<Self, Error> {
        let _ = pool;
        todo!()
    }

    /// Chooses the first free subnet of Docker's default pools (172.17/16 …)
    /// that overlaps no route or address of the host. Returns the gateway
    /// (first address) and the prefix length.
    pub fn free_subnet(&self) -> Result<(Ipv4Addr, u8), Error> {
        todo!()
    }

    /// Makes the bridge, its address and its firewall rules, or adopts them as
    /// they are; enables forwarding.
    pub fn add_bridge(&self, config: &BridgeConfig) -> Result<(), Error> {
        let _ = config;
        todo!()
    }

    /// Removes bridge and rules; used at the end of tests and by network rm.
    pub fn remove_bridge(&self, id: &str) -> Result<(), Error> {
        let _ = id;
        todo!()
    }

    /// Takes note of an endpoint that survived an engine restart.
    pub fn adopt(&self, network: &str, endpoint: &Endpoint) -> Result<(), Error> {
        let _ = (network, endpoint);
        todo!()
    }

    /// A bare namespace with loopback up (`--network none`).
    pub fn bare(&self) -> Result<Namespace, Error> {
        todo!()
    }

    /// A namespace connected to the bridge: address, default route, `eth0`.
    /// `wanted` and `mac` are the user's choice, if any.
    pub fn connect(
        &self,
        network: &str,
        wanted: Option<Ipv4Addr>,
        mac: Option<&str>,
    ) -> Result<(Namespace, Endpoint), Error> {
        let _ = (network, wanted, mac);
        todo!()
    }

    /// Frees the address and removes the host interface if it is still there.
    pub fn release(&self, network: &str, endpoint: &Endpoint) -> Result<(), Error> {
        let _ = (network, endpoint);
        todo!()
    }

    /// Endpoints' host interfaces on this bridge that belong to none of `known`:
    /// leftovers of a crash, removed.
    pub fn collect(&self, network: &str, known: &[Endpoint]) -> Result<(), Error> {
        let _ = (network, known);
        todo!()
    }

    /// Byte and packet counters of the interfaces in a namespace.
    pub fn counters(namespace_of_pid: u32) -> Result<Vec<Counters>, Error> {
        let _ = namespace_of_pid;
        todo!()
    }
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
    let _ = (host, servers, search, options);
    todo!()
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
    Kernel {
        action: String,
        source: std::io::Error,
    },
}
