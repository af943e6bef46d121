//! One process that this monitor started in the container: the first one, or
//! an exec's.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::streams::Streams;

/// How long output may still come, and slow clients may delay the
/// announcement, after a process has ended; Docker's figure. Pipes stay open
/// that long only when another process has inherited them.
const DRAIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Process {
    /// `None` for the container's first process.
    pub(super) exec: Option<String>,
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) streams: Streams,
    pub(super) ended: Option<Ended>,
    /// Its end has been announced.
    pub(super) announced: bool,
}

/// How and when a process ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// 0–255; 128 + signal when killed by one.
    pub(super) exit_code: i32,
    pub(super) deadline: Instant,
}

impl Process {
    pub(super) fn new(exec: Option<String>, pid: u32, pidfd: OwnedFd, streams: Streams) -> Self {
        Self {
            exec,
            pid,
            pidfd,
            streams,
            ended: None,
            announced: false,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.ended.is_none()
    }

    pub(super) fn end(&mut self, exit_code: i32) {
        self.ended = Some(Ended {
            exit_code,
            deadline: Instant::now() + DRAIN,
        });
        self.streams.process_ended();
    }

    /// Whether its end is to be announced now: its output is complete and
    /// delivered, or has had its time.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.ended.is_some_and(|ended| {
            now >= ended.deadline || (self.streams.outputs_ended() && self.streams.is_flushed())
        })
    }

    /// When [`Process::is_settled`] becomes true by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.ended
            .filter(|_| !self.announced)
            .map(|ended| ended.deadline)
    }
}
