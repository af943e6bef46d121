//! How many layers are unpacked at once, for the whole store.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[derive(Debug)]
pub(crate) struct Slots {
    total: usize,
    free: Mutex<usize>,
    freed: Condvar,
}

impl Slots {
    /// As many as processors, at least two.
    pub(crate) fn new() -> Arc<Self> {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let total = processors.max(2);
        Arc::new(Self {
            total,
            free: Mutex::new(total),
            freed: Condvar::new(),
        })
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Waits for a free one.
    pub(crate) fn slot(self: &Arc<Self>) -> Slot {
        let mut slot = Slot {
            slots: self.clone(),
            taken: false,
        };
        slot.take();
        slot
    }
}

/// The right to use a processor for a layer.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    taken: bool,
}

impl Slot {
    pub(crate) fn is_taken(&self) -> bool {
        self.taken
    }

    pub(crate) fn take(&mut self) {
        if self.taken {
            return;
        }
        let lock = self.slots.free.lock();
        let mut free = lock.unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            let woken = self.slots.freed.wait(free);
            free = woken.unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        self.taken = true;
    }

    pub(crate) fn give_back(&mut self) {
        if self.taken {
            let lock = self.slots.free.lock();
            *lock.unwrap_or_else(PoisonError::into_inner) += 1;
            self.taken = false;
            self.slots.freed.notify_one();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.give_back();
    }
}
