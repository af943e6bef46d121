//! Reads such files without the kernel. What they say is checked: a damaged
//! file ends in an error, never in a panic or a loop.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::FileType;

use super::format::{
    BLOCK, DIRENT, HOLE, INODE, Inode, Layout, SLOT, Superblock, XATTR_HEADER, XATTR_PREFIXES,
    u16_at, u64_at,
};
use crate::error::{Error, Result, invalid};

/// Longest name in a directory.
const MAX_NAME: usize = 255;
/// A chunk index of eight bytes, which layers do not use.
const CHUNK_INDEXES: u32 = 0x20;

#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    length: u64,
    root: u64,
}

/// An inode and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    at: u64,
    inode: Inode,
}

/// A name in a directory.
#[derive(Debug)]
struct Name {
    name: Vec<u8>,
    nid: u64,
}

impl Node {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.inode.mode.into())
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// What tells inodes of one file apart, if it has several names.
    pub(super) fn identity(&self) -> Option<u64> {
        (self.inode.links > 1 && !self.is_directory()).then_some(self.at)
    }

    pub(super) fn inode(&self) -> &Inode {
        &self.inode
    }

    /// Bytes, holes included.
    pub(crate) fn size(&self) -> u64 {
        self.inode.size
    }
}

impl Image {
    pub(crate) fn open(file: File) -> Result<Self> {
        let length = file.metadata().map_err(Error::io("read", "a layer"))?.len();
        let mut image = Self {
            file,
            length,
            root: 0,
        };
        let mut block = [0; BLOCK];
        image.read_at(0, &mut block)?;
        let Some(superblock) = Superblock::decode(&block) else {
            return damaged("its superblock is not one of ours");
        };
        if u64::from(superblock.blocks) * BLOCK as u64 != length {
            return damaged("it is not as long as it says");
        }
        image.root = superblock.root_nid.into();
        Ok(image)
    }

    pub(crate) fn root(&self) -> Result<Node> {
        let root = self.node(self.root)?;
        if !root.is_directory() {
            return damaged("its root is not a directory");
        }
        Ok(root)
    }

    fn node(&self, nid: u64) -> Result<Node> {
        let Some(at) = nid.checked_mul(SLOT as u64) else {
            return damaged("an inode is outside the file");
        };
        let mut bytes = [0; INODE];
        self.read_at(at, &mut bytes)?;
        match Inode::decode(&bytes) {
            Some(inode) => Ok(Node { at, inode }),
            None => damaged("an inode has an unknown form"),
        }
    }

    /// What `name` in a directory is; no link is followed.
    pub(crate) fn child(&self, directory: &Node, name: &[u8]) -> Result<Option<Node>> {
        let names = self.list(directory)?;
        match names.binary_search_by(|entry| entry.name.as_slice().cmp(name)) {
            Ok(index) => self.node(names[index].nid).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The names in a directory in order, without `.` and `..`.
    fn list(&self, directory: &Node) -> Result<Vec<Name>> {
        if !directory.is_directory() {
            return damaged("an entry says it is a directory and its inode does not");
        }
        if directory.size() > self.length {
            return damaged("a directory is longer than the file");
        }
        let data = self.read(directory, directory.size())?;
        let mut names: Vec<Name> = Vec::new();
        for block in data.chunks(BLOCK) {
            entries(block, &mut names)?;
        }
        if !names.is_sorted_by(|a, b| a.name < b.name) {
            return damaged("names in a directory are out of order");
        }
        Ok(names)
    }

    /// The target of a symbolic link.
    pub(crate) fn link(&self, node: &Node) -> Result<Vec<u8>> {
        if node.kind() != FileType::Symlink || node.size() >= BLOCK as u64 {
            return damaged("a symbolic link is none, or too long");
        }
        self.read(node, node.size())
    }

    /// The first `max` bytes of a file, a directory or a link.
    pub(crate) fn read(&self, node: &Node, max: u64) -> Result<Vec<u8>> {
        let wanted = node.size().min(max);
        let Ok(wanted) = usize::try_from(wanted) else {
            return damaged("a file is too long");
        };
        let mut data = Vec::new();
        while data.len() < wanted {
            let (at, run) = self.run(node, data.len() as u64)?;
            let run = usize::try_from(run).unwrap_or(usize::MAX);
            let start = data.len();
            let run = run.min(wanted - start);
            // What is no hole is in the file: memory stays below its length.
            if at.is_some_and(|at| at.saturating_add(run as u64) > self.length) {
                return damaged("data is outside the file");
            }
            data.resize(start + run, 0);
            if let Some(at) = at {
                self.read_at(at, &mut data[start..])?;
            }
        }
        Ok(data)
    }

    /// Some of a file's bytes from `offset` on; none at its end.
    pub(super) fn read_some(&self, node: &Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if offset >= node.size() || buffer.is_empty() {
            return Ok(0);
        }
        let (at, run) = self.run(node, offset)?;
        let now = usize::try_from(run).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..now];
        match at {
            Some(at) => self.read_at(at, buffer)?,
            None => buffer.fill(0),
        }
        Ok(now)
    }

    /// Where a file's bytes from `offset` on are (none in a hole) and how many
    /// follow each other, at least one. `offset` is below the file's size.
    fn run(&self, node: &Node, offset: u64) -> Result<(Option<u64>, u64)> {
        let Node { at, inode } = node;
        let block = BLOCK as u64;
        let behind = at + (INODE + inode.xattrs) as u64;
        match inode.layout {
            Layout::Plain => Ok((
                Some(u64::from(inode.data) * block + offset),
                inode.size - offset,
            )),
            Layout::Inline => {
                let whole = inode.size / block * block;
                if offset < whole {
                    return Ok((Some(u64::from(inode.data) * block + offset), whole - offset));
                }
                Ok((Some(behind + offset - whole), inode.size - offset))
            }
            Layout::Chunked => {
                if inode.data >= CHUNK_INDEXES {
                    return damaged("a file has an unknown form of chunks");
                }
                let chunk = block << inode.data;
                let Some(entry) = (offset / chunk)
                    .checked_mul(4)
                    .and_then(|index| behind.checked_add(index))
                else {
                    return damaged("a list of chunks is outside the file");
                };
                let mut address = [0; 4];
                self.read_at(entry, &mut address)?;
                let inside = offset % chunk;
                let run = (chunk - inside).min(inode.size - offset);
                match u32::from_le_bytes(address) {
                    HOLE => Ok((None, run)),
                    address => Ok((Some(u64::from(address) * block + inside), run)),
                }
            }
        }
    }

    /// Extended attributes, by full name.
    pub(crate) fn xattrs(&self, node: &Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut body = vec![0; node.inode.xattrs];
        self.read_at(node.at + INODE as u64, &mut body)?;
        let Some((header, mut rest)) = body.split_at_checked(XATTR_HEADER) else {
            return Ok(Vec::new());
        };
        if header[4] != 0 {
            return damaged("it shares extended attributes");
        }
        let mut all = Vec::new();
        while rest.len() >= 4 {
            let name_end = 4 + usize::from(rest[0]);
            let value_end = name_end + usize::from(u16_at(rest, 2));
            let prefix = XATTR_PREFIXES.iter().find(|(n, _)| *n == rest[1]);
            let (Some(entry), Some((_, prefix))) = (rest.get(..value_end), prefix) else {
                return damaged("an extended attribute is malformed");
            };
            let name = [*prefix, &entry[4..name_end]].concat();
            all.push((name, entry[name_end..].to_vec()));
            rest = &rest[value_end.next_multiple_of(4).min(rest.len())..];
        }
        Ok(all)
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        if at
            .checked_add(buffer.len() as u64)
            .is_none_or(|end| end > self.length)
        {
            return damaged("something is outside the file");
        }
        self.file
            .read_exact_at(buffer, at)
            .map_err(Error::io("read", "a layer"))
    }

    /// Calls `visit` with every path and its node, parents before children,
    /// the root as the empty path.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(&[u8], &Node) -> Result<()>) -> Result<()> {
        let mut seen = std::collections::HashSet::new();
        let mut pending = vec![(Vec::new(), self.root()?)];
        while let Some((path, node)) = pending.pop() {
            visit(&path, &node)?;
            if !node.is_directory() {
                continue;
            }
            if !seen.insert(node.at) {
                return damaged("a directory has two names");
            }
            for entry in self.list(&node)?.into_iter().rev() {
                let mut child = path.clone();
                if !child.is_empty() {
                    child.push(b'/');
                }
                child.extend_from_slice(&entry.name);
                pending.push((child, self.node(entry.nid)?));
            }
        }
        Ok(())
    }
}

/// Adds the entries of one block of a directory.
fn entries(block: &[u8], names: &mut Vec<Name>) -> Result<()> {
    let first = usize::from(u16_at(block, 8));
    if first < DIRENT || !first.is_multiple_of(DIRENT) || first > block.len() {
        return damaged("a directory is malformed");
    }
    let count = first / DIRENT;
    let name_at = |index: usize| usize::from(u16_at(block, index * DIRENT + 8));
    for index in 0..count {
        let last = index + 1 == count;
        let end = if last {
            block.len()
        } else {
            name_at(index + 1)
        };
        let Some(mut name) = block.get(name_at(index)..end) else {
            return damaged("a name is outside its directory");
        };
        // The last one ends where zeros begin.
        if last && let Some(zero) = name.iter().position(|&b| b == 0) {
            name = &name[..zero];
        }
        if name.is_empty() || name.len() > MAX_NAME || name.iter().any(|&b| b == 0 || b == b'/') {
            return damaged("a directory has a name that none can have");
        }
        if name != b"." && name != b".." {
            names.push(Name {
                name: name.to_vec(),
                nid: u64_at(block, index * DIRENT),
            });
        }
    }
    Ok(())
}

fn damaged<T>(what: &str) -> Result<T> {
    invalid(format!("a layer's file is damaged: {what}"))
}
