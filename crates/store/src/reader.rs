//! A blob, read from its beginning: a file, or the stream of a built layer,
//! which is made while it is read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use crate::Store;
use crate::blob::{hex_of, open_file};
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::regenerate::{Original, Pieces};
use crate::store::{Inner, hex};

/// Its end is announced only after what was made has proved right, else it is
/// an error.
#[derive(Debug)]
pub struct BlobReader(Source);

#[derive(Debug)]
enum Source {
    File(File),
    /// Nothing is made before the first byte is wanted.
    Layer(Arc<Inner>, Box<Original>),
    Made(Made),
    Ended,
}

#[derive(Debug)]
struct Made {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    thread: JoinHandle<Result<()>>,
    /// Keeps the layer.
    _lease: Lease,
}

impl Store {
    /// Opens a blob for reading, and says its length.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn open_blob(&self, digest: &str) -> Result<(BlobReader, u64)> {
        hex_of(digest)?;
        self.inner.open_blob(digest)
    }
}

impl Inner {
    pub(crate) fn open_blob(self: &Arc<Self>, digest: &str) -> Result<(BlobReader, u64)> {
        let state = self.state();
        if let Some(size) = state.blobs.get(digest) {
            let file =
                open_file(&self.dirs.blobs, hex(digest)).map_err(Error::io("open blob", digest))?;
            return Ok((file.into(), *size));
        }
        match state.layers.get(digest) {
            Some(layer) if layer.built.is_some() => {
                let original = Original::open(self, digest, layer)?;
                let size = original.length();
                let source = Source::Layer(self.clone(), Box::new(original));
                Ok((BlobReader(source), size))
            }
            _ => Err(Error::NotFound(format!("blob {digest} not found"))),
        }
    }
}

impl From<File> for BlobReader {
    fn from(file: File) -> Self {
        Self(Source::File(file))
    }
}

impl BlobReader {
    /// Goes on so many bytes further; not beyond the end.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        if let Source::File(file) = &mut self.0 {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            return file.seek(SeekFrom::Current(bytes)).map(drop);
        }
        io::copy(&mut self.by_ref().take(bytes), &mut io::sink()).map(drop)
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match std::mem::replace(&mut self.0, Source::Ended) {
            Source::File(mut file) => {
                let read = file.read(buffer);
                self.0 = Source::File(file);
                read
            }
            Source::Layer(inner, original) => {
                self.0 = Source::Made(Made::start(&inner, *original)?);
                self.read(buffer)
            }
            Source::Made(mut made) => match made.read(buffer) {
                // Only now it is known to be right.
                0 if !buffer.is_empty() => match made.thread.join() {
                    Ok(ended) => ended.map(|()| 0).map_err(io::Error::other),
                    Err(_) => Err(io::Error::other("the stream of a layer was cut off")),
                },
                n => {
                    self.0 = Source::Made(made);
                    Ok(n)
                }
            },
            Source::Ended => Ok(0),
        }
    }
}

impl Made {
    fn start(inner: &Arc<Inner>, original: Original) -> io::Result<Self> {
        let lease = Lease::new(inner.clone());
        lease.add(&mut inner.state(), original.diff_id());
        let (mut plain, pieces) = Pieces::new();
        let thread = std::thread::Builder::new()
            .name("store-layer".to_owned())
            .spawn(move || original.write(&mut plain))?;
        Ok(Self {
            pieces,
            piece: Vec::new(),
            at: 0,
            thread,
            _lease: lease,
        })
    }

    /// 0 at the end.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        if self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                Err(_) => return 0,
            }
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        n
    }
}

#[cfg(test)]
mod tests;
