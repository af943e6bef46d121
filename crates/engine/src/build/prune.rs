//! What the build cache takes, and giving it back: when asked, and after
//! builds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_api::Error;
use berth_api::build::{CacheRecord, PruneReport};
use berth_api::filters::Filters;
use berth_api::usage::BuildCacheUsage;
use berth_build::solve::{Collected, Condition, Disk, Row, Rule, default_rules};
use jiff::Timestamp;

use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, io};
use crate::{BuildGc, time};

/// From the end of a build to the collection: the next one shall not wait.
const DELAY: Duration = Duration::from_secs(2);

/// `POST /build/prune`, and a rule of daemon.json.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Also what is in use by images or internal.
    pub all: bool,
    /// until, unused-for, id, parent, type, description, inuse, shared, private.
    pub filters: Filters,
    /// Bytes that are kept whatever is old; 0 = none.
    pub reserved_space: u64,
    /// Bytes that the cache may have at most; 0 = no bound.
    pub max_used_space: u64,
    /// Bytes of the disk that should be free; 0 = no bound.
    pub min_free_space: u64,
}

impl PruneOptions {
    /// # Errors
    /// `Invalid`: filters that are not known, or more than one value of one.
    pub fn rule(&self) -> Result<Rule, Error> {
        let filters = &self.filters;
        filters.validate(&[
            "until",
            "unused-for",
            "id",
            "parent",
            "type",
            "description",
            "inuse",
            "shared",
            "private",
            "label",
            "label!",
        ])?;
        if filters.contains("until") && filters.contains("unused-for") {
            return Err(Error::invalid(
                "conflicting filters: \"until\" and \"unused-for\"",
            ));
        }
        let age = match (single(filters, "until")?, single(filters, "unused-for")?) {
            (Some(text), _) => Some(("until", text)),
            (None, Some(text)) => Some(("unused-for", text)),
            (None, None) => None,
        };
        let mut rule = Rule {
            all: self.all,
            reserved: self.reserved_space,
            max_used: self.max_used_space,
            min_free: self.min_free_space,
            ..Rule::default()
        };
        if let Some((name, text)) = age {
            let since = time::parse_filter_time(text).ok_or_else(|| {
                Error::invalid(format!(
                    "\"{name}\" filter expects a duration (e.g., '24h') or a timestamp: {text}"
                ))
            })?;
            let age = time::nanoseconds(Timestamp::now()).saturating_sub(since);
            rule.keep_duration = Duration::from_nanos(u64::try_from(age).unwrap_or(0));
        }
        let conditions = &mut rule.conditions;
        if let Some(id) = single(filters, "id")? {
            conditions.push(Condition::Id(id.to_owned()));
        }
        if let Some(parent) = single(filters, "parent")? {
            conditions.push(Condition::Parent(parent.to_owned()));
        }
        if let Some(kind) = single(filters, "type")? {
            conditions.push(Condition::Kind(vec![kind.to_owned()]));
        }
        if let Some(text) = single(filters, "description")? {
            conditions.push(Condition::Description(text.to_owned()));
        }
        if let Some(wanted) = flag(filters, "inuse")? {
            conditions.push(Condition::InUse(wanted));
        }
        if let Some(wanted) = flag(filters, "shared")? {
            conditions.push(Condition::Shared(wanted));
        }
        if let Some(wanted) = flag(filters, "private")? {
            conditions.push(Condition::Shared(!wanted));
        }
        // Nothing in the build cache has labels.
        if filters.contains("label") {
            conditions.push(Condition::Kind(Vec::new()));
        }
        Ok(rule)
    }
}

fn single<'a>(filters: &'a Filters, field: &str) -> Result<Option<&'a str>, Error> {
    let mut values = filters.get(field);
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(Error::invalid("filters expect only one value")),
    }
}

/// "inuse" alone is "inuse=true".
fn flag(filters: &Filters, field: &str) -> Result<Option<bool>, Error> {
    if !filters.contains(field) || single(filters, field)?.is_none_or(str::is_empty) {
        return Ok(filters.contains(field).then_some(true));
    }
    filters.boolean(field, true).map(Some)
}

impl Engine {
    pub async fn build_prune(&self, options: PruneOptions) -> Result<PruneReport, Error> {
        let rule = options.rule()?;
        let engine = self.clone();
        let done = blocking(move || engine.collect_builds(&[rule])).await?;
        let space = done.space.to_string();
        let attributes = BTreeMap::from([("reclaimed".to_owned(), space)]);
        self.0.events.emit("builder", "prune", "", attributes);
        let ids: Vec<_> = done.removed.into_iter().map(|row| row.id).collect();
        Ok(PruneReport {
            caches_deleted: Some(ids).filter(|ids| !ids.is_empty()),
            space_reclaimed: done.space,
        })
    }

    /// What the build cache has; every row says why it stays.
    pub(crate) async fn build_usage(&self) -> Result<BuildCacheUsage, Error> {
        let engine = self.clone();
        blocking(move || {
            let rows = engine.0.builder.cache.usage().api()?;
            let used = rows.iter().map(|row| row.own).sum();
            let within = engine.within(used)?;
            let mut usage = BuildCacheUsage {
                total_count: number(rows.len() as u64),
                total_size: number(used),
                ..BuildCacheUsage::default()
            };
            for row in &rows {
                if row.in_use {
                    usage.active_count += 1;
                } else {
                    usage.reclaimable += number(row.own);
                }
            }
            usage.items = Some(rows.into_iter().map(|row| record(row, &within)).collect());
            Ok(usage)
        })
        .await
    }

    /// Why what nothing else keeps stays.
    fn within(&self, used: u64) -> Result<String, Error> {
        let disk = self.disk()?;
        let rules = self.build_rules(disk)?;
        let target = rules.last().and_then(|rule| rule.target(used, disk));
        Ok(match (&self.0.config.build_gc, target) {
            (BuildGc::Off, _) => "collection is turned off".to_owned(),
            (_, Some(target)) if used <= target => {
                format!("the build cache takes {used} of the {target} bytes that it may")
            }
            _ => "used since the last collection".to_owned(),
        })
    }

    fn disk(&self) -> Result<Disk, Error> {
        let root = &self.0.config.data_root;
        Disk::of(root).map_err(|error| io("look at the file system of", root, &error))
    }

    fn build_rules(&self, disk: Disk) -> Result<Vec<Rule>, Error> {
        match &self.0.config.build_gc {
            BuildGc::Off => Ok(Vec::new()),
            BuildGc::Default(bounds) => Ok(default_rules(*bounds, disk)),
            BuildGc::Rules(rules) => rules.iter().map(PruneOptions::rule).collect(),
        }
    }

    /// Blocking.
    fn collect_builds(&self, rules: &[Rule]) -> Result<Collected, Error> {
        let now = u64::try_from(time::nanoseconds(Timestamp::now())).unwrap_or_default();
        let cache = &self.0.builder.cache;
        cache.collect(rules, self.disk()?, now).api()
    }

    /// After a build: writes down what was used, and keeps the cache within its
    /// limits; in the background, in a moment.
    pub(super) fn collect_builds_soon(&self) {
        if self.0.builder.collects.begin() {
            let weak = std::sync::Arc::downgrade(&self.0);
            tokio::spawn(async move {
                tokio::time::sleep(DELAY).await;
                let Some(inner) = weak.upgrade() else { return };
                let engine = Self(inner);
                engine.0.builder.collects.end();
                if engine.closing() {
                    return;
                }
                engine.flush_build_cache().await;
                if let Err(error) = engine.collect_by_rules().await {
                    tracing::error!("the build cache cannot be kept within its limits: {error}");
                }
            });
        }
    }

    async fn collect_by_rules(&self) -> Result<(), Error> {
        let engine = self.clone();
        let done = blocking(move || {
            let rules = engine.build_rules(engine.disk()?)?;
            engine.collect_builds(&rules)
        })
        .await?;
        if !done.removed.is_empty() {
            let ids: Vec<_> = done.removed.iter().map(|row| row.id.as_str()).collect();
            tracing::info!(
                "{} entries of the build cache above its limits are removed, {} bytes come back: {}",
                ids.len(),
                done.space,
                ids.join(", ")
            );
        }
        Ok(())
    }

    /// Writes down when results of builds were last used.
    pub(crate) async fn flush_build_cache(&self) {
        let cache = self.0.builder.cache.clone();
        if let Err(error) = blocking(move || cache.flush().api()).await {
            tracing::warn!("the use of the build cache cannot be written down: {error}");
        }
    }
}

/// Whether a collection is due already.
#[derive(Debug, Default)]
pub(super) struct Collects(AtomicBool);

impl Collects {
    fn begin(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }

    fn end(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn record(row: Row, within: &str) -> CacheRecord {
    let mut reasons = row.reasons();
    if reasons.is_empty() {
        reasons.push(within.to_owned());
    }
    let time = |nanoseconds: u64| {
        Timestamp::from_nanosecond(i128::from(nanoseconds))
            .map_or_else(|_| time::NEVER.to_owned(), time::format)
    };
    CacheRecord {
        shared: row.is_shared(),
        id: row.id,
        parents: row.parents,
        r#type: row.kind,
        description: row.description,
        in_use: row.in_use,
        size: number(row.size),
        created_at: time(row.created),
        last_used_at: row.last_used.map(time),
        usage_count: number(row.usage_count),
        reasons,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(filters: &[(&str, &str)]) -> Result<Rule, String> {
        let mut options = PruneOptions::default();
        for (field, value) in filters {
            options.filters.insert(field, value);
        }
        options.rule().map_err(|error| error.message)
    }

    #[test]
    fn filters_are_conditions() {
        assert_eq!(rule(&[]).unwrap(), Rule::default());
        let conditions = |filters| rule(filters).unwrap().conditions;
        assert_eq!(
            conditions(&[("id", "ab"), ("type", "source.local"), ("private", "")]),
            [
                Condition::Id("ab".to_owned()),
                Condition::Kind(vec!["source.local".to_owned()]),
                Condition::Shared(false)
            ]
        );
        assert_eq!(
            conditions(&[("shared", "false")]),
            [Condition::Shared(false)]
        );
        assert_eq!(conditions(&[("inuse", "1")]), [Condition::InUse(true)]);
        // Which no record fulfils.
        assert_eq!(conditions(&[("label", "a")]), [Condition::Kind(Vec::new())]);
        assert!(conditions(&[("label!", "a")]).is_empty());
        let age = rule(&[("until", "24h")]).unwrap().keep_duration.as_secs();
        assert!((86_399..=86_401).contains(&age), "{age}");
    }

    #[test]
    fn bad_filters_are_refused_in_docker_s_words() {
        for (filters, words) in [
            (&[("nope", "x")][..], "invalid filter 'nope'"),
            (&[("id", "a"), ("id", "b")], "filters expect only one value"),
            (
                &[("until", "1h"), ("unused-for", "2h")],
                "conflicting filters: \"until\" and \"unused-for\"",
            ),
            (
                &[("until", "soon")],
                "\"until\" filter expects a duration (e.g., '24h') or a timestamp: soon",
            ),
            (&[("shared", "perhaps")], "invalid filter 'shared=perhaps'"),
        ] {
            assert_eq!(rule(filters).unwrap_err(), words);
        }
    }
}
