//! Layers are unpacked ahead, while the archive is still being read.
//!
//! What a member is, is said only at the end. What begins like a layer (gzip,
//! zstd, tar) is taken for one; it becomes a layer of the store only if a
//! manifest names that blob with the diff ID that was found.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};

use crate::Digest;
use crate::arrival::Arrival;
use crate::error::{Error, Result};
use crate::incoming::Incoming;
use crate::unpack::{NewLayer, unpack_blob};

/// Smaller members are not worth a thread's while.
const MIN_SIZE: u64 = 64 << 10;

/// Descriptors that waiting members may hold.
const MAX_WAITING: usize = 256;

const BUFFER: usize = 128 << 10;

/// How often whoever waits for a layer hears how far it is.
const REPORT: Duration = Duration::from_millis(100);

/// Unpacks in the background until it is dropped.
#[derive(Debug)]
pub(super) struct Ahead {
    incoming: Incoming,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    jobs: Mutex<Jobs>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct Jobs {
    /// Their files are open until they are unpacked, and no longer.
    waiting: VecDeque<(Arc<Arrival>, Arc<Job>)>,
    /// By the digest of the blob, which is known once it is spooled.
    spooled: HashMap<Digest, Arc<Job>>,
    ended: bool,
}

#[derive(Debug)]
struct Job {
    /// Bytes of the blob that are through.
    done: AtomicU64,
    result: Mutex<Outcome>,
}

#[derive(Debug)]
enum Outcome {
    Pending,
    Unpacked(NewLayer),
    /// It is no layer, it is there already, or it was fetched.
    Nothing,
}

impl Ahead {
    pub(super) fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            shared: Arc::default(),
            workers: Vec::new(),
        }
    }

    /// Spools a member of `size` bytes, and unpacks it meanwhile if it may be a
    /// layer. `claimed` is the digest in its name.
    pub(super) fn spool(
        &mut self,
        input: &mut dyn Read,
        size: u64,
        claimed: Option<&str>,
    ) -> Result<Digest> {
        let known = claimed.is_some_and(|digest| self.incoming.knows_layer_of(digest));
        if size < MIN_SIZE || known || self.shared.lock().waiting.len() >= MAX_WAITING {
            return self.incoming.spool(input);
        }
        let (name, _) = self.incoming.create()?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(
            &self.incoming.work().fd,
            name.as_str(),
            flags,
            Mode::empty(),
        )
        .map_err(Error::io("open temporary file", &name))?;
        let what = format!("temporary file {name}");
        let arrival = Arc::new(Arrival::new(what, File::from(file), size, None));
        let result = self.copy(input, &arrival);
        if result.is_err() {
            arrival.abandon();
        }
        let (digest, job) = result?;
        self.incoming.add(name, digest.clone(), size);
        if let Some(job) = job {
            self.shared.lock().spooled.insert(digest.clone(), job);
        }
        Ok(digest)
    }

    fn copy(
        &mut self,
        input: &mut dyn Read,
        arrival: &Arc<Arrival>,
    ) -> Result<(Digest, Option<Arc<Job>>)> {
        let mut buffer = vec![0; BUFFER];
        let mut job = None;
        loop {
            let n = match input.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(Error::stream("the archive"))?,
            };
            if n == 0 {
                return Ok((arrival.finish()?, job));
            }
            let is_first = arrival.written() == 0;
            arrival.write(&buffer[..n])?;
            if is_first && begins_like_a_layer(&buffer[..n]) {
                job = Some(self.begin(arrival)?);
            }
        }
    }

    fn begin(&mut self, arrival: &Arc<Arrival>) -> Result<Arc<Job>> {
        let job = Arc::new(Job {
            done: AtomicU64::new(0),
            result: Mutex::new(Outcome::Pending),
        });
        if self.workers.len() < self.incoming.inner().slots.total() {
            let (incoming, shared) = (self.incoming.clone(), self.shared.clone());
            let worker = std::thread::Builder::new()
                .name("store-ahead".to_owned())
                .spawn(move || work(&incoming, &shared))
                .map_err(Error::io("start", "a thread"))?;
            self.workers.push(worker);
        }
        let waiting = (arrival.clone(), job.clone());
        self.shared.lock().waiting.push_back(waiting);
        self.shared.changed.notify_all();
        Ok(job)
    }

    /// The layer in a blob, if it was taken for one; waits for its end.
    pub(super) fn take(&self, blob: &str, report: &mut dyn FnMut(u64)) -> Option<NewLayer> {
        let mut jobs = self.shared.lock();
        let job = jobs.spooled.remove(blob)?;
        loop {
            let mut outcome = job.lock();
            match std::mem::replace(&mut *outcome, Outcome::Nothing) {
                Outcome::Unpacked(layer) => return Some(layer),
                Outcome::Nothing => return None,
                Outcome::Pending => *outcome = Outcome::Pending,
            }
            drop(outcome);
            let lock = self.shared.changed.wait_timeout(jobs, REPORT);
            drop(lock.unwrap_or_else(PoisonError::into_inner));
            report(job.done.load(Ordering::Relaxed));
            jobs = self.shared.lock();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<(Arc<Arrival>, Arc<Job>)> {
        let mut jobs = self.lock();
        while !jobs.ended {
            if let Some(next) = jobs.waiting.pop_front() {
                return Some(next);
            }
            let woken = self.changed.wait(jobs);
            jobs = woken.unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(incoming: &Incoming, shared: &Shared) {
    while let Some((arrival, job)) = shared.next() {
        let outcome = unpack(incoming, shared, &arrival, &job).unwrap_or_else(|error| {
            // If it is one after all, it is tried again and this is told.
            tracing::debug!(%error, "a member of an archive is no layer");
            Outcome::Nothing
        });
        drop(arrival);
        // Under the lock that `take` waits with.
        let _jobs = shared.lock();
        *job.lock() = outcome;
        shared.changed.notify_all();
    }
}

fn unpack(
    incoming: &Incoming,
    shared: &Shared,
    arrival: &Arc<Arrival>,
    job: &Job,
) -> Result<Outcome> {
    let inner = incoming.inner();
    let known = |digest: &Digest| incoming.knows_layer_of(digest);
    if arrival.done().as_ref().is_some_and(known) {
        return Ok(Outcome::Nothing);
    }
    let reader = arrival.reader().with_slot(inner.slots.slot());
    let reader = Stoppable(reader, &shared.stop);
    let mut report = |done| job.done.store(done, Ordering::Relaxed);
    let unpacked = unpack_blob(inner, incoming.work(), reader, arrival.size(), &mut report)?;
    // A plain blob's digest, known now that it was read to its end.
    let found = unpacked.diff_id.or_else(|| arrival.done());
    Ok(found.map_or(Outcome::Nothing, |diff_id| {
        Outcome::Unpacked(NewLayer {
            diff_id,
            directory: unpacked.directory,
            layer: unpacked.layer,
        })
    }))
}

/// Ends early when nobody wants the layer any more.
struct Stoppable<'a, R>(R, &'a AtomicBool);

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.0.read(buffer)
    }
}

fn begins_like_a_layer(start: &[u8]) -> bool {
    let is_tar = start.get(257..262) == Some(b"ustar");
    let is_packed =
        start.starts_with(&[0x1f, 0x8b]) || start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    is_tar || is_packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use crate::testing::Tar;

    /// An archive may hold more layers than a process may have files open.
    #[test]
    fn layers_that_are_unpacked_hold_no_file_open() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut ahead = Ahead::new(Incoming::new(&store.inner, "test").unwrap());
        let mut last = Digest::new();
        for n in 0..40 {
            let layer = Tar::default().file("f", &[n; 70_000]).finish();
            let size = layer.len() as u64;
            last = ahead.spool(&mut layer.as_slice(), size, None).unwrap();
        }
        assert!(ahead.take(&last, &mut |_| {}).is_some());
        let root = dir.path().canonicalize().unwrap();
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let open = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
        let blobs = open.filter(|path| {
            path.starts_with(&root) && path.display().to_string().contains("/blob-")
        });
        // The other workers may not be done.
        assert!(blobs.count() <= store.inner.slots.total());
    }
}
