//! Our table in the host's firewall, through nftables. What it looks like and
//! why is in [`layout`].
//!
//! Nothing is rebuilt that is already there: the kernel's table is read, compared
//! and brought to the wanted state in one transaction, which holds only what
//! differs. The table is shared by all engines of the host; each cares for the
//! elements of its own bridges.

mod expression;
mod layout;
mod message;

use std::collections::BTreeSet;

use layout::{Elements, Layout, TABLE, elements, mentions};
use message::{Batch, generation, installed};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::netlink::Socket;

/// Tries while other programs keep changing the firewall.
const TRIES: u32 = 16;

/// The firewall of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Firewall {
    socket: Socket,
    /// See [`layout`].
    closed: bool,
}

impl Firewall {
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(NETLINK_NETFILTER)?,
            closed: false,
        })
    }

    /// Everything but our networks' traffic is not routed: called when it was
    /// berth that made this host a router. Takes effect with the next change.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Containers on this bridge may go out, talk to each other, and are not
    /// reached from elsewhere.
    pub(crate) fn add_bridge(&mut self, bridge: &str, masquerade: bool) -> Result<(), Error> {
        self.synchronize(bridge, &elements(bridge, masquerade))
    }

    /// Forgets a bridge. The table goes with the last of them, unless it keeps
    /// the host closed: packets would be routed then that never were before.
    pub(crate) fn remove_bridge(&mut self, bridge: &str) -> Result<(), Error> {
        self.synchronize(bridge, &Elements::new())
    }

    fn synchronize(&mut self, bridge: &str, wanted: &Elements) -> Result<(), Error> {
        for _ in 0..TRIES {
            match self.try_synchronize(bridge, wanted) {
                // ERESTART: the generation changed between reading and writing.
                // The others: the table vanished while it was read or changed.
                Err(e) if matches!(e.errno(), Some(ERESTART | libc::ENOENT | libc::EINTR)) => {}
                other => return other,
            }
        }
        Err(Error::kernel(
            format!("change firewall table {TABLE}"),
            std::io::Error::from_raw_os_error(libc::EAGAIN),
        ))
    }

    fn try_synchronize(&mut self, bridge: &str, wanted: &Elements) -> Result<(), Error> {
        let mut batch = Batch::new(generation(&mut self.socket)?);
        let installed = installed(&mut self.socket)?;
        if let Some((shape, _)) = &installed {
            self.closed |= shape.is_closed();
        }
        let layout = Layout::new(self.closed);
        match installed {
            Some((shape, present)) if shape == layout.shape() => {
                self.change(&mut batch, bridge, wanted, &present);
            }
            None if wanted.is_empty() && !self.closed => return Ok(()),
            other => {
                // Networks of which this engine has not been told yet stay.
                let present = other.map(|(_, present)| present).unwrap_or_default();
                rebuild(&mut batch, &layout, bridge, wanted, &present);
            }
        }
        if batch.is_empty() {
            Ok(())
        } else {
            batch.commit(&mut self.socket)
        }
    }

    /// The table is as it should be: only elements of this bridge may differ.
    fn change(&self, batch: &mut Batch, bridge: &str, wanted: &Elements, present: &Elements) {
        let others_left = present
            .values()
            .flatten()
            .any(|element| !mentions(element, bridge));
        if wanted.is_empty() && !others_left && !self.closed {
            batch.delete_table();
            return;
        }
        let none = BTreeSet::new();
        for (set, present) in present {
            let wanted = wanted.get(set).unwrap_or(&none);
            let stale = present
                .difference(wanted)
                .filter(|element| mentions(element, bridge));
            batch.delete_elements(set, stale);
            batch.add_elements(set, wanted.difference(present));
        }
    }
}

/// Replaces the whole table, whatever it was.
fn rebuild(
    batch: &mut Batch,
    layout: &Layout,
    bridge: &str,
    wanted: &Elements,
    present: &Elements,
) {
    // Added first, because one that does not exist cannot be deleted.
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    let none = BTreeSet::new();
    for (name, set) in &layout.sets {
        batch.add_set(name, set);
        let kept = present
            .get(name)
            .unwrap_or(&none)
            .iter()
            .filter(|element| element.len() == set.key_length as usize)
            .filter(|element| !mentions(element, bridge));
        batch.add_elements(name, kept.chain(wanted.get(name).unwrap_or(&none)));
    }
    for (name, chain) in &layout.chains {
        batch.add_chain(name, chain);
    }
    for rule in &layout.rules {
        batch.add_rule(rule);
    }
}

/// Not in libc: the kernel keeps it to itself everywhere else.
const ERESTART: i32 = 85;
