//! Files with holes, as chunks of which only those with data are stored.

use std::io::Read;

use super::attributes::Attributes;
use super::format::{BLOCK, HOLE, Layout};
use super::output::block_number;
use super::{Erofs, REGULAR};
use crate::error::Result;
use crate::tar::Extent;

/// Most chunks of one file; larger files get larger chunks.
const MAX_CHUNKS: u64 = 1 << 18;

impl Erofs {
    /// `extents` are in order, do not overlap and end within `size`, which is
    /// not 0.
    pub(super) fn sparse_file(
        &mut self,
        attributes: &Attributes,
        extents: &[Extent],
        size: u64,
        data: &mut dyn Read,
    ) -> Result<u64> {
        let block = BLOCK as u64;
        let mut shift = 0;
        while size.div_ceil(block << shift) > MAX_CHUNKS {
            shift += 1;
        }
        let chunk = block << shift;
        // At most `MAX_CHUNKS`.
        let mut map = vec![HOLE; size.div_ceil(chunk) as usize];
        // Up to where the chunk at the end of the stream is filled.
        let mut open: Option<u64> = None;
        for &Extent { offset, length } in extents {
            let (mut at, end) = (offset, offset + length);
            while at < end {
                let index = at / chunk;
                let start = index * chunk;
                if let Some(filled) = open.take_if(|filled| *filled < start) {
                    self.output.zeros(filled.next_multiple_of(chunk) - filled)?;
                }
                if open.is_none() {
                    map[index as usize] = block_number(self.output.position())?;
                }
                self.output.zeros(at - open.unwrap_or(start))?;
                let now = (end - at).min(start + chunk - at);
                self.output.copy(data, now)?;
                self.size += now;
                at += now;
                open = (at < start + chunk).then_some(at);
            }
        }
        if let Some(filled) = open {
            let end = filled.next_multiple_of(chunk).min(size);
            self.output.zeros(end - filled)?;
        }
        self.output.pad()?;
        block_number(self.output.position())?;

        self.chunked = true;
        let mut behind = attributes.encode()?;
        let mut inode = self.inode(REGULAR, attributes, size, shift);
        inode.layout = Layout::Chunked;
        inode.xattrs = behind.len();
        behind.extend(map.iter().flat_map(|address| address.to_le_bytes()));
        Ok(self.store(&inode, &behind, 0)?.0)
    }
}
