//! A stream from one thread to another, whose end is only an end when the
//! writer says so: a layer that was cut short is none.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes that cross at a time.
const CHUNK: usize = 256 << 10;
/// Chunks on their way.
const DEPTH: usize = 4;

#[derive(Debug)]
enum Message {
    Data(Vec<u8>),
    End,
}

pub(super) fn pass() -> (Writer, Reader) {
    let (sender, receiver) = sync_channel(DEPTH);
    let (give_back, empty) = channel();
    (
        Writer {
            sender,
            empty,
            buffer: Vec::with_capacity(CHUNK),
        },
        Reader {
            receiver,
            give_back,
            chunk: Vec::new(),
            at: 0,
            ended: false,
        },
    )
}

#[derive(Debug)]
pub(super) struct Writer {
    sender: SyncSender<Message>,
    /// Used before: a new one costs a page fault for each of its pages.
    empty: Receiver<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Writer {
    fn send(&self, message: Message) -> io::Result<()> {
        self.sender
            .send(message)
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// All has been written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Message::End)
    }
}

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let room = CHUNK - self.buffer.len();
        let taken = data.len().min(room);
        self.buffer.extend_from_slice(&data[..taken]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let next = self.empty.try_recv();
        let next = next.unwrap_or_else(|_| Vec::with_capacity(CHUNK));
        let full = std::mem::replace(&mut self.buffer, next);
        self.send(Message::Data(full))
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    receiver: Receiver<Message>,
    give_back: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.ended {
            match self.receiver.recv() {
                Ok(Message::Data(chunk)) => {
                    let mut used = std::mem::replace(&mut self.chunk, chunk);
                    self.at = 0;
                    used.clear();
                    if used.capacity() > 0 {
                        // Nobody wants it back at the end.
                        let _ = self.give_back.send(used);
                    }
                }
                Ok(Message::End) => self.ended = true,
                Err(_) => return Err(io::Error::other("the files could not all be read")),
            }
        }
        let taken = buffer.len().min(self.chunk.len() - self.at);
        buffer[..taken].copy_from_slice(&self.chunk[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_crosses_and_a_lost_writer_is_no_end() {
        let data: Vec<u8> = (0..3 * CHUNK + 7).map(|n| n as u8).collect();
        let (mut writer, mut reader) = pass();
        let sent = data.clone();
        let thread = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.finish().unwrap();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        thread.join().unwrap();
        assert!(got == data);

        let (mut writer, mut reader) = pass();
        writer.write_all(b"half").unwrap();
        writer.flush().unwrap();
        drop(writer);
        assert!(reader.read_to_end(&mut got).is_err());

        let (mut writer, reader) = pass();
        drop(reader);
        assert!(writer.write_all(&data).is_err());
    }
}
