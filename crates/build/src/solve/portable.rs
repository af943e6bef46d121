//! Records on their way to another engine: what `--cache-to` writes and
//! `--cache-from` reads.
//!
//! ```text
//! {"version": 1, "records": [{"keys": ["<hex>"], "layer": 0, "description": "RUN make"}]}
//! ```
//!
//! `layer` is the place of the result's layer in a list that comes with the
//! document (an image's diff IDs, a manifest's layers); none: it changed
//! nothing. Keys are believed, as BuildKit believes them: who names a cache
//! trusts whoever wrote it. Layers are not: they are named by what is in them.

use std::collections::{BTreeSet, HashMap};

use berth_store::Digest;
use serde::{Deserialize, Serialize};

use super::cache::NewRecord;
use super::{Cache, Error, Solved};
use crate::graph::{Graph, Id, Op};
use crate::tree::Layer;

/// In an image's configuration.
pub const INLINE: &str = "berth.build.cache.v1";

const VERSION: u32 = 1;
/// Bounds of a document that is read.
const MAX_RECORDS: usize = 20_000;
const MAX_DESCRIPTION: usize = 4096;
const KEY_LENGTH: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    version: u32,
    records: Vec<Portable>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Portable {
    keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
    description: String,
}

/// What the filesystem of a vertex was built on, itself included: the steps of
/// its own stage and what that stands on. Not what was only copied from.
pub fn own_steps(graph: &Graph, output: Id) -> BTreeSet<Id> {
    let mut steps = BTreeSet::new();
    let mut next = vec![output];
    while let Some(id) = next.pop() {
        let Some(vertex) = graph.vertices.get(id) else {
            continue;
        };
        if !steps.insert(id) {
            continue;
        }
        match &vertex.op {
            Op::Exec(exec) => next.extend(exec.root.and_then(|at| vertex.inputs.get(at))),
            Op::Files(files) => next.extend(files.base.and_then(|at| vertex.inputs.get(at))),
            Op::Merge => next.extend(&vertex.inputs),
            Op::Image(_) | Op::Local(_) | Op::Git(_) | Op::Http(_) => {}
        }
    }
    steps
}

impl Document {
    /// Of the results of steps. `places`: where each layer will be; results
    /// with another layer are left out.
    pub fn write(
        solved: &Solved,
        graph: &Graph,
        steps: impl IntoIterator<Item = Id>,
        places: &HashMap<&str, usize>,
    ) -> Self {
        let mut records = Vec::new();
        for id in steps {
            let Some(Some(done)) = solved.vertices.get(id) else {
                continue;
            };
            if done.keys.is_empty() {
                continue;
            }
            let layer = match done.layer() {
                None => None,
                Some(layer) => match places.get(layer.digest.as_str()) {
                    Some(place) => Some(*place),
                    None => continue,
                },
            };
            let name = graph.vertices.get(id).map(|vertex| vertex.name.as_str());
            let record = Portable {
                keys: done.keys.clone(),
                layer,
                description: name.unwrap_or_default().to_owned(),
            };
            if !records.contains(&record) {
                records.push(record);
            }
        }
        Self {
            version: VERSION,
            records,
        }
    }

    /// # Errors
    /// `Invalid` for whatever is none.
    pub fn read(json: &serde_json::Value) -> Result<Self, Error> {
        let invalid = |why: &str| Error::Invalid(format!("the build cache is not valid: {why}"));
        let document = Self::deserialize(json).map_err(|error| invalid(&error.to_string()))?;
        if document.version != VERSION {
            return Err(invalid("it is of another version"));
        }
        if document.records.len() > MAX_RECORDS {
            return Err(invalid("it has too many entries"));
        }
        let is_key = |key: &String| {
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            key.len() == KEY_LENGTH && key.bytes().all(is_hex)
        };
        for record in &document.records {
            let is_short = record.description.len() <= MAX_DESCRIPTION;
            if !(1..=2).contains(&record.keys.len()) || !record.keys.iter().all(is_key) {
                return Err(invalid("an entry has no key"));
            }
            if !is_short || record.description.chars().any(char::is_control) {
                return Err(invalid("an entry has a description that is none"));
            }
        }
        Ok(document)
    }

    /// Places of the layers whose results are not known here yet.
    pub fn wanted(&self, cache: &Cache) -> BTreeSet<usize> {
        let unknown = (self.records.iter()).filter(|record| !cache.knows(&record.keys));
        unknown.filter_map(|record| record.layer).collect()
    }

    /// Layers of results, none twice, in the order of steps.
    pub fn layers(solved: &Solved, steps: impl IntoIterator<Item = Id>) -> Vec<Digest> {
        let mut layers: Vec<Digest> = Vec::new();
        for id in steps {
            let Some(Some(done)) = solved.vertices.get(id) else {
                continue;
            };
            if let Some(layer) = done.layer()
                && !done.keys.is_empty()
                && !layers.contains(&layer.digest)
            {
                layers.push(layer.digest.clone());
            }
        }
        layers
    }
}

impl Cache {
    fn knows(&self, keys: &[String]) -> bool {
        keys.last().is_some_and(|key| self.has_key(key))
    }

    /// Takes the records in whose layers are given (by place) and here; what is
    /// known stays. How many came in. Blocking, short.
    pub fn import(
        &self,
        document: &Document,
        layers: &HashMap<usize, Layer>,
    ) -> Result<usize, Error> {
        let session = self.session().map_err(|failed| failed.error)?;
        let mut count = 0;
        for record in &document.records {
            let layer = match record.layer {
                None => None,
                Some(place) => match layers.get(&place) {
                    Some(layer) => Some(layer.clone()),
                    None => continue,
                },
            };
            if self.knows(&record.keys) {
                continue;
            }
            session.add(NewRecord {
                keys: &record.keys,
                layer,
                timed: false,
                description: &record.description,
                parents: Vec::new(),
            })?;
            count += 1;
        }
        Ok(count)
    }
}
