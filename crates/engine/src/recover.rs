//! What an engine finds when it opens: monitors that went on, containers that
//! ended meanwhile, leftovers of a crash.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_api::Error;
use berth_cgroup::Cgroup;
use berth_monitor::client;
use berth_monitor::protocol::{ExitRecord, FromMonitor, ToMonitor};

use crate::container::{self, Container};
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, io};
use crate::{files, health, monitor, time};

/// How long a monitor that was just forked may take to listen.
const PATIENCE: Duration = Duration::from_millis(300);

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
    for container in &containers {
        if !adopt(engine, container).await {
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
                if let Err(error) = engine.start(&container).await {
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

/// Connects to a container's monitor; false when there is none.
async fn adopt(engine: &Engine, container: &Arc<Container>) -> bool {
    let run_dir = engine.run_dir(&container.id);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let socket = loop {
        if !run_dir.exists() {
            return false;
        }
        match client::connect(&run_dir, client::MONITOR_SOCKET) {
            Ok(socket) => break socket,
            Err(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(_) => return false,
        }
    };
    let Ok((channel, _begun)) = monitor::serve(engine, container, socket) else {
        return false;
    };
    container.live().channel = Some(channel.clone());
    let answer = channel
        .ask(Vec::new(), |request| ToMonitor::Status { request })
        .await;
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
    let exit = read_exit(&container.dir)
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
    read_exit(&container.dir)
        .filter(|exit| exit.started_at == started_at)
        .unwrap_or_else(|| ExitRecord {
            exit_code: 128 + libc::SIGKILL,
            oom_killed: false,
            started_at,
            finished_at: time::now(),
        })
}

fn clean_up(engine: &Engine, container: &Container) {
    let cgroup = engine.cgroup(&container.record());
    end_cgroup(&cgroup);
    let run_dir = engine.run_dir(&container.id);
    if let Err(error) = std::fs::remove_dir_all(&run_dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("remove {}: {error}", run_dir.display());
    }
}

fn end_cgroup(cgroup: &Cgroup) {
    if !cgroup.exists() {
        return;
    }
    let _ = cgroup.thaw();
    if let Err(error) = cgroup.kill_all().and_then(|()| cgroup.remove()) {
        tracing::warn!("remove the control group {}: {error}", cgroup.path());
    }
}

fn read_exit(dir: &Path) -> Option<ExitRecord> {
    serde_json::from_slice(&std::fs::read(dir.join("exit.json")).ok()?).ok()
}

/// What belongs to no container: snapshots, control groups, interfaces,
/// directories of monitors.
fn collect(engine: &Engine) {
    let known = |id: &str| engine.index().find(id).is_ok_and(|found| found.id == id);
    for key in engine.0.store.snapshot_keys().unwrap_or_default() {
        if files::is_id(&key)
            && !known(&key)
            && let Err(error) = engine.0.store.remove_snapshot(&key)
        {
            tracing::warn!("remove the snapshot {key}: {error}");
        }
    }
    let monitors = engine.0.config.exec_root.join("containers");
    for id in ids_in(&monitors) {
        if !known(&id) {
            // A container that was removed while its record could not be read.
            let path = engine.cgroup_path("", &id);
            end_cgroup(&Cgroup::open(&engine.0.cgroups, &path));
            let _ = std::fs::remove_dir_all(monitors.join(&id));
        }
    }
    for id in groups(engine) {
        let alone = match engine.find(&id) {
            Ok(container) => container.live().channel.is_none(),
            Err(_) => true,
        };
        if alone {
            let path = engine.cgroup_path("", &id);
            end_cgroup(&Cgroup::open(&engine.0.cgroups, &path));
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
