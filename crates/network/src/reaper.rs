//! Removal of host interfaces whose container has ended.
//!
//! Removing one by hand waits for RCU, 15 to 40 ms here, with the kernel's network
//! lock held against the next start. But a container's last process takes the
//! namespace along, and with it the interface, many at a time and without anybody
//! waiting. So a released interface is given a moment to vanish by itself, and
//! only what is still there then (a namespace that somebody holds open) is removed
//! by hand. Until it is gone its address is not given to anyone else.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::route::Handle;
use crate::{Endpoint, Error};

/// What the kernel takes to dissolve a namespace, with a margin.
const GRACE: Duration = Duration::from_millis(250);
/// Until the next try after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// An endpoint on its way out.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) network: String,
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug)]
pub(crate) struct Reaper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// With the time at which each is due.
    leaving: Vec<(Instant, Leaving)>,
    /// Some are being removed right now.
    busy: bool,
    /// Do not wait until they are due.
    hurry: bool,
    passes: u64,
    stopping: bool,
}

impl Reaper {
    /// Starts the thread, in the calling thread's namespace. `gone` hears of each
    /// endpoint whose interface is no more.
    pub(crate) fn start(gone: impl Fn(&Leaving) + Send + 'static) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let host = Handle::open()?;
        let thread = thread::Builder::new()
            .name("berth-reaper".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(host, &gone)
            })
            .map_err(|e| Error::kernel("start the thread for ended interfaces", e))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    pub(crate) fn push(&self, leaving: Leaving) {
        self.shared
            .lock()
            .leaving
            .push((Instant::now() + GRACE, leaving));
        self.shared.work.notify_one();
    }

    /// Removes all that wait now. Returns whether there were any.
    pub(crate) fn flush(&self) -> bool {
        let mut queue = self.shared.lock();
        if queue.leaving.is_empty() && !queue.busy {
            return false;
        }
        // A pass that is under way may have begun without the latest.
        let end = queue.passes + if queue.busy { 2 } else { 1 };
        while queue.passes < end && (queue.busy || !queue.leaving.is_empty()) {
            queue.hurry = true;
            self.shared.work.notify_one();
            queue = self
                .shared
                .done
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

impl Drop for Reaper {
    /// Removes what waits.
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked in a way that matters here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut host: Handle, gone: &impl Fn(&Leaving)) {
        let mut queue = self.lock();
        loop {
            let now = Instant::now();
            let hurry = queue.hurry || queue.stopping;
            let next = queue.leaving.iter().map(|(due, _)| *due).min();
            match next {
                None if queue.stopping => return,
                None => {
                    queue = self
                        .work
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                Some(due) if due > now && !hurry => {
                    let woken = self.work.wait_timeout(queue, due - now);
                    queue = woken.unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                Some(_) => {}
            }
            let (ripe, rest) = std::mem::take(&mut queue.leaving)
                .into_iter()
                .partition(|(due, _)| hurry || *due <= now);
            queue.leaving = rest;
            queue.busy = true;
            queue.hurry = false;
            let last = queue.stopping;
            drop(queue);

            let failed = remove(&mut host, ripe, gone);

            queue = self.lock();
            queue.leaving.extend(failed);
            queue.busy = false;
            queue.passes += 1;
            self.done.notify_all();
            if last {
                return;
            }
        }
    }
}

/// Returns those that resisted. They keep their addresses, which are in use as
/// long as the interface is there.
fn remove(
    host: &mut Handle,
    ripe: Vec<(Instant, Leaving)>,
    gone: &impl Fn(&Leaving),
) -> Vec<(Instant, Leaving)> {
    let mut failed = Vec::new();
    for (_, leaving) in ripe {
        match host.delete(&leaving.endpoint.host_interface) {
            Ok(()) => gone(&leaving),
            Err(_) => failed.push((Instant::now() + RETRY, leaving)),
        }
    }
    failed
}
