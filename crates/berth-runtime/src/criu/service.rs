//! A CRIU that serves one request: `criu swrk`, which speaks protocol buffers over
//! a socket it is given (criu.org/RPC). As in runc, not the command line: only so
//! are restored processes our children, and only so are we asked at each stage.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use berth_sys::{fork, socket};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::wire::{self, Message};
use crate::error::{Context, Error, Result};

/// The oldest release that knows all we ask for: 3.16, as CRIU counts.
const OLDEST: u64 = 3_16_00;

/// What is asked for; the numbers are CRIU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    FeatureCheck = 9,
    Version = 10,
}

const NOTIFY: u64 = 6;

/// A stage that CRIU has come to, and waits there.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    pub(crate) stage: String,
    /// Of the container's first process, from "setup-namespaces" on.
    pub(crate) pid: u32,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// CRIU's last word.
#[derive(Debug, Default)]
pub(crate) struct Response {
    kind: u64,
    success: bool,
    errno: u64,
    notice: Option<Notice>,
    /// Of the first process that was restored.
    pub(crate) pid: u32,
    memory_tracking: bool,
    lazy_pages: bool,
    version: u64,
}

/// A running CRIU.
#[derive(Debug)]
pub(crate) struct Criu {
    socket: OwnedFd,
    pid: Pid,
}

/// How CRIU is to be started.
pub(crate) struct Start<'a> {
    /// Standard streams: ours, which are what restored pipes become; else none.
    pub(crate) streams: bool,
    /// Descriptors that CRIU has by the same numbers.
    pub(crate) inherited: &'a [BorrowedFd<'a>],
    /// Done in the process that becomes CRIU.
    pub(crate) before: &'a mut dyn FnMut() -> Result<()>,
}

impl Criu {
    /// Returns when CRIU has been executed.
    pub(crate) fn start(mut how: Start<'_>) -> Result<Self> {
        let tried = || "start CRIU".to_owned();
        // Closes when CRIU is executed.
        let (hear, tell) = socket::seqpacket_pair().context(tried)?;
        let pid = fork::fork(|| {
            let error = execute(&mut how, &tell);
            let _ = socket::send(&tell, error.to_string().as_bytes(), &[]);
            1
        })
        .context(tried)?;
        drop(tell);
        let socket = first_word(&hear).and_then(|socket| match first_word(&hear)? {
            None => socket.ok_or_else(|| Error::new("start CRIU: it was killed")),
            Some(_) => Err(Error::new("start CRIU: it began twice")),
        });
        match socket {
            Ok(socket) => Ok(Self { socket, pid }),
            Err(error) => {
                reap(pid);
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Asks, and calls `noticed` at each stage until CRIU has succeeded.
    pub(crate) fn ask(
        &self,
        kind: Kind,
        details: &Message,
        noticed: &mut dyn FnMut(Notice) -> Result<()>,
    ) -> Result<Response> {
        let mut request = Message::default();
        request.number(1, kind as u64);
        match kind {
            Kind::FeatureCheck => request.message(5, details),
            Kind::Version => {}
            Kind::Dump | Kind::Restore | Kind::PreDump => request.message(2, details),
        }
        self.send(&request)?;
        loop {
            let received = socket::receive(&self.socket).context(|| "hear from CRIU".to_owned())?;
            let Some((bytes, descriptors)) = received else {
                return Err(Error::new("criu failed: it ended without an answer"));
            };
            let mut response = Response::read(&bytes)?;
            if !response.success {
                return Err(Error::new(format!(
                    "criu failed: type {} errno {}",
                    name(response.kind),
                    response.errno
                )));
            }
            match response.notice.take() {
                Some(mut notice) if response.kind == NOTIFY => {
                    notice.descriptors = descriptors;
                    noticed(notice)?;
                    let mut go_on = Message::default();
                    go_on.number(1, NOTIFY);
                    go_on.flag(3, true);
                    self.send(&go_on)?;
                }
                _ if response.kind == kind as u64 => return Ok(response),
                _ => {
                    return Err(Error::new(format!(
                        "criu failed: it answered {} with {}",
                        name(kind as u64),
                        name(response.kind)
                    )));
                }
            }
        }
    }

    fn send(&self, message: &Message) -> Result<()> {
        socket::send(&self.socket, message.bytes(), &[]).context(|| "ask CRIU".to_owned())
    }

    /// Waits for its end; whether it was a good one.
    pub(crate) fn end(self) -> bool {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
        reap(self.pid)
    }
}

/// CRIU gives up what it is at when it is told of no more interest, so a failure on
/// our side leaves nothing half done.
pub(crate) fn give_up(criu: Criu) {
    let Criu { socket, pid } = criu;
    drop(socket);
    reap(pid);
}

fn reap(pid: Pid) -> bool {
    let status = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
    matches!(status, Ok(Some((_, status))) if status.exit_status() == Some(0))
}

/// What a child that starts CRIU says: the socket to ask at, the reason why not, or
/// nothing more.
fn first_word(hear: &OwnedFd) -> Result<Option<OwnedFd>> {
    match socket::receive(hear).context(|| "start CRIU".to_owned())? {
        None => Ok(None),
        Some((reason, mut descriptors)) => match descriptors.pop() {
            Some(socket) => Ok(Some(socket)),
            None => Err(Error::new(String::from_utf8_lossy(&reason))),
        },
    }
}

/// In the child; returns only on failure.
fn execute(how: &mut Start<'_>, tell: &OwnedFd) -> Error {
    let inherit = |fd: BorrowedFd<'_>| {
        fcntl_setfd(fd, FdFlags::empty()).context(|| "pass on a descriptor".to_owned())
    };
    // Made here, for CRIU looks for descriptors that it is told of in the process
    // that made the socket: they are to be those of its own mount namespace.
    let socket = (how.before)().and_then(|()| {
        how.inherited.iter().try_for_each(|fd| inherit(*fd))?;
        let tried = || "start CRIU".to_owned();
        let (ours, theirs) = socket::seqpacket_pair().context(tried)?;
        inherit(theirs.as_fd())?;
        socket::send(tell, b"ask", &[ours.as_fd()]).context(tried)?;
        Ok(theirs)
    });
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return error,
    };
    let mut command = Command::new("criu");
    command.arg("swrk").arg(socket.as_raw_fd().to_string());
    if !how.streams {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
    }
    let error = command.exec();
    Error::new(if error.kind() == std::io::ErrorKind::NotFound {
        "exec: \"criu\": executable file not found in $PATH: checkpoint and restore need CRIU, \
         install the package criu"
            .to_owned()
    } else {
        format!("exec: \"criu\": {error}")
    })
}

/// Whether CRIU is there, is new enough, and has what is wanted of it.
pub(crate) fn check(memory_tracking: bool, lazy_pages: bool) -> Result<()> {
    let nothing = Message::default();
    let version = ask_once(Kind::Version, &nothing)?.version;
    if version < OLDEST {
        return Err(Error::new(format!(
            "CRIU version {version} must be {OLDEST} or higher"
        )));
    }
    if !memory_tracking && !lazy_pages {
        return Ok(());
    }
    let mut wanted = Message::default();
    wanted.flag(1, memory_tracking);
    wanted.flag(2, lazy_pages);
    let has = ask_once(Kind::FeatureCheck, &wanted)?;
    for (wanted, has, name) in [
        (memory_tracking, has.memory_tracking, "MemTrack"),
        (lazy_pages, has.lazy_pages, "LazyPages"),
    ] {
        if wanted && !has {
            return Err(Error::new(format!("criu is missing features: [{name}]")));
        }
    }
    Ok(())
}

fn ask_once(kind: Kind, details: &Message) -> Result<Response> {
    let criu = Criu::start(Start {
        streams: false,
        inherited: &[],
        before: &mut || Ok(()),
    })?;
    let response = criu.ask(kind, details, &mut |_| Ok(()));
    give_up(criu);
    response
}

impl Response {
    fn read(bytes: &[u8]) -> Result<Self> {
        let mut response = Self::default();
        wire::read(bytes, |field, value| {
            match field {
                1 => response.kind = value.number(),
                2 => response.success = value.number() != 0,
                4 => wire::read(value.bytes(), |field, value| {
                    if field == 1 {
                        response.pid = u32::try_from(value.number()).unwrap_or(0);
                    }
                    Ok(())
                })?,
                5 => {
                    let mut notice = Notice::default();
                    wire::read(value.bytes(), |field, value| {
                        match field {
                            1 => notice.stage = String::from_utf8_lossy(value.bytes()).into_owned(),
                            2 => notice.pid = u32::try_from(value.number()).unwrap_or(0),
                            _ => {}
                        }
                        Ok(())
                    })?;
                    response.notice = Some(notice);
                }
                7 => response.errno = value.number(),
                8 => wire::read(value.bytes(), |field, value| {
                    match field {
                        1 => response.memory_tracking = value.number() != 0,
                        2 => response.lazy_pages = value.number() != 0,
                        _ => {}
                    }
                    Ok(())
                })?,
                10 => wire::read(value.bytes(), |field, value| {
                    let weight = match field {
                        1 => 10_000,
                        2 => 100,
                        4 => 1,
                        _ => 0,
                    };
                    let part = value.number().saturating_mul(weight);
                    response.version = response.version.saturating_add(part);
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(response)
    }
}

fn name(kind: u64) -> &'static str {
    const NAMES: [&str; 13] = [
        "EMPTY",
        "DUMP",
        "RESTORE",
        "CHECK",
        "PRE_DUMP",
        "PAGE_SERVER",
        "NOTIFY",
        "CPUINFO_DUMP",
        "CPUINFO_CHECK",
        "FEATURE_CHECK",
        "VERSION",
        "WAIT_PID",
        "PAGE_SERVER_CHLD",
    ];
    usize::try_from(kind)
        .ok()
        .and_then(|kind| NAMES.get(kind).copied())
        .unwrap_or("unknown")
}
