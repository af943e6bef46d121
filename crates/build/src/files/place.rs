//! A pack becomes a layer: what a context brought is on disk once, not twice.

use std::collections::{HashMap, HashSet};
use std::io;

use berth_store::Placed;

use super::pack::{self, Key};
use super::{Files, Location};

/// Contents of this size have their blocks to themselves, so that a layer can
/// have them where they are. Smaller ones would waste too much of them.
const MIN_CONTENT: u64 = 64 << 10;
/// Less is soon written again.
const MIN_PLACED: u64 = 1 << 20;
/// From this size on a transfer begins a pack, of which a layer may be made.
const MIN_TRANSFER: u64 = 16 << 20;
/// A pack for one transfer becomes no longer.
const MAX_PACK: u64 = 16 << 30;

pub(super) fn is_placed(length: u64) -> bool {
    length >= MIN_CONTENT
}

/// Where a content begins that is written behind `end`.
pub(super) fn start(end: u64, length: u64) -> u64 {
    match is_placed(length) {
        true => end.next_multiple_of(Placed::BLOCK),
        false => end,
    }
}

/// Where the next may begin.
pub(super) fn end(offset: u64, length: u64) -> u64 {
    let end = offset.saturating_add(length);
    match is_placed(length) {
        true => end.checked_next_multiple_of(Placed::BLOCK).unwrap_or(end),
        false => end,
    }
}

impl Files {
    /// So many bytes are about to be added, if they are not here.
    pub fn expect(&self, size: u64) {
        if size < MIN_TRANSFER {
            return;
        }
        let mut state = self.inner.state();
        state.expected = size.saturating_add(size / 8).min(MAX_PACK);
        let current = state.current.and_then(|number| state.packs.get(&number));
        // One with little in it is as good as a new one.
        if current.is_some_and(|open| open.size() > size / 8) {
            state.current = None;
        }
    }

    /// The pack that has nearly all contents of a layer (of each its entry's name
    /// and digest; all together so many bytes) and little besides, for the layer
    /// to be made of. Once for each pack.
    pub(crate) fn place(
        &self,
        contents: &[(Vec<u8>, &str)],
        all: u64,
    ) -> io::Result<Option<Placed>> {
        if all < MIN_PLACED {
            return Ok(None);
        }
        let mut state = self.inner.state();
        let mut packs: HashMap<u32, u64> = HashMap::new();
        let mut found: Vec<(&[u8], Location)> = Vec::new();
        let mut keys: HashSet<Key> = HashSet::new();
        for (name, digest) in contents {
            let Some(key) = pack::key(digest) else {
                continue;
            };
            if let Some(at) = state.index.get(&key)
                && at.verified
                && is_placed(at.length)
            {
                found.push((name, *at));
                if keys.insert(key) {
                    *packs.entry(at.pack).or_default() += at.length;
                }
            }
        }
        let Some((number, bytes)) = packs.into_iter().max_by_key(|(_, bytes)| *bytes) else {
            return Ok(None);
        };
        let Some(open) = state.packs.get_mut(&number) else {
            return Ok(None);
        };
        let is_free = open.placeable && !open.placed && open.pending == 0;
        let is_most = |of: u64| bytes / 3 >= of.saturating_sub(bytes);
        if !is_free || bytes < MIN_PLACED || !is_most(open.size()) || !is_most(all) {
            return Ok(None);
        }
        let file = open.pack.file()?;
        open.pack.set_placed()?;
        open.placed = true;
        let end = open.end;
        if state.current == Some(number) {
            state.current = None;
        }
        let of_it = found.into_iter().filter(|(_, at)| at.pack == number);
        Ok(Some(Placed {
            file,
            end,
            contents: of_it.map(|(name, at)| (name.to_vec(), at.offset)).collect(),
        }))
    }
}
