//! The streams of one process: what it writes goes to the log and to the
//! attached clients, what they send goes to its standard input.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};

use super::attached::{Client, Input};
use crate::log::{Log, Stream};
use crate::protocol::Attach;
use crate::timestamp::Timestamp;

/// One read of output or input, in bytes.
const CHUNK: usize = 32 * 1024;

/// Which descriptor of a process's streams became ready.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Output(Stream),
    Stdin,
    Client(usize),
}

/// The process's ends of its pipes; to be closed here once it has them.
#[derive(Debug)]
pub(super) struct ChildEnds {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl ChildEnds {
    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.stdin.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()]
    }
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Streams {
    channels: Channels,
    /// Input that the process has not taken yet.
    input: VecDeque<u8>,
    /// Close standard input when `input` is empty.
    input_ended: bool,
    /// Whether the first client that ends its input ends the process's.
    stdin_once: bool,
    clients: Vec<Client>,
    /// The process has ended: what is left in the pipes is little, and is read
    /// even if a client is slow.
    draining: bool,
}

#[derive(Debug)]
enum Channels {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    },
    /// The controlling side; `open_stdin` says whether input is passed on.
    Terminal {
        console: Option<OwnedFd>,
        open_stdin: bool,
    },
}

impl Streams {
    /// Three pipes; standard input is /dev/null unless it is to be open.
    pub(super) fn pipes(open_stdin: bool, stdin_once: bool) -> io::Result<(Self, ChildEnds)> {
        let (stdout, child_stdout) = output_pipe()?;
        let (stderr, child_stderr) = output_pipe()?;
        let (child_stdin, stdin) = if open_stdin {
            let (child, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&ours, true)?;
            (child, Some(ours))
        } else {
            (std::fs::File::open("/dev/null")?.into(), None)
        };
        let channels = Channels::Pipes {
            stdin,
            stdout: Some(stdout),
            stderr: Some(stderr),
        };
        let child = ChildEnds {
            stdin: child_stdin,
            stdout: child_stdout,
            stderr: child_stderr,
        };
        Ok((Self::new(channels, stdin_once), child))
    }

    /// The controlling side of a terminal.
    pub(super) fn terminal(console: OwnedFd, open_stdin: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&console, true)?;
        Ok(Self::new(
            Channels::Terminal {
                console: Some(console),
                open_stdin,
            },
            false,
        ))
    }

    fn new(channels: Channels, stdin_once: bool) -> Self {
        Self {
            channels,
            input: VecDeque::new(),
            input_ended: false,
            stdin_once,
            clients: Vec::new(),
            draining: false,
        }
    }

    pub(super) fn attach(&mut self, socket: OwnedFd, attach: Attach) {
        let mut client = Client::new(socket, attach);
        if self.stdin().is_none() {
            client.end_input();
        }
        self.clients.push(client);
    }

    /// Columns and rows; false when there is no terminal.
    pub(super) fn resize(&self, width: u16, height: u16) -> io::Result<bool> {
        match &self.channels {
            Channels::Terminal {
                console: Some(console),
                ..
            } => {
                let size = Winsize {
                    ws_row: height,
                    ws_col: width,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                tcsetwinsize(console, size)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn is_terminal(&self) -> bool {
        matches!(self.channels, Channels::Terminal { .. })
    }

    fn stdin(&self) -> Option<BorrowedFd<'_>> {
        match &self.channels {
            Channels::Pipes { stdin, .. } => stdin.as_ref(),
            Channels::Terminal {
                console,
                open_stdin,
            } => console.as_ref().filter(|_| *open_stdin),
        }
        .map(AsFd::as_fd)
    }

    fn output(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        match (&self.channels, stream) {
            (Channels::Pipes { stdout, .. }, Stream::Stdout) => stdout.as_ref(),
            (Channels::Pipes { stderr, .. }, Stream::Stderr) => stderr.as_ref(),
            (Channels::Terminal { console, .. }, Stream::Stdout) => console.as_ref(),
            (Channels::Terminal { .. }, Stream::Stderr) => None,
        }
        .map(AsFd::as_fd)
    }

    fn close_output(&mut self, stream: Stream) {
        match (&mut self.channels, stream) {
            (Channels::Pipes { stdout, .. }, Stream::Stdout) => *stdout = None,
            (Channels::Pipes { stderr, .. }, Stream::Stderr) => *stderr = None,
            (Channels::Terminal { console, .. }, _) => *console = None,
        }
    }

    fn close_stdin(&mut self) {
        self.input = VecDeque::new();
        match &mut self.channels {
            Channels::Pipes { stdin, .. } => *stdin = None,
            Channels::Terminal { open_stdin, .. } => *open_stdin = false,
        }
        self.clients.iter_mut().for_each(Client::end_input);
    }

    /// Adds what to wait for.
    pub(super) fn interest<'a>(&'a self, add: &mut impl FnMut(Part, PollFd<'a>)) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(fd) = self.output(stream)
                && self
                    .clients
                    .iter()
                    .all(|client| client.has_room_for(stream, self.draining))
            {
                add(
                    Part::Output(stream),
                    PollFd::from_borrowed_fd(fd, PollFlags::IN),
                );
            }
        }
        if let Some(fd) = self.stdin()
            && !self.input.is_empty()
        {
            add(Part::Stdin, PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        }
        let takes_input = self.stdin().is_some() && self.input.is_empty() && !self.input_ended;
        for (index, client) in self.clients.iter().enumerate() {
            if let (Some(fd), Some(flags)) = (client.fd(), client.interest(takes_input)) {
                add(Part::Client(index), PollFd::from_borrowed_fd(fd, flags));
            }
        }
    }

    /// Moves the bytes that can be moved. Output is also written to `log`.
    pub(super) fn ready(&mut self, part: Part, flags: PollFlags, log: Option<&mut Log>) {
        match part {
            Part::Output(stream) => self.read_output(stream, log),
            Part::Stdin => self.write_input(),
            Part::Client(index) => self.client_ready(index, flags),
        }
    }

    fn read_output(&mut self, stream: Stream, log: Option<&mut Log>) {
        let Some(fd) = self.output(stream) else {
            return;
        };
        let mut buffer = [0; CHUNK];
        let length = match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut buffer)) {
            Ok(length) if length > 0 => length,
            Err(Errno::AGAIN) => return,
            // A terminal whose other side is closed everywhere gives EIO.
            Ok(_) | Err(_) => return self.close_output(stream),
        };
        let bytes = &buffer[..length];
        if let Some(log) = log {
            log.write(stream, bytes, Timestamp::now());
        }
        let tty = self.is_terminal();
        for client in &mut self.clients {
            client.output(stream, bytes, tty);
        }
    }

    fn client_ready(&mut self, index: usize, flags: PollFlags) {
        let takes_input = self.stdin().is_some() && self.input.is_empty() && !self.input_ended;
        let Some(client) = self.clients.get_mut(index) else {
            return;
        };
        if flags.contains(PollFlags::OUT) {
            client.flush();
        }
        if takes_input && flags.intersects(PollFlags::IN | PollFlags::HUP) {
            let mut buffer = [0; CHUNK];
            match client.input(&mut buffer) {
                Input::Bytes(length) => {
                    self.input.extend(&buffer[..length]);
                    self.write_input();
                    // There may be more before a hang-up counts.
                    return;
                }
                Input::Nothing => {}
                Input::End => self.input_of_client_ended(index),
            }
        }
        if flags.intersects(PollFlags::HUP | PollFlags::ERR)
            && let Some(client) = self.clients.get_mut(index)
        {
            client.hang_up();
        }
    }

    /// As Docker does: the end of a client's input is the end of the process's
    /// if it was opened for one client, without a terminal. Otherwise the
    /// client is detached.
    fn input_of_client_ended(&mut self, index: usize) {
        self.clients[index].end_input();
        if self.stdin_once && !self.is_terminal() {
            self.input_ended = true;
            self.write_input();
        } else {
            self.clients[index].close();
        }
    }

    fn write_input(&mut self) {
        while let Some(fd) = self.stdin()
            && !self.input.is_empty()
        {
            match rustix::io::retry_on_intr(|| rustix::io::write(fd, self.input.as_slices().0)) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(Errno::AGAIN) => return,
                // The process has closed its input.
                Err(_) => return self.close_stdin(),
            }
        }
        self.input = VecDeque::new();
        if self.input_ended {
            self.close_stdin();
        }
    }

    /// The process has ended; its output is read to the end from now on.
    pub(super) fn process_ended(&mut self) {
        self.draining = true;
        if !self.is_terminal() {
            self.close_stdin();
        }
    }

    pub(super) fn outputs_ended(&self) -> bool {
        self.output(Stream::Stdout).is_none() && self.output(Stream::Stderr).is_none()
    }

    /// Gives up on output whose other side someone still holds.
    pub(super) fn close_outputs(&mut self) {
        self.close_output(Stream::Stdout);
        self.close_output(Stream::Stderr);
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.clients.iter().all(Client::is_flushed)
    }

    /// Ends every client's stream when it has got what is pending for it.
    pub(super) fn close_clients(&mut self) {
        self.clients.iter_mut().for_each(Client::close);
    }

    /// Forgets the clients that are gone. Not to be called between
    /// [`Streams::interest`] and [`Streams::ready`].
    pub(super) fn remove_gone_clients(&mut self) {
        self.clients.retain(|client| !client.is_gone());
    }

    pub(super) fn has_clients(&self) -> bool {
        self.clients.iter().any(|client| !client.is_gone())
    }
}

fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, child) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, child))
}
