//! The six kinds of hooks (config.md, "POSIX-platform Hooks"; runtime.md,
//! "Lifecycle"): when, where, with what, and what their failure does.
#![allow(clippy::needless_pass_by_value, clippy::unwrap_used)]

mod common;

use common::bundle::Bundle;
use serde_json::{Value, json};

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A container with a hook of each kind that tells about itself in one file. Only
/// startContainer sees that by another path.
fn told(args: &[&str]) -> Bundle {
    let mut bundle = Bundle::new(args);
    let log = bundle.path().join("log");
    std::fs::write(&log, "").unwrap();
    std::fs::write(bundle.path().join("rootfs/log"), "").unwrap();
    bundle.set(&[
        ("/annotations", json!({ "key": "value" })),
        ("/process/cwd", json!("/tmp")),
    ]);
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts
        .push(json!({ "destination": "/log", "type": "bind", "source": log, "options": ["bind"] }));
    for kind in KINDS {
        let path = if kind == "startContainer" {
            "/log"
        } else {
            log.to_str().unwrap()
        };
        let script = format!(
            "read -r state; for name in mnt net pid; do where=\"$where $(readlink /proc/self/ns/$name)\"; done; \
             printf '%s\\n' \"$0\" \"$*\" \"$PWD\" \"$where\" \"$A:$HOME\" \"$state\" >> {path}"
        );
        let hook = json!([{
            "path": "/bin/sh", "args": ["sh", "-c", script, kind, "x", "y z"],
            "env": ["A=1", "PATH=/bin:/usr/bin"], "timeout": 60,
        }]);
        bundle.config["hooks"][kind] = hook;
    }
    bundle
}

/// What each hook told: kind, arguments, directory, namespaces, environment, state.
fn log(bundle: &Bundle) -> Vec<(String, Vec<String>, Value)> {
    let text = std::fs::read_to_string(bundle.path().join("log")).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines
        .chunks(6)
        .map(|told| {
            let state = serde_json::from_str(&told[5]).unwrap();
            (told[0].clone(), told[1..5].to_vec(), state)
        })
        .collect()
}

fn own(name: &str) -> String {
    let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    link.to_str().unwrap().to_owned()
}

#[test]
fn all_run_where_and_when_they_should() {
    let bundle = told(&["sleep", "1000"]);
    bundle.leave(&["create", "a"]);
    let kinds = |bundle: &Bundle| -> Vec<String> {
        log(bundle).into_iter().map(|(kind, ..)| kind).collect()
    };
    assert_eq!(kinds(&bundle), KINDS[..3]);
    let pid = bundle.state_of("a")["pid"].clone();
    bundle.ok(&["start", "a"]);
    assert_eq!(kinds(&bundle), KINDS[..5]);
    bundle.ok(&["delete", "--force", "a"]);
    assert_eq!(kinds(&bundle), KINDS);
    let host = format!(" {} {} {}", own("mnt"), own("net"), own("pid"));
    let directory = bundle.path().to_str().unwrap().to_owned();
    for (kind, told, state) in log(&bundle) {
        assert_eq!(told[0], "x y z", "{kind}");
        assert_eq!(
            told[3], "1:",
            "{kind}: an environment that was not asked for"
        );
        let inside = matches!(kind.as_str(), "createContainer" | "startContainer");
        let expected = match kind.as_str() {
            "createContainer" => format!("{directory}/rootfs"),
            // Where the program will be.
            "startContainer" => "/tmp".to_owned(),
            _ => directory.clone(),
        };
        assert_eq!(told[1], expected, "{kind}");
        if inside {
            let theirs: Vec<_> = told[2].split_whitespace().collect();
            assert!(
                theirs.iter().all(|namespace| !host.contains(namespace)),
                "{kind}"
            );
        } else {
            assert_eq!(told[2], host, "{kind}");
        }
        let status = match kind.as_str() {
            "startContainer" => "created",
            "poststart" => "running",
            "poststop" => "stopped",
            _ => "creating",
        };
        assert_eq!(state["status"], status, "{kind}");
        assert_eq!(state["id"], "a");
        assert_eq!(state["bundle"], directory.as_str());
        assert_eq!(state["ociVersion"], bundle.config["ociVersion"]);
        assert_eq!(state["annotations"], json!({ "key": "value" }));
        // As the process sees itself inside.
        let number = match kind.as_str() {
            "poststop" => Value::Null,
            _ if inside => json!(1),
            _ => pid.clone(),
        };
        assert_eq!(state["pid"], number, "{kind}");
    }
    bundle.assert_empty();
}

#[test]
fn created_by_one_and_found_by_the_other() {
    // createContainer is looked up on the host, startContainer in the container.
    let mut bundle = Bundle::new(&["cat", "/from-start"]);
    let program = bundle.path().join("program");
    std::fs::write(&program, "#!/bin/sh\nexec cp /bin/busybox /dev/null\n").unwrap();
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    bundle.set(&[
        ("/hooks/createContainer", json!([{ "path": program }])),
        (
            "/hooks/startContainer",
            json!([
                { "path": "/bin/busybox", "args": ["sh", "-c", "echo first > /from-start"] },
                { "path": "/bin/busybox", "args": ["sh", "-c", "echo second >> /from-start"] },
            ]),
        ),
    ]);
    assert_eq!(bundle.ok(&["run", "a"]), "first\nsecond\n");
    bundle.assert_empty();
}

/// Up to poststart a failure ends the container, and its poststop hooks run; after
/// the end it is no more than a warning.
#[test]
fn failures() {
    for kind in KINDS {
        let mut bundle = told(&["sh", "-c", "exit 7"]);
        let failing =
            json!({ "path": "/bin/sh", "args": ["sh", "-c", "echo said why >&2; exit 3"] });
        let hooks = bundle.config["hooks"][kind].as_array_mut().unwrap();
        hooks.insert(0, failing);
        let output = bundle.output(&["run", "a"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            error.contains("exit status 3, output: said why"),
            "{kind}: {error}"
        );
        assert!(error.contains(&format!("{kind} hook #0")), "{error}");
        let ran: Vec<_> = log(&bundle).into_iter().map(|(kind, ..)| kind).collect();
        let before = KINDS.iter().position(|other| *other == kind).unwrap();
        let mut expected: Vec<_> = KINDS[..before].to_vec();
        expected.push("poststop");
        assert_eq!(ran, expected, "{kind}");
        assert_eq!(
            output.status.code(),
            Some(if kind == "poststop" { 7 } else { 1 }),
            "{kind}"
        );
        bundle.assert_empty();
    }
}

#[test]
fn one_that_hangs_is_ended() {
    for kind in ["createRuntime", "startContainer"] {
        let mut bundle = Bundle::new(&["true"]);
        let hook = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "exec sleep 1000"], "timeout": 1,
            "env": ["PATH=/bin:/usr/bin"] }]);
        bundle.config["hooks"][kind] = hook;
        let error = bundle.fails(&["run", "a"]);
        assert!(error.contains("did not end within 1 s"), "{error}");
        bundle.assert_empty();
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle.set(&[("/hooks/prestart", json!([{ "path": "relative" }]))]);
    assert!(bundle.fails(&["run", "a"]).contains("not absolute"));
    bundle.assert_empty();
}
