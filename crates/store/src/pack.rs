//! A plain layer becomes a blob while it is unpacked (commit, build).

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::blob::{Tee, name_digest};
use crate::decompress::decompress;
use crate::error::{Error, Result, invalid};
use crate::incoming::Incoming;
use crate::layer::Ending;
use crate::regenerate::{Original, Pieces};
use crate::unpack::unpack_plain;

/// Buffers between reading and compressing.
const BUFFER: usize = 128 << 10;
const DEPTH: usize = 8;

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// Compression of a blob that is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackAs {
    Plain,
    /// At its usual level.
    Gzip,
    /// 0 to 9.
    GzipLevel(u32),
    /// At its usual level.
    Zstd,
    /// 1 to 22.
    ZstdLevel(i32),
}

/// A layer made by [`Incoming::pack`].
#[derive(Clone, Debug)]
pub struct Packed {
    pub diff_id: Digest,
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

impl PackAs {
    fn media_type(self) -> String {
        let suffix = match self {
            PackAs::Plain => "",
            PackAs::Gzip | PackAs::GzipLevel(_) => "+gzip",
            PackAs::Zstd | PackAs::ZstdLevel(_) => "+zstd",
        };
        format!("application/vnd.oci.image.layer.v1.tar{suffix}")
    }
}

impl Incoming {
    /// Unpacks a plain tar stream that is in no blob yet, which becomes one,
    /// compressed as given (commit, build): the layer's descriptor.
    pub fn pack(&self, plain: &mut dyn Read, compression: PackAs) -> Result<Packed> {
        let mut new = None;
        let packed = self.compress(plain, compression, &mut |plain| {
            let layer = unpack_plain(self.inner(), self.work(), plain, Ending::Marked)?;
            let diff_id = layer.diff_id.clone();
            new = Some(layer);
            Ok(diff_id)
        })?;
        new.map(|layer| self.add_layer(layer)).transpose()?;
        Ok(packed)
    }

    /// Another blob of a layer whose blob is here, compressed as given.
    ///
    /// # Errors
    /// `Invalid` if what is in the blob is not that layer.
    pub fn repack(&self, blob: &str, diff_id: &str, compression: PackAs) -> Result<Packed> {
        let (_, mut plain) = decompress(self.open(blob)?)?;
        self.compress(&mut plain, compression, &mut |plain| {
            let (found, _) = Tee::hash(plain)
                .finish()
                .map_err(Error::io("read blob", blob))?;
            if found != diff_id {
                return invalid(format!(
                    "invalid diffID: expected {diff_id:?}, got {found:?}"
                ));
            }
            Ok(found)
        })
    }

    /// Packs a plain stream while `read` reads it to its end and tells its
    /// diff ID.
    fn compress(
        &self,
        plain: &mut dyn Read,
        compression: PackAs,
        read: &mut dyn FnMut(&mut dyn Read) -> Result<Digest>,
    ) -> Result<Packed> {
        let (name, file) = self.create()?;
        let (sender, pieces) = sync_channel(DEPTH);
        let (diff_id, blob) = thread::scope(|scope| {
            let packer = thread::Builder::new()
                .name("store-pack".to_owned())
                .spawn_scoped(scope, move || pack(&pieces, compression, file))
                .map_err(Error::io("start", "a thread"))?;
            let fork = Fork {
                input: plain,
                pieces: sender,
            };
            let mut fork = BufReader::with_capacity(BUFFER, fork);
            let diff_id = read(&mut fork);
            // The packer's end of the stream.
            drop(fork);
            let blob = match packer.join() {
                Ok(blob) => blob.map_err(Error::io("write blob", &name))?,
                Err(_) => return invalid("packing a layer failed"),
            };
            Ok((diff_id?, blob))
        })?;
        let (digest, size) = blob;
        self.add(name, digest.clone(), size);
        Ok(Packed {
            diff_id,
            digest,
            size,
            media_type: compression.media_type(),
        })
    }
}

impl Incoming {
    /// The blob of a layer that was made by [`Incoming::layer`], for a manifest:
    /// its stream, compressed. The plain one is the layer itself, and takes no
    /// space of its own. Equal layers and compressions give equal blobs.
    ///
    /// # Errors
    /// `NotFound` if it is gone; `Invalid` if it was not built here.
    pub fn blob_of(&self, layer: &str, compression: PackAs) -> Result<Packed> {
        let original = {
            let state = &mut *self.inner().state();
            let Some(found) = state.layers.get(layer).cloned() else {
                return Err(Error::NotFound(format!("No such layer: {layer}")));
            };
            let original = Original::open(self.inner(), layer, &found)?;
            self.keep(state, layer);
            original
        };
        let mut packed = Packed {
            diff_id: layer.to_owned(),
            digest: layer.to_owned(),
            size: original.length(),
            media_type: compression.media_type(),
        };
        if compression != PackAs::Plain {
            (packed.digest, packed.size) = self.compress_original(&original, compression)?;
        }
        Ok(packed)
    }

    fn compress_original(&self, original: &Original, compression: PackAs) -> Result<(Digest, u64)> {
        let (name, file) = self.create()?;
        let (mut plain, pieces) = Pieces::new();
        let made = thread::scope(|scope| {
            let packer = thread::Builder::new()
                .name("store-pack".to_owned())
                .spawn_scoped(scope, move || pack(&pieces, compression, file))
                .map_err(Error::io("start", "a thread"))?;
            let written = original.write(&mut plain);
            drop(plain);
            match packer.join() {
                Ok(blob) => {
                    let blob = blob.map_err(Error::io("write blob", &name))?;
                    written.map(|()| blob)
                }
                Err(_) => invalid("packing a layer failed"),
            }
        });
        match made {
            Ok((digest, size)) => {
                self.add(name, digest.clone(), size);
                Ok((digest, size))
            }
            Err(error) => {
                self.inner().discard(&self.work().fd, name.as_bytes());
                Err(error)
            }
        }
    }
}

/// Passes on what it reads, and a copy of it to the other thread.
struct Fork<'a> {
    input: &'a mut dyn Read,
    pieces: SyncSender<Vec<u8>>,
}

impl Read for Fork<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        // If it is gone it has an error of its own, which is told.
        if n > 0 && self.pieces.send(buffer[..n].to_vec()).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(n)
    }
}

fn pack(pieces: &Receiver<Vec<u8>>, compression: PackAs, file: File) -> io::Result<(Digest, u64)> {
    let out = Hashing {
        file,
        hasher: Sha256::new(),
        count: 0,
    };
    let out = match compression {
        PackAs::Plain => copy(pieces, out)?,
        PackAs::Gzip => gzip(pieces, out, flate2::Compression::default())?,
        PackAs::GzipLevel(level) => gzip(pieces, out, flate2::Compression::new(level.min(9)))?,
        PackAs::Zstd => zstd(pieces, out, ZSTD_LEVEL)?,
        PackAs::ZstdLevel(level) => zstd(pieces, out, level)?,
    };
    Ok((name_digest(out.hasher), out.count))
}

fn gzip(
    pieces: &Receiver<Vec<u8>>,
    out: Hashing,
    level: flate2::Compression,
) -> io::Result<Hashing> {
    let mut encoder = flate2::write::GzEncoder::new(out, level);
    for piece in pieces {
        encoder.write_all(&piece)?;
    }
    encoder.finish()
}

fn zstd(pieces: &Receiver<Vec<u8>>, out: Hashing, level: i32) -> io::Result<Hashing> {
    let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
    for piece in pieces {
        encoder.write_all(&piece)?;
    }
    encoder.finish()
}

fn copy(pieces: &Receiver<Vec<u8>>, mut out: Hashing) -> io::Result<Hashing> {
    for piece in pieces {
        out.write_all(&piece)?;
    }
    Ok(out)
}

struct Hashing {
    file: File,
    hasher: Sha256,
    count: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
