//! A draft becomes a canonical tar stream, or a tree.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufWriter, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_store::{Placed, TarEntry, TarKind, TarTime, TarWriter};
use rustix::fs::FileType;

use super::base::{self, Kind};
use super::{
    Attributes, Data, DirectoryId, Draft, InRoot, LeafId, LeafKind, Node, ROOT, invalid, join,
    open_file, show,
};
use crate::files::Files;
use crate::tree::{self, Tree};

const BUFFER: usize = 256 << 10;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

impl<'a> Draft<'a> {
    /// Writes what was changed, with one time (seconds since 1970) or the
    /// files' own; whether that is anything.
    pub(crate) fn write(
        &self,
        files: &Files,
        time: Option<i64>,
        out: &mut dyn Write,
    ) -> io::Result<bool> {
        // Small files and headers go together.
        let out = BufWriter::with_capacity(BUFFER, out);
        let mut writer = Writer {
            tar: TarWriter::new(out),
            files,
            time,
            now: now(),
            first: HashMap::new(),
        };
        let any = self.any();
        if any[ROOT] {
            let root = &self.directories[ROOT].attributes;
            // A layer that says nothing of its root has the usual one.
            if (root.mode, root.uid, root.gid) != (0o755, 0, 0) {
                writer.directory(b".", root)?;
            }
            self.visit(&any, &mut |visited| writer.node(self, visited))?;
        }
        writer.tar.finish().map_err(from_store)?;
        Ok(any[ROOT])
    }

    /// Contents that need not be written to make a layer of this; see
    /// [`Placed`]. To be asked once.
    pub(crate) fn place(&self, files: &Files) -> io::Result<Option<Placed>> {
        let mut contents = Vec::new();
        let mut all: u64 = 0;
        let mut seen = HashSet::new();
        self.visit(&self.any(), &mut |Visited { path, node, .. }| {
            // Its other names are links.
            if let Node::Leaf(id) = node
                && let LeafKind::File(data) = &self.leaves[id].kind
                && (self.names[id] == 1 || seen.insert(id))
            {
                let size = match data {
                    Data::Stored { digest, size } => {
                        contents.push((path.to_vec(), &**digest));
                        *size
                    }
                    Data::InRoot(InRoot { size, .. }) | Data::Slot { size, .. } => *size,
                    Data::Bytes(bytes) => bytes.len() as u64,
                };
                all = all.saturating_add(size);
            }
            Ok(())
        })?;
        files.place(&contents, all)
    }

    /// All of it as a tree. Digests must be settled.
    pub(crate) fn into_tree(self) -> io::Result<Tree> {
        let mut entries = Vec::new();
        let mut first: HashMap<LeafId, String> = HashMap::new();
        let any = vec![true; self.directories.len()];
        self.visit(&any, &mut |Visited { path, node, .. }| {
            let path = text(path)?;
            let (node, attributes) = match node {
                Node::Directory(id) => (tree::Node::Directory, &self.directories[id].attributes),
                Node::Leaf(id) => {
                    let leaf = &self.leaves[id];
                    let node = match first.get(&id) {
                        Some(first) => tree::Node::HardLink(first.clone()),
                        None => tree_node(&leaf.kind)?,
                    };
                    if self.names[id] > 1 {
                        first.entry(id).or_insert_with(|| path.clone());
                    }
                    (node, &leaf.attributes)
                }
            };
            entries.push(tree::Entry {
                path,
                node,
                mode: attributes.mode,
                uid: attributes.uid,
                gid: attributes.gid,
                mtime: attributes.mtime.unwrap_or_default(),
                xattrs: (attributes.xattrs.iter())
                    .map(|(name, value)| Ok((text(name)?, value.to_vec())))
                    .collect::<io::Result<_>>()?,
            });
            Ok(())
        })?;
        Ok(Tree { entries })
    }

    /// For each directory, whether anything in it, or it itself, is changed.
    fn any(&self) -> Vec<bool> {
        let mut any = vec![false; self.directories.len()];
        // A directory is made after the one it is in.
        for (id, directory) in self.directories.iter().enumerate().rev() {
            any[id] = directory.changed
                || (directory.children.values()).any(|node| match node {
                    Node::Directory(id) => any[*id],
                    Node::Leaf(_) => true,
                });
        }
        any
    }

    /// Each directory followed by what is in it, names in order.
    fn visit(
        &self,
        any: &[bool],
        visit: &mut dyn FnMut(Visited<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut path: Vec<u8> = Vec::new();
        let mut stack = vec![(0, ROOT, self.directories[ROOT].children.iter())];
        while let Some((length, parent, children)) = stack.last_mut() {
            let (length, parent) = (*length, *parent);
            path.truncate(length);
            let Some((name, &node)) = children.next() else {
                stack.pop();
                continue;
            };
            path = join(path, name);
            if let Node::Directory(id) = node {
                if !any[id] {
                    continue;
                }
                stack.push((path.len(), id, self.directories[id].children.iter()));
            }
            let path = &path;
            visit(Visited {
                parent,
                path,
                name,
                node,
            })?;
        }
        Ok(())
    }

    /// A new directory where the base has one that is gone.
    fn is_opaque(&self, parent: DirectoryId, id: DirectoryId, path: &[u8]) -> io::Result<bool> {
        match self.base {
            Some(root) if self.directories[parent].merged && !self.directories[id].merged => {
                let found = base::find(root, path)?;
                Ok(found.is_some_and(|found| matches!(found.kind, Kind::Directory)))
            }
            _ => Ok(false),
        }
    }
}

#[derive(Clone, Copy)]
struct Visited<'v> {
    parent: DirectoryId,
    path: &'v [u8],
    name: &'v [u8],
    node: Node,
}

struct Writer<'w, W: Write> {
    tar: TarWriter<BufWriter<W>>,
    files: &'w Files,
    time: Option<i64>,
    now: TarTime,
    /// First names of files that have several.
    first: HashMap<LeafId, Vec<u8>>,
}

impl<W: Write> Writer<'_, W> {
    fn node(&mut self, draft: &Draft<'_>, visited: Visited<'_>) -> io::Result<()> {
        let Visited { path, node, .. } = visited;
        if visited.name.starts_with(WHITEOUT) {
            let path = show(path);
            let message = format!("{path}: a name that begins with .wh. cannot be in a layer");
            return Err(invalid(message));
        }
        let id = match node {
            Node::Directory(id) => {
                self.directory(path, &draft.directories[id].attributes)?;
                if draft.is_opaque(visited.parent, id, path)? {
                    let mark = TarEntry {
                        name: join(path.to_vec(), OPAQUE),
                        ..TarEntry::default()
                    };
                    self.append(&mark, &mut io::empty())?;
                }
                return Ok(());
            }
            Node::Leaf(id) => id,
        };
        let leaf = &draft.leaves[id];
        let mut entry = self.described(path, &leaf.attributes);
        if let Some(first) = self.first.get(&id) {
            entry.kind = TarKind::HardLink;
            entry.link.clone_from(first);
            entry.xattrs.clear();
            return self.append(&entry, &mut io::empty());
        }
        if draft.names[id] > 1 {
            self.first.insert(id, path.to_vec());
        }
        match &leaf.kind {
            LeafKind::File(data) => return self.file(entry, data),
            LeafKind::Symlink(target) => {
                entry.kind = TarKind::Symlink;
                entry.link = target.to_vec();
            }
            LeafKind::Special(kind, major, minor) => {
                (entry.kind, entry.device) = match FileType::from_raw_mode(*kind) {
                    FileType::CharacterDevice => (TarKind::CharDevice, (*major, *minor)),
                    FileType::BlockDevice => (TarKind::BlockDevice, (*major, *minor)),
                    _ => (TarKind::Fifo, (0, 0)),
                };
            }
        }
        self.append(&entry, &mut io::empty())
    }

    fn directory(&mut self, path: &[u8], attributes: &Attributes) -> io::Result<()> {
        let entry = TarEntry {
            kind: TarKind::Directory,
            ..self.described(path, attributes)
        };
        self.append(&entry, &mut io::empty())
    }

    fn file(&mut self, mut entry: TarEntry, data: &Data<'_>) -> io::Result<()> {
        match data {
            Data::Stored { digest, size } => {
                entry.size = *size;
                self.append(&entry, &mut self.files.read(digest)?)
            }
            Data::InRoot(InRoot { root, path, size }) => {
                entry.size = *size;
                self.append(&entry, &mut open_file(*root, path)?)
            }
            Data::Bytes(bytes) => {
                entry.size = bytes.len() as u64;
                self.append(&entry, &mut &bytes[..])
            }
            Data::Slot { .. } => Err(io::Error::other("a content has no digest")),
        }
    }

    fn described(&self, path: &[u8], attributes: &Attributes) -> TarEntry {
        let mtime = match (self.time, attributes.mtime) {
            (Some(seconds), _) => TarTime {
                seconds,
                nanoseconds: 0,
            },
            (None, Some(own)) => time(own),
            (None, None) => self.now,
        };
        TarEntry {
            name: path.to_vec(),
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime,
            xattrs: (attributes.xattrs.iter())
                .map(|(name, value)| (name.to_vec(), value.to_vec()))
                .collect(),
            ..TarEntry::default()
        }
    }

    fn append(&mut self, entry: &TarEntry, data: &mut dyn Read) -> io::Result<()> {
        self.tar.append(entry, data).map_err(from_store)
    }
}

fn now() -> TarTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default();
    TarTime {
        seconds: i64::try_from(since.as_secs()).unwrap_or_default(),
        nanoseconds: since.subsec_nanos(),
    }
}

/// Of nanoseconds since 1970.
fn time(nanoseconds: i64) -> TarTime {
    TarTime {
        seconds: nanoseconds.div_euclid(1_000_000_000),
        // Below a second.
        nanoseconds: nanoseconds.rem_euclid(1_000_000_000) as u32,
    }
}

fn tree_node(kind: &LeafKind<'_>) -> io::Result<tree::Node> {
    Ok(match kind {
        LeafKind::File(Data::Stored { digest, size }) => tree::Node::File {
            digest: digest.to_string(),
            size: *size,
        },
        LeafKind::File(_) => return Err(io::Error::other("a content has no digest")),
        LeafKind::Symlink(target) => tree::Node::Symlink(text(target)?),
        LeafKind::Special(kind, major, minor) => tree::Node::Special {
            kind: *kind,
            major: *major,
            minor: *minor,
        },
    })
}

fn text(bytes: &[u8]) -> io::Result<String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => {
            let shown = String::from_utf8_lossy(bytes);
            Err(invalid(format!("the name {shown:?} is not UTF-8")))
        }
    }
}

/// What the machine says wrong stays that; what is said of the input, too.
pub(super) fn from_store(error: berth_store::Error) -> io::Error {
    match error {
        berth_store::Error::Io { ref source, .. } => {
            io::Error::new(source.kind(), error.to_string())
        }
        other => invalid(other.to_string()),
    }
}
