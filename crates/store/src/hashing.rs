//! A digest of much, made by a thread of its own, of little without one.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::blob::name_digest;

/// Bytes that are handed over at once, and how many such pieces wait at most.
const PIECE: usize = 128 << 10;
const DEPTH: usize = 8;

/// From this length on a thread is worth starting.
const MUCH: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Hashing {
    piece: Vec<u8>,
    length: u64,
    /// Of what the thread has not got.
    hasher: Sha256,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    pieces: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<Sha256>,
}

impl Hashing {
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let now = bytes.len().min(PIECE - self.piece.len());
            self.piece.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            if self.piece.len() == PIECE {
                self.hand_over();
            }
        }
    }

    /// The digest and length of all.
    pub(crate) fn finish(mut self) -> (Digest, u64) {
        let mut hasher = match self.worker.take() {
            None => self.hasher,
            Some(worker) => {
                drop(worker.pieces);
                // It does nothing that could panic.
                worker.thread.join().unwrap_or_default()
            }
        };
        hasher.update(&self.piece);
        (name_digest(hasher), self.length)
    }

    fn hand_over(&mut self) {
        if self.worker.is_none() && self.length >= MUCH {
            self.worker = Worker::start(&mut self.hasher);
        }
        let Some(worker) = &self.worker else {
            self.hasher.update(&self.piece);
            self.piece.clear();
            return;
        };
        let next = worker.empty.try_recv();
        let next = next.unwrap_or_else(|_| Vec::with_capacity(PIECE));
        // The thread ends when the sender is gone, not before.
        let _ = worker.pieces.send(std::mem::replace(&mut self.piece, next));
    }
}

impl Worker {
    /// Goes on where `hasher` is; none if no thread is to be had.
    fn start(hasher: &mut Sha256) -> Option<Self> {
        let (pieces, queue) = sync_channel::<Vec<u8>>(DEPTH);
        let (give_back, empty) = sync_channel(DEPTH + 2);
        let mut taken = hasher.clone();
        let thread = std::thread::Builder::new()
            .name("store-hash".to_owned())
            .spawn(move || {
                for mut piece in queue {
                    taken.update(&piece);
                    piece.clear();
                    // Dropped if there are enough of them.
                    let _ = give_back.try_send(piece);
                }
                taken
            })
            .ok()?;
        Some(Self {
            pieces,
            empty,
            thread,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::digest_of;

    #[test]
    fn little_and_much_are_hashed_alike() {
        let bytes: Vec<u8> = (0..3_000_003u32).map(|n| (n % 251) as u8).collect();
        for length in [0, 1, PIECE, 5 * PIECE + 7, bytes.len()] {
            for step in [512, 100_000, 1 << 20] {
                let mut hashing = Hashing::default();
                bytes[..length].chunks(step).for_each(|c| hashing.update(c));
                let expected = (digest_of(&bytes[..length]), length as u64);
                assert_eq!(hashing.finish(), expected);
            }
        }
    }
}
