//! What keeps layers that no image stands on: one pin per entry of the build
//! cache, in `pins.jsonl`. A line sets a pin or takes some away; the last one
//! counts. It is written anew, with what is left, when the store is opened and
//! when most of it says nothing any more.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::blob::open_file;
use crate::disk::replace_file;
use crate::error::{Error, Result};
use crate::state::State;
use crate::store::{Inner, crash_point};
use crate::{Digest, Store};

const PINS: &str = "pins.jsonl";

/// Lines that may say nothing any more, besides as many as there are pins.
const SPARE_LINES: usize = 1000;

/// Keeps layers from collection for as long as it stands, through restarts.
/// One per entry of the build cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Unique; a pin of the same key is replaced.
    pub key: String,
    /// Diff IDs.
    pub layers: Vec<Digest>,
    /// Whatever its owner wants to know of it (JSON).
    pub data: String,
}

/// A line of `pins.jsonl`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Pin(Saved),
    Unpin(Vec<String>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    pin: Pin,
    /// Number of the publication that set it: see [`crate::durable`].
    #[serde(default)]
    publication: u64,
}

impl Line {
    fn write(&self, text: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(&mut *text, self)
            .map_err(io::Error::from)
            .map_err(Error::io("encode", PINS))?;
        text.push(b'\n');
        Ok(())
    }
}

/// All pins, by key; the number says which was set before which.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    by_key: HashMap<String, (u64, Saved)>,
    serial: u64,
    /// In the file.
    lines: usize,
}

impl Pins {
    /// Diff IDs, some of them several times.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Digest> {
        (self.by_key.values()).flat_map(|(_, saved)| &saved.pin.layers)
    }

    fn in_order(&self) -> Vec<&Saved> {
        let mut all: Vec<_> = self.by_key.values().collect();
        all.sort_unstable_by_key(|(serial, _)| *serial);
        all.into_iter().map(|(_, saved)| saved).collect()
    }

    fn apply(&mut self, line: Line) {
        self.lines += 1;
        match line {
            Line::Pin(saved) => {
                self.serial += 1;
                let key = saved.pin.key.clone();
                self.by_key.insert(key, (self.serial, saved));
            }
            Line::Unpin(keys) => {
                for key in keys {
                    self.by_key.remove(&key);
                }
            }
        }
    }
}

impl Store {
    /// Written down before it returns (appended to `pins.jsonl`, not synced).
    ///
    /// # Errors
    /// `NotFound` if a layer is not here.
    pub fn pin(&self, pin: Pin) -> Result<()> {
        let inner = &*self.inner;
        let state = &mut *inner.state();
        if let Some(gone) = (pin.layers.iter()).find(|layer| !state.layers.contains_key(*layer)) {
            return Err(Error::NotFound(format!("No such layer: {gone}")));
        }
        let publication = state.publication + 1;
        let replaced = (state.pins.by_key.get(&pin.key))
            .is_some_and(|(_, old)| old.pin.layers.iter().any(|l| !pin.layers.contains(l)));
        inner.append_pins(state, Line::Pin(Saved { pin, publication }))?;
        state.publication = publication;
        inner.syncer.push(publication);
        if replaced {
            inner.collect(state);
        }
        Ok(())
    }

    /// Takes pins away, and collects what nothing stands on then. Unknown keys
    /// are ignored.
    pub fn unpin(&self, keys: &[String]) -> Result<()> {
        let inner = &*self.inner;
        let state = &mut *inner.state();
        let known = |key: &&String| state.pins.by_key.contains_key(*key);
        let keys: Vec<String> = keys.iter().filter(known).cloned().collect();
        if keys.is_empty() {
            return Ok(());
        }
        inner.append_pins(state, Line::Unpin(keys))?;
        inner.collect(state);
        Ok(())
    }

    /// All pins, in the order in which they were set.
    pub fn pins(&self) -> Vec<Pin> {
        let state = self.inner.state();
        let pins = state.pins.in_order().into_iter();
        pins.map(|saved| saved.pin.clone()).collect()
    }
}

impl Inner {
    /// Reads them. Pins whose layers are gone, and those that a power cut may
    /// have taken layers of (set after `durable`), are dropped.
    pub(crate) fn read_pins(&self, state: &mut State, durable: Option<u64>) -> Result<()> {
        let mut text = Vec::new();
        match open_file(&self.dirs.root, PINS) {
            Ok(mut file) => {
                let read = file.read_to_end(&mut text);
                read.map_err(Error::io("read", PINS))?
            }
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::io("open", PINS)(error)),
        };
        let mut pins = Pins::default();
        let mut damaged = 0;
        // What follows the last newline is of a write that did not end.
        let whole = text
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        let torn = whole < text.len();
        for line in text[..whole]
            .split(|&b| b == b'\n')
            .filter(|l| !l.is_empty())
        {
            match serde_json::from_slice(line) {
                Ok(line) => pins.apply(line),
                Err(_) => damaged += 1,
            }
        }
        let before = pins.by_key.len();
        pins.by_key.retain(|_, (_, saved)| {
            state.publication = state.publication.max(saved.publication);
            durable.is_none_or(|durable| saved.publication <= durable)
                && (saved.pin.layers.iter()).all(|layer| state.layers.contains_key(layer))
        });
        if damaged > 0 || pins.by_key.len() < before {
            let lost = before - pins.by_key.len();
            tracing::warn!(lost, damaged, "parts of the build cache are lost");
        }
        state.pins = pins;
        if torn || damaged > 0 || state.pins.lines > state.pins.by_key.len() {
            self.compact_pins(state)?;
        }
        Ok(())
    }

    /// Takes away the pins that keep a layer.
    pub(crate) fn unpin_layer(&self, state: &mut State, layer: &Digest) -> Result<()> {
        let saved = state.pins.in_order().into_iter();
        let keys: Vec<_> = saved
            .filter(|saved| saved.pin.layers.contains(layer))
            .map(|saved| saved.pin.key.clone())
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        self.append_pins(state, Line::Unpin(keys))
    }

    fn append_pins(&self, state: &mut State, line: Line) -> Result<()> {
        if state.pins.lines > 2 * state.pins.by_key.len() + SPARE_LINES {
            self.compact_pins(state)?;
        }
        let mut text = Vec::new();
        line.write(&mut text)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dirs.root, PINS, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(file.map_err(Error::io("open", PINS))?);
        let length = file.metadata().map_err(Error::io("look at", PINS))?.len();
        if let Err(error) = file.write_all(&text) {
            // Else the next line would be part of this one.
            let _ = file.set_len(length);
            return Err(Error::io("write", PINS)(error));
        }
        crash_point("pinned");
        state.pins.apply(line);
        Ok(())
    }

    fn compact_pins(&self, state: &mut State) -> Result<()> {
        let mut text = Vec::new();
        for saved in state.pins.in_order() {
            Line::Pin(saved.clone()).write(&mut text)?;
        }
        replace_file(&self.dirs.root, PINS, &self.dirs.tmp, &text)
            .map_err(Error::io("write", PINS))?;
        crash_point("pins");
        state.pins.lines = state.pins.by_key.len();
        Ok(())
    }
}
