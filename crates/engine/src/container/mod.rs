//! Containers: one state file each, and what happens to them.
//!
//! * [`record`]: what is stored; [`Container`]: what is held in memory.
//! * `create`, `start`, `lifecycle` (stop, kill, pause, exit, restarts),
//!   `remove`, `update`, `attach`, `wait`: what changes a container.
//! * `inspect`, `list`: what is shown.

pub(crate) mod attach;
mod create;
mod export;
mod index;
mod inspect;
mod lifecycle;
mod list;
mod names;
mod record;
mod remove;
mod restart;
mod start;
mod update;
mod validate;
mod wait;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_api::Error;
use berth_api::container::{WaitCondition, WaitResponse};
use berth_monitor::protocol::Attach;
use tokio::sync::{oneshot, watch};

use crate::health::Checks;
use crate::monitor::Channel;
use crate::{error, files};

pub(crate) use create::merge_image;
pub(crate) use index::Index;
pub(crate) use record::{MountRecord, Record};
pub(crate) use validate::limits as validate_limits;

/// A container: its record on disk, and what only this process knows.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// `<data-root>/containers/<id>`
    pub(crate) dir: PathBuf,
    record: Mutex<Record>,
    live: Mutex<Live>,
    /// Held while a start, a removal or a pause is under way.
    pub(crate) gate: tokio::sync::Mutex<()>,
    /// Told of each change of `record` and `live`.
    changed: watch::Sender<()>,
}

/// What is gone with this process.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// The way to the monitor; `None` when there is none.
    pub(crate) channel: Option<Channel>,
    /// Streams attached before the start.
    pub(crate) pending: Vec<(OwnedFd, Attach)>,
    pub(crate) waiters: Vec<(WaitCondition, oneshot::Sender<WaitResponse>)>,
    pub(crate) restarts: restart::Backoff,
    /// The health checks under way.
    pub(crate) checks: Option<Checks>,
    /// A restart by hand is under way: its end is no reason for the automatic
    /// removal.
    pub(crate) keep: bool,
    /// Has been taken out of the index: nothing may be written any more.
    pub(crate) removed: bool,
}

impl Container {
    pub(crate) fn new(dir: PathBuf, record: Record) -> Self {
        Self {
            id: record.id.clone(),
            dir,
            record: Mutex::new(record),
            live: Mutex::default(),
            gate: tokio::sync::Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// The record, to look at. Not to be held across an `await`.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record, writes it and tells who waits for a change. The
    /// change holds in memory even when it cannot be written.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> Result<T, Error> {
        let mut record = self.record();
        let result = change(&mut record);
        let written = if self.live().removed {
            Ok(())
        } else {
            record.save(&self.dir)
        };
        drop(record);
        self.changed.send_replace(());
        written.map(|()| result)
    }

    /// As [`Container::change`], where nobody can be told of a failure.
    pub(crate) fn change_logged<T>(&self, change: impl FnOnce(&mut Record) -> T) -> Option<T> {
        self.change(change)
            .inspect_err(|error| tracing::error!(container = self.id, "{error}"))
            .ok()
    }

    pub(crate) fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Returns when `holds` does; it is asked again after each change.
    pub(crate) async fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let mut changes = self.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if holds(self) {
                return;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub(crate) fn channel(&self) -> Option<Channel> {
        self.live().channel.clone()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.join(format!("{}-json.log", self.id))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The channel and the first process of a running container, or Docker's
    /// words when it does not run.
    pub(crate) fn running(&self) -> Result<(Channel, i64), Error> {
        let pid = {
            let record = self.record();
            if !record.state.running || record.state.restarting {
                return Err(Error::conflict(format!(
                    "container {} is not running",
                    self.id
                )));
            }
            record.state.pid
        };
        let channel = self
            .channel()
            .ok_or_else(|| Error::conflict(format!("container {} is not running", self.id)))?;
        Ok((channel, pid))
    }
}

/// Reads one container's directory.
pub(crate) fn load(dir: &Path) -> Result<Container, Error> {
    let path = dir.join("config.json");
    let bytes = std::fs::read(&path).map_err(|error| error::io("read", &path, &error))?;
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|error| Error::system(format!("read {}: {error}", path.display())))?;
    if !files::is_id(&record.id) || dir.file_name().is_none_or(|name| *name != *record.id) {
        return Err(Error::system(format!(
            "{} does not belong to its directory",
            path.display()
        )));
    }
    Ok(Container::new(dir.to_owned(), record))
}
