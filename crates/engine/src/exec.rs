//! Further processes in running containers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_api::Error;
use berth_api::exec::{ExecConfig, ExecCreated, ExecInspect, ProcessConfig};
use berth_monitor::client;
use berth_monitor::protocol::{Attach, FromMonitor, ToMonitor};

use crate::Attachment;
use crate::container::Container;
use crate::container::attach;
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};
use crate::files;
use crate::spec::{process, security};

/// How many ended execs of a container are still known.
const KEPT: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<HashMap<String, Exec>>);

impl Execs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Exec>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug)]
struct Exec {
    container: Arc<Container>,
    config: ExecConfig,
    started: bool,
    running: bool,
    pid: i64,
    exit_code: Option<i64>,
}

fn missing(id: &str) -> Error {
    Error::not_found(format!("No such exec instance: {id}"))
}

/// "sh -c true", as the events name it.
fn words(config: &ExecConfig) -> String {
    config.cmd.join(" ")
}

impl Engine {
    pub async fn exec_create(
        &self,
        container: &str,
        config: ExecConfig,
    ) -> Result<ExecCreated, Error> {
        let container = self.find(container)?;
        check_running(&container)?;
        if config.cmd.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        attach::detach_keys(&config.detach_keys)?;
        let id =
            files::random_id().map_err(|error| Error::system(format!("make an ID: {error}")))?;
        let record = container.record().clone();
        {
            let mut execs = self.0.execs.lock();
            // Those nobody asks for any more.
            let ended: Vec<String> = execs
                .iter()
                .filter(|(_, exec)| {
                    exec.container.id == container.id && exec.started && !exec.running
                })
                .map(|(id, _)| id.clone())
                .collect();
            if ended.len() > KEPT {
                for id in ended {
                    execs.remove(&id);
                }
            }
            let exec = Exec {
                container,
                config: config.clone(),
                started: false,
                running: false,
                pid: 0,
                exit_code: None,
            };
            execs.insert(id.clone(), exec);
        }
        let action = format!("exec_create: {}", words(&config));
        self.container_event(&record, &action, &[("execID", id.clone())]);
        Ok(ExecCreated { id })
    }

    /// Starts it; `None` when detached. Sizes in columns and rows.
    pub async fn exec_start(
        &self,
        id: &str,
        detach: bool,
        tty: bool,
        size: (u16, u16),
    ) -> Result<Option<Attachment>, Error> {
        let exec = self
            .0
            .execs
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| missing(id))?;
        check_running(&exec.container)?;
        let (channel, _) = exec.container.running()?;
        {
            let mut execs = self.0.execs.lock();
            let exec = execs.get_mut(id).ok_or_else(|| missing(id))?;
            if exec.running {
                return Err(Error::conflict(format!(
                    "exec command {id} is already running"
                )));
            }
            if exec.started {
                return Err(Error::conflict(format!(
                    "Error: Exec command {id} has already run"
                )));
            }
            // Before the message: its end may be told before its start.
            exec.started = true;
            exec.running = true;
        }
        let record = exec.container.record().clone();
        let action = format!("exec_start: {}", words(&exec.config));
        self.container_event(&record, &action, &[("execID", id.to_owned())]);
        let result = self
            .exec_begin(id, &exec, &channel, detach, tty, size)
            .await;
        if result.is_err() {
            let mut execs = self.0.execs.lock();
            if let Some(exec) = execs.get_mut(id) {
                exec.running = false;
                let message = result.as_ref().err().map_or("", |error| &error.message);
                exec.exit_code = Some(exit_code_of(message));
            }
        }
        result
    }

    async fn exec_begin(
        &self,
        id: &str,
        exec: &Exec,
        channel: &crate::monitor::Channel,
        detach: bool,
        tty: bool,
        size: (u16, u16),
    ) -> Result<Option<Attachment>, Error> {
        let (engine, wanted) = (self.clone(), exec.clone());
        let (process, seccomp) = blocking(move || engine.exec_process(&wanted)).await?;
        let config = &exec.config;
        let has_seccomp = seccomp.is_some();
        let mut fds = vec![process];
        fds.extend(seccomp);
        let mut stream = None;
        let mut attach = None;
        if !detach {
            let (ours, theirs) = attach::stream_pair()?;
            stream = Some(ours);
            fds.push(theirs);
            attach = Some(Attach {
                stdin: config.attach_stdin,
                stdout: config.attach_stdout,
                stderr: config.attach_stderr,
            });
        }
        let size = match (size, config.console_size) {
            ((0, 0), Some([rows, columns])) => (
                u16::try_from(columns).unwrap_or(u16::MAX),
                u16::try_from(rows).unwrap_or(u16::MAX),
            ),
            (size, _) => size,
        };
        let (exec_id, open_stdin, with_tty) =
            (id.to_owned(), config.attach_stdin && !detach, config.tty);
        if tty != with_tty {
            tracing::debug!(exec = id, "the terminal asked for at start differs");
        }
        let answer = channel
            .ask(fds, move |request| ToMonitor::Exec {
                request,
                exec: exec_id,
                tty: with_tty,
                console_size: size,
                has_seccomp,
                open_stdin,
                attach,
            })
            .await
            .map_err(|error| {
                Error::new(
                    error.kind,
                    format!(
                        "OCI runtime exec failed: exec failed: unable to start container process: {}",
                        error.message
                    ),
                )
            })?;
        if let FromMonitor::ExecStarted { pid, .. } = answer {
            let mut execs = self.0.execs.lock();
            if let Some(exec) = execs.get_mut(id)
                && exec.running
            {
                exec.pid = i64::from(pid);
            }
        }
        let Some(stream) = stream else {
            return Ok(None);
        };
        Ok(Some(Attachment {
            tty: config.tty,
            logs: None,
            stream: Some(stream),
            detach_keys: attach::detach_keys(&config.detach_keys)?,
        }))
    }

    /// Memory files with the OCI process and the filter. Blocks.
    fn exec_process(
        &self,
        exec: &Exec,
    ) -> Result<(std::os::fd::OwnedFd, Option<std::os::fd::OwnedFd>), Error> {
        let record = exec.container.record().clone();
        let host = &self.0.host;
        let mut host_config = record.host_config.clone();
        host_config.privileged |= exec.config.privileged;
        let options = security::SecurityOptions::parse(
            host_config.security_opt.as_deref().unwrap_or_default(),
        )?;
        let capabilities = security::capabilities(&host_config, host.last_capability)?;
        let snapshot = self.0.store.snapshot(&record.id).api()?;
        let process = process::further(
            self,
            &record,
            &exec.config,
            &options,
            &capabilities,
            &snapshot,
        )?;
        let seccomp = self.0.seccomp.program(
            &options.seccomp,
            host_config.privileged,
            &capabilities,
            host.kernel,
        )?;
        let failed = |error: std::io::Error| Error::system(format!("make a memory file: {error}"));
        let json = serde_json::to_vec(&process)
            .map_err(|error| Error::system(format!("encode the OCI process: {error}")))?;
        let process = client::memory_file("process.json", &json).map_err(failed)?;
        let seccomp = match seccomp {
            Some(program) => Some(client::memory_file("seccomp", &program).map_err(failed)?),
            None => None,
        };
        Ok((process, seccomp))
    }

    pub async fn exec_resize(&self, id: &str, width: u16, height: u16) -> Result<(), Error> {
        let exec = self
            .0
            .execs
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| missing(id))?;
        let (channel, _) = exec.container.running()?;
        let exec = Some(id.to_owned());
        channel
            .ask(Vec::new(), move |request| ToMonitor::Resize {
                request,
                exec,
                width,
                height,
            })
            .await
            .map(drop)
    }

    pub async fn exec_inspect(&self, id: &str) -> Result<ExecInspect, Error> {
        self.settle_exec(id).await;
        let execs = self.0.execs.lock();
        let exec = execs.get(id).ok_or_else(|| missing(id))?;
        let config = &exec.config;
        Ok(ExecInspect {
            id: id.to_owned(),
            running: exec.running,
            exit_code: exec.exit_code,
            process_config: ProcessConfig {
                tty: config.tty,
                entrypoint: config.cmd.first().cloned().unwrap_or_default(),
                arguments: config.cmd.iter().skip(1).cloned().collect(),
                privileged: Some(config.privileged),
                user: config.user.clone(),
            },
            open_stdin: config.attach_stdin,
            open_stderr: config.attach_stderr,
            open_stdout: config.attach_stdout,
            can_remove: exec.started && !exec.running,
            container_id: exec.container.id.clone(),
            detach_keys: config.detach_keys.clone(),
            pid: exec.pid,
        })
    }

    /// Clients ask for the exit code as soon as the stream has ended. The monitor
    /// has told it before that, on another socket: once it answers here, what it
    /// said earlier has been heard.
    async fn settle_exec(&self, id: &str) {
        let running = self
            .0
            .execs
            .lock()
            .get(id)
            .filter(|exec| exec.running)
            .map(|exec| exec.container.clone());
        if let Some(container) = running
            && let Ok((channel, _)) = container.running()
        {
            let _ = channel
                .ask(Vec::new(), |request| ToMonitor::Status { request })
                .await;
        }
    }

    pub(crate) fn exec_exited(&self, container: &Container, id: &str, exit_code: i32) {
        {
            let mut execs = self.0.execs.lock();
            let Some(exec) = execs.get_mut(id) else {
                return;
            };
            exec.running = false;
            exec.exit_code = Some(i64::from(exit_code));
        }
        container.notify();
        let record = container.record().clone();
        let details = [
            ("execID", id.to_owned()),
            ("exitCode", exit_code.to_string()),
        ];
        self.container_event(&record, "exec_die", &details);
    }

    /// The exit code of an exec of ours, which nobody asks for again.
    pub(crate) async fn exec_code(&self, id: &str, patience: Duration) -> Option<i64> {
        let container = self.0.execs.lock().get(id)?.container.clone();
        let runs = || self.0.execs.lock().get(id).is_some_and(|exec| exec.running);
        let ended = container.until(|_| !runs());
        tokio::time::timeout(patience, ended).await.ok()?;
        self.0.execs.lock().remove(id)?.exit_code
    }

    /// The container has ended, and with it whatever ran in it.
    pub(crate) fn execs_ended(&self, container: &Container) {
        for exec in self.0.execs.lock().values_mut() {
            if exec.container.id == container.id && exec.running {
                exec.running = false;
                exec.exit_code = Some(137);
            }
        }
    }

    pub(crate) fn forget_execs(&self, container: &str) {
        self.0
            .execs
            .lock()
            .retain(|_, exec| exec.container.id != container);
    }

    pub(crate) fn exec_ids(&self, container: &str) -> Option<Vec<String>> {
        let execs = self.0.execs.lock();
        let list: Vec<String> = execs
            .iter()
            .filter(|(_, exec)| exec.container.id == container && exec.running)
            .map(|(id, _)| id.clone())
            .collect();
        Some(list).filter(|list| !list.is_empty())
    }
}

fn check_running(container: &Container) -> Result<(), Error> {
    let record = container.record();
    let state = &record.state;
    if !state.running {
        return Err(Error::conflict(format!(
            "container {} is not running",
            container.id
        )));
    }
    if state.paused {
        return Err(Error::conflict(format!(
            "container {} is paused, unpause the container before exec",
            container.id
        )));
    }
    if state.restarting {
        return Err(Error::conflict(format!(
            "Container {} is restarting, wait until the container is running",
            container.id
        )));
    }
    Ok(())
}

/// 127 not found, 126 not executable.
fn exit_code_of(message: &str) -> i64 {
    if ["executable file not found", "no such file or directory"]
        .iter()
        .any(|text| message.contains(text))
    {
        127
    } else {
        126
    }
}
