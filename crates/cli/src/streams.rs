//! The way between a taken-over connection and this process's own streams.

use std::io::Read as _;

use berth_api::frame::{Decoder, Stream};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::failure::Failure;
use crate::transport::Hijacked;

const CHUNK: usize = 32 * 1024;

/// Why the streams ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The engine closed them: the process is done.
    Closed,
    /// The user typed the keys that detach.
    Detached,
}

pub(crate) struct Relay {
    pub(crate) connection: Hijacked,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) keys: DetachKeys,
}

impl Relay {
    /// Moves bytes both ways until the engine closes the stream or the user
    /// detaches. The end of our stdin closes that half only.
    pub(crate) async fn run(self) -> Result<End, Failure> {
        let Self {
            connection,
            tty,
            stdin,
            keys,
        } = self;
        let (reader, writer) = tokio::io::split(connection.stream);
        let output = std::pin::pin!(output(reader, connection.early, !tty));
        if !stdin {
            output.await?;
            // Dropped only now: the half we do not use must stay open.
            drop(writer);
            return Ok(End::Closed);
        }
        let input = std::pin::pin!(input(writer, tty.then_some(keys)));
        match futures_util::future::select(output, input).await {
            futures_util::future::Either::Left((done, _)) => done.map(|()| End::Closed),
            futures_util::future::Either::Right((End::Detached, _)) => Ok(End::Detached),
            futures_util::future::Either::Right((End::Closed, output)) => {
                output.await.map(|()| End::Closed)
            }
        }
    }
}

/// From the engine to stdout and stderr.
async fn output(
    mut reader: impl AsyncRead + Unpin,
    early: Bytes,
    multiplexed: bool,
) -> Result<(), Failure> {
    let mut sink = Sink::new(multiplexed);
    sink.push(&early).await?;
    let mut buffer = vec![0; CHUNK];
    loop {
        // A reset is how an engine that dies ends a stream.
        let count = reader.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return Ok(());
        }
        sink.push(&buffer[..count]).await?;
    }
}

/// Takes a byte stream of the engine apart and writes it where it belongs.
/// Writing happens on another thread, so that a slow reader of ours holds up
/// neither signals nor stdin.
#[derive(Debug)]
pub(crate) struct Sink {
    decoder: Option<Decoder>,
    stdout: tokio::io::Stdout,
    stderr: tokio::io::Stderr,
}

impl Sink {
    pub(crate) fn new(multiplexed: bool) -> Self {
        Self {
            decoder: multiplexed.then(Decoder::default),
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
        }
    }

    pub(crate) async fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(decoder) = &mut self.decoder else {
            return write(&mut self.stdout, bytes).await;
        };
        decoder.push(bytes);
        while let Some((stream, bytes)) = decoder.next_frame().map_err(Failure::new)? {
            match stream {
                Stream::Stdin | Stream::Stdout => write(&mut self.stdout, &bytes).await?,
                Stream::Stderr => write(&mut self.stderr, &bytes).await?,
                Stream::System => {
                    return Err(Failure::new(format!(
                        "error from daemon in stream: {}",
                        String::from_utf8_lossy(&bytes)
                    )));
                }
            }
        }
        Ok(())
    }
}

async fn write(out: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Failure> {
    if bytes.is_empty() {
        return Ok(());
    }
    let written = async {
        out.write_all(bytes).await?;
        out.flush().await
    };
    written.await.map_err(|error| match error.kind() {
        // As if SIGPIPE had come: `berth logs x | head` is no error to tell of.
        std::io::ErrorKind::BrokenPipe => Failure::silent(128 + libc::SIGPIPE),
        _ => Failure::new(format!("write: {}", crate::failure::os_words(&error))),
    })
}

/// From stdin to the engine. Ends with `Closed` when nothing more can be sent.
async fn input(mut writer: impl AsyncWrite + Unpin, mut keys: Option<DetachKeys>) -> End {
    let mut chunks = stdin();
    while let Some(chunk) = chunks.recv().await {
        let (bytes, detached) = match &mut keys {
            Some(keys) => keys.filter(&chunk),
            None => (chunk, false),
        };
        if writer.write_all(&bytes).await.is_err() {
            return End::Closed;
        }
        if detached {
            return End::Detached;
        }
    }
    let _ = writer.shutdown().await;
    End::Closed
}

/// Stdin, read by a thread of its own: a descriptor shared with other processes
/// must not be made non-blocking. The thread ends with the program.
fn stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        let mut stdin = std::io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if sender
                        .blocking_send(Bytes::copy_from_slice(&buffer[..count]))
                        .is_err()
                    {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// The keys that detach from a terminal, and how many of them were typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

impl DetachKeys {
    /// "ctrl-p,ctrl-q", which is also what "" means.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let text = if text.is_empty() {
            "ctrl-p,ctrl-q"
        } else {
            text
        };
        let keys = text
            .split(',')
            .map(|key| match key.as_bytes() {
                [byte] => Some(*byte),
                [b'c', b't', b'r', b'l', b'-', key] => match key {
                    b'a'..=b'z' => Some(key - b'a' + 1),
                    b'@' => Some(0),
                    b'[' | b'\\' | b']' | b'^' | b'_' => Some(key - b'[' + 27),
                    _ => None,
                },
                _ => None,
            })
            .collect::<Option<Vec<_>>>();
        keys.map(|keys| Self { keys, typed: 0 })
            .ok_or_else(|| Failure::new(format!("invalid detach keys ({text})")))
    }

    /// What of `chunk` may go on, and whether the keys are complete. Keys typed
    /// in part are held back until it is clear that they are none.
    fn filter(&mut self, chunk: &[u8]) -> (Bytes, bool) {
        let mut out = Vec::with_capacity(chunk.len());
        for &byte in chunk {
            if byte == self.keys[self.typed] {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return (out.into(), true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.typed]);
            self.typed = usize::from(byte == self.keys[0]);
            if self.typed == 0 {
                out.push(byte);
            } else if self.keys.len() == 1 {
                return (out.into(), true);
            }
        }
        (out.into(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys() {
        let mut keys = DetachKeys::parse("").unwrap();
        let mut filter = |text: &[u8]| {
            let (bytes, done) = keys.filter(text);
            (bytes.to_vec(), done)
        };
        assert_eq!(filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(filter(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(filter(b"\x11rest"), (Vec::new(), true));
        assert_eq!(DetachKeys::parse("a,ctrl-b").unwrap().keys, [b'a', 2]);
        assert_eq!(DetachKeys::parse("ctrl-[,ctrl-_").unwrap().keys, [27, 31]);
        assert!(DetachKeys::parse("ctrl-").is_err() && DetachKeys::parse("ab").is_err());
    }
}
