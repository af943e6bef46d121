//! What our table looks like: its sets, chains and rules. In nft's words:
//!
//! ```text
//! table inet berth {
//!     set bridges     { type ifname }             # all our networks
//!     set masqueraded { type ifname }             # those that hide behind the host
//!     set neighbours  { type ifname . ifname }    # who may talk to whom
//!
//!     chain forward {
//!         type filter hook forward priority filter; policy accept;
//!         meta nfproto ipv4 oifname != @bridges iifname != @bridges drop  # closed hosts only
//!         oifname != @bridges accept
//!         ct state established,related accept
//!         iifname . oifname @neighbours accept
//!         drop
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         meta nfproto ipv4 iifname @masqueraded oifname != @bridges masquerade
//!     }
//! }
//! ```
//!
//! The rules never change with the number of networks, only the elements of the
//! hash sets do, so that a packet costs the same with one network as with a
//! thousand. They match the interfaces, not the addresses: what leaves a bridge
//! is masqueraded whatever source address a container made up.
//!
//! Like Docker since version 28, a container is reached from outside only through
//! what it publishes: a new connection from another interface straight to its
//! address is dropped, whether it comes from the network or from another bridge.
//! The host itself (hook output) reaches all of them.
//!
//! **What an accept here cannot do:** a packet passes every table's forward hook,
//! and one drop anywhere is final. If another table's forward chain has policy
//! drop, as ufw, firewalld and Docker's own set, container traffic has to be let
//! through there too (Docker's DOCKER-USER chain, `ufw route allow in on berth0`,
//! firewalld's trusted zone).
//!
//! **Closed hosts:** containers need `ip_forward`, which makes the host a router
//! for everyone who can send to it. If it was none before, everything that is not
//! ours stays forbidden, as with the forward policy Docker sets in that case.
//!
//! Tables of family inet can do NAT since kernel 5.2, and postrouting knows the
//! input interface since 5.7: both older than what berth needs anyway (5.12).

use std::collections::{BTreeMap, BTreeSet};

use super::expression::{Expressions, Meta, Register, Verdict};

pub(super) const TABLE: &str = "berth";
pub(super) const BRIDGES: &str = "bridges";
pub(super) const MASQUERADED: &str = "masqueraded";
pub(super) const NEIGHBOURS: &str = "neighbours";

/// Interface names in sets are padded with zeros to this (IFNAMSIZ).
const NAME_LENGTH: usize = 16;
/// nft's number for interface names, by which it knows how to print a set.
const TYPE_IFNAME: u32 = 41;
/// Types in a concatenation take six bits each.
const TYPE_IFNAME_PAIR: u32 = TYPE_IFNAME << 6 | TYPE_IFNAME;

const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE_NAT: i32 = 100;
const POLICY_ACCEPT: u32 = 1;

/// Set name to elements.
pub(super) type Elements = BTreeMap<String, BTreeSet<Vec<u8>>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) key_type: u32,
    pub(super) key_length: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) kind: String,
    pub(super) hook: u32,
    pub(super) priority: i32,
    pub(super) policy: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) chain: &'static str,
    /// Shown by nft.
    pub(super) comment: &'static str,
    pub(super) expressions: Expressions,
}

/// The wanted table without its elements.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) sets: BTreeMap<String, Set>,
    pub(super) chains: BTreeMap<String, Chain>,
    pub(super) rules: Vec<Rule>,
}

/// What can be compared with what the kernel has: rules by their user data, in
/// order, which holds a checksum of the rule (see [`Rule::user_data`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) sets: BTreeMap<String, Set>,
    pub(super) chains: BTreeMap<String, Chain>,
    pub(super) rules: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Layout {
    pub(super) fn new(closed: bool) -> Self {
        let set = |parts: u32, key_type| Set {
            key_type,
            key_length: parts * NAME_LENGTH as u32,
        };
        let chain = |kind: &str, hook, priority| Chain {
            kind: kind.to_owned(),
            hook,
            priority,
            policy: POLICY_ACCEPT,
        };
        let mut rules = Vec::new();
        if closed {
            rules.push(closed_rule());
        }
        rules.extend([
            forward(
                "not towards our containers",
                Expressions::new()
                    .load(Meta::OutputName, Register::One)
                    .not_in_set(BRIDGES, Register::One)
                    .verdict(Verdict::Accept),
            ),
            forward(
                "answers to what containers asked for",
                Expressions::new().answer().verdict(Verdict::Accept),
            ),
            forward(
                "within a network",
                Expressions::new()
                    .load(Meta::InputName, Register::One)
                    .load(Meta::OutputName, Register::Two)
                    .in_set(NEIGHBOURS, Register::One)
                    .verdict(Verdict::Accept),
            ),
            forward("not published", Expressions::new().verdict(Verdict::Drop)),
            Rule {
                chain: "postrouting",
                comment: "containers leave with the host's address",
                expressions: Expressions::new()
                    .ipv4()
                    .load(Meta::InputName, Register::One)
                    .in_set(MASQUERADED, Register::One)
                    .load(Meta::OutputName, Register::One)
                    .not_in_set(BRIDGES, Register::One)
                    .masquerade(),
            },
        ]);
        Self {
            sets: BTreeMap::from([
                (BRIDGES.to_owned(), set(1, TYPE_IFNAME)),
                (MASQUERADED.to_owned(), set(1, TYPE_IFNAME)),
                (NEIGHBOURS.to_owned(), set(2, TYPE_IFNAME_PAIR)),
            ]),
            chains: BTreeMap::from([
                (
                    "forward".to_owned(),
                    chain("filter", HOOK_FORWARD, PRIORITY_FILTER),
                ),
                (
                    "postrouting".to_owned(),
                    chain("nat", HOOK_POSTROUTING, PRIORITY_SOURCE_NAT),
                ),
            ]),
            rules,
        }
    }

    pub(super) fn shape(&self) -> Shape {
        let mut rules: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for rule in &self.rules {
            rules
                .entry(rule.chain.to_owned())
                .or_default()
                .push(rule.user_data());
        }
        Shape {
            sets: self.sets.clone(),
            chains: self.chains.clone(),
            rules,
        }
    }
}

impl Shape {
    /// True if the table keeps the host from being everyone's router.
    pub(super) fn is_closed(&self) -> bool {
        let closed = closed_rule().user_data();
        self.rules.values().flatten().any(|rule| *rule == closed)
    }
}

fn forward(comment: &'static str, expressions: Expressions) -> Rule {
    Rule {
        chain: "forward",
        comment,
        expressions,
    }
}

fn closed_rule() -> Rule {
    forward(
        "this host was no router before berth",
        Expressions::new()
            .ipv4()
            .load(Meta::OutputName, Register::One)
            .not_in_set(BRIDGES, Register::One)
            .load(Meta::InputName, Register::One)
            .not_in_set(BRIDGES, Register::One)
            .verdict(Verdict::Drop),
    )
}

impl Rule {
    /// The kernel keeps this with the rule and gives it back, which the rule's
    /// expressions themselves are not: it adds to them. Type 0 is the comment by
    /// nft's convention; it skips the types it does not know.
    pub(super) fn user_data(&self) -> Vec<u8> {
        const COMMENT: u8 = 0;
        const CHECKSUM: u8 = 0xbe;
        let mut data = vec![COMMENT, self.comment.len() as u8 + 1];
        data.extend_from_slice(self.comment.as_bytes());
        data.extend_from_slice(&[0, CHECKSUM, 8]);
        data.extend_from_slice(&fnv1a(self.expressions.encoded().as_bytes()).to_be_bytes());
        data
    }
}

/// Fowler–Noll–Vo: enough to tell versions of berth apart, against nobody's
/// malice (who may change rules needs no trick).
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The elements that belong to a network with this bridge.
pub(super) fn elements(bridge: &str, masquerade: bool) -> Elements {
    let name = key(&[bridge]);
    let mut elements = Elements::from([
        (BRIDGES.to_owned(), BTreeSet::from([name.clone()])),
        (
            NEIGHBOURS.to_owned(),
            BTreeSet::from([key(&[bridge, bridge])]),
        ),
    ]);
    if masquerade {
        elements.insert(MASQUERADED.to_owned(), BTreeSet::from([name]));
    }
    elements
}

/// True if the element speaks of that bridge.
pub(super) fn mentions(element: &[u8], bridge: &str) -> bool {
    let name = key(&[bridge]);
    element.chunks(NAME_LENGTH).any(|part| part == name)
}

fn key(names: &[&str]) -> Vec<u8> {
    names
        .iter()
        .flat_map(|name| {
            let mut padded = [0; NAME_LENGTH];
            for (to, from) in padded.iter_mut().zip(name.bytes()) {
                *to = from;
            }
            padded
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closed_rule_is_seen() {
        assert!(Layout::new(true).shape().is_closed());
        assert!(!Layout::new(false).shape().is_closed());
    }

    #[test]
    fn a_changed_rule_is_seen() {
        let layout = Layout::new(false);
        let mut changed = layout.clone();
        changed.rules[0].expressions = Expressions::new().verdict(Verdict::Accept);
        assert_ne!(layout.shape(), changed.shape());
        assert_eq!(layout.shape(), Layout::new(false).shape());
    }

    #[test]
    fn elements_of_one_bridge() {
        let all = elements("berth0", true);
        assert_eq!(all.len(), 3);
        assert!(
            all.values()
                .flatten()
                .all(|element| mentions(element, "berth0"))
        );
        assert!(
            !all.values()
                .flatten()
                .any(|element| mentions(element, "berth"))
        );
        assert!(!elements("berth0", false).contains_key(MASQUERADED));
        assert!(mentions(&key(&["a", "berth0"]), "berth0"));
    }
}
