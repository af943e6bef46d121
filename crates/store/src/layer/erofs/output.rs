//! The file under construction: data blocks in a stream, and between them
//! chunks in which inodes are packed with the tails of their data.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use super::format::{BLOCK, HOLE, SLOT};
use crate::error::{Error, Result, invalid};

/// Bytes that are written with one call.
const BUFFER: usize = 256 << 10;
/// Blocks of metadata that are filled at the same time, each from the front.
const CHUNK_BLOCKS: usize = 64;
const CHUNK: usize = CHUNK_BLOCKS * BLOCK;
/// A hole of this many bytes is left out, not written as zeros.
const MIN_HOLE: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Output {
    file: File,
    /// The first `used` bytes belong at `at` in the file.
    buffer: Box<[u8]>,
    used: usize,
    at: u64,
    chunk: Option<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    at: u64,
    bytes: Box<[u8]>,
    /// Bytes taken in each block.
    taken: [u16; CHUNK_BLOCKS],
}

impl Output {
    /// Writes to `file` from its offset `at` on, a multiple of a block, where
    /// nothing is yet.
    pub(super) fn new(file: File, at: u64) -> Self {
        Self {
            file,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            used: 0,
            at,
            chunk: None,
        }
    }

    /// Where the next byte of the stream goes.
    pub(super) fn position(&self) -> u64 {
        self.at + self.used as u64
    }

    /// Moves `length` bytes of an archive into the stream.
    pub(super) fn copy(&mut self, data: &mut dyn Read, mut length: u64) -> Result<()> {
        while length > 0 {
            if self.used == BUFFER {
                self.flush()?;
            }
            let room = BUFFER - self.used;
            let want = usize::try_from(length).unwrap_or(room).min(room);
            data.read_exact(&mut self.buffer[self.used..self.used + want])
                .map_err(Error::stream("the archive"))?;
            self.used += want;
            length -= want as u64;
        }
        Ok(())
    }

    /// Reads `length` bytes of an archive and writes none of them.
    pub(super) fn pass_by(&mut self, data: &mut dyn Read, mut length: u64) -> Result<()> {
        self.flush()?;
        while length > 0 {
            let want = usize::try_from(length).unwrap_or(BUFFER).min(BUFFER);
            data.read_exact(&mut self.buffer[..want])
                .map_err(Error::stream("the archive"))?;
            length -= want as u64;
        }
        Ok(())
    }

    pub(super) fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.used == BUFFER {
                self.flush()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.used));
            self.buffer[self.used..self.used + now.len()].copy_from_slice(now);
            self.used += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Zeros, as a hole of the file where they are many.
    pub(super) fn zeros(&mut self, length: u64) -> Result<()> {
        if length >= MIN_HOLE {
            self.flush()?;
            self.at += length;
            return Ok(());
        }
        let mut left = usize::try_from(length).unwrap_or_default();
        while left > 0 {
            let now = left.min(BLOCK);
            self.append(&[0; BLOCK][..now])?;
            left -= now;
        }
        Ok(())
    }

    /// Zeros up to the next block.
    pub(super) fn pad(&mut self) -> Result<()> {
        self.pad_to(self.position().next_multiple_of(BLOCK as u64))
    }

    /// Zeros up to `position`, which is not behind the end of the stream.
    pub(super) fn pad_to(&mut self, position: u64) -> Result<()> {
        self.zeros(position.saturating_sub(self.position()))
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.write_at(&self.buffer[..self.used], self.at)?;
        self.at += self.used as u64;
        self.used = 0;
        Ok(())
    }

    /// Room for an inode and what follows it, at most a block and within one;
    /// and its offset in the file.
    pub(super) fn slot(&mut self, size: usize) -> Result<(u64, &mut [u8])> {
        let size = size.next_multiple_of(SLOT).min(BLOCK);
        let mut block = self.chunk.as_ref().and_then(|chunk| chunk.fit(size));
        if block.is_none() {
            self.open_chunk()?;
            block = Some(0);
        }
        let (Some(chunk), Some(block)) = (&mut self.chunk, block) else {
            return invalid("no room for an inode");
        };
        let start = block * BLOCK + usize::from(chunk.taken[block]);
        // At most a block, which `u16` holds.
        chunk.taken[block] += size as u16;
        let at = chunk.at + start as u64;
        Ok((at, &mut chunk.bytes[start..start + size]))
    }

    fn open_chunk(&mut self) -> Result<()> {
        self.close_chunk()?;
        self.flush()?;
        let bytes = self.chunk.take().map(|old| old.bytes);
        let mut bytes = bytes.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
        bytes.fill(0);
        self.chunk = Some(Chunk {
            at: self.at,
            bytes,
            taken: [0; CHUNK_BLOCKS],
        });
        self.at += CHUNK as u64;
        Ok(())
    }

    fn close_chunk(&mut self) -> Result<()> {
        match &self.chunk {
            Some(chunk) => self.write_at(&chunk.bytes[..chunk.used()], chunk.at),
            None => Ok(()),
        }
    }

    /// After the last slot: the stream goes on where the last chunk is unused,
    /// if no data follows it.
    pub(super) fn end_slots(&mut self) -> Result<()> {
        self.close_chunk()?;
        if let Some(chunk) = self.chunk.take()
            && self.used == 0
            && self.at == chunk.at + CHUNK as u64
        {
            self.at = chunk.at + chunk.used() as u64;
        }
        Ok(())
    }

    /// Overwrites what was written before.
    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file
            .write_all_at(bytes, at)
            .map_err(Error::io("write", "content of a layer"))
    }

    /// Writes the rest and ends the file here.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.pad()?;
        self.flush()?;
        self.file
            .set_len(self.at)
            .map_err(Error::io("write", "content of a layer"))
    }
}

/// The number of the block at an offset.
pub(super) fn block_number(position: u64) -> Result<u32> {
    match u32::try_from(position / BLOCK as u64) {
        Ok(block) if block != HOLE => Ok(block),
        _ => invalid("it has more data than a layer can hold (16 TiB)"),
    }
}

impl Chunk {
    /// The fullest block with room for `size`. Untouched blocks come last, so
    /// those in use are the first.
    fn fit(&self, size: usize) -> Option<usize> {
        let most = BLOCK - size;
        (self.taken.iter().enumerate())
            .filter(|&(_, &taken)| usize::from(taken) <= most)
            .max_by_key(|&(index, &taken)| (taken, std::cmp::Reverse(index)))
            .map(|(index, _)| index)
    }

    /// Bytes up to the last block in use.
    fn used(&self) -> usize {
        let blocks = self.taken.iter().position(|&taken| taken == 0);
        blocks.unwrap_or(CHUNK_BLOCKS) * BLOCK
    }
}
