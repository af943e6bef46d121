use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fake::{Fake, Rig, digest, exec_of, image, step, stored};
use crate::graph::{Mount, MountKind, Vertex};
use crate::progress::Event;
use crate::solve::{Error, solve};

/// Independent steps on one image, and one on all of them.
fn fan(commands: &[&str]) -> Vec<Vertex> {
    let mut vertices = vec![image("base")];
    vertices.extend(commands.iter().map(|command| step(command, &[0])));
    let inputs: Vec<_> = (1..vertices.len()).collect();
    vertices.push(step("give end", &inputs));
    vertices
}

#[tokio::test]
async fn independent_steps_run_at_once_within_the_bound() {
    // Each waits until all three run.
    let mut vertices = fan(&["meet 3", "meet 3", "meet 3"]);
    for (at, vertex) in vertices.iter_mut().skip(1).take(3).enumerate() {
        exec_of(vertex).cwd = at.to_string();
    }
    let rig = Rig::new();
    rig.solve(vertices).await.unwrap();
    assert_eq!(rig.fake.most.load(Ordering::SeqCst), 3);

    let rig = Rig {
        parallel: 2,
        ..Rig::new()
    };
    rig.solve(fan(&["give a", "give b", "give c", "give d"]))
        .await
        .unwrap();
    assert!(rig.fake.most.load(Ordering::SeqCst) <= 2);
}

#[tokio::test]
async fn only_what_is_needed_runs_and_chains_grow() {
    let rig = Rig::new();
    let mut vertices = vec![image("base"), step("give unused", &[0]), step("none", &[0])];
    vertices.push(step("give top", &[2]));
    let solved = rig.solve(vertices).await.unwrap();
    assert_eq!(stored(&solved), [digest("base"), digest("top")]);
    assert!(solved.made_layer(3) && !solved.made_layer(2) && !solved.made_layer(1));
    assert_eq!(rig.fake.runs(), ["none", "give top"]);
    assert!(solved.vertices[1].is_none());
}

#[tokio::test]
async fn a_failure_names_its_step_and_ends_the_others() {
    let rig = Rig::new();
    let error = rig
        .solve(fan(&["hang", "fail-when-hanging"]))
        .await
        .unwrap_err();
    assert_eq!(error.vertex, Some(2));
    assert!(matches!(error.error, Error::Exit { code: 7, .. }));
    // Before the solve returned.
    assert!(rig.fake.hung.load(Ordering::SeqCst));
    let errors: Vec<_> = (rig.events.lock().unwrap().iter())
        .filter_map(|event| match event {
            Event::Completed { id, error, .. } => Some((*id, error.clone()?)),
            _ => None,
        })
        .collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(errors[1], (1, "context canceled".to_owned()));
    // Nothing of a failure is known.
    rig.solve(fan(&["fail"])).await.unwrap_err();
    rig.solve(fan(&["fail"])).await.unwrap_err();
    let fails = rig.fake.runs();
    assert_eq!(fails.iter().filter(|run| *run == "fail").count(), 2);
}

#[tokio::test]
async fn events_come_in_order() {
    let rig = Rig::new();
    for _ in 0..2 {
        rig.solve(vec![image("base"), step("give a", &[0])])
            .await
            .unwrap();
    }
    let told: Vec<_> = (rig.events.lock().unwrap().iter())
        .map(|event| match event {
            Event::Known { id, .. } => format!("known {id}"),
            Event::Started(id) => format!("started {id}"),
            Event::Cached(id) => format!("cached {id}"),
            Event::Completed { id, error, result } => {
                assert!(error.is_none() && result.starts_with("sha256:"));
                format!("completed {id}")
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let sources = ["known 0", "known 1", "started 0", "completed 0"];
    let first = ["started 1", "completed 1"];
    let second = ["started 1", "cached 1", "completed 1"];
    assert_eq!(told, [&sources[..], &first, &sources, &second].concat());
}

#[tokio::test]
async fn a_step_is_run_once_for_all_who_need_it() {
    let rig = Rig::new();
    // Within one build.
    rig.solve(fan(&["give x", "give x", "give x"]))
        .await
        .unwrap();
    assert_eq!(rig.fake.runs(), ["give x", "give end"]);
    // Two builds.
    let build = || rig.solve(vec![image("base"), step("give y", &[0])]);
    let (a, b) = tokio::join!(build(), build());
    assert_eq!(stored(&a.unwrap()), stored(&b.unwrap()));
    assert_eq!(rig.fake.runs(), ["give y"]);
}

#[tokio::test]
async fn who_waits_takes_over_from_who_is_cancelled() {
    let rig = Rig::new();
    let vertices = || vec![image("base"), step("meet 2", &[0])];
    let job = rig.job(vertices());
    let (cache, files) = (rig.cache.clone(), rig.files.clone());
    let first = tokio::spawn(async move { solve(job, &cache, &files).await.map(drop) });
    while rig.fake.running.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let job = rig.job(vertices());
    let (cache, files) = (rig.cache.clone(), rig.files.clone());
    let second = tokio::spawn(async move { solve(job, &cache, &files).await.map(drop) });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.fake.ran.lock().unwrap().len(), 1);
    first.abort();
    assert!(first.await.is_err());
    rig.fake.most.store(2, Ordering::SeqCst);
    rig.fake.changed.notify_waiters();
    let ended = tokio::time::timeout(Duration::from_secs(60), second).await;
    ended.unwrap().unwrap().unwrap();
    assert_eq!(rig.fake.runs(), ["meet 2", "meet 2"]);
}

#[tokio::test]
async fn own_times_are_kept_where_a_cache_mount_stands() {
    let rig = Rig::new();
    let plain = vec![image("base"), step("give a", &[0]), step("give b", &[1])];
    rig.solve(plain.clone()).await.unwrap();
    rig.fake.runs();
    let mut timed = plain.clone();
    exec_of(&mut timed[2]).mounts.push(Mount {
        target: "/cache".to_owned(),
        read_only: false,
        kind: MountKind::Cache {
            id: "c".to_owned(),
            sharing: Default::default(),
            from: None,
            source: String::new(),
            mode: 0o755,
            uid: 0,
            gid: 0,
        },
    });
    // What is known without times does not serve who needs them.
    let solved = rig.solve(timed).await.unwrap();
    assert_eq!(rig.fake.runs(), ["give a", "give b"]);
    assert_eq!(
        stored(&solved),
        [digest("base"), digest("a with times"), digest("b")]
    );
    // But the other way round, and then with the one time that all see.
    let solved = rig.solve(plain).await.unwrap();
    assert!(rig.fake.runs().is_empty());
    assert_eq!(stored(&solved)[1], digest("a"));
}

#[tokio::test]
async fn graphs_that_are_none_are_refused() {
    let rig = Rig::new();
    for vertices in [
        vec![image("base"), step("give a", &[1])],
        vec![image("base"), step("give a", &[7])],
    ] {
        let error = rig.solve(vertices).await.unwrap_err();
        assert!(matches!(error.error, Error::Invalid(_)), "{error:?}");
    }
    let mut lost = vec![image("base"), step("give a", &[0])];
    exec_of(&mut lost[1]).root = Some(4);
    assert_eq!(rig.solve(lost).await.unwrap_err().vertex, Some(1));
    let fake = Rig::with(Fake::default());
    let mut job = fake.job(vec![image("base")]);
    job.outputs = vec![3];
    assert!(solve(job, &fake.cache, &fake.files).await.is_err());
}
