//! Which addresses of a network are in use, and by whom.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::subnet::Subnet;
use crate::{BridgeConfig, Error};

/// Hands out the addresses of one subnet in turn: a released one comes back
/// last, so that what neighbours still remember of it has time to fade.
#[derive(Debug)]
pub(crate) struct Allocator {
    subnet: Subnet,
    gateway: Ipv4Addr,
    /// Address to endpoint.
    used: HashMap<u32, String>,
    /// The search starts behind this one.
    last: u32,
    /// Said when nothing is left.
    exhausted: String,
}

impl Allocator {
    pub(crate) fn new(config: &BridgeConfig) -> Result<Self, Error> {
        let subnet = Subnet::new(config.gateway, config.prefix_len)
            // /31 and /32 have no room for a gateway and a container.
            .filter(|subnet| (1..=30).contains(&subnet.prefix_len()))
            .filter(|subnet| ![subnet.network(), subnet.broadcast()].contains(&config.gateway))
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "invalid gateway {}/{} of network {}",
                    config.gateway, config.prefix_len, config.name
                ))
            })?;
        Ok(Self {
            subnet,
            gateway: config.gateway,
            used: HashMap::new(),
            last: subnet.network().to_bits(),
            exhausted: format!(
                "no available IPv4 addresses on this network's address pools: {} ({})",
                config.name, config.id
            ),
        })
    }

    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    pub(crate) fn in_use(&self) -> bool {
        !self.used.is_empty()
    }

    /// The next free address, or the wanted one, now of that endpoint.
    pub(crate) fn allocate(
        &mut self,
        endpoint: &str,
        wanted: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, Error> {
        let address = match wanted {
            Some(address) => {
                self.check(address)?;
                address
            }
            None => self.next_free()?,
        };
        if wanted.is_none() {
            self.last = address.to_bits();
        }
        self.used.insert(address.to_bits(), endpoint.to_owned());
        Ok(address)
    }

    /// Takes note of an address given out by an earlier engine.
    pub(crate) fn adopt(&mut self, endpoint: &str, address: Ipv4Addr) -> Result<(), Error> {
        if self
            .used
            .get(&address.to_bits())
            .is_some_and(|owner| owner == endpoint)
        {
            return Ok(());
        }
        self.check(address)?;
        self.used.insert(address.to_bits(), endpoint.to_owned());
        // Go on behind the highest, as if this engine had given them out.
        self.last = self.last.max(address.to_bits());
        Ok(())
    }

    /// Frees the address if it is still that endpoint's.
    pub(crate) fn release(&mut self, endpoint: &str, address: Ipv4Addr) {
        if self
            .used
            .get(&address.to_bits())
            .is_some_and(|owner| owner == endpoint)
        {
            self.used.remove(&address.to_bits());
        }
    }

    fn check(&self, address: Ipv4Addr) -> Result<(), Error> {
        if !self.subnet.contains(address)
            || [self.subnet.network(), self.subnet.broadcast()].contains(&address)
        {
            return Err(Error::Invalid(format!(
                "no configured subnet contains IP address {address}"
            )));
        }
        if address == self.gateway || self.used.contains_key(&address.to_bits()) {
            return Err(Error::Invalid("Address already in use".to_owned()));
        }
        Ok(())
    }

    fn next_free(&self) -> Result<Ipv4Addr, Error> {
        let first = self.subnet.network().to_bits() + 1;
        let last = self.subnet.broadcast().to_bits() - 1;
        // `self.last` is never the broadcast address, so adding one is safe.
        (self.last + 1..=last)
            .chain(first..=self.last)
            .find(|bits| *bits != self.gateway.to_bits() && !self.used.contains_key(bits))
            .map(Ipv4Addr::from_bits)
            .ok_or_else(|| Error::Exhausted(self.exhausted.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(gateway: [u8; 4], prefix_len: u8) -> Result<Allocator, Error> {
        Allocator::new(&BridgeConfig {
            id: "f".repeat(64),
            name: "bridge".into(),
            interface: "berth0".into(),
            gateway: gateway.into(),
            prefix_len,
            mtu: 1500,
            masquerade: true,
            foreign: false,
        })
    }

    #[test]
    fn in_turn_and_released_last() {
        let mut a = allocator([10, 0, 0, 1], 29).unwrap();
        let next = |a: &mut Allocator, e: &str| a.allocate(e, None).map(|ip| ip.octets()[3]);
        assert_eq!(next(&mut a, "a").unwrap(), 2);
        assert_eq!(next(&mut a, "b").unwrap(), 3);
        a.release("a", [10, 0, 0, 2].into());
        assert_eq!(next(&mut a, "c").unwrap(), 4);
        assert_eq!(next(&mut a, "d").unwrap(), 5);
        assert_eq!(next(&mut a, "e").unwrap(), 6);
        assert_eq!(next(&mut a, "f").unwrap(), 2);
        let full = next(&mut a, "g").unwrap_err();
        assert!(matches!(full, Error::Exhausted(_)));
        assert_eq!(
            full.to_string(),
            format!(
                "no available IPv4 addresses on this network's address pools: bridge ({})",
                "f".repeat(64)
            )
        );
        a.release("e", [10, 0, 0, 6].into());
        assert_eq!(next(&mut a, "h").unwrap(), 6);
    }

    #[test]
    fn another_endpoints_address_is_not_released() {
        let mut a = allocator([10, 0, 0, 1], 24).unwrap();
        let ip = a.allocate("a", None).unwrap();
        a.release("b", ip);
        assert_eq!(
            a.allocate("c", Some(ip)).unwrap_err().to_string(),
            "Address already in use"
        );
    }

    #[test]
    fn wanted_ones_are_checked() {
        let mut a = allocator([10, 0, 0, 1], 24).unwrap();
        for bad in [[10, 0, 1, 5], [10, 0, 0, 0], [10, 0, 0, 255]] {
            let e = a.allocate("a", Some(bad.into())).unwrap_err();
            assert!(
                e.to_string()
                    .starts_with("no configured subnet contains IP address"),
                "{e}"
            );
        }
        assert_eq!(
            a.allocate("a", Some([10, 0, 0, 1].into()))
                .unwrap_err()
                .to_string(),
            "Address already in use"
        );
        assert_eq!(
            a.allocate("a", Some([10, 0, 0, 9].into())).unwrap(),
            Ipv4Addr::new(10, 0, 0, 9)
        );
        // A wanted address does not move the turn.
        assert_eq!(a.allocate("b", None).unwrap(), Ipv4Addr::new(10, 0, 0, 2));
    }

    #[test]
    fn adoption() {
        let mut a = allocator([10, 0, 0, 1], 24).unwrap();
        a.adopt("x", [10, 0, 0, 7].into()).unwrap();
        a.adopt("x", [10, 0, 0, 7].into()).unwrap();
        assert!(a.adopt("y", [10, 0, 0, 7].into()).is_err());
        assert!(a.adopt("y", [10, 1, 0, 7].into()).is_err());
        assert_eq!(a.allocate("z", None).unwrap(), Ipv4Addr::new(10, 0, 0, 8));
    }

    #[test]
    fn networks_without_room() {
        assert!(allocator([10, 0, 0, 1], 31).is_err());
        assert!(allocator([10, 0, 0, 1], 33).is_err());
        assert!(allocator([10, 0, 0, 0], 24).is_err());
        assert!(allocator([10, 0, 0, 255], 24).is_err());
        // The smallest: one container.
        let mut a = allocator([10, 0, 0, 2], 30).unwrap();
        assert_eq!(a.allocate("a", None).unwrap(), Ipv4Addr::new(10, 0, 0, 1));
        assert!(a.allocate("b", None).is_err());
        // The top of the address space does not overflow.
        let mut a = allocator([255, 255, 255, 253], 30).unwrap();
        assert_eq!(
            a.allocate("a", None).unwrap(),
            Ipv4Addr::new(255, 255, 255, 254)
        );
        a.release("a", [255, 255, 255, 254].into());
        assert_eq!(
            a.allocate("a", None).unwrap(),
            Ipv4Addr::new(255, 255, 255, 254)
        );
    }
}
