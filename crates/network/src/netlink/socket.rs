//! The socket: sends requests, collects what belongs to them.

use std::io;
use std::time::Duration;

use netlink_sys::SocketAddr;
use rustix::net::sockopt::{self, Timeout};

use super::message::{DONE, ERROR, Failure, Message, NOOP, OVERRUN, Request, messages};
use crate::Error;

/// Request flags (`NLM_F_*`).
pub(crate) mod flags {
    pub(crate) const REQUEST: u16 = 0x1;
    pub(crate) const ACK: u16 = 0x4;
    pub(crate) const DUMP: u16 = 0x300;
    pub(crate) const EXCLUSIVE: u16 = 0x200;
    pub(crate) const CREATE: u16 = 0x400;
    pub(crate) const APPEND: u16 = 0x800;
}

/// The kernel builds no longer dump replies than this; one message that does
/// not fit is an error, never a cut-off read.
const RECEIVE_BUFFER: usize = 32 * 1024;
/// Answers are there when the send returns. Only a broken kernel reaches this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tries of a dump that others keep changing.
const DUMP_TRIES: u32 = 8;
/// Acknowledgements of one batch must fit the default receive buffer of a
/// socket (208 KiB; each takes 768 bytes or a little more of it).
const BATCH_LIMIT: usize = 128;

/// A netlink socket of the network namespace in which it was opened, wherever
/// it is used.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    /// `protocol` is one of `netlink_sys::protocols`.
    pub(crate) fn open(protocol: isize) -> Result<Self, Error> {
        let open = || -> io::Result<_> {
            let mut inner = netlink_sys::Socket::new(protocol)?;
            inner.bind_auto()?;
            inner.connect(&SocketAddr::new(0, 0))?;
            inner.set_cap_ack(true)?;
            inner.set_ext_ack(true)?;
            // Filters of a dump that the kernel does not know are errors, not
            // ignored.
            inner.set_netlink_get_strict_chk(true)?;
            sockopt::set_socket_timeout(&inner, Timeout::Recv, Some(PATIENCE))?;
            Ok(inner)
        };
        let inner = open().map_err(|source| Error::kernel("open a netlink socket", source))?;
        Ok(Self { inner, sequence: 0 })
    }

    /// Sends all requests at once and waits for every acknowledgement. Each is
    /// carried out on its own: after an error, which is that of the first that
    /// failed, the others may have been carried out.
    pub(crate) fn batch(&mut self, requests: &[Request]) -> Result<(), Error> {
        for part in requests.chunks(BATCH_LIMIT) {
            self.acknowledged(part, 0..part.len())?;
        }
        Ok(())
    }

    /// Sends requests that the kernel carries out as one or not at all; the
    /// first and the last only mark begin and end and are not acknowledged.
    pub(crate) fn transaction(&mut self, requests: &[Request]) -> Result<(), Error> {
        if requests.len() > BATCH_LIMIT {
            return Err(Error::Invalid(format!(
                "a transaction of {} messages is longer than {BATCH_LIMIT}",
                requests.len()
            )));
        }
        self.acknowledged(requests, 1..requests.len().saturating_sub(1))
    }

    fn acknowledged(
        &mut self,
        requests: &[Request],
        expected: std::ops::Range<usize>,
    ) -> Result<(), Error> {
        let Some(head) = requests.first() else {
            return Ok(());
        };
        let first = self
            .send(requests)
            .map_err(|e| Error::kernel(&head.action, e))?;
        let mut pending = expected.len();
        let mut results: Vec<Option<Result<(), Failure>>> = Vec::new();
        results.resize_with(requests.len(), || None);
        let mut buffer = vec![0; RECEIVE_BUFFER];
        while pending > 0 {
            let datagram = self
                .receive(&mut buffer)
                .map_err(|e| Error::kernel(&head.action, e))?;
            for message in messages(datagram).filter(|m| m.kind == ERROR) {
                let index = message.sequence.wrapping_sub(first) as usize;
                let Some(slot) = results.get_mut(index) else {
                    continue;
                };
                let result = message.result();
                // A transaction that fails as a whole is answered at its begin.
                if !expected.contains(&index) {
                    result.map_err(|failure| Error::refused(&requests[index].action, failure))?;
                } else if slot.replace(result).is_none() {
                    pending -= 1;
                }
            }
        }
        for (request, result) in requests.iter().zip(results) {
            if let Some(Err(failure)) = result {
                return Err(Error::refused(&request.action, failure));
            }
        }
        Ok(())
    }

    /// Sends a question and hands every message of the answer to `each`. With
    /// [`flags::DUMP`] the answer is a list, read again from the start if it
    /// changed meanwhile: `begin` makes a new collection for each try.
    pub(crate) fn query<T>(
        &mut self,
        request: &Request,
        begin: impl Fn() -> T,
        mut each: impl FnMut(&mut T, Message<'_>),
    ) -> Result<T, Error> {
        for _ in 0..DUMP_TRIES {
            let mut collection = begin();
            match self.query_once(request, |message| each(&mut collection, message))? {
                Complete::Yes => return Ok(collection),
                Complete::Interrupted => {}
            }
        }
        Err(Error::kernel(
            &request.action,
            io::Error::from_raw_os_error(libc::EAGAIN),
        ))
    }

    fn query_once(
        &mut self,
        request: &Request,
        mut each: impl FnMut(Message<'_>),
    ) -> Result<Complete, Error> {
        let failed = |e| Error::kernel(&request.action, e);
        let sequence = self.send(std::slice::from_ref(request)).map_err(failed)?;
        let mut complete = Complete::Yes;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let datagram = match self.receive(&mut buffer) {
                // Part of the list was lost; what is left of it is ignored by
                // its sequence number.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Complete::Interrupted);
                }
                other => other.map_err(failed)?,
            };
            for message in messages(datagram).filter(|m| m.sequence == sequence) {
                if message.interrupted() {
                    complete = Complete::Interrupted;
                }
                match message.kind {
                    NOOP => {}
                    OVERRUN => complete = Complete::Interrupted,
                    ERROR | DONE => {
                        return match message.result() {
                            Ok(()) => Ok(complete),
                            Err(f) if f.source.raw_os_error() == Some(libc::EINTR) => {
                                Ok(Complete::Interrupted)
                            }
                            Err(failure) => Err(Error::refused(&request.action, failure)),
                        };
                    }
                    _ => each(message),
                }
            }
        }
    }

    /// Returns the sequence number of the first; the others count up.
    fn send(&mut self, requests: &[Request]) -> io::Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(256 * requests.len());
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.encode(self.sequence, &mut bytes);
        }
        loop {
            match self.inner.send(&bytes, 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(sent) if sent == bytes.len() => return Ok(first),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            }
        }
    }

    /// One datagram of the kernel; those of anyone else are dropped.
    fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let length = loop {
            match self.inner.recv_from(&mut &mut buffer[..], libc::MSG_TRUNC) {
                Ok((length, sender)) if sender.port_number() == 0 => break length,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(e) => return Err(e),
            }
        };
        // With MSG_TRUNC the length is that of the datagram, cut off or not.
        buffer
            .get(..length)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))
    }
}

enum Complete {
    Yes,
    Interrupted,
}

impl Error {
    fn refused(action: &str, failure: Failure) -> Self {
        match failure.explanation {
            Some(words) => Self::kernel(format!("{action} ({words})"), failure.source),
            None => Self::kernel(action, failure.source),
        }
    }
}
