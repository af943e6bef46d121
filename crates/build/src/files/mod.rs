//! Contents of files that came from outside, by digest, in few large files: a
//! context of 40,000 small files must not cost 40,000 inodes.
//!
//! ```text
//! <root>/<number>.pack      contents, one after the other
//! <root>/<number>.index     JSON lines: the boot in which they were written,
//!                           then digest, offset, length of each
//! ```
//!
//! It is a cache: what is lost is sent again. A line of an index is written
//! after its content, so the death of a process leaves nothing half there. A
//! pack may become a layer ([`Files::place`]), by another name in the store:
//! then nothing is added to it. A
//! power cut may: contents of another boot are hashed before they are first
//! given out, and forgotten if they are not what they were.

mod collect;
mod directory;
mod intake;
mod pack;
mod place;
mod tar;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_store::{Digest, Placed, is_nearly_full};
use rustix::fs::{Mode, OFlags, fstatvfs, mkdir, open};
use rustix::io::Errno;

pub(crate) use self::intake::{Intake, run as take_in};
pub(crate) use self::pack::name;
use self::pack::{Key, Pack};

/// A pack that is this long takes no more.
const PACK_SIZE: u64 = 1 << 30;
/// Contents up to this size are hashed before they are written, so that what is
/// here already costs no writing.
const SMALL: u64 = 1 << 20;
/// Compared and read at once.
const CHUNK: usize = 256 << 10;
/// Contents of one size that a new one is compared with.
const MAX_ALIKE: usize = 16;
/// The free space of the disk is looked at after so many bytes.
const LOOK_EVERY: u64 = 64 << 20;

/// Cheap to clone; safe from many threads.
#[derive(Clone, Debug)]
pub struct Files {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: OwnedFd,
    /// Of this boot.
    boot: String,
    state: Mutex<State>,
    /// Held by the one that collects.
    collecting: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    index: HashMap<Key, Location>,
    /// Those above [`SMALL`], by their length.
    large: HashMap<u64, Vec<Key>>,
    packs: BTreeMap<u32, Open>,
    /// Where contents are appended.
    current: Option<u32>,
    /// Counts additions and requests.
    clock: u64,
    /// When each [`Hold`] began, and how many did then.
    holds: BTreeMap<u64, usize>,
    /// Bytes since the disk was looked at.
    unlooked: u64,
    /// How long the current pack may at least become.
    expected: u64,
}

#[derive(Debug)]
struct Open {
    pack: Arc<Pack>,
    /// Where the first content is.
    begin: u64,
    /// Where the next goes.
    end: u64,
    /// Contents that are being written, and are in no index yet.
    pending: u32,
    /// Its first bytes are free and its large contents have their blocks to
    /// themselves: a layer can be made of it.
    placeable: bool,
    /// One was, or was to be: it is as it is.
    placed: bool,
}

impl Open {
    /// Bytes on disk that no layer has.
    fn size(&self) -> u64 {
        if !self.placed {
            return self.end - self.begin;
        }
        match self.pack.is_shared() {
            // With what the layer had besides.
            Ok(false) => self.pack.blocks().unwrap_or(self.end),
            _ => 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Location {
    pack: u32,
    offset: u64,
    length: u64,
    /// Written in this boot, or hashed in it.
    verified: bool,
    /// On the clock: last added or asked for.
    touched: u64,
}

/// Reads one content from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Content {
    /// Keeps the file open when a collection has removed its name.
    pack: Arc<Pack>,
    offset: u64,
    left: u64,
}

impl Content {
    /// Bytes left to read.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX);
        let want = want.min(buffer.len());
        let n = self.pack.read_at(&mut buffer[..want], self.offset)?;
        if n == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// While it lives, a collection leaves alone what was added or asked for since
/// it was made: a build holds its contents before anything names them.
#[derive(Debug)]
pub struct Hold {
    inner: Arc<Inner>,
    since: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        if let Some(count) = state.holds.get_mut(&self.since) {
            *count -= 1;
            if *count == 0 {
                state.holds.remove(&self.since);
            }
        }
    }
}

impl Files {
    /// Opens or makes a store of contents; what a crash left unfinished is cut
    /// off. One process at a time.
    pub fn open(root: &Path) -> io::Result<Self> {
        match mkdir(root, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(root, flags, Mode::empty())?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Self::open_in_boot(root, boot.trim().to_owned())
    }

    fn open_in_boot(root: OwnedFd, boot: String) -> io::Result<Self> {
        let mut state = State::default();
        for number in pack::list(&root)? {
            let Some(found) = pack::load(&root, number)? else {
                continue;
            };
            let begin = if found.aligned { Placed::HEAD } else { 0 };
            let (pack, mut end) = (found.pack, begin);
            let verified = found.boot == boot;
            for (key, offset, length) in found.entries {
                end = end.max(place::end(offset, length));
                let location = Location {
                    pack: number,
                    offset,
                    length,
                    verified,
                    touched: 0,
                };
                state.insert(key, location);
            }
            let placed = pack.is_placed()? || pack.is_shared()?;
            if !placed {
                pack.cut(end)?;
            }
            if verified && !placed && end < PACK_SIZE {
                state.current = Some(number);
            }
            let open = Open {
                pack: Arc::new(pack),
                begin,
                end,
                pending: 0,
                placeable: found.aligned,
                placed,
            };
            state.packs.insert(number, open);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                root,
                boot,
                state: Mutex::new(state),
                collecting: Mutex::new(()),
            }),
        })
    }

    /// See [`Hold`].
    pub fn hold(&self) -> Hold {
        let mut state = self.inner.state();
        let since = state.clock;
        *state.holds.entry(since).or_default() += 1;
        Hold {
            inner: Arc::clone(&self.inner),
            since,
        }
    }

    pub fn contains(&self, digest: &str) -> bool {
        matches!(self.find(digest), Ok(Some(_)))
    }

    /// Adds the next `size` bytes of a stream; returns their digest. What is
    /// there already is not stored twice.
    ///
    /// # Errors
    /// `UnexpectedEof` if there are fewer; `StorageFull` before the disk is.
    pub fn add(&self, size: u64, input: &mut dyn Read) -> io::Result<Digest> {
        if size <= SMALL {
            let mut bytes = Vec::new();
            read_exactly(size, input, &mut bytes)?;
            return self.add_bytes(&bytes);
        }
        self.add_large(size, input)
    }

    /// What is the same as a content of this size, byte for byte, needs neither
    /// be hashed nor written.
    fn add_large(&self, size: u64, input: &mut dyn Read) -> io::Result<Digest> {
        let mut start = vec![0; CHUNK];
        input.read_exact(&mut start)?;
        let mut there = vec![0; CHUNK];
        for (key, known) in self.inner.of_size(size) {
            let mut content = known.clone();
            content.read_exact(&mut there)?;
            if there != start {
                continue;
            }
            let mut same = 0;
            while there == start {
                same += start.len() as u64;
                if same == size {
                    self.inner.touch(&key);
                    return Ok(name(&key));
                }
                let next = content.left().min(CHUNK as u64) as usize;
                start.resize(next, 0);
                there.resize(next, 0);
                input.read_exact(&mut start)?;
                content.read_exact(&mut there)?;
            }
            let mut all = known.take(same).chain(&start[..]).chain(input);
            return self.write(size, &mut all);
        }
        self.write(size, &mut (&start[..]).chain(input))
    }

    fn write(&self, size: u64, input: &mut dyn Read) -> io::Result<Digest> {
        let space = self.inner.reserve(size)?;
        let key = space.fill(input)?;
        space.commit(&[(key, size)], None)?;
        Ok(name(&key))
    }

    /// Adds a content that is in memory.
    pub fn add_bytes(&self, bytes: &[u8]) -> io::Result<Digest> {
        let key = pack::hash(bytes);
        if self.inner.touch(&key) {
            return Ok(name(&key));
        }
        self.put(bytes, &[(key, bytes.len() as u64)])?;
        Ok(name(&key))
    }

    /// Adds contents that are in memory with few calls; what is said of each is
    /// its digest.
    fn add_several(&self, contents: &[Vec<u8>]) -> io::Result<Vec<Digest>> {
        let keys: Vec<Key> = contents.iter().map(|bytes| pack::hash(bytes)).collect();
        let (mut all, mut list) = (Vec::new(), Vec::new());
        for (key, bytes) in keys.iter().zip(contents) {
            if self.inner.touch(key) || list.iter().any(|(other, _)| other == key) {
                continue;
            }
            let length = bytes.len() as u64;
            if place::is_placed(length) {
                self.put(bytes, &[(*key, length)])?;
            } else {
                all.extend_from_slice(bytes);
                list.push((*key, length));
            }
        }
        if !list.is_empty() {
            self.put(&all, &list)?;
        }
        Ok(keys.iter().map(name).collect())
    }

    /// Writes contents that stand one after the other.
    fn put(&self, bytes: &[u8], list: &[(Key, u64)]) -> io::Result<()> {
        let space = self.inner.reserve(bytes.len() as u64)?;
        space.pack.write_at(bytes, space.offset)?;
        space.commit(list, None)
    }

    /// # Errors
    /// `NotFound` if it is not here.
    pub fn read(&self, digest: &str) -> io::Result<Content> {
        let Some((pack, location)) = self.find(digest)? else {
            let message = format!("the content {digest} is not here any more");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        };
        Ok(Content {
            pack,
            offset: location.offset,
            left: location.length,
        })
    }

    fn find(&self, digest: &str) -> io::Result<Option<(Arc<Pack>, Location)>> {
        let Some(key) = pack::key(digest) else {
            return Ok(None);
        };
        let (pack, location) = {
            let mut state = self.inner.state();
            state.clock += 1;
            let now = state.clock;
            let Some(location) = state.index.get_mut(&key) else {
                return Ok(None);
            };
            location.touched = now;
            let location = *location;
            let Some(open) = state.packs.get(&location.pack) else {
                return Ok(None);
            };
            (Arc::clone(&open.pack), location)
        };
        if location.verified {
            return Ok(Some((pack, location)));
        }
        let found = pack::hash_range(&pack, location.offset, location.length)?;
        let mut state = self.inner.state();
        if found != Some(key) {
            state.remove(&key);
            return Ok(None);
        }
        if let Some(location) = state.index.get_mut(&key) {
            location.verified = true;
        }
        Ok(Some((pack, location)))
    }

    /// Bytes on disk that no layer has.
    pub fn size(&self) -> u64 {
        let state = self.inner.state();
        state.packs.values().map(Open::size).sum()
    }

    /// Bytes of contents that no layer has.
    pub fn size_of<'a>(&self, digests: impl Iterator<Item = &'a str>) -> u64 {
        let state = self.inner.state();
        let own = |open: &Open| !open.placed || !open.pack.is_shared().unwrap_or(false);
        let own: HashSet<u32> = (state.packs.iter())
            .filter_map(|(number, open)| own(open).then_some(*number))
            .collect();
        digests
            .filter_map(|digest| state.index.get(&pack::key(digest)?))
            .filter(|location| own.contains(&location.pack))
            .map(|location| location.length)
            .sum()
    }
}

/// At most [`SMALL`] bytes, in place of what is in the buffer.
fn read_exactly(size: u64, input: &mut dyn Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    bytes.reserve_exact(size as usize);
    if (input.take(size).read_to_end(bytes)? as u64) < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

impl State {
    fn insert(&mut self, key: Key, location: Location) {
        let before = self.index.insert(key, location);
        if before.is_none() && location.length > SMALL {
            self.large.entry(location.length).or_default().push(key);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(location) = self.index.remove(key)
            && let Some(keys) = self.large.get_mut(&location.length)
        {
            keys.retain(|other| other != key);
            if keys.is_empty() {
                self.large.remove(&location.length);
            }
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // What is in it is changed by single assignments only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that content is here, verified.
    fn touch(&self, key: &Key) -> bool {
        let mut state = self.state();
        state.clock += 1;
        let now = state.clock;
        match state.index.get_mut(key) {
            Some(location) if location.verified => {
                location.touched = now;
                true
            }
            // Written once more: that costs as much as reading it.
            _ => false,
        }
    }

    /// Contents of that length, the last ones first.
    fn of_size(&self, size: u64) -> Vec<(Key, Content)> {
        let state = self.state();
        let keys = state.large.get(&size).into_iter().flatten().rev();
        keys.filter_map(|key| {
            let at = state.index.get(key).filter(|at| at.verified)?;
            let content = Content {
                pack: Arc::clone(&state.packs.get(&at.pack)?.pack),
                offset: at.offset,
                left: at.length,
            };
            Some((*key, content))
        })
        .take(MAX_ALIKE)
        .collect()
    }

    /// Room for a content of this size.
    fn reserve(&self, size: u64) -> io::Result<Space<'_>> {
        let mut state = self.state();
        state.unlooked = state.unlooked.saturating_add(size);
        if state.unlooked >= LOOK_EVERY {
            let disk = fstatvfs(&self.root)?;
            if is_nearly_full(&self.root)? || size > disk.f_bavail * disk.f_frsize {
                return Err(Errno::NOSPC.into());
            }
            state.unlooked = 0;
        }
        let number = match state.current {
            Some(number) => number,
            None => {
                let number = state.packs.keys().next_back().map_or(0, |last| last + 1);
                let open = Open {
                    pack: Arc::new(pack::create(&self.root, number, &self.boot)?),
                    begin: Placed::HEAD,
                    end: Placed::HEAD,
                    pending: 0,
                    placeable: true,
                    placed: false,
                };
                state.packs.insert(number, open);
                state.current = Some(number);
                number
            }
        };
        let Some(open) = state.packs.get_mut(&number) else {
            return Err(io::Error::other("the current pack is gone"));
        };
        let offset = place::start(open.end, size);
        open.end = place::end(offset, size);
        open.pending += 1;
        let pack = Arc::clone(&open.pack);
        if open.end >= PACK_SIZE.max(state.expected) {
            state.current = None;
        }
        Ok(Space {
            inner: self,
            pack,
            offset,
            size,
            committed: false,
        })
    }
}

/// Room in a pack that is being written. Dropped without a commit, it is given
/// back.
struct Space<'a> {
    inner: &'a Inner,
    pack: Arc<Pack>,
    offset: u64,
    size: u64,
    committed: bool,
}

impl Space<'_> {
    /// Writes the content; returns its digest.
    fn fill(&self, input: &mut dyn Read) -> io::Result<Key> {
        if self.size > SMALL {
            return pack::stream(&self.pack, self.offset, self.size, input);
        }
        let mut bytes = Vec::new();
        read_exactly(self.size, input, &mut bytes)?;
        self.pack.write_at(&bytes, self.offset)?;
        Ok(pack::hash(&bytes))
    }

    /// Makes what is in it visible (digests and lengths, one after the other),
    /// in place of those in the pack `old` if that is said.
    fn commit(mut self, contents: &[(Key, u64)], old: Option<u32>) -> io::Result<()> {
        let mut state = self.inner.state();
        state.clock += 1;
        let now = state.clock;
        let mut offset = self.offset;
        let mut new = Vec::with_capacity(contents.len());
        for &(key, length) in contents {
            let mut location = Location {
                pack: self.pack.number(),
                offset,
                length,
                verified: true,
                touched: now,
            };
            offset += length;
            match state.index.get_mut(&key) {
                Some(there) if Some(there.pack) == old => location.touched = there.touched,
                // Another was faster.
                Some(there) if there.verified => {
                    there.touched = now;
                    continue;
                }
                _ => {}
            }
            new.push((key, location));
        }
        if new.is_empty() {
            return Ok(());
        }
        // Under the lock: lines of an index never mix.
        self.pack.note(&new)?;
        for (key, location) in new {
            state.insert(key, location);
        }
        self.committed = true;
        Ok(())
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        let Some(open) = state.packs.get_mut(&self.pack.number()) else {
            return;
        };
        open.pending -= 1;
        if self.committed {
            return;
        }
        if open.end == place::end(self.offset, self.size) {
            open.end = self.offset;
            // Otherwise the next content overwrites it.
            let _ = self.pack.cut(self.offset);
        } else {
            self.pack.punch(self.offset, self.size);
        }
    }
}
