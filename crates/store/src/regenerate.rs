//! The tar stream of a layer that was built here, made again from it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::Digest;
use crate::blob::open_file;
use crate::canonical::{RootEntries, opaque};
use crate::changes::{Changes, Emit};
use crate::disk::open_directory;
use crate::error::{Error, Result, invalid};
use crate::hashing::Hashing;
use crate::layer::{FormKind, Image, Layer, export, opaque_mark};
use crate::store::Inner;
use crate::tar::{Entry, TarWriter, head};

/// Bytes that are handed over at once, and how many such pieces wait at most.
const PIECE: usize = 128 << 10;
pub(crate) const DEPTH: usize = 8;

/// A built layer, open.
#[derive(Debug)]
pub(crate) struct Original {
    diff_id: Digest,
    content: Content,
    root: RootEntries,
    length: u64,
    mark: &'static str,
}

#[derive(Debug)]
enum Content {
    Directory(OwnedFd),
    Erofs(Box<Image>),
}

impl Original {
    /// # Errors
    /// `Invalid` if it was not built here.
    pub(crate) fn open(inner: &Inner, diff_id: &str, layer: &Layer) -> Result<Self> {
        let Some(built) = &layer.built else {
            return invalid(format!(
                "layer {diff_id} was not built here: its blob cannot be made again"
            ));
        };
        let failed = || Error::io("open layer", diff_id);
        let directory = inner.open_layer(diff_id).map_err(failed())?;
        let name = layer.form.content();
        let content = match layer.form {
            FormKind::Directory => Content::Directory(
                open_directory(directory.as_fd(), name.as_bytes()).map_err(failed())?,
            ),
            FormKind::Erofs => {
                let file = open_file(&directory, name).map_err(failed())?;
                Content::Erofs(Box::new(Image::open(file)?))
            }
        };
        Ok(Self {
            diff_id: diff_id.to_owned(),
            content,
            root: RootEntries {
                own: built.root,
                opaque: layer.opaque,
            },
            length: built.length,
            mark: opaque_mark(inner.options.userxattr),
        })
    }

    pub(crate) fn diff_id(&self) -> &str {
        &self.diff_id
    }

    /// Bytes of the stream.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Writes the stream, and verifies that it is the one that the layer was
    /// made of.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<()> {
        let mut hashed = Hashed {
            out,
            hash: Hashing::default(),
        };
        let mut tar = TarWriter::new(&mut hashed);
        self.entries(&mut |entry, data| tar.append(entry, data))?;
        tar.finish()?;
        let (found, length) = hashed.hash.finish();
        if found != self.diff_id || length != self.length {
            return invalid(format!(
                "layer {} is damaged: its content is that of {found}: check the store with \"berth system check\"",
                self.diff_id
            ));
        }
        Ok(())
    }

    pub(crate) fn verify(&self) -> Result<()> {
        self.write(&mut io::sink())
    }

    fn entries(&self, emit: Emit<'_>) -> Result<()> {
        match &self.content {
            Content::Erofs(image) => export(image, self.root, self.mark, emit),
            Content::Directory(root) => {
                let root = root.try_clone().map_err(Error::io("open", "a layer"))?;
                export_directory(root, self.root, self.mark, emit)
            }
        }
    }
}

fn export_directory(
    directory: OwnedFd,
    root: RootEntries,
    mark: &'static str,
    emit: Emit<'_>,
) -> Result<()> {
    let mut changes = Changes::new(directory, mark, emit);
    if root.own {
        changes.write_root(true)?;
    }
    if root.opaque {
        changes.append(&opaque(&[]), &mut io::empty())?;
    }
    changes.write()
}

/// Digest of the headers that a layer's directory gives: what a file system
/// does not keep (an attribute, a time out of its range) shows in it.
pub(crate) fn heads(directory: OwnedFd, root: RootEntries, mark: &'static str) -> Result<Digest> {
    let mut hash = Hashing::default();
    let mut emit = |entry: &Entry, _: &mut dyn Read| {
        hash.update(&head(entry)?);
        Ok(())
    };
    export_directory(directory, root, mark, &mut emit)?;
    Ok(hash.finish().0)
}

/// Passes on what is written, and hashes it.
struct Hashed<'a> {
    out: &'a mut dyn Write,
    hash: Hashing,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Hands what is written to another thread, in pieces.
pub(crate) struct Pieces {
    to: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Pieces {
    pub(crate) fn new() -> (Self, Receiver<Vec<u8>>) {
        let (to, pieces) = sync_channel(DEPTH);
        let piece = Vec::with_capacity(PIECE);
        (Self { to, piece }, pieces)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let now = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..now]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(now)
    }

    /// # Errors
    /// `BrokenPipe` if nobody takes them any more.
    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.to
            .send(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests;
