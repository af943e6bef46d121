//! What the cache holds, for people, and why it stays.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use berth_store::Digest;

use super::{Cache, Error, Record};

/// Kinds of what is kept, as BuildKit names them.
pub const REGULAR: &str = "regular";
pub const CACHE_MOUNT: &str = "exec.cachemount";
pub const LOCAL: &str = "source.local";
pub const GIT: &str = "source.git.checkout";

/// One thing that is kept. Times are nanoseconds since 1970, sizes bytes on
/// disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub id: String,
    pub kind: String,
    pub description: String,
    pub parents: Vec<String>,
    /// What two rows have in common is in the older one's.
    pub size: u64,
    /// The part of the size that nothing but the cache keeps.
    pub own: u64,
    /// A running build uses it.
    pub in_use: bool,
    /// Images that have it as well; then removing it gives no space back.
    pub images: Vec<String>,
    /// A container's writable part stands on it.
    pub has_container: bool,
    pub created: u64,
    pub last_used: Option<u64>,
    pub usage_count: u64,
}

impl Row {
    /// Others keep it, too.
    pub fn is_shared(&self) -> bool {
        !self.images.is_empty() || self.has_container
    }

    /// Why a collection would leave it, for people.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.in_use {
            reasons.push("in use by a running build".to_owned());
        }
        for image in &self.images {
            reasons.push(format!("shared with image {image}"));
        }
        if self.has_container {
            reasons.push("shared with a container".to_owned());
        }
        reasons
    }
}

/// What is kept of builds beside layers: cache mounts, contexts, checkouts.
/// Blocking.
pub trait Shelf: Debug + Send + Sync {
    /// All that is on it, measured.
    fn rows(&self) -> Vec<Row>;
    /// False: a running build uses it, or it is gone.
    fn remove(&self, id: &str) -> Result<bool, Error>;
}

/// Who else has a layer, and how large it is on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    pub size: u64,
    /// As people know them.
    pub images: Vec<String>,
    pub has_container: bool,
}

impl Cache {
    /// Has what is on a shelf listed and collected with the records.
    pub fn register(&self, shelf: Arc<dyn Shelf>) {
        self.shelves().push(shelf);
    }

    /// All that is kept, oldest first. Blocking: what was not measured yet is
    /// walked.
    pub fn usage(&self) -> Result<Vec<Row>, Error> {
        let mut stock = Stock::take(self)?;
        let mut seen = HashSet::new();
        let mut rows: Vec<Row> = (stock.records.iter())
            .map(|record| {
                let mut row = stock.row(record);
                row.in_use = self.in_use(&record.id);
                let layers = record.layers().into_iter();
                let first = layers.filter(|layer| seen.insert(layer.clone()));
                (row.size, row.own) = stock.sizes(first);
                row
            })
            .collect();
        rows.append(&mut stock.others);
        rows.sort_by_key(|row| row.created);
        Ok(rows)
    }
}

/// What there is, at one moment.
pub(super) struct Stock {
    /// Oldest first.
    pub(super) records: Vec<Record>,
    layers: HashMap<Digest, Measured>,
    /// What is on shelves.
    pub(super) others: Vec<Row>,
}

impl Stock {
    pub(super) fn take(cache: &Cache) -> Result<Self, Error> {
        let mut records = cache.records();
        records.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        let shelves = cache.shelves().clone();
        Ok(Self {
            layers: cache.layers().measure()?,
            others: shelves.iter().flat_map(|shelf| shelf.rows()).collect(),
            records,
        })
    }

    pub(super) fn size(&self, layer: &Digest) -> u64 {
        self.layers.get(layer).map_or(0, |layer| layer.size)
    }

    /// Of layers, and of those that nothing but records keeps.
    fn sizes(&self, layers: impl Iterator<Item = Digest>) -> (u64, u64) {
        layers.fold((0, 0), |(all, own), layer| {
            let size = self.size(&layer);
            let is_own = !self.is_shared(&layer);
            (all + size, own + if is_own { size } else { 0 })
        })
    }

    /// Whether something else than records keeps it.
    pub(super) fn is_shared(&self, layer: &Digest) -> bool {
        (self.layers.get(layer))
            .is_some_and(|layer| !layer.images.is_empty() || layer.has_container)
    }

    /// Of all its layers, whoever else has them.
    pub(super) fn row(&self, record: &Record) -> Row {
        let layers = record.layers();
        let measured: Vec<_> = (layers.iter())
            .filter_map(|layer| self.layers.get(layer))
            .collect();
        let mut images: Vec<String> = (measured.iter())
            .flat_map(|layer| layer.images.iter().cloned())
            .collect();
        images.sort();
        images.dedup();
        let (size, own) = self.sizes(layers.iter().cloned());
        Row {
            id: record.id.clone(),
            kind: REGULAR.to_owned(),
            description: record.description.clone(),
            parents: record.parents.clone(),
            size,
            own,
            in_use: false,
            images,
            has_container: measured.iter().any(|layer| layer.has_container),
            created: record.created,
            last_used: Some(record.last_used),
            usage_count: record.usage_count,
        }
    }
}
