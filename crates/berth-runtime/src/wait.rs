//! Waiting for a container in the foreground: signals go on to it, orphans
//! are reaped, its exit code becomes ours.

use std::io;
use std::os::fd::AsFd;

use berth_runtime_core::Started;
use berth_sys::signals::{SignalFd, send_signal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, WaitOptions, set_child_subreaper};

use crate::console::Proxy;

/// Sent on to the container: all that ask or tell a program something.
const FORWARDED: [Signal; 12] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    Signal::CONT,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::WINCH,
];

/// Signals as messages, from before the container is made, so that none is
/// lost in between.
#[derive(Debug)]
pub(crate) struct Waiter(SignalFd);

impl Waiter {
    pub(crate) fn new() -> io::Result<Self> {
        set_child_subreaper(Some(rustix::process::getpid()))?;
        let mut signals = FORWARDED.to_vec();
        signals.push(Signal::CHILD);
        Ok(Self(SignalFd::new(&signals)?))
    }

    /// Waits for the end of `process`; returns its exit code, 128 + signal when
    /// killed by one. `proxy` moves the bytes of its terminal meanwhile.
    pub(crate) fn wait(&self, process: &Started, proxy: Option<&mut Proxy>) -> io::Result<u8> {
        let mut proxy = proxy;
        loop {
            let mut fds = vec![PollFd::new(&self.0, PollFlags::IN)];
            if let Some(proxy) = &proxy {
                fds.extend(proxy.interest());
            }
            rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
            let ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
            if let Some(proxy) = &mut proxy {
                proxy.ready(&ready[1..]);
            }
            while let Some(signal) = self.0.next()? {
                if signal == Signal::CHILD.as_raw() {
                    if let Some(code) = reap(process.pid)? {
                        if let Some(proxy) = &mut proxy {
                            proxy.drain();
                        }
                        return Ok(code);
                    }
                } else if signal == Signal::WINCH.as_raw() && proxy.is_some() {
                    if let Some(proxy) = &proxy {
                        proxy.resize();
                    }
                } else {
                    // It may have ended.
                    let _ = send_signal(process.pidfd.as_fd(), signal);
                }
            }
        }
    }
}

/// Reaps every child that has ended; returns the exit code of `pid`.
pub(crate) fn reap(pid: u32) -> io::Result<Option<u8>> {
    let mut code = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) => {
                if child.as_raw_nonzero().get().unsigned_abs() == pid {
                    let value = status
                        .exit_status()
                        .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                    // Both are below 256.
                    code = Some(
                        value
                            .and_then(|value| u8::try_from(value).ok())
                            .unwrap_or(255),
                    );
                }
            }
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(code),
            Err(error) => return Err(error.into()),
        }
    }
}
