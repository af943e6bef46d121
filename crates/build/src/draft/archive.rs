//! Entries of an archive, one after the other, as `tar -x` in a container whose
//! root is the directory unpacked into: nothing leads out of it, whatever links
//! the archive or the base has (CVE-2018-15664, CVE-2024-23652).

use std::io::{self, Read};

use berth_store::{TarEntry, TarExtent, TarKind, TarReader, inflate, is_wanted_xattr};
use rustix::fs::FileType;

use super::base::{self, Kind};
use super::write::from_store;
use super::{
    Attributes, Child, Data, DirectoryId, Draft, InRoot, Leaf, LeafId, LeafKind, MAX_ENTRIES, Node,
    Place, Xattr, invalid, show,
};
use crate::files::{Files, Intake, take_in};

impl Draft<'_> {
    /// Unpacks an archive (plain or compressed) into a directory. With `owner`,
    /// all of it belongs to that one.
    pub(crate) fn unpack(
        &mut self,
        files: &Files,
        input: &mut dyn Read,
        root: DirectoryId,
        owner: Option<(u32, u32)>,
    ) -> io::Result<()> {
        let ((), digests) = take_in(files, |intake| {
            let mut plain = inflate(input).map_err(from_store)?;
            let mut tar = TarReader::new(&mut plain);
            let mut count = 0;
            while let Some(entry) = tar.next().map_err(from_store)? {
                count += 1;
                if count > MAX_ENTRIES {
                    let message = format!("the archive has more than {MAX_ENTRIES} entries");
                    return Err(invalid(message));
                }
                self.member(root, &entry, owner, intake, &mut tar)
                    .map_err(|error| {
                        let name = String::from_utf8_lossy(&entry.name);
                        io::Error::new(error.kind(), format!("entry {name:?}: {error}"))
                    })?;
            }
            // What compresses it is only known to be whole at its end.
            io::copy(&mut plain, &mut io::sink())?;
            Ok(())
        })?;
        self.settle(&digests);
        Ok(())
    }

    fn member(
        &mut self,
        root: DirectoryId,
        entry: &TarEntry,
        owner: Option<(u32, u32)>,
        intake: &mut Intake<'_>,
        data: &mut dyn Read,
    ) -> io::Result<()> {
        let path = clean(&entry.name)?;
        let Some((name, above)) = path.split_last() else {
            // Mode and owner of what is unpacked into stay.
            return Ok(());
        };
        let implied = Attributes::directory((0, 0));
        let parent = self.enter_below(root, &above.join(&b'/'), &implied)?;
        let attributes = attributes(entry, owner);
        let kind = match entry.kind {
            TarKind::Directory => {
                return match self.child(parent, name)? {
                    Child::Directory(id) => {
                        self.describe(id, attributes);
                        Ok(())
                    }
                    _ => self.make(parent, name, attributes).map(drop),
                };
            }
            TarKind::HardLink => {
                let id = self.link_target(root, &entry.link)?;
                let leaf = &mut self.leaves[id];
                if !matches!(leaf.kind, LeafKind::Symlink(_)) {
                    let xattrs = std::mem::take(&mut leaf.attributes.xattrs);
                    leaf.attributes = Attributes {
                        xattrs,
                        ..attributes
                    };
                }
                return self.link(parent, name, id);
            }
            TarKind::File => {
                let size = entry.size;
                let slot = match &entry.extents {
                    None => intake.add(size, data)?,
                    Some(extents) => intake.add(size, &mut Expanded::new(extents, size, data))?,
                };
                LeafKind::File(Data::Slot { slot, size })
            }
            TarKind::Symlink if entry.link.is_empty() => {
                return Err(invalid("a symbolic link without a target"));
            }
            TarKind::Symlink => LeafKind::Symlink(entry.link.as_slice().into()),
            TarKind::CharDevice => special(FileType::CharacterDevice, entry.device),
            TarKind::BlockDevice => special(FileType::BlockDevice, entry.device),
            TarKind::Fifo => special(FileType::Fifo, (0, 0)),
        };
        self.put(parent, name, Leaf { kind, attributes })?;
        Ok(())
    }

    /// What a hard link names: a file that is there, or one of the base.
    fn link_target(&mut self, root: DirectoryId, link: &[u8]) -> io::Result<LeafId> {
        let failed = || {
            let link = String::from_utf8_lossy(link);
            invalid(format!(
                "a hard link to {link:?}, which is no file that is there"
            ))
        };
        let path = clean(link)?;
        let (name, above) = path.split_last().ok_or_else(failed)?;
        let implied = Attributes::directory((0, 0));
        // Links on the way are followed; nothing is made for it in the end, for
        // then it fails.
        let above = above.join(&b'/');
        let Place::Directory(parent) = self.walk(root, root, &above, &implied)? else {
            return Err(failed());
        };
        if let Some(Node::Leaf(id)) = self.directories[parent].children.get(*name) {
            return Ok(*id);
        }
        let base = self.base.filter(|_| self.directories[parent].merged);
        let root = base.ok_or_else(failed)?;
        let path = self.path_of(parent, name);
        let found = base::find(root, &path)?.ok_or_else(failed)?;
        let kind = match found.kind {
            Kind::File(size) => LeafKind::File(Data::InRoot(InRoot {
                root,
                path: path.into(),
                size,
            })),
            Kind::Symlink(target) => LeafKind::Symlink(target),
            Kind::Special(kind, major, minor) => LeafKind::Special(kind, major, minor),
            Kind::Directory | Kind::Socket => return Err(failed()),
        };
        let attributes = found.attributes;
        self.put(parent, name, Leaf { kind, attributes })
    }
}

fn special<'a>(kind: FileType, device: (u32, u32)) -> LeafKind<'a> {
    LeafKind::Special(kind.as_raw_mode(), device.0, device.1)
}

fn attributes(entry: &TarEntry, owner: Option<(u32, u32)>) -> Attributes {
    let (uid, gid) = owner.unwrap_or((entry.uid, entry.gid));
    let time = entry.mtime;
    let mut xattrs: Vec<Xattr> = (entry.xattrs.iter())
        .filter(|(name, _)| is_wanted_xattr(name))
        .map(|(name, value)| (name.as_slice().into(), value.as_slice().into()))
        .collect();
    xattrs.sort();
    // The last of a name counts.
    xattrs.reverse();
    xattrs.dedup_by(|a, b| a.0 == b.0);
    xattrs.reverse();
    Attributes {
        mode: match entry.kind {
            TarKind::Symlink => 0o777,
            _ => entry.mode & 0o7777,
        },
        uid,
        gid,
        mtime: Some(
            time.seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(time.nanoseconds)),
        ),
        xattrs: xattrs.into(),
    }
}

/// The parts of a member's name, `..` by text.
fn clean(name: &[u8]) -> io::Result<Vec<&[u8]>> {
    let mut path = Vec::new();
    for part in name.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if path.pop().is_none() => {
                let name = show(name);
                return Err(invalid(format!("{name} leads out of the archive")));
            }
            b".." => {}
            part => path.push(part),
        }
    }
    Ok(path)
}

/// A sparse file with its holes.
struct Expanded<'a> {
    extents: std::slice::Iter<'a, TarExtent>,
    data: &'a mut dyn Read,
    /// Left of the current hole, and of the piece behind it.
    hole: u64,
    piece: u64,
    at: u64,
    size: u64,
}

impl<'a> Expanded<'a> {
    fn new(extents: &'a [TarExtent], size: u64, data: &'a mut dyn Read) -> Self {
        Self {
            extents: extents.iter(),
            data,
            hole: 0,
            piece: 0,
            at: 0,
            size,
        }
    }
}

impl Read for Expanded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.hole == 0 && self.piece == 0 && self.at < self.size {
            // The reader has checked that they are in order and inside.
            match self.extents.next() {
                Some(extent) => {
                    self.hole = extent.offset.saturating_sub(self.at);
                    self.piece = extent.length;
                }
                None => self.hole = self.size - self.at,
            }
        }
        let left = if self.hole > 0 { self.hole } else { self.piece };
        let want = usize::try_from(left).unwrap_or(usize::MAX);
        let want = want.min(buffer.len());
        let buffer = &mut buffer[..want];
        if want == 0 {
            return Ok(0);
        }
        let n = if self.hole > 0 {
            buffer.fill(0);
            self.hole -= want as u64;
            want
        } else {
            let n = self.data.read(buffer)?;
            self.piece -= n as u64;
            n
        };
        self.at += n as u64;
        Ok(n)
    }
}
