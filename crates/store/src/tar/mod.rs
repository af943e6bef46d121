//! Tar streams. Reads ustar, PAX and GNU, as Go's `archive/tar` (and so
//! Docker) understands them.
//!
//! The stream is foreign. Where two readers could see different entries
//! (CVE-2025-62518 and its kin: a size in PAX that differs from the header's)
//! there is one rule, and what is malformed is refused, never guessed. Memory
//! is bounded whatever the stream says.

mod header;
mod pax;
mod sparse;
mod write;

use std::io::{self, Read};

pub use self::header::Kind;
pub use self::sparse::Extent;
pub use self::write::TarWriter;
pub(crate) use self::write::{END, head, padding};
use crate::error::{Error, Result, invalid};

const BLOCK: usize = 512;

/// Longest PAX header or GNU long name accepted, as in Go.
const MAX_EXTENSION: u64 = 1 << 20;

/// A point in time: seconds since 1970 and nanoseconds below a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// One member; its stored bytes come beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// As in the archive: relative, a directory's with or without its slash.
    pub name: Vec<u8>,
    pub kind: Kind,
    /// Target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// The lower twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Bytes of the file once written, holes included.
    pub size: u64,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Names with their namespace ("security.capability"), and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes go, for a sparse file.
    pub extents: Option<Vec<Extent>>,
}

/// A tar stream, read forward once: [`Self::next`] gives the members, `Read`
/// the stored bytes of the last one. Headers are read 512 bytes at a time.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Bytes of the current member not yet read, and the padding after them.
    remaining: u64,
    padding: u64,
    ended: bool,
    marked: bool,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Self {
        Self {
            input,
            remaining: 0,
            padding: 0,
            ended: false,
            marked: false,
        }
    }

    /// Whether the stream closed with the end-of-archive marker.
    pub fn is_complete(&self) -> bool {
        self.marked
    }

    /// What is left of the stream behind the last member.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next member, after skipping what was left of this one. Of a sparse
    /// file only what [`Entry::extents`] lists is stored.
    ///
    /// # Errors
    /// `Invalid` for what is no tar stream, is cut short or ambiguous.
    #[expect(clippy::should_implement_trait, reason = "it is no iterator: it fails")]
    pub fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = pax::Records::default();
        let mut long_name = None;
        let mut long_link = None;
        let mut extended = false;
        loop {
            self.skip()?;
            let Some(block) = self.header()? else {
                return if extended {
                    invalid("a header extension describes no entry")
                } else {
                    Ok(None)
                };
            };
            let header = header::Header::new(&block)?;
            match header.type_flag() {
                b'x' => {
                    if !extensions.is_empty() {
                        return invalid("two PAX headers describe one entry");
                    }
                    extensions = pax::Records::parse(&self.extension(&header)?)?;
                }
                b'g' => pax::check_global(&self.extension(&header)?)?,
                b'L' => long_name = Some(cut_at_nul(self.extension(&header)?)),
                b'K' => long_link = Some(cut_at_nul(self.extension(&header)?)),
                // A GNU volume label is no file.
                b'V' => self.enter(header.size()?)?,
                _ => {
                    return self
                        .member(&header, extensions, long_name, long_link)
                        .map(Some);
                }
            }
            extended |= matches!(header.type_flag(), b'x' | b'L' | b'K');
        }
    }

    fn member(
        &mut self,
        header: &header::Header<'_>,
        mut records: pax::Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        // GNU names go over PAX names, and PAX over the header, as in Go.
        let name = long_name
            .or_else(|| records.path.take())
            .unwrap_or_else(|| header.name());
        let link = long_link
            .or_else(|| records.link.take())
            .unwrap_or_else(|| header.link());
        let kind = header.kind(&name)?;
        // The size in PAX always wins: the next header is found by one rule.
        let stored = match records.size {
            Some(size) => size,
            None => header.size()?,
        };
        self.enter(if kind == Kind::File { stored } else { 0 })?;

        let mut entry = Entry {
            kind,
            link,
            mode: header.mode()?,
            uid: match records.uid {
                Some(uid) => header::id(uid, "user ID")?,
                None => header.uid()?,
            },
            gid: match records.gid {
                Some(gid) => header::id(gid, "group ID")?,
                None => header.gid()?,
            },
            mtime: records.mtime.map_or_else(|| header.mtime(), Ok)?,
            size: self.remaining,
            device: if kind.is_device() {
                header.device()?
            } else {
                (0, 0)
            },
            xattrs: std::mem::take(&mut records.xattrs),
            extents: None,
            name,
        };
        if header.type_flag() == b'S' {
            let map = sparse::old_gnu(header, || self.raw_block())?;
            self.set_sparse(&mut entry, map)?;
        } else if kind == Kind::File && records.sparse.is_some() {
            let map = sparse::from_pax(&records.sparse.take().unwrap_or_default(), || {
                self.data_block()
            })?;
            if let Some(name) = &map.name {
                entry.name.clone_from(name);
            }
            self.set_sparse(&mut entry, map)?;
        }
        if entry.name.contains(&0) || entry.link.contains(&0) {
            return invalid("a name holds a zero byte");
        }
        Ok(entry)
    }

    fn set_sparse(&self, entry: &mut Entry, map: sparse::Map) -> Result<()> {
        map.check(self.remaining)?;
        entry.size = map.size;
        entry.extents = Some(map.extents);
        Ok(())
    }

    /// Begins the data of a member.
    fn enter(&mut self, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            return invalid(format!("an entry claims {size} bytes"));
        }
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn extension(&mut self, header: &header::Header<'_>) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > MAX_EXTENSION {
            return invalid(format!(
                "a header extension of {size} bytes is longer than {MAX_EXTENSION}"
            ));
        }
        self.enter(size)?;
        let mut data = Vec::new();
        self.read_to_end(&mut data)
            .map_err(Error::stream("the archive"))?;
        Ok(data)
    }

    /// The next header, or none at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.ended {
            return Ok(None);
        }
        let block = self.try_block()?;
        match block {
            Some(block) if block.iter().any(|&b| b != 0) => return Ok(Some(block)),
            // Two zero blocks end an archive; many writers leave one out.
            Some(_) => {
                self.marked = true;
                if self
                    .try_block()?
                    .is_some_and(|next| next.iter().any(|&b| b != 0))
                {
                    return invalid("the archive goes on after a lone zero block");
                }
            }
            None => {}
        }
        self.ended = true;
        Ok(None)
    }

    fn try_block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.input.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return invalid("the archive is truncated in the middle of a header"),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::stream("the archive")(e)),
            }
        }
        Ok(Some(block))
    }

    /// A block between the header and the data (old GNU sparse maps).
    fn raw_block(&mut self) -> Result<[u8; BLOCK]> {
        self.try_block()?
            .map_or_else(|| invalid("the archive is truncated in a sparse map"), Ok)
    }

    /// A block that counts as data (PAX sparse maps 1.0).
    fn data_block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        if self.remaining < BLOCK as u64 {
            return invalid("a sparse map is longer than its entry");
        }
        self.read_exact(&mut block)
            .map_err(Error::stream("the archive"))?;
        Ok(block)
    }

    fn skip(&mut self) -> Result<()> {
        let amount = self.remaining + self.padding;
        let skipped = io::copy(&mut (&mut self.input).take(amount), &mut io::sink())
            .map_err(Error::stream("the archive"))?;
        if skipped < self.remaining {
            return invalid("the archive is truncated in the middle of an entry");
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }
}

/// The stored bytes of the current member.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.input.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it ends in the middle of an entry",
            ));
        }
        self.remaining -= n as u64;
        Ok(n)
    }
}

fn cut_at_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
mod tests;
