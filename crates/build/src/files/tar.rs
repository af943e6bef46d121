//! Archives that become trees.

use std::io::{self, Read};

use super::Files;
use crate::draft::{Draft, ROOT};
use crate::tree::Tree;

impl Files {
    /// Takes a tar stream in (plain or compressed): the classic client's
    /// context, an archive from an address. Hostile: bounds on the number of
    /// entries, names and depth; nothing leads out of the tree.
    ///
    /// # Errors
    /// `InvalidData` for what is wrong with the stream.
    pub fn take_tar(&self, input: &mut dyn Read) -> io::Result<Tree> {
        let mut draft = Draft::new(None)?;
        draft.unpack(self, input, ROOT, None)?;
        draft.into_tree()
    }
}
