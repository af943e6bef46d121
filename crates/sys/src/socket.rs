//! Messages with descriptors over `SOCK_SEQPACKET` unix sockets.
//!
//! One message is one datagram: no framing is needed and no partial read can
//! happen. Descriptors arrive close-on-exec, so none leaks into a container
//! (CVE-2024-21626).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Most descriptors one message may carry.
pub const MAX_FDS: usize = 32;

/// Longest message, in bytes. What can be longer (a configuration, an
/// environment) travels in a memory file whose descriptor is sent instead.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// A connected pair of `SOCK_SEQPACKET` sockets, close-on-exec and blocking.
pub fn seqpacket_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

/// Sends one message. With a non-blocking socket the error may be `AGAIN`; a
/// peer that is gone gives `PIPE`, never a signal.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
        return Err(Errno::MSGSIZE);
    }
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE);
    }
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(
            &socket,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
    })?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(Errno::MSGSIZE)
    }
}

/// The bytes of a message and the descriptors that came with it.
pub type Message = (Vec<u8>, Vec<OwnedFd>);

/// Receives one message; `None` when the peer has closed. With a non-blocking
/// socket the error may be `AGAIN`. A truncated message is an error and its
/// descriptors are closed.
pub fn receive(socket: impl AsFd) -> Result<Option<Message>, Errno> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(Errno::MSGSIZE);
    }
    if message.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    bytes.truncate(message.bytes);
    Ok(Some((bytes, fds)))
}

/// Bytes written to a stream socket that have not left it yet: for a unix
/// socket, that the peer has not read.
pub fn unread_by_peer(socket: impl AsFd) -> Result<usize, Errno> {
    // SAFETY: SIOCOUTQ (which is TIOCOUTQ) writes one int through its argument.
    let get = unsafe { rustix::ioctl::Getter::<{ libc::TIOCOUTQ as _ }, libc::c_int>::new() };
    // SAFETY: the operation matches its type, as above.
    let bytes = unsafe { rustix::ioctl::ioctl(socket, get) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn message_carries_bytes_and_descriptors() {
        let (a, b) = seqpacket_pair().unwrap();
        let (read, write) = std::io::pipe().unwrap();
        send(&a, b"hello", &[write.as_fd()]).unwrap();
        drop(write);
        let (bytes, mut fds) = receive(&b).unwrap().unwrap();
        assert_eq!(bytes, b"hello");
        let mut received = std::fs::File::from(fds.remove(0));
        received.write_all(b"x").unwrap();
        drop(received);
        let mut text = String::new();
        { read }.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn closed_peer_is_none_and_too_long_is_refused() {
        let (a, b) = seqpacket_pair().unwrap();
        assert_eq!(
            send(&a, &vec![0; MAX_MESSAGE + 1], &[]),
            Err(Errno::MSGSIZE)
        );
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn what_the_peer_has_not_read_is_seen() {
        let (mut a, mut b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(unread_by_peer(&a).unwrap(), 0);
        a.write_all(b"hello").unwrap();
        assert!(unread_by_peer(&a).unwrap() > 0);
        b.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(unread_by_peer(&a).unwrap(), 0);
    }
}
