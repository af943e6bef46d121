//! What is copied from: a tree, or a root filesystem through its descriptor.

use std::cmp::Ordering;
use std::io;
use std::os::fd::BorrowedFd;

use super::Source;
use crate::draft::{
    Attributes, Data, InRoot, Kind, LeafKind, MAX_DEPTH, Step, children, find, follow, invalid,
    join, show,
};
use crate::tree::{Entry, Node, Tree};

/// One entry of a source.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    pub(super) kind: ItemKind<'a>,
    pub(super) attributes: Attributes,
    /// The same for all names of one file; none if it has one.
    pub(super) identity: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub(super) enum ItemKind<'a> {
    Directory,
    Leaf(LeafKind<'a>),
    /// No archive can say one.
    Socket,
}

impl Item<'_> {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, ItemKind::Directory)
    }
}

impl<'a> Source<'a> {
    /// The path without links that `path` leads to; none if there is nothing.
    pub(super) fn follow(self, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
        follow(path, &mut |path| {
            Ok(match self.find(path)? {
                None => Step::Missing,
                Some(item) => match item.kind {
                    ItemKind::Leaf(LeafKind::Symlink(target)) => Step::Link(target),
                    _ => Step::There,
                },
            })
        })
    }

    /// What is at a path without links.
    pub(super) fn find(self, path: &[u8]) -> io::Result<Option<Item<'a>>> {
        match self {
            Source::Root(root) => Ok(find(root, path)?.map(|found| item(root, path, found))),
            Source::Tree(_) if path.is_empty() => Ok(Some(root_of_tree())),
            Source::Tree(tree) => match search(tree, path) {
                Ok(at) => tree_item(tree, at, false).map(Some),
                Err(_) => Ok(None),
            },
        }
    }

    /// All below a directory, each directory followed by what is in it, in the
    /// order of names. `visit` gets paths from there, and says of directories
    /// whether to go into them.
    pub(super) fn walk(
        self,
        path: &[u8],
        visit: &mut dyn FnMut(&[u8], &Item<'a>) -> io::Result<bool>,
    ) -> io::Result<()> {
        match self {
            Source::Root(root) => walk_root(root, path, visit),
            Source::Tree(tree) => walk_tree(tree, path, visit),
        }
    }
}

fn root_of_tree<'a>() -> Item<'a> {
    Item {
        kind: ItemKind::Directory,
        attributes: Attributes::directory((0, 0)),
        identity: None,
    }
}

/// Paths compare part by part: `a/b` comes before `a-b`.
fn order(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: &u8| {
        if *byte == b'/' {
            0
        } else {
            u16::from(*byte) + 1
        }
    };
    a.iter().map(rank).cmp(b.iter().map(rank))
}

/// Where an entry is, or would be.
fn search(tree: &Tree, path: &[u8]) -> Result<usize, usize> {
    (tree.entries).binary_search_by(|entry| order(entry.path.as_bytes(), path))
}

/// `linked`: names of one file matter.
fn tree_item(tree: &Tree, at: usize, linked: bool) -> io::Result<Item<'_>> {
    let entry = &tree.entries[at];
    let (at, entry) = match &entry.node {
        Node::HardLink(first) => match search(tree, first.as_bytes()) {
            Ok(first) if !matches!(tree.entries[first].node, Node::HardLink(_)) => {
                (first, &tree.entries[first])
            }
            _ => {
                let message = format!("{} is a hard link to nothing", show(entry.path.as_bytes()));
                return Err(invalid(message));
            }
        },
        _ => (at, entry),
    };
    let kind = match &entry.node {
        Node::Directory => ItemKind::Directory,
        Node::File { digest, size } => ItemKind::Leaf(LeafKind::File(Data::Stored {
            digest: digest.as_str().into(),
            size: *size,
        })),
        Node::Symlink(target) => ItemKind::Leaf(LeafKind::Symlink(target.as_bytes().into())),
        Node::Special { kind, major, minor } => {
            ItemKind::Leaf(LeafKind::Special(*kind, *major, *minor))
        }
        Node::HardLink(_) => return Err(invalid("a hard link to a hard link")),
    };
    Ok(Item {
        identity: linked.then_some((0, at as u64)),
        kind,
        attributes: tree_attributes(entry),
    })
}

/// Files from outside belong to nobody here: 0:0.
fn tree_attributes(entry: &Entry) -> Attributes {
    Attributes {
        mode: entry.mode & 0o7777,
        uid: 0,
        gid: 0,
        mtime: Some(entry.mtime),
        xattrs: (entry.xattrs.iter())
            .map(|(name, value)| (name.as_bytes().into(), value.as_slice().into()))
            .collect(),
    }
}

fn walk_tree<'a>(
    tree: &'a Tree,
    path: &[u8],
    visit: &mut dyn FnMut(&[u8], &Item<'a>) -> io::Result<bool>,
) -> io::Result<()> {
    let skip = if path.is_empty() { 0 } else { path.len() + 1 };
    let mut at = match search(tree, path) {
        Ok(at) => at + 1,
        Err(at) => at,
    };
    let below = |entry: &Entry, path: &[u8]| {
        let entry = entry.path.as_bytes();
        path.is_empty()
            || entry.len() > path.len() && entry.starts_with(path) && entry[path.len()] == b'/'
    };
    let linked = (tree.entries.iter()).any(|entry| matches!(entry.node, Node::HardLink(_)));
    while let Some(entry) = tree.entries.get(at).filter(|entry| below(entry, path)) {
        let item = tree_item(tree, at, linked)?;
        let here = entry.path.as_bytes();
        at += 1;
        if !visit(&here[skip..], &item)? && item.is_directory() {
            at += tree.entries[at..].partition_point(|entry| below(entry, here));
        }
    }
    Ok(())
}

fn item<'a>(root: BorrowedFd<'a>, path: &[u8], found: crate::draft::Found) -> Item<'a> {
    let kind = match found.kind {
        Kind::Directory => ItemKind::Directory,
        Kind::File(size) => ItemKind::Leaf(LeafKind::File(Data::InRoot(InRoot {
            root,
            path: path.into(),
            size,
        }))),
        Kind::Symlink(target) => ItemKind::Leaf(LeafKind::Symlink(target)),
        Kind::Special(kind, major, minor) => ItemKind::Leaf(LeafKind::Special(kind, major, minor)),
        Kind::Socket => ItemKind::Socket,
    };
    Item {
        kind,
        attributes: found.attributes,
        identity: found.identity,
    }
}

fn walk_root<'a>(
    root: BorrowedFd<'a>,
    path: &[u8],
    visit: &mut dyn FnMut(&[u8], &Item<'a>) -> io::Result<bool>,
) -> io::Result<()> {
    let skip = if path.is_empty() { 0 } else { path.len() + 1 };
    let mut stack = vec![(path.to_vec(), children(root, path)?.into_iter())];
    while let Some((parent, names)) = stack.last_mut() {
        let Some(name) = names.next() else {
            stack.pop();
            continue;
        };
        let path = join(parent.clone(), &name);
        // None: a running container took it away.
        let Some(found) = find(root, &path)? else {
            continue;
        };
        let item = item(root, &path, found);
        if visit(&path[skip..], &item)? && item.is_directory() {
            if stack.len() > MAX_DEPTH {
                return Err(invalid(format!("{} is nested too deep", show(&path))));
            }
            let names = children(root, &path)?.into_iter();
            stack.push((path, names));
        }
    }
    Ok(())
}
