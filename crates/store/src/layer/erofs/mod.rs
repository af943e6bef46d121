//! A layer as one EROFS file, which the kernel mounts as it is.
//!
//! The stream passes through once: data goes to the file as it comes, inodes
//! are packed between it, and only names stay in memory until the directories
//! are written behind all else. Paths mean what they mean in the directory form:
//! a symbolic link leads where it would lead in the container, and what stands
//! at the last component is replaced.
//!
//! Nothing in the file depends on when or where it is written: equal streams
//! make equal files, unless contents are in it before ([`Placed`]).

mod acl;
mod attributes;
mod directories;
mod export;
mod format;
mod output;
mod reader;
mod sparse;
mod tree;

pub(crate) use self::attributes::keep;
pub(crate) use self::export::export;
pub(crate) use self::reader::{Image, Node as ImageNode};

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use self::attributes::Attributes;
pub(crate) use self::format::BLOCK;
use self::format::{
    INODE, Inode, LINKS_OFFSET, Layout, ROOT_NID, SLOT, SUPER_OFFSET, Superblock, dirent_type,
    encode_device, put, seal,
};
use self::output::{Output, block_number};
use self::tree::{DirectoryId, LeafKind, Node, ROOT, Tree};
use super::{
    Change, Form, FormKind, Kept, Layer, Options, Path, Root, clean, display, imply, refused,
};
use crate::built::Placed;
use crate::error::{Error, Result, invalid};
use crate::tar::{Entry, Kind};

const REGULAR: u16 = 0o100_000;
const SYMLINK: u16 = 0o120_000;
const CHAR_DEVICE: u16 = 0o020_000;
const BLOCK_DEVICE: u16 = 0o060_000;
const FIFO: u16 = 0o010_000;

/// Blocks at the start for the superblock, the root's inode and its attributes.
pub(crate) const HEAD: usize = 2 * BLOCK;
const ROOT_OFFSET: usize = ROOT_NID as usize * SLOT;

/// `PATH_MAX`, with the zero byte at the end.
const MAX_TARGET: usize = 4096;

/// Bytes that may be held until the directories are written: names, targets and
/// attributes of directories, and so much for each entry besides. Compressed,
/// a gigabyte of them is a small blob.
const MAX_HELD: usize = 512 << 20;
const HELD_EACH: usize = 96;

/// A growing file.
#[derive(Debug)]
pub(crate) struct Erofs {
    output: Output,
    options: Options,
    tree: Tree,
    held: usize,
    inodes: u32,
    chunked: bool,
    pub(super) implied: u32,
    size: u64,
    opaque: bool,
    /// Contents that are in the file, by name, and where.
    placed: HashMap<Vec<u8>, u64>,
    /// Where what is written begins.
    start: u64,
    /// Of all metadata: makes the file's UUID.
    hash: Sha256,
}

impl Erofs {
    /// Fills the empty file `file`.
    pub(crate) fn new(file: File, options: Options) -> Self {
        let (end, contents) = (HEAD as u64, HashMap::new());
        let placed = Placed {
            file,
            end,
            contents,
        };
        Self::over(placed, options)
    }

    /// Goes on behind what is in a file.
    pub(crate) fn over(placed: Placed, options: Options) -> Self {
        let end = placed.end.max(HEAD as u64);
        let start = end.next_multiple_of(BLOCK as u64);
        Self {
            output: Output::new(placed.file, start),
            options,
            tree: Tree::new(),
            held: 0,
            inodes: 0,
            chunked: false,
            implied: 0,
            size: 0,
            opaque: false,
            placed: placed.contents,
            start,
            hash: Sha256::new(),
        }
    }

    /// Counts an entry with so many bytes of its own; also what is replaced.
    fn hold(&mut self, bytes: usize) -> Result<()> {
        self.held += bytes + HELD_EACH;
        if self.held > MAX_HELD {
            return invalid(format!(
                "names and attributes of its files need more than {MAX_HELD} bytes of memory"
            ));
        }
        Ok(())
    }

    /// The directory `path`, made if missing.
    fn enter(&mut self, path: &Path) -> Result<DirectoryId> {
        match self.tree.resolve(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_all(path),
            other => other.map_err(|e| refused(e, "open directory", path)),
        }
    }

    /// Makes the missing directories of `path`, owned by root, mode 0755.
    fn make_all(&mut self, path: &Path) -> Result<DirectoryId> {
        let mut parent = ROOT;
        for depth in 1..=path.len() {
            let here = &path[..depth];
            parent = match self.tree.resolve(here) {
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_one(parent, here)?,
                other => other.map_err(|e| refused(e, "open directory", here))?,
            };
        }
        Ok(parent)
    }

    fn make_one(&mut self, parent: DirectoryId, path: &Path) -> Result<DirectoryId> {
        imply(&mut self.implied)?;
        let Some(name) = path.last() else {
            return invalid("the root of a layer is missing");
        };
        self.hold(name.len())?;
        match self.tree.child(parent, name) {
            None => self.tree.add_directory(parent, name),
            Some(node) if self.is_whiteout(node) => self.replace_by_directory(parent, name),
            Some(_) => invalid(format!(
                "{:?} is in its way and not a directory",
                display(path)
            )),
        }
    }

    fn is_whiteout(&self, node: Node) -> bool {
        matches!(node, Node::Leaf(id) if self.tree.leaf(id).kind == LeafKind::Whiteout)
    }

    /// A new directory; opaque, where it takes the place of a whiteout.
    fn replace_by_directory(&mut self, parent: DirectoryId, name: &[u8]) -> Result<DirectoryId> {
        let hidden = (self.tree.child(parent, name)).is_some_and(|node| self.is_whiteout(node));
        self.tree.remove(parent, name);
        let id = self.tree.add_directory(parent, name)?;
        if hidden {
            self.mark_opaque(id)?;
        }
        Ok(id)
    }

    fn mark_opaque(&mut self, id: DirectoryId) -> Result<()> {
        let options = self.options;
        self.tree.directory_mut(id).attributes.mark_opaque(options)
    }

    fn put(&mut self, path: &Path, entry: &Entry, data: &mut dyn Read) -> Result<()> {
        let attributes: usize = match entry.kind {
            Kind::Directory => (entry.xattrs.iter())
                .map(|(name, value)| name.len() + value.len())
                .sum(),
            // Those of others are written at once.
            _ => 0,
        };
        self.hold(path.last().map_or(0, Vec::len) + entry.link.len() + attributes)?;
        let Some((name, parent)) = path.split_last() else {
            return self.tree.directory_mut(ROOT).attributes.describe(entry);
        };
        let device = matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice);
        if device && !self.options.devices {
            return Ok(());
        }
        if entry.kind == Kind::Symlink && entry.link.is_empty() {
            return invalid("a symbolic link without a target");
        }
        if entry.kind == Kind::HardLink {
            return self.put_link(parent, name, path, entry);
        }
        let parent = self.enter(parent)?;
        match entry.kind {
            Kind::Directory => {
                let id = match self.tree.child(parent, name) {
                    Some(Node::Directory(id)) => id,
                    _ => self.replace_by_directory(parent, name)?,
                };
                self.tree.directory_mut(id).attributes.describe(entry)
            }
            Kind::File | Kind::HardLink => {
                self.tree.remove(parent, name);
                let (nid, kept) = self.file(entry, data)?;
                let kind = LeafKind::Other(dirent_type(REGULAR));
                self.tree.add_leaf(parent, name, nid, kind, kept)
            }
            Kind::Symlink => {
                self.tree.remove(parent, name);
                let (nid, kept) = self.symlink(path, entry)?;
                let kind = LeafKind::Symlink(entry.link.as_slice().into());
                self.tree.add_leaf(parent, name, nid, kind, kept)
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.tree.remove(parent, name);
                let (nid, kind, kept) = self.special(entry)?;
                self.tree.add_leaf(parent, name, nid, kind, kept)
            }
        }
    }

    fn file(&mut self, entry: &Entry, data: &mut dyn Read) -> Result<(u64, Kept)> {
        let attributes = Attributes::of_file(entry)?;
        if let Some(at) = self.placed.remove(&entry.name) {
            return self.placed_file(&attributes, entry.size, at, data);
        }
        let nid = match entry.extents.as_ref().filter(|_| entry.size > 0) {
            Some(extents) => self.sparse_file(&attributes, extents, entry.size, data)?,
            None => {
                self.size += entry.size;
                self.inode_with_data(REGULAR, &attributes, entry.size, data)?
            }
        };
        Ok((nid, attributes.kept()))
    }

    /// Its content is in the file, which its size must fit into.
    fn placed_file(
        &mut self,
        attributes: &Attributes,
        size: u64,
        at: u64,
        data: &mut dyn Read,
    ) -> Result<(u64, Kept)> {
        let end = at.checked_add(size);
        if !at.is_multiple_of(BLOCK as u64) || end.is_none_or(|end| end > self.start) {
            return invalid("a content is not where it was said to be");
        }
        // For its digest.
        self.output.pass_by(data, size)?;
        self.size += size;
        let xattrs = attributes.encode()?;
        let mut inode = self.inode(REGULAR, attributes, size, block_number(at)?);
        inode.xattrs = xattrs.len();
        let nid = self.store(&inode, &xattrs, 0)?.0;
        Ok((nid, attributes.kept()))
    }

    fn symlink(&mut self, path: &Path, entry: &Entry) -> Result<(u64, Kept)> {
        if entry.link.len() >= MAX_TARGET {
            return Err(refused(Errno::NAMETOOLONG, "create", path));
        }
        let attributes = Attributes::plain(entry, 0o777);
        let size = entry.link.len() as u64;
        let nid = self.inode_with_data(SYMLINK, &attributes, size, &mut entry.link.as_slice())?;
        Ok((nid, attributes.kept()))
    }

    fn special(&mut self, entry: &Entry) -> Result<(u64, LeafKind, Kept)> {
        let (kind, device) = match entry.kind {
            Kind::CharDevice => (CHAR_DEVICE, entry.device),
            Kind::BlockDevice => (BLOCK_DEVICE, entry.device),
            _ => (FIFO, (0, 0)),
        };
        let Some(device) = encode_device(device.0, device.1) else {
            return invalid(format!(
                "device number {}:{} is out of range",
                device.0, device.1
            ));
        };
        let attributes = Attributes::plain(entry, entry.mode);
        let inode = self.inode(kind, &attributes, 0, device);
        let nid = self.store(&inode, &[], 0)?.0;
        let is_whiteout = kind == CHAR_DEVICE && device == 0;
        let kind = match is_whiteout {
            true => LeafKind::Whiteout,
            false => LeafKind::Other(dirent_type(kind)),
        };
        Ok((nid, kind, attributes.kept()))
    }

    /// Whole blocks go into the stream; the rest follows the inode if both fit
    /// into a block.
    fn inode_with_data(
        &mut self,
        kind: u16,
        attributes: &Attributes,
        size: u64,
        data: &mut dyn Read,
    ) -> Result<u64> {
        let xattrs = attributes.encode()?;
        // Below a block.
        let mut tail = (size % BLOCK as u64) as usize;
        if INODE + xattrs.len() + tail > BLOCK {
            tail = 0;
        }
        let mut inode = self.inode(kind, attributes, size, 0);
        inode.xattrs = xattrs.len();
        let whole = size - tail as u64;
        if whole > 0 {
            inode.data = block_number(self.output.position() + whole)
                .and_then(|_| block_number(self.output.position()))?;
            self.output.copy(data, whole)?;
            self.output.pad()?;
        }
        if tail > 0 {
            inode.layout = Layout::Inline;
        }
        let (nid, room) = self.store(&inode, &xattrs, tail)?;
        data.read_exact(room)
            .map_err(Error::stream("the archive"))?;
        Ok(nid)
    }

    fn inode(&mut self, kind: u16, attributes: &Attributes, size: u64, data: u32) -> Inode {
        self.inodes += 1;
        Inode {
            layout: Layout::Plain,
            xattrs: 0,
            // Twelve bits.
            mode: kind | attributes.mode as u16,
            size,
            data,
            number: self.inodes,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: attributes.mtime,
            links: 1,
        }
    }

    /// Writes an inode with its attributes: its number, and room for what
    /// follows, at most the rest of a block.
    fn store(&mut self, inode: &Inode, xattrs: &[u8], tail: usize) -> Result<(u64, &mut [u8])> {
        let bytes = inode.encode();
        self.hash.update(bytes);
        let fixed = INODE + xattrs.len();
        if fixed + tail > BLOCK {
            let at = self.output.position();
            self.output.append(&bytes)?;
            self.output.append(xattrs)?;
            self.output.pad()?;
            return Ok((at / SLOT as u64, &mut []));
        }
        let (at, slot) = self.output.slot(fixed + tail)?;
        put(slot, 0, &bytes);
        put(slot, INODE, xattrs);
        Ok((at / SLOT as u64, &mut slot[fixed..fixed + tail]))
    }

    /// Mode, owner and the rest come with the file linked to.
    fn put_link(&mut self, parent: &Path, name: &[u8], path: &Path, entry: &Entry) -> Result<()> {
        let link = || format!("hard link to {:?}", String::from_utf8_lossy(&entry.link));
        let target = clean(&entry.link).map_err(|e| e.within(&link()))?;
        let Some((target_name, target_parent)) = target.split_last() else {
            return invalid(format!("{} is a link to a directory", link()));
        };
        let missing = || Error::Invalid(format!("{} whose target is not in this layer", link()));
        // The parent first: making it may not change what the target means.
        let parent = self.enter(parent)?;
        let from = self.tree.resolve(target_parent).map_err(|_| missing())?;
        let leaf = match self.tree.child(from, target_name).ok_or_else(missing)? {
            Node::Leaf(id) => id,
            Node::Directory(_) => return invalid(format!("{} is a link to a directory", link())),
        };
        if self.tree.child(parent, name) == Some(Node::Leaf(leaf)) {
            return Ok(());
        }
        self.tree.remove(parent, name);
        // It may have been in what was replaced.
        if self.tree.child(from, target_name) != Some(Node::Leaf(leaf)) {
            return Err(refused(Errno::NOENT, "create", path));
        }
        self.tree.add_link(parent, name, leaf);
        Ok(())
    }

    fn whiteout(&mut self, path: &Path) -> Result<()> {
        let Some((name, parent)) = path.split_last() else {
            return Ok(());
        };
        self.hold(name.len())?;
        let parent = self.enter(parent)?;
        match self.tree.child(parent, name) {
            // Hides lower layers only (OCI image-spec, "Whiteouts"): what this
            // layer has there stays, but must not merge with what is below.
            Some(Node::Directory(id)) => self.mark_opaque(id),
            Some(Node::Leaf(_)) => Ok(()),
            None => {
                let inode = self.inode(CHAR_DEVICE, &Attributes::whiteout(), 0, 0);
                let nid = self.store(&inode, &[], 0)?.0;
                self.tree
                    .add_leaf(parent, name, nid, LeafKind::Whiteout, Kept::default())
            }
        }
    }

    /// The superblock and the root's inode, at the front of the file.
    fn write_head(&self, root: &[u8], inodes: u64) -> Result<()> {
        if ROOT_OFFSET + root.len() > HEAD {
            return invalid(format!(
                "its root directory has more than {} bytes of extended attributes",
                HEAD - ROOT_OFFSET - INODE
            ));
        }
        let digest = self.hash.clone().finalize();
        let mut uuid = [0; 16];
        put(&mut uuid, 0, &digest[..16]);
        // Version 8 (RFC 9562): made by a rule of our own.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let superblock = Superblock {
            root_nid: ROOT_NID,
            inodes,
            blocks: block_number(self.output.position())?,
            uuid,
            chunked: self.chunked,
        };
        let mut head = [0; HEAD];
        put(&mut head, SUPER_OFFSET, &superblock.encode());
        put(&mut head, ROOT_OFFSET, root);
        if let Some(first) = head.first_chunk_mut() {
            seal(first);
        }
        self.output.write_at(&head, 0)
    }
}

impl Form for Erofs {
    fn apply(&mut self, change: Change<'_>, data: &mut dyn Read) -> Result<()> {
        match change {
            Change::Put(path, entry) => self.put(path, entry, data),
            Change::Whiteout(path) => self.whiteout(path),
            Change::Opaque([]) => {
                self.opaque = true;
                Ok(())
            }
            Change::Opaque(path) => {
                let directory = self.enter(path)?;
                self.mark_opaque(directory)
            }
        }
    }

    fn finish(mut self) -> Result<Layer> {
        self.output.end_slots()?;
        let hash = &mut self.hash;
        let written = directories::write(&self.tree, &mut self.output, self.inodes, |bytes| {
            hash.update(bytes);
        })?;
        self.output.finish()?;
        for leaf in self.tree.leaves.iter().filter(|leaf| leaf.links > 1) {
            let at = leaf.nid * SLOT as u64 + LINKS_OFFSET;
            self.output.write_at(&leaf.links.to_le_bytes(), at)?;
        }
        let gone = self.tree.leaves.iter().filter(|leaf| leaf.links == 0);
        let inodes = u64::from(written.inodes) - gone.count() as u64;
        self.write_head(&written.root, inodes)?;
        let root = &self.tree.directory(ROOT).attributes;
        Ok(Layer {
            form: FormKind::Erofs,
            size: self.size,
            root: Root {
                mode: root.mode,
                uid: root.uid,
                gid: root.gid,
            },
            opaque: self.opaque,
            built: None,
        })
    }

    fn kept(&self, path: &Path) -> Result<Option<Kept>> {
        let Some((name, parent)) = path.split_last() else {
            return Ok(None);
        };
        let parent = self.tree.resolve(parent).ok();
        Ok(
            match parent.and_then(|parent| self.tree.child(parent, name)) {
                Some(Node::Leaf(id)) => {
                    let leaf = self.tree.leaf(id);
                    (leaf.kind != LeafKind::Whiteout).then_some(leaf.kept)
                }
                _ => None,
            },
        )
    }
}

#[cfg(test)]
mod tests;
