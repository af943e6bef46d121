//! Mode, owner, time and extended attributes of an inode under construction.

use std::collections::BTreeMap;

use super::acl::Acl;
use super::format::{MAX_XATTRS, XATTR_HEADER, XATTR_PREFIXES, u32_at};
use crate::error::{Error, Result, invalid};
use crate::layer::{Kept, Options, Root, is_wanted, opaque_mark};
use crate::tar::{Entry, Kind, Time};

/// `XATTR_NAME_MAX`.
const MAX_NAME: usize = 255;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const CAPABILITY: &[u8] = b"security.capability";

#[derive(Clone, Debug)]
pub(super) struct Attributes {
    /// The lower twelve bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    xattrs: BTreeMap<Name, Box<[u8]>>,
}

/// The number of a name's prefix, and the rest of it.
type Name = (u8, Box<[u8]>);

impl Default for Attributes {
    /// Of a directory that no entry describes.
    fn default() -> Self {
        let Root { mode, uid, gid } = Root::default();
        Self {
            mode,
            uid,
            gid,
            mtime: Time::default(),
            xattrs: BTreeMap::new(),
        }
    }
}

impl Attributes {
    /// Owner, mode and time of a node that takes no attributes.
    pub(super) fn plain(entry: &Entry, mode: u32) -> Self {
        Self {
            mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: BTreeMap::new(),
        }
    }

    pub(super) fn whiteout() -> Self {
        Self {
            mode: 0,
            ..Self::default()
        }
    }

    pub(super) fn of_file(entry: &Entry) -> Result<Self> {
        let mut file = Self::plain(entry, entry.mode);
        file.set_all(entry, false)?;
        Ok(file)
    }

    /// Gives a directory the attributes of an entry. Those it has and the
    /// entry does not name stay.
    pub(super) fn describe(&mut self, entry: &Entry) -> Result<()> {
        (self.mode, self.uid, self.gid) = (entry.mode, entry.uid, entry.gid);
        self.mtime = entry.mtime;
        if let Some(value) = self.xattrs.get_mut(&key(ACCESS)?)
            && let Some(mut acl) = Acl::parse(value)
        {
            acl.change_mode(entry.mode);
            *value = acl.encode().into();
        }
        self.set_all(entry, true)
    }

    pub(super) fn kept(&self) -> Kept {
        Kept {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime,
        }
    }

    pub(super) fn mark_opaque(&mut self, options: Options) -> Result<()> {
        self.insert(opaque_mark(options.userxattr).as_bytes(), b"y".to_vec())
    }

    fn set_all(&mut self, entry: &Entry, directory: bool) -> Result<()> {
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_wanted(name)) {
            self.set(name, value, directory).map_err(|error| {
                error.within(&format!(
                    "extended attribute {:?}",
                    String::from_utf8_lossy(name)
                ))
            })?;
        }
        Ok(())
    }

    /// As `setxattr` would: what a mode says is not kept twice.
    fn set(&mut self, name: &[u8], value: &[u8], directory: bool) -> Result<()> {
        match name {
            ACCESS | DEFAULT if Acl::is_unknown(value) => Ok(()),
            ACCESS | DEFAULT => {
                let acl = Acl::parse(value).ok_or_else(|| {
                    Error::Invalid("it is no valid access control list".to_owned())
                })?;
                let default = name == DEFAULT;
                if default && !directory && !acl.is_empty() {
                    return invalid("only a directory has a default access control list");
                }
                if !default && !acl.is_empty() {
                    self.mode = acl.mode(self.mode);
                }
                if acl.is_empty() || !default && acl.is_plain() {
                    self.xattrs.remove(&key(name)?);
                    return Ok(());
                }
                self.insert(name, acl.encode())
            }
            CAPABILITY if !is_capability(value) => invalid("it is no valid file capability"),
            _ => self.insert(name, value.to_vec()),
        }
    }

    fn insert(&mut self, name: &[u8], value: Vec<u8>) -> Result<()> {
        if name.len() > MAX_NAME {
            return invalid(format!("its name is longer than {MAX_NAME} bytes"));
        }
        if value.len() > usize::from(u16::MAX) {
            return invalid(format!("its value is longer than {} bytes", u16::MAX));
        }
        self.xattrs.insert(key(name)?, value.into());
        Ok(())
    }

    /// What follows the inode; empty without attributes.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        if self.xattrs.is_empty() {
            return Ok(Vec::new());
        }
        let mut body = vec![0; XATTR_HEADER];
        for ((prefix, name), value) in &self.xattrs {
            // Both were measured when they were set.
            body.extend([name.len() as u8, *prefix]);
            body.extend((value.len() as u16).to_le_bytes());
            body.extend_from_slice(name);
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        if body.len() > MAX_XATTRS {
            return invalid(format!(
                "its extended attributes are longer than {MAX_XATTRS} bytes"
            ));
        }
        Ok(body)
    }
}

/// Takes from an entry what no layer keeps of it.
pub(crate) fn keep(entry: &mut Entry) -> Result<()> {
    match entry.kind {
        Kind::File | Kind::Directory => {
            let mut kept = Attributes::plain(entry, entry.mode);
            kept.set_all(entry, entry.kind == Kind::Directory)?;
            entry.mode = kept.mode;
            let name = |(prefix, rest): &Name| {
                let prefix = XATTR_PREFIXES.iter().find(|(number, _)| number == prefix);
                [prefix.map_or(&[][..], |(_, prefix)| prefix), rest].concat()
            };
            let xattrs = kept.xattrs.iter();
            entry.xattrs = xattrs
                .map(|(key, value)| (name(key), value.to_vec()))
                .collect();
        }
        Kind::Symlink => entry.mode = 0o777,
        _ => {}
    }
    if !matches!(entry.kind, Kind::File | Kind::Directory) {
        entry.xattrs.clear();
    }
    if !matches!(entry.kind, Kind::Symlink | Kind::HardLink) {
        entry.link.clear();
    }
    if !matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
        entry.device = (0, 0);
    }
    Ok(())
}

/// A name of those that `is_wanted` lets through, or our own.
fn key(name: &[u8]) -> Result<Name> {
    let found = XATTR_PREFIXES
        .iter()
        .find_map(|(number, prefix)| Some((*number, name.strip_prefix(*prefix)?)));
    match found {
        Some((number, rest)) if matches!(number, 2 | 3) == rest.is_empty() => {
            Ok((number, rest.into()))
        }
        _ => invalid("its name is incomplete"),
    }
}

/// `struct vfs_cap_data` of revision 2, or of revision 3 with the root's ID.
fn is_capability(value: &[u8]) -> bool {
    let revision = u32_at(value, 0) >> 24;
    matches!((value.len(), revision), (20, 2) | (24, 3))
}
