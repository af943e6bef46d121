//! The container's terminal: handed to a console socket, or connected to ours.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_sys::socket;
use oci_spec::runtime::Process;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use crate::error::{Context, Result};

/// Sends the terminal's controlling side to whoever listens at `path`, as runc
/// does: one message with the terminal's name and the descriptor.
pub(crate) fn send(path: &Path, console: &OwnedFd) -> Result<()> {
    let name = rustix::pty::ptsname(console, Vec::new())
        .context(|| format!("send the terminal to {}", path.display()))?;
    send_descriptor(path, name.to_bytes(), console)
}

/// `--pidfd-socket`.
pub(crate) fn send_pidfd(path: &Path, pidfd: &OwnedFd) -> Result<()> {
    send_descriptor(path, b"pidfd", pidfd)
}

fn send_descriptor(path: &Path, name: &[u8], descriptor: &OwnedFd) -> Result<()> {
    let tried = || format!("send a descriptor to {}", path.display());
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(tried)?;
    let address = SocketAddrUnix::new(path).context(tried)?;
    connect(&socket, &address).context(tried)?;
    socket::send(&socket, name, &[descriptor.as_fd()]).context(tried)
}

/// Columns and rows of a new terminal: `process.consoleSize`, else those of ours;
/// zeros when we have none.
pub(crate) fn size(process: Option<&Process>) -> (u16, u16) {
    if let Some(size) = process.and_then(Process::console_size)
        && let (Ok(width), Ok(height)) = (size.width().try_into(), size.height().try_into())
        && (width, height) != (0, 0)
    {
        return (width, height);
    }
    tcgetwinsize(io::stdin()).map_or((0, 0), |size| (size.ws_col, size.ws_row))
}

/// Moves bytes between our terminal, in raw mode meanwhile, and the
/// container's.
#[derive(Debug)]
pub(crate) struct Proxy {
    console: Option<OwnedFd>,
    before: Option<Termios>,
    input_open: bool,
}

impl Proxy {
    pub(crate) fn new(console: OwnedFd) -> io::Result<Self> {
        let mut before = None;
        if isatty(io::stdin()) {
            let attributes = tcgetattr(io::stdin())?;
            let mut raw = attributes.clone();
            raw.make_raw();
            tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
            before = Some(attributes);
        }
        Ok(Self {
            console: Some(console),
            before,
            input_open: true,
        })
    }

    /// Our input, the container's output.
    pub(crate) fn interest(&self) -> Vec<PollFd<'_>> {
        let Some(console) = &self.console else {
            return Vec::new();
        };
        let mut fds = vec![PollFd::new(console, PollFlags::IN)];
        if self.input_open {
            fds.push(PollFd::from_borrowed_fd(
                rustix::stdio::stdin(),
                PollFlags::IN,
            ));
        }
        fds
    }

    pub(crate) fn ready(&mut self, flags: &[PollFlags]) {
        if flags.first().is_some_and(|flags| !flags.is_empty()) {
            self.output();
        }
        if flags.get(1).is_some_and(|flags| !flags.is_empty()) {
            self.input();
        }
    }

    /// Returns whether there may be more.
    fn output(&mut self) -> bool {
        let Some(console) = &self.console else {
            return false;
        };
        let mut buffer = [0; 4096];
        match rustix::io::retry_on_intr(|| rustix::io::read(console, &mut buffer)) {
            Ok(length) if length > 0 => {
                if write_all(rustix::stdio::stdout(), &buffer[..length]).is_ok() {
                    return true;
                }
                self.console = None;
            }
            Err(Errno::AGAIN) => {}
            // EIO: closed everywhere on the other side.
            Ok(_) | Err(_) => self.console = None,
        }
        false
    }

    fn input(&mut self) {
        let Some(console) = &self.console else { return };
        let mut buffer = [0; 4096];
        match rustix::io::retry_on_intr(|| rustix::io::read(rustix::stdio::stdin(), &mut buffer)) {
            Ok(length) if length > 0 => {
                // A failure shows in the output too.
                let _ = write_all(console.as_fd(), &buffer[..length]);
            }
            _ => self.input_open = false,
        }
    }

    /// Takes our terminal's size.
    pub(crate) fn resize(&self) {
        if let Some(console) = &self.console
            && let Ok(size) = tcgetwinsize(io::stdin())
        {
            let _ = tcsetwinsize(console, size);
        }
    }

    /// What the program wrote before it ended.
    pub(crate) fn drain(&mut self) {
        if let Some(console) = &self.console {
            let _ = rustix::io::ioctl_fionbio(console, true);
        }
        while self.output() {}
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}
