//! Plain layers become blobs: while they are unpacked (commit), from another
//! blob, or from a layer that was built.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc::Receiver;
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::blob::{Tee, name_digest};
use crate::decompress::decompress;
use crate::error::{Error, Result, invalid};
use crate::incoming::Incoming;
use crate::layer::Ending;
use crate::regenerate::{Original, Pieces};
use crate::unpack::{Room, unpack_plain};

/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

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
    /// compressed as given (commit): the layer's descriptor.
    pub fn pack(&self, plain: &mut dyn Read, compression: PackAs) -> Result<Packed> {
        let mut new = None;
        let packed = self.compress(compression, |out| {
            let layer = unpack_plain(self.inner(), self.work(), fork(plain, out), Ending::Marked)?;
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
        let (_, mut plain) = decompress(self.open_blob(blob)?.0)?;
        self.compress(compression, |out| {
            let (found, _) = Tee::hash(fork(&mut plain, out))
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
        if compression == PackAs::Plain {
            return Ok(Packed {
                diff_id: layer.to_owned(),
                digest: layer.to_owned(),
                size: original.length(),
                media_type: compression.media_type(),
            });
        }
        self.compress(compression, |mut out| {
            original.write(&mut out).map(|()| layer.to_owned())
        })
    }

    /// Packs the plain stream that `write` writes, in a thread of its own;
    /// `write` tells the diff ID. Nothing is left after an error.
    fn compress(
        &self,
        compression: PackAs,
        write: impl FnOnce(Pieces) -> Result<Digest>,
    ) -> Result<Packed> {
        let (name, file) = self.create()?;
        let out = Output {
            file,
            hasher: Sha256::new(),
            room: Room::new(&self.work().fd),
        };
        let (plain, pieces) = Pieces::new();
        let made = thread::scope(|scope| {
            let packer = thread::Builder::new()
                .name("store-pack".to_owned())
                .spawn_scoped(scope, move || pack(&pieces, compression, out))
                .map_err(Error::io("start", "a thread"))?;
            let diff_id = write(plain);
            let Ok(blob) = packer.join() else {
                return invalid("packing a layer failed");
            };
            // Its error first: the other one only met a closed pipe.
            let blob = blob.map_err(Error::io("write blob", &name))?;
            Ok((diff_id?, blob))
        });
        if made.is_err() {
            self.inner().discard(&self.work().fd, name.as_bytes());
        }
        let (diff_id, (digest, size)) = made?;
        self.add(name, digest.clone(), size);
        Ok(Packed {
            diff_id,
            digest,
            size,
            media_type: compression.media_type(),
        })
    }
}

/// Passes on what it reads, and a copy of it to the packing thread.
struct Fork<'a> {
    input: &'a mut dyn Read,
    pieces: Pieces,
}

fn fork(input: &mut dyn Read, pieces: Pieces) -> BufReader<Fork<'_>> {
    BufReader::with_capacity(BUFFER, Fork { input, pieces })
}

impl Read for Fork<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        match n {
            0 => self.pieces.flush()?,
            n => self.pieces.write_all(&buffer[..n])?,
        }
        Ok(n)
    }
}

fn pack(
    pieces: &Receiver<Vec<u8>>,
    compression: PackAs,
    out: Output<'_>,
) -> io::Result<(Digest, u64)> {
    let out = match compression {
        PackAs::Plain => copy(pieces, out)?,
        PackAs::Gzip => gzip(pieces, out, flate2::Compression::default())?,
        PackAs::GzipLevel(level) => gzip(pieces, out, flate2::Compression::new(level.min(9)))?,
        PackAs::Zstd => zstd(pieces, out, ZSTD_LEVEL)?,
        PackAs::ZstdLevel(level) => zstd(pieces, out, level)?,
    };
    Ok((name_digest(out.hasher), out.room.taken()))
}

fn gzip<'a>(
    pieces: &Receiver<Vec<u8>>,
    out: Output<'a>,
    level: flate2::Compression,
) -> io::Result<Output<'a>> {
    let mut encoder = flate2::write::GzEncoder::new(out, level);
    for piece in pieces {
        encoder.write_all(&piece)?;
    }
    encoder.finish()
}

fn zstd<'a>(pieces: &Receiver<Vec<u8>>, out: Output<'a>, level: i32) -> io::Result<Output<'a>> {
    let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
    for piece in pieces {
        encoder.write_all(&piece)?;
    }
    encoder.finish()
}

fn copy<'a>(pieces: &Receiver<Vec<u8>>, mut out: Output<'a>) -> io::Result<Output<'a>> {
    for piece in pieces {
        out.write_all(&piece)?;
    }
    Ok(out)
}

/// The blob under construction.
struct Output<'a> {
    file: File,
    hasher: Sha256,
    room: Room<'a>,
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.room.take(n)?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
