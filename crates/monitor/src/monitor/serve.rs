//! The loop of a monitor: wait, move bytes, answer, reap, and end.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use berth_cgroup::Cgroup;
use berth_sys::signals::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitOptions, WaitStatus};

use super::connection::Connection;
use super::exit::{CgroupGuard, RunningState, write_record};
use super::process::Process;
use super::run_dir::RunDir;
use super::streams::Part;
use crate::endpoint;
use crate::launcher::warn;
use crate::log::Log;
use crate::protocol::{ExitRecord, FromMonitor};
use crate::timestamp::Timestamp;

/// A running container and everything that serves it.
#[derive(Debug)]
pub(super) struct Container {
    /// The container's first process, then the execs'. Elements are removed
    /// only between two waits, so an index stays good in between.
    pub(super) processes: Vec<Process>,
    connections: Vec<Connection>,
    /// `None` when they have been removed, after the container's end.
    place: Option<Place>,
    pub(super) log: Log,
    signals: SignalFd,
    pub(super) state: RunningState,
    finished_at: Option<Timestamp>,
    pub(super) exit: Option<ExitRecord>,
    /// Out-of-memory kills announced so far.
    oom_kills: u64,
}

/// What is removed when the container has ended, in this order.
#[derive(Debug)]
struct Place {
    group: CgroupGuard,
    run_dir: RunDir,
}

/// What became ready.
#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Listener,
    Connection(usize),
    Process(usize, Part),
}

impl Container {
    pub(super) fn new(
        first: Process,
        run_dir: RunDir,
        group: CgroupGuard,
        log: Log,
        signals: SignalFd,
        state: RunningState,
    ) -> Self {
        Self {
            processes: vec![first],
            connections: Vec::new(),
            place: Some(Place { group, run_dir }),
            log,
            signals,
            state,
            finished_at: None,
            exit: None,
            oom_kills: 0,
        }
    }

    /// The channel that the start came with: tells that it is done.
    pub(super) fn add_first_connection(&mut self, channel: OwnedFd) {
        let mut connection = Connection::first(channel);
        connection.send(&FromMonitor::Started {
            pid: self.processes[0].pid,
            started_at: self.state.started_at.clone(),
            steps: std::mem::take(&mut self.state.steps),
            made: std::mem::take(&mut self.state.made),
        });
        self.connections.push(connection);
    }

    /// Serves the container until it has ended and every client has got its
    /// output.
    pub(super) fn serve(&mut self) {
        loop {
            self.settle();
            if self.place.is_none() && !self.processes.iter().any(|p| p.streams.has_clients()) {
                break;
            }
            match self.wait() {
                Ok(ready) => {
                    for (token, flags) in ready {
                        self.handle(token, flags);
                    }
                }
                // Nothing but a lack of kernel memory makes poll fail.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            self.log.work();
        }
        while self.log.has_work() {
            self.log.work();
        }
    }

    fn wait(&self) -> Result<Vec<(Token, PollFlags)>, rustix::io::Errno> {
        let mut tokens = Vec::with_capacity(8);
        let mut fds = Vec::with_capacity(8);
        tokens.push(Token::Signals);
        fds.push(PollFd::new(&self.signals, PollFlags::IN));
        let listener = self.place.as_ref().map(|place| place.run_dir.listener());
        if let Some(listener) = listener {
            tokens.push(Token::Listener);
            fds.push(PollFd::from_borrowed_fd(listener, PollFlags::IN));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            if let Some(fd) = connection.fd() {
                tokens.push(Token::Connection(index));
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
        }
        for (index, process) in self.processes.iter().enumerate() {
            process.streams.interest(&mut |part, fd| {
                tokens.push(Token::Process(index, part));
                fds.push(fd);
            });
        }
        let timeout = self.timeout();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let ready = tokens.into_iter().zip(fds.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn timeout(&self) -> Option<Timespec> {
        if self.log.has_work() {
            return Some(Timespec::default());
        }
        let deadline = self.processes.iter().filter_map(Process::deadline).min()?;
        let left = deadline.saturating_duration_since(Instant::now());
        // A deadline is seconds away.
        Timespec::try_from(left + Duration::from_millis(1)).ok()
    }

    fn handle(&mut self, token: Token, flags: PollFlags) {
        match token {
            Token::Signals => {
                while let Ok(Some(_)) = self.signals.next() {}
                self.reap();
            }
            Token::Listener => self.accept(),
            Token::Connection(index) => {
                while let Some((bytes, fds)) = self.connections[index].receive() {
                    let answer = self.answer(&bytes, fds);
                    self.connections[index].send(&answer);
                }
            }
            Token::Process(index, part) => {
                let log = (index == 0).then_some(&mut self.log);
                self.processes[index].streams.ready(part, flags, log);
            }
        }
    }

    fn accept(&mut self) {
        let Some(place) = &self.place else { return };
        while let Ok(Some(socket)) = endpoint::accept_from(place.run_dir.listener()) {
            self.connections.push(Connection::new(socket));
        }
    }

    fn broadcast(&mut self, message: &FromMonitor) {
        for connection in &mut self.connections {
            connection.send(message);
        }
    }

    pub(super) fn group(&self) -> Option<&Cgroup> {
        self.place.as_ref().map(|place| place.group.group())
    }

    /// Reaps every child that has ended: ours, and those that a process of the
    /// container left behind.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            let process = self
                .processes
                .iter()
                .position(|process| process.is_running() && process.pid == pid);
            let Some(index) = process else { continue };
            if index == 0 {
                self.finished_at = Some(Timestamp::now());
                self.kill_the_rest();
            }
            self.processes[index].end(exit_code(status));
        }
    }

    /// In a process namespace shared with others, the processes left do not
    /// end with the first one by themselves.
    fn kill_the_rest(&self) {
        if !self.state.own_pid_namespace
            && let Some(group) = self.group()
            && let Err(error) = group.kill_all()
        {
            warn(&format!(
                "kill what is left in control group {}: {error}",
                group.path()
            ));
        }
    }

    /// Announces what has ended, and forgets what is done.
    fn settle(&mut self) {
        let now = Instant::now();
        for index in (1..self.processes.len()).rev() {
            let process = &mut self.processes[index];
            if !process.announced && process.is_settled(now) {
                process.announced = true;
                process.streams.close_outputs();
                let exec = process.exec.clone().unwrap_or_default();
                let exit_code = process.ended.map_or(0, |ended| ended.exit_code);
                self.announce_oom_kills();
                self.broadcast(&FromMonitor::ExecExited { exec, exit_code });
                self.processes[index].streams.close_clients();
            }
            let process = &mut self.processes[index];
            process.streams.remove_gone_clients();
            if process.announced && !process.streams.has_clients() {
                self.processes.remove(index);
            }
        }
        let first = &mut self.processes[0];
        first.streams.remove_gone_clients();
        if !first.announced && first.is_settled(now) {
            let past_deadline = first.deadline().is_some_and(|deadline| now >= deadline);
            let execs_announced = self.processes[1..].iter().all(|exec| exec.announced);
            if execs_announced || past_deadline {
                self.finish();
            }
        }
        self.connections.retain(Connection::is_open);
        if self.state.bound && !self.connections.iter().any(Connection::is_first) {
            // Once: the processes are gone when this returns, or will be.
            self.state.bound = false;
            if let Some(group) = self.group()
                && let Err(error) = group.kill_all()
            {
                warn(&format!(
                    "kill what nobody waits for in control group {}: {error}",
                    group.path()
                ));
            }
        }
    }

    fn announce_oom_kills(&mut self) {
        let kills = self
            .group()
            .and_then(|group| group.oom_kills().ok())
            .unwrap_or(0);
        if kills > self.oom_kills {
            self.oom_kills = kills;
            self.broadcast(&FromMonitor::OutOfMemory);
        }
    }

    /// The container has ended and its output is complete.
    fn finish(&mut self) {
        self.processes[0].announced = true;
        self.processes[0].streams.close_outputs();
        self.log.finish();
        self.announce_oom_kills();
        let record = ExitRecord {
            exit_code: self.processes[0].ended.map_or(0, |ended| ended.exit_code),
            oom_killed: self.oom_kills > 0,
            started_at: self.state.started_at.clone(),
            finished_at: self.finished_at.unwrap_or_else(Timestamp::now).to_string(),
        };
        if let Err(error) = write_record(&self.state.state_dir, &record) {
            // The engine, if there is one, still learns it from the message.
            warn(&format!(
                "record the exit in {}: {error}",
                self.state.state_dir.display()
            ));
        }
        self.exit = Some(record.clone());
        self.broadcast(&FromMonitor::Exited(record));
        for process in &mut self.processes {
            process.streams.close_outputs();
            process.streams.close_clients();
        }
        self.place = None;
        self.connections.clear();
    }
}

/// As a shell reports it.
fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        // Not asked to report stopped or continued children.
        (None, None) => 255,
    }
}
