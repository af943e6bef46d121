//! Keys of results.

use std::fmt::Write as _;

use berth_store::Digest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Error;
use crate::tree::Layer;

/// Whatever changes what a key means, or how a layer is written, changes this.
const VERSION: &[u8] = b"berth build 1";

/// Hashes parts, each with its length, so that no two lists of parts are one.
#[derive(Clone)]
pub(super) struct Key(Sha256);

impl Key {
    /// Of an operation that writes files of that time.
    pub(super) fn of(operation: &impl Serialize, time: i64) -> Result<Self, Error> {
        let json = serde_json::to_vec(operation)
            .map_err(|error| Error::System(format!("cannot name a step: {error}")))?;
        let mut key = Self(Sha256::new());
        key.part(VERSION);
        key.part(&json);
        key.part(&time.to_le_bytes());
        Ok(key)
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// A root filesystem.
    pub(super) fn chain(&mut self, chain: &[Layer]) {
        self.part(b"chain");
        self.part(&(chain.len() as u64).to_le_bytes());
        for layer in chain {
            self.part(layer.digest.as_bytes());
        }
    }

    /// Files, by their digest.
    pub(super) fn content(&mut self, digest: &Digest) {
        self.part(b"content");
        self.part(digest.as_bytes());
    }

    /// Lower-case hexadecimal.
    pub(super) fn finish(self) -> String {
        let mut hex = String::with_capacity(64);
        for byte in self.0.finalize() {
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }
}
