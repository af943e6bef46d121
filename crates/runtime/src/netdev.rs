//! `linux.netDevices`: interfaces of the host go into the container's network
//! namespace, with their addresses, and up.
//!
//! The few netlink messages that takes (rtnetlink(7)) are put together here: a
//! library for all of them would be larger than the rest of this crate.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use berth_sys::clone::{self, CLONE_NEWNET};
use oci_spec::runtime::LinuxNetDevice;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Context as _, Error, Result};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL_CREATE: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_PERMANENT: u8 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const IFF_UP: u32 = 1;

/// Longest name of an interface, in bytes.
const MAX_NAME: usize = 15;
/// Length of nlmsghdr, and of ifinfomsg.
const HEADER: usize = 16;
/// Length of ifaddrmsg.
const ADDRESS_HEADER: usize = 8;

/// A configured device: its name here, its name there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Device {
    from: String,
    to: String,
}

/// The devices of a configuration, by name.
pub(crate) fn devices(configured: &HashMap<String, LinuxNetDevice>) -> Result<Vec<Device>> {
    let mut devices = Vec::new();
    for (from, device) in configured {
        let to = device.name().as_deref().filter(|name| !name.is_empty());
        let to = to.unwrap_or(from).to_owned();
        for name in [from, &to] {
            if !is_name(name) {
                return Err(Error::invalid(format!(
                    "linux.netDevices: {name:?} is no name of a network interface"
                )));
            }
        }
        devices.push(Device {
            from: from.clone(),
            to,
        });
    }
    devices.sort_by(|a, b| a.from.cmp(&b.from));
    if let Some(device) = (devices.iter().enumerate())
        .find(|(index, device)| devices[..*index].iter().any(|other| other.to == device.to))
        .map(|(_, device)| device)
    {
        return Err(Error::invalid(format!(
            "linux.netDevices: two devices are to be named {:?}",
            device.to
        )));
    }
    Ok(devices)
}

/// The kernel's rule (dev_valid_name), and no pattern ("eth%d").
fn is_name(name: &str) -> bool {
    let good = |byte: u8| !byte.is_ascii_whitespace() && !matches!(byte, b'/' | b':' | b'%' | 0);
    (1..=MAX_NAME).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(good)
}

/// Moves devices from the caller's network namespace to `target`. The caller has one
/// thread.
pub(crate) fn move_all(devices: &[Device], target: BorrowedFd<'_>) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let here = Socket::new()?;
    let there = Socket::new_in(target)?;
    for device in devices {
        move_one(&here, &there, device, target)
            .step(|| format!("linux.netDevices: move interface {}", device.from))?;
    }
    Ok(())
}

fn move_one(
    here: &Socket,
    there: &Socket,
    device: &Device,
    target: BorrowedFd<'_>,
) -> rustix::io::Result<()> {
    let index = here.index_of(&device.from)?;
    let addresses = here.addresses(index)?;
    let fd = target.as_raw_fd().to_ne_bytes();
    here.set_link(
        index,
        0,
        &[(IFLA_NET_NS_FD, &fd), (IFLA_IFNAME, &text(&device.to))],
    )?;
    // The move may give it another number, and takes addresses and state away.
    let index = there.index_of(&device.to)?;
    for address in addresses {
        there.add_address(index, &address)?;
    }
    there.set_link(index, IFF_UP, &[])
}

/// A permanent, global address of an interface.
struct Address {
    family: u8,
    prefix: u8,
    /// What goes on as it is: kind and value.
    attributes: Vec<(u16, Vec<u8>)>,
}

/// A rtnetlink socket of one network namespace.
struct Socket(OwnedFd);

impl Socket {
    fn new() -> Result<Self> {
        let kind = SocketType::RAW;
        // Protocol 0 is NETLINK_ROUTE.
        rustix::net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, None)
            .map(Self)
            .step(|| "open a netlink socket")
    }

    /// A socket stays in the namespace it was made in.
    fn new_in(target: BorrowedFd<'_>) -> Result<Self> {
        let home = std::fs::File::open("/proc/self/ns/net").step(|| "open /proc/self/ns/net")?;
        clone::setns(target, CLONE_NEWNET).step(|| "enter the container's network namespace")?;
        let socket = Self::new();
        if clone::setns(home.as_fd(), CLONE_NEWNET).is_err() {
            // Nothing that follows would be in the right place.
            std::process::abort();
        }
        socket
    }

    fn index_of(&self, name: &str) -> rustix::io::Result<u32> {
        let mut body = vec![0; HEADER];
        push(&mut body, IFLA_IFNAME, &text(name));
        let mut index = None;
        self.ask(RTM_GETLINK, 0, &body, |kind, body| {
            if kind == RTM_NEWLINK {
                index = number(body, 4);
            }
        })?;
        index.ok_or(Errno::NODEV)
    }

    /// Changes the flags given in `up` and the attributes of an interface.
    fn set_link(&self, index: u32, up: u32, attributes: &[(u16, &[u8])]) -> rustix::io::Result<()> {
        let mut body = vec![0; 4];
        body.extend_from_slice(&index.to_ne_bytes());
        body.extend_from_slice(&up.to_ne_bytes());
        body.extend_from_slice(&up.to_ne_bytes());
        for (kind, value) in attributes {
            push(&mut body, *kind, value);
        }
        self.ask(RTM_NEWLINK, NLM_F_ACK, &body, |_, _| {})
    }

    fn addresses(&self, index: u32) -> rustix::io::Result<Vec<Address>> {
        let mut found = Vec::new();
        self.ask(
            RTM_GETADDR,
            NLM_F_DUMP,
            &[0; ADDRESS_HEADER],
            |kind, body| {
                let Some((&[family, prefix, flags, scope, ..], rest)) =
                    body.split_first_chunk::<ADDRESS_HEADER>()
                else {
                    return;
                };
                if kind == RTM_NEWADDR
                    && number(body, 4) == Some(index)
                    && flags & IFA_F_PERMANENT != 0
                    && scope == RT_SCOPE_UNIVERSE
                {
                    let mut attributes = attributes(rest);
                    // A label starts with the old name.
                    attributes.retain(|(kind, _)| {
                        matches!(*kind, IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST)
                    });
                    found.push(Address {
                        family,
                        prefix,
                        attributes,
                    });
                }
            },
        )?;
        Ok(found)
    }

    fn add_address(&self, index: u32, address: &Address) -> rustix::io::Result<()> {
        let mut body = vec![
            address.family,
            address.prefix,
            IFA_F_PERMANENT,
            RT_SCOPE_UNIVERSE,
        ];
        body.extend_from_slice(&index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            push(&mut body, *kind, value);
        }
        self.ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_EXCL_CREATE, &body, |_, _| {})
    }

    /// Sends a request and hands each message of the answer to `each`.
    fn ask(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> rustix::io::Result<()> {
        let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::MSGSIZE)?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        request.extend_from_slice(&[0; 8]);
        request.extend_from_slice(body);
        rustix::net::send(&self.0, &request, SendFlags::empty())?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let (length, _) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())
            })?;
            let mut rest = buffer.get(..length).ok_or(Errno::PROTO)?;
            while let Some((kind, multipart, body, after)) = split(rest) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = number(body, 0).ok_or(Errno::PROTO)?.cast_signed();
                        return match code {
                            0 => Ok(()),
                            code => Err(Errno::from_raw_os_error(code.wrapping_neg())),
                        };
                    }
                    kind => each(kind, body),
                }
                if !multipart {
                    return Ok(());
                }
                rest = after;
            }
        }
    }
}

/// The first message: its kind, whether others follow, its body, and the rest.
fn split(bytes: &[u8]) -> Option<(u16, bool, &[u8], &[u8])> {
    const NLM_F_MULTI: u16 = 2;
    let length = usize::try_from(number(bytes, 0)?).ok()?;
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    let flags = short(bytes, 6)?;
    Some((short(bytes, 4)?, flags & NLM_F_MULTI != 0, body, after))
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (short(bytes, 0), short(bytes, 2)) {
        let Some(value) = bytes.get(4..usize::from(length)) else {
            break;
        };
        found.push((kind, value.to_vec()));
        bytes = bytes
            .get(usize::from(length).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    found
}

fn push(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Names, addresses and numbers: some bytes each.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn text(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Vec<Device>> {
        devices(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn names_are_checked() {
        let found = parse(r#"{"eth1":{"name":"a"},"eth0":{}}"#).unwrap();
        let device = |from: &str, to: &str| Device {
            from: from.into(),
            to: to.into(),
        };
        assert_eq!(found, [device("eth0", "eth0"), device("eth1", "a")]);
        for wrong in [
            r#"{"":{}}"#,
            r#"{"a/b":{}}"#,
            r#"{"eth0":{"name":"eth%d"}}"#,
            r#"{"eth0":{"name":"sixteen-bytes-xx"}}"#,
            r#"{"eth0":{"name":"x"},"eth1":{"name":"x"}}"#,
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.starts_with("linux.netDevices: "), "{error}");
        }
    }

    #[test]
    fn messages_are_taken_apart_and_junk_is_not() {
        let mut body = Vec::new();
        push(&mut body, IFA_LOCAL, &[1, 2, 3, 4]);
        push(&mut body, IFLA_IFNAME, &text("ab"));
        assert_eq!(
            attributes(&body),
            [(IFA_LOCAL, vec![1, 2, 3, 4]), (IFLA_IFNAME, text("ab"))]
        );
        assert!(attributes(&[1, 0, 0]).is_empty());
        assert!(attributes(&[3, 0, 1, 0]).is_empty());
        assert!(split(&[0; 15]).is_none());
        assert!(split(&[0; 32]).is_none());
    }
}
