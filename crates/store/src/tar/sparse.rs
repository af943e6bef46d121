//! Sparse files: the old GNU format and GNU's PAX formats 0.0, 0.1 and 1.0.

use super::BLOCK;
use super::header::{Header, unsigned};
use super::pax::digits;
use crate::error::{Result, invalid};

/// More pieces than any file needs; bounds the memory of a map.
const MAX_EXTENTS: usize = 1 << 20;

/// Stored bytes that belong at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
}

/// A sparse file: its pieces in the order stored, and its size with holes.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub(super) extents: Vec<Extent>,
    pub(super) size: u64,
    /// The file's real name, where the header's is a stand-in.
    pub(super) name: Option<Vec<u8>>,
}

impl Map {
    fn push(&mut self, offset: u64, length: u64) -> Result<()> {
        if self.extents.len() == MAX_EXTENTS {
            return invalid(format!("a sparse file has more than {MAX_EXTENTS} pieces"));
        }
        self.extents.push(Extent { offset, length });
        Ok(())
    }

    /// Pieces in order, without overlap, inside the file, and as long together
    /// as what is stored.
    pub(super) fn check(&self, stored: u64) -> Result<()> {
        let mut end = 0u64;
        let mut total = 0u64;
        for extent in &self.extents {
            let next = extent
                .offset
                .checked_add(extent.length)
                .filter(|&next| next <= self.size);
            let Some(next) = next.filter(|_| extent.offset >= end) else {
                return invalid("a sparse map is out of order or beyond the file's end");
            };
            // No overlap, so the sum is below `size`.
            total += extent.length;
            end = next;
        }
        if total != stored {
            return invalid("a sparse map does not match the bytes stored");
        }
        if self.size > i64::MAX as u64 {
            return invalid(format!("a sparse file claims {} bytes", self.size));
        }
        Ok(())
    }
}

/// Four pieces in the header, then blocks of twenty-one.
pub(super) fn old_gnu(
    header: &Header<'_>,
    mut next_block: impl FnMut() -> Result<[u8; BLOCK]>,
) -> Result<Map> {
    let (first, mut more, size) = header.gnu_sparse()?;
    let mut map = Map {
        size,
        ..Map::default()
    };
    for piece in first {
        push_gnu(&mut map, &piece.offset, &piece.numbytes)?;
    }
    while more {
        let block = next_block()?;
        for piece in block[..504].chunks_exact(24) {
            push_gnu(&mut map, &piece[..12], &piece[12..])?;
        }
        more = block[504] != 0;
    }
    Ok(map)
}

fn push_gnu(map: &mut Map, offset: &[u8], length: &[u8]) -> Result<()> {
    // An unused slot is blank.
    if offset[0] == 0 || length[0] == 0 {
        return Ok(());
    }
    map.push(
        unsigned(offset, "sparse offset")?,
        unsigned(length, "sparse length")?,
    )
}

/// From the `GNU.sparse.*` records, and for 1.0 from the head of the data.
pub(super) fn from_pax(
    records: &[(Vec<u8>, Vec<u8>)],
    next_block: impl FnMut() -> Result<[u8; BLOCK]>,
) -> Result<Map> {
    let mut map = Map::default();
    let mut size = None;
    let mut major = 0;
    let mut offset = None;
    for (key, value) in records {
        match key.as_slice() {
            b"name" => map.name = Some(value.clone()),
            b"size" | b"realsize" => size = Some(decimal(value)?),
            b"major" => major = decimal(value)?,
            // 0.0: pairs of records.
            b"offset" => offset = Some(decimal(value)?),
            b"numbytes" => match offset.take() {
                Some(offset) => map.push(offset, decimal(value)?)?,
                None => return invalid("a sparse record has a length without an offset"),
            },
            // 0.1: one list.
            b"map" if !value.is_empty() => {
                let mut numbers = value.split(|&b| b == b',');
                while let Some(offset) = numbers.next() {
                    let Some(length) = numbers.next() else {
                        return invalid("a sparse map has an odd number of items");
                    };
                    map.push(decimal(offset)?, decimal(length)?)?;
                }
            }
            _ => {}
        }
    }
    let Some(size) = size else {
        return invalid("a sparse file without its size");
    };
    map.size = size;
    if major == 1 {
        in_data(&mut map, next_block)?;
    }
    Ok(map)
}

/// 1.0: decimal lines (count, then offset and length each), padded to a block.
fn in_data(map: &mut Map, mut next_block: impl FnMut() -> Result<[u8; BLOCK]>) -> Result<()> {
    let mut lines = Lines {
        block: [0; BLOCK],
        at: BLOCK,
    };
    let count = lines.next(&mut next_block)?;
    for _ in 0..count {
        let offset = lines.next(&mut next_block)?;
        let length = lines.next(&mut next_block)?;
        map.push(offset, length)?;
    }
    Ok(())
}

struct Lines {
    block: [u8; BLOCK],
    at: usize,
}

impl Lines {
    fn next(&mut self, next_block: &mut impl FnMut() -> Result<[u8; BLOCK]>) -> Result<u64> {
        let mut text = Vec::new();
        loop {
            if self.at == BLOCK {
                self.block = next_block()?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return decimal(&text);
            }
            if text.len() == 20 {
                return invalid("a number in a sparse map is too long");
            }
            text.push(byte);
        }
    }
}

fn decimal(text: &[u8]) -> Result<u64> {
    digits(text).map_or_else(
        || invalid("a sparse map holds something that is no number"),
        Ok,
    )
}
