//! Deletes in the background what has been renamed into `tmp/`.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::disk::remove_tree;

/// The deep part of a removal recurses 64 levels of small frames.
const STACK: usize = 256 << 10;

/// The queue of one thread. What it does not get to is found at the next open.
#[derive(Debug)]
pub(crate) struct Trash {
    names: Option<Sender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    pending: Mutex<usize>,
    done: Condvar,
}

impl Trash {
    pub(crate) fn new(tmp: OwnedFd) -> std::io::Result<Self> {
        let (names, queue) = channel();
        let shared = Arc::new(Shared::default());
        let worker = shared.clone();
        let thread = std::thread::Builder::new()
            .name("store-trash".to_owned())
            .stack_size(STACK)
            .spawn(move || work(&tmp, &queue, &worker))?;
        Ok(Self {
            names: Some(names),
            thread: Some(thread),
            shared,
        })
    }

    /// Takes `name`, which is directly below `tmp/`.
    pub(crate) fn push(&self, name: impl Into<Vec<u8>>) {
        *self.shared.lock() += 1;
        if let Some(names) = &self.names {
            // Fails only if the thread is gone: the next open does it then.
            let _ = names.send(name.into());
        }
    }

    /// Waits until all that was pushed is gone.
    #[cfg(test)]
    pub(crate) fn settle(&self) {
        let mut pending = self.shared.lock();
        while *pending > 0 {
            pending = self
                .shared
                .done
                .wait(pending)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.names = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, usize> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(tmp: &OwnedFd, queue: &Receiver<Vec<u8>>, shared: &Shared) {
    for name in queue {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = remove_tree(tmp.as_fd(), &name) {
            let name = String::from_utf8_lossy(&name).into_owned();
            tracing::warn!(%name, %error, "cannot remove from the store's tmp directory");
        }
        *shared.lock() -= 1;
        shared.done.notify_all();
    }
}
