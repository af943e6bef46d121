//! Names contents for cache keys: what a copy would take, without times.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use berth_store::Digest;
use sha2::{Digest as _, Sha256};

use super::Source;
use super::select::{self, Filter, Match};
use super::source::{Item, ItemKind};
use crate::draft::{Data, LeafKind, open_file};
use crate::files::name as name_digest;
use crate::graph;
use crate::solve::Error;
use crate::tree::Tree;

/// Hashed at once.
const BUFFER: usize = 64 << 10;

/// Names what a copy takes from a tree: paths, kinds, modes, contents; no
/// times, and no owners, which do not decide anything (see
/// [`super::tree_layer`]). Part of the key of a `Files` operation. Without a
/// copy (a bind mount): all below `source`.
///
/// # Errors
/// `NotFound` for sources that are not there.
pub fn content_of(copy: Option<&graph::Copy>, source: &str, tree: &Tree) -> Result<Digest, Error> {
    let from = Source::Tree(tree);
    let mut names = Names::default();
    match copy {
        None => names.all(from, &select::one(source, from)?, None)?,
        Some(copy) => {
            let exclude = select::exclude(copy)?;
            for source in &copy.sources {
                for found in select::select(copy, source, from)? {
                    names.all(from, &found, exclude.as_ref())?;
                }
                // Which source it is from decides what is copied over what.
                names.number(u64::MAX);
            }
        }
    }
    Ok(names.finish())
}

/// Names what is below a path of a root filesystem, as [`content_of`] does;
/// owners too, and the mode and owner of what is at the path itself: it is
/// seen where it is mounted.
///
/// # Errors
/// `NotFound` if there is no such path.
pub fn content_below(root: BorrowedFd<'_>, source: &str) -> Result<Digest, Error> {
    let from = Source::Root(root);
    let mut names = Names::default();
    let found = select::one(source, from)?;
    if found.item.is_directory() {
        names.item(&found.item)?;
    }
    names.all(from, &found, None)?;
    Ok(names.finish())
}

#[derive(Default)]
struct Names {
    hasher: Sha256,
    buffer: Vec<u8>,
    links: HashMap<(u64, u64), u64>,
}

impl Names {
    fn all(
        &mut self,
        from: Source<'_>,
        found: &Match<'_>,
        exclude: Option<&crate::ignore::Ignore>,
    ) -> io::Result<()> {
        self.links.clear();
        self.bytes(&found.name);
        if !found.item.is_directory() {
            return self.item(&found.item);
        }
        let filter = Filter {
            only: found.only.as_ref(),
            exclude,
        };
        // Directories that are not taken, on the way to what may be.
        let mut pending: Vec<(Vec<u8>, Item<'_>)> = Vec::new();
        from.walk(&found.path, &mut |path, item| {
            let verdict = filter.judge(path);
            pending.retain(|(above, _)| {
                path.starts_with(above) && path.get(above.len()) == Some(&b'/')
            });
            if verdict.taken {
                for (path, item) in pending.drain(..) {
                    self.bytes(&path);
                    self.item(&item)?;
                }
                self.bytes(path);
                self.item(item)?;
            } else if verdict.enter && item.is_directory() {
                pending.push((path.to_vec(), item.clone()));
            }
            Ok(verdict.enter)
        })?;
        self.number(u64::MAX);
        Ok(())
    }

    fn item(&mut self, item: &Item<'_>) -> io::Result<()> {
        if let Some(one) = item.identity {
            let next = self.links.len() as u64;
            let known = *self.links.entry(one).or_insert(next);
            self.number(known);
        }
        let attributes = &item.attributes;
        for number in [attributes.mode, attributes.uid, attributes.gid] {
            self.number(u64::from(number));
        }
        self.number(attributes.xattrs.len() as u64);
        for (name, value) in &attributes.xattrs {
            self.bytes(name);
            self.bytes(value);
        }
        match &item.kind {
            ItemKind::Directory => self.bytes(b"d"),
            ItemKind::Socket => self.bytes(b"s"),
            ItemKind::Leaf(LeafKind::Symlink(target)) => {
                self.bytes(b"l");
                self.bytes(target);
            }
            ItemKind::Leaf(LeafKind::Special(kind, major, minor)) => {
                self.bytes(b"n");
                for number in [kind, major, minor] {
                    self.number(u64::from(*number));
                }
            }
            ItemKind::Leaf(LeafKind::File(data)) => {
                self.bytes(b"f");
                match data {
                    Data::Stored { digest, .. } => self.bytes(digest.as_bytes()),
                    Data::InRoot(file) => {
                        let mut input = open_file(file.root, &file.path)?;
                        let digest = hash(&mut input)?;
                        self.bytes(digest.as_bytes());
                    }
                    Data::Bytes(bytes) => self.bytes(bytes),
                    Data::Slot { .. } => {}
                }
            }
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.hasher.update(&self.buffer);
            self.buffer.clear();
        }
    }

    fn number(&mut self, number: u64) {
        self.buffer.extend_from_slice(&number.to_le_bytes());
    }

    fn finish(mut self) -> Digest {
        self.hasher.update(&self.buffer);
        name_digest(&self.hasher.finalize().into())
    }
}

fn hash(input: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 4 * BUFFER];
    loop {
        let n = input.read(&mut buffer)?;
        if n == 0 {
            return Ok(name_digest(&hasher.finalize().into()));
        }
        hasher.update(&buffer[..n]);
    }
}
