//! The monitor: one per running container, a fork of the launcher.
//!
//! It is the parent of the container's first process and holds everything that
//! must survive the engine: the terminal or the pipes, the log, the exit
//! status, the socket for attach and exec. It ends with its container. It
//! moves bytes and never interprets what a container sends.

mod attached;
mod connection;
mod exit;
mod process;
mod requests;
mod run_dir;
mod serve;
mod shm;
mod start;
mod streams;
mod tree;

use std::fs::File;
use std::os::fd::OwnedFd;

use berth_cgroup::Host;
use berth_sys::{fork, socket};

use crate::launcher::warn;
use crate::protocol::{Failure, FromMonitor, Start};

/// What a monitor has from its launcher.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) cgroups: &'a Host,
    /// The host's mount namespace.
    pub(crate) namespace: &'a File,
    /// A mount of the init program, when the container is to have one.
    pub(crate) init: Option<OwnedFd>,
}

/// The whole life of a monitor, in a process just forked; returns its exit
/// status. `fds` came with the start message.
pub(crate) fn run(start: Start, fds: Vec<OwnedFd>, host: &Surroundings<'_>) -> u8 {
    let mut fds = fds.into_iter();
    let Some(channel) = fds.next() else {
        warn("a start message came without a channel");
        return 1;
    };
    let result = rustix::io::ioctl_fionbio(&channel, true)
        .map_err(|error| Failed::system("prepare the channel", error))
        .and_then(|()| start::start(start, fds, host));
    match result {
        Ok(mut container) => {
            fork::trim_heap();
            container.add_first_connection(channel);
            container.serve();
            0
        }
        Err(Failed { kind, message }) => {
            // All guards have been dropped: nothing is left behind.
            if let Ok(bytes) = serde_json::to_vec(&FromMonitor::StartFailed { kind, message }) {
                // The engine may be gone; then nobody wants to know.
                let _ = socket::send(&channel, &bytes, &[]);
            }
            1
        }
    }
}

/// Why a start or a request could not be served.
#[derive(Debug)]
struct Failed {
    kind: Failure,
    message: String,
}

impl Failed {
    fn system(tried: &str, error: impl std::fmt::Display) -> Self {
        Self {
            kind: Failure::System,
            message: format!("{tried}: {error}"),
        }
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: Failure::Invalid,
            message: message.into(),
        }
    }

    fn conflict(message: impl Into<String>) -> Self {
        Self {
            kind: Failure::Conflict,
            message: message.into(),
        }
    }
}

impl From<berth_runtime_core::Error> for Failed {
    fn from(error: berth_runtime_core::Error) -> Self {
        use berth_runtime_core::Error;
        let kind = match &error {
            Error::NotFound(_) => Failure::NotFound,
            Error::NotExecutable(_) => Failure::NotExecutable,
            Error::Invalid(_) => Failure::Invalid,
            _ => Failure::System,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}
