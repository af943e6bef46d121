//! Network sysctls of the calling thread's namespace, as `/proc/sys/net` shows
//! them.

use std::{fs, io};

use crate::Error;

const IPV4_FORWARDING: &str = "ipv4/ip_forward";

/// True if the host routes packets between its interfaces.
pub(crate) fn ipv4_forwarding() -> Result<bool, Error> {
    Ok(read(IPV4_FORWARDING)?.trim() != "0")
}

/// Makes the host route packets, which containers need to reach beyond it.
pub(crate) fn enable_ipv4_forwarding() -> Result<(), Error> {
    write(IPV4_FORWARDING, "1")
}

/// Switches IPv6 off for an interface, "all" or "default", or on again. A kernel
/// without IPv6 is fine.
pub(crate) fn disable_ipv6(interface: &str, disable: bool) -> Result<(), Error> {
    let value = if disable { "1" } else { "0" };
    match write(&format!("ipv6/conf/{interface}/disable_ipv6"), value) {
        Err(e) if e.errno() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// Interfaces made from now on announce their IPv4 address (gratuitous ARP) when
/// their hardware address is set.
pub(crate) fn announce_addresses() -> Result<(), Error> {
    write("ipv4/conf/default/arp_notify", "1")
}

fn read(name: &str) -> Result<String, Error> {
    fs::read_to_string(path(name)).map_err(|e| failed("read", name, e))
}

fn write(name: &str, value: &str) -> Result<(), Error> {
    fs::write(path(name), value).map_err(|e| failed(&format!("write {value} to"), name, e))
}

fn path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}

fn failed(what: &str, name: &str, source: io::Error) -> Error {
    Error::kernel(format!("{what} {}", path(name)), source)
}
