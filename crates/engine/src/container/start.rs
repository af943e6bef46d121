//! From a record to a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use berth_api::{Error, Kind};
use berth_monitor::client;
use berth_monitor::protocol::{Attach, Failure, Log, Start};
use berth_monitor::steps::{Clock, Step};
use berth_sys::socket;

use super::{Container, Record};
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, io};
use crate::{health, logs, monitor, recover, rootfs, spec};

impl Engine {
    /// `NotModified` when it runs already.
    pub async fn container_start(&self, name: &str) -> Result<(), Error> {
        let container = self.find(name)?;
        check_startable(&container.record())?;
        {
            let mut record = container.record();
            record.stopped_by_hand = false;
            record.restart_count = 0;
        }
        self.start(&container).await
    }

    /// Starts a container that does not run.
    pub(crate) async fn start(&self, container: &Arc<Container>) -> Result<(), Error> {
        self.start_if(container, check_startable).await
    }

    /// The next start by policy, unless the container was stopped while it
    /// waited for that.
    pub(crate) async fn start_again(&self, container: &Arc<Container>) -> Result<(), Error> {
        let waits = |record: &Record| {
            if record.state.restarting {
                Ok(())
            } else {
                Err(Error::conflict("it was stopped before its next start"))
            }
        };
        self.start_if(container, waits).await
    }

    async fn start_if(
        &self,
        container: &Arc<Container>,
        startable: impl FnOnce(&Record) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let result = {
            let _gate = container.gate.lock().await;
            // The monitor of the last run may still be cleaning up.
            container.until(|c| c.live().channel.is_none()).await;
            startable(&container.record())?;
            self.begin(container).await
        };
        let Err(error) = result else { return Ok(()) };
        let kept = container.live().keep;
        if container.record().host_config.auto_remove && !kept {
            container.notify_exit(&[]);
            if let Err(error) = self.remove(container, true, true).await {
                tracing::warn!(container = container.id, "{error}");
            }
        }
        Err(error)
    }

    async fn begin(&self, container: &Arc<Container>) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::system(format!("open a channel: {error}"));
        let (ours, theirs) = socket::seqpacket_pair().map_err(|error| failed(error.into()))?;
        let (channel, first) = monitor::serve(self, container, ours).map_err(failed)?;
        let pending = {
            let mut live = container.live();
            live.channel = Some(channel);
            std::mem::take(&mut live.pending)
        };
        let sent = {
            let (engine, container) = (self.clone(), container.clone());
            let asked = Clock::start();
            blocking(move || engine.hand_over(&container, &theirs, &pending, asked)).await
        };
        let begun = match sent {
            Ok(mut clock) => match first.await {
                Ok(Ok(steps)) => {
                    clock.extend(steps);
                    clock.mark("engine: messages and record");
                    log_steps(container, &clock.into_steps());
                    Ok(())
                }
                Ok(Err(failure)) => {
                    if failure.is_none() {
                        // It was killed, and cleaned nothing up.
                        let (engine, same) = (self.clone(), container.clone());
                        blocking(move || {
                            recover::clean_up(&engine, &same);
                            Ok(())
                        })
                        .await?;
                    }
                    Err(start_failure(failure))
                }
                // Nobody listens to the monitor any more, which goes on: the
                // next engine finds what became of the container.
                Err(_) => return Err(Error::system("the engine is shutting down")),
            },
            Err(error) => Err((error, 128)),
        };
        let Err((error, exit_code)) = begun else {
            return Ok(());
        };
        // The pending streams were closed with the monitor's copies.
        self.release_network(container).await;
        container.live().channel = None;
        container.change_logged(|record| {
            let state = &mut record.state;
            state.running = false;
            state.restarting = false;
            state.pid = 0;
            state.exit_code = exit_code;
            state.error.clone_from(&error.message);
        });
        container.notify_exit(&[]);
        Err(error)
    }

    /// Everything before the launcher: network, files, specification, system
    /// call filter. Blocks.
    fn hand_over(
        &self,
        container: &Container,
        channel: &OwnedFd,
        pending: &[(OwnedFd, Attach)],
        mut clock: Clock,
    ) -> Result<Clock, Error> {
        clock.mark("engine: wait for a thread");
        let record = container.record().clone();
        let network = self.connect_network(container, &record)?;
        clock.mark("engine: network");
        // The connection may have added the endpoint.
        let record = container.record().clone();
        self.write_network_files(container, &record)?;
        clock.mark("engine: hosts and resolv.conf");
        let snapshot = self.0.store.snapshot(&record.id).api()?;
        let built = spec::build(self, container, &record, &snapshot)?;
        let config = serde_json::to_vec(&built.spec)
            .map_err(|error| Error::system(format!("encode the OCI configuration: {error}")))?;
        let memory = |name: &str, bytes: &[u8]| {
            client::memory_file(name, bytes)
                .map_err(|error| Error::system(format!("make a memory file: {error}")))
        };
        let config = memory("config.json", &config)?;
        let seccomp = match &built.seccomp {
            Some(program) => Some(memory("seccomp", program)?),
            None => None,
        };
        let shm = self.shared_memory(&record)?;
        clock.mark("engine: specification");
        // What is there now is about an earlier run.
        let _ = std::fs::remove_file(container.file(client::EXIT_FILE));

        let mut fds: Vec<BorrowedFd<'_>> = vec![channel.as_fd(), config.as_fd()];
        fds.extend(seccomp.iter().map(AsFd::as_fd));
        fds.extend(network.iter().map(AsFd::as_fd));
        fds.extend(shm.iter().map(AsFd::as_fd));
        // More than a message carries: the last ones are let go.
        let room = socket::MAX_FDS - fds.len();
        let attached = &pending[..pending.len().min(room)];
        fds.extend(attached.iter().map(|(fd, _)| fd.as_fd()));
        let [rows, columns] = record.host_config.console_size;
        let start = Start {
            id: record.id.clone(),
            run_dir: self.run_dir(&record.id),
            state_dir: container.dir.clone(),
            root: rootfs::describe(&snapshot),
            cgroup: self.cgroup_path(&record.host_config.cgroup_parent, &record.id),
            has_seccomp: seccomp.is_some(),
            has_network: network.is_some(),
            has_shm: shm.is_some(),
            init: spec::has_init(self, &record.host_config),
            tty: record.config.tty,
            console_size: (clamp(columns), clamp(rows)),
            open_stdin: record.config.open_stdin,
            stdin_once: record.config.stdin_once,
            log: log_target(container, &record)?,
            attach: attached.iter().map(|(_, attach)| *attach).collect(),
            bound: false,
            trees: Vec::new(),
            has_tree: false,
        };
        self.0.launcher.start(start, &fds)?;
        clock.mark("engine: send");
        Ok(clock)
    }

    /// The mount namespace of the container whose /dev/shm is shared.
    fn shared_memory(&self, record: &Record) -> Result<Option<OwnedFd>, Error> {
        let Some(other) = record.host_config.ipc_mode.strip_prefix("container:") else {
            return Ok(None);
        };
        let pid = self.pid_to_share_ipc(other)?;
        let path = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
        let namespace = std::fs::File::open(&path).map_err(|error| io("open", &path, &error))?;
        // Still the same process: not a stranger's who got its number.
        if self.pid_to_share_ipc(other)? == pid {
            Ok(Some(namespace.into()))
        } else {
            Err(Error::conflict(format!(
                "failed to join IPC namespace: container {other} is not running"
            )))
        }
    }

    /// The monitor says that the program has been executed.
    pub(crate) fn started(&self, container: &Arc<Container>, pid: u32, started_at: &str) {
        let record = container.change_logged(|record| {
            record.state.health = health::fresh(record);
            let state = &mut record.state;
            state.running = true;
            state.restarting = false;
            state.paused = false;
            state.oom_killed = false;
            state.pid = i64::from(pid);
            state.exit_code = 0;
            state.error.clear();
            state.started_at = started_at.to_owned();
            record.clone()
        });
        let record = record.unwrap_or_else(|| container.record().clone());
        if let Some(network) = self.0.networks.identify(record.network()) {
            self.network_event(network, &record.id, "connect");
        }
        self.container_event(&record, "start", &[]);
        self.update_health(container);
    }
}

/// Costs nothing unless someone reads it.
fn log_steps(container: &Container, steps: &[Step]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let list: Vec<_> = steps
        .iter()
        .map(|(name, micros)| format!("{name}={micros}us"))
        .collect();
    tracing::debug!(container = container.id, "start steps: {}", list.join(", "));
}

fn check_startable(record: &Record) -> Result<(), Error> {
    let state = &record.state;
    if state.paused {
        return Err(Error::conflict(
            "cannot start a paused container, try unpause instead",
        ));
    }
    if state.running {
        return Err(Error::new(
            Kind::NotModified,
            format!("container {} is already running", record.id),
        ));
    }
    if state.removing || state.dead {
        return Err(Error::conflict(
            "container is marked for removal and cannot be started",
        ));
    }
    Ok(())
}

/// Docker's words around the runtime's, and the exit code they stand for.
fn start_failure(failure: Option<(Failure, String)>) -> (Error, i64) {
    let Some((failure, message)) = failure else {
        let error = Error::system(
            "failed to create task for container: the monitor ended before the container started",
        );
        return (error, 128);
    };
    let (kind, exit_code) = match failure {
        Failure::NotFound => (Kind::Invalid, 127),
        Failure::NotExecutable => (Kind::Invalid, 126),
        Failure::Invalid => (Kind::Invalid, 128),
        Failure::Conflict => (Kind::Conflict, 128),
        Failure::System => (Kind::System, 128),
    };
    // Docker looks users up by itself, before it asks a runtime for anything.
    if [
        "unable to find user ",
        "unable to find group ",
        "uids and gids must be ",
    ]
    .iter()
    .any(|words| message.starts_with(words))
    {
        return (Error::new(kind, message), exit_code);
    }
    let message = format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: {message}"
    );
    (Error::new(kind, message), exit_code)
}

fn log_target(container: &Container, record: &Record) -> Result<Log, Error> {
    let options = logs::Options::parse(&record.host_config.log_config)?;
    if options.none {
        return Ok(Log::None);
    }
    Ok(Log::JsonFile {
        path: container.log_path(),
        max_size: options.max_size,
        max_files: options.max_files,
        compress: options.compress,
        attributes: options.attributes(record)?,
    })
}

fn clamp(size: u32) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_dockers_status_and_code() {
        let not_found = "exec: \"foo\": executable file not found in $PATH";
        let (error, code) = start_failure(Some((Failure::NotFound, not_found.into())));
        assert_eq!((error.kind, code), (Kind::Invalid, 127));
        assert!(error.message.ends_with(not_found));
        assert!(error.message.contains("OCI runtime create failed"));
        assert_eq!(
            start_failure(Some((Failure::NotExecutable, String::new()))).1,
            126
        );
        assert_eq!(start_failure(None).0.kind, Kind::System);
    }
}
