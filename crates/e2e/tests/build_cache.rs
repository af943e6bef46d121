//! The build cache: what it knows, what it takes, and what it tells others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use berth_e2e::{Engine, Run, eventually};

/// Each step gives something else whenever it runs.
const DOCKERFILE: &str = "FROM busybox AS tools
RUN cat /proc/sys/kernel/random/uuid > /tool && dd if=/dev/urandom of=/big bs=1024k count=2
FROM busybox
RUN --mount=type=cache,id=kept,target=/kept cp /proc/sys/kernel/random/uuid /kept/id
RUN cat /proc/sys/kernel/random/uuid > /own
COPY --from=tools /tool /tool
RUN true
";

fn project(root: &Path) -> PathBuf {
    let root = root.join("project");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("Dockerfile"), DOCKERFILE).unwrap();
    root
}

fn build(engine: &Engine, root: &Path, args: &[&str]) -> Run {
    let mut command = engine.command("berth");
    command
        .current_dir(root)
        .args(["build", "--progress=plain"])
        .args(args)
        .arg(".");
    Run::new(&mut command, b"")
}

fn cached(run: &Run) -> usize {
    assert_eq!(run.code, 0, "{run:#?}");
    let lines = run.stderr.lines();
    lines.filter(|line| line.ends_with(" CACHED")).count()
}

fn id(engine: &Engine, name: &str) -> String {
    engine
        .berth(&["image", "inspect", "--format={{.Id}}", name])
        .ok()
}

/// Type, whether an image has it, and why it stays.
fn listed(engine: &Engine) -> Vec<String> {
    let format = "--format={{.Type}} {{.Shared}} {{.Reasons}}";
    let text = engine.berth(&["builder", "du", format]).ok();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_is_kept_says_why_and_goes_when_asked() {
    let mut engine = Engine::start();
    let root = project(engine.dir());
    assert_eq!(cached(&build(&engine, &root, &["-t", "app:1"])), 0);
    let first = id(&engine, "app:1");
    // The next engine knows as much.
    engine.kill();
    engine.launch();
    assert_eq!(cached(&build(&engine, &root, &["-t", "app:2"])), 5);
    assert_eq!(first, id(&engine, "app:2"));

    let rows = listed(&engine);
    let count = |words: &str| rows.iter().filter(|row| row.contains(words)).count();
    assert_eq!(count("exec.cachemount"), 1, "{rows:#?}");
    assert!(count("regular true shared with image") >= 2, "{rows:#?}");
    assert!(count("bytes that it may") >= 1, "{rows:#?}");
    let usage = engine.berth(&["system", "df"]).ok();
    let line = usage.lines().find(|line| line.starts_with("Build Cache"));
    assert!(!line.unwrap().contains(" 0B "), "{usage}");

    // The image keeps what it has; all else is made again.
    engine.berth(&["builder", "prune", "--force"]).ok();
    let rows = listed(&engine);
    assert!(
        !rows.is_empty() && rows.iter().all(|row| row.contains("shared with image")),
        "{rows:#?}"
    );
    engine.berth(&["builder", "prune", "--force", "--all"]).ok();
    assert_eq!(listed(&engine), [""; 0]);
    assert_eq!(cached(&build(&engine, &root, &["-t", "app:3"])), 0);
    assert_ne!(first, id(&engine, "app:3"));
}

#[test]
fn a_directory_makes_another_engine_know() {
    let (one, other) = (Engine::start(), Engine::start());
    let root = project(one.dir());
    let place = one.dir().join("cache");
    let to = format!("type=local,mode=max,dest={}", place.display());
    assert_eq!(
        cached(&build(&one, &root, &["-t", "app:1", "--cache-to", &to])),
        0
    );
    assert!(place.join("index.json").is_file());
    let from = format!("type=local,src={}", place.display());
    let run = build(&other, &root, &["-t", "app:1", "--cache-from", &from]);
    assert_eq!(cached(&run), 5, "{run:#?}");
    let made = |engine: &Engine, image: &str| {
        let run = ["run", "--rm", image, "cat", "/own", "/tool"];
        engine.berth(&run).ok()
    };
    assert_eq!(made(&one, "app:1"), made(&other, "app:1"));

    // Whatever is in the directory: its bytes are looked at.
    let blobs = std::fs::read_dir(place.join("blobs/sha256")).unwrap();
    for blob in blobs {
        std::fs::write(blob.unwrap().path(), "damaged").unwrap();
    }
    other.berth(&["rmi", "app:1"]).ok();
    other.berth(&["builder", "prune", "--force", "--all"]).ok();
    let run = build(&other, &root, &["-t", "app:2", "--cache-from", &from]);
    assert_eq!(cached(&run), 0);
    assert!(
        run.stderr.contains("importing cache manifest from local"),
        "{run:#?}"
    );
    assert_ne!(made(&one, "app:1"), made(&other, "app:2"));
}

#[test]
fn a_cache_that_is_not_there_is_told_and_no_failure() {
    let engine = Engine::start();
    let root = project(engine.dir());
    let built = build(&engine, &root, &["--cache-from", "type=local,src=none"]);
    assert_eq!(cached(&built), 0);
    let told =
        "\n - failed to import the build cache from local: the build cache has no index.json\n";
    assert!(built.stderr.contains(told), "{built:#?}");
}

#[test]
fn an_image_makes_another_engine_know() {
    let (one, other) = (Engine::start(), Engine::start());
    let root = project(one.dir());
    let dockerfile = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /own\nRUN true\n";
    std::fs::write(root.join("Dockerfile"), dockerfile).unwrap();
    build(&one, &root, &["-t", "app:1", "--cache-to", "type=inline"]).ok();
    let archive = one.dir().join("app.tar");
    let archive = archive.to_str().unwrap();
    one.berth(&["save", "-o", archive, "app:1"]).ok();
    other.berth(&["load", "-i", archive]).ok();
    let again = ["-t", "app:2", "--cache-from", "app:1"];
    let run = build(&other, &root, &again);
    assert_eq!(cached(&run), 2, "{run:#?}");
    let own =
        |engine: &Engine, image: &str| engine.berth(&["run", "--rm", image, "cat", "/own"]).ok();
    assert_eq!(own(&one, "app:1"), own(&other, "app:2"));

    // One that is not there, or has nothing to tell, is no failure.
    let run = build(&other, &root, &["--cache-from", "localhost:1/none:1"]);
    assert_eq!(cached(&run), 2, "{run:#?}");
    assert!(run.stderr.contains("localhost:1/none:1"), "{run:#?}");
    let run = build(&other, &root, &["--cache-to", "type=registry,ref=x"]);
    assert!(
        run.code != 0 && run.stderr.contains("type=registry"),
        "{run:#?}"
    );
}

/// Whoever comes second takes what the first one makes.
#[test]
fn two_builds_at_once_run_a_step_once() {
    let engine = Engine::start();
    let root = project(engine.dir());
    let dockerfile = "FROM busybox\nRUN sleep 1 && cat /proc/sys/kernel/random/uuid > /own\n";
    std::fs::write(root.join("Dockerfile"), dockerfile).unwrap();
    std::thread::scope(|scope| {
        for name in ["app:1", "app:2", "app:3"] {
            let (engine, root) = (&engine, &root);
            scope.spawn(move || build(engine, root, &["-t", name]).ok());
        }
    });
    assert_eq!(id(&engine, "app:1"), id(&engine, "app:2"));
    assert_eq!(id(&engine, "app:1"), id(&engine, "app:3"));
}

#[test]
fn limits_are_kept_after_a_build() {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = place.path().join("daemon.json");
    let policy = r#"{"builder": {"gc": {"policy": [{"maxUsedSpace": "1MB", "all": true}]}}}"#;
    std::fs::write(&file, policy).unwrap();
    let engine = Engine::start_with(&["--config-file", file.to_str().unwrap()]);
    let root = project(engine.dir());
    build(&engine, &root, &["-t", "app:1"]).ok();
    let before = listed(&engine).len();
    assert!(before >= 5);
    // Two megabytes of the first stage, which no image has.
    eventually("the cache is collected", || {
        let log = engine.log();
        log.contains("entries of the build cache above its limits are removed")
            .then_some(())
    });
    assert!(listed(&engine).len() < before);
}
