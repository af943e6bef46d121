//! Connections of engines to this monitor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_sys::socket::{self, Message};
use rustix::io::Errno;

use crate::protocol::FromMonitor;

/// One engine's connection; non-blocking.
#[derive(Debug)]
pub(super) struct Connection {
    /// `None` once it is of no more use.
    socket: Option<OwnedFd>,
    /// The container was started over it.
    first: bool,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Some(socket),
            first: false,
        }
    }

    pub(super) fn first(socket: OwnedFd) -> Self {
        Self {
            first: true,
            ..Self::new(socket)
        }
    }

    pub(super) fn is_first(&self) -> bool {
        self.first
    }

    pub(super) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Sends, or closes the connection when that is not possible at once: an
    /// engine that does not read its socket for hundreds of messages must not
    /// stop a container. It can connect again and ask for the status.
    pub(super) fn send(&mut self, message: &FromMonitor) {
        let Some(socket) = &self.socket else { return };
        let sent = serde_json::to_vec(message)
            .is_ok_and(|bytes| socket::send(socket, &bytes, &[]).is_ok());
        if !sent {
            self.socket = None;
        }
    }

    /// The next message, if one has arrived.
    pub(super) fn receive(&mut self) -> Option<Message> {
        match socket::receive(self.socket.as_ref()?) {
            Ok(Some(message)) => Some(message),
            Err(Errno::AGAIN) => None,
            Ok(None) | Err(_) => {
                self.socket = None;
                None
            }
        }
    }
}
