//! One COPY or ADD: where things go, and what becomes of them there.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use berth_store::{TarReader, inflate};

use super::select::{self, Filter, Match};
use super::source::{Item, ItemKind};
use super::{Source, owner};
use crate::draft::{
    Attributes, Child, Data, DirectoryId, Draft, InRoot, Leaf, LeafId, LeafKind, Place, Xattr,
    invalid, open_file, show,
};
use crate::files::Files;
use crate::graph::{Copy, ModeChange, Unpack};
use crate::ignore::Ignore;

/// What is said of all that is copied.
pub(super) struct Copier<'c> {
    files: &'c Files,
    copy: &'c Copy,
    owner: Option<(u32, u32)>,
    exclude: Option<Ignore>,
}

impl<'c> Copier<'c> {
    pub(super) fn new(
        files: &'c Files,
        copy: &'c Copy,
        base: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        Ok(Self {
            files,
            copy,
            owner: (copy.owner.as_deref())
                .map(|owner| owner::lookup(owner, base))
                .transpose()?,
            exclude: select::exclude(copy)?,
        })
    }

    pub(super) fn run<'a>(&self, draft: &mut Draft<'a>, from: Source<'a>) -> io::Result<()> {
        // Several files for one name: none replaces the one before. BuildKit
        // keeps the last, and loses the others without a word.
        let mut has_file = false;
        for source in &self.copy.sources {
            for found in select::select(self.copy, source, from)? {
                if self.unpack(draft, &found)? {
                    continue;
                }
                let is_named = self.one(draft, from, &found)?;
                if is_named && has_file {
                    return Err(self.several());
                }
                has_file |= is_named;
            }
        }
        Ok(())
    }

    fn several(&self) -> io::Error {
        let word = match self.copy.unpack {
            Unpack::Never => "COPY",
            Unpack::Archives | Unpack::Always => "ADD",
        };
        invalid(format!(
            "When using {word} with more than one source file, the destination must be a directory and end with a /"
        ))
    }

    fn wants_directory(&self) -> bool {
        self.copy.target.ends_with('/') || self.copy.target.ends_with("/.")
    }

    /// Of directories that are made on the way. An octal mode is theirs, too, a
    /// symbolic one is not, as in BuildKit.
    fn made(&self) -> Attributes {
        let made = Attributes::directory(self.owner.unwrap_or_default());
        match self.copy.mode {
            Some(ModeChange::Octal(mode)) => Attributes { mode, ..made },
            _ => made,
        }
    }

    /// Whether it is a file that now has the target's name.
    fn one<'a>(
        &self,
        draft: &mut Draft<'a>,
        from: Source<'a>,
        found: &Match<'a>,
    ) -> io::Result<bool> {
        let made = self.made();
        let target = self.copy.target.as_bytes();
        let place = match self.wants_directory() {
            true => Place::Directory(draft.enter(target, &made)?),
            false => draft.resolve(target, &made)?,
        };
        let filter = Filter {
            only: found.only.as_ref(),
            exclude: self.exclude.as_ref(),
        };
        let mut copying = Copying {
            draft,
            change: self.copy.mode.as_ref(),
            owner: self.owner,
            links: HashMap::new(),
        };
        if !found.item.is_directory() {
            let (parent, name, is_named) = match place {
                Place::Directory(parent) => (parent, found.name.as_slice().into(), false),
                Place::Other(parent, name) | Place::Missing(parent, name) => (parent, name, true),
            };
            copying.leaf(parent, &name, &found.item)?;
            return Ok(is_named);
        }
        let directory = match place {
            Place::Directory(directory) => directory,
            Place::Missing(parent, name) => copying.draft.make(parent, &name, made)?,
            Place::Other(parent, name) => {
                return Err(no_directory(&copying.draft.path_of(parent, &name)));
            }
        };
        copying.contents(from, &found.path, directory, &filter)?;
        Ok(false)
    }

    /// Unpacks it if that is asked for and it is an archive.
    fn unpack<'a>(&self, draft: &mut Draft<'a>, found: &Match<'a>) -> io::Result<bool> {
        if self.copy.unpack == Unpack::Never {
            return Ok(false);
        }
        let ItemKind::Leaf(LeafKind::File(data)) = &found.item.kind else {
            return Ok(false);
        };
        if !is_archive(&mut *self.open(data)?) {
            if self.copy.unpack == Unpack::Always {
                let path = show(&found.path);
                return Err(invalid(format!(
                    "{path} is no archive that can be unpacked: a tar archive, plain or compressed by gzip, bzip2, xz or zstd"
                )));
            }
            return Ok(false);
        }
        let root = draft.enter(self.copy.target.as_bytes(), &self.made())?;
        let mut input = self.open(data)?;
        draft
            .unpack(self.files, &mut *input, root, self.owner)
            .map_err(|error| {
                let path = show(&found.path);
                io::Error::new(error.kind(), format!("unpack {path}: {error}"))
            })?;
        Ok(true)
    }

    fn open(&self, data: &Data<'_>) -> io::Result<Box<dyn Read>> {
        Ok(match data {
            Data::Stored { digest, .. } => Box::new(self.files.read(digest)?),
            Data::InRoot(InRoot { root, path, .. }) => Box::new(open_file(*root, path)?),
            Data::Bytes(_) | Data::Slot { .. } => Box::new(io::empty()),
        })
    }
}

/// Whether its first entry can be read.
fn is_archive(input: &mut dyn Read) -> bool {
    let Ok(plain) = inflate(input) else {
        return false;
    };
    matches!(TarReader::new(plain).next(), Ok(Some(_)))
}

fn no_directory(path: &[u8]) -> io::Error {
    invalid(format!("cannot copy to non-directory: {}", show(path)))
}

/// A copy on its way.
struct Copying<'d, 'a> {
    draft: &'d mut Draft<'a>,
    change: Option<&'d ModeChange>,
    owner: Option<(u32, u32)>,
    /// Files that have several names, by what the source knows them by.
    links: HashMap<(u64, u64), LeafId>,
}

/// A directory on the way to what is visited.
struct Level<'a> {
    name: Vec<u8>,
    item: Item<'a>,
    /// None: not made yet.
    id: Option<DirectoryId>,
}

/// All of it below a directory, as it is.
pub(super) fn whole<'a>(
    draft: &mut Draft<'a>,
    from: Source<'a>,
    found: &Match<'a>,
    directory: DirectoryId,
) -> io::Result<()> {
    let mut copying = Copying {
        draft,
        change: None,
        owner: None,
        links: HashMap::new(),
    };
    if !found.item.is_directory() {
        return copying.leaf(directory, &found.name, &found.item);
    }
    let (only, exclude) = (None, None);
    copying.contents(from, &found.path, directory, &Filter { only, exclude })
}

impl<'a> Copying<'_, 'a> {
    /// What is in a directory of the source, into one of the draft.
    fn contents(
        &mut self,
        from: Source<'a>,
        path: &[u8],
        directory: DirectoryId,
        filter: &Filter<'_>,
    ) -> io::Result<()> {
        let mut levels: Vec<Level<'a>> = Vec::new();
        from.walk(path, &mut |path, item| {
            levels.truncate(path.iter().filter(|&&b| b == b'/').count());
            let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
            let verdict = filter.judge(path);
            let parent = match verdict.taken {
                true => Some(self.parents(directory, &mut levels)?),
                false => None,
            };
            if !item.is_directory() {
                if let Some(parent) = parent {
                    self.leaf(parent, name, item)?;
                }
                return Ok(false);
            }
            let id = match parent {
                Some(parent) => Some(self.directory(parent, name, item)?),
                None => None,
            };
            levels.push(Level {
                name: name.to_vec(),
                item: item.clone(),
                id,
            });
            Ok(verdict.enter)
        })
    }

    /// Makes the directories on the way that were not taken for themselves.
    fn parents(&mut self, top: DirectoryId, levels: &mut [Level<'a>]) -> io::Result<DirectoryId> {
        let mut parent = top;
        for level in levels {
            parent = match level.id {
                Some(id) => id,
                None => match self.draft.child(parent, &level.name)? {
                    Child::Directory(id) => {
                        let mode = level.item.attributes.mode;
                        let there = self.draft.attributes(id).clone();
                        self.draft.describe(id, Attributes { mode, ..there });
                        id
                    }
                    _ => self.directory(parent, &level.name, &level.item)?,
                },
            };
            level.id = Some(parent);
        }
        Ok(parent)
    }

    /// A directory below the target: one that is there becomes like it.
    fn directory(
        &mut self,
        parent: DirectoryId,
        name: &[u8],
        item: &Item<'a>,
    ) -> io::Result<DirectoryId> {
        let attributes = self.attributes(item)?;
        match self.draft.child(parent, name)? {
            Child::Missing => self.draft.make(parent, name, attributes),
            Child::Directory(id) => {
                let xattrs = merge(&self.draft.attributes(id).xattrs, &attributes.xattrs);
                self.draft.describe(
                    id,
                    Attributes {
                        xattrs,
                        ..attributes
                    },
                );
                Ok(id)
            }
            Child::Symlink(_) | Child::Other => {
                Err(no_directory(&self.draft.path_of(parent, name)))
            }
        }
    }

    fn leaf(&mut self, parent: DirectoryId, name: &[u8], item: &Item<'a>) -> io::Result<()> {
        let ItemKind::Leaf(kind) = &item.kind else {
            // A socket is of its process, and no layer can say it.
            return Ok(());
        };
        if let Child::Directory(_) = self.draft.child(parent, name)? {
            let path = show(&self.draft.path_of(parent, name));
            return Err(invalid(format!(
                "cannot replace to directory {path} with file"
            )));
        }
        if let Some(leaf) = item.identity.and_then(|one| self.links.get(&one)) {
            return self.draft.link(parent, name, *leaf);
        }
        let kind = kind.clone();
        let attributes = self.attributes(item)?;
        let leaf = self.draft.put(parent, name, Leaf { kind, attributes })?;
        if let Some(one) = item.identity {
            self.links.insert(one, leaf);
        }
        Ok(())
    }

    fn attributes(&self, item: &Item<'a>) -> io::Result<Attributes> {
        let mut attributes = item.attributes.clone();
        if let Some((uid, gid)) = self.owner {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        match (&item.kind, self.change) {
            (ItemKind::Leaf(LeafKind::Symlink(_)), _) => attributes.mode = 0o777,
            (_, Some(change)) => {
                attributes.mode = change.apply(attributes.mode, item.is_directory())?;
            }
            _ => {}
        }
        Ok(attributes)
    }
}

/// Extended attributes of a directory, and those that come over them.
fn merge(there: &[Xattr], new: &[Xattr]) -> Box<[Xattr]> {
    let is_new = |name: &[u8]| new.iter().any(|(other, _)| **other == *name);
    let mut all = new.to_vec();
    all.extend(there.iter().filter(|(name, _)| !is_new(name)).cloned());
    all.sort();
    all.into()
}
