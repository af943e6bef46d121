//! Results that are known: by key, kept by one pin each in the store.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_store::{Digest, Pin};
use serde::{Deserialize, Serialize};

use super::flight::Flights;
use super::layers::{Hold, Layers};
use super::usage::Shelf;
use super::{Error, SolveError};
use crate::tree::Layer;

/// Digits of a key that name a record for people, as long as BuildKit's.
const ID_LENGTH: usize = 25;
/// Keys that one result is known by. A step with a bind mount gets one more
/// whenever something else below the mount changed.
const MAX_KEYS: usize = 16;

/// What one step once gave. Times are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Names it for people, and its pin.
    pub id: String,
    /// Oldest first; never empty.
    pub keys: Vec<String>,
    /// None: it changed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Layer>,
    /// Its `stored` layer has the files' own times.
    #[serde(default)]
    pub timed: bool,
    pub description: String,
    pub created: u64,
    pub last_used: u64,
    pub usage_count: u64,
    /// Records that this one's step stands on.
    #[serde(default)]
    pub parents: Vec<String>,
}

impl Record {
    pub(super) fn layers(&self) -> Vec<Digest> {
        let mut layers = Vec::new();
        if let Some(layer) = &self.layer {
            layers.push(layer.digest.clone());
            if layer.stored != layer.digest {
                layers.push(layer.stored.clone());
            }
        }
        layers
    }

    fn pin(&self) -> Result<Pin, Error> {
        Ok(Pin {
            key: self.id.clone(),
            layers: self.layers(),
            data: serde_json::to_string(self)
                .map_err(|error| Error::System(format!("cannot write a record: {error}")))?,
        })
    }
}

/// Known results. Cheap to clone; one per store.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layers: Arc<dyn Layers>,
    state: Mutex<State>,
    flights: Arc<Flights>,
    sessions: AtomicU64,
    shelves: Mutex<Vec<Arc<dyn Shelf>>>,
}

#[derive(Debug, Default)]
struct State {
    records: HashMap<String, Record>,
    /// Keys → records.
    keys: HashMap<String, String>,
    /// How many running builds use a record.
    in_use: HashMap<String, usize>,
    /// Used since they were written down.
    touched: HashSet<String>,
}

impl Cache {
    /// Reads the store's pins. Blocking, short.
    pub fn open(layers: Arc<dyn Layers>) -> Result<Self, Error> {
        let mut state = State::default();
        let mut damaged = Vec::new();
        for pin in layers.pins() {
            match serde_json::from_str::<Record>(&pin.data) {
                Ok(record) if record.id == pin.key && record.layers() == pin.layers => {
                    state.insert(record);
                }
                _ => damaged.push(pin.key),
            }
        }
        if !damaged.is_empty() {
            tracing::warn!(?damaged, "entries of the build cache are removed");
            layers.unpin(&damaged)?;
        }
        Ok(Self {
            inner: Arc::new(Inner {
                layers,
                state: Mutex::new(state),
                flights: Arc::default(),
                sessions: AtomicU64::new(0),
                shelves: Mutex::default(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn layers(&self) -> &dyn Layers {
        &*self.inner.layers
    }

    pub(super) fn shelves(&self) -> MutexGuard<'_, Vec<Arc<dyn Shelf>>> {
        let shelves = self.inner.shelves.lock();
        shelves.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn session(&self) -> Result<Session, SolveError> {
        let hold = self.inner.layers.hold().map_err(|error| SolveError {
            vertex: None,
            error,
        })?;
        Ok(Session {
            cache: self.clone(),
            number: self.inner.sessions.fetch_add(1, Ordering::Relaxed),
            hold,
            used: Mutex::default(),
            fresh: Mutex::default(),
        })
    }

    /// All records, in no order.
    pub fn records(&self) -> Vec<Record> {
        self.state().records.values().cloned().collect()
    }

    pub(super) fn has_key(&self, key: &str) -> bool {
        self.state().keys.contains_key(key)
    }

    /// Whether a running build uses it.
    pub fn in_use(&self, id: &str) -> bool {
        self.state().in_use.contains_key(id)
    }

    /// Forgets a record, unless a running build uses it.
    pub fn remove(&self, id: &str) -> Result<bool, Error> {
        let state = &mut *self.state();
        if state.in_use.contains_key(id) || state.remove(id).is_none() {
            return Ok(false);
        }
        self.inner.layers.unpin(&[id.to_owned()])?;
        Ok(true)
    }

    /// Writes down when records were last used. Blocking, short.
    pub fn flush(&self) -> Result<(), Error> {
        let state = &mut *self.state();
        for id in std::mem::take(&mut state.touched) {
            if let Some(record) = state.records.get(&id) {
                self.inner.layers.pin(record.pin()?)?;
            }
        }
        Ok(())
    }
}

impl State {
    fn insert(&mut self, record: Record) {
        for key in &record.keys {
            self.keys.insert(key.clone(), record.id.clone());
        }
        self.records.insert(record.id.clone(), record);
    }

    fn remove(&mut self, id: &str) -> Option<Record> {
        let record = self.records.remove(id)?;
        for key in &record.keys {
            if self.keys.get(key).is_some_and(|owner| owner == id) {
                self.keys.remove(key);
            }
        }
        self.touched.remove(id);
        Some(record)
    }

    /// Takes a key away from whatever record has it. Returns the record if it
    /// has none left, and so is gone.
    fn release(&mut self, key: &str) -> Option<String> {
        let id = self.keys.remove(key)?;
        let record = self.records.get_mut(&id)?;
        record.keys.retain(|other| other != key);
        if !record.keys.is_empty() {
            self.touched.insert(id);
            return None;
        }
        self.remove(&id);
        Some(id)
    }
}

/// A solve, as the cache sees it: what it uses stays.
#[derive(Debug)]
pub(super) struct Session {
    cache: Cache,
    /// Unique as long as the cache is open.
    pub(super) number: u64,
    hold: Box<dyn Hold>,
    used: Mutex<HashSet<String>>,
    /// Keys of what was run in this solve.
    fresh: Mutex<HashSet<String>>,
}

/// A known result.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) record: String,
    pub(super) layer: Option<Layer>,
}

/// A result that is to be known.
#[derive(Debug)]
pub(super) struct NewRecord<'a> {
    /// The last one is the most exact.
    pub(super) keys: &'a [String],
    pub(super) layer: Option<Layer>,
    pub(super) timed: bool,
    pub(super) description: &'a str,
    pub(super) parents: Vec<String>,
}

impl Session {
    pub(super) fn flights(&self) -> &Arc<Flights> {
        &self.cache.inner.flights
    }

    pub(super) fn hold(&self) -> &dyn Hold {
        &*self.hold
    }

    /// Whether that key was run for in this solve.
    pub(super) fn is_fresh(&self, key: &str) -> bool {
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.contains(key)
    }

    /// What is known by a key, whose layers then stay as long as this lives.
    /// `timed`: only if the files' own times are known as well.
    pub(super) fn find(&self, key: &str, timed: bool) -> Result<Option<Found>, Error> {
        let found = {
            let state = &mut *self.cache.state();
            let Some(record) = (state.keys.get(key)).and_then(|id| state.records.get_mut(id))
            else {
                return Ok(None);
            };
            if timed && !record.timed && record.layer.is_some() {
                return Ok(None);
            }
            record.last_used = now();
            record.usage_count += 1;
            let id = record.id.clone();
            let mut layer = record.layer.clone();
            if !timed && let Some(layer) = &mut layer {
                layer.stored.clone_from(&layer.digest);
            }
            state.touched.insert(id.clone());
            self.mark(state, &id);
            Found { record: id, layer }
        };
        if let Some(layer) = &found.layer
            && let Err(error) = self.keep(layer)
        {
            return match error {
                Error::NotFound(_) => {
                    self.forget(&found.record)?;
                    Ok(None)
                }
                other => Err(other),
            };
        }
        Ok(Some(found))
    }

    /// A record whose layers are gone is none.
    fn forget(&self, id: &str) -> Result<(), Error> {
        self.cache.state().remove(id);
        self.cache.inner.layers.unpin(&[id.to_owned()])
    }

    fn keep(&self, layer: &Layer) -> Result<(), Error> {
        self.hold.keep(&layer.digest)?;
        if layer.stored != layer.digest {
            self.hold.keep(&layer.stored)?;
        }
        // Its blob cannot be made again: without it no image can have it.
        if let Some(blob) = &layer.blob {
            self.hold.keep_blob(&blob.digest)?;
        }
        Ok(())
    }

    fn mark(&self, state: &mut State, id: &str) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.insert(id.to_owned()) {
            *state.in_use.entry(id.to_owned()).or_default() += 1;
        }
    }

    /// Records a result; its layers must be held already. Returns the id.
    pub(super) fn add(&self, new: NewRecord<'_>) -> Result<String, Error> {
        if let Some(layer) = &new.layer {
            self.keep(layer)?;
        }
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.extend(new.keys.iter().cloned());
        drop(fresh);
        let Some(name) = new.keys.last() else {
            return Err(Error::System("a result without a key".to_owned()));
        };
        let id = name.get(..ID_LENGTH).unwrap_or(name).to_owned();
        let now = now();
        let mut record = Record {
            id: id.clone(),
            keys: new.keys.to_vec(),
            layer: new.layer,
            timed: new.timed,
            description: new.description.to_owned(),
            created: now,
            last_used: now,
            usage_count: 1,
            parents: new.parents,
        };
        let state = &mut *self.cache.state();
        // Its other keys are of other inputs; they hold if the result does.
        if let Some(old) = state.remove(&id)
            && old.layer == record.layer
        {
            let others = (old.keys.into_iter()).filter(|key| !new.keys.contains(key));
            record.keys.splice(0..0, others);
            shorten(&mut record);
        }
        let gone: Vec<_> = (record.keys.iter())
            .filter_map(|key| state.release(key))
            .collect();
        self.cache.inner.layers.pin(record.pin()?)?;
        state.insert(record);
        self.mark(state, &id);
        if !gone.is_empty() {
            self.cache.inner.layers.unpin(&gone)?;
        }
        Ok(id)
    }

    /// Lets a record be found by another key as well.
    pub(super) fn alias(&self, id: &str, key: &str) -> Result<(), Error> {
        let state = &mut *self.cache.state();
        if state.keys.get(key).is_some_and(|owner| owner == id) {
            return Ok(());
        }
        let gone = state.release(key);
        let Some(record) = state.records.get_mut(id) else {
            return Ok(());
        };
        record.keys.push(key.to_owned());
        let dropped = shorten(record);
        self.cache.inner.layers.pin(record.pin()?)?;
        state.keys.insert(key.to_owned(), id.to_owned());
        for key in dropped {
            state.keys.remove(&key);
        }
        if let Some(gone) = gone {
            self.cache.inner.layers.unpin(&[gone])?;
        }
        Ok(())
    }
}

/// Drops the oldest keys but the exact one, which names the record.
fn shorten(record: &mut Record) -> Vec<String> {
    let excess = record.keys.len().saturating_sub(MAX_KEYS);
    let id = &record.id;
    let mut dropped = Vec::new();
    record.keys.retain(|key| {
        let stays = dropped.len() == excess || key.starts_with(id);
        if !stays {
            dropped.push(key.clone());
        }
        stays
    });
    dropped
}

impl Drop for Session {
    fn drop(&mut self) {
        let used = self
            .used
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .drain();
        let state = &mut *self.cache.state();
        for id in used {
            if let Some(count) = state.in_use.get_mut(&id) {
                *count -= 1;
                if *count == 0 {
                    state.in_use.remove(&id);
                }
            }
        }
    }
}

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
