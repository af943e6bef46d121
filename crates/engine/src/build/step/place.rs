//! What a step has besides its process, and that it goes however the step ends.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_api::Error;
use berth_monitor::client;
use berth_monitor::protocol::ToMonitor;
use berth_network::Endpoint;
use berth_sys::socket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::session::Session;
use crate::engine::Engine;
use crate::error::io;
use crate::{files, recover};

/// Name of the file that says which control group a step has.
pub(crate) const CGROUP_FILE: &str = "cgroup";
/// The monitor's directory within the step's.
pub(crate) const RUN_DIR: &str = "run";
/// Keys of snapshots begin so.
pub(crate) const SNAPSHOTS: &str = "build-";

/// How long a monitor may take to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a step lives. The last one to let go removes everything, in the
/// background.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) id: String,
    /// `<exec-root>/build/<id>`
    pub(super) dir: PathBuf,
    pub(super) cgroup: String,
    engine: Engine,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    snapshots: Vec<String>,
    endpoint: Option<Endpoint>,
    channel: Option<OwnedFd>,
    /// Locks of caches and the like, let go last.
    held: Vec<Box<dyn Any + Send>>,
}

impl Place {
    /// Blocks.
    pub(super) fn new(session: &Session) -> Result<Self, Error> {
        let engine = session.engine.clone();
        let id =
            files::random_id().map_err(|error| Error::system(format!("make an ID: {error}")))?;
        let dir = engine.steps_dir().join(&id);
        let cgroup = engine.cgroup_path(&session.host.cgroup_parent, &id);
        let place = Self {
            id,
            cgroup,
            engine,
            state: Mutex::default(),
            dir,
        };
        place.hold(Box::new(session.cleanup()));
        let failed = |error| io("make", &place.dir, &error);
        std::fs::create_dir(&place.dir).map_err(failed)?;
        let path = place.dir.join(CGROUP_FILE);
        // Whole or not at all: who recovers kills what is in the group it names.
        files::replace(&path, place.cgroup.as_bytes(), 0o600)
            .map_err(|error| io("write", &path, &error))?;
        Ok(place)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of a further snapshot, which goes with the step.
    pub(super) fn snapshot_key(&self) -> String {
        let mut state = self.state();
        let key = match state.snapshots.len() {
            0 => format!("{SNAPSHOTS}{}", self.id),
            number => format!("{SNAPSHOTS}{}-{number}", self.id),
        };
        state.snapshots.push(key.clone());
        key
    }

    pub(super) fn set_endpoint(&self, endpoint: Endpoint) {
        self.state().endpoint = Some(endpoint);
    }

    /// The channel to the monitor.
    pub(super) fn set_channel(&self, channel: OwnedFd) {
        self.state().channel = Some(channel);
    }

    /// Kept until the step is gone.
    pub(super) fn hold(&self, thing: Box<dyn Any + Send>) {
        self.state().held.push(thing);
    }

    pub(super) fn run_dir(&self) -> PathBuf {
        self.dir.join(RUN_DIR)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let state = std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        let (engine, dir, cgroup) = (
            self.engine.clone(),
            std::mem::take(&mut self.dir),
            std::mem::take(&mut self.cgroup),
        );
        let work = move || clean_up(&engine, &dir, &cgroup, state);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(work)),
            Err(_) => work(),
        }
    }
}

fn clean_up(engine: &Engine, dir: &std::path::Path, cgroup: &str, state: State) {
    if let Some(channel) = &state.channel {
        // It may have ended by itself.
        let _ = client::send_to_monitor(channel, &ToMonitor::KillAll { request: 0 }, &[]);
        wait_for_end(channel);
    }
    let run_dir = dir.join(RUN_DIR);
    if run_dir.exists()
        && let Err(error) = recover::sweep_by(engine, cgroup, &run_dir, Instant::now() + PATIENCE)
    {
        tracing::warn!("clean up after a step of a build: {error}");
    }
    for key in &state.snapshots {
        match engine.0.store.remove_snapshot(key) {
            Ok(()) | Err(berth_store::Error::NotFound(_)) => {}
            Err(error) => tracing::warn!("remove the snapshot {key}: {error}"),
        }
    }
    if let Some(endpoint) = &state.endpoint
        && let Err(error) = engine.release_endpoint(endpoint)
    {
        tracing::warn!("{error}");
    }
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("remove {}: {error}", dir.display());
    }
    // Locks of caches last.
    drop(state);
}

/// Until the monitor has closed the channel: it has removed what it made then.
fn wait_for_end(channel: &OwnedFd) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match socket::receive(channel) {
            Ok(Some(_)) => continue,
            Err(rustix::io::Errno::AGAIN) => {}
            Ok(None) | Err(_) => return,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let Ok(timeout) = Timespec::try_from(left) else {
            return;
        };
        let mut fds = [PollFd::new(channel, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&timeout));
    }
}
