//! Containers that are not whole: being made, or given up by a killed command.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Output, Stdio};

use common::bundle::Bundle;
use common::*;
use serde_json::{Value, json};

/// What `create` had made when it was killed can be deleted, and is all there was.
#[test]
fn create_killed_at_any_moment_can_be_deleted() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.save();
    let mut ends = [0; 2];
    for round in 0..60_u64 {
        let verb = if round % 2 == 0 {
            &["create", "a"][..]
        } else {
            &["run", "-d", "a"]
        };
        let mut child = bundle
            .command(verb)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From before it has begun to after it has ended.
        std::thread::sleep(std::time::Duration::from_micros(round * round * 12));
        child.kill().unwrap();
        let killed = child.wait().unwrap().code().is_none();
        ends[usize::from(killed)] += 1;
        let left = bundle.state().join("a").exists();
        if left && killed {
            let state = bundle.output(&["state", "a"]);
            if state.status.success() {
                let state: Value = serde_json::from_slice(&state.stdout).unwrap();
                assert_ne!(state["status"], "creating", "nobody makes it");
            }
        }
        bundle.ok(&["delete", "--force", "a"]);
        bundle.assert_empty();
        assert!(!bundle.state().join("a").exists());
    }
    assert!(ends[1] > 0, "none was killed in time: {ends:?}");
}

#[test]
fn container_in_the_making_is_not_deleted() {
    let mut bundle = Bundle::new(&["true"]);
    let go = bundle.path().join("go");
    bundle.config["hooks"]["createRuntime"] = json!([{
        "path": "/bin/sh",
        "args": ["sh", "-c", format!("while [ ! -e {} ]; do sleep 0.01; done", go.display())],
        "env": ["PATH=/bin:/usr/bin"],
    }]);
    let mut child = bundle.command(&["create", "a"]);
    let mut child = (child
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null()))
    .spawn()
    .unwrap();
    eventually("it is being made", || {
        let output = bundle.output(&["state", "a"]);
        output.status.success().then_some(())
    });
    assert_eq!(bundle.state_of("a")["status"], "creating");
    let error = bundle.fails(&["delete", "a"]);
    assert!(error.contains("that is not stopped: creating"), "{error}");
    assert!(
        bundle
            .fails(&["start", "a"])
            .contains("in the creating state")
    );
    std::fs::write(&go, "").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(bundle.state_of("a")["status"], "created");
    bundle.ok(&["delete", "a"]);
    bundle.assert_empty();
}

#[test]
fn hooks_run_when_the_container_has_been_deleted() {
    let mut bundle = Bundle::new(&["true"]);
    let log = bundle.path().join("log");
    let hook = |text: &str| {
        json!({
            "path": "/bin/sh",
            "args": ["sh", "-c", format!("{text} >> {}", log.display())],
            "env": ["PATH=/bin:/usr/bin"],
        })
    };
    let left = bundle.state().join("a");
    let look = format!("test ! -e {} && echo gone", left.display());
    bundle.config["hooks"]["poststop"] = json!([hook("cat"), { "path": "/nope" }, hook(&look)]);
    let check = |output: &Output| {
        let warning = String::from_utf8_lossy(&output.stderr);
        assert!(warning.contains("poststop hook #1"), "{warning}");
        let text = std::fs::read_to_string(&log).unwrap();
        let (state, rest) = text.split_at(text.rfind('}').unwrap() + 1);
        let state: Value = serde_json::from_str(state).unwrap();
        assert_eq!(
            (&state["status"], &state["id"]),
            (&json!("stopped"), &json!("a"))
        );
        assert_eq!(rest, "gone\n");
        std::fs::remove_file(&log).unwrap();
    };
    let output = bundle.output(&["run", "a"]);
    assert!(output.status.success(), "{output:?}");
    check(&output);
    bundle.leave(&["create", "a"]);
    let output = bundle.output(&["delete", "a"]);
    assert!(output.status.success(), "{output:?}");
    check(&output);
    bundle.assert_empty();
}

/// A `run` that was away while its container was deleted and made anew leaves the
/// new one alone.
#[test]
fn another_container_of_the_same_name_is_not_removed() {
    use rustix::process::{Pid, Signal, kill_process};
    let bundle = Bundle::new(&["sleep", "1000"]);
    let mut command = bundle.command(&["run", "a"]);
    let old = (command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null()))
    .spawn()
    .unwrap();
    eventually("it runs", || {
        let output = bundle.output(&["state", "a"]);
        let text = String::from_utf8_lossy(&output.stdout);
        text.contains(r#""running""#).then_some(())
    });
    let pid = Pid::from_raw(old.id().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    bundle.ok(&["delete", "--force", "a"]);
    bundle.leave(&["run", "-d", "a"]);
    kill_process(pid, Signal::CONT).unwrap();
    ended(old, "the old run");
    assert_eq!(bundle.state_of("a")["status"], "running");
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

/// What is not known of a container is not given up.
#[test]
fn a_state_that_cannot_be_read_is_not_removed() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["run", "-d", "a"]);
    let path = bundle.state().join("a/state.json");
    let state = std::fs::read(&path).unwrap();
    std::fs::write(&path, &state[..20]).unwrap();
    for delete in [&["delete", "a"][..], &["delete", "--force", "a"]] {
        let error = bundle.fails(delete);
        assert!(error.contains("parse"), "{error}");
    }
    std::fs::write(&path, &state).unwrap();
    assert_eq!(bundle.state_of("a")["status"], "running");
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

/// A program that nobody was told of does not go on.
#[test]
fn a_process_that_cannot_be_announced_is_ended() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["run", "-d", "a"]);
    for option in ["--pid-file", "--pidfd-socket"] {
        let command = ["exec", "-d", option, "/nonexistent/x", "a", "sleep", "1000"];
        let status = (bundle.command(&command).stdin(Stdio::null()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert_eq!(status.unwrap().code(), Some(255), "{option}");
        let processes: Value =
            serde_json::from_str(&bundle.ok(&["ps", "--format", "json", "a"])).unwrap();
        assert_eq!(processes.as_array().unwrap().len(), 1, "{option}");
    }
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}
