//! Takes many contents in: several threads hash and write the small ones while
//! the caller reads on.

use std::io::{self, Read};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use berth_store::Digest;

use super::{Files, SMALL, read_exactly};

/// Small contents on their way, at most, and threads that take them.
const DEPTH: usize = 64;
const MAX_THREADS: usize = 4;

/// Stands for a content whose digest comes at the end: an index into what
/// [`run`] returns.
pub(crate) type Slot = usize;

type Job = (Slot, Vec<u8>);
type Done = io::Result<Vec<(Slot, Digest)>>;

/// Contents on their way.
pub(crate) struct Intake<'a> {
    files: &'a Files,
    sender: SyncSender<Job>,
    /// By slot; empty where it is not known yet.
    digests: Vec<Digest>,
}

impl Intake<'_> {
    /// The next `size` bytes of a stream.
    pub(crate) fn add(&mut self, size: u64, input: &mut dyn Read) -> io::Result<Slot> {
        let slot = self.digests.len();
        if size > SMALL {
            self.digests.push(self.files.add(size, input)?);
            return Ok(slot);
        }
        self.digests.push(Digest::new());
        let bytes = read_exactly(size, input)?;
        // Fails when all threads have: they say why at the end.
        let _ = self.sender.send((slot, bytes));
        Ok(slot)
    }
}

/// Lets `body` add contents; also their digests, by slot.
pub(crate) fn run<T>(
    files: &Files,
    body: impl FnOnce(&mut Intake<'_>) -> io::Result<T>,
) -> io::Result<(T, Vec<Digest>)> {
    let (sender, receiver) = sync_channel(DEPTH);
    let queue = Mutex::new(Some(receiver));
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = (0..count.min(MAX_THREADS))
            .map(|_| {
                thread::Builder::new()
                    .name("build-intake".to_owned())
                    .spawn_scoped(scope, || work(files, &queue))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let mut intake = Intake {
            files,
            sender,
            digests: Vec::new(),
        };
        let result = body(&mut intake)?;
        let mut digests = intake.digests;
        drop(intake.sender);
        for thread in threads {
            let failed = |_| Err(io::Error::other("a thread that took files in ended early"));
            for (slot, digest) in thread.join().unwrap_or_else(failed)? {
                digests[slot] = digest;
            }
        }
        Ok((result, digests))
    })
}

fn work(files: &Files, queue: &Mutex<Option<Receiver<Job>>>) -> Done {
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let mut done = Vec::new();
    loop {
        let next = lock().as_ref().map(Receiver::recv);
        let Some(Ok((slot, bytes))) = next else {
            return Ok(done);
        };
        match files.add_bytes(&bytes) {
            Ok(digest) => done.push((slot, digest)),
            Err(error) => {
                // So that the sender does not wait for ever.
                *lock() = None;
                return Err(error);
            }
        }
    }
}
