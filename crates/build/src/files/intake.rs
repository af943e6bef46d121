//! Takes many contents in: several threads hash and write the small ones while
//! the caller reads on.

use std::io::{self, Read};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use berth_store::Digest;

use super::{Files, SMALL, read_exactly};

/// Small contents on their way, at most, and threads that take them.
const DEPTH: usize = 128;
/// Buffers of this size are used again.
const WORTH: usize = 64 << 10;
/// Bytes that are written together.
const BATCH: usize = 512 << 10;
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
    /// Buffers used before: a new one costs a page fault for each of its pages.
    empty: Receiver<Vec<u8>>,
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
        let mut bytes = match size as usize >= WORTH {
            true => self.empty.try_recv().unwrap_or_default(),
            false => Vec::new(),
        };
        read_exactly(size, input, &mut bytes)?;
        match self.sender.send((slot, bytes)) {
            Ok(()) => Ok(slot),
            // The thread that failed says why.
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Files {
    /// Adds contents that follow one another in a stream, by their sizes, as
    /// [`Files::add`] does; several threads hash and write.
    ///
    /// # Errors
    /// As of [`Files::add`]. The size asked for last says how far it got.
    pub fn add_all(
        &self,
        sizes: &mut dyn Iterator<Item = u64>,
        input: &mut dyn Read,
    ) -> io::Result<Vec<Digest>> {
        let body = |intake: &mut Intake<'_>| {
            for size in sizes {
                intake.add(size, input)?;
            }
            Ok(())
        };
        run(self, body).map(|((), digests)| digests)
    }
}

/// Lets `body` add contents; also their digests, by slot.
pub(crate) fn run<T>(
    files: &Files,
    body: impl FnOnce(&mut Intake<'_>) -> io::Result<T>,
) -> io::Result<(T, Vec<Digest>)> {
    let (sender, receiver) = sync_channel(DEPTH);
    let (give_back, empty) = channel();
    let queue = Mutex::new(Some(receiver));
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = (0..count.min(MAX_THREADS))
            .map(|_| {
                let (queue, give_back) = (&queue, give_back.clone());
                thread::Builder::new()
                    .name("build-intake".to_owned())
                    .spawn_scoped(scope, move || work(files, queue, &give_back))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let mut intake = Intake {
            files,
            sender,
            empty,
            digests: Vec::new(),
        };
        let result = body(&mut intake);
        let mut digests = intake.digests;
        drop(intake.sender);
        for thread in threads {
            let failed = |_| Err(io::Error::other("a thread that took files in ended early"));
            for (slot, digest) in thread.join().unwrap_or_else(failed)? {
                digests[slot] = digest;
            }
        }
        Ok((result?, digests))
    })
}

fn work(files: &Files, queue: &Mutex<Option<Receiver<Job>>>, give_back: &Sender<Vec<u8>>) -> Done {
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let mut done = Vec::new();
    loop {
        let jobs = match lock().as_ref() {
            Some(receiver) => batch(receiver),
            None => Vec::new(),
        };
        if jobs.is_empty() {
            return Ok(done);
        }
        let (slots, contents): (Vec<Slot>, Vec<Vec<u8>>) = jobs.into_iter().unzip();
        match files.add_several(&contents) {
            Ok(digests) => {
                done.extend(slots.into_iter().zip(digests));
                let worth = contents.into_iter().filter(|used| used.capacity() >= WORTH);
                for used in worth {
                    // Nobody wants it back at the end.
                    let _ = give_back.send(used);
                }
            }
            Err(error) => {
                // So that the sender does not wait for ever.
                *lock() = None;
                return Err(error);
            }
        }
    }
}

/// What is there, but not too much; nothing at the end.
fn batch(receiver: &Receiver<Job>) -> Vec<Job> {
    let mut jobs: Vec<Job> = receiver.recv().into_iter().collect();
    let mut size = 0;
    while let Some((_, last)) = jobs.last() {
        size += last.len();
        if size >= BATCH || jobs.len() >= DEPTH {
            break;
        }
        let Ok(next) = receiver.try_recv() else {
            break;
        };
        jobs.push(next);
    }
    jobs
}
