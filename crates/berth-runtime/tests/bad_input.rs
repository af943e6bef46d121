//! Bad input: one sentence that names the field, exit code 1, nothing left behind.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use common::bundle::Bundle;
use serde_json::{Value, json};

/// Runs a bundle whose configuration was changed; returns the error.
fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut bundle = Bundle::new(&["true"]);
    let good = bundle.config.clone();
    change(&mut bundle.config);
    let config = bundle.config.to_string();
    let error = bundle.fails(&["run", "bad"]);
    let sentence = error.strip_prefix("berth-runtime: ").unwrap();
    assert_eq!(sentence.trim_end().lines().count(), 1, "{sentence}");
    assert!(!bundle.state().join("bad").exists(), "{config}");
    bundle.config = good;
    bundle.assert_empty();
    error
}

#[test]
fn configuration_is_no_document() {
    let bundle = Bundle::new(&["true"]);
    let path = bundle.path().join("config.json");
    for (text, words) in [
        (None, "config.json not found"),
        (Some(""), "EOF"),
        (Some("x"), "expected value"),
        (Some("{"), "EOF"),
        (Some("[]"), "invalid"),
        (Some("{\"ociVersion\": \"1.0.0\"}"), "root is missing"),
    ] {
        // The file is not to be written again by `command`.
        let mut command = bundle.command(&["run", "bad"]);
        match text {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => std::fs::write(&path, text).unwrap(),
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{text:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains("config.json") && error.contains(words),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    bundle.assert_empty();
}

#[test]
fn required_field_is_missing() {
    for field in [
        "ociVersion",
        "root",
        "root/path",
        "process",
        "process/args",
        "process/cwd",
        "linux",
    ] {
        let error = refused(|config| {
            let (parent, name) = field.rsplit_once('/').unwrap_or(("", field));
            let parent = match parent {
                "" => config,
                parent => &mut config[parent],
            };
            parent.as_object_mut().unwrap().remove(name).unwrap();
        });
        assert!(error.contains(&field.replace('/', ".")), "{field}: {error}");
        assert!(error.contains("missing"), "{field}: {error}");
    }
    let error = refused(|config| config["mounts"][0] = json!({ "type": "tmpfs" }));
    assert!(error.contains("mounts[0].destination: missing"), "{error}");
}

#[test]
fn value_is_unknown_or_of_a_wrong_kind() {
    let cases: &[(&str, Value, &[&str])] = &[
        (
            "/ociVersion",
            json!("2.0.0"),
            &["ociVersion \"2.0.0\"", "not supported"],
        ),
        (
            "/ociVersion",
            json!("0.9.0"),
            &["ociVersion \"0.9.0\"", "not supported"],
        ),
        ("/ociVersion", json!(1), &["ociVersion", "invalid type"]),
        ("/process/args", json!([]), &["process.args"]),
        (
            "/process/args",
            json!("sh"),
            &["process.args", "invalid type"],
        ),
        (
            "/process/args",
            json!(["nope"]),
            &["\"nope\"", "executable file not found"],
        ),
        ("/process/cwd", json!("x"), &["process.cwd", "absolute"]),
        (
            "/process/user/uid",
            json!("root"),
            &["process.user.uid", "invalid type"],
        ),
        (
            "/process/user/uid",
            json!(-1),
            &["process.user.uid", "invalid value"],
        ),
        (
            "/process/capabilities",
            json!({ "bounding": ["CAP_X"] }),
            &[
                "process.capabilities.bounding[0]",
                "unknown capability CAP_X",
            ],
        ),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_X", "soft": 1, "hard": 1 }]),
            &["process.rlimits[0].type", "RLIMIT_X"],
        ),
        (
            "/process/oomScoreAdj",
            json!(5000),
            &["oom_score_adj", "5000"],
        ),
        (
            "/process/scheduler",
            json!({ "policy": "SCHED_X" }),
            &["process.scheduler.policy", "SCHED_X"],
        ),
        (
            "/process/ioPriority",
            json!({ "class": "X", "priority": 1 }),
            &["process.ioPriority.class"],
        ),
        (
            "/process/ioPriority",
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 9 }),
            &["process.ioPriority", "9"],
        ),
        (
            "/process/execCPUAffinity",
            json!({ "initial": "x" }),
            &["process.execCPUAffinity.initial", "x"],
        ),
        (
            "/process/apparmorProfile",
            json!("nope"),
            &["AppArmor", "nope"],
        ),
        ("/process/selinuxLabel", json!("nope"), &["SELinux", "nope"]),
        ("/root/path", json!("nope"), &["root filesystem", "nope"]),
        (
            "/mounts",
            json!([{ "destination": "/y", "type": "nofs", "source": "x" }]),
            &["/y", "nofs"],
        ),
        (
            "/mounts",
            json!([{ "destination": "/y", "type": "bind", "source": "/nonexistent", "options": ["bind"] }]),
            &["/y", "/nonexistent"],
        ),
        (
            "/mounts",
            json!([{ "destination": "/y", "type": "tmpfs", "source": "x", "options": ["nope"] }]),
            &["/y", "nope"],
        ),
        (
            "/hooks",
            json!({ "prestart": [{ "path": "x" }] }),
            &["prestart hook #0", "absolute"],
        ),
        (
            "/hooks",
            json!({ "createRuntime": [{ "path": "/nope" }] }),
            &["createRuntime hook #0", "no such file"],
        ),
        (
            "/hooks",
            json!({ "createRuntime": [{ "path": "/bin/false" }] }),
            &["createRuntime hook #0", "exit status 1"],
        ),
        (
            "/hooks",
            json!({ "createContainer": "x" }),
            &["hooks.createContainer", "invalid type"],
        ),
        (
            "/linux/namespaces",
            json!([{ "type": "foo" }]),
            &["linux.namespaces[0].type", "foo"],
        ),
        (
            "/linux/namespaces",
            json!([{ "type": "mount" }, { "type": "mount" }]),
            &["linux.namespaces", "twice"],
        ),
        (
            "/linux/namespaces",
            json!([{ "type": "mount" }, { "type": "ipc", "path": "/nope" }]),
            &["namespace /nope"],
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_X" }),
            &["linux.seccomp.defaultAction", "SCMP_ACT_X"],
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X"] }),
            &["linux.seccomp.architectures[0]"],
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 9, "value": 1, "op": "SCMP_CMP_EQ" }] }] }),
            &["linux.seccomp", "index 9"],
        ),
        (
            "/linux/sysctl",
            json!({ "kernel.panic": "1" }),
            &["sysctl \"kernel.panic\""],
        ),
        (
            "/linux/resources",
            json!({ "memory": { "limit": "x" } }),
            &["linux.resources.memory.limit"],
        ),
        (
            "/linux/resources",
            json!({ "cpu": { "cpus": "9999" } }),
            &["cpuset.cpus", "9999"],
        ),
        (
            "/linux/devices",
            json!([{ "path": "/dev/x", "type": "q", "major": 1, "minor": 3 }]),
            &["linux.devices[0].type"],
        ),
        (
            "/linux/rootfsPropagation",
            json!("x"),
            &["linux.rootfsPropagation", "\"x\""],
        ),
        (
            "/linux/personality",
            json!({ "domain": "X" }),
            &["linux.personality.domain"],
        ),
        (
            "/linux/timeOffsets",
            json!({ "monotonic": { "secs": 1 } }),
            &["linux.timeOffsets", "time namespace"],
        ),
        (
            "/linux/intelRdt",
            json!({ "closID": "x" }),
            &["intelRdt is specified", "resctrl"],
        ),
    ];
    for (field, value, words) in cases {
        let error = refused(|config| {
            let (parent, name) = field.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[name] = value.clone();
        });
        for word in *words {
            assert!(error.contains(word), "{field} = {value}: {error}");
        }
    }
}

#[test]
fn field_that_nobody_knows_is_ignored() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["ociVersion"] = json!("1.9.0");
    bundle.config["new"] = json!({ "x": [1] });
    bundle.config["process"]["new"] = json!("x");
    bundle.config["linux"]["new"] = json!(null);
    bundle.ok(&["run", "good"]);
    bundle.assert_empty();
}

#[test]
fn command_in_the_wrong_state() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["create", "a"]);
    let error = bundle.fails(&["create", "a"]);
    assert!(
        error.contains("container with given ID already exists"),
        "{error}"
    );
    bundle.ok(&["start", "a"]);
    for (args, words) in [
        (
            &["start", "a"][..],
            "cannot start an already running container",
        ),
        (
            &["delete", "a"],
            "cannot delete container a that is not stopped: running",
        ),
        (&["resume", "a"], "container not paused"),
        (&["exec", "a"], "the command is missing"),
        (
            &["exec", "a", "nope"],
            "\"nope\": executable file not found in $PATH",
        ),
        (&["exec", "--cwd", "/nope", "a", "true"], "chdir to cwd"),
        (
            &["exec", "--user", "root", "a", "true"],
            "invalid user \"root\"",
        ),
        (
            &["exec", "--cap", "CAP_X", "a", "true"],
            "unknown capability \"CAP_X\"",
        ),
        (
            &["kill", "a", "999"],
            "unable to signal init: invalid argument",
        ),
        (
            &["update", "--memory", "x", "a"],
            "invalid value for memory",
        ),
    ] {
        let error = bundle.fails(args);
        assert!(error.contains(words), "{args:?}: {error}");
    }
    bundle.ok(&["kill", "a", "0"]);
    bundle.ok(&["pause", "a"]);
    assert!(
        bundle
            .fails(&["pause", "a"])
            .contains("container not running")
    );
    assert!(
        bundle
            .fails(&["start", "a"])
            .contains("in the paused state")
    );
    assert!(
        bundle
            .fails(&["exec", "a", "true"])
            .contains("paused container")
    );
    // Also a frozen one is killed.
    bundle.ok(&["kill", "a", "KILL"]);
    common::eventually("it ends", || {
        (bundle.state_of("a")["status"] == "stopped").then_some(())
    });
    for (args, words) in [
        (
            &["start", "a"][..],
            "cannot start a container that has stopped",
        ),
        (&["exec", "a", "true"], "cannot exec in a stopped container"),
        (&["kill", "a"], "container not running"),
        (&["pause", "a"], "container not running"),
        (&["resume", "a"], "container not paused"),
        (&["ps", "a"], "not running"),
        (&["update", "--memory", "1G", "a"], "not running"),
    ] {
        let error = bundle.fails(args);
        assert!(error.contains(words), "{args:?}: {error}");
    }
    bundle.ok(&["delete", "a"]);
    for verb in [
        "start", "state", "delete", "kill", "pause", "resume", "ps", "update", "events",
    ] {
        let error = bundle.fails(&[verb, "a"]);
        assert!(
            error.contains("container does not exist"),
            "{verb}: {error}"
        );
    }
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}
