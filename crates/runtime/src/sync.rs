//! What the parent and the cloned child say to each other while a container is
//! made.
//!
//! One `SOCK_SEQPACKET` pair, close-on-exec on both sides. The child speaks, the
//! parent answers `Go` where the child waits. The program's execution closes the
//! child's end: end of file without a failure before it means success.
//!
//! ```text
//! child                         parent
//!   Attach?    (may not enter)    has it moved into its group → Go
//!   Mapped?    (user namespace)   writes the maps           → Go
//!   Hooks      (only with hooks)  runs createRuntime hooks  → Go
//!   Console    + descriptor       keeps it
//!   Steps                         keeps them
//!   Made?      (if any)           keeps them
//!   Gate       (only with a gate) create() returns; start() → Go
//!   Listener   (seccomp notify)   takes it to the agent     → Go
//!   Failed                        reaps the child, reports
//!   (closed)                      the program runs
//! ```

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use berth_sys::socket;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::error::{Context as _, Error, Result};
use crate::steps::{self, Step};

/// Longest text of a failure; the rest is cut.
const MAX_TEXT: usize = 4096;

/// Child → parent.
#[derive(Debug)]
pub(crate) enum Message {
    /// The stage process reports the number of the process it made; with pidfd.
    Spawned(u32, OwnedFd),
    /// May not enter its control group, and waits to be moved there.
    Attach,
    /// Waits for its identifier maps.
    Map,
    /// Namespaces and mounts are made: createRuntime hooks may run.
    Hooks,
    /// The terminal's controlling side.
    Console(OwnedFd),
    /// Where the time went so far.
    Steps(Vec<Step>),
    /// Paths that were made in the root to mount on.
    Made(Vec<String>),
    /// Waits at the gate.
    Gate,
    /// Number of the seccomp listener in the child; waits until it is taken.
    Listener(i32),
    Failed(Error),
}

/// The child's end.
#[derive(Debug)]
pub(crate) struct ChildEnd(pub(crate) OwnedFd);

/// The parent's end.
#[derive(Debug)]
pub(crate) struct ParentEnd(pub(crate) OwnedFd);

pub(crate) fn pair() -> Result<(ParentEnd, ChildEnd)> {
    let (parent, child) = socket::seqpacket_pair().step(|| "make a socket pair")?;
    Ok((ParentEnd(parent), ChildEnd(child)))
}

impl ChildEnd {
    pub(crate) fn say(&self, tag: u8, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut bytes = Vec::with_capacity(body.len() + 1);
        bytes.push(tag);
        bytes.extend_from_slice(body);
        socket::send(&self.0, &bytes, fds).step(|| "report to the parent")
    }

    pub(crate) fn spawned(&self, pid: u32, pidfd: BorrowedFd<'_>) -> Result<()> {
        self.say(b'S', &pid.to_ne_bytes(), &[pidfd])
    }

    /// In a process made by a stage: until the parent knows it.
    pub(crate) fn wait_for_introduction(&self) -> Result<()> {
        self.wait()
    }

    pub(crate) fn console(&self, master: BorrowedFd<'_>) -> Result<()> {
        self.say(b'C', &[], &[master])
    }

    pub(crate) fn wait_for_attach(&self) -> Result<()> {
        self.say(b'A', &[], &[])?;
        self.wait()
    }

    pub(crate) fn wait_for_map(&self) -> Result<()> {
        self.say(b'M', &[], &[])?;
        self.wait()
    }

    pub(crate) fn wait_for_hooks(&self) -> Result<()> {
        self.say(b'H', &[], &[])?;
        self.wait()
    }

    pub(crate) fn steps(&self, steps: &[Step]) -> Result<()> {
        self.say(b'T', &steps::encode(steps), &[])
    }

    pub(crate) fn made(&self, paths: &[PathBuf]) -> Result<()> {
        if paths.is_empty() {
            return Ok(());
        }
        let paths: Vec<&[u8]> = paths
            .iter()
            .map(|path| path.as_os_str().as_bytes())
            .collect();
        self.say(b'P', &paths.join(&0), &[])
    }

    /// Tells which descriptor the seccomp listener is, and waits until the parent
    /// has taken it. By write(2) alone: the filter is in force already, and nobody
    /// answers for other calls yet.
    pub(crate) fn listener(&self, listener: &OwnedFd) -> Result<()> {
        let mut bytes = [b'L'; 5];
        bytes[1..].copy_from_slice(&listener.as_raw_fd().to_ne_bytes());
        rustix::io::write(&self.0, &bytes).step(|| "report the seccomp listener")?;
        self.wait()
    }

    pub(crate) fn wait_at_gate(&self) -> Result<()> {
        self.say(b'G', &[], &[])?;
        self.wait()
    }

    /// Blocks until the parent says `Go`; an error when it is gone or gave up.
    fn wait(&self) -> Result<()> {
        match socket::receive(&self.0) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::step("wait for the parent", Errno::PIPE)),
            Err(errno) => Err(Error::step("wait for the parent", errno)),
        }
    }

    /// Whether the parent still holds its end: asked once more right before
    /// execve, so that no program starts that nobody watches.
    pub(crate) fn parent_is_alive(&self) -> bool {
        let mut byte = [0u8; 1];
        !matches!(
            rustix::net::recv(
                &self.0,
                &mut byte[..],
                RecvFlags::DONTWAIT | RecvFlags::PEEK
            ),
            Ok((_, 0))
        )
    }

    /// Reports a failure. Nothing can be done when that fails too.
    pub(crate) fn fail(&self, error: &Error) {
        let (kind, errno, text) = match error {
            Error::NotFound(text) => (b'n', 0, text.as_str()),
            Error::NotExecutable(text) => (b'x', 0, text.as_str()),
            Error::Invalid(text) => (b'i', 0, text.as_str()),
            Error::Step { step, source } => (
                b's',
                source.raw_os_error().unwrap_or(libc::EIO),
                step.as_str(),
            ),
        };
        let mut body = vec![kind];
        body.extend_from_slice(&errno.to_ne_bytes());
        body.extend(text.bytes().take(MAX_TEXT));
        let _ = self.say(b'F', &body, &[]);
    }
}

impl ParentEnd {
    /// Lets the child go on from where it waits.
    pub(crate) fn go(&self) -> Result<()> {
        socket::send(&self.0, b"g", &[]).step(|| "answer the container's first process")
    }

    /// The next message; `None` at end of file.
    pub(crate) fn next(&self) -> Result<Option<Message>> {
        let Some((bytes, fds)) =
            socket::receive(&self.0).step(|| "hear from the container's first process")?
        else {
            return Ok(None);
        };
        decode(&bytes, fds)
            .map(Some)
            .ok_or_else(|| Error::step("understand the container's first process", Errno::PROTO))
    }
}

impl AsFd for ParentEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn decode(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Message> {
    let (tag, body) = bytes.split_first()?;
    let mut fds = fds.into_iter();
    Some(match tag {
        b'S' => Message::Spawned(u32::from_ne_bytes(body.try_into().ok()?), fds.next()?),
        b'A' => Message::Attach,
        b'M' => Message::Map,
        b'H' => Message::Hooks,
        b'C' => Message::Console(fds.next()?),
        b'T' => Message::Steps(steps::decode(body)?),
        b'P' => {
            let paths = body.split(|&byte| byte == 0);
            Message::Made(
                paths
                    .map(|p| String::from_utf8_lossy(p).into_owned())
                    .collect(),
            )
        }
        b'G' => Message::Gate,
        b'L' => Message::Listener(i32::from_ne_bytes(body.try_into().ok()?)),
        b'F' => {
            let (kind, body) = body.split_first()?;
            let (errno, text) = body.split_first_chunk::<4>()?;
            let text = String::from_utf8_lossy(text).into_owned();
            Message::Failed(match kind {
                b'n' => Error::NotFound(text),
                b'x' => Error::NotExecutable(text),
                b'i' => Error::Invalid(text),
                _ => Error::Step {
                    step: text,
                    source: io::Error::from_raw_os_error(i32::from_ne_bytes(*errno)),
                },
            })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_kind_text_and_errno() {
        let (parent, child) = pair().unwrap();
        child.fail(&Error::NotFound("exec: \"x\"".into()));
        child.fail(&Error::step("open /x", Errno::ACCESS));
        drop(child);
        let Some(Message::Failed(Error::NotFound(text))) = parent.next().unwrap() else {
            panic!()
        };
        assert_eq!(text, "exec: \"x\"");
        let Some(Message::Failed(error)) = parent.next().unwrap() else {
            panic!()
        };
        assert_eq!(error.to_string(), "open /x: permission denied");
        assert!(parent.next().unwrap().is_none());
    }

    #[test]
    fn the_child_notices_a_dead_parent() {
        let (parent, child) = pair().unwrap();
        assert!(child.parent_is_alive());
        drop(parent);
        assert!(!child.parent_is_alive());
        assert!(child.wait_at_gate().is_err());
    }

    #[test]
    fn junk_is_no_message() {
        assert!(decode(b"", Vec::new()).is_none());
        assert!(decode(b"Z", Vec::new()).is_none());
        assert!(decode(b"C", Vec::new()).is_none());
        assert!(decode(b"Fs\x01", Vec::new()).is_none());
    }
}
