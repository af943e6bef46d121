//! One pack and its index.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use berth_store::Digest;
use rustix::fs::{
    AtFlags, Dir, FallocateFlags, Mode, OFlags, fallocate, fchmod, ftruncate, openat, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{CHUNK, Location};

/// A SHA-256 digest.
pub(crate) type Key = [u8; 32];

/// Buffers on their way.
const DEPTH: usize = 8;

/// Longer than any line of an index.
const MAX_LINE: u64 = 4096;

#[derive(Debug)]
pub(super) struct Pack {
    number: u32,
    data: File,
    index: File,
    /// Threads that write wait for each other here: in the kernel they would
    /// spin.
    writing: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    boot: String,
    /// The first bytes are free, and large contents have their blocks to
    /// themselves. So it was not always.
    #[serde(default)]
    aligned: bool,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    digest: &'a str,
    offset: u64,
    length: u64,
}

impl Pack {
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.data.read_at(buffer, offset)
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let one = self.writing.lock();
        let _one = one.unwrap_or_else(PoisonError::into_inner);
        self.data.write_all_at(bytes, offset)
    }

    /// Another descriptor of its data.
    pub(super) fn file(&self) -> io::Result<File> {
        self.data.try_clone()
    }

    /// From now on nothing is added to it or cut off it, also after a restart: a
    /// layer is made of it, which may be mounted even when its name is gone.
    pub(super) fn set_placed(&self) -> io::Result<()> {
        Ok(fchmod(&self.data, Mode::RUSR)?)
    }

    pub(super) fn is_placed(&self) -> io::Result<bool> {
        Ok(self.data.metadata()?.mode() & Mode::WUSR.as_raw_mode() == 0)
    }

    /// A layer has its data by another name.
    pub(super) fn is_shared(&self) -> io::Result<bool> {
        Ok(self.data.metadata()?.nlink() > 1)
    }

    /// Bytes on disk.
    pub(super) fn blocks(&self) -> io::Result<u64> {
        Ok(self.data.metadata()?.blocks() * 512)
    }

    /// Adds lines to the index, all or none of them.
    pub(super) fn note(&self, contents: &[(Key, Location)]) -> io::Result<()> {
        let mut lines = Vec::with_capacity(128 * contents.len());
        for (key, location) in contents {
            let line = Line {
                digest: &name(key),
                offset: location.offset,
                length: location.length,
            };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        self.write_lines(&lines)
    }

    fn write_lines(&self, lines: &[u8]) -> io::Result<()> {
        let before = self.index.metadata()?.len();
        (&self.index).write_all(lines).inspect_err(|_| {
            // Half a line would spoil the next.
            let _ = ftruncate(&self.index, before);
        })
    }

    /// Takes away what is behind `end`.
    pub(super) fn cut(&self, end: u64) -> io::Result<()> {
        if self.data.metadata()?.len() > end {
            ftruncate(&self.data, end)?;
        }
        Ok(())
    }

    /// Gives space in the middle back, if this file system can.
    pub(super) fn punch(&self, offset: u64, length: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(&self.data, flags, offset, length);
    }
}

/// Numbers of the packs in a directory, ascending. Packs without an index, and
/// the reverse, are what a crash left: they are removed.
pub(super) fn list(root: &OwnedFd) -> io::Result<Vec<u32>> {
    let (mut packs, mut indexes) = (Vec::new(), Vec::new());
    for entry in Dir::read_from(root)? {
        let entry = entry?;
        let Some((number, kind)) = entry
            .file_name()
            .to_str()
            .ok()
            .and_then(|name| name.split_once('.'))
        else {
            continue;
        };
        match (number.parse(), kind) {
            (Ok(number), "pack") => packs.push(number),
            (Ok(number), "index") => indexes.push(number),
            _ => {}
        }
    }
    let is_whole = |number: &u32| packs.contains(number) && indexes.contains(number);
    for number in packs.iter().chain(&indexes).filter(|n| !is_whole(n)) {
        remove(root, *number)?;
    }
    let mut whole: Vec<u32> = packs.iter().copied().filter(is_whole).collect();
    whole.sort_unstable();
    Ok(whole)
}

/// What the index of a pack says.
pub(super) struct Found {
    pub(super) pack: Pack,
    /// In which it was written.
    pub(super) boot: String,
    pub(super) aligned: bool,
    /// Digest, offset, length.
    pub(super) entries: Vec<(Key, u64, u64)>,
}

/// Opens a pack. What is torn of its index is cut off; none if nothing is left.
pub(super) fn load(root: &OwnedFd, number: u32) -> io::Result<Option<Found>> {
    let pack = open(root, number, OFlags::empty())?;
    let size = pack.data.metadata()?.len();
    let mut lines = BufReader::new(&pack.index);
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| -> io::Result<bool> {
        line.clear();
        lines.by_ref().take(MAX_LINE).read_until(b'\n', line)?;
        Ok(line.ends_with(b"\n"))
    };
    let mut good = 0;
    let mut head = None;
    let mut entries = Vec::new();
    while next(&mut line)? {
        if head.is_none() {
            let Ok(header) = serde_json::from_slice::<Header>(&line) else {
                break;
            };
            head = Some(header);
        } else {
            let Some(entry) = parse(&line, size) else {
                break;
            };
            entries.push(entry);
        }
        good += line.len() as u64;
    }
    let Some(Header { boot, aligned }) = head.filter(|_| !entries.is_empty()) else {
        remove(root, number)?;
        return Ok(None);
    };
    ftruncate(&pack.index, good)?;
    Ok(Some(Found {
        pack,
        boot,
        aligned,
        entries,
    }))
}

fn parse(line: &[u8], size: u64) -> Option<(Key, u64, u64)> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let end = line.offset.checked_add(line.length)?;
    (end <= size).then_some((key(line.digest)?, line.offset, line.length))
}

pub(super) fn create(root: &OwnedFd, number: u32, boot: &str) -> io::Result<Pack> {
    // Of one that could not be removed altogether; its data may be a layer's.
    remove(root, number)?;
    let pack = open(root, number, OFlags::CREATE | OFlags::EXCL)?;
    let header = Header {
        boot: boot.to_owned(),
        aligned: true,
    };
    let mut line = serde_json::to_vec(&header)?;
    line.push(b'\n');
    pack.write_lines(&line)?;
    Ok(pack)
}

fn open(root: &OwnedFd, number: u32, extra: OFlags) -> io::Result<Pack> {
    let file = |kind: &str, flags: OFlags| -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags | extra;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(openat(root, format!("{number}.{kind}"), flags, mode)?.into())
    };
    Ok(Pack {
        number,
        data: file("pack", OFlags::empty())?,
        index: file("index", OFlags::APPEND)?,
        writing: Mutex::new(()),
    })
}

/// The index first: contents without one are nothing.
pub(super) fn remove(root: &OwnedFd, number: u32) -> io::Result<()> {
    for kind in ["index", "pack"] {
        match unlinkat(root, format!("{number}.{kind}"), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) fn hash(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

/// None if the pack is shorter.
pub(super) fn hash_range(pack: &Pack, mut offset: u64, length: u64) -> io::Result<Option<Key>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let n = pack.read_at(&mut buffer[..want], offset)?;
        if n == 0 {
            return Ok(None);
        }
        hasher.update(&buffer[..n]);
        offset += n as u64;
        left -= n as u64;
    }
    Ok(Some(hasher.finalize().into()))
}

/// Writes the next `size` bytes of a stream at `offset` while another thread
/// hashes them.
pub(super) fn stream(
    pack: &Pack,
    mut offset: u64,
    size: u64,
    input: &mut dyn Read,
) -> io::Result<Key> {
    thread::scope(|scope| {
        let (full, to_hash) = sync_channel::<Vec<u8>>(DEPTH);
        let (give_back, empty) = channel();
        let hasher = thread::Builder::new()
            .name("build-hash".to_owned())
            .spawn_scoped(scope, move || {
                let mut hasher = Sha256::new();
                for buffer in to_hash {
                    hasher.update(&buffer);
                    // Nobody wants it back at the end.
                    let _ = give_back.send(buffer);
                }
                hasher.finalize()
            })?;
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let mut buffer: Vec<u8> = empty.try_recv().unwrap_or_default();
            buffer.resize(want, 0);
            input.read_exact(&mut buffer)?;
            pack.write_at(&buffer, offset)?;
            offset += want as u64;
            left -= want as u64;
            if full.send(buffer).is_err() {
                break;
            }
        }
        drop(full);
        match hasher.join() {
            Ok(digest) => Ok(digest.into()),
            Err(_) => Err(io::Error::other("a thread that hashed ended early")),
        }
    })
}

/// "sha256:<hex>" as bytes.
pub(super) fn key(digest: &str) -> Option<Key> {
    let hex = digest.strip_prefix("sha256:")?.as_bytes();
    let mut key = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(key)
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

pub(crate) fn name(key: &Key) -> Digest {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in key {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}
