use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fake::{Rig, digest, image, step};
use crate::solve::{
    Bounds, CACHE_MOUNT, Cache, Condition, Disk, Error, Row, Rule, Shelf, default_rules,
};

const DISK: Disk = Disk {
    total: 1000,
    free: 1000,
};
const HOUR: u64 = 3_600_000_000_000;

/// Three records of 100 bytes, `a` used first.
async fn rig() -> Rig {
    let rig = Rig::new();
    for command in ["give a", "give b", "give c"] {
        rig.runs(&[image("base"), step(command, &[0])]).await;
    }
    rig
}

fn now() -> u64 {
    crate::solve::cache::now()
}

fn collect(cache: &Cache, rule: Rule) -> Vec<String> {
    let done = cache.collect(&[rule], DISK, now()).unwrap();
    (done.removed.iter())
        .map(|row| row.description.clone())
        .collect()
}

#[tokio::test]
async fn rules_take_what_was_not_used_for_longest() {
    let rig = rig().await;
    let cache = &rig.cache;
    let max = |max_used| Rule {
        max_used,
        ..Rule::default()
    };
    assert!(collect(cache, max(300)).is_empty());
    let fresh = Rule {
        keep_duration: Duration::from_secs(3600),
        ..max(1)
    };
    assert!(collect(cache, fresh.clone()).is_empty());
    // `a` is used again.
    rig.runs(&[image("base"), step("give a", &[0])]).await;
    assert_eq!(collect(cache, max(250)), ["RUN give b"]);
    assert!(!rig.fake.memory.has(&digest("b")) && rig.fake.memory.has(&digest("a")));
    let reserved = Rule {
        reserved: 200,
        ..max(1)
    };
    assert!(collect(cache, reserved).is_empty());
    // 150 bytes are missing on the disk: both must go.
    let free = Rule {
        min_free: 1150,
        ..Rule::default()
    };
    assert_eq!(collect(cache, free), ["RUN give c", "RUN give a"]);
    let old = cache.collect(&[fresh], DISK, now() + 2 * HOUR).unwrap();
    assert_eq!((old.removed.len(), old.space), (0, 0));
}

#[tokio::test]
async fn what_others_have_is_no_use_to_remove() {
    let rig = rig().await;
    rig.fake.memory.share(&digest("a"), "app:1");
    let solved = rig
        .solve(vec![image("base"), step("give b", &[0])])
        .await
        .unwrap();
    let rows = rig.cache.usage().unwrap();
    let reasons: Vec<_> = rows.iter().map(Row::reasons).collect();
    assert_eq!(
        reasons,
        [
            vec!["shared with image app:1".to_owned()],
            vec!["in use by a running build".to_owned()],
            vec![]
        ]
    );
    assert!(rows.iter().all(|row| row.size == 100));
    let done = rig.cache.collect(&[Rule::default()], DISK, now()).unwrap();
    assert_eq!((done.removed.len(), done.space), (1, 100));
    drop(solved);
    let all = Rule {
        all: true,
        ..Rule::default()
    };
    let done = rig.cache.collect(&[all], DISK, now()).unwrap();
    assert_eq!((done.removed.len(), done.space), (2, 100));
}

/// Two records of one layer.
#[tokio::test]
async fn a_layer_is_counted_once() {
    let rig = Rig::new();
    rig.runs(&[image("base"), step("give a", &[0])]).await;
    rig.runs(&[image("base 2"), step("give a", &[0])]).await;
    let sizes: Vec<_> = rig.cache.usage().unwrap().iter().map(|r| r.size).collect();
    assert_eq!(sizes, [100, 0]);
    let id = rig.cache.usage().unwrap()[0].id.clone();
    let rule = Rule {
        conditions: vec![Condition::Id(id[..20].to_owned())],
        ..Rule::default()
    };
    let done = rig.cache.collect(&[rule], DISK, now()).unwrap();
    assert_eq!((done.removed.len(), done.space), (1, 0));
    assert_eq!(rig.cache.usage().unwrap()[0].size, 100);
}

#[derive(Debug)]
struct Mounts(Mutex<Vec<Row>>);

impl Shelf for Mounts {
    fn rows(&self) -> Vec<Row> {
        self.0.lock().unwrap().clone()
    }

    fn remove(&self, id: &str) -> Result<bool, Error> {
        let mut rows = self.0.lock().unwrap();
        let before = rows.len();
        rows.retain(|row| row.id != id);
        Ok(rows.len() < before)
    }
}

#[tokio::test]
async fn docker_s_default_takes_what_is_easily_had_again_first() {
    let rig = rig().await;
    let row = |id: &str, last_used| Row {
        id: id.to_owned(),
        kind: CACHE_MOUNT.to_owned(),
        size: 600_000_000,
        last_used: Some(last_used),
        ..Row::default()
    };
    let now = now();
    let mounts = Arc::new(Mounts(Mutex::new(vec![
        row("new", now),
        row("old", now - 50 * HOUR),
    ])));
    rig.cache.register(mounts);
    let rules = default_rules(Bounds::default(), DISK);
    let gb = 1_000_000_000;
    assert_eq!(
        (rules[3].reserved, rules[3].max_used, rules[3].all),
        (gb, gb, true)
    );
    let disk = Disk {
        free: 10 * gb,
        ..DISK
    };
    let done = rig.cache.collect(&rules, disk, now).unwrap();
    let ids: Vec<_> = done.removed.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["old"]);
    let usage = rig.cache.usage().unwrap();
    assert_eq!(usage.len(), 4);
    let kinds = Rule {
        conditions: vec![Condition::Kind(vec![CACHE_MOUNT.to_owned()])],
        ..Rule::default()
    };
    assert_eq!(
        rig.cache.collect(&[kinds], disk, now).unwrap().space,
        600_000_000
    );
    let big = default_rules(
        Bounds {
            reserved: 100 * gb,
            ..Bounds::default()
        },
        disk,
    );
    assert_eq!(big[0].max_used, 13_817_500_000);
}
