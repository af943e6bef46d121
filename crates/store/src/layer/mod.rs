//! A layer: one tar stream of changes becomes content on disk, once per diff
//! ID and independent of what lies below it.
//!
//! [`unpack`] reads the stream and says what each entry changes; a [`Form`]
//! writes that down. Directories are one form; another (a file system image)
//! needs only to take the same changes.

mod directory;
mod erofs;
pub(crate) mod probe;

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, linkat, mkdirat};
use rustix::io::Errno;

use self::directory::Directory;
use self::erofs::Erofs;
pub(crate) use self::erofs::{BLOCK, HEAD, Image, ImageNode, export, keep};
use crate::blob::open_file;
use crate::built::Placed;
use crate::disk::{create_file, open_directory};
use crate::error::{Error, Result, invalid};
use crate::tar::{Entry, Kind, Reader, Time};
use serde::{Deserialize, Serialize};

/// More entries than any image has; bounds the inodes a hostile one takes.
pub(crate) const MAX_ENTRIES: u64 = 5_000_000;
/// Directories that entries only imply: each entry may be below hundreds.
const MAX_IMPLIED: u32 = 1 << 20;
/// `PATH_MAX` and `NAME_MAX`; a deeper path than this no kernel call could name.
const MAX_NAME: usize = 4095;
const MAX_COMPONENT: usize = 255;
const MAX_DEPTH: usize = 512;

pub(crate) const WHITEOUT: &[u8] = b".wh.";
pub(crate) const WHITEOUT_META: &[u8] = b".wh..wh.";
pub(crate) const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// How a layer's content is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FormKind {
    Directory,
    Erofs,
}

impl FormKind {
    /// What the content is called in the layer's directory.
    pub(crate) fn content(self) -> &'static str {
        match self {
            FormKind::Directory => "fs",
            FormKind::Erofs => "layer.erofs",
        }
    }
}

/// How layers are unpacked on this data root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) form: FormKind,
    /// `user.overlay.*` instead of `trusted.overlay.*`: for mounts in a user
    /// namespace (`userxattr`).
    pub(crate) userxattr: bool,
    /// Make device nodes. A user namespace cannot; there they are left out, as
    /// Docker does.
    pub(crate) devices: bool,
}

/// The attribute of a directory that hides what lower layers have in it.
pub(crate) fn opaque_mark(userxattr: bool) -> &'static str {
    if userxattr {
        "user.overlay.opaque"
    } else {
        "trusted.overlay.opaque"
    }
}

/// Mode and owner of a layer's root directory, which the root of a container
/// takes from its topmost layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Root {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Default for Root {
    fn default() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
        }
    }
}

/// What is known of an unpacked layer; `layer.json` beside its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) form: FormKind,
    /// Bytes in files, without holes.
    pub(crate) size: u64,
    pub(crate) root: Root,
    /// Its root hides all layers below. Overlay ignores the mark on a root
    /// directory, so such a layer ends the chain of whoever mounts it.
    pub(crate) opaque: bool,
    /// Its tar stream can be made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) built: Option<Built>,
}

/// What is known of a layer's canonical stream, besides its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Built {
    /// Bytes.
    pub(crate) length: u64,
    /// The root has an entry.
    pub(crate) root: bool,
}

/// What an inode keeps of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
}

/// One change that a layer makes. Paths are relative and clean: no empty,
/// `.` or `..` component; the root is the empty path.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    /// The data of a file is read from the stream given along.
    Put(&'a Path, &'a Entry),
    /// Hides what lower layers have there.
    Whiteout(&'a Path),
    /// Hides what lower layers have inside that directory.
    Opaque(&'a Path),
}

/// A clean path: its components, and their number is its depth.
pub(crate) type Path = [Vec<u8>];

/// Where changes are written down.
pub(crate) trait Form {
    fn apply(&mut self, change: Change<'_>, data: &mut dyn Read) -> Result<()>;
    /// What is kept of the file at a path without symbolic links; none for
    /// directories and whiteouts.
    fn kept(&self, path: &Path) -> Result<Option<Kept>>;
    /// After the last change.
    fn finish(self) -> Result<Layer>;
}

/// Content in the form that the options name.
#[derive(Debug)]
pub(crate) enum Content {
    Directory(Directory),
    Erofs(Box<Erofs>),
}

/// Begins the content of a layer in its new directory `at`; of a file with
/// contents, if that can be linked there.
pub(crate) fn create(options: Options, at: &OwnedFd, placed: Option<Placed>) -> Result<Content> {
    let name = options.form.content();
    let failed = || Error::io("make layer", name);
    match options.form {
        FormKind::Directory => {
            mkdirat(at, name, Mode::RWXU).map_err(failed())?;
            let root = open_directory(at.as_fd(), name.as_bytes()).map_err(failed())?;
            Directory::new(root, options).map(Content::Directory)
        }
        FormKind::Erofs => {
            let erofs = match placed.filter(|placed| link(placed, at, name).is_ok()) {
                Some(placed) => Erofs::over(placed, options),
                None => Erofs::new(create_file(at, name).map_err(failed())?, options),
            };
            Ok(Content::Erofs(Box::new(erofs)))
        }
    }
}

/// Fails where the file is of another file system, or has no name any more.
fn link(placed: &Placed, at: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    let path = format!("/proc/self/fd/{}", placed.file.as_raw_fd());
    linkat(CWD, path, at, name, AtFlags::SYMLINK_FOLLOW)
}

impl Content {
    /// The directory that is being filled, if that is its form.
    pub(crate) fn directory(&self) -> Result<Option<OwnedFd>> {
        match self {
            Content::Directory(form) => form.root().map(Some),
            Content::Erofs(_) => Ok(None),
        }
    }
}

impl Form for Content {
    fn apply(&mut self, change: Change<'_>, data: &mut dyn Read) -> Result<()> {
        match self {
            Content::Directory(form) => form.apply(change, data),
            Content::Erofs(form) => form.apply(change, data),
        }
    }

    fn kept(&self, path: &Path) -> Result<Option<Kept>> {
        match self {
            Content::Directory(form) => form.kept(path),
            Content::Erofs(form) => form.kept(path),
        }
    }

    fn finish(self) -> Result<Layer> {
        match self {
            Content::Directory(form) => form.finish(),
            Content::Erofs(form) => form.finish(),
        }
    }
}

/// Looks whether the content of a layer can be what its record says.
pub(crate) fn verify(layer: &Layer, directory: &OwnedFd) -> Result<()> {
    let name = layer.form.content();
    match layer.form {
        FormKind::Directory => open_directory(directory.as_fd(), name.as_bytes())
            .map(drop)
            .map_err(Error::io("open content", name)),
        FormKind::Erofs => {
            let file = open_file(directory, name).map_err(Error::io("open content", name))?;
            Image::open(file)?.walk(&mut |_, _| Ok(()))
        }
    }
}

/// Whether a stream must close with the end-of-archive marker. Layers in
/// images are judged by their digest instead: some builders leave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Marked,
    Any,
}

/// Applies all of a tar stream and reads it to its end (what follows the end
/// of the archive still counts for the digest).
pub(crate) fn unpack(stream: &mut dyn Read, ending: Ending, mut form: impl Form) -> Result<Layer> {
    let mut tar = Reader::new(stream);
    let mut entries = 0;
    while let Some(entry) = tar.next()? {
        entries += 1;
        if entries > MAX_ENTRIES {
            return invalid(format!("it has more than {MAX_ENTRIES} entries"));
        }
        apply(&mut form, &entry, &mut tar).map_err(|error| {
            error.within(&format!("entry {:?}", String::from_utf8_lossy(&entry.name)))
        })?;
    }
    if ending == Ending::Marked && !tar.is_complete() {
        return invalid("the archive is truncated: its end marker is missing");
    }
    std::io::copy(&mut tar.into_inner(), &mut std::io::sink())
        .map_err(Error::stream("the archive"))?;
    form.finish()
}

fn apply(form: &mut impl Form, entry: &Entry, data: &mut dyn Read) -> Result<()> {
    let path = clean(&entry.name)?;
    let Some((name, parent)) = path.split_last() else {
        if entry.kind != Kind::Directory {
            return invalid("the root of a layer is not a directory");
        }
        return form.apply(Change::Put(&path, entry), data);
    };
    if name == WHITEOUT_OPAQUE {
        return form.apply(Change::Opaque(parent), data);
    }
    if path
        .iter()
        .any(|component| component.starts_with(WHITEOUT_META))
    {
        // Bookkeeping of AUFS, never part of the content.
        return Ok(());
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        if matches!(hidden, b"" | b"." | b"..") {
            return invalid("a whiteout without a name");
        }
        let mut target = parent.to_vec();
        target.push(hidden.to_vec());
        return form.apply(Change::Whiteout(&target), data);
    }
    form.apply(Change::Put(&path, entry), data)
}

/// Counts one more directory that no entry has described yet.
fn imply(implied: &mut u32) -> Result<()> {
    *implied += 1;
    if *implied > MAX_IMPLIED {
        return invalid(format!(
            "it has files in more than {MAX_IMPLIED} directories that it does not contain"
        ));
    }
    Ok(())
}

/// The components of a member's name, refused where it could point outside.
pub(crate) fn clean(name: &[u8]) -> Result<Vec<Vec<u8>>> {
    if name.is_empty() {
        return invalid("it has no name");
    }
    if name.len() > MAX_NAME {
        return invalid(format!("its name is longer than {MAX_NAME} bytes"));
    }
    if name[0] == b'/' {
        return invalid("its name is absolute");
    }
    let mut path = Vec::new();
    for component in name.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return invalid("its name contains \"..\""),
            // A whiteout's prefix is no part of the name it hides.
            _ if component.strip_prefix(WHITEOUT).unwrap_or(component).len() > MAX_COMPONENT => {
                return invalid(format!(
                    "a part of its name is longer than {MAX_COMPONENT} bytes"
                ));
            }
            _ => path.push(component.to_vec()),
        }
    }
    if path.len() > MAX_DEPTH {
        return invalid(format!("its name is deeper than {MAX_DEPTH} directories"));
    }
    Ok(path)
}

/// Attributes that belong to a file. Not `trusted.*` and `user.overlay.*`: a
/// layer must not steer overlayfs (redirects, metacopy). Not security labels,
/// which are this machine's to give.
pub fn is_wanted(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

fn display(path: &Path) -> String {
    format!(
        "{} in the layer",
        String::from_utf8_lossy(&path.join(&b'/'))
    )
}

/// Errors that the archive provokes are its fault, the others the machine's.
fn refused(errno: Errno, action: &'static str, path: &Path) -> Error {
    match errno {
        Errno::LOOP
        | Errno::NOTDIR
        | Errno::NAMETOOLONG
        | Errno::XDEV
        | Errno::INVAL
        | Errno::NOENT => Error::Invalid(format!(
            "cannot {action} {}: {}",
            display(path),
            std::io::Error::from(errno)
        )),
        _ => Error::io(action, display(path))(errno),
    }
}

#[cfg(test)]
mod tests;
