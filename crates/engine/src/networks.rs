//! The built-in networks, and a container's place in them.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_api::Error;
use berth_api::container::HostConfig;
use berth_api::filters::Filters;
use berth_api::network::{EndpointResource, EndpointSettings, Ipam, IpamPool, Network};
use berth_network::{BridgeConfig, Endpoint, Manager};
use serde::{Deserialize, Serialize};

use crate::container::{Container, Record};
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, io};
use crate::{Config, files, time};

const DEFAULT_INTERFACE: &str = "berth0";

/// `networks.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Networks {
    created: String,
    none: String,
    host: String,
    bridge: Option<BridgeConfig>,
    /// The bridge's identifier, kept while it is turned off.
    bridge_id: String,
    #[serde(skip)]
    enabled: bool,
    /// Says to other engines that the bridge is taken.
    #[serde(skip)]
    claim: Option<UnixListener>,
}

/// Takes the bridge for this engine: two that adopt one bridge would remove each
/// other's endpoints. An abstract socket belongs to the network namespace, as the
/// bridge does, and is given up by the kernel however the engine ends.
fn claim(interface: &str) -> Result<UnixListener, Error> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::system(format!(
            "the bridge {interface} belongs to another engine that is running: start this one with --bridge and another name, or with --bridge none"
        )),
        _ => Error::system(format!("claim the bridge {interface}: {error}")),
    };
    let name =
        SocketAddr::from_abstract_name(format!("berth-bridge-{interface}")).map_err(failed)?;
    UnixListener::bind_addr(&name).map_err(failed)
}

impl Networks {
    /// Reads what is stored, applies the settings, makes or adopts the bridge.
    pub(crate) fn open(config: &Config, manager: &Manager) -> Result<Self, Error> {
        let path = config.data_root.join("networks.json");
        let mut networks = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::system(format!("read {}: {error}", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::new()?,
            Err(error) => return Err(io("read", &path, &error)),
        };
        networks.enabled = !config.bridge.disabled;
        if networks.enabled {
            let bridge = networks.bridge_config(config, manager)?;
            networks.claim = Some(claim(&bridge.interface)?);
            manager.add_bridge(&bridge).api()?;
            networks.bridge = Some(bridge);
        }
        let bytes = serde_json::to_vec_pretty(&networks)
            .map_err(|error| Error::system(format!("encode {}: {error}", path.display())))?;
        files::replace(&path, &bytes, 0o600).map_err(|error| io("write", &path, &error))?;
        Ok(networks)
    }

    fn new() -> Result<Self, Error> {
        let id =
            || files::random_id().map_err(|error| Error::system(format!("make an ID: {error}")));
        Ok(Self {
            created: time::now(),
            none: id()?,
            host: id()?,
            bridge: None,
            bridge_id: id()?,
            enabled: true,
            claim: None,
        })
    }

    fn bridge_config(&self, config: &Config, manager: &Manager) -> Result<BridgeConfig, Error> {
        let options = &config.bridge;
        let wanted = options.interface.as_deref().unwrap_or(DEFAULT_INTERFACE);
        let stored = self.bridge.as_ref();
        let ours = stored.is_some_and(|stored| !stored.foreign && stored.interface == wanted);
        // Else the user may have made it: perhaps it is the host's own way to
        // the network.
        let theirs = if options.interface.is_some() && !ours {
            manager.interface_address(wanted).api()?
        } else {
            None
        };
        let (gateway, prefix_len) = match (theirs, &options.address, stored) {
            (Some(address), _, _) => address,
            (None, Some(text), _) => {
                let invalid = || Error::invalid(format!("invalid bridge address: {text}"));
                let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
                let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
                (address.parse().map_err(|_| invalid())?, prefix)
            }
            (None, None, Some(stored)) if !stored.foreign => (stored.gateway, stored.prefix_len),
            (None, None, Some(stored)) if stored.interface == wanted => {
                return Err(Error::invalid(format!(
                    "the bridge {wanted} does not exist or has no address"
                )));
            }
            (None, None, _) => manager.free_subnet().api()?,
        };
        Ok(BridgeConfig {
            id: self.bridge_id.clone(),
            name: "bridge".into(),
            interface: wanted.to_owned(),
            gateway,
            prefix_len,
            mtu: if options.mtu == 0 { 1500 } else { options.mtu },
            masquerade: options.masquerade,
            foreign: theirs.is_some(),
        })
    }

    pub(crate) fn bridge(&self) -> Option<&BridgeConfig> {
        self.bridge.as_ref().filter(|_| self.enabled)
    }

    /// Name and identifier of the network behind a network mode.
    pub(crate) fn identify(&self, mode: &str) -> Option<(&str, &str)> {
        match mode {
            "none" => Some(("none", &self.none)),
            "host" => Some(("host", &self.host)),
            "bridge" => Some(("bridge", &self.bridge_id)),
            _ => None,
        }
    }
}

impl Engine {
    /// The namespace for a start; an endpoint is stored before it is used, so
    /// that a kill cannot lose it. Blocks.
    pub(crate) fn connect_network(
        &self,
        container: &Container,
        record: &Record,
    ) -> Result<Option<OwnedFd>, Error> {
        let failed = |error: Error| {
            Error::new(
                error.kind,
                format!("failed to set up container networking: {}", error.message),
            )
        };
        match record.network() {
            "host" => Ok(None),
            "none" => {
                let namespace = self.0.manager.bare().api().map_err(failed)?;
                Ok(Some(namespace.fd))
            }
            "bridge" => {
                let bridge = self.0.networks.bridge().ok_or_else(|| {
                    Error::not_found("network bridge not found: the engine runs with --bridge none")
                })?;
                let (namespace, endpoint) = self
                    .0
                    .manager
                    .connect(
                        &bridge.id,
                        record.wanted_address,
                        record.wanted_mac.as_deref(),
                    )
                    .api()
                    .map_err(failed)?;
                container.change(|record| record.endpoint = Some(endpoint))?;
                Ok(Some(namespace.fd))
            }
            mode => {
                let Some(other) = mode.strip_prefix("container:") else {
                    return Err(failed(Error::not_found(format!(
                        "network {mode} not found"
                    ))));
                };
                let pid = self.pid_to_join(other, "network")?;
                let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
                let namespace =
                    std::fs::File::open(&path).map_err(|error| io("open", &path, &error))?;
                // Still the same process: not a stranger's who got its number.
                if self.pid_to_join(other, "network")? == pid {
                    Ok(Some(namespace.into()))
                } else {
                    Err(Error::conflict(format!(
                        "failed to join network namespace: container {other} was restarted"
                    )))
                }
            }
        }
    }

    /// First process of a container whose namespace another one joins.
    pub(crate) fn pid_to_join(&self, name: &str, what: &str) -> Result<i64, Error> {
        let failed =
            |text: String| Error::conflict(format!("failed to join {what} namespace: {text}"));
        let other = self.find(name)?;
        let record = other.record();
        if record.state.restarting {
            Err(failed(format!(
                "Container {} is restarting, wait until the container is running",
                other.id
            )))
        } else if record.state.running {
            Ok(record.state.pid)
        } else if what == "network" {
            Err(Error::conflict(format!(
                "cannot join network namespace of a non running container: container {} is {}",
                record.name,
                record.state.status()
            )))
        } else {
            Err(failed(format!("container {} is not running", other.id)))
        }
    }

    /// The same for one that lets others share its IPC namespace.
    pub(crate) fn pid_to_share_ipc(&self, name: &str) -> Result<i64, Error> {
        let pid = self.pid_to_join(name, "IPC")?;
        let other = self.find(name)?;
        if other.record().host_config.ipc_mode == "shareable" {
            Ok(pid)
        } else {
            Err(Error::invalid(format!(
                "failed to join IPC namespace: container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                other.id
            )))
        }
    }

    /// Gives address and interface back.
    pub(crate) async fn release_network(&self, container: &Arc<Container>) {
        let (endpoint, mode) = {
            let record = container.record();
            (record.endpoint.clone(), record.network().to_owned())
        };
        if let Some(network) = self.0.networks.identify(&mode) {
            self.network_event(network, &container.id, "disconnect");
        }
        let Some(endpoint) = endpoint else { return };
        let engine = self.clone();
        let released = blocking(move || engine.release_endpoint(&endpoint)).await;
        if let Err(error) = released {
            tracing::warn!(container = container.id, "{error}");
        }
        container.change_logged(|record| record.endpoint = None);
    }

    pub(crate) fn release_endpoint(&self, endpoint: &Endpoint) -> Result<(), Error> {
        match self.0.networks.bridge() {
            Some(bridge) => self.0.manager.release(&bridge.id, endpoint).api(),
            None => Ok(()),
        }
    }

    /// hosts, hostname and resolv.conf, anew for each start. Blocks.
    pub(crate) fn write_network_files(
        &self,
        container: &Container,
        record: &Record,
    ) -> Result<(), Error> {
        if record.network().starts_with("container:") {
            return Ok(());
        }
        let files = [
            ("resolv.conf", self.resolv_conf(&record.host_config)?),
            ("hostname", format!("{}\n", record.hostname())),
            ("hosts", self.hosts(record)?),
        ];
        for (name, text) in files {
            // In place: the file may be mounted in a container.
            let path = container.file(name);
            std::fs::write(&path, text).map_err(|error| io("write", &path, &error))?;
        }
        Ok(())
    }

    /// For a network mode other than another container's.
    pub(crate) fn resolv_conf(&self, config: &HostConfig) -> Result<String, Error> {
        let network = config.network_mode.as_str();
        let or_default = |own: &Option<Vec<String>>, default: &[String]| match own {
            Some(list) if !list.is_empty() => list.clone(),
            _ => default.to_vec(),
        };
        let servers = or_default(&config.dns, &self.0.config.dns);
        let search = or_default(&config.dns_search, &self.0.config.dns_search);
        let options = or_default(&config.dns_options, &self.0.config.dns_opts);
        let servers: Vec<IpAddr> = servers
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|_| Error::invalid(format!("{text} is not an ip address")))
            })
            .collect::<Result<_, _>>()?;
        let own = read_resolv_conf(network == "bridge");
        let untouched = servers.is_empty() && search.is_empty() && options.is_empty();
        Ok(if network != "bridge" && untouched {
            own
        } else {
            berth_network::resolv_conf(&own, &servers, &search, &options)
        })
    }

    fn hosts(&self, record: &Record) -> Result<String, Error> {
        use std::fmt::Write as _;
        let mut text = if record.network() == "host" {
            std::fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n".to_owned()
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(
            &self.extra_hosts(
                record
                    .host_config
                    .extra_hosts
                    .as_deref()
                    .unwrap_or_default(),
            )?,
        );
        if let Some(endpoint) = &record.endpoint {
            let name = record.hostname();
            let _ = match record.config.domainname.as_str() {
                "" => writeln!(text, "{}\t{name}", endpoint.address),
                domain => writeln!(text, "{}\t{name}.{domain} {name}", endpoint.address),
            };
        }
        Ok(text)
    }

    /// Lines of a hosts file.
    pub(crate) fn extra_hosts(&self, list: &[String]) -> Result<String, Error> {
        use std::fmt::Write as _;
        let mut text = String::new();
        for extra in list {
            let (name, address) = split_extra_host(extra)?;
            let address = if address == "host-gateway" {
                let bridge = self.0.networks.bridge().ok_or_else(|| {
                    Error::invalid(
                        "unable to derive the IP value for host-gateway: there is no bridge network",
                    )
                })?;
                bridge.gateway.to_string()
            } else {
                address.to_owned()
            };
            let _ = writeln!(text, "{address}\t{name}");
        }
        Ok(text)
    }

    /// Destination and source of the three files; another container's when its
    /// network is shared.
    pub(crate) fn network_files(
        &self,
        container: &Container,
        record: &Record,
    ) -> Result<[(&'static str, PathBuf); 3], Error> {
        let dir = match record.network().strip_prefix("container:") {
            Some(other) => self.find(other)?.dir.clone(),
            None => container.dir.clone(),
        };
        Ok([
            ("/etc/resolv.conf", dir.join("resolv.conf")),
            ("/etc/hostname", dir.join("hostname")),
            ("/etc/hosts", dir.join("hosts")),
        ])
    }

    /// The one network a container is in, as inspected.
    pub(crate) fn endpoint_settings(&self, record: &Record) -> Option<(String, EndpointSettings)> {
        let (name, id) = self.0.networks.identify(record.network())?;
        let mut settings = EndpointSettings {
            network_id: id.to_owned(),
            ..EndpointSettings::default()
        };
        if let Some(endpoint) = &record.endpoint {
            settings.endpoint_id.clone_from(&endpoint.id);
            settings.gateway = endpoint.gateway.to_string();
            settings.ip_address = endpoint.address.to_string();
            settings.ip_prefix_len = i64::from(endpoint.prefix_len);
            settings.mac_address.clone_from(&endpoint.mac);
        }
        Some((name.to_owned(), settings))
    }

    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<Network>, Error> {
        filters.validate(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let dangling = filters.boolean("dangling", false)?;
        if filters
            .get("type")
            .any(|kind| !matches!(kind, "builtin" | "custom"))
        {
            return Err(Error::invalid("invalid filter: 'type'"));
        }
        let partly = |field: &str, text: &str| {
            !filters.contains(field) || filters.get(field).any(|wanted| text.contains(wanted))
        };
        let mut list = self.networks();
        list.retain(|network| {
            !dangling
                && filters.exact("driver", &network.driver)
                && filters.exact("scope", &network.scope)
                && filters.exact("type", "builtin")
                && partly("name", &network.name)
                && partly("id", &network.id)
                && filters.labels("label", &network.labels)
        });
        Ok(list)
    }

    pub async fn network_inspect(&self, name: &str) -> Result<Network, Error> {
        let list = self.networks();
        let matching = |test: &dyn Fn(&Network) -> bool| list.iter().find(|network| test(network));
        let mut network = matching(&|network| network.id == name)
            .or_else(|| matching(&|network| network.name == name))
            .or_else(|| matching(&|network| !name.is_empty() && network.id.starts_with(name)))
            .cloned()
            .ok_or_else(|| Error::not_found(format!("network {name} not found")))?;
        for container in self.index().all() {
            let record = container.record();
            if !record.state.running || record.network() != network.name {
                continue;
            }
            let mut resource = EndpointResource {
                name: record.name.clone(),
                ..EndpointResource::default()
            };
            if let Some(endpoint) = &record.endpoint {
                resource.endpoint_id.clone_from(&endpoint.id);
                resource.mac_address.clone_from(&endpoint.mac);
                resource.ipv4_address = format!("{}/{}", endpoint.address, endpoint.prefix_len);
            }
            network.containers.insert(record.id.clone(), resource);
        }
        Ok(network)
    }

    fn networks(&self) -> Vec<Network> {
        let networks = &self.0.networks;
        let base = |name: &str, driver: &str, id: &str| Network {
            name: name.into(),
            id: id.into(),
            created: networks.created.clone(),
            scope: "local".into(),
            driver: driver.into(),
            enable_ipv4: true,
            ipam: Ipam {
                driver: "default".into(),
                ..Ipam::default()
            },
            ..Network::default()
        };
        let mut list = Vec::new();
        if let Some(bridge) = networks.bridge() {
            let mut network = base("bridge", "bridge", &bridge.id);
            let mask = u32::MAX
                .checked_shl(32 - u32::from(bridge.prefix_len))
                .unwrap_or(0);
            let subnet = std::net::Ipv4Addr::from(u32::from(bridge.gateway) & mask);
            network.ipam.config = Some(vec![IpamPool {
                subnet: format!("{subnet}/{}", bridge.prefix_len),
                gateway: bridge.gateway.to_string(),
                ..IpamPool::default()
            }]);
            network.options = [
                (
                    "com.docker.network.bridge.default_bridge",
                    "true".to_owned(),
                ),
                ("com.docker.network.bridge.enable_icc", "true".to_owned()),
                (
                    "com.docker.network.bridge.enable_ip_masquerade",
                    bridge.masquerade.to_string(),
                ),
                ("com.docker.network.bridge.name", bridge.interface.clone()),
                ("com.docker.network.driver.mtu", bridge.mtu.to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into();
            list.push(network);
        }
        list.push(base("host", "host", &networks.host));
        list.push(base("none", "null", &networks.none));
        list
    }
}

/// The host's; behind systemd-resolved's stub when others must reach the servers.
fn read_resolv_conf(for_others: bool) -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let text = read("/etc/resolv.conf");
    if for_others && text.contains("nameserver 127.0.0.53") {
        let real = read("/run/systemd/resolve/resolv.conf");
        if !real.is_empty() {
            return real;
        }
    }
    text
}

/// "name:address", where the address may hold colons.
pub(crate) fn split_extra_host(text: &str) -> Result<(&str, &str), Error> {
    let bad = || Error::invalid(format!("bad format for add-host: \"{text}\""));
    let (name, address) = text.split_once(['=', ':']).ok_or_else(bad)?;
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(bad());
    }
    if address != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(Error::invalid(format!(
            "invalid IP address in add-host: \"{address}\""
        )));
    }
    Ok((
        name,
        if address == "host-gateway" {
            address
        } else {
            bare
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_hosts() {
        assert_eq!(split_extra_host("a:1.2.3.4").unwrap(), ("a", "1.2.3.4"));
        assert_eq!(split_extra_host("a:::1").unwrap(), ("a", "::1"));
        assert_eq!(split_extra_host("a=[::1]").unwrap(), ("a", "::1"));
        assert_eq!(
            split_extra_host("a:host-gateway").unwrap(),
            ("a", "host-gateway")
        );
        for bad in ["", "a", ":1.2.3.4", "a:b", "a\nb:1.2.3.4"] {
            assert!(split_extra_host(bad).is_err(), "{bad}");
        }
    }
}
