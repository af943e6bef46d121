//! Every command killed at each of its system calls: what is left is a container
//! as before or as after, or half of one that can be deleted.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Stdio;

use berth_sys::trace::kill_at_call;
use common::bundle::Bundle;
use common::*;
use serde_json::Value;

/// What `state` says, or that it says clearly why it cannot.
fn status(bundle: &Bundle) -> Option<String> {
    let output = bundle.output(&["state", "a"]);
    if output.status.success() {
        let state: Value = serde_json::from_slice(&output.stdout).unwrap();
        let status = state["status"].as_str().unwrap();
        assert_ne!(status, "creating", "nobody makes it");
        return Some(status.to_owned());
    }
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("container does not exist"), "{error}");
    None
}

/// Kills `command` at every `step`th of its calls. `prepare` makes what it finds;
/// `expected` are the states that may be left.
fn sweep(command: &[&str], step: usize, prepare: impl Fn(&Bundle), expected: &[Option<&str>]) {
    let bundle = Bundle::new(&["sleep", "1000"]);
    let mut kills = 0;
    for number in (1..).step_by(step) {
        prepare(&bundle);
        let mut traced = bundle.command(command);
        traced
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let killed = kill_at_call(&mut traced, number).unwrap();
        let at = format!("{command:?} killed at its call {number}");
        let left = status(&bundle);
        assert!(expected.contains(&left.as_deref()), "{at}: {left:?}");
        let listed = bundle.ok(&["list", "-q"]);
        assert_eq!(listed == "a\n", left.is_some(), "{at}");
        // Whoever comes next may do it without force, or is told why not.
        let plain = bundle.output(&["delete", "a"]);
        let error = String::from_utf8_lossy(&plain.stderr);
        assert!(
            plain.status.success()
                || error.contains("not stopped")
                || error.contains("does not exist"),
            "{at}: {error}"
        );
        bundle.ok(&["delete", "--force", "a"]);
        bundle.assert_empty();
        assert!(!bundle.state().join("a").exists(), "{at}");
        assert_no_mounts(bundle.path());
        if !killed {
            break;
        }
        kills += 1;
    }
    assert!(kills > 10, "{command:?}: only {kills} kills");
}

fn nothing(_: &Bundle) {}

fn created(bundle: &Bundle) {
    bundle.leave(&["create", "a"]);
}

fn running(bundle: &Bundle) {
    bundle.leave(&["run", "-d", "a"]);
}

fn paused(bundle: &Bundle) {
    running(bundle);
    bundle.ok(&["pause", "a"]);
}

#[test]
fn create() {
    let left = [None, Some("stopped"), Some("created")];
    sweep(&["create", "a"], 2, nothing, &left);
}

#[test]
fn run() {
    let left = [None, Some("stopped"), Some("running")];
    sweep(&["run", "-d", "a"], 2, nothing, &left);
}

#[test]
fn start() {
    let left = [Some("created"), Some("running")];
    sweep(&["start", "a"], 1, created, &left);
}

#[test]
fn exec() {
    let exec = ["exec", "-d", "a", "sleep", "1000"];
    sweep(&exec, 3, running, &[Some("running")]);
}

#[test]
fn pause() {
    let left = [Some("running"), Some("paused")];
    sweep(&["pause", "a"], 1, running, &left);
}

#[test]
fn resume() {
    let left = [Some("running"), Some("paused")];
    sweep(&["resume", "a"], 1, paused, &left);
}

#[test]
fn update() {
    let update = ["update", "--memory", "64m", "--pids-limit", "20", "a"];
    sweep(&update, 1, running, &[Some("running")]);
}

#[test]
fn kill() {
    let left = [Some("running"), Some("stopped")];
    sweep(&["kill", "a", "KILL"], 1, running, &left);
}

#[test]
fn delete() {
    // Paused: one of version 1 is held still while its processes are killed.
    let left = [Some("created"), Some("paused"), Some("stopped"), None];
    sweep(&["delete", "a"], 2, created, &left);
}

#[test]
fn delete_by_force() {
    let left = [Some("running"), Some("paused"), Some("stopped"), None];
    sweep(&["delete", "--force", "a"], 2, paused, &left);
}

/// The processes of others are never taken for the container's.
#[test]
fn create_in_a_group_of_others() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    running(&bundle);
    for number in (1..).step_by(5) {
        let mut traced = bundle.command(&["create", "b"]);
        traced
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let killed = kill_at_call(&mut traced, number).unwrap();
        bundle.ok(&["delete", "--force", "b"]);
        assert_eq!(status(&bundle).as_deref(), Some("running"), "{number}");
        if !killed {
            break;
        }
    }
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}
