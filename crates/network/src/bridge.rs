//! The bridge interface of a network.

use crate::mac::Mac;
use crate::route::{self, Handle, Link};
use crate::subnet::Subnet;
use crate::{BridgeConfig, Error, sysctl};

/// IFNAMSIZ without the terminating zero.
const NAME_LIMIT: usize = 15;

/// Makes the bridge, or brings one that exists to what the configuration says.
/// Returns its index.
pub(crate) fn ensure(
    host: &mut Handle,
    config: &BridgeConfig,
    subnet: Subnet,
) -> Result<u32, Error> {
    check_name(&config.interface)?;
    let link = match host.link(&config.interface)? {
        Some(link) => link,
        None => create(host, config)?,
    };
    if !link.is_bridge {
        return Err(Error::Invalid(format!(
            "interface {} of network {} exists and is not a bridge",
            config.interface, config.name
        )));
    }
    let mut changes = Vec::new();
    let mut has_gateway = false;
    for address in host.addresses()?.iter().filter(|a| a.index == link.index) {
        if address.address == config.gateway && address.prefix_len == config.prefix_len {
            has_gateway = true;
        } else if !config.foreign && !address.address.is_link_local() {
            // Of an earlier configuration; it would answer for the new one's hosts.
            changes.push(route::delete_address(address));
        }
    }
    if !has_gateway {
        changes.push(route::add_address(link.index, config.gateway, subnet));
    }
    if !config.foreign && link.mtu != config.mtu {
        changes.push(route::set_mtu(link.index, config.mtu));
    }
    if !link.up {
        changes.push(route::set_up(link.index));
    }
    host.batch(&changes)?;
    Ok(link.index)
}

fn create(host: &mut Handle, config: &BridgeConfig) -> Result<Link, Error> {
    let name = &config.interface;
    match host.batch(&[route::create_bridge(name, config.mtu, Mac::random()?)]) {
        // Somebody else was faster: looked at below.
        Err(e) if e.errno() == Some(libc::EEXIST) => {}
        other => other?,
    }
    // Else the bridge is a way to the host around a firewall that thinks of IPv4
    // only; the network has no IPv6.
    sysctl::disable_ipv6(name, true)?;
    host.link(name)?
        .ok_or_else(|| Error::NotFound(format!("bridge {name} vanished")))
}

/// dev_valid_name() of the kernel, before the name is part of any path.
fn check_name(name: &str) -> Result<(), Error> {
    let valid = (1..=NAME_LIMIT).contains(&name.len())
        && ![".", ".."].contains(&name)
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'));
    if valid {
        Ok(())
    } else {
        Err(Error::Invalid(format!("invalid interface name: {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(check_name("berth0").is_ok() && check_name("br-0123456789ab").is_ok());
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "br-0123456789abc",
            "br%d",
            "a\0",
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
