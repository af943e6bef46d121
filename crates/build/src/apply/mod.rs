//! COPY, ADD, WORKDIR and documents: what a `Files` operation changes, as the
//! canonical tar stream of one layer.
//!
//! Sources are hostile: links in them never lead out of their root, links in
//! the base never out of the base (CVE-2024-23652 and its kin). What a path of
//! the base leads through (`/bin` → `usr/bin`) is followed within it.

mod content;
mod copy;
mod mode;
mod owner;
mod select;
mod source;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

pub use self::content::{content_below, content_of};
use self::copy::Copier;
use crate::draft::{Attributes, Data, Draft, Leaf, LeafKind, Place, ROOT, invalid, show};
use crate::files::Files;
use crate::graph::{self, FileAction};
use crate::solve::Error;
use crate::tree::Tree;

/// What an action copies from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A merged root filesystem, read-only.
    Root(BorrowedFd<'a>),
    Tree(&'a Tree),
}

/// Drafts the layer. Directories on the way that the base has are in it with
/// the base's mode and owner, so that the layer does not change them.
///
/// # Errors
/// `NotFound` for sources that are not there, `Invalid` for what cannot be
/// done, in BuildKit's words.
pub(crate) fn draft<'a>(
    files: &Files,
    operation: &'a graph::Files,
    base: Option<BorrowedFd<'a>>,
    sources: &[Source<'a>],
) -> Result<Draft<'a>, Error> {
    let mut draft = Draft::new(base)?;
    for action in &operation.actions {
        match action {
            FileAction::Copy(copy) => {
                let from = *sources.get(copy.from).ok_or_else(|| {
                    Error::System(format!(
                        "a copy names input {}, which it has not",
                        copy.from
                    ))
                })?;
                Copier::new(files, copy, base)?.run(&mut draft, from)?;
            }
            FileAction::Write {
                target,
                data,
                mode,
                owner,
            } => {
                let (uid, gid) = owner_of(owner.as_deref(), base)?;
                let mode = match mode {
                    Some(change) => change.apply(0o644, false)?,
                    None => 0o644,
                };
                let attributes = Attributes {
                    mode,
                    uid,
                    gid,
                    ..Attributes::default()
                };
                let kind = LeafKind::File(Data::Bytes(data.clone()));
                write(&mut draft, target, Leaf { kind, attributes })?;
            }
            FileAction::MakeDir { path, mode, owner } => {
                let made = Attributes {
                    mode: mode & 0o7777,
                    ..Attributes::directory(owner_of(owner.as_deref(), base)?)
                };
                draft.enter(path.as_bytes(), &made)?;
            }
        }
    }
    Ok(draft)
}

fn owner_of(owner: Option<&str>, base: Option<BorrowedFd<'_>>) -> io::Result<(u32, u32)> {
    owner.map_or(Ok((0, 0)), |owner| owner::lookup(owner, base))
}

fn write<'a>(draft: &mut Draft<'a>, target: &str, leaf: Leaf<'a>) -> io::Result<()> {
    let made = Attributes::directory((leaf.attributes.uid, leaf.attributes.gid));
    match draft.resolve(target.as_bytes(), &made)? {
        Place::Other(parent, name) | Place::Missing(parent, name) if !target.ends_with('/') => {
            draft.put(parent, &name, leaf).map(drop)
        }
        _ => {
            let target = show(target.as_bytes());
            Err(invalid(format!(
                "cannot replace to directory {target} with file"
            )))
        }
    }
}

/// A tree as the canonical tar stream of a layer (`RUN --mount=type=bind` from
/// a context): everything below `source`, or that file under its name. Owners
/// are 0:0.
///
/// # Errors
/// `NotFound` if there is no such path.
pub fn tree_layer(
    files: &Files,
    tree: &Tree,
    source: &str,
    time: Option<i64>,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let mut draft = Draft::new(None)?;
    let found = select::one(source, Source::Tree(tree))?;
    copy::whole(&mut draft, Source::Tree(tree), &found, ROOT)?;
    Ok(draft.write(files, time, out)?)
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Error::Invalid(error.to_string()),
            io::ErrorKind::NotFound => Error::NotFound(error.to_string()),
            _ => Error::System(error.to_string()),
        }
    }
}
