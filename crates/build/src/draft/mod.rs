//! A filesystem as it will be: changes in memory over a base that is only read.
//! A context's archive becomes a tree with it, COPY and ADD become a layer.
//!
//! Paths are followed as inside a container whose root is the base: links
//! never lead out of it, whoever made them.

mod archive;
mod base;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

pub(crate) use self::base::{
    Found, InRoot, Kind, MAX_LINKS, Step, attributes_of, children, find, follow, open_file,
    read_all,
};

/// Bounds of what is made, whatever the archive or the base says.
pub(crate) const MAX_ENTRIES: usize = 5_000_000;
pub(crate) const MAX_DEPTH: usize = 512;
pub(crate) const MAX_PATH: usize = 4095;
pub(crate) const MAX_COMPONENT: usize = 255;
/// Bytes of names, links and attributes.
const MAX_HELD: usize = 1 << 30;

/// One part of a path, or another short text.
pub(crate) type Name = Box<[u8]>;
/// Name with its namespace, and value.
pub(crate) type Xattr = (Name, Name);

/// What an entry says besides its name and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Lower twelve bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Nanoseconds since 1970; none = when it is made.
    pub(crate) mtime: Option<i64>,
    /// Sorted.
    pub(crate) xattrs: Box<[Xattr]>,
}

impl Attributes {
    /// Of a directory that nothing describes.
    pub(crate) fn directory(owner: (u32, u32)) -> Self {
        Self {
            mode: 0o755,
            uid: owner.0,
            gid: owner.1,
            ..Self::default()
        }
    }
}

/// Where the content of a file is.
#[derive(Clone, Debug)]
pub(crate) enum Data<'a> {
    /// In the store of contents.
    Stored {
        digest: Cow<'a, str>,
        size: u64,
    },
    /// On its way there; replaced by [`Draft::settle`].
    Slot {
        slot: usize,
        size: u64,
    },
    InRoot(InRoot<'a>),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Debug)]
pub(crate) enum LeafKind<'a> {
    File(Data<'a>),
    Symlink(Name),
    /// Type bits of `st_mode`, major, minor.
    Special(u32, u32, u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Leaf<'a> {
    pub(crate) kind: LeafKind<'a>,
    pub(crate) attributes: Attributes,
}

pub(crate) type DirectoryId = usize;
pub(crate) type LeafId = usize;
pub(crate) const ROOT: DirectoryId = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Directory(DirectoryId),
    Leaf(LeafId),
}

#[derive(Debug)]
struct Directory {
    parent: DirectoryId,
    name: Name,
    depth: usize,
    /// Bytes of its path.
    length: usize,
    children: BTreeMap<Name, Node>,
    attributes: Attributes,
    /// What the base has here shows through.
    merged: bool,
    /// It is written even if nothing in it is.
    changed: bool,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Directory(DirectoryId),
    /// Something else.
    Other(DirectoryId, Name),
    Missing(DirectoryId, Name),
}

/// What a directory has at a name.
#[derive(Debug)]
pub(crate) enum Child {
    Directory(DirectoryId),
    Symlink(Name),
    Other,
    Missing,
}

#[derive(Debug)]
pub(crate) struct Draft<'a> {
    base: Option<BorrowedFd<'a>>,
    directories: Vec<Directory>,
    leaves: Vec<Leaf<'a>>,
    /// How many names each leaf got.
    names: Vec<u32>,
    held: usize,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(base: Option<BorrowedFd<'a>>) -> io::Result<Self> {
        let attributes = match base {
            Some(base) => attributes_of(&base::open_directory(base, b"")?)?,
            None => Attributes::directory((0, 0)),
        };
        Ok(Self {
            base,
            directories: vec![Directory {
                parent: ROOT,
                name: Box::default(),
                depth: 0,
                length: 0,
                children: BTreeMap::new(),
                attributes,
                merged: base.is_some(),
                changed: false,
            }],
            leaves: Vec::new(),
            names: Vec::new(),
            held: 0,
        })
    }

    /// Path of a directory, without slashes around it.
    pub(crate) fn path(&self, mut id: DirectoryId) -> Vec<u8> {
        let mut names = Vec::new();
        while id != ROOT {
            names.push(&*self.directories[id].name);
            id = self.directories[id].parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    pub(crate) fn path_of(&self, parent: DirectoryId, name: &[u8]) -> Vec<u8> {
        join(self.path(parent), name)
    }

    /// What is at a name; a directory of the base is taken into the draft.
    pub(crate) fn child(&mut self, parent: DirectoryId, name: &[u8]) -> io::Result<Child> {
        match self.directories[parent].children.get(name) {
            Some(Node::Directory(id)) => return Ok(Child::Directory(*id)),
            Some(Node::Leaf(id)) => {
                return Ok(match &self.leaves[*id].kind {
                    LeafKind::Symlink(target) => Child::Symlink(target.clone()),
                    _ => Child::Other,
                });
            }
            None => {}
        }
        let Some(base) = self.base.filter(|_| self.directories[parent].merged) else {
            return Ok(Child::Missing);
        };
        let path = self.path_of(parent, name);
        let Some(found) = find(base, &path)? else {
            return Ok(Child::Missing);
        };
        Ok(match found.kind {
            Kind::Directory => {
                let attributes = found.attributes;
                Child::Directory(self.add_directory(parent, name, attributes, true)?)
            }
            Kind::Symlink(target) => Child::Symlink(target),
            _ => Child::Other,
        })
    }

    /// Follows a path, all links in it too. What is missing on the way is made
    /// with these attributes; the last part is not.
    ///
    /// # Errors
    /// If something on the way is no directory, or links lead in circles.
    pub(crate) fn resolve(&mut self, path: &[u8], made: &Attributes) -> io::Result<Place> {
        self.walk(ROOT, ROOT, path, made)
    }

    /// The same from `from`, with `root` as what links see as root.
    fn walk(
        &mut self,
        root: DirectoryId,
        from: DirectoryId,
        path: &[u8],
        made: &Attributes,
    ) -> io::Result<Place> {
        let mut here = from;
        let mut links = 0;
        let mut rest = Vec::new();
        push_parts(&mut rest, path)?;
        while let Some(name) = rest.pop() {
            if *name == *b".." {
                if here != root {
                    here = self.directories[here].parent;
                }
                continue;
            }
            match self.child(here, &name)? {
                Child::Directory(id) => here = id,
                Child::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        let path = String::from_utf8_lossy(path);
                        return Err(invalid(format!("too many links in {path:?}")));
                    }
                    if target.starts_with(b"/") {
                        here = root;
                    }
                    push_parts(&mut rest, &target)?;
                }
                Child::Other if rest.is_empty() => return Ok(Place::Other(here, name)),
                Child::Other => {
                    let path = self.path_of(here, &name);
                    return Err(invalid(format!("mkdir {}: not a directory", show(&path))));
                }
                Child::Missing if rest.is_empty() => return Ok(Place::Missing(here, name)),
                Child::Missing => here = self.make(here, &name, made.clone())?,
            }
        }
        Ok(Place::Directory(here))
    }

    /// The directory that a path leads to, made if it is missing.
    pub(crate) fn enter(&mut self, path: &[u8], made: &Attributes) -> io::Result<DirectoryId> {
        self.enter_below(ROOT, path, made)
    }

    fn enter_below(
        &mut self,
        root: DirectoryId,
        path: &[u8],
        made: &Attributes,
    ) -> io::Result<DirectoryId> {
        match self.walk(root, root, path, made)? {
            Place::Directory(id) => Ok(id),
            Place::Missing(parent, name) => self.make(parent, &name, made.clone()),
            Place::Other(parent, name) => {
                let path = self.path_of(parent, &name);
                Err(invalid(format!("mkdir {}: not a directory", show(&path))))
            }
        }
    }

    /// A new directory, in place of whatever is there.
    pub(crate) fn make(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        attributes: Attributes,
    ) -> io::Result<DirectoryId> {
        let id = self.add_directory(parent, name, attributes, false)?;
        self.directories[id].changed = true;
        Ok(id)
    }

    /// Gives a directory other attributes.
    pub(crate) fn describe(&mut self, id: DirectoryId, attributes: Attributes) {
        let directory = &mut self.directories[id];
        directory.attributes = attributes;
        directory.changed = true;
    }

    pub(crate) fn attributes(&self, id: DirectoryId) -> &Attributes {
        &self.directories[id].attributes
    }

    /// A new file or the like, in place of whatever is there.
    pub(crate) fn put(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        leaf: Leaf<'a>,
    ) -> io::Result<LeafId> {
        let id = self.leaves.len();
        self.hold(parent, name, leaf.size())?;
        self.leaves.push(leaf);
        self.names.push(0);
        self.name(parent, name, id);
        Ok(id)
    }

    /// One more name of a leaf.
    pub(crate) fn link(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        leaf: LeafId,
    ) -> io::Result<()> {
        self.hold(parent, name, 0)?;
        self.name(parent, name, leaf);
        Ok(())
    }

    fn name(&mut self, parent: DirectoryId, name: &[u8], leaf: LeafId) {
        self.names[leaf] += 1;
        let node = Node::Leaf(leaf);
        self.directories[parent].children.insert(name.into(), node);
    }

    fn add_directory(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        attributes: Attributes,
        merged: bool,
    ) -> io::Result<DirectoryId> {
        self.hold(parent, name, attributes.size())?;
        let id = self.directories.len();
        let above = &mut self.directories[parent];
        above.children.insert(name.into(), Node::Directory(id));
        let (depth, length) = (above.depth + 1, above.length + name.len() + 1);
        self.directories.push(Directory {
            parent,
            name: name.into(),
            depth,
            length,
            children: BTreeMap::new(),
            attributes,
            merged,
            changed: false,
        });
        Ok(id)
    }

    /// Counts one more entry.
    fn hold(&mut self, parent: DirectoryId, name: &[u8], more: usize) -> io::Result<()> {
        let above = &self.directories[parent];
        let length = above.length + name.len();
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
            let name = String::from_utf8_lossy(name);
            return Err(invalid(format!("{name:?} cannot be the name of a file")));
        }
        if name.len() > MAX_COMPONENT || length > MAX_PATH || above.depth >= MAX_DEPTH {
            let path = self.path_of(parent, name);
            return Err(invalid(format!("the path {} is too long", show(&path))));
        }
        self.held += length + more;
        if self.held > MAX_HELD {
            let message = format!("names and attributes of files take more than {MAX_HELD} bytes");
            return Err(invalid(message));
        }
        if self.directories.len() + self.leaves.len() >= MAX_ENTRIES {
            return Err(invalid(format!("there are more than {MAX_ENTRIES} files")));
        }
        Ok(())
    }

    /// Tells the digests of contents that were on their way.
    pub(crate) fn settle(&mut self, digests: &[String]) {
        for leaf in &mut self.leaves {
            if let LeafKind::File(data @ Data::Slot { .. }) = &mut leaf.kind
                && let Data::Slot { slot, size } = *data
            {
                let digest = Cow::Owned(digests.get(slot).cloned().unwrap_or_default());
                *data = Data::Stored { digest, size };
            }
        }
    }
}

impl Leaf<'_> {
    fn size(&self) -> usize {
        let target = match &self.kind {
            LeafKind::Symlink(target) => target.len(),
            _ => 0,
        };
        target + self.attributes.size()
    }
}

impl Attributes {
    fn size(&self) -> usize {
        (self.xattrs.iter())
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

/// The parts of a path, the next one last. Empty and `.` say nothing.
fn push_parts(rest: &mut Vec<Name>, path: &[u8]) -> io::Result<()> {
    let parts = path.rsplit(|&b| b == b'/');
    rest.extend(
        parts
            .filter(|part| !matches!(*part, b"" | b"."))
            .map(Name::from),
    );
    if rest.len() > MAX_PATH {
        return Err(invalid(format!("the path {} is too long", show(path))));
    }
    Ok(())
}

pub(crate) fn join(mut path: Vec<u8>, name: &[u8]) -> Vec<u8> {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// As people see it: from the root.
pub(crate) fn show(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path).trim_start_matches('/'))
}

/// What is wrong with the input, not with the machine.
pub(crate) fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}
