//! Links, addresses and routes of one network namespace (rtnetlink(7)).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::Error;
use crate::mac::Mac;
use crate::netlink::{Request, Socket, flags};
use crate::subnet::Subnet;

/// The loopback interface is the first in every namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) is_bridge: bool,
    /// Index of the bridge it is a port of.
    pub(crate) master: Option<u32>,
}

/// An IPv4 address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix_len: u8,
}

/// A socket for the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Handle(Socket);

impl Handle {
    pub(crate) fn open() -> Result<Self, Error> {
        Socket::open(NETLINK_ROUTE).map(Self)
    }

    /// Carries out the requests in order; see [`Socket::batch`].
    pub(crate) fn batch(&mut self, requests: &[Request]) -> Result<(), Error> {
        self.0.batch(requests)
    }

    /// Removes an interface; one that is gone already is fine.
    pub(crate) fn delete(&mut self, name: &str) -> Result<(), Error> {
        match self.batch(&[delete_link(name)]) {
            Err(e) if e.errno() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// The interface of that name, if there is one.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        ];
        let request = request(
            format!("look for interface {name}"),
            &RouteNetlinkMessage::GetLink(message),
            flags::ACK,
        );
        let answer = self.0.query(&request, Vec::new, |links, message| {
            links.extend(parse_link(message.payload));
        });
        match answer {
            Ok(links) => Ok(links.into_iter().next()),
            Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The ports of a bridge.
    pub(crate) fn ports(&mut self, bridge: u32) -> Result<Vec<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::Controller(bridge),
            LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        ];
        let request = request(
            format!("list the ports of bridge {bridge}"),
            &RouteNetlinkMessage::GetLink(message),
            flags::DUMP,
        );
        self.0.query(&request, Vec::new, |links, message| {
            links.extend(parse_link(message.payload).filter(|link| link.master == Some(bridge)));
        })
    }

    /// IPv4 addresses of all interfaces.
    pub(crate) fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let request = request(
            "list the host's addresses".to_owned(),
            &RouteNetlinkMessage::GetAddress(message),
            flags::DUMP,
        );
        self.0.query(&request, Vec::new, |found, message| {
            found.extend(parse_address(message.payload));
        })
    }

    /// Destinations of all IPv4 routes, whatever their table and type; the
    /// default route is 0.0.0.0/0.
    pub(crate) fn destinations(&mut self) -> Result<Vec<Subnet>, Error> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let request = request(
            "list the host's routes".to_owned(),
            &RouteNetlinkMessage::GetRoute(message),
            flags::DUMP,
        );
        self.0.query(&request, Vec::new, |found, message| {
            found.extend(parse_destination(message.payload));
        })
    }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let message = LinkMessage::parse(payload).ok()?;
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::LinkInfo(info) => {
                link.is_bridge = info.contains(&LinkInfo::Kind(InfoKind::Bridge));
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(payload: &[u8]) -> Option<Address> {
    let message = AddressMessage::parse(payload).ok()?;
    // IFA_LOCAL is the interface's own; IFA_ADDRESS the peer's, or the same.
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })?;
    Some(Address {
        index: message.header.index,
        address,
        prefix_len: message.header.prefix_len,
    })
}

fn parse_destination(payload: &[u8]) -> Option<Subnet> {
    let message = RouteMessage::parse(payload).ok()?;
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
            _ => None,
        });
    Subnet::new(
        address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        message.header.destination_prefix_length,
    )
}

fn request(action: String, message: &RouteNetlinkMessage, flags: u16) -> Request {
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Request {
        action,
        kind: message.message_type(),
        flags: flags | flags::REQUEST,
        payload,
    }
}

fn up(message: &mut LinkMessage) {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
}

/// A bridge, down, without spanning tree. It gets a hardware address of its
/// own: without one it takes the lowest of its ports', and neighbours' caches go
/// wrong when that port leaves.
pub(crate) fn create_bridge(name: &str, mtu: u32, mac: Mac) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Address(mac.octets().to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::StpState(
                BridgeStpState::Disabled,
            )])),
        ]),
    ];
    create(
        format!("create bridge {name}"),
        &RouteNetlinkMessage::NewLink(message),
    )
}

/// A veth pair: `name` here, a port of the bridge, down; `peer` in the namespace
/// of the descriptor, down.
pub(crate) fn create_veth(
    name: &str,
    bridge: u32,
    mtu: u32,
    peer: &str,
    namespace: BorrowedFd<'_>,
) -> Request {
    let mut inside = LinkMessage::default();
    inside.attributes = vec![
        LinkAttribute::IfName(peer.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Controller(bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inside))),
        ]),
    ];
    create(
        format!("create veth pair {name}"),
        &RouteNetlinkMessage::NewLink(message),
    )
}

pub(crate) fn set_up(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    up(&mut message);
    change(
        format!("bring up interface {index}"),
        &RouteNetlinkMessage::SetLink(message),
    )
}

/// The same by name, for an interface whose index is not known yet.
pub(crate) fn set_up_named(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    up(&mut message);
    change(
        format!("bring up interface {name}"),
        &RouteNetlinkMessage::SetLink(message),
    )
}

pub(crate) fn set_mtu(index: u32, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::Mtu(mtu)];
    change(
        format!("set mtu {mtu}"),
        &RouteNetlinkMessage::SetLink(message),
    )
}

pub(crate) fn set_mac(index: u32, mac: Mac) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::Address(mac.octets().to_vec())];
    change(
        format!("set hardware address {mac}"),
        &RouteNetlinkMessage::SetLink(message),
    )
}

fn delete_link(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    change(
        format!("remove interface {name}"),
        &RouteNetlinkMessage::DelLink(message),
    )
}

pub(crate) fn add_address(index: u32, address: Ipv4Addr, subnet: Subnet) -> Request {
    let mut message = address_message(index, address, subnet.prefix_len());
    message
        .attributes
        .push(AddressAttribute::Broadcast(subnet.broadcast()));
    create(
        format!("add address {address}/{}", subnet.prefix_len()),
        &RouteNetlinkMessage::NewAddress(message),
    )
}

pub(crate) fn delete_address(address: &Address) -> Request {
    change(
        format!("remove address {}/{}", address.address, address.prefix_len),
        &RouteNetlinkMessage::DelAddress(address_message(
            address.index,
            address.address,
            address.prefix_len,
        )),
    )
}

fn address_message(index: u32, address: Ipv4Addr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix_len;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    message
}

pub(crate) fn default_route(gateway: Ipv4Addr, index: u32) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
        RouteAttribute::Oif(index),
    ];
    create(
        format!("add default route via {gateway}"),
        &RouteNetlinkMessage::NewRoute(message),
    )
}

fn create(action: String, message: &RouteNetlinkMessage) -> Request {
    request(
        action,
        message,
        flags::ACK | flags::CREATE | flags::EXCLUSIVE,
    )
}

fn change(action: String, message: &RouteNetlinkMessage) -> Request {
    request(action, message, flags::ACK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::attribute::Attributes;

    proptest! {
        // The parsers of netlink-packet-route are foreign code: what reaches
        // them must not bring the engine down.
        #[test]
        fn any_payload(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (parse_link(&bytes), parse_address(&bytes), parse_destination(&bytes));
        }

        #[test]
        fn any_attributes(
            header in proptest::collection::vec(any::<u8>(), 16),
            list in proptest::collection::vec((0u16..70, proptest::collection::vec(any::<u8>(), 0..48)), 0..6),
            cut in 0usize..8,
        ) {
            let mut attributes = Attributes::new();
            for (kind, value) in &list {
                attributes = attributes.bytes(*kind, value);
            }
            for length in [8, 12, 16] {
                let mut bytes = header[..length].to_vec();
                bytes[0] = 2; // AF_INET, so that addresses are looked at
                bytes.extend_from_slice(attributes.as_bytes());
                bytes.truncate(bytes.len() - cut.min(bytes.len()));
                let _ = (parse_link(&bytes), parse_address(&bytes), parse_destination(&bytes));
            }
        }
    }
}
