//! One client attached to the streams of a process.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use crate::log::Stream;
use crate::protocol::Attach;

/// Output kept for a client that reads slowly, in bytes. Beyond it the process
/// has to wait, as with Docker.
const MAX_PENDING: usize = 1024 * 1024;

/// The same once the process has ended: what it has left in its pipes, at most
/// 1 MiB each, is read however slow the client is. Not more: others may have
/// inherited the pipes and go on writing.
const MAX_LEFT: usize = 4 * MAX_PENDING;

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// This many bytes.
    Bytes(usize),
    Nothing,
    /// The client has closed its sending side.
    End,
}

/// A client's socket and what is still to be sent to it.
#[derive(Debug)]
pub(super) struct Client {
    /// `None` when the client is gone.
    socket: Option<OwnedFd>,
    attach: Attach,
    pending: VecDeque<u8>,
    /// No more output will come; to be closed when `pending` is empty.
    closing: bool,
    /// The client has closed both sides; it may have sent input before.
    hung_up: bool,
}

impl Client {
    pub(super) fn new(socket: OwnedFd, attach: Attach) -> Self {
        Self {
            socket: Some(socket),
            attach,
            pending: VecDeque::new(),
            closing: false,
            hung_up: false,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.socket.is_none()
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    fn wants(&self, stream: Stream) -> bool {
        !self.closing
            && match stream {
                Stream::Stdout => self.attach.stdout,
                Stream::Stderr => self.attach.stderr,
            }
    }

    /// Whether more of `stream` may be sent now; `draining`: the process has
    /// ended.
    pub(super) fn has_room_for(&self, stream: Stream, draining: bool) -> bool {
        let room = if draining { MAX_LEFT } else { MAX_PENDING };
        !self.wants(stream) || self.pending.len() < room
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.is_gone() || self.pending.is_empty()
    }

    /// What to wait for; `None` when there is nothing to wait for. `input`
    /// says whether what the client sends can be taken at the moment.
    pub(super) fn interest(&self, input: bool) -> Option<PollFlags> {
        let mut flags = PollFlags::empty();
        if input && self.attach.stdin {
            flags |= PollFlags::IN;
        }
        if !self.pending.is_empty() {
            flags |= PollFlags::OUT;
        }
        // Without any flag a poll still tells when the client hangs up, over
        // and over, so that must not be asked for again.
        (!self.hung_up || flags.contains(PollFlags::IN)).then_some(flags)
    }

    /// Sends output of the process: raw from a terminal, else in frames.
    pub(super) fn output(&mut self, stream: Stream, bytes: &[u8], tty: bool) {
        if !self.wants(stream) || bytes.is_empty() {
            return;
        }
        let mut header = [0; 8];
        header[0] = stream.number();
        // One read of output is far below 4 GiB.
        header[4..].copy_from_slice(&(bytes.len() as u32).to_be_bytes());
        let header = if tty { &[][..] } else { &header[..] };
        let sent = if self.pending.is_empty() {
            self.send(header, bytes)
        } else {
            0
        };
        if self.is_gone() {
            return;
        }
        if sent < header.len() + bytes.len() {
            self.pending.extend(&header[sent.min(header.len())..]);
            self.pending
                .extend(&bytes[sent.saturating_sub(header.len())..]);
        }
    }

    /// Sends what is pending, as far as the client takes it.
    pub(super) fn flush(&mut self) {
        while !self.pending.is_empty() && !self.is_gone() {
            let pending = std::mem::take(&mut self.pending);
            let (first, second) = pending.as_slices();
            let sent = self.send(first, second);
            self.pending = pending;
            if self.is_gone() {
                self.pending = VecDeque::new();
            }
            self.pending.drain(..sent.min(self.pending.len()));
            if sent == 0 {
                break;
            }
        }
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
            if self.closing {
                self.socket = None;
            }
        }
    }

    /// Sends from the two slices; returns how much was taken.
    fn send(&mut self, first: &[u8], second: &[u8]) -> usize {
        let Some(socket) = &self.socket else { return 0 };
        let result = rustix::io::retry_on_intr(|| {
            sendmsg(
                socket,
                &[IoSlice::new(first), IoSlice::new(second)],
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            )
        });
        match result {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(_) => {
                // Reads no more. What it sent before still counts as input.
                self.attach.stdout = false;
                self.attach.stderr = false;
                self.pending = VecDeque::new();
                if !self.attach.stdin {
                    self.socket = None;
                }
                0
            }
        }
    }

    /// Takes input of the process.
    pub(super) fn input(&mut self, buffer: &mut [u8]) -> Input {
        if !self.attach.stdin {
            return Input::Nothing;
        }
        let Some(socket) = &self.socket else {
            return Input::Nothing;
        };
        match rustix::io::retry_on_intr(|| recv(socket, &mut *buffer, RecvFlags::DONTWAIT)) {
            Ok((_, 0)) => Input::End,
            Ok((_, length)) => Input::Bytes(length),
            Err(Errno::AGAIN) => Input::Nothing,
            Err(_) => Input::End,
        }
    }

    /// Nothing of what the client sends is wanted any more.
    pub(super) fn end_input(&mut self) {
        self.attach.stdin = false;
        if self.hung_up {
            self.socket = None;
        }
    }

    /// The client has closed both sides, or its socket failed.
    pub(super) fn hang_up(&mut self) {
        self.hung_up = true;
        self.pending = VecDeque::new();
        self.attach.stdout = false;
        self.attach.stderr = false;
        if !self.attach.stdin {
            self.socket = None;
        }
    }

    /// Closes the connection when what is pending has been sent.
    pub(super) fn close(&mut self) {
        self.closing = true;
        self.attach.stdin = false;
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn client(attach: Attach) -> (Client, UnixStream) {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (Client::new(ours, attach), UnixStream::from(theirs))
    }

    const OUTPUT: Attach = Attach {
        stdin: false,
        stdout: true,
        stderr: true,
    };

    #[test]
    fn frames_only_without_a_terminal() {
        let (mut client, mut peer) = client(OUTPUT);
        client.output(Stream::Stderr, b"abc", false);
        client.output(Stream::Stdout, b"raw", true);
        client.close();
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"\x02\0\0\0\0\0\0\x03abcraw");
    }

    #[test]
    fn slow_reader_gets_everything_in_order_and_then_the_end() {
        let (mut client, mut peer) = client(OUTPUT);
        let mut sent = Vec::new();
        let mut number = 0u32;
        while client.has_room_for(Stream::Stdout, false) {
            let chunk: Vec<u8> = std::iter::repeat_with(|| {
                number += 1;
                number.to_be_bytes()
            })
            .take(4096)
            .flatten()
            .collect();
            client.output(Stream::Stdout, &chunk, true);
            sent.extend(chunk);
        }
        assert!(client.pending.len() >= MAX_PENDING);
        assert!(client.has_room_for(Stream::Stdout, true));
        client.pending.extend(vec![0; MAX_LEFT]);
        assert!(!client.has_room_for(Stream::Stdout, true), "bounded");
        client.pending.truncate(client.pending.len() - MAX_LEFT);
        client.close();
        assert!(!client.is_gone(), "closed with output pending");
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).unwrap();
            received
        });
        while !client.is_gone() {
            client.flush();
        }
        assert!(reader.join().unwrap() == sent);
    }

    #[test]
    fn client_that_left_is_gone_but_its_input_is_not() {
        let (mut quiet, peer) = client(OUTPUT);
        drop(peer);
        quiet.output(Stream::Stdout, b"x", false);
        assert!(quiet.is_gone());

        let (mut talker, mut peer) = client(Attach {
            stdin: true,
            ..OUTPUT
        });
        peer.write_all(b"last words").unwrap();
        drop(peer);
        talker.hang_up();
        assert_eq!(talker.interest(false), None);
        assert_eq!(talker.interest(true), Some(PollFlags::IN));
        let mut buffer = [0; 64];
        assert_eq!(talker.input(&mut buffer), Input::Bytes(10));
        assert_eq!(talker.input(&mut buffer), Input::End);
        talker.end_input();
        assert!(talker.is_gone());
    }
}
