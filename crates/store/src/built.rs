//! Layers that a build makes: without a blob until an image needs one, kept by
//! pins instead of by an image.
//!
//! A built layer's tar stream is canonical ([`crate::canonical`]). So the
//! stream can be made again from the layer, byte for byte, and need not be
//! stored.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use crate::Digest;
use crate::canonical;
use crate::error::{Error, Result};
use crate::incoming::Incoming;
use crate::layer::FormKind;
use crate::unpack::{Bounded, NewLayer, write_layer};

/// A file that holds contents of a layer's files already, and can become the
/// layer: what it has is not written again. Nothing of it but its first
/// [`Placed::HEAD`] bytes is changed, and what is written goes behind its end.
#[derive(Debug)]
pub struct Placed {
    /// In the file system of the store; must be written to by nobody else.
    pub file: File,
    /// Where free space begins, in bytes.
    pub end: u64,
    /// By the name of the entry, where the content begins: at a multiple of
    /// [`Placed::BLOCK`], with zeros behind it up to the next.
    pub contents: HashMap<Vec<u8>, u64>,
}

impl Placed {
    /// Bytes at the beginning of the file that are free.
    pub const HEAD: u64 = crate::layer::HEAD as u64;
    pub const BLOCK: u64 = crate::layer::BLOCK as u64;
}

impl Incoming {
    /// Makes a layer of a plain tar stream in canonical order; no blob. It is
    /// kept while this lives. Returns its diff ID, the digest of the stream.
    ///
    /// Canonical is: each directory followed by what is in it, names in the
    /// order of their bytes; every directory but the root an entry; the first
    /// name of a file is the file, others are hard links to it; written by
    /// [`crate::TarWriter`]. What layers do not keep (attributes other than
    /// `user.*`, capabilities and access lists; those of links and devices) is
    /// left out, and then the digest is of the stream without it.
    ///
    /// # Errors
    /// `Invalid` if the order is another, or the stream is cut short.
    pub fn layer(&self, plain: &mut dyn Read) -> Result<Digest> {
        self.layer_over(None, plain)
    }

    /// Whether [`Incoming::layer_over`] makes use of what is there: directories
    /// hold their own files.
    pub fn places(&self) -> bool {
        self.inner().options.form == FormKind::Erofs
    }

    /// The same, over what is there already. The stream has it all.
    ///
    /// # Errors
    /// As of [`Incoming::layer`].
    pub fn layer_over(&self, placed: Option<Placed>, plain: &mut dyn Read) -> Result<Digest> {
        let (inner, work) = (self.inner(), self.work());
        let plain = Bounded::new(&work.fd, plain, u64::MAX);
        let mut diff_id = String::new();
        let (directory, layer) = write_layer(inner, work, placed, |content| {
            let (layer, digest) = canonical::unpack(plain, content, inner.options)?;
            diff_id = digest;
            Ok(layer)
        })?;
        self.add_layer(NewLayer {
            diff_id: diff_id.clone(),
            directory,
            layer,
        })?;
        Ok(diff_id)
    }

    /// Keeps a layer that is here.
    ///
    /// # Errors
    /// `NotFound` if it is gone.
    pub fn keep_layer(&self, layer: &str) -> Result<()> {
        if self.has_layer(layer) {
            return Ok(());
        }
        Err(Error::NotFound(format!("No such layer: {layer}")))
    }
}

#[cfg(test)]
mod tests;
