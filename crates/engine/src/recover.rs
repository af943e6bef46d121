//! What an engine finds when it opens: monitors that went on, containers that
//! ended meanwhile, leftovers of a crash.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_api::Error;
use berth_monitor::client;
use berth_monitor::protocol::{ExitRecord, FromMonitor, ToMonitor};
use berth_monitor::sweep;

use crate::container::{self, Container};
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, io};
use crate::{build, files, health, monitor, time};

/// How long a monitor that is alive may take to listen and to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one that was just forked may take to show that it is; and one that
/// was killed, to be gone.
const MOMENT: Duration = Duration::from_millis(300);

/// Docker's code for a container that ended while nobody looked.
const UNKNOWN_EXIT: i32 = 255;

pub(crate) async fn recover(engine: &Engine) -> Result<(), Error> {
    let loading = engine.clone();
    let containers = blocking(move || load(&loading)).await?;
    for container in &containers {
        let name = container.record().name.clone();
        // Two with one name: cannot happen, but must not stop the engine.
        if let Err(error) = engine.index_mut().reserve(&name, &container.id) {
            tracing::error!(container = container.id, "{error}");
        }
        engine.index_mut().insert(container.clone());
    }
    let mut ended = Vec::new();
    // One for all: those that were killed are not waited for one by one.
    let deadline = Instant::now() + MOMENT;
    for container in &containers {
        if !adopt(engine, container, deadline).await {
            ended.push(container.clone());
        }
    }
    let (collecting, dead) = (engine.clone(), ended.clone());
    let changed = blocking(move || {
        let changed = dead
            .iter()
            .filter(|container| settle(&collecting, container))
            .cloned()
            .collect::<Vec<_>>();
        collect(&collecting);
        Ok(changed)
    })
    .await?;
    for container in &ended {
        let wanted = {
            let record = container.record();
            let policy = record.host_config.restart_policy.name.as_str();
            record.state.restarting
                || policy == "always"
                || (policy == "unless-stopped" && !record.stopped_by_hand)
        };
        let was_started = container.record().state.started_at != time::NEVER;
        if wanted && was_started {
            let (engine, container) = (engine.clone(), container.clone());
            container.record().state.restarting = true;
            tokio::spawn(async move {
                if let Err(error) = engine.start_again(&container).await {
                    tracing::warn!(container = container.id, "start by policy: {error}");
                }
            });
        } else if changed.iter().any(|other| other.id == container.id)
            || (was_started && container.record().host_config.auto_remove)
        {
            engine.after_end(container);
        }
    }
    Ok(())
}

/// Reads all containers; half-made and half-removed ones go.
fn load(engine: &Engine) -> Result<Vec<Arc<Container>>, Error> {
    let dir = engine.containers_dir();
    let mut list = Vec::new();
    let entries = std::fs::read_dir(&dir).map_err(|error| io("read", &dir, &error))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            if let Err(error) = std::fs::remove_dir_all(&path) {
                tracing::warn!("remove {}: {error}", path.display());
            }
            continue;
        }
        if !files::is_id(&name) {
            continue;
        }
        match container::load(&path) {
            Ok(container) => {
                container.record().state.removing = false;
                list.push(Arc::new(container));
            }
            // Kept for a person to look at.
            Err(error) => tracing::error!("{error}"),
        }
    }
    Ok(list)
}

/// Connects to a container's monitor; false when there is none, nor one that
/// shows by the deadline.
pub(crate) async fn adopt(engine: &Engine, container: &Arc<Container>, deadline: Instant) -> bool {
    let run_dir = engine.run_dir(&container.id);
    let latest = Instant::now() + PATIENCE;
    let socket = loop {
        if !run_dir.exists() {
            return false;
        }
        if let Ok(socket) = client::connect(&run_dir, client::MONITOR_SOCKET) {
            break socket;
        }
        let end = if sweep::has_monitor(&run_dir) {
            latest
        } else {
            deadline
        };
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let Ok((channel, _begun)) = monitor::serve(engine, container, socket) else {
        return false;
    };
    container.live().channel = Some(channel.clone());
    let asked = channel.ask(Vec::new(), |request| ToMonitor::Status { request });
    let Ok(answer) = tokio::time::timeout(PATIENCE, asked).await else {
        tracing::warn!(
            container = container.id,
            "the monitor does not answer; the container's state is taken as it was"
        );
        return true;
    };
    let Ok(FromMonitor::Status {
        pid,
        started_at,
        exit,
        ..
    }) = answer
    else {
        container.live().channel = None;
        return false;
    };
    if let Some(exit) = exit {
        // It has ended and cleans up; the end of the connection follows.
        engine.exited(container, &exit);
        return true;
    }
    let bridge = engine.0.networks.bridge();
    let endpoint = container.record().endpoint.clone();
    if let (Some(bridge), Some(endpoint)) = (bridge, &endpoint)
        && let Err(error) = engine.0.manager.adopt(&bridge.id, endpoint)
    {
        tracing::warn!(container = container.id, "{error}");
    }
    let cgroup = engine.cgroup(&container.record());
    let paused = blocking(move || cgroup.is_frozen().api())
        .await
        .unwrap_or(false);
    container.change_logged(|record| {
        let state = &mut record.state;
        state.running = true;
        state.restarting = false;
        state.paused = paused;
        state.pid = i64::from(pid);
        state.started_at = started_at;
        if record.state.health.is_none() {
            record.state.health = health::fresh(record);
        }
    });
    engine.update_health(container);
    true
}

/// The truth about a container without a monitor; true when it had changed.
fn settle(engine: &Engine, container: &Arc<Container>) -> bool {
    let (running, restarting, started_at, endpoint) = {
        let record = container.record();
        let state = &record.state;
        (
            state.running,
            state.restarting,
            state.started_at.clone(),
            record.endpoint.clone(),
        )
    };
    let exit = recorded_exit(&container.dir)
        // Of a run that this record does not know of, or has not seen end.
        .filter(|exit| (running && !restarting) || exit.started_at != started_at);
    let leftover = engine.run_dir(&container.id).exists();
    let changed = exit.is_some() || (running && !restarting) || leftover;
    if leftover || (running && !restarting) {
        clean_up(engine, container);
    }
    match exit {
        Some(exit) => engine.exited(container, &exit),
        None if running && !restarting => {
            let exit = ExitRecord {
                exit_code: UNKNOWN_EXIT,
                oom_killed: false,
                started_at,
                finished_at: time::now(),
            };
            engine.exited(container, &exit);
        }
        None => {}
    }
    if let Some(endpoint) = endpoint {
        if let Err(error) = engine.release_endpoint(&endpoint) {
            tracing::warn!(container = container.id, "{error}");
        }
        container.change_logged(|record| record.endpoint = None);
    }
    changed
}

/// A container whose monitor was killed: its processes and groups go, and this
/// is how it ended. Blocks.
pub(crate) fn bury(engine: &Engine, container: &Arc<Container>) -> ExitRecord {
    clean_up(engine, container);
    let started_at = container.record().state.started_at.clone();
    recorded_exit(&container.dir)
        .filter(|exit| exit.started_at == started_at)
        .unwrap_or_else(|| ExitRecord {
            exit_code: 128 + libc::SIGKILL,
            oom_killed: false,
            started_at,
            finished_at: time::now(),
        })
}

/// Ends what is left of a run whose monitor is gone. Blocks.
pub(crate) fn clean_up(engine: &Engine, container: &Container) {
    let parent = container.record().host_config.cgroup_parent.clone();
    sweep_away(engine, &parent, &container.id);
}

/// Processes, control group and run directory, unless a monitor has them.
fn sweep_away(engine: &Engine, cgroup_parent: &str, id: &str) {
    let cgroup = engine.cgroup_path(cgroup_parent, id);
    let deadline = Instant::now() + MOMENT;
    if let Err(error) = sweep_by(engine, &cgroup, &engine.run_dir(id), deadline) {
        tracing::warn!(container = id, "clean up after its monitor: {error}");
    }
}

/// The same, waiting for a monitor that is ending.
pub(crate) fn sweep_by(
    engine: &Engine,
    cgroup: &str,
    run_dir: &Path,
    deadline: Instant,
) -> std::io::Result<()> {
    loop {
        match sweep::sweep(&engine.0.cgroups, cgroup, run_dir) {
            // Its sockets close a little before it is gone.
            Err(error)
                if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}

/// A record that cannot be read is none: the container ended all the same.
fn recorded_exit(dir: &Path) -> Option<ExitRecord> {
    client::read_exit_record(dir).ok().flatten()
}

/// What belongs to no container: snapshots, control groups, interfaces,
/// directories of monitors.
fn collect(engine: &Engine) {
    collect_steps(engine);
    let known = |id: &str| engine.index().find(id).is_ok_and(|found| found.id == id);
    for key in engine.0.store.snapshot_keys().unwrap_or_default() {
        let leftover = (files::is_id(&key) && !known(&key)) || key.starts_with(build::SNAPSHOTS);
        if leftover && let Err(error) = engine.0.store.remove_snapshot(&key) {
            tracing::warn!("remove the snapshot {key}: {error}");
        }
    }
    let monitors = engine.0.config.exec_root.join("containers");
    for id in ids_in(&monitors) {
        if !known(&id) {
            // A container that was removed while its record could not be read.
            sweep_away(engine, "", &id);
        }
    }
    // Groups of identifiers that are not ours may be another engine's, which
    // shares the parent group with us.
    for id in groups(engine) {
        if let Ok(container) = engine.find(&id)
            && container.id == id
            && container.live().channel.is_none()
        {
            sweep_away(engine, "", &id);
        }
    }
    if let Some(bridge) = engine.0.networks.bridge() {
        let endpoints: Vec<_> = engine
            .index()
            .all()
            .iter()
            .filter_map(|container| container.record().endpoint.clone())
            .collect();
        if let Err(error) = engine.0.manager.collect(&bridge.id, &endpoints) {
            tracing::warn!("{error}");
        }
    }
}

/// Steps of builds: their monitors end with the engine that started them, if
/// nobody killed them before. Directories, control groups and processes go.
fn collect_steps(engine: &Engine) {
    let steps = engine.0.config.exec_root.join("build");
    for id in ids_in(&steps) {
        let dir = steps.join(&id);
        let swept = match std::fs::read_to_string(dir.join(build::CGROUP_FILE)) {
            Ok(cgroup) if cgroup.ends_with(&format!("/{id}")) => {
                let deadline = Instant::now() + PATIENCE;
                sweep_by(engine, &cgroup, &dir.join(build::RUN_DIR), deadline)
            }
            // Killed before it was started. Any other group is not the step's.
            _ => Ok(()),
        };
        if let Err(error) = swept.and_then(|()| std::fs::remove_dir_all(&dir)) {
            tracing::warn!(step = id, "clean up after a step of a build: {error}");
        }
    }
}

/// Identifiers below our parent group, in any hierarchy.
fn groups(engine: &Engine) -> Vec<String> {
    let parent = engine.0.config.cgroup_parent.trim_matches('/');
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut list: Vec<String> = mounts
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .flat_map(|mount| ids_in(&Path::new(mount).join(parent)))
        .collect();
    list.sort();
    list.dedup();
    list
}

fn ids_in(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| files::is_id(name))
        .collect()
}
