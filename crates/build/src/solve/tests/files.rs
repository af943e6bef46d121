//! COPY and the like, with real files.

use std::sync::Arc;

use super::fake::{Fake, Rig, exec_of, image, step, vertex};
use crate::graph::{Copy, FileAction, Files, Local, Mount, MountKind, Op, Vertex};
use crate::tree::{Entry, Node, Tree};

fn context(rig: &Rig, files: &[(&str, &str)]) {
    let entries = files.iter().map(|(path, text)| {
        let mut bytes = text.as_bytes();
        Entry {
            path: (*path).to_owned(),
            node: Node::File {
                digest: rig.files.add(text.len() as u64, &mut bytes).unwrap(),
                size: text.len() as u64,
            },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 7,
            xattrs: Vec::new(),
        }
    });
    let entries = entries.collect();
    *rig.fake.tree.lock().unwrap() = Arc::new(Tree { entries });
}

fn local() -> Vertex {
    let op = Op::Local(Local {
        name: "context".to_owned(),
        paths: Vec::new(),
    });
    vertex(op, &[])
}

/// From the second input onto the first.
fn copy(source: &str, inputs: &[usize]) -> Vertex {
    let files = Files {
        base: (inputs.len() > 1).then_some(0),
        actions: vec![FileAction::Copy(Copy {
            from: inputs.len() - 1,
            sources: vec![source.to_owned()],
            target: "/".to_owned(),
            owner: None,
            mode: None,
            parents: false,
            exclude: Vec::new(),
            unpack: Default::default(),
        })],
    };
    let mut vertex = vertex(Op::Files(files), inputs);
    vertex.name = format!("COPY {source} /");
    vertex
}

fn rig(root: &std::path::Path) -> Rig {
    Rig::with(Fake {
        root: Some(root.to_owned()),
        ..Fake::default()
    })
}

#[tokio::test]
async fn only_copies_of_what_changed_are_made_again() {
    let root = tempfile::tempdir().unwrap();
    let rig = rig(root.path());
    let vertices = vec![
        image("base"),
        local(),
        copy("a", &[0, 1]),
        step("give x", &[2]),
        copy("b", &[3, 1]),
        step("give y", &[4]),
    ];
    context(&rig, &[("a", "1"), ("b", "1"), ("c", "1")]);
    let first = rig.solve(vertices.clone()).await.unwrap();
    assert_eq!(rig.fake.runs(), ["give x", "give y"]);
    assert!(first.made_layer(2) && first.made_layer(4));
    // What is not copied decides nothing.
    context(&rig, &[("a", "1"), ("b", "1"), ("c", "2")]);
    let second = rig.solve(vertices.clone()).await.unwrap();
    assert!(rig.fake.runs().is_empty());
    assert!((2..6).all(|id| second.vertices[id].as_ref().unwrap().cached));
    context(&rig, &[("a", "1"), ("b", "2"), ("c", "2")]);
    assert_eq!(rig.runs(&vertices).await, ["give y"]);
    let error = {
        context(&rig, &[("a", "1")]);
        rig.solve(vertices).await.unwrap_err()
    };
    assert_eq!(error.vertex, Some(4));
    assert!(error.to_string().contains("not found"), "{error}");
}

/// A step that runs again and gives files that are as before: who copies them
/// is known by what the copy holds.
#[tokio::test]
async fn what_a_copied_file_holds_cuts_off_early() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("out"), "same").unwrap();
    let rig = rig(root.path());
    let mut vertices = vec![
        image("base"),
        step("give tools", &[0]),
        copy("out", &[0, 1]),
        step("give last", &[2]),
    ];
    assert_eq!(rig.runs(&vertices).await, ["give tools", "give last"]);
    exec_of(&mut vertices[1]).args[0] = "give other tools".to_owned();
    assert_eq!(rig.runs(&vertices).await, ["give other tools"]);
    std::fs::write(root.path().join("out"), "other").unwrap();
    exec_of(&mut vertices[1]).args[0] = "give third tools".to_owned();
    assert_eq!(rig.runs(&vertices).await, ["give third tools", "give last"]);
}

/// Of what is mounted only what is below the path matters.
#[tokio::test]
async fn a_mounted_path_is_known_by_what_it_holds() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("d")).unwrap();
    std::fs::write(root.path().join("d/f"), "same").unwrap();
    let rig = rig(root.path());
    let mut user = step("give used", &[0, 1]);
    exec_of(&mut user).mounts.push(Mount {
        target: "/mnt".to_owned(),
        kind: MountKind::Bind {
            from: Some(1),
            source: "/d".to_owned(),
        },
        read_only: true,
    });
    let mut vertices = vec![image("base"), step("give one", &[0]), user];
    assert_eq!(rig.runs(&vertices).await, ["give one", "give used"]);
    exec_of(&mut vertices[1]).args[0] = "give two".to_owned();
    assert_eq!(rig.runs(&vertices).await, ["give two"]);
    // Known without looking by now.
    std::fs::write(root.path().join("d/f"), "other").unwrap();
    assert!(rig.runs(&vertices).await.is_empty());
    exec_of(&mut vertices[1]).args[0] = "give three".to_owned();
    assert_eq!(rig.runs(&vertices).await, ["give three", "give used"]);
}

#[tokio::test]
async fn copies_keep_own_times_where_they_matter() {
    let root = tempfile::tempdir().unwrap();
    let rig = rig(root.path());
    context(&rig, &[("a", "1")]);
    let mut timed = step("give x", &[1]);
    exec_of(&mut timed).mounts.push(Mount {
        target: "/cache".to_owned(),
        kind: MountKind::Cache {
            id: "c".to_owned(),
            sharing: Default::default(),
            from: None,
            source: String::new(),
            mode: 0o755,
            uid: 0,
            gid: 0,
        },
        read_only: false,
    });
    let vertices = vec![local(), copy("a", &[0]), timed];
    let solved = rig.solve(vertices).await.unwrap();
    let crate::tree::Value::Root(chain) = &solved.outputs[0] else {
        panic!("no root filesystem")
    };
    assert!(chain[0].digest != chain[0].stored);
}

/// `cargo test -- --ignored --nocapture`: how long 60 known steps take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints a figure"]
async fn sixty_known_steps() {
    let rig = Rig::new();
    let mut vertices = vec![image("base")];
    for at in 0..59 {
        vertices.push(step(&format!("give {at}"), &[at]));
    }
    rig.solve(vertices.clone()).await.unwrap();
    for _ in 0..5 {
        let job = rig.job(vertices.clone());
        let start = std::time::Instant::now();
        crate::solve::solve(job, &rig.cache, &rig.files)
            .await
            .unwrap();
        eprintln!("60 vertices: {:?}", start.elapsed());
    }
}
