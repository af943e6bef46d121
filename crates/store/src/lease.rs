//! What an operation in flight stands on is kept from collection.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Digest;
use crate::state::State;
use crate::store::Inner;

/// Keeps the blobs and layers of these digests, those that are there and those
/// that come, until it is dropped; then what nothing stands on is collected.
#[derive(Debug)]
pub(crate) struct Lease {
    inner: Arc<Inner>,
    digests: Mutex<HashSet<Digest>>,
}

impl Lease {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            digests: Mutex::default(),
        }
    }

    /// Under the store's lock, so that what was seen there stays.
    pub(crate) fn add(&self, state: &mut State, digest: &str) {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if digests.insert(digest.to_owned()) {
            *state.leases.entry(digest.to_owned()).or_default() += 1;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let digests = std::mem::take(
            self.digests
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if digests.is_empty() {
            return;
        }
        let state = &mut *self.inner.state();
        for digest in &digests {
            if let Some(count) = state.leases.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(digest);
                }
            }
        }
        self.inner.collect(state);
    }
}
