//! IPv4 subnets and Docker's default address pools.

use std::fmt;
use std::net::Ipv4Addr;

/// A network address with its prefix length; host bits are clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    network: u32,
    prefix_len: u8,
}

/// Docker's default pools for bridge networks, in its order: base, prefix length
/// of the pool, prefix length of the networks cut from it.
const DEFAULT_POOLS: [(Ipv4Addr, u8, u8); 7] = [
    (Ipv4Addr::new(172, 17, 0, 0), 16, 16),
    (Ipv4Addr::new(172, 18, 0, 0), 16, 16),
    (Ipv4Addr::new(172, 19, 0, 0), 16, 16),
    (Ipv4Addr::new(172, 20, 0, 0), 14, 16),
    (Ipv4Addr::new(172, 24, 0, 0), 14, 16),
    (Ipv4Addr::new(172, 28, 0, 0), 14, 16),
    (Ipv4Addr::new(192, 168, 0, 0), 16, 20),
];

/// Routes to more than this are ways out, not networks: VPNs split the default
/// route into 0.0.0.0/1 and 128.0.0.0/1, which would overlap everything.
const SHORTEST_NETWORK: u8 = 8;

impl Subnet {
    /// The subnet that holds `address`; none if the prefix is longer than 32.
    pub(crate) fn new(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        (prefix_len <= 32).then(|| Self {
            network: address.to_bits() & mask(prefix_len),
            prefix_len,
        })
    }

    pub(crate) fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    pub(crate) fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }

    pub(crate) fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | !mask(self.prefix_len))
    }

    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix_len) == self.network
    }

    pub(crate) fn overlaps(self, other: Self) -> bool {
        let shorter = mask(self.prefix_len.min(other.prefix_len));
        self.network & shorter == other.network & shorter
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix_len)
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix_len))
        .unwrap_or(0)
}

/// The first subnet of the default pools that overlaps none of those in use.
pub(crate) fn first_free(used: &[Subnet]) -> Option<Subnet> {
    let used: Vec<_> = used
        .iter()
        .filter(|u| u.prefix_len >= SHORTEST_NETWORK)
        .collect();
    DEFAULT_POOLS
        .iter()
        .flat_map(|&(base, pool_len, prefix_len)| {
            let count = 1u32 << (prefix_len - pool_len);
            (0..count).map(move |i| Subnet {
                network: base.to_bits() + (i << (32 - prefix_len)),
                prefix_len,
            })
        })
        .find(|candidate| !used.iter().any(|used| candidate.overlaps(**used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        let (address, prefix) = text.split_once('/').unwrap();
        Subnet::new(address.parse().unwrap(), prefix.parse().unwrap()).unwrap()
    }

    fn free(used: &[&str]) -> Option<String> {
        let used: Vec<_> = used.iter().map(|u| subnet(u)).collect();
        first_free(&used).map(|s| s.to_string())
    }

    #[test]
    fn arithmetic() {
        let s = subnet("10.1.2.3/20");
        assert_eq!(s.to_string(), "10.1.0.0/20");
        assert_eq!(s.broadcast(), Ipv4Addr::new(10, 1, 15, 255));
        assert!(
            s.contains(Ipv4Addr::new(10, 1, 15, 1)) && !s.contains(Ipv4Addr::new(10, 1, 16, 0))
        );
        assert!(s.overlaps(subnet("10.0.0.0/8")) && subnet("0.0.0.0/0").overlaps(s));
        assert!(!s.overlaps(subnet("10.1.16.0/20")));
        assert_eq!(Subnet::new(Ipv4Addr::LOCALHOST, 33), None);
    }

    #[test]
    fn dockers_order() {
        assert_eq!(free(&[]).unwrap(), "172.17.0.0/16");
        assert_eq!(free(&["172.17.0.1/32"]).unwrap(), "172.18.0.0/16");
        assert_eq!(free(&["172.16.0.0/12"]).unwrap(), "192.168.0.0/20");
        assert_eq!(
            free(&["172.16.0.0/12", "192.168.1.0/24"]).unwrap(),
            "192.168.16.0/20"
        );
        assert_eq!(
            free(&["172.17.0.0/14", "172.20.0.0/16"]).unwrap(),
            "172.21.0.0/16"
        );
        assert_eq!(free(&["172.16.0.0/12", "192.168.0.0/16"]), None);
    }

    #[test]
    fn ways_out_are_no_networks() {
        assert_eq!(
            free(&["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"]).unwrap(),
            "172.17.0.0/16"
        );
    }
}
