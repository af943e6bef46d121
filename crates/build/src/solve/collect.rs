//! Giving space back: rules as BuildKit's, least recently used first.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use berth_store::Digest;

use super::usage::{CACHE_MOUNT, GIT, LOCAL, Row, Stock};
use super::{Cache, Error};

/// What one rule takes away. All 0 and no condition: all that may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Also what images have as well.
    pub all: bool,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// What was used within this time stays.
    pub keep_duration: Duration,
    /// Bytes that always may stay.
    pub reserved: u64,
    /// Bytes that may be used at most; 0 = no bound.
    pub max_used: u64,
    /// Bytes that should be free on the disk; 0 = no bound.
    pub min_free: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Part of an id.
    Id(String),
    Parent(String),
    /// One of these.
    Kind(Vec<String>),
    Description(String),
    InUse(bool),
    Shared(bool),
}

impl Condition {
    fn holds(&self, row: &Row) -> bool {
        match self {
            Self::Id(part) => row.id.contains(part.as_str()),
            Self::Parent(parent) => row.parents.contains(parent),
            Self::Kind(kinds) => kinds.contains(&row.kind),
            Self::Description(text) => row.description == *text,
            Self::InUse(wanted) => row.in_use == *wanted,
            Self::Shared(wanted) => row.is_shared() == *wanted,
        }
    }
}

/// The data root's file system; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub total: u64,
    pub free: u64,
}

impl Disk {
    /// That a path is on.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Self {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub removed: Vec<Row>,
    /// Bytes that come back.
    pub space: u64,
}

/// Bounds of the default rules; bytes, 0 = not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub reserved: u64,
    pub max_used: u64,
    pub min_free: u64,
}

/// Docker's rules, when the configuration has none of its own: with no bounds
/// given, a tenth of the disk is reserved, four fifths may be used, a fifth
/// should be free.
pub fn default_rules(given: Bounds, disk: Disk) -> Vec<Rule> {
    const GIGABYTE: u64 = 1_000_000_000;
    let share = |percent: u64| (((disk.total / 100 * percent) >> 30) + 1) * GIGABYTE;
    let bounds = match given {
        Bounds {
            reserved: 0,
            max_used: 0,
            min_free: 0,
        } => Bounds {
            reserved: share(10),
            max_used: share(80),
            min_free: share(20),
        },
        given => given,
    };
    let day = Duration::from_secs(24 * 3600);
    let rule = Rule {
        reserved: bounds.reserved,
        max_used: bounds.max_used,
        min_free: bounds.min_free,
        ..Rule::default()
    };
    // BuildKit's figure, from π, e and the golden ratio: about a seventh.
    let temporary = (bounds.reserved as f64 * 0.138_175).round() as u64;
    vec![
        // What is easily had again goes first.
        Rule {
            conditions: vec![Condition::Kind(
                [LOCAL, CACHE_MOUNT, GIT].map(str::to_owned).to_vec(),
            )],
            keep_duration: 2 * day,
            max_used: temporary.max(512_000_000),
            ..Rule::default()
        },
        Rule {
            keep_duration: 60 * day,
            ..rule.clone()
        },
        rule.clone(),
        Rule { all: true, ..rule },
    ]
}

impl Rule {
    /// Bytes to come down to, of `used`; none: there are no bounds.
    pub fn target(&self, used: u64, disk: Disk) -> Option<u64> {
        if self.reserved == 0 && self.max_used == 0 && self.min_free == 0 {
            return None;
        }
        let missing = self.min_free.saturating_sub(disk.free);
        let for_disk = used.saturating_sub(missing);
        let target = match (self.max_used, self.min_free) {
            (0, 0) => 0,
            (0, _) => for_disk,
            (max, _) if missing > 0 => max.min(for_disk),
            (max, _) => max,
        };
        Some(target.max(self.reserved))
    }

    fn takes(&self, row: &Row, now: u64) -> bool {
        let kept = u64::try_from(self.keep_duration.as_nanos()).unwrap_or(u64::MAX);
        let is_fresh = kept > 0
            && row
                .last_used
                .is_some_and(|used| used > now.saturating_sub(kept));
        !row.in_use
            && !is_fresh
            && (self.all || !row.is_shared())
            && self.conditions.iter().all(|condition| condition.holds(row))
    }
}

impl Cache {
    /// Applies rules, one after the other. Never takes what a running build
    /// uses. `now`: nanoseconds since 1970. Blocking.
    pub fn collect(&self, rules: &[Rule], disk: Disk, now: u64) -> Result<Collected, Error> {
        let mut ledger = Ledger::new(Stock::take(self)?);
        let mut done = Collected::default();
        for rule in rules {
            let before = ledger.used;
            let disk = Disk {
                free: disk.free.saturating_add(done.space),
                ..disk
            };
            let target = rule.target(before, disk);
            if target.is_some_and(|target| before <= target) {
                continue;
            }
            for at in ledger.by_use() {
                if target.is_some_and(|target| ledger.used <= target) {
                    break;
                }
                let row = self.refreshed(&ledger.rows[at]);
                if !rule.takes(&row, now) || !self.discard(&row)? {
                    continue;
                }
                done.space += ledger.remove(at);
                done.removed.push(row);
            }
        }
        Ok(done)
    }

    /// A build may have come to use it.
    fn refreshed(&self, row: &Row) -> Row {
        let in_use = row.in_use || self.in_use(&row.id);
        Row {
            in_use,
            ..row.clone()
        }
    }

    fn discard(&self, row: &Row) -> Result<bool, Error> {
        if row.kind == super::usage::REGULAR {
            return self.remove(&row.id);
        }
        let shelves = self.shelves().clone();
        for shelf in shelves {
            if shelf.remove(&row.id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What is kept, and what would come back.
struct Ledger {
    stock: Stock,
    /// Of records, then of the others.
    rows: Vec<Row>,
    gone: Vec<bool>,
    /// How many records have a layer.
    users: HashMap<Digest, usize>,
    /// Bytes of all that nothing but the cache keeps.
    used: u64,
}

impl Ledger {
    fn new(mut stock: Stock) -> Self {
        let mut rows: Vec<Row> = stock.records.iter().map(|r| stock.row(r)).collect();
        let mut users: HashMap<Digest, usize> = HashMap::new();
        for layer in stock.records.iter().flat_map(super::Record::layers) {
            *users.entry(layer).or_default() += 1;
        }
        let own = users.keys().filter(|layer| !stock.is_shared(layer));
        let used = own.map(|layer| stock.size(layer)).sum::<u64>()
            + stock.others.iter().map(|row| row.size).sum::<u64>();
        rows.append(&mut stock.others);
        Self {
            gone: vec![false; rows.len()],
            stock,
            rows,
            users,
            used,
        }
    }

    /// Places of what is there, least recently used first.
    fn by_use(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.rows.len()).filter(|at| !self.gone[*at]).collect();
        places.sort_by_key(|at| {
            let row = &self.rows[*at];
            (row.last_used, row.usage_count, row.created)
        });
        places
    }

    /// Bytes that come back.
    fn remove(&mut self, at: usize) -> u64 {
        self.gone[at] = true;
        let space = match self.stock.records.get(at) {
            Some(record) => {
                let mut space = 0;
                for layer in record.layers() {
                    let count = self.users.entry(layer.clone()).or_insert(1);
                    *count -= 1;
                    if *count == 0 && !self.stock.is_shared(&layer) {
                        space += self.stock.size(&layer);
                    }
                }
                space
            }
            None => self.rows[at].size,
        };
        self.used = self.used.saturating_sub(space);
        space
    }
}
