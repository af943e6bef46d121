//! What two need at the same time is done once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Lane = Arc<tokio::sync::Mutex<()>>;

#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<String, Lane>>);

/// Only one per key at a time; the next gets its turn when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    flights: Arc<Flights>,
    key: String,
    /// None only while it is being dropped.
    guard: Option<OwnedMutexGuard<()>>,
}

impl Flights {
    fn lanes(&self) -> MutexGuard<'_, HashMap<String, Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn turn(self: &Arc<Self>, key: &str) -> Turn {
        let lane = Arc::clone(self.lanes().entry(key.to_owned()).or_default());
        let mut turn = Turn {
            flights: self.clone(),
            key: key.to_owned(),
            guard: None,
        };
        // A wait that is given up must not leave its lane behind either.
        turn.guard = Some(lane.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut lanes = self.flights.lanes();
        // Nobody waits: all who do hold the lane, and join under this lock.
        if lanes
            .get(&self.key)
            .is_some_and(|lane| Arc::strong_count(lane) == 1)
        {
            lanes.remove(&self.key);
        }
    }
}
