//! Work that is done once although several ask for it at the same time.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::Digest;

/// What is being worked on.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    digests: Mutex<HashSet<Digest>>,
    ended: Condvar,
}

/// The right, and so the duty, to do it.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    busy: &'a Busy,
    digest: &'a str,
}

impl Busy {
    /// Waits until nobody else works on it.
    pub(crate) fn turn<'a>(&'a self, digest: &'a str) -> Turn<'a> {
        let lock = self.digests.lock();
        let mut digests = lock.unwrap_or_else(PoisonError::into_inner);
        while digests.contains(digest) {
            let woken = self.ended.wait(digests);
            digests = woken.unwrap_or_else(PoisonError::into_inner);
        }
        digests.insert(digest.to_owned());
        Turn { busy: self, digest }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let lock = self.busy.digests.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
            .remove(self.digest);
        self.busy.ended.notify_all();
    }
}
