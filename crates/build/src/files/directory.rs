//! Directories of this machine that become trees.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use super::{Files, take_in};
use crate::draft::{
    Data, DirectoryId, Draft, Kind, Leaf, LeafId, LeafKind, ROOT, children, find, join, open_file,
};
use crate::tree::Tree;

impl Files {
    /// Takes a directory in (a git checkout), without what `ignored` says (with
    /// all below it). No link is followed; sockets are left out.
    pub fn take_directory(&self, root: &Path, ignored: &dyn Fn(&str) -> bool) -> io::Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(root, flags, Mode::empty())?;
        let root = root.as_fd();
        let mut draft = Draft::new(None)?;
        let ((), digests) = take_in(self, |intake| {
            let mut links: HashMap<(u64, u64), LeafId> = HashMap::new();
            let mut pending: Vec<(Vec<u8>, DirectoryId)> = vec![(Vec::new(), ROOT)];
            while let Some((path, parent)) = pending.pop() {
                for name in children(root, &path)? {
                    let path = join(path.clone(), &name);
                    if ignored(&String::from_utf8_lossy(&path)) {
                        continue;
                    }
                    // None: it is gone meanwhile.
                    let Some(found) = find(root, &path)? else {
                        continue;
                    };
                    if let Some(leaf) = found.identity.and_then(|one| links.get(&one)) {
                        draft.link(parent, &name, *leaf)?;
                        continue;
                    }
                    let kind = match found.kind {
                        Kind::Directory => {
                            let id = draft.make(parent, &name, found.attributes)?;
                            pending.push((path, id));
                            continue;
                        }
                        Kind::File(size) => {
                            let slot = intake.add(size, &mut open_file(root, &path)?)?;
                            LeafKind::File(Data::Slot { slot, size })
                        }
                        Kind::Symlink(target) => LeafKind::Symlink(target),
                        Kind::Special(kind, major, minor) => LeafKind::Special(kind, major, minor),
                        Kind::Socket => continue,
                    };
                    let attributes = found.attributes;
                    let leaf = draft.put(parent, &name, Leaf { kind, attributes })?;
                    if let Some(one) = found.identity {
                        links.insert(one, leaf);
                    }
                }
            }
            Ok(())
        })?;
        draft.settle(&digests);
        draft.into_tree()
    }
}
