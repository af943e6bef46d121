//! A tree of files that came from outside: a context, a git checkout, a
//! download. What it holds and how it looks; the bytes are in [`crate::files`].

use std::sync::Arc;

use berth_store::Digest;
use serde::{Deserialize, Serialize};

/// Entries, each directory followed by what is in it, in the order of names'
/// bytes (so paths compare component by component). Every entry's directory is
/// an entry, except for the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative, clean (no empty, `.` or `..` component), with slashes; bytes
    /// are UTF-8 or the entry is refused.
    pub path: String,
    pub node: Node,
    /// Lower twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Nanoseconds since 1970. Never part of a key; in a layer only where the
    /// files' own times matter ([`crate::solve::keeps_times`]).
    #[serde(default)]
    pub mtime: i64,
    /// Names with their namespace, and values; sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Node {
    Directory,
    /// Content in the file store, and its length.
    File {
        digest: Digest,
        size: u64,
    },
    Symlink(String),
    /// Same file as that path of this tree, which comes first.
    HardLink(String),
    /// Character or block device, fifo: type bits of `st_mode`, major, minor.
    Special {
        kind: u32,
        major: u32,
        minor: u32,
    },
}

/// What a vertex gives.
#[derive(Clone, Debug)]
pub enum Value {
    /// A root filesystem.
    Root(Chain),
    Tree(Arc<Tree>),
}

/// Layers, bottom first. Empty = scratch.
pub type Chain = Arc<[Layer]>;

/// One layer of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its content, named: the diff ID of its canonical tar stream, in which
    /// all built files have the same time. What cache keys and images are made
    /// of.
    pub digest: Digest,
    /// Diff ID of the layer in the store that is mounted in the build. Another
    /// than `digest` only when the files' own times matter to a later step
    /// (see [`crate::solve`]).
    pub stored: Digest,
    /// The compressed blob, of layers that came with an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Blob>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}
