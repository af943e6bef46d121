//! `init`: the first process of a container that asked for one (`--init`).
//!
//! As tini does: it starts the program in a process group of its own, in the
//! foreground of the terminal if there is one; sends every signal on to it;
//! reaps whatever is orphaned; and ends as the program ends.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use berth_sys::fork;
use berth_sys::signals::{SignalFd, send_signal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, getpgrp, pidfd_open, set_child_subreaper, setpgid};

use crate::wait::reap;

/// Runs to the end of the program; returns its exit code, 128 + signal when it
/// was killed by one, 126 or 127 when it could not be executed.
pub(crate) fn run(mut arguments: Vec<OsString>) -> u8 {
    if arguments.first().is_some_and(|first| first == "--") {
        arguments.remove(0);
    }
    if arguments.is_empty() {
        complain("no program given");
        return 1;
    }
    serve(&arguments).unwrap_or_else(|error| {
        complain(&error.to_string());
        1
    })
}

fn serve(words: &[OsString]) -> io::Result<u8> {
    if !rustix::process::getpid().is_init() {
        // Else orphans would go to another process.
        set_child_subreaper(Some(rustix::process::getpid()))?;
    }
    // Before the program exists, so that no signal is lost. One that is blocked
    // also reaches a first process that has no handler for it.
    let signals = SignalFd::all()?;
    let child = fork::fork(|| execute(words))?;
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let pid = child.as_raw_nonzero().get().unsigned_abs();
    loop {
        let mut ready = [PollFd::new(&signals, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut ready, None))?;
        while let Some(signal) = signals.next()? {
            if signal != Signal::CHILD.as_raw() {
                // It may have ended; then its exit code is next.
                let _ = send_signal(&pidfd, signal);
            } else if let Some(code) = reap(pid)? {
                return Ok(code);
            }
        }
    }
}

/// In the child: becomes the program.
fn execute(words: &[OsString]) -> u8 {
    if let Err(error) = take_foreground() {
        complain(&format!("become the terminal's foreground: {error}"));
        return 1;
    }
    let Some((program, rest)) = words.split_first() else {
        return 1;
    };
    berth_sys::exec::reset_signals();
    let error = Command::new(program).args(rest).exec();
    let text = error.to_string();
    // Without Rust's "(os error 2)", as tini says it.
    let text = text.split(" (os error").next().unwrap_or(&text);
    complain(&format!(
        "exec {} failed: {text}",
        program.to_string_lossy()
    ));
    match error.kind() {
        io::ErrorKind::NotFound => 127,
        io::ErrorKind::PermissionDenied => 126,
        _ => 1,
    }
}

/// SIGTTOU is blocked, or this would stop the process.
fn take_foreground() -> Result<(), Errno> {
    setpgid(None, None)?;
    match rustix::termios::tcsetpgrp(rustix::stdio::stdin(), getpgrp()) {
        // No terminal, or not the controlling one.
        Ok(()) | Err(Errno::NOTTY | Errno::NXIO | Errno::BADF) => Ok(()),
        Err(error) => Err(error),
    }
}

fn complain(what: &str) {
    // Nowhere is left to tell that standard error cannot be written.
    let _ = writeln!(
        io::stderr(),
        "[FATAL docker-init ({})] {what}",
        std::process::id()
    );
}
