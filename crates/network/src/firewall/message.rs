//! nftables messages over nfnetlink (`linux/netfilter/nf_tables.h`): requests
//! that change our table, and reading it back.

use super::layout::{Chain, Elements, Rule, Set, Shape, TABLE};
use crate::Error;
use crate::netlink::attribute::{Attributes, attributes, find, find_be32, find_string};
use crate::netlink::{Message, Request, Socket, flags};

const SUBSYSTEM: u16 = 10;
const NFPROTO_INET: u8 = 1;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const NEWSET: u16 = 9;
const GETSET: u16 = 10;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
const GETGEN: u16 = 16;

const NFTA_LIST_ELEM: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_GEN_ID: u16 = 1;
const NFNL_BATCH_GENID: u16 = 1;

/// `struct nfgenmsg`: family, version, resource in network byte order.
const HEADER: usize = 4;

/// Elements per message: a list is an attribute, which ends at 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 1000;

fn payload(family: u8, resource: u16, attributes: &Attributes) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    let mut payload = vec![family, 0, high, low];
    payload.extend_from_slice(attributes.as_bytes());
    payload
}

fn request(action: String, message: u16, flags: u16, attributes: &Attributes) -> Request {
    Request {
        action,
        kind: SUBSYSTEM << 8 | message,
        flags: flags | flags::REQUEST,
        payload: payload(NFPROTO_INET, 0, attributes),
    }
}

/// For nft alone, which prints names only when told that they are in host byte
/// order (libnftnl's NFTNL_UDATA_SET_KEYBYTEORDER).
fn key_byte_order() -> [u8; 6] {
    const KEY_BYTE_ORDER: u8 = 0;
    const HOST: u32 = 1;
    let [a, b, c, d] = HOST.to_ne_bytes();
    [KEY_BYTE_ORDER, 4, a, b, c, d]
}

/// A batch that the kernel commits as one, and only if nobody has changed
/// anything since `generation` was read.
#[derive(Debug)]
pub(super) struct Batch {
    requests: Vec<Request>,
    sets: u32,
}

impl Batch {
    pub(super) fn new(generation: u32) -> Self {
        let expected = Attributes::new().be32(NFNL_BATCH_GENID, generation);
        Self {
            requests: vec![Self::mark(BATCH_BEGIN, &expected)],
            sets: 0,
        }
    }

    pub(super) fn commit(mut self, socket: &mut Socket) -> Result<(), Error> {
        self.requests
            .push(Self::mark(BATCH_END, &Attributes::new()));
        socket.transaction(&self.requests)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.len() == 1
    }

    fn mark(kind: u16, attributes: &Attributes) -> Request {
        Request {
            action: "change the firewall".to_owned(),
            kind,
            flags: flags::REQUEST,
            payload: payload(0, SUBSYSTEM, attributes),
        }
    }

    fn push(&mut self, action: String, message: u16, flags: u16, attributes: &Attributes) {
        self.requests
            .push(request(action, message, flags | flags::ACK, attributes));
    }

    pub(super) fn add_table(&mut self) {
        let table = Attributes::new().string(NFTA_TABLE_NAME, TABLE);
        self.push(
            format!("create firewall table {TABLE}"),
            NEWTABLE,
            flags::CREATE,
            &table,
        );
    }

    /// The table with all it holds; it must exist.
    pub(super) fn delete_table(&mut self) {
        let table = Attributes::new().string(NFTA_TABLE_NAME, TABLE);
        self.push(
            format!("remove firewall table {TABLE}"),
            DELTABLE,
            0,
            &table,
        );
    }

    pub(super) fn add_set(&mut self, name: &str, set: &Set) {
        self.sets += 1;
        let set = Attributes::new()
            .string(NFTA_SET_TABLE, TABLE)
            .string(NFTA_SET_NAME, name)
            .be32(NFTA_SET_FLAGS, 0)
            .be32(NFTA_SET_KEY_TYPE, set.key_type)
            .be32(NFTA_SET_KEY_LEN, set.key_length)
            .be32(NFTA_SET_ID, self.sets)
            .bytes(NFTA_SET_USERDATA, &key_byte_order());
        self.push(
            format!("create firewall set {name}"),
            NEWSET,
            flags::CREATE,
            &set,
        );
    }

    pub(super) fn add_chain(&mut self, name: &str, chain: &Chain) {
        let hook = Attributes::new()
            .be32(NFTA_HOOK_HOOKNUM, chain.hook)
            .be32(NFTA_HOOK_PRIORITY, chain.priority.cast_unsigned());
        let chain = Attributes::new()
            .string(NFTA_CHAIN_TABLE, TABLE)
            .string(NFTA_CHAIN_NAME, name)
            .nest(NFTA_CHAIN_HOOK, &hook)
            .be32(NFTA_CHAIN_POLICY, chain.policy)
            .string(NFTA_CHAIN_TYPE, &chain.kind);
        self.push(
            format!("create firewall chain {name}"),
            NEWCHAIN,
            flags::CREATE,
            &chain,
        );
    }

    pub(super) fn add_rule(&mut self, rule: &Rule) {
        let attributes = Attributes::new()
            .string(NFTA_RULE_TABLE, TABLE)
            .string(NFTA_RULE_CHAIN, rule.chain)
            .nest(NFTA_RULE_EXPRESSIONS, rule.expressions.encoded())
            .bytes(NFTA_RULE_USERDATA, &rule.user_data());
        self.push(
            format!("add firewall rule \"{}\"", rule.comment),
            NEWRULE,
            flags::CREATE | flags::APPEND,
            &attributes,
        );
    }

    pub(super) fn add_elements<'e>(
        &mut self,
        set: &str,
        keys: impl IntoIterator<Item = &'e Vec<u8>>,
    ) {
        self.elements("add to firewall set", NEWSETELEM, flags::CREATE, set, keys);
    }

    pub(super) fn delete_elements<'e>(
        &mut self,
        set: &str,
        keys: impl IntoIterator<Item = &'e Vec<u8>>,
    ) {
        self.elements("remove from firewall set", DELSETELEM, 0, set, keys);
    }

    fn elements<'e>(
        &mut self,
        action: &str,
        message: u16,
        flags: u16,
        set: &str,
        keys: impl IntoIterator<Item = &'e Vec<u8>>,
    ) {
        let keys: Vec<_> = keys.into_iter().collect();
        for part in keys.chunks(ELEMENTS_PER_MESSAGE) {
            let list = part.iter().fold(Attributes::new(), |list, key| {
                let value = Attributes::new().bytes(NFTA_DATA_VALUE, key);
                list.nest(
                    NFTA_LIST_ELEM,
                    &Attributes::new().nest(NFTA_SET_ELEM_KEY, &value),
                )
            });
            let attributes = Attributes::new()
                .string(NFTA_SET_ELEM_LIST_TABLE, TABLE)
                .string(NFTA_SET_ELEM_LIST_SET, set)
                .nest(NFTA_SET_ELEM_LIST_ELEMENTS, &list);
            self.push(format!("{action} {set}"), message, flags, &attributes);
        }
    }
}

/// The number the kernel counts up with every change of any table.
pub(super) fn generation(socket: &mut Socket) -> Result<u32, Error> {
    let action = "read the firewall's generation";
    let request = request(action.to_owned(), GETGEN, flags::ACK, &Attributes::new());
    let found = socket.query(
        &request,
        || None,
        |found, message| {
            *found = attributes_of(&message)
                .and_then(|a| find_be32(a, NFTA_GEN_ID))
                .or(*found);
        },
    )?;
    found.ok_or_else(|| Error::kernel(action, std::io::ErrorKind::InvalidData))
}

/// What the kernel has of our table; nothing if there is none.
pub(super) fn installed(socket: &mut Socket) -> Result<Option<(Shape, Elements)>, Error> {
    let table = Attributes::new().string(NFTA_TABLE_NAME, TABLE);
    let action = format!("look for firewall table {TABLE}");
    match socket.query(
        &request(action, GETTABLE, flags::ACK, &table),
        || (),
        |(), _| {},
    ) {
        Err(e) if e.errno() == Some(libc::ENOENT) => return Ok(None),
        other => other?,
    }
    // The table may vanish between these; then the generation has changed too.
    let mut shape = Shape::default();
    let read_sets: Vec<_> = list(socket, GETSET, "sets", NFTA_SET_TABLE, |set| {
        let parsed = Set {
            key_type: find_be32(set, NFTA_SET_KEY_TYPE)?,
            key_length: find_be32(set, NFTA_SET_KEY_LEN)?,
        };
        Some((find_string(set, NFTA_SET_NAME)?.to_owned(), parsed))
    })?;
    shape.sets.extend(read_sets);
    // Chains cannot be filtered by table in the kernel; `list` does it.
    shape.chains.extend(list(
        socket,
        GETCHAIN,
        "chains",
        NFTA_CHAIN_TABLE,
        |chain| {
            Some((
                find_string(chain, NFTA_CHAIN_NAME)?.to_owned(),
                parse_chain(chain),
            ))
        },
    )?);
    for (chain, user_data) in list(socket, GETRULE, "rules", NFTA_RULE_TABLE, |rule| {
        let user_data = find(rule, NFTA_RULE_USERDATA).unwrap_or_default().to_vec();
        Some((find_string(rule, NFTA_RULE_CHAIN)?.to_owned(), user_data))
    })? {
        shape.rules.entry(chain).or_default().push(user_data);
    }
    let mut elements = Elements::new();
    for name in shape.sets.keys() {
        elements.insert(
            name.clone(),
            read_elements(socket, name)?.into_iter().collect(),
        );
    }
    Ok(Some((shape, elements)))
}

/// A chain without a hook is none of ours and equals none.
fn parse_chain(chain: &[u8]) -> Chain {
    let hook = find(chain, NFTA_CHAIN_HOOK).unwrap_or_default();
    Chain {
        kind: find_string(chain, NFTA_CHAIN_TYPE)
            .unwrap_or_default()
            .to_owned(),
        hook: find_be32(hook, NFTA_HOOK_HOOKNUM).unwrap_or(u32::MAX),
        priority: find_be32(hook, NFTA_HOOK_PRIORITY)
            .unwrap_or(u32::MAX)
            .cast_signed(),
        policy: find_be32(chain, NFTA_CHAIN_POLICY).unwrap_or(u32::MAX),
    }
}

/// The objects of one kind in our table.
fn list<T>(
    socket: &mut Socket,
    message: u16,
    what: &str,
    table_attribute: u16,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let request = request(
        format!("list the {what} of firewall table {TABLE}"),
        message,
        flags::DUMP,
        &Attributes::new().string(table_attribute, TABLE),
    );
    socket.query(&request, Vec::new, |found, message| {
        let object = attributes_of(&message)
            .filter(|object| find_string(object, table_attribute) == Some(TABLE));
        found.extend(object.and_then(&parse));
    })
}

fn read_elements(socket: &mut Socket, set: &str) -> Result<Vec<Vec<u8>>, Error> {
    let request = request(
        format!("list the elements of firewall set {set}"),
        GETSETELEM,
        flags::DUMP,
        &Attributes::new()
            .string(NFTA_SET_ELEM_LIST_TABLE, TABLE)
            .string(NFTA_SET_ELEM_LIST_SET, set),
    );
    socket.query(&request, Vec::new, |found, message| {
        found.extend(attributes_of(&message).into_iter().flat_map(parse_elements));
    })
}

fn parse_elements(message: &[u8]) -> Vec<Vec<u8>> {
    let list = find(message, NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
    attributes(list)
        .filter_map(|(_, element)| find(find(element, NFTA_SET_ELEM_KEY)?, NFTA_DATA_VALUE))
        .map(<[u8]>::to_vec)
        .collect()
}

/// What follows the nfnetlink header.
fn attributes_of<'m>(message: &Message<'m>) -> Option<&'m [u8]> {
    message.payload.get(HEADER..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_payload(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse_chain(&bytes), parse_elements(&bytes));
        }
    }
}
