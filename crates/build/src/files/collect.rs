//! Gives space back: packs in which nothing is wanted go, and of those in which
//! little is, that is written again elsewhere first.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError};

use super::pack::{self, Key, Pack};
use super::{Content, Files, Inner, Location};

/// What is wanted of each pack.
type Wanted = BTreeMap<u32, Vec<(Key, Location)>>;

impl Files {
    /// Gives back the space of contents for which `keeps` is false; returns the
    /// bytes. What was added or asked for since it began, or since the first
    /// [`super::Hold`] that lives, stays. Contents that are being read stay on
    /// disk until that ends.
    pub fn collect(&self, keeps: &dyn Fn(&str) -> bool) -> io::Result<u64> {
        let inner = &*self.inner;
        let one = inner.collecting.lock();
        let _one = one.unwrap_or_else(PoisonError::into_inner);
        let (until, contents) = inner.contents();
        let mut wanted = Wanted::new();
        for (key, location) in contents {
            let list = wanted.entry(location.pack).or_default();
            if location.touched > until || keeps(&pack::name(&key)) {
                list.push((key, location));
            }
        }
        let mut freed = 0;
        for (number, live) in wanted {
            let bytes = live.iter().map(|(_, location)| location.length).sum();
            let Some((pack, size)) = inner.retire(number, bytes) else {
                continue;
            };
            for (key, location) in live {
                inner.relocate(&pack, key, location)?;
            }
            if inner.forget(number, until)? {
                freed += size.saturating_sub(bytes);
            }
        }
        Ok(freed)
    }
}

impl Inner {
    /// All contents, and the time on the clock: what was touched later stays.
    fn contents(&self) -> (u64, Vec<(Key, Location)>) {
        let state = self.state();
        let first = state.holds.keys().next().copied();
        let contents = state.index.iter().map(|(key, at)| (*key, *at)).collect();
        (first.unwrap_or(state.clock), contents)
    }

    /// Takes a pack out of use if it is worth that: no more than half of it is
    /// wanted, and nobody is writing to it. Also its size.
    fn retire(&self, number: u32, wanted: u64) -> Option<(Arc<Pack>, u64)> {
        let mut state = self.state();
        let open = state.packs.get(&number)?;
        // Nothing of what a layer has: to write that again gives nothing back.
        let size = open.size();
        if open.pending > 0 || wanted > size / 2 {
            return None;
        }
        let found = (Arc::clone(&open.pack), size);
        if state.current == Some(number) {
            state.current = None;
        }
        Some(found)
    }

    /// Writes a content again, into the current pack.
    fn relocate(&self, from: &Arc<Pack>, key: Key, location: Location) -> io::Result<()> {
        let space = self.reserve(location.length)?;
        let mut content = Content {
            pack: Arc::clone(from),
            offset: location.offset,
            left: location.length,
        };
        if space.fill(&mut content)? == key {
            return space.commit(&[(key, location.length)], Some(location.pack));
        }
        // A power cut took it.
        self.state().remove(&key);
        Ok(())
    }

    /// Forgets a pack, unless something in it was asked for meanwhile.
    fn forget(&self, number: u32, until: u64) -> io::Result<bool> {
        let mut state = self.state();
        let here = state.index.iter().filter(|(_, at)| at.pack == number);
        let gone: Vec<(Key, u64)> = here.map(|(key, at)| (*key, at.touched)).collect();
        if gone.iter().any(|(_, touched)| *touched > until) {
            return Ok(false);
        }
        // Its number is given again as soon as it is free.
        pack::remove(&self.root, number)?;
        for (key, _) in &gone {
            state.remove(key);
        }
        state.packs.remove(&number);
        Ok(true)
    }
}
