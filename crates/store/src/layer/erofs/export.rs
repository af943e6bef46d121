//! Such a file as canonical entries ([`crate::canonical`]).

use std::collections::HashMap;
use std::io::{self, Read};

use rustix::fs::FileType;

use super::format::decode_device;
use super::reader::{Image, Node};
use crate::canonical::{RootEntries, opaque, whiteout};
use crate::changes::Emit;
use crate::error::{Result, invalid};
use crate::layer::is_wanted;
use crate::tar::{Entry, Kind};

/// Gives all entries to `emit`; of the root what `root` says. `mark` is
/// overlayfs's attribute of an opaque directory.
pub(crate) fn export(image: &Image, root: RootEntries, mark: &str, emit: Emit<'_>) -> Result<()> {
    let mut links: HashMap<u64, Vec<u8>> = HashMap::new();
    image.walk(&mut |path, node| {
        if path.is_empty() {
            if root.own {
                emit(&entry(image, b"./", node)?, &mut io::empty())?;
            }
            if root.opaque {
                emit(&opaque(&[]), &mut io::empty())?;
            }
            return Ok(());
        }
        let mut entry = entry(image, path, node)?;
        if entry.kind == Kind::CharDevice && entry.device == (0, 0) {
            let parts: Vec<_> = path.split(|&b| b == b'/').map(<[u8]>::to_vec).collect();
            return emit(&whiteout(&parts), &mut io::empty());
        }
        if let Some(identity) = node.identity() {
            if let Some(first) = links.get(&identity) {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                entry.size = 0;
                entry.device = (0, 0);
                entry.xattrs.clear();
                return emit(&entry, &mut io::empty());
            }
            links.insert(identity, path.to_vec());
        }
        let mut data = Data {
            image,
            node,
            offset: 0,
        };
        emit(&entry, &mut data)?;
        if entry.kind == Kind::Directory && is_opaque(image, node, mark)? {
            let parts: Vec<_> = path.split(|&b| b == b'/').map(<[u8]>::to_vec).collect();
            emit(&opaque(&parts), &mut io::empty())?;
        }
        Ok(())
    })
}

fn is_opaque(image: &Image, node: &Node, mark: &str) -> Result<bool> {
    let mut xattrs = image.xattrs(node)?.into_iter();
    Ok(xattrs.any(|(name, value)| name == mark.as_bytes() && value == b"y"))
}

fn entry(image: &Image, path: &[u8], node: &Node) -> Result<Entry> {
    let kind = match node.kind() {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        _ => return invalid("a layer's file is damaged: a file is of no known kind"),
    };
    let inode = node.inode();
    let mut entry = Entry {
        name: path.to_vec(),
        kind,
        mode: u32::from(inode.mode) & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        mtime: inode.mtime,
        ..Entry::default()
    };
    match kind {
        Kind::File | Kind::Directory => {
            let xattrs = image.xattrs(node)?.into_iter();
            entry.xattrs = xattrs.filter(|(name, _)| is_wanted(name)).collect();
        }
        Kind::Symlink => entry.link = image.link(node)?,
        Kind::CharDevice | Kind::BlockDevice => entry.device = decode_device(inode.data),
        _ => {}
    }
    if kind == Kind::File {
        entry.size = node.size();
    }
    Ok(entry)
}

/// Reads a file of the image.
struct Data<'a> {
    image: &'a Image,
    node: &'a Node,
    offset: u64,
}

impl Read for Data<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.image.read_some(self.node, self.offset, buffer);
        let n = n.map_err(io::Error::other)?;
        self.offset += n as u64;
        Ok(n)
    }
}
