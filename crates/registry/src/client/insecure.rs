//! Which registries may speak plain HTTP or show any certificate.

use std::net::IpAddr;

use super::Error;

/// A hosts file that is longer is not read: it only adds permissions.
const MAX_HOSTS_FILE: u64 = 1 << 20;

/// The daemon's `--insecure-registry`; loopback always is.
#[derive(Clone, Debug, Default)]
pub(super) struct Insecure {
    /// "host" or "host:port", in lower case.
    names: Vec<String>,
    /// Address and length of the prefix in bits.
    networks: Vec<(IpAddr, u8)>,
}

impl Insecure {
    /// # Errors
    /// `Invalid` for what is neither a host, a host and port, nor a network.
    pub(super) fn new(entries: &[String]) -> Result<Self, Error> {
        let mut insecure = Self::default();
        for entry in entries {
            let text = entry
                .strip_prefix("http://")
                .or_else(|| entry.strip_prefix("https://"))
                .unwrap_or(entry);
            let invalid = || Error::Invalid(format!("insecure registry {entry} is not valid"));
            if text.contains("://") {
                return Err(Error::Invalid(format!(
                    "insecure registry {entry} should not contain '://'"
                )));
            }
            if text.contains('/') {
                insecure.networks.push(network(text).ok_or_else(invalid)?);
            } else if split(text).0.is_empty() || text.starts_with('-') || text.contains(' ') {
                return Err(invalid());
            } else {
                insecure.names.push(text.to_ascii_lowercase());
            }
        }
        Ok(insecure)
    }

    /// `host` with its port, if it has one.
    pub(super) fn contains(&self, host: &str) -> bool {
        let name = split(host).0;
        is_loopback(host) || self.names_it(host) || addresses(name).iter().any(IpAddr::is_loopback)
    }

    /// Without loopback: the user has named it.
    pub(super) fn names_it(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let (name, _) = split(&host);
        if self.names.iter().any(|n| *n == host || n == name) {
            return true;
        }
        // Only what the machine itself says of a name counts: who answers for
        // DNS must not be able to turn verification off.
        addresses(name).into_iter().any(|address| {
            let mut networks = self.networks.iter();
            networks.any(|network| is_within(address, *network))
        })
    }
}

/// By its name, without looking anything up.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = split(host).0.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Host without brackets, and port.
fn split(host: &str) -> (&str, Option<&str>) {
    if let Some((name, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (name, rest.strip_prefix(':'));
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (host, None),
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

fn is_within(address: IpAddr, (network, length): (IpAddr, u8)) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let address = address.to_canonical();
    address.is_ipv4() == network.is_ipv4()
        && (bits(address) ^ bits(network))
            .checked_shr(128 - u32::from(length))
            .unwrap_or(0)
            == 0
}

/// The address itself, or those the hosts file gives.
fn addresses(name: &str) -> Vec<IpAddr> {
    if let Ok(address) = name.parse() {
        return vec![address];
    }
    let file = std::path::Path::new("/etc/hosts");
    if file.metadata().is_ok_and(|m| m.len() > MAX_HOSTS_FILE) {
        return Vec::new();
    }
    let hosts = std::fs::read_to_string(file).unwrap_or_default();
    hosts
        .lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_ascii_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|word| word.eq_ignore_ascii_case(name))
                .then_some(address)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_networks() {
        let entries = [
            "r.example",
            "p.example:5000",
            "10.1.0.0/16",
            "fd00::/8",
            "http://q.example",
        ];
        let insecure = Insecure::new(&entries.map(str::to_owned)).unwrap();
        for host in [
            "r.example",
            "R.example:77",
            "p.example:5000",
            "10.1.2.3",
            "10.1.2.3:80",
            "q.example",
            "[fd00::1]:5000",
            "localhost",
            "localhost:5000",
            "127.9.9.9:1",
            "[::1]:5000",
            "a.localhost",
        ] {
            assert!(insecure.contains(host), "{host}");
        }
        for host in [
            "x.r.example",
            "p.example",
            "p.example:5001",
            "10.2.0.1",
            "[fe00::1]",
            "docker.io",
            "127.0.0.1.example",
            "localhost.example",
        ] {
            assert!(!insecure.contains(host), "{host}");
        }
        let all = Insecure::new(&["0.0.0.0/0".to_owned()]).unwrap();
        assert!(all.contains("8.8.8.8:443") && !all.contains("[2001::1]"));
    }

    #[test]
    fn what_cannot_be() {
        for entry in ["ftp://x", "10.0.0.0/33", "x/y", "", "-x", "::/129"] {
            Insecure::new(&[entry.to_owned()]).unwrap_err();
        }
    }
}
