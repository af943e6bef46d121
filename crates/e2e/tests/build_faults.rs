//! Builds that are cut off: nothing half-built is taken for a result, and
//! nothing of them stays.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use berth_e2e::{Engine, eventually, leaks};

/// A build whose step says so and then waits for ever.
fn begin(engine: &Engine, dockerfile: &str) -> Child {
    let context = engine.dir().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let output = std::fs::File::create(engine.dir().join("build.log")).unwrap();
    let child = engine
        .command("berth")
        .args(["build", "--progress", "plain", "-t", "cut"])
        .arg(&context)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    eventually("the step runs", || {
        let log = std::fs::read_to_string(engine.dir().join("build.log")).unwrap();
        log.contains("step-is-running").then_some(())
    });
    child
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn nothing_is_left(engine: &Engine, mark: &str) {
    for dir in [
        engine.exec_root().join("build"),
        engine.data_root().join("snapshots"),
    ] {
        eventually(&format!("{} is empty", dir.display()), || {
            entries(&dir).is_empty().then_some(())
        });
    }
    eventually("the step's control groups are gone", || {
        leaks::cgroups(engine.cgroup())
            .iter()
            .all(|path| path.ends_with("launcher"))
            .then_some(())
    });
    assert_eq!(leaks::processes(mark), []);
}

const FILE: &str =
    "FROM busybox\nRUN echo first > /one\nRUN echo step-is-\"running\"; sleep 98701\n";

#[test]
fn the_engine_is_killed_in_a_step() {
    let mut engine = Engine::start();
    let mut client = begin(&engine, FILE);
    engine.kill();
    // The monitor ends with the engine that it works for.
    eventually("the step is ended", || {
        leaks::processes("sleep 98701").is_empty().then_some(())
    });
    assert!(!client.wait().unwrap().success());
    engine.launch();
    nothing_is_left(&engine, "sleep 98701");
    engine
        .berth(&["image", "inspect", "cut"])
        .fails(1, "No such image");
    // What was whole is known, what was cut off is not.
    let client = begin(&engine, FILE);
    let log = std::fs::read_to_string(engine.dir().join("build.log")).unwrap();
    assert!(log.contains("CACHED"), "{log}");
    end(client);
    nothing_is_left(&engine, "sleep 98701");
}

#[test]
fn the_client_goes_away_in_a_step() {
    let engine = Engine::start();
    let file = FILE.replace("98701", "98702");
    end(begin(&engine, &file));
    nothing_is_left(&engine, "sleep 98702");
    engine
        .berth(&["image", "inspect", "cut"])
        .fails(1, "No such image");
}

#[test]
fn the_monitor_of_a_step_is_killed() {
    let engine = Engine::start();
    let mut client = begin(&engine, &FILE.replace("98701", "98703"));
    let monitor = leaks::processes("sleep 98703")
        .iter()
        .flat_map(|(pid, _)| std::iter::successors(Some(*pid), |pid| parent(*pid)))
        .find(|pid| comm(*pid) == "berth-monitor")
        .unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(monitor).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    assert!(!client.wait().unwrap().success());
    nothing_is_left(&engine, "sleep 98703");
}

fn comm(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    text.trim().to_owned()
}

fn parent(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Kills a client of ours.
fn end(mut client: Child) {
    client.kill().unwrap();
    client.wait().unwrap();
}
