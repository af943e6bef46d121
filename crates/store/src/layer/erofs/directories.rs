//! Directories, written last: where each goes, then their entries and inodes.

use super::format::{BLOCK, DIRENT, INODE, Inode, Layout, ROOT_NID, SLOT, put};
use super::output::{Output, block_number};
use super::tree::{DirectoryId, LeafKind, Node, ROOT, Tree};
use crate::error::Result;

/// Types of directory entries.
const TYPE_DIRECTORY: u8 = 2;
const TYPE_CHAR_DEVICE: u8 = 3;
const TYPE_SYMLINK: u8 = 7;

/// One directory's place in the file.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Of the entries in whole blocks.
    data: u64,
    inode: u64,
    /// Bytes of all entries, and how many of these follow the inode.
    size: usize,
    tail: usize,
}

/// What is at the end of the file, and what else the head of it needs.
pub(super) struct Written {
    /// The root's inode with its attributes.
    pub(super) root: Vec<u8>,
    /// Inodes in the file, those of directories included.
    pub(super) inodes: u32,
}

/// Writes all directories behind `leaves` other inodes. What is metadata of
/// the file (inodes and entries) is also passed to `seen`.
pub(super) fn write(
    tree: &Tree,
    output: &mut Output,
    leaves: u32,
    mut seen: impl FnMut(&[u8]),
) -> Result<Written> {
    let order = order(tree);
    let mut nids = vec![u64::from(ROOT_NID); tree.directories.len()];
    let mut places = Vec::with_capacity(order.len());
    let mut position = output.position();
    for &id in &order {
        let place = lay_out(tree, id, &mut position)?;
        if id != ROOT {
            nids[id as usize] = place.inode / SLOT as u64;
        }
        places.push(place);
    }
    let mut written = Written {
        root: Vec::new(),
        inodes: leaves,
    };
    for (&id, place) in order.iter().zip(&places) {
        let entries = entries(tree, &nids, id, place.size);
        let (blocks, tail) = entries.split_at(place.size - place.tail);
        if !blocks.is_empty() {
            output.pad_to(place.data)?;
            output.append(blocks)?;
            output.pad()?;
        }
        written.inodes += 1;
        let mut record = inode(tree, id, place, written.inodes)?.encode().to_vec();
        seen(&record);
        seen(&entries);
        record.extend(tree.directory(id).attributes.encode()?);
        if id == ROOT {
            written.root = record;
        } else {
            output.pad_to(place.inode)?;
            output.append(&record)?;
            output.append(tail)?;
        }
    }
    Ok(written)
}

/// Parents before children.
fn order(tree: &Tree) -> Vec<DirectoryId> {
    let mut order = vec![ROOT];
    let mut next = 0;
    while let Some(&id) = order.get(next) {
        next += 1;
        let children = tree.directory(id).children.values();
        order.extend(children.filter_map(|node| match node {
            Node::Directory(id) => Some(*id),
            Node::Leaf(_) => None,
        }));
    }
    order
}

/// The place of a directory behind `position`, which moves on.
fn lay_out(tree: &Tree, id: DirectoryId, position: &mut u64) -> Result<Place> {
    let listing = listing(tree, id);
    let mut blocks = Blocks(&listing).peekable();
    let mut size = 0;
    while let Some(block) = blocks.next() {
        size += match blocks.peek() {
            Some(_) => BLOCK,
            None => block.iter().map(length).sum(),
        };
    }
    let fixed = INODE + tree.directory(id).attributes.encode()?.len();
    let tail = size % BLOCK;
    // The root's inode is elsewhere.
    let tail = if id != ROOT && fixed + tail <= BLOCK {
        tail
    } else {
        0
    };
    let block = BLOCK as u64;
    let mut data = 0;
    if size > tail {
        data = position.next_multiple_of(block);
        *position = (data + (size - tail) as u64).next_multiple_of(block);
    }
    let mut inode = 0;
    if id != ROOT {
        let record = (fixed + tail) as u64;
        inode = position.next_multiple_of(SLOT as u64);
        if inode % block + record > block {
            inode = inode.next_multiple_of(block);
        }
        *position = inode + record;
    }
    Ok(Place {
        data,
        inode,
        size,
        tail,
    })
}

fn inode(tree: &Tree, id: DirectoryId, place: &Place, number: u32) -> Result<Inode> {
    let directory = tree.directory(id);
    let attributes = &directory.attributes;
    let children = directory.children.values();
    let subdirectories = children.filter(|node| matches!(node, Node::Directory(_)));
    Ok(Inode {
        layout: if place.tail == 0 {
            Layout::Plain
        } else {
            Layout::Inline
        },
        xattrs: attributes.encode()?.len(),
        // Twelve bits.
        mode: 0o040_000 | attributes.mode as u16,
        size: place.size as u64,
        data: block_number(place.data)?,
        number,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: attributes.mtime,
        links: 2 + subdirectories.count() as u32,
    })
}

/// A name in a directory, and what it stands for.
type Listed<'a> = (&'a [u8], Node);

/// All names in order, those of the directory itself and its parent included.
fn listing(tree: &Tree, id: DirectoryId) -> Vec<Listed<'_>> {
    let directory = tree.directory(id);
    let mut all: Vec<Listed<'_>> = Vec::with_capacity(directory.children.len() + 2);
    all.push((b".", Node::Directory(id)));
    all.push((b"..", Node::Directory(directory.parent)));
    all.extend(
        directory
            .children
            .iter()
            .map(|(name, &node)| (name.as_ref(), node)),
    );
    all.sort_unstable_by_key(|&(name, _)| name);
    all
}

fn length((name, _): &Listed<'_>) -> usize {
    DIRENT + name.len()
}

/// A listing cut into what one block holds each.
struct Blocks<'a, 'b>(&'b [Listed<'a>]);

impl<'a, 'b> Iterator for Blocks<'a, 'b> {
    type Item = &'b [Listed<'a>];

    fn next(&mut self) -> Option<Self::Item> {
        let mut room = BLOCK;
        let fits = self.0.iter().take_while(|entry| {
            let fit = length(entry) <= room;
            room -= length(entry).min(room);
            fit
        });
        let (block, rest) = self.0.split_at(fits.count());
        self.0 = rest;
        (!block.is_empty()).then_some(block)
    }
}

/// The entries as stored, `size` bytes: numbers first, then names, in each block.
fn entries(tree: &Tree, nids: &[u64], id: DirectoryId, size: usize) -> Vec<u8> {
    let listing = listing(tree, id);
    let mut out = vec![0; size];
    for (block, out) in Blocks(&listing).zip(out.chunks_mut(BLOCK)) {
        let mut name_at = block.len() * DIRENT;
        for (index, (name, node)) in block.iter().enumerate() {
            let (nid, kind) = match *node {
                Node::Directory(id) => (nids[id as usize], TYPE_DIRECTORY),
                Node::Leaf(id) => {
                    let leaf = tree.leaf(id);
                    let kind = match leaf.kind {
                        LeafKind::Symlink(_) => TYPE_SYMLINK,
                        LeafKind::Whiteout => TYPE_CHAR_DEVICE,
                        LeafKind::Other(kind) => kind,
                    };
                    (leaf.nid, kind)
                }
            };
            let at = index * DIRENT;
            put(out, at, &nid.to_le_bytes());
            put(out, at + 8, &(name_at as u16).to_le_bytes());
            out[at + 10] = kind;
            put(out, name_at, name);
            name_at += name.len();
        }
    }
    out
}
