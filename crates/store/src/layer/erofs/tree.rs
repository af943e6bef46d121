//! Names and what they stand for, kept until the directories are written.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::attributes::Attributes;
use crate::error::{Result, invalid};
use crate::layer::{Kept, MAX_COMPONENT, MAX_ENTRIES, Path};

/// As many symbolic links as the kernel follows in one look-up.
pub(super) const MAX_LINKS: u32 = 40;

/// Index of a directory in the tree.
pub(super) type DirectoryId = u32;
/// Index of an inode that is no directory.
pub(super) type LeafId = u32;

pub(super) const ROOT: DirectoryId = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Directory(DirectoryId),
    Leaf(LeafId),
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) parent: DirectoryId,
    pub(super) children: BTreeMap<Box<[u8]>, Node>,
    pub(super) attributes: Attributes,
}

/// An inode that is written already.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) nid: u64,
    /// Names it has; 0 = it was replaced.
    pub(super) links: u32,
    pub(super) kind: LeafKind,
    pub(super) kept: Kept,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LeafKind {
    /// With its target, which paths may lead through.
    Symlink(Box<[u8]>),
    Whiteout,
    /// With the type of its directory entries.
    Other(u8),
}

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) directories: Vec<Directory>,
    pub(super) leaves: Vec<Leaf>,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            directories: vec![Directory::default()],
            leaves: Vec::new(),
        }
    }

    pub(super) fn directory(&self, id: DirectoryId) -> &Directory {
        &self.directories[id as usize]
    }

    pub(super) fn directory_mut(&mut self, id: DirectoryId) -> &mut Directory {
        &mut self.directories[id as usize]
    }

    pub(super) fn leaf(&self, id: LeafId) -> &Leaf {
        &self.leaves[id as usize]
    }

    pub(super) fn child(&self, parent: DirectoryId, name: &[u8]) -> Option<Node> {
        self.directory(parent).children.get(name).copied()
    }

    /// The directory that `path` leads to, through links as inside a container
    /// (`openat2` with `RESOLVE_IN_ROOT`).
    pub(super) fn resolve(&self, path: &Path) -> Result<DirectoryId, Errno> {
        let mut here = ROOT;
        let mut links = 0;
        // Components still to walk, the next one last.
        let mut rest: Vec<&[u8]> = path.iter().rev().map(Vec::as_slice).collect();
        while let Some(name) = rest.pop() {
            match name {
                b"" | b"." => continue,
                b".." => {
                    here = self.directory(here).parent;
                    continue;
                }
                _ if name.len() > MAX_COMPONENT => return Err(Errno::NAMETOOLONG),
                _ => {}
            }
            match self.child(here, name).ok_or(Errno::NOENT)? {
                Node::Directory(id) => here = id,
                Node::Leaf(id) => {
                    let LeafKind::Symlink(target) = &self.leaf(id).kind else {
                        return Err(Errno::NOTDIR);
                    };
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with(b"/") {
                        here = ROOT;
                    }
                    rest.extend(target.rsplit(|&b| b == b'/'));
                }
            }
        }
        Ok(here)
    }

    pub(super) fn add_directory(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
    ) -> Result<DirectoryId> {
        let id = self.next(self.directories.len())?;
        self.directories.push(Directory {
            parent,
            ..Directory::default()
        });
        self.link(parent, name, Node::Directory(id));
        Ok(id)
    }

    pub(super) fn add_leaf(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        nid: u64,
        kind: LeafKind,
        kept: Kept,
    ) -> Result<()> {
        let id = self.next(self.leaves.len())?;
        self.leaves.push(Leaf {
            nid,
            links: 1,
            kind,
            kept,
        });
        self.link(parent, name, Node::Leaf(id));
        Ok(())
    }

    /// Also what was replaced counts: it bounds memory.
    fn next(&self, index: usize) -> Result<u32> {
        if self.directories.len() + self.leaves.len() > MAX_ENTRIES as usize {
            return invalid(format!("it makes more than {MAX_ENTRIES} files"));
        }
        Ok(index as u32)
    }

    pub(super) fn add_link(&mut self, parent: DirectoryId, name: &[u8], leaf: LeafId) {
        self.leaves[leaf as usize].links += 1;
        self.link(parent, name, Node::Leaf(leaf));
    }

    fn link(&mut self, parent: DirectoryId, name: &[u8], node: Node) {
        self.directory_mut(parent)
            .children
            .insert(name.into(), node);
    }

    /// Removes what is at `name`, with all below.
    pub(super) fn remove(&mut self, parent: DirectoryId, name: &[u8]) {
        let mut pending: Vec<_> = self
            .directory_mut(parent)
            .children
            .remove(name)
            .into_iter()
            .collect();
        while let Some(node) = pending.pop() {
            match node {
                Node::Leaf(id) => self.leaves[id as usize].links -= 1,
                Node::Directory(id) => {
                    let gone = std::mem::take(self.directory_mut(id));
                    pending.extend(gone.children.into_values());
                }
            }
        }
    }
}
