//! A blob becomes a layer on disk: one thread reads and inflates, the caller's
//! hashes the plain stream and writes the layer down, a few buffers in between.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use rustix::fs::{Mode, fstatvfs, mkdirat};
use rustix::io::Errno;

use crate::Digest;
use crate::blob::Tee;
use crate::built::Placed;
use crate::decompress::{Compression, decode, detect};
use crate::disk::{create_file, open_directory};
use crate::error::{Error, Result};
use crate::layer::{self, Content, Ending, Layer, unpack};
use crate::store::{Inner, LAYER_RECORD, Work};

/// Buffers between the two threads: enough that neither waits for the other's
/// every step, small enough to stay in the processor's cache.
const BUFFER: usize = 128 << 10;
const DEPTH: usize = 8;

/// Bytes of the blob between two reports.
const STEP: u64 = 512 << 10;

/// What deflate can reach at most. A layer may be packed tighter (zstd packs
/// zeros 30,000 to one) as long as it stays below [`ALWAYS_ALLOWED`]: a small
/// blob must not keep a processor and a disk busy for hours.
const MAX_RATIO: u64 = 1032;
const ALWAYS_ALLOWED: u64 = 16 << 30;

/// Part of the file system, at most so many bytes, that unpacking leaves free
/// for the engine's records and for containers; looked at after so many bytes.
const RESERVED_PART: u64 = 50;
const RESERVED_MAX: u64 = 256 << 20;
const LOOK_EVERY: u64 = 64 << 20;

/// A layer complete in a work directory.
#[derive(Debug)]
pub(crate) struct NewLayer {
    pub(crate) diff_id: Digest,
    pub(crate) directory: String,
    pub(crate) layer: Layer,
}

/// What came out of a blob.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// None if the blob is plain: then its digest is the diff ID.
    pub(crate) diff_id: Option<Digest>,
    pub(crate) directory: String,
    pub(crate) layer: Layer,
}

/// Unpacks a blob of `size` bytes, compressed or not, to its very end.
/// `progress` is told the bytes of the blob that are through.
pub(crate) fn unpack_blob(
    inner: &Inner,
    work: &Work,
    blob: impl Read + Send,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Unpacked> {
    let consumed = AtomicU64::new(0);
    let (compression, blob) = detect(Counted(blob, &consumed))?;
    let consumed = &consumed;
    let (sender, pieces) = sync_channel(DEPTH);
    let (give_back, buffers) = sync_channel(DEPTH + 2);
    thread::scope(|scope| {
        thread::Builder::new()
            .name("store-inflate".to_owned())
            .spawn_scoped(scope, move || {
                inflate(blob, compression, consumed, &sender, &buffers);
            })
            .map_err(Error::io("start", "a thread"))?;
        let plain = Plain {
            pieces,
            give_back,
            piece: Vec::new(),
            at: 0,
            ended: false,
            reported: 0,
            progress,
        };
        let limit = ALWAYS_ALLOWED.max(size.saturating_mul(MAX_RATIO));
        let bounded = Bounded::new(&work.fd, plain, limit);
        // A plain blob has been hashed when it arrived.
        if compression == Compression::None {
            let (directory, layer) = write_layer(inner, work, None, |content| {
                unpack(&mut { bounded }, Ending::Any, content)
            })?;
            return Ok(Unpacked {
                diff_id: None,
                directory,
                layer,
            });
        }
        let mut hashed = Tee::hash(bounded);
        let (directory, layer) = write_layer(inner, work, None, |content| {
            unpack(&mut hashed, Ending::Any, content)
        })?;
        let (diff_id, _) = hashed.finish().map_err(Error::stream("the archive"))?;
        Ok(Unpacked {
            diff_id: Some(diff_id),
            directory,
            layer,
        })
    })
}

/// Writes a plain stream down in one thread, and finds its diff ID.
pub(crate) fn unpack_plain(
    inner: &Inner,
    work: &Work,
    plain: impl Read,
    ending: Ending,
) -> Result<NewLayer> {
    let mut plain = Tee::hash(Bounded::new(&work.fd, plain, u64::MAX));
    let (directory, layer) = write_layer(inner, work, None, |content| {
        unpack(&mut plain, ending, content)
    })?;
    let (diff_id, _) = plain.finish().map_err(Error::stream("the archive"))?;
    Ok(NewLayer {
        diff_id,
        directory,
        layer,
    })
}

/// A directory as it will be in `layers/`, below the work directory; `fill`
/// writes its content. Nothing is left of it after an error.
pub(crate) fn write_layer(
    inner: &Inner,
    work: &Work,
    placed: Option<Placed>,
    fill: impl FnOnce(Content) -> Result<Layer>,
) -> Result<(String, Layer)> {
    let directory = inner.unique("layer");
    let made = make_layer(inner, work, &directory, placed, fill);
    if made.is_err() {
        inner.discard(&work.fd, directory.as_bytes());
    }
    Ok((directory, made?))
}

fn make_layer(
    inner: &Inner,
    work: &Work,
    directory: &str,
    placed: Option<Placed>,
    fill: impl FnOnce(Content) -> Result<Layer>,
) -> Result<Layer> {
    let failed = || Error::io("make layer", directory);
    mkdirat(&work.fd, directory, Mode::from_raw_mode(0o711)).map_err(failed())?;
    let at = open_directory(work.fd.as_fd(), directory.as_bytes()).map_err(failed())?;
    let layer = fill(layer::create(inner.options, &at, placed)?)?;
    write_record(&at, &layer)?;
    Ok(layer)
}

/// Writes `layer.json` into the directory of a layer that is in no place yet.
pub(crate) fn write_record(directory: &OwnedFd, layer: &Layer) -> Result<()> {
    create_file(directory, LAYER_RECORD)
        .map_err(io::Error::from)
        .and_then(|mut file| file.write_all(&serde_json::to_vec(layer)?))
        .map_err(Error::io("write", LAYER_RECORD))
}

/// What goes from the inflating thread to the writing one.
enum Piece {
    /// Plain bytes, and how much of the blob has been read for them.
    Bytes(Vec<u8>, u64),
    End,
    Failed(io::Error),
}

/// The first thread's work. It ends early if the other is gone.
fn inflate(
    mut blob: impl Read,
    compression: Compression,
    consumed: &AtomicU64,
    pieces: &SyncSender<Piece>,
    buffers: &Receiver<Vec<u8>>,
) {
    let mut run = || -> io::Result<bool> {
        let mut plain = decode(compression, &mut blob).map_err(io::Error::other)?;
        loop {
            let mut buffer = buffers.try_recv().unwrap_or_default();
            buffer.resize(BUFFER, 0);
            let n = fill(&mut plain, &mut buffer)?;
            if n == 0 {
                break;
            }
            buffer.truncate(n);
            let piece = Piece::Bytes(buffer, consumed.load(Ordering::Relaxed));
            if pieces.send(piece).is_err() {
                return Ok(false);
            }
        }
        drop(plain);
        // To the end of the blob, which is only then known to be right.
        io::copy(&mut blob, &mut io::sink())?;
        Ok(true)
    };
    // Nobody listens any more if sending fails: the other has its own error.
    let _ = match run() {
        Ok(true) => pieces.send(Piece::End),
        Ok(false) => Ok(()),
        Err(error) => pieces.send(Piece::Failed(error)),
    };
}

/// Reads until the buffer is full or the stream at its end.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match input.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

struct Counted<'a, R>(R, &'a AtomicU64);

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The second thread's end: the plain stream, piece by piece.
struct Plain<'a> {
    pieces: Receiver<Piece>,
    give_back: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
    reported: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Plain<'_> {
    fn advance(&mut self) -> io::Result<()> {
        match self.pieces.recv() {
            Ok(Piece::Bytes(piece, consumed)) => {
                let empty = std::mem::replace(&mut self.piece, piece);
                self.at = 0;
                // Dropped if the other thread has enough of them.
                let _ = self.give_back.try_send(empty);
                if consumed >= self.reported + STEP {
                    self.reported = consumed;
                    (self.progress)(consumed);
                }
            }
            Ok(Piece::End) => self.ended = true,
            Ok(Piece::Failed(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        Ok(())
    }
}

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.ended {
            self.advance()?;
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Ends what would fill the disk.
pub(crate) struct Room<'a> {
    directory: &'a OwnedFd,
    taken: u64,
    next_look: u64,
}

impl<'a> Room<'a> {
    pub(crate) fn new(directory: &'a OwnedFd) -> Self {
        Self {
            directory,
            taken: 0,
            next_look: LOOK_EVERY,
        }
    }

    /// Bytes so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    pub(crate) fn take(&mut self, bytes: usize) -> io::Result<()> {
        self.taken += bytes as u64;
        if self.taken >= self.next_look {
            self.next_look = self.taken + LOOK_EVERY;
            if is_nearly_full(self.directory)? {
                return Err(Errno::NOSPC.into());
            }
        }
        Ok(())
    }
}

/// Whether what is left is for the engine's records and for containers.
pub fn is_nearly_full(directory: impl AsFd) -> rustix::io::Result<bool> {
    let disk = fstatvfs(directory)?;
    let reserved = (disk.f_blocks * disk.f_frsize / RESERVED_PART).min(RESERVED_MAX);
    Ok(disk.f_bavail * disk.f_frsize < reserved)
}

/// Ends a stream that would fill the disk or never end.
pub(crate) struct Bounded<'a, R> {
    input: R,
    room: Room<'a>,
    limit: u64,
}

impl<'a, R> Bounded<'a, R> {
    pub(crate) fn new(directory: &'a OwnedFd, input: R, limit: u64) -> Self {
        Self {
            input,
            room: Room::new(directory),
            limit,
        }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.room.take(n)?;
        if self.room.taken() > self.limit {
            return Err(io::Error::other(format!(
                "it unpacks to more than {} bytes",
                self.limit
            )));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[test]
    fn a_stream_without_end_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let work = Work::new(&store.inner, "test").unwrap();
        let mut endless = Bounded::new(&work.fd, io::repeat(0), 50 << 20);
        let error = io::copy(&mut endless, &mut io::sink()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("it unpacks to more than {} bytes", 50 << 20)
        );
    }
}
