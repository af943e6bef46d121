//! What an engine asks of a monitor.

use std::os::fd::{AsFd, OwnedFd};

use berth_runtime_core::{Exec, Inherit, Stdio};
use berth_sys::signals;
use oci_spec::runtime::Process as ProcessSpec;

use super::Failed;
use super::process::Process;
use super::serve::Container;
use super::start::{read_json, read_seccomp};
use super::streams::Streams;
use crate::protocol::{Attach, Failure, FromMonitor, ToMonitor, VERSION};

/// The number of a request that was not understood otherwise.
#[derive(serde::Deserialize)]
struct Numbered {
    #[serde(default)]
    request: u64,
}

/// [`ToMonitor::Exec`] without its number.
struct ExecRequest {
    exec: String,
    tty: bool,
    console_size: (u16, u16),
    has_seccomp: bool,
    open_stdin: bool,
    attach: Option<Attach>,
}

impl Container {
    /// Serves one request and says what to answer.
    pub(super) fn answer(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> FromMonitor {
        let message = match serde_json::from_slice(bytes) {
            Ok(message) => message,
            Err(error) => {
                let request =
                    serde_json::from_slice(bytes).map_or(0, |numbered: Numbered| numbered.request);
                return FromMonitor::Failed {
                    request,
                    kind: Failure::Invalid,
                    message: format!("this monitor does not understand the message: {error}"),
                };
            }
        };
        let (request, result) = match message {
            ToMonitor::Status { request } => (request, Ok(self.status(request))),
            ToMonitor::Attach { request, attach } => (
                request,
                self.attach(attach, fds)
                    .map(|()| FromMonitor::Done { request }),
            ),
            ToMonitor::Resize {
                request,
                exec,
                width,
                height,
            } => (
                request,
                self.resize(exec.as_deref(), width, height)
                    .map(|()| FromMonitor::Done { request }),
            ),
            ToMonitor::Kill {
                request,
                exec,
                signal,
            } => (
                request,
                self.kill(exec.as_deref(), signal)
                    .map(|()| FromMonitor::Done { request }),
            ),
            ToMonitor::KillAll { request } => (
                request,
                self.kill_all().map(|()| FromMonitor::Done { request }),
            ),
            ToMonitor::Exec {
                request,
                exec,
                tty,
                console_size,
                has_seccomp,
                open_stdin,
                attach,
            } => {
                let exec = ExecRequest {
                    exec,
                    tty,
                    console_size,
                    has_seccomp,
                    open_stdin,
                    attach,
                };
                (
                    request,
                    self.exec(exec, fds)
                        .map(|pid| FromMonitor::ExecStarted { request, pid }),
                )
            }
            ToMonitor::SetLog { request, log } => (
                request,
                self.log
                    .change(&log)
                    .map(|()| FromMonitor::Done { request })
                    .map_err(|error| Failed::system("open the log", error)),
            ),
        };
        result.unwrap_or_else(|Failed { kind, message }| FromMonitor::Failed {
            request,
            kind,
            message,
        })
    }

    fn status(&self, request: u64) -> FromMonitor {
        let execs = self.processes[1..]
            .iter()
            .filter(|process| process.is_running());
        FromMonitor::Status {
            request,
            version: VERSION,
            pid: self.processes[0].pid,
            started_at: self.state.started_at.clone(),
            execs: execs
                .filter_map(|process| Some((process.exec.clone()?, process.pid)))
                .collect(),
            exit: self.exit.clone(),
        }
    }

    /// The first process, or the exec's, if it is still running.
    fn running(&mut self, exec: Option<&str>) -> Result<&mut Process, Failed> {
        let process = match exec {
            None => self.processes.first_mut(),
            Some(id) => self
                .processes
                .iter_mut()
                .find(|process| process.exec.as_deref() == Some(id)),
        };
        process
            .filter(|process| process.is_running())
            .ok_or_else(|| {
                Failed::conflict(match exec {
                    None => "the container is not running".to_owned(),
                    Some(id) => format!("exec {id} is not running"),
                })
            })
    }

    fn attach(&mut self, attach: Attach, fds: Vec<OwnedFd>) -> Result<(), Failed> {
        let socket = fds
            .into_iter()
            .next()
            .ok_or_else(|| Failed::invalid("the attach message has no descriptor"))?;
        self.running(None)?.streams.attach(socket, attach);
        Ok(())
    }

    fn resize(&mut self, exec: Option<&str>, width: u16, height: u16) -> Result<(), Failed> {
        match self.running(exec)?.streams.resize(width, height) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failed::conflict("there is no terminal to resize")),
            Err(error) => Err(Failed::system("resize the terminal", error)),
        }
    }

    fn kill(&mut self, exec: Option<&str>, signal: i32) -> Result<(), Failed> {
        let process = self.running(exec)?;
        signals::send_signal(&process.pidfd, signal).map_err(|error| match error.raw_os_error() {
            // It has ended and is about to be reaped.
            Some(libc::ESRCH) => Failed::conflict("the process has ended"),
            Some(libc::EINVAL) => Failed::invalid(format!("there is no signal {signal}")),
            _ => Failed::system(&format!("send signal {signal}"), error),
        })
    }

    fn kill_all(&mut self) -> Result<(), Failed> {
        self.running(None)?;
        let group = self
            .group()
            .ok_or_else(|| Failed::conflict("the container is not running"))?;
        group
            .kill_all()
            .map_err(|error| Failed::system("kill all processes", error))
    }

    fn exec(&mut self, request: ExecRequest, fds: Vec<OwnedFd>) -> Result<u32, Failed> {
        if self
            .processes
            .iter()
            .any(|process| process.exec.as_ref() == Some(&request.exec))
        {
            return Err(Failed::conflict(format!(
                "exec {} exists already",
                request.exec
            )));
        }
        let mut fds = fds.into_iter();
        let mut next = |name: &str| {
            fds.next().ok_or_else(|| {
                Failed::invalid(format!("the exec message lacks the descriptor of {name}"))
            })
        };
        let spec: ProcessSpec = read_json("process", &next("the process")?)?;
        let seccomp = if request.has_seccomp {
            Some(read_seccomp(&next("the seccomp program")?)?)
        } else {
            None
        };
        let attached = match request.attach {
            Some(attach) => Some((next("the attached stream")?, attach)),
            None => None,
        };

        self.running(None)?;
        let first = &self.processes[0];
        let pipes = if request.tty {
            None
        } else {
            // An exec has one client, whose end of input is the process's.
            let pipes = Streams::pipes(request.open_stdin, true);
            Some(pipes.map_err(|error| Failed::system("make pipes", error))?)
        };
        let started = berth_runtime_core::exec(&Exec {
            pid: first.pid,
            pidfd: first.pidfd.as_fd(),
            process: &spec,
            linux: None,
            stdio: match &pipes {
                Some((_, child)) => Stdio::Fds(child.fds()),
                None => {
                    let (width, height) = request.console_size;
                    Stdio::Terminal { width, height }
                }
            },
            cgroup: self.group(),
            below: &[],
            seccomp: seccomp.as_ref(),
            listener: None,
            rdt: None,
            inherit: Inherit::default(),
        })?;
        let mut streams = match (pipes, started.console) {
            (Some((streams, _)), _) => streams,
            (None, Some(console)) => Streams::terminal(console, request.open_stdin)
                .map_err(|error| Failed::system("prepare the terminal", error))?,
            (None, None) => return Err(Failed::system("prepare the terminal", "there is none")),
        };
        if let Some((socket, attach)) = attached {
            streams.attach(socket, attach);
        }
        self.processes.push(Process::new(
            Some(request.exec),
            started.pid,
            started.pidfd,
            streams,
        ));
        Ok(started.pid)
    }
}
