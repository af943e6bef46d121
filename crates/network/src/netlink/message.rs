//! Netlink messages: `struct nlmsghdr` of `linux/netlink.h` and what follows it.

use std::io;

use super::attribute::{align, find_string};

const HEADER: usize = 16;

pub(super) const NOOP: u16 = 1;
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
pub(super) const OVERRUN: u16 = 4;

/// An acknowledgement carries attributes after the echoed header.
const FLAG_ACK_ATTRIBUTES: u16 = 0x200;
/// The echoed request in an acknowledgement is cut down to its header.
const FLAG_CAPPED: u16 = 0x100;
/// The dumped table changed meanwhile.
const FLAG_INTERRUPTED: u16 = 0x10;

const NLMSGERR_ATTR_MSG: u16 = 1;

/// A request to the kernel.
#[derive(Debug)]
pub(crate) struct Request {
    /// What is attempted, for the error message: "create bridge berth0".
    pub(crate) action: String,
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
}

impl Request {
    /// Appends the encoded message to `out`.
    pub(super) fn encode(&self, sequence: u32, out: &mut Vec<u8>) {
        let length = HEADER + self.payload.len();
        out.extend_from_slice(&(length as u32).to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.payload);
        out.resize(align(out.len()), 0);
    }
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
    flags: u16,
}

impl<'a> Message<'a> {
    /// True when the list this message is part of changed while it was read.
    pub(super) fn interrupted(&self) -> bool {
        self.flags & FLAG_INTERRUPTED != 0
    }

    /// The result in an acknowledgement or at the end of a dump.
    pub(super) fn result(&self) -> Result<(), Failure> {
        let code = match self.payload.first_chunk::<4>() {
            Some(bytes) => i32::from_ne_bytes(*bytes),
            // An end of dump may come without a code.
            None if self.kind == DONE => 0,
            None => -libc::EBADMSG,
        };
        if code == 0 {
            return Ok(());
        }
        Err(Failure {
            source: io::Error::from_raw_os_error(code.checked_neg().unwrap_or(libc::EBADMSG)),
            explanation: self.explanation().map(str::to_owned),
        })
    }

    /// The kernel's own words (extended acknowledgement).
    fn explanation(&self) -> Option<&'a str> {
        if self.flags & FLAG_ACK_ATTRIBUTES == 0 {
            return None;
        }
        let echoed = if self.flags & FLAG_CAPPED != 0 {
            HEADER
        } else {
            u32::from_ne_bytes(*self.payload.get(4..)?.first_chunk::<4>()?) as usize
        };
        let attributes = self.payload.get(4usize.checked_add(align(echoed))?..)?;
        find_string(attributes, NLMSGERR_ATTR_MSG)
    }
}

/// A refusal by the kernel.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) source: io::Error,
    pub(super) explanation: Option<String>,
}

/// The messages of one datagram; ends at the first that does not fit.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HEADER>()?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = usize::try_from(word(0)).ok()?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: word(8),
            payload: rest.get(HEADER..length)?,
        };
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acknowledgement(code: i32, flags: u16, tail: &[u8]) -> Vec<u8> {
        let mut payload = code.to_ne_bytes().to_vec();
        payload.extend_from_slice(tail);
        let mut out = Vec::new();
        Request {
            action: String::new(),
            kind: ERROR,
            flags,
            payload,
        }
        .encode(5, &mut out);
        out
    }

    #[test]
    fn acknowledgements() {
        let bytes = acknowledgement(0, 0, &[0; 16]);
        assert!(messages(&bytes).next().unwrap().result().is_ok());

        let mut tail = vec![0; 16];
        let words = super::super::attribute::Attributes::new().string(NLMSGERR_ATTR_MSG, "no");
        tail.extend_from_slice(words.as_bytes());
        let bytes = acknowledgement(-libc::EPERM, FLAG_CAPPED | FLAG_ACK_ATTRIBUTES, &tail);
        let failure = messages(&bytes).next().unwrap().result().unwrap_err();
        assert_eq!(failure.source.raw_os_error(), Some(libc::EPERM));
        assert_eq!(failure.explanation.as_deref(), Some("no"));
    }

    proptest! {
        #[test]
        fn any_datagram(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            for message in messages(&bytes) {
                let _ = message.result();
            }
        }

        #[test]
        fn any_acknowledgement(
            code in any::<i32>(), flags in any::<u16>(),
            tail in proptest::collection::vec(any::<u8>(), 0..64), cut in 0usize..100,
        ) {
            let mut bytes = acknowledgement(code, flags, &tail);
            bytes.truncate(bytes.len().saturating_sub(cut));
            for message in messages(&bytes) {
                let _ = message.result();
            }
        }
    }
}
