//! A file that one writes while others read it from the beginning.
//!
//! The writer hashes what it writes, so that the end is known to be right when
//! it is reached. Readers wait on a condition variable and read with `pread`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::blob::name_digest;
use crate::error::{Error, Result, invalid};
use crate::slots::Slot;

/// Bytes per read when what an earlier try left is hashed.
const BUFFER: usize = 256 << 10;

/// The shared state of one arriving file.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// For people: "blob sha256:…".
    what: String,
    file: File,
    size: u64,
    /// What the content must hash to, if that is known before.
    expected: Option<Digest>,
    hasher: Mutex<Sha256>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Bytes that are there and hashed.
    written: u64,
    has_writer: bool,
    /// Grows when readers must give up, with the reason.
    broken: u64,
    reason: Option<Break>,
    done: Option<Digest>,
}

/// Why readers were told to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Break {
    /// The writer went away; the bytes stay for the next one.
    Abandoned,
    /// The source gave something else: it begins again.
    Restarted,
    /// The whole had a wrong digest and was thrown away.
    Wrong,
}

impl Arrival {
    /// A file without content, opened for reading and writing; whoever makes
    /// it is its writer.
    pub(crate) fn new(what: String, file: File, size: u64, expected: Option<Digest>) -> Self {
        Self {
            what,
            file,
            size,
            expected,
            hasher: Mutex::default(),
            progress: Mutex::new(Progress {
                has_writer: true,
                ..Progress::default()
            }),
            changed: Condvar::new(),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hasher(&self) -> MutexGuard<'_, Sha256> {
        self.hasher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn written(&self) -> u64 {
        self.progress().written
    }

    /// The digest, once all is there and verified.
    pub(crate) fn done(&self) -> Option<Digest> {
        self.progress().done.clone()
    }

    /// Makes the caller the writer if there is none and one is needed.
    pub(crate) fn claim(&self) -> bool {
        let mut progress = self.progress();
        let claimed = !progress.has_writer && progress.done.is_none();
        progress.has_writer |= claimed;
        claimed
    }

    /// Takes up what an earlier process left in the file. A whole blob that
    /// proves right needs no writer any more.
    pub(crate) fn resume(&self) -> Result<()> {
        let length = self.file.metadata().map_err(self.failed("look at"))?.len();
        if length > self.size {
            return self.reset(None);
        }
        let mut buffer = vec![0; BUFFER];
        let mut at = 0;
        while at < length {
            let n = match self.file.read_at(&mut buffer, at) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(self.failed("read"))?,
            };
            if n == 0 {
                break;
            }
            self.hasher().update(&buffer[..n]);
            at += n as u64;
            self.progress().written = at;
            self.changed.notify_all();
        }
        if at == self.size {
            match self.finish() {
                // It never was right; the writer begins anew.
                Err(Error::Invalid(_)) => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// Appends. For the writer only.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        let at = self.progress().written;
        let room = self.size - at;
        if bytes.len() as u64 > room {
            return invalid(format!(
                "{} is longer than the {} bytes that were announced",
                self.what, self.size
            ));
        }
        if let Err(error) = self.file.write_all_at(bytes, at) {
            // What was written in part does not count; the next try goes on.
            let _ = self.file.set_len(at);
            return Err(self.failed("write")(error));
        }
        self.hasher().update(bytes);
        self.progress().written = at + bytes.len() as u64;
        self.changed.notify_all();
        Ok(())
    }

    /// Throws away what is there.
    pub(crate) fn restart(&self) -> Result<()> {
        if self.written() == 0 {
            return Ok(());
        }
        self.reset(Some(Break::Restarted))
    }

    fn reset(&self, reason: Option<Break>) -> Result<()> {
        let mut progress = self.progress();
        self.file.set_len(0).map_err(self.failed("empty"))?;
        *self.hasher() = Sha256::new();
        progress.written = 0;
        if let Some(reason) = reason {
            progress.broken += 1;
            progress.reason = Some(reason);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Verifies length and digest; readers reach the end. If the digest is
    /// wrong the bytes are thrown away.
    pub(crate) fn finish(&self) -> Result<Digest> {
        let written = self.written();
        if written < self.size {
            return invalid(format!(
                "{} is short: {written} of {} bytes",
                self.what, self.size
            ));
        }
        let digest = name_digest(self.hasher().clone());
        if let Some(expected) = &self.expected
            && *expected != digest
        {
            self.reset(Some(Break::Wrong))?;
            return invalid(format!(
                "{} does not match its digest: its content has {digest}",
                self.what
            ));
        }
        let mut progress = self.progress();
        progress.done = Some(digest.clone());
        progress.has_writer = false;
        self.changed.notify_all();
        Ok(digest)
    }

    /// The writer goes away.
    pub(crate) fn abandon(&self) {
        let mut progress = self.progress();
        if progress.done.is_none() && progress.has_writer {
            progress.has_writer = false;
            progress.broken += 1;
            progress.reason = Some(Break::Abandoned);
            self.changed.notify_all();
        }
    }

    pub(crate) fn reader(self: &Arc<Self>) -> ArrivalReader {
        ArrivalReader {
            broken: self.progress().broken,
            arrival: self.clone(),
            position: 0,
            slot: None,
        }
    }

    fn failed<E: Into<io::Error>>(&self, action: &'static str) -> impl FnOnce(E) -> Error {
        Error::io(action, &self.what)
    }
}

/// Reads from the beginning and waits for what has not come yet.
#[derive(Debug)]
pub(crate) struct ArrivalReader {
    arrival: Arc<Arrival>,
    position: u64,
    broken: u64,
    /// Given back while waiting: who waits for a network needs no processor.
    slot: Option<Slot>,
}

impl ArrivalReader {
    pub(crate) fn with_slot(mut self, slot: Slot) -> Self {
        self.slot = Some(slot);
        self
    }

    /// Bytes to read, or none at the end; waits until one or the other is true.
    fn available(&mut self) -> io::Result<u64> {
        let Self {
            arrival,
            position,
            broken,
            slot,
        } = self;
        let mut progress = arrival.progress();
        loop {
            if progress.broken != *broken {
                return Err(interrupted(&arrival.what, progress.reason));
            }
            if progress.written > *position {
                return Ok(progress.written - *position);
            }
            if progress.done.is_some() {
                return Ok(0);
            }
            // It went away before this reader began: nobody would wake it.
            if !progress.has_writer {
                return Err(interrupted(&arrival.what, Some(Break::Abandoned)));
            }
            let Some(slot) = slot else {
                progress = wait(&arrival.changed, progress);
                continue;
            };
            if slot.is_taken() {
                drop(progress);
                slot.give_back();
                progress = arrival.progress();
            } else {
                progress = wait(&arrival.changed, progress);
            }
        }
    }

    /// Why reading failed, if the writer was the cause.
    pub(crate) fn why(arrival: &Arrival, broken: u64) -> Option<(Break, Error)> {
        let progress = arrival.progress();
        let reason = progress.reason.filter(|_| progress.broken != broken)?;
        let source = interrupted(&arrival.what, Some(reason));
        Some((
            reason,
            Error::Io {
                action: "read",
                path: arrival.what.clone(),
                source,
            },
        ))
    }

    pub(crate) fn broken(&self) -> u64 {
        self.broken
    }
}

impl Read for ArrivalReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let available = self.available()?;
            if let Some(slot) = &mut self.slot {
                slot.take();
            }
            if available == 0 {
                return Ok(0);
            }
            let want = usize::try_from(available)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let n = self
                .arrival
                .file
                .read_at(&mut buffer[..want], self.position)?;
            // Nothing although there was something: it has just begun anew.
            if n > 0 || want == 0 {
                self.position += n as u64;
                return Ok(n);
            }
        }
    }
}

fn wait<'a>(changed: &Condvar, progress: MutexGuard<'a, Progress>) -> MutexGuard<'a, Progress> {
    changed
        .wait(progress)
        .unwrap_or_else(PoisonError::into_inner)
}

fn interrupted(what: &str, reason: Option<Break>) -> io::Error {
    let text = match reason {
        Some(Break::Wrong) => "its content had a wrong digest",
        Some(Break::Restarted) => "its source began anew",
        Some(Break::Abandoned) | None => "its download was interrupted",
    };
    io::Error::new(io::ErrorKind::ConnectionAborted, format!("{what}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_begins_after_the_writer_left_is_told() {
        let file = tempfile::tempfile().unwrap();
        let arrival = Arc::new(Arrival::new("blob x".into(), file, 10, None));
        arrival.write(b"12345").unwrap();
        arrival.abandon();
        let mut reader = arrival.reader();
        let mut buffer = [0; 10];
        assert_eq!(reader.read(&mut buffer).unwrap(), 5);
        let error = reader.read(&mut buffer).unwrap_err();
        assert!(error.to_string().contains("was interrupted"), "{error}");
        // Whoever takes over serves those who come then.
        assert!(arrival.claim());
        let mut reader = arrival.reader();
        arrival.write(b"67890").unwrap();
        arrival.finish().unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1234567890");
    }
}
