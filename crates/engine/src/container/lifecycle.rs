//! Stop, kill, pause, rename, resize; what happens when a container ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_api::{Error, Kind};
use berth_cgroup::Cgroup;
use berth_monitor::protocol::{ExitRecord, ToMonitor};

use super::{Container, Record, names, restart};
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};
use crate::{recover, signals, time};

impl Engine {
    /// `timeout` in seconds, negative = wait for ever; `NotModified` when it is
    /// stopped already.
    pub async fn container_stop(
        &self,
        name: &str,
        signal: &str,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let container = self.find(name)?;
        if !container.record().state.running {
            return Err(Error::new(
                Kind::NotModified,
                format!("container {} is already stopped", container.id),
            ));
        }
        self.stop(&container, signal, timeout).await
    }

    pub(crate) async fn stop(
        &self,
        container: &Arc<Container>,
        signal: &str,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let (signal, timeout) = {
            let record = container.record();
            let config = &record.config;
            let signal = match (signal, config.stop_signal.as_str()) {
                ("", "") => "SIGTERM",
                ("", own) => own,
                (given, _) => given,
            };
            let timeout = timeout
                .or(config.stop_timeout)
                .unwrap_or(self.0.config.default_stop_timeout);
            (signals::parse(signal)?, timeout)
        };
        // The signal may come too late; then it is stopped, which is wanted.
        if let Err(error) = self.signal(container, signal, true).await
            && error.kind != Kind::Conflict
        {
            return Err(error);
        }
        let stopped = container.until(|c| !c.record().state.running);
        match u64::try_from(timeout) {
            Err(_) => stopped.await,
            Ok(seconds) => {
                let in_time = tokio::time::timeout(Duration::from_secs(seconds), stopped).await;
                if in_time.is_err() {
                    tracing::info!(
                        container = container.id,
                        "still runs {seconds} s after signal {signal}, killing it"
                    );
                    self.kill_and_wait(container).await?;
                }
            }
        }
        let record = container.record().clone();
        self.container_event(&record, "stop", &[]);
        Ok(())
    }

    pub async fn container_restart(
        &self,
        name: &str,
        signal: &str,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let container = self.find(name)?;
        // Restarting is no end: an automatic removal must not come between.
        container.live().keep = true;
        let result = async {
            if container.record().state.running {
                self.stop(&container, signal, timeout).await?;
            }
            {
                let mut record = container.record();
                record.stopped_by_hand = false;
                record.restart_count = 0;
            }
            self.start(&container).await
        }
        .await;
        container.live().keep = false;
        if result.is_err() && !container.record().state.running {
            self.after_end(&container);
        }
        result?;
        let record = container.record().clone();
        self.container_event(&record, "restart", &[]);
        Ok(())
    }

    /// Signal by name ("SIGKILL", "KILL") or number; empty = SIGKILL.
    pub async fn container_kill(&self, name: &str, signal: &str) -> Result<(), Error> {
        let signal = match signal {
            "" | "0" => libc::SIGKILL,
            text => signals::parse(text)?,
        };
        let container = self.find(name)?;
        let result = if signal == libc::SIGKILL {
            self.kill_and_wait(&container).await
        } else {
            let is_stop = {
                let record = container.record();
                let own = match record.config.stop_signal.as_str() {
                    "" => Ok(libc::SIGTERM),
                    own => signals::parse(own),
                };
                own.is_ok_and(|own| own == signal)
            };
            self.signal(&container, signal, is_stop).await
        };
        result.map_err(|error| {
            Error::new(
                error.kind,
                format!("cannot kill container: {name}: {}", error.message),
            )
        })
    }

    /// SIGKILL, and the end of it. No error when it ends by itself meanwhile.
    pub(crate) async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<(), Error> {
        let ran = container.record().state.running;
        if let Err(error) = self.signal(container, libc::SIGKILL, true).await
            && (!ran || container.record().state.running)
        {
            return Err(error);
        }
        container.until(|c| !c.record().state.running).await;
        Ok(())
    }

    /// `by_hand`: a person wants it stopped, so no policy starts it again.
    async fn signal(
        &self,
        container: &Arc<Container>,
        signal: i32,
        by_hand: bool,
    ) -> Result<(), Error> {
        if by_hand {
            let restarting = container.record().state.restarting;
            // A start under way by policy comes to its end first: then there is
            // a process to signal, or none will come.
            let _gate = match restarting {
                true => Some(container.gate.lock().await),
                false => None,
            };
            let cancelled = container.change(|record| {
                record.stopped_by_hand = record.state.running;
                // No process to signal: the wait for the next start ends here.
                let waiting = record.state.restarting;
                if waiting {
                    record.state.restarting = false;
                    record.state.running = false;
                }
                waiting
            })?;
            if cancelled {
                container.notify_exit(&[]);
                return Ok(());
            }
        }
        let (channel, _) = container.running()?;
        channel
            .ask(Vec::new(), move |request| ToMonitor::Kill {
                request,
                exec: None,
                signal,
            })
            .await?;
        if container.record().state.paused && (by_hand || signal == libc::SIGKILL) {
            // A frozen process dies only when it is thawed.
            self.thaw(container).await?;
        }
        let record = container.record().clone();
        self.container_event(&record, "kill", &[("signal", signal.to_string())]);
        Ok(())
    }

    pub async fn container_pause(&self, name: &str) -> Result<(), Error> {
        let container = self.find(name)?;
        let _gate = container.gate.lock().await;
        {
            let record = container.record();
            if record.state.restarting {
                return Err(Error::conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            if record.state.paused {
                return Err(Error::conflict(format!(
                    "Container {} is already paused",
                    container.id
                )));
            }
        }
        container.running()?;
        let cgroup = self.cgroup(&container.record());
        blocking(move || cgroup.freeze().api()).await?;
        let record = container.change(|record| {
            record.state.paused = record.state.running;
            record.clone()
        })?;
        self.update_health(&container);
        self.container_event(&record, "pause", &[]);
        Ok(())
    }

    pub async fn container_unpause(&self, name: &str) -> Result<(), Error> {
        let container = self.find(name)?;
        let _gate = container.gate.lock().await;
        if !container.record().state.paused {
            return Err(Error::conflict(format!(
                "Container {} is not paused",
                container.id
            )));
        }
        self.thaw(&container).await
    }

    async fn thaw(&self, container: &Arc<Container>) -> Result<(), Error> {
        let cgroup = self.cgroup(&container.record());
        blocking(move || cgroup.thaw().api()).await?;
        let record = container.change(|record| {
            record.state.paused = false;
            record.clone()
        })?;
        self.update_health(container);
        self.container_event(&record, "unpause", &[]);
        Ok(())
    }

    pub(crate) fn cgroup(&self, record: &Record) -> Cgroup {
        Cgroup::open(
            &self.0.cgroups,
            &self.cgroup_path(&record.host_config.cgroup_parent, &record.id),
        )
    }

    pub async fn container_rename(&self, name: &str, new: &str) -> Result<(), Error> {
        if name.is_empty() || new.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let container = self.find(name)?;
        let new = names::check(new)?;
        let _gate = container.gate.lock().await;
        // A removal may have come first; the name would be taken for ever.
        if container.record().state.removing {
            return Err(Error::not_found(format!("No such container: {name}")));
        }
        let old = container.record().name.clone();
        if old == new {
            return Err(Error::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        self.index_mut().reserve(new, &container.id)?;
        let renamed = container.change(|record| {
            new.clone_into(&mut record.name);
            record.clone()
        });
        let record = match renamed {
            Ok(record) => record,
            Err(error) => {
                container.record().name = old;
                self.index_mut().release(new, &container.id);
                return Err(error);
            }
        };
        self.index_mut().release(&old, &container.id);
        self.container_event(&record, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    pub async fn container_resize(&self, name: &str, width: u16, height: u16) -> Result<(), Error> {
        let container = self.find(name)?;
        let (channel, _) = container.running()?;
        channel
            .ask(Vec::new(), move |request| ToMonitor::Resize {
                request,
                exec: None,
                width,
                height,
            })
            .await?;
        let record = container.record().clone();
        let size = [("height", height.to_string()), ("width", width.to_string())];
        self.container_event(&record, "resize", &size);
        Ok(())
    }

    /// The container has ended; its record is on disk.
    pub(crate) fn exited(&self, container: &Arc<Container>, exit: &ExitRecord) {
        let closing = self.closing();
        let record = container.change_logged(|record| {
            let again = !closing
                && restart::wanted(
                    &record.host_config.restart_policy,
                    i64::from(exit.exit_code),
                    record.restart_count,
                    record.stopped_by_hand,
                );
            apply_exit(record, exit, again);
            record.clone()
        });
        let record = record.unwrap_or_else(|| container.record().clone());
        self.update_health(container);
        self.execs_ended(container);
        let ran = ran(exit);
        let details = [
            ("exitCode", exit.exit_code.to_string()),
            ("execDuration", ran.as_secs().to_string()),
        ];
        self.container_event(&record, "die", &details);
        container.notify_exit(&[]);
    }

    /// The monitor has removed the control group and closed: the container may
    /// be started again, or go away.
    pub(crate) async fn monitor_gone(&self, container: &Arc<Container>, exited: bool) {
        if !exited {
            // It lets go of an engine that is too slow to read; then it is there.
            if !self.closing() && recover::adopt(self, container, Instant::now()).await {
                return;
            }
            tracing::warn!(container = container.id, "the monitor ended without a word");
            let engine = self.clone();
            let same = container.clone();
            let exit = blocking(move || Ok(recover::bury(&engine, &same))).await;
            if let Ok(exit) = exit {
                self.exited(container, &exit);
            }
        }
        self.release_network(container).await;
        let kept = {
            let mut live = container.live();
            live.channel = None;
            live.keep
        };
        container.notify();
        if !kept {
            self.after_end(container);
        }
    }

    /// The next start, or the removal, that follows an end by itself.
    pub(crate) fn after_end(&self, container: &Arc<Container>) {
        if self.closing() {
            return;
        }
        let (restarting, auto_remove, ran) = {
            let record = container.record();
            let ran = ran(&ExitRecord {
                exit_code: 0,
                oom_killed: false,
                started_at: record.state.started_at.clone(),
                finished_at: record.state.finished_at.clone(),
            });
            let state = &record.state;
            (state.restarting, record.host_config.auto_remove, ran)
        };
        let (engine, container) = (self.clone(), container.clone());
        if restarting {
            let pause = container.live().restarts.next(ran);
            tokio::spawn(async move { engine.restart_after(&container, pause).await });
        } else if auto_remove {
            tokio::spawn(async move {
                if let Err(error) = engine.remove(&container, true, true).await
                    && error.kind != Kind::Conflict
                {
                    tracing::warn!(container = container.id, "{error}");
                }
            });
        }
    }

    async fn restart_after(&self, container: &Arc<Container>, pause: Duration) {
        let cancelled = container.until(|c| !c.record().state.restarting);
        if tokio::time::timeout(pause, cancelled).await.is_ok() || self.closing() {
            return;
        }
        container.record().restart_count += 1;
        if let Err(error) = self.start_again(container).await {
            tracing::warn!(container = container.id, "start again by policy: {error}");
        }
    }
}

impl Container {
    /// Answers those who wait for an end, with `more` conditions if need be.
    pub(crate) fn notify_exit(&self, more: &[berth_api::container::WaitCondition]) {
        use berth_api::container::{WaitCondition, WaitError, WaitResponse};
        let (code, error) = {
            let record = self.record();
            (record.state.exit_code, record.state.error.clone())
        };
        let mut waiters = std::mem::take(&mut self.live().waiters);
        let (told, kept) = waiters.drain(..).partition::<Vec<_>, _>(|(condition, _)| {
            matches!(
                condition,
                WaitCondition::NotRunning | WaitCondition::NextExit
            ) || more.contains(condition)
        });
        self.live().waiters.extend(kept);
        for (_, reply) in told {
            let _ = reply.send(WaitResponse {
                error: (!error.is_empty()).then(|| WaitError {
                    message: error.clone(),
                }),
                status_code: code,
            });
        }
        self.notify();
    }
}

fn apply_exit(record: &mut Record, exit: &ExitRecord, again: bool) {
    let state = &mut record.state;
    state.running = again;
    state.restarting = again;
    state.paused = false;
    state.pid = 0;
    state.exit_code = i64::from(exit.exit_code);
    state.oom_killed = exit.oom_killed;
    state.started_at.clone_from(&exit.started_at);
    state.finished_at.clone_from(&exit.finished_at);
}

fn ran(exit: &ExitRecord) -> Duration {
    match (
        time::parse(&exit.started_at),
        time::parse(&exit.finished_at),
    ) {
        (Some(start), Some(end)) => {
            Duration::try_from(end.duration_since(start)).unwrap_or_default()
        }
        _ => Duration::ZERO,
    }
}
