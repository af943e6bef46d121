//! Several commands at once on one container: each does its work or says clearly
//! why not, and nobody ever sees half of anything.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::bundle::Bundle;
use common::*;
use serde_json::Value;

const ROUNDS: usize = 10;

fn spawn(bundle: &Bundle, words: &[&str]) -> Child {
    (bundle.command(words).stdin(Stdio::null()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs all of them at once and waits. What leaves a container behind has its output
/// in files, for the container would hold pipes open.
fn together(bundle: &Bundle, commands: &[&[&str]]) -> Vec<Output> {
    bundle.save();
    let start = |(index, words): (usize, &&[&str])| {
        let log = bundle.path().join(format!("log-{index}"));
        let file = std::fs::File::create(&log).unwrap();
        let leaves = words.contains(&"create") || words.contains(&"-d");
        let mut command = bundle.command(words);
        command.stdin(Stdio::null()).stderr(file);
        command.stdout(if leaves {
            Stdio::null()
        } else {
            Stdio::piped()
        });
        (command.spawn().unwrap(), log)
    };
    let started: Vec<_> = commands.iter().enumerate().map(start).collect();
    let outputs = started.into_iter().map(|(child, log)| {
        let mut output = ended(child, "a command ends");
        output.stderr = std::fs::read(log).unwrap();
        output
    });
    outputs.collect()
}

/// One sentence that a person understands, of these.
fn clear(output: &Output, reasons: &[&str]) -> bool {
    let error = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        assert!(
            reasons.iter().any(|reason| error.contains(reason)),
            "unclear: {error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    output.status.success()
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks all the time while `work` is done; no look is ever torn.
fn watched(bundle: &Bundle, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    bundle.save();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                look(bundle);
            }
        });
        // Also when the work fails.
        let _end = End(&over);
        work();
    });
}

fn look(bundle: &Bundle) {
    let run = |words: &[&str]| {
        // Not `bundle.command`, which writes the configuration that is being read.
        let mut command = std::process::Command::new(BINARY);
        command.arg("--root").arg(bundle.state()).args(words);
        command.output().unwrap()
    };
    let state = run(&["state", "a"]);
    if clear(&state, &["container does not exist"]) {
        let state: Value = serde_json::from_slice(&state.stdout).unwrap();
        let stopped = state["status"] == "stopped" || state["status"] == "creating";
        assert!(stopped || state["pid"] != 0, "{state}");
    }
    let list = run(&["list", "--format", "json"]);
    assert!(clear(&list, &[]));
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert!(list.as_array().unwrap().len() <= 1, "{list}");
}

fn gone(bundle: &Bundle) {
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
    assert!(!bundle.state().join("a").exists());
}

fn count(outputs: &[Output]) -> usize {
    outputs
        .iter()
        .filter(|output| output.status.success())
        .count()
}

#[test]
fn creates() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    watched(&bundle, || {
        for _ in 0..ROUNDS {
            let outputs = together(&bundle, &[&["create", "a"], &["run", "-d", "a"]]);
            for output in &outputs {
                clear(output, &["container with given ID already exists"]);
            }
            assert_eq!(count(&outputs), 1, "{outputs:?}");
            gone(&bundle);
        }
    });
}

#[test]
fn create_and_delete() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    watched(&bundle, || {
        for round in 0..ROUNDS {
            let delete: &[&[&str]] = &[&["delete", "a"], &["delete", "--force", "a"]];
            let outputs = together(
                &bundle,
                &[
                    &["create", "a"],
                    delete[round % 2],
                    &["delete", "--force", "a"],
                ],
            );
            // Whoever makes it may find out at any step.
            let reasons = [
                "ended",
                "does not exist",
                "no such",
                "control group",
                "socket",
                "gate",
            ];
            clear(&outputs[0], &reasons);
            clear(&outputs[1], &["does not exist", "not stopped"]);
            assert!(clear(&outputs[2], &[]));
            gone(&bundle);
        }
    });
}

#[test]
fn starts() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    watched(&bundle, || {
        for _ in 0..ROUNDS {
            bundle.leave(&["create", "a"]);
            let outputs = together(
                &bundle,
                &[&["start", "a"], &["start", "a"], &["start", "a"]],
            );
            for output in &outputs {
                clear(output, &["cannot start an already running container"]);
            }
            assert_eq!(count(&outputs), 1, "{outputs:?}");
            gone(&bundle);
        }
    });
}

#[test]
fn start_and_delete() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    watched(&bundle, || {
        for _ in 0..ROUNDS {
            bundle.leave(&["create", "a"]);
            let outputs = together(&bundle, &[&["start", "a"], &["delete", "--force", "a"]]);
            let reasons = ["cannot start", "does not exist", "ended before"];
            clear(&outputs[0], &reasons);
            assert!(clear(&outputs[1], &[]));
            gone(&bundle);
        }
    });
}

#[test]
fn deletes() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    watched(&bundle, || {
        for _ in 0..ROUNDS {
            bundle.leave(&["create", "a"]);
            let delete: &[&str] = &["delete", "a"];
            let outputs = together(&bundle, &[delete, delete, &["delete", "--force", "a"]]);
            for output in &outputs[..2] {
                clear(output, &["does not exist"]);
            }
            assert!(clear(&outputs[2], &[]));
            gone(&bundle);
        }
    });
}

#[test]
fn execs_and_delete() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    for _ in 0..ROUNDS {
        bundle.leave(&["run", "-d", "a"]);
        let exec: &[&str] = &["exec", "-d", "a", "sleep", "1000"];
        let outputs = together(&bundle, &[exec, exec, &["delete", "--force", "a"], exec]);
        for (index, output) in outputs.iter().enumerate() {
            let reasons: &[&str] = if index == 2 {
                &[]
            } else {
                &["cannot exec in a stopped container", "does not exist"]
            };
            clear(output, reasons);
        }
        gone(&bundle);
    }
}

#[test]
fn changes() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    watched(&bundle, || {
        bundle.leave(&["run", "-d", "a"]);
        for round in 0..ROUNDS {
            let (pids, memory) = (format!("{}", 50 + round), format!("{}m", 64 + round));
            // It may begin in a group that is paused, and ends when that is not.
            let exec = spawn(&bundle, &["exec", "a", "true"]);
            let mut outputs = together(
                &bundle,
                &[
                    &["update", "--pids-limit", &pids, "a"],
                    &["update", "--memory", &memory, "a"],
                    &["pause", "a"],
                    &["resume", "a"],
                    &["ps", "-f", "json", "a"],
                    &["events", "--stats", "a"],
                ],
            );
            let _ = bundle.output(&["resume", "a"]);
            outputs.push(ended(exec, "the exec ends"));
            for output in &outputs {
                clear(
                    output,
                    &[
                        "container not running",
                        "container not paused",
                        "cannot exec in a paused",
                    ],
                );
            }
            // Neither update has undone the other.
            let config = std::fs::read(bundle.state().join("a/config.json")).unwrap();
            let config: Value = serde_json::from_slice(&config).unwrap();
            let resources = &config["linux"]["resources"];
            assert_eq!(resources["pids"]["limit"], 50 + round);
            assert_eq!(resources["memory"]["limit"], (64 + round) << 20);
        }
        gone(&bundle);
    });
}

#[test]
fn kills_and_waits() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    for _ in 0..ROUNDS {
        bundle.leave(&["run", "-d", "a"]);
        let child = spawn(&bundle, &["exec", "a", "sleep", "1000"]);
        let kill: &[&str] = &["kill", "a", "KILL"];
        let outputs = together(&bundle, &[kill, kill, &["kill", "--all", "a", "KILL"]]);
        for output in &outputs {
            clear(output, &["container not running"]);
        }
        let exec = ended(child, "the exec ends");
        assert!(exec.status.code().is_some(), "{exec:?}");
        gone(&bundle);
    }
}
