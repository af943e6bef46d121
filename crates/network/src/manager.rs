//! [`Manager`]: what the engine calls.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::address::Allocator;
use crate::firewall::Firewall;
use crate::mac::Mac;
use crate::pool::{INTERFACE, Pool, Slot, Uplink, is_host_interface};
use crate::reaper::{Leaving, Reaper};
use crate::route::{self, Handle};
use crate::subnet::{Subnet, first_free};
use crate::{BridgeConfig, Counters, Endpoint, Error, Namespace, bridge, counters, random, sysctl};

/// Bridges, addresses in use, and the pool of ready namespaces. Belongs to the
/// network namespace of the thread that made it, and expects to be called from
/// threads of that namespace.
#[derive(Debug)]
pub struct Manager {
    // The first to be dropped: it still needs the others.
    reaper: Reaper,
    registry: Arc<Registry>,
    /// Held while the host's interfaces or firewall change; never taken while
    /// the networks are held, so that a connect does not wait for a bridge.
    host: Mutex<Host>,
}

/// What is handed out.
#[derive(Debug)]
struct Registry {
    networks: Mutex<HashMap<String, Network>>,
    pool: Pool,
}

impl Registry {
    fn networks(&self) -> MutexGuard<'_, HashMap<String, Network>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, network: &str, endpoint: &Endpoint) {
        if let Some(known) = self.networks().get_mut(network) {
            known.addresses.release(&endpoint.id, endpoint.address);
        }
        self.pool.forget(network, &endpoint.host_interface);
    }
}

#[derive(Debug)]
struct Network {
    config: BridgeConfig,
    bridge: u32,
    addresses: Allocator,
}

#[derive(Debug)]
struct Host {
    links: Handle,
    firewall: Firewall,
}

impl Manager {
    /// Starts with nothing; [`Manager::add_bridge`] and [`Manager::adopt`]
    /// bring in what exists. `pool` is the number of namespaces kept ready of
    /// each kind (bare, and one per bridge); a background thread refills it.
    pub fn new(pool: usize) -> Result<Self, Error> {
        let registry = Arc::new(Registry {
            networks: Mutex::default(),
            pool: Pool::start(pool)?,
        });
        let reaper = Reaper::start({
            let registry = Arc::clone(&registry);
            move |leaving| registry.forget(&leaving.network, &leaving.endpoint)
        })?;
        let host = Mutex::new(Host {
            links: Handle::open()?,
            firewall: Firewall::open()?,
        });
        Ok(Self {
            reaper,
            registry,
            host,
        })
    }

    /// Chooses the first free subnet of Docker's default pools (172.17/16 …)
    /// that overlaps no route or address of the host. Returns the gateway
    /// (first address) and the prefix length.
    pub fn free_subnet(&self) -> Result<(Ipv4Addr, u8), Error> {
        let mut used: Vec<Subnet> = self
            .networks()
            .values()
            .map(|network| network.addresses.subnet())
            .collect();
        let mut host = self.host();
        used.extend(host.links.destinations()?);
        used.extend(
            host.links
                .addresses()?
                .iter()
                .filter_map(|a| Subnet::new(a.address, a.prefix_len)),
        );
        let subnet = first_free(&used).ok_or_else(|| {
            Error::Exhausted("all predefined address pools have been fully subnetted".to_owned())
        })?;
        Ok((
            Ipv4Addr::from_bits(subnet.network().to_bits() + 1),
            subnet.prefix_len(),
        ))
    }

    /// The first address of an interface, with prefix length; `None` when it has
    /// none or does not exist.
    pub fn interface_address(&self, name: &str) -> Result<Option<(Ipv4Addr, u8)>, Error> {
        let mut host = self.host();
        let Some(link) = host.links.link(name)? else {
            return Ok(None);
        };
        let addresses = host.links.addresses()?;
        let own = addresses
            .iter()
            .find(|a| a.index == link.index && !a.address.is_link_local());
        Ok(own.map(|a| (a.address, a.prefix_len)))
    }

    /// Makes the bridge, its address and its firewall rules, or adopts them as
    /// they are; enables forwarding. Called again it repairs them.
    pub fn add_bridge(&self, config: &BridgeConfig) -> Result<(), Error> {
        let addresses = Allocator::new(config)?;
        self.check_conflicts(config, addresses.subnet())?;

        let mut host = self.host();
        let bridge = bridge::ensure(&mut host.links, config, addresses.subnet())?;
        // The rules come before forwarding: there is no moment in which a
        // container is reached from outside or the host routes for others.
        let routes_already = sysctl::ipv4_forwarding()?;
        if !routes_already {
            host.firewall.close();
        }
        host.firewall
            .add_bridge(&config.interface, config.masquerade)?;
        if !routes_already {
            sysctl::enable_ipv4_forwarding()?;
        }

        let mut networks = self.networks();
        let addresses = match networks.remove(&config.id) {
            Some(known) if known.bridge == bridge && known.config == *config => {
                networks.insert(config.id.clone(), known);
                return Ok(());
            }
            Some(known) if known.addresses.subnet() == addresses.subnet() => known.addresses,
            _ => addresses,
        };
        let network = Network {
            config: config.clone(),
            bridge,
            addresses,
        };
        networks.insert(config.id.clone(), network);
        drop(networks);
        self.registry.pool.open_shelf(
            &config.id,
            Uplink {
                bridge,
                mtu: config.mtu,
            },
        );
        Ok(())
    }

    /// Removes bridge and rules; used at the end of tests and by network rm.
    pub fn remove_bridge(&self, id: &str) -> Result<(), Error> {
        let network = self.networks().remove(id).ok_or_else(|| no_network(id))?;
        self.registry.pool.close_shelf(id);
        let mut host = self.host();
        let name = &network.config.interface;
        let ports = host.links.ports(network.bridge).and_then(|ports| {
            let ours = ports
                .iter()
                .map(|port| port.name.as_str())
                .filter(|n| is_host_interface(n));
            remove_links(&mut host.links, ours)
        });
        let link = host.links.delete(name);
        // Last, so that nothing is reachable that was not before.
        let rules = host.firewall.remove_bridge(name);
        ports.and(link).and(rules)
    }

    /// Takes note of an endpoint that survived an engine restart.
    pub fn adopt(&self, network: &str, endpoint: &Endpoint) -> Result<(), Error> {
        let mut networks = self.networks();
        let known = networks
            .get_mut(network)
            .ok_or_else(|| no_network(network))?;
        known.addresses.adopt(&endpoint.id, endpoint.address)?;
        self.registry
            .pool
            .remember(network, &endpoint.host_interface);
        Ok(())
    }

    /// A bare namespace with loopback up (`--network none`).
    pub fn bare(&self) -> Result<Namespace, Error> {
        Ok(Namespace {
            fd: self.registry.pool.take(None)?.namespace,
        })
    }

    /// A namespace connected to the bridge: address, default route, `eth0`.
    /// `wanted` and `mac` are the user's choice, if any.
    pub fn connect(
        &self,
        network: &str,
        wanted: Option<Ipv4Addr>,
        mac: Option<&str>,
    ) -> Result<(Namespace, Endpoint), Error> {
        let mac = mac.map_or_else(Mac::random, str::parse)?;
        let id = random::hex::<32>()?;
        let (address, config, subnet) = match self.allocate(network, &id, wanted) {
            // Perhaps only because of endpoints that are just leaving.
            Err(Error::Exhausted(_) | Error::Invalid(_)) if self.reaper.flush() => {
                self.allocate(network, &id, wanted)?
            }
            other => other?,
        };
        let mut endpoint = Endpoint {
            id,
            address,
            prefix_len: subnet.prefix_len(),
            gateway: config.gateway,
            mac: mac.to_string(),
            interface: INTERFACE.to_owned(),
            host_interface: String::new(),
        };
        let connected = self
            .registry
            .pool
            .take(Some(network))
            .and_then(|slot| configure(slot, &mut endpoint, mac, subnet));
        match connected {
            Ok(namespace) => Ok((namespace, endpoint)),
            Err(e) => {
                self.registry.forget(network, &endpoint);
                Err(e)
            }
        }
    }

    /// The first free address, or the wanted one.
    fn allocate(
        &self,
        network: &str,
        endpoint: &str,
        wanted: Option<Ipv4Addr>,
    ) -> Result<(Ipv4Addr, BridgeConfig, Subnet), Error> {
        let mut networks = self.networks();
        let known = networks
            .get_mut(network)
            .ok_or_else(|| no_network(network))?;
        let address = known.addresses.allocate(endpoint, wanted)?;
        Ok((address, known.config.clone(), known.addresses.subnet()))
    }

    /// Frees the address and removes the host interface if it is still there:
    /// both a moment later (see [`crate::reaper`]), and both before the address
    /// is given to another endpoint.
    pub fn release(&self, network: &str, endpoint: &Endpoint) -> Result<(), Error> {
        let name = &endpoint.host_interface;
        if !is_host_interface(name) {
            return Err(Error::Invalid(format!(
                "{name:?} is not an interface of a container"
            )));
        }
        self.reaper.push(Leaving {
            network: network.to_owned(),
            endpoint: endpoint.clone(),
        });
        Ok(())
    }

    /// Endpoints' host interfaces on this bridge that belong to none of `known`:
    /// leftovers of a crash, removed. Those that this manager made or adopted
    /// stay, known or not.
    pub fn collect(&self, network: &str, known: &[Endpoint]) -> Result<(), Error> {
        let bridge = self
            .networks()
            .get(network)
            .ok_or_else(|| no_network(network))?
            .bridge;
        let mut host = self.host();
        let ports = host.links.ports(bridge)?;
        // Asked for after the ports: a name is remembered before its interface is
        // made, so that every port of ours is among them.
        let ours = self.registry.pool.host_interfaces(network);
        let stale = ports.iter().map(|port| port.name.as_str()).filter(|name| {
            is_host_interface(name)
                && !ours.contains(*name)
                && !known
                    .iter()
                    .any(|endpoint| endpoint.host_interface == **name)
        });
        remove_links(&mut host.links, stale)
    }

    /// Byte and packet counters of the interfaces in a namespace.
    pub fn counters(namespace_of_pid: u32) -> Result<Vec<Counters>, Error> {
        counters::of_process(namespace_of_pid)
    }

    /// No other network may have the interface or a part of the subnet, and one
    /// in use keeps its own.
    fn check_conflicts(&self, config: &BridgeConfig, subnet: Subnet) -> Result<(), Error> {
        let changed = self
            .networks()
            .get(&config.id)
            .is_some_and(|known| known.config != *config);
        if changed {
            // Those that are just leaving are no reason to refuse.
            self.reaper.flush();
        }
        if let Some(known) = self.networks().get(&config.id) {
            let same = known.config.gateway == config.gateway
                && known.addresses.subnet() == subnet
                && known.config.interface == config.interface;
            if !same && known.addresses.in_use() {
                return Err(Error::Invalid(format!(
                    "network {} has active endpoints",
                    config.name
                )));
            }
        }
        for other in self
            .networks()
            .values()
            .filter(|other| other.config.id != config.id)
        {
            if other.config.interface == config.interface {
                return Err(Error::Invalid(format!(
                    "interface {} belongs to network {}",
                    config.interface, other.config.name
                )));
            }
            if other.addresses.subnet().overlaps(subnet) {
                return Err(Error::Invalid(format!(
                    "invalid pool request: Pool overlaps with other one on this address space: \
                     {subnet} and {} of network {}",
                    other.addresses.subnet(),
                    other.config.name
                )));
            }
        }
        Ok(())
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<String, Network>> {
        self.registry.networks()
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the namespace its place in the network. One batch to a socket that is
/// already open inside: all that a start has to wait for.
fn configure(
    slot: Slot,
    endpoint: &mut Endpoint,
    mac: Mac,
    subnet: Subnet,
) -> Result<Namespace, Error> {
    let Slot {
        namespace,
        mut inside,
        plug,
    } = slot;
    // A shelf of a network holds nothing else.
    let plug = plug.ok_or_else(|| Error::NotFound("interface of a ready namespace".to_owned()))?;
    endpoint.host_interface = plug.host_interface;
    inside.batch(&[
        route::add_address(plug.index, endpoint.address, subnet),
        // After the address, because setting it announces the address: the
        // neighbours may know it with its former owner's hardware address.
        route::set_mac(plug.index, mac),
        route::default_route(endpoint.gateway, plug.index),
    ])?;
    Ok(Namespace { fd: namespace })
}

/// Removes them one by one, so that one that resists does not keep the others;
/// the first error is returned.
fn remove_links<'n>(links: &mut Handle, names: impl Iterator<Item = &'n str>) -> Result<(), Error> {
    let mut all = Ok(());
    for name in names {
        let removed = links.delete(name);
        all = all.and(removed);
    }
    all
}

fn no_network(id: &str) -> Error {
    Error::NotFound(format!("network {id} not found"))
}
