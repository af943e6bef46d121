//! COPY, ADD, WORKDIR and documents: what a `Files` operation changes, as the
//! canonical tar stream of one layer.
//!
//! Sources are hostile: links in them never lead out of their root, links in
//! the base never out of the base (CVE-2024-23652 and its kin). What a path of
//! the base leads through (`/bin` → `usr/bin`) is followed within it.

use std::io::Write;
use std::os::fd::BorrowedFd;

use berth_store::Digest;

use crate::files::Files;
use crate::graph;
use crate::solve::Error;
use crate::tree::Tree;

/// What an action copies from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A merged root filesystem, read-only.
    Root(BorrowedFd<'a>),
    Tree(&'a Tree),
}

/// Writes the layer; whether it changes anything. Directories on the way that
/// the base has are written with the base's mode and owner, so that the layer
/// does not change them. `time`: one for all (seconds since 1970); none = the
/// files' own.
pub fn apply(
    files: &Files,
    operation: &graph::Files,
    base: Option<BorrowedFd<'_>>,
    sources: &[Source<'_>],
    time: Option<i64>,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let _ = (files, operation, base, sources, time, out);
    Err(Error::System("apply is not written yet".to_owned()))
}

/// Names what a copy takes from a tree: paths, kinds, modes, owners, contents;
/// no times. Part of the key of a `Files` operation. Without a copy (a bind
/// mount): all below `source`.
pub fn content_of(copy: Option<&graph::Copy>, source: &str, tree: &Tree) -> Result<Digest, Error> {
    let _ = (copy, source, tree);
    Err(Error::System("content_of is not written yet".to_owned()))
}

/// A tree as the canonical tar stream of a layer (`RUN --mount=type=bind` from
/// a context): everything below `source`.
pub fn tree_layer(
    files: &Files,
    tree: &Tree,
    source: &str,
    time: Option<i64>,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let _ = (files, tree, source, time, out);
    Err(Error::System("tree_layer is not written yet".to_owned()))
}

/// Names what is below a path of a root filesystem, as [`content_of`] does.
pub fn content_below(root: BorrowedFd<'_>, source: &str) -> Result<Digest, Error> {
    let _ = (root, source);
    Err(Error::System("content_below is not written yet".to_owned()))
}
