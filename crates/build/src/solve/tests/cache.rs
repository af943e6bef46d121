use super::fake::{Rig, digest, exec_of, image, layer, step, stored, vertex};
use crate::graph::{Op, Vertex};

fn line(commands: &[&str]) -> Vec<Vertex> {
    let mut vertices = vec![image("base")];
    for (at, command) in commands.iter().enumerate() {
        vertices.push(step(command, &[at]));
    }
    vertices
}

#[tokio::test]
async fn what_is_known_does_not_run_again() {
    let rig = Rig::new();
    let vertices = line(&["give a", "give b"]);
    assert_eq!(rig.runs(&vertices).await, ["give a", "give b"]);
    assert!(rig.runs(&vertices).await.is_empty());
    // After a restart neither.
    let again = Rig {
        cache: rig.fake.memory.cache(),
        ..rig
    };
    assert!(again.runs(&vertices).await.is_empty());
    let records = again.cache.records();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.usage_count >= 2));
    let b = records.iter().find(|r| r.description == "RUN give b");
    let a = records.iter().find(|r| r.description == "RUN give a");
    assert_eq!(b.unwrap().parents, [a.unwrap().id.clone()]);
}

#[tokio::test]
async fn a_change_is_felt_by_those_who_use_it() {
    let rig = Rig::new();
    let mut vertices = line(&["give a", "give b", "give c"]);
    rig.runs(&vertices).await;
    // As an ARG does that only the second step sees; the third stands on its
    // result, which is the same.
    exec_of(&mut vertices[2])
        .env
        .push(("V".to_owned(), "1".to_owned()));
    assert_eq!(rig.runs(&vertices).await, ["give b"]);
    // Another result is another base.
    exec_of(&mut vertices[2]).args[0] = "give other".to_owned();
    assert_eq!(rig.runs(&vertices).await, ["give other", "give c"]);
    // What is not part of the key.
    vertices[3].name = "renamed".to_owned();
    exec_of(&mut vertices[3])
        .proxies
        .push(("HTTP_PROXY".to_owned(), "x".to_owned()));
    assert!(rig.runs(&vertices).await.is_empty());
    // Another base image; another time of files.
    vertices[0] = image("base 2");
    assert_eq!(rig.runs(&vertices).await.len(), 3);
    let mut job = rig.job(vertices);
    job.time += 1;
    crate::solve::solve(job, &rig.cache, &rig.files)
        .await
        .unwrap();
    assert_eq!(rig.fake.runs().len(), 3);
}

#[tokio::test]
async fn who_ignores_the_cache_runs_once_and_is_remembered() {
    let rig = Rig::new();
    let vertices = line(&["give a", "give b"]);
    rig.runs(&vertices).await;
    let mut ignoring = vertices.clone();
    ignoring.push(step("give b", &[1]));
    ignoring.push(vertex(Op::Merge, &[2, 3]));
    for vertex in &mut ignoring {
        vertex.ignore_cache = true;
    }
    let mut ran = rig.runs(&ignoring).await;
    ran.sort();
    assert_eq!(ran, ["give a", "give b"]);
    assert!(rig.runs(&vertices).await.is_empty());
    assert_eq!(rig.cache.records().len(), 2);
    // A new result replaces the old.
    let mut other = line(&["give a"]);
    other[1].ignore_cache = true;
    rig.runs(&other).await;
    assert_eq!(rig.cache.records().len(), 2);
}

#[tokio::test]
async fn records_without_layers_are_none() {
    let rig = Rig::new();
    let vertices = line(&["give a", "give b"]);
    rig.runs(&vertices).await;
    rig.fake.memory.lose(&digest("b"));
    assert_eq!(rig.runs(&vertices).await, ["give b"]);
    assert_eq!(rig.cache.records().len(), 2);
}

#[tokio::test]
async fn what_a_build_uses_stays() {
    let rig = Rig::new();
    let solved = rig.solve(line(&["give a"])).await.unwrap();
    assert_eq!(rig.fake.runs(), ["give a"]);
    let id = rig.cache.records()[0].id.clone();
    assert!(rig.cache.in_use(&id) && !rig.cache.remove(&id).unwrap());
    drop(solved);
    assert!(!rig.cache.in_use(&id) && rig.fake.memory.has(&digest("a")));
    assert!(rig.cache.remove(&id).unwrap());
    assert!(!rig.fake.memory.has(&digest("a")));
    assert_eq!(rig.runs(&line(&["give a"])).await, ["give a"]);
}

#[tokio::test]
async fn merges_put_layers_on_each_other() {
    let rig = Rig::new();
    let mut vertices = vec![image("base"), step("give a", &[])];
    vertices.push(vertex(Op::Merge, &[0, 1]));
    let solved = rig.solve(vertices).await.unwrap();
    assert_eq!(stored(&solved), [digest("base"), digest("a")]);
    assert!(solved.made_layer(2));
}

/// A pin that is no record of ours, or a damaged one, is let go.
#[test]
fn damaged_records_are_removed() {
    use crate::solve::Layers as _;
    let rig = Rig::new();
    rig.fake.memory.make(&layer("x"));
    let pin = berth_store::Pin {
        key: "k".to_owned(),
        layers: vec![digest("x")],
        data: "{".to_owned(),
    };
    rig.fake.memory.pin(pin).unwrap();
    assert!(rig.fake.memory.cache().records().is_empty());
    assert!(rig.fake.memory.pins().is_empty() && !rig.fake.memory.has(&digest("x")));
}
