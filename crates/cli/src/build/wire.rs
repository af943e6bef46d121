//! The connection of a build, cut into frames: many threads write, one reads.

use std::collections::HashMap;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use berth_api::build::ToEngine;
use berth_api::build::frame::{self, Decoder, Frame, Kind, MAX_PAYLOAD};
use bytes::{Buf as _, Bytes};
use tokio_util::either::Either;

use crate::failure::Failure;
use crate::transport::Hijacked;

/// Frames of one channel that wait for whoever takes them.
const WAITING: usize = 8;
const READ: usize = 256 * 1024;

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }

    fn shutdown(&self, how: Shutdown) {
        // The other side may be gone.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp(stream) => stream.shutdown(how),
        };
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Socket {
    fn write_two(&mut self, mut head: &[u8], mut rest: &[u8]) -> io::Result<()> {
        while !head.is_empty() || !rest.is_empty() {
            let parts = [IoSlice::new(head), IoSlice::new(rest)];
            let written = match self {
                Self::Unix(stream) => stream.write_vectored(&parts),
                Self::Tcp(stream) => stream.write_vectored(&parts),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    let of_head = count.min(head.len());
                    head = &head[of_head..];
                    rest = &rest[count - of_head..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Where frames are written and channels are kept. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: Mutex<Socket>,
    /// For shutting down while somebody writes.
    handle: Socket,
    channels: Mutex<HashMap<u32, Channel>>,
}

#[derive(Debug)]
struct Channel {
    arriving: SyncSender<Piece>,
    /// The engine ended its direction.
    ended: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

impl Wire {
    /// The connection after the upgrade, and its reading half.
    pub(super) fn new(connection: Hijacked) -> Result<(Self, Reading), Failure> {
        let broken = |error: io::Error| Failure::new(format!("error during connect: {error}"));
        let socket = match connection.stream {
            Either::Left(stream) => {
                let stream = stream.into_std().map_err(broken)?;
                stream.set_nonblocking(false).map_err(broken)?;
                Socket::Unix(stream)
            }
            Either::Right(stream) => {
                let stream = stream.into_std().map_err(broken)?;
                stream.set_nonblocking(false).map_err(broken)?;
                Socket::Tcp(stream)
            }
        };
        Self::over(socket, &connection.early).map_err(broken)
    }

    fn over(socket: Socket, early: &[u8]) -> io::Result<(Self, Reading)> {
        let mut decoder = Decoder::default();
        decoder.push(early);
        let reading = Reading {
            socket: socket.try_clone()?,
            decoder,
            buffer: vec![0; READ],
        };
        let inner = Inner {
            handle: socket.try_clone()?,
            writer: Mutex::new(socket),
            channels: Mutex::default(),
        };
        let inner = Arc::new(inner);
        Ok((Self { inner }, reading))
    }

    /// One for tests, and the engine's end of it.
    #[cfg(test)]
    pub(super) fn pair() -> (Self, Reading, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("sockets are to be had");
        let (wire, reading) = Self::over(Socket::Unix(ours), b"").expect("descriptors, too");
        (wire, reading, theirs)
    }

    pub(super) fn tell(&self, message: &ToEngine) -> io::Result<()> {
        let frame = frame::message(message).map_err(io::Error::other)?;
        self.lock().write_two(&frame, &[])
    }

    fn send(&self, kind: Kind, channel: u32, bytes: &[u8]) -> io::Result<()> {
        let head = frame::header(kind, channel, bytes.len()).map_err(io::Error::other)?;
        self.lock().write_two(&head, bytes)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Socket> {
        self.inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn channels(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Channel>> {
        self.inner
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a channel that the engine named; none if it is open or there are
    /// too many.
    pub(super) fn open(&self, number: u32, most: usize) -> Option<(Outgoing, Incoming)> {
        let mut channels = self.channels();
        if number == 0 || channels.len() >= most || channels.contains_key(&number) {
            return None;
        }
        let (arriving, pieces) = sync_channel(WAITING);
        let ended = Arc::new(AtomicBool::new(false));
        let channel = Channel {
            arriving,
            ended: Arc::clone(&ended),
        };
        channels.insert(number, channel);
        let outgoing = Outgoing {
            wire: self.clone(),
            number,
            unwanted: ended,
        };
        let incoming = Incoming {
            pieces,
            rest: Bytes::new(),
            ended: false,
        };
        Some((outgoing, incoming))
    }

    /// Forgets a channel that is done with in both directions.
    pub(super) fn close(&self, number: u32) {
        self.channels().remove(&number);
    }

    /// Hands bytes or an end to whoever has the channel. What nobody waits for
    /// is thrown away.
    pub(super) fn arrived(&self, frame: Frame) {
        let channels = self.channels();
        let Some(channel) = channels.get(&frame.channel) else {
            return;
        };
        let arriving = channel.arriving.clone();
        let piece = if frame.kind == Kind::End {
            channel.ended.store(true, Ordering::Release);
            Piece::End
        } else {
            Piece::Data(frame.payload)
        };
        // Not locked while it waits.
        drop(channels);
        let _ = arriving.send(piece);
    }

    /// The end of what this client says: the engine gives up the build.
    pub(super) fn hang_up(&self) {
        self.inner.handle.shutdown(Shutdown::Write);
    }

    /// The end of all.
    pub(super) fn break_off(&self) {
        self.inner.handle.shutdown(Shutdown::Both);
        self.channels().clear();
    }
}

/// The reading half.
#[derive(Debug)]
pub(super) struct Reading {
    socket: Socket,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Reading {
    /// The next frame; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, String> {
        loop {
            if let Some(frame) = self
                .decoder
                .next_frame()
                .map_err(|error| error.to_string())?
            {
                return Ok(Some(frame));
            }
            match self.socket.read(&mut self.buffer) {
                Ok(0) => {
                    let whole = self.decoder.finish();
                    return whole.map(|()| None).map_err(|error| error.to_string());
                }
                Ok(count) => self.decoder.push(&self.buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // How an engine that dies ends a stream.
                Err(_) => return Ok(None),
            }
        }
    }
}

/// This client's direction of a channel.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    wire: Wire,
    number: u32,
    unwanted: Arc<AtomicBool>,
}

impl Outgoing {
    pub(super) fn end(&self) -> io::Result<()> {
        self.wire.send(Kind::End, self.number, &[])
    }

    pub(super) fn refuse(&self, message: String) -> io::Result<()> {
        self.wire.tell(&ToEngine::Refused {
            channel: self.number,
            message,
        })
    }
}

impl Write for Outgoing {
    /// # Errors
    /// `BrokenPipe` when the engine wants no more.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.unwanted.load(Ordering::Acquire) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let bytes = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        self.wire.send(Kind::Data, self.number, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The engine's direction of a channel.
#[derive(Debug)]
pub(super) struct Incoming {
    pieces: Receiver<Piece>,
    rest: Bytes,
    ended: bool,
}

impl Incoming {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// `UnexpectedEof` when the connection broke off before.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        match self.pieces.recv() {
            Ok(Piece::Data(bytes)) => Ok(Some(bytes)),
            Ok(Piece::End) => {
                self.ended = true;
                Ok(None)
            }
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.next()? {
                Some(bytes) => self.rest = bytes,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        self.rest
            .split_to(count)
            .copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
