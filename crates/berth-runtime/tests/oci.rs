//! The OCI command line.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Stdio};

use common::bundle::Bundle;
use common::*;
use serde_json::{Value, json};

#[test]
fn run_passes_output_and_exit_code_and_leaves_nothing() {
    let bundle = Bundle::new(&["sh", "-c", "echo out; echo err >&2; exit 3"]);
    let output = bundle.output(&["run", "a"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    bundle.assert_empty();
}

#[test]
fn run_forwards_signals() {
    let bundle = Bundle::new(&[
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done",
    ]);
    let mut child = bundle
        .command(&["run", "a"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    bundle.assert_empty();
}

#[test]
fn create_start_kill_delete() {
    let bundle = Bundle::new(&["sh", "-c", "echo started > /mark; exec sleep 1000"]);
    let pid_file = bundle.path().join("pid");
    bundle.leave(&["create", "--pid-file", pid_file.to_str().unwrap(), "a"]);
    let state = bundle.state_of("a");
    assert_eq!(state["status"], "created");
    assert_eq!(
        state["pid"].to_string(),
        std::fs::read_to_string(pid_file).unwrap()
    );
    assert_eq!(
        state["bundle"],
        bundle.path().canonicalize().unwrap().to_str().unwrap()
    );
    assert!(
        !bundle.path().join("rootfs/mark").exists(),
        "the program runs before the start"
    );
    assert!(bundle.fails(&["create", "a"]).contains("already exists"));
    // As in runc.
    assert_eq!(bundle.ok(&["exec", "a", "echo", "before"]), "before\n");

    bundle.ok(&["start", "a"]);
    assert_eq!(bundle.state_of("a")["status"], "running");
    eventually("the program runs", || {
        bundle.path().join("rootfs/mark").exists().then_some(())
    });
    assert!(bundle.fails(&["start", "a"]).contains("running"));
    assert!(bundle.ok(&["list"]).contains("running"));
    assert!(bundle.fails(&["delete", "a"]).contains("not stopped"));

    bundle.ok(&["kill", "a", "KILL"]);
    eventually("it ends", || {
        (bundle.state_of("a")["status"] == "stopped").then_some(())
    });
    assert!(bundle.fails(&["kill", "a"]).contains("not running"));
    assert!(
        bundle
            .fails(&["exec", "a", "true"])
            .contains("cannot exec in a stopped container")
    );
    assert!(bundle.fails(&["start", "a"]).contains("stopped"));
    bundle.ok(&["delete", "a"]);
    assert!(bundle.fails(&["state", "a"]).contains("does not exist"));
    bundle.assert_empty();
}

#[test]
fn it_is_told_why_the_program_does_not_run() {
    let mut bundle = Bundle::new(&["no-such-program"]);
    let error = bundle.fails(&["create", "a"]);
    assert!(
        error.contains("executable file not found in $PATH"),
        "{error}"
    );
    bundle.assert_empty();
    // Only the kernel knows that it cannot execute this.
    let junk = bundle.path().join("rootfs/junk");
    std::fs::write(&junk, "\x7fELF").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&junk, mode).unwrap();
    bundle.config["process"]["args"] = json!(["/junk"]);
    bundle.leave(&["create", "a"]);
    let error = bundle.fails(&["start", "a"]);
    assert!(error.contains("exec format error"), "{error}");
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

#[test]
fn created_container_is_deleted() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["create", "a"]);
    bundle.ok(&["delete", "--force", "a"]);
    bundle.leave(&["create", "a"]);
    bundle.ok(&["delete", "a"]);
    bundle.ok(&["delete", "--force", "a"]);
    assert!(bundle.fails(&["delete", "a"]).contains("does not exist"));
    bundle.assert_empty();
}

#[test]
fn run_detached_and_exec() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["run", "-d", "a"]);
    assert_eq!(bundle.ok(&["exec", "a", "cat", "/proc/1/comm"]), "sleep\n");
    let output = bundle.output(&[
        "exec",
        "-e",
        "X=1",
        "--cwd",
        "/tmp",
        "a",
        "sh",
        "-c",
        "echo $X; pwd; exit 4",
    ]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(output.stdout, b"1\n/tmp\n");
    // CVE-2026-30892.
    assert_eq!(bundle.ok(&["exec", "-u", "1", "a", "id", "-u"]), "1\n");
    assert!(
        bundle
            .fails(&["exec", "a", "no-such"])
            .contains("executable file not found")
    );
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

#[test]
fn terminal_goes_to_the_console_socket() {
    let mut bundle = Bundle::new(&["sh", "-c", "tty; exec sleep 1000"]);
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({ "width": 91, "height": 37 });
    assert!(bundle.fails(&["create", "a"]).contains("--console-socket"));
    let path = bundle.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    bundle.leave(&["create", "--console-socket", path.to_str().unwrap(), "a"]);
    let (socket, _) = listener.accept().unwrap();
    let (_, mut fds) = berth_sys::socket::receive(&socket).unwrap().unwrap();
    let console = fds.remove(0);
    let size = rustix::termios::tcgetwinsize(&console).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (91, 37));
    bundle.ok(&["start", "a"]);
    readable(&console);
    let mut text = [0; 64];
    let length = rustix::io::read(&console, &mut text).unwrap();
    assert!(
        text[..length].starts_with(b"/dev/"),
        "{:?}",
        &text[..length]
    );
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

#[test]
fn pause_ps_and_resume() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["create", "a"]);
    assert!(
        bundle
            .fails(&["resume", "a"])
            .contains("container not paused")
    );
    bundle.ok(&["start", "a"]);
    let pid = bundle.state_of("a")["pid"].clone();
    let pids: Value = serde_json::from_str(&bundle.ok(&["ps", "--format", "json", "a"])).unwrap();
    assert_eq!(pids, json!([pid]));
    let table = bundle.ok(&["ps", "a"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("sleep 1000"), "{table}");
    let table = bundle.ok(&["ps", "a", "-o", "pid,comm", "-e"]);
    assert!(table.lines().nth(1).unwrap().ends_with("sleep"), "{table}");
    assert!(
        bundle
            .fails(&["ps", "-f", "x", "a"])
            .contains("invalid format")
    );

    bundle.ok(&["pause", "a"]);
    assert_eq!(bundle.state_of("a")["status"], "paused");
    assert!(
        bundle
            .fails(&["pause", "a"])
            .contains("container not running")
    );
    assert!(bundle.fails(&["exec", "a", "true"]).contains("paused"));
    bundle.ok(&["resume", "a"]);
    assert_eq!(bundle.state_of("a")["status"], "running");
    bundle.ok(&["exec", "a", "true"]);

    bundle.ok(&["pause", "a"]);
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

#[test]
fn descriptors_are_passed_on_when_asked() {
    let bundle = Bundle::new(&["sh", "-c", "cat <&3; ls /proc/self/fd | wc -l"]);
    std::fs::write(bundle.path().join("kept"), "kept\n").unwrap();
    let run = |script: &str| {
        bundle.save();
        let script = format!("{BINARY} --root state {script}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(bundle.path());
        command.output().unwrap()
    };
    // 0, 1, 2, 3 and the listing's own.
    let output = run("run --preserve-fds 1 a 3<kept");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "kept\n5\n");
    // Nobody asked for it (CVE-2024-21626).
    let output = run("run a 3<kept");
    assert!(!output.status.success() || !output.stdout.starts_with(b"kept"));
    let output = run("run --preserve-fds 2 a 3<kept");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("preserved-fd 2 (of 2)"), "{stderr}");

    bundle.leave(&[
        "run",
        "-d",
        "--bundle",
        ".",
        "--no-new-keyring",
        "--no-pivot",
        "b",
    ]);
    bundle.ok(&["delete", "-f", "b"]);
    bundle.assert_empty();
}

#[test]
fn pidfd_goes_to_its_socket() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    let path = bundle.path().join("pidfd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let socket = path.to_str().unwrap();
    bundle.leave(&["create", "--pidfd-socket", socket, "a"]);
    let receive = || {
        let (socket, _) = listener.accept().unwrap();
        let (_, mut fds) = berth_sys::socket::receive(&socket).unwrap().unwrap();
        fds.remove(0)
    };
    let pidfd = receive();
    bundle.ok(&["start", "a"]);
    bundle.leave(&["exec", "-d", "--pidfd-socket", socket, "a", "sleep", "1000"]);
    let further = receive();
    berth_sys::signals::send_signal(&further, libc::SIGKILL).unwrap();
    berth_sys::signals::send_signal(&pidfd, libc::SIGKILL).unwrap();
    readable(&pidfd);
    bundle.ok(&["delete", "a"]);
    bundle.assert_empty();
}

/// An agent that answers for mkdir, as one for containers in containers would.
#[test]
fn seccomp_listener_goes_to_the_agent() {
    let mut bundle = Bundle::new(&["sh", "-c", "mkdir /made; echo $?; exec sleep 1000"]);
    let path = bundle.path().join("agent.sock");
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY" }],
    });
    let error = bundle.fails(&["run", "a"]);
    assert!(
        error.contains("needs linux.seccomp.listenerPath"),
        "{error}"
    );
    bundle.config["linux"]["seccomp"]["listenerPath"] = json!(path);
    bundle.config["linux"]["seccomp"]["listenerMetadata"] = json!("for the agent");
    let error = bundle.fails(&["run", "a"]);
    assert!(error.contains("agent.sock"), "{error}");
    bundle.assert_empty();

    let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let receive = || -> (Value, _) {
        let (socket, _) = agent.accept().unwrap();
        let (message, mut fds) = berth_sys::socket::receive(&socket).unwrap().unwrap();
        (serde_json::from_slice(&message).unwrap(), fds.remove(0))
    };
    bundle.leave(&["create", "a"]);
    let output = std::thread::scope(|scope| {
        let start = scope.spawn(|| bundle.ok(&["start", "a"]));
        let (state, listener) = receive();
        start.join().unwrap();
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "for the agent");
        assert_eq!(state["state"]["id"], "a");
        assert_eq!(state["pid"], bundle.state_of("a")["pid"]);
        let exec = scope.spawn(|| bundle.output(&["exec", "a", "mkdir", "/other"]));
        let (state, of_exec) = receive();
        assert_ne!(state["pid"], state["state"]["pid"]);
        assert_eq!(state["state"]["status"], "running");
        // Nobody answers any more: ENOSYS (seccomp_unotify(2)).
        drop((listener, of_exec));
        exec.join().unwrap()
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("not implemented"), "{stderr}");
    assert!(!bundle.path().join("rootfs/other").exists());
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

/// CVE-2019-5736: what `/proc/self/exe` is to a container is nothing it can write.
/// The file `overwrite.rs` tries harder.
#[test]
fn the_program_cannot_be_overwritten() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["run", "-d", "a"]);
    let script = "echo x >> /proc/$PPID/exe || echo refused";
    let run = [
        "exec",
        "a",
        "/proc/self/exe",
        "init",
        "--",
        "sh",
        "-c",
        script,
    ];
    let output = bundle.ok(&run);
    assert_eq!(output, "refused\n");
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

#[test]
fn limits_are_updated_and_shown() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["run", "-d", "a"]);
    let stats = || -> Value {
        let line = bundle.ok(&["events", "--stats", "a"]);
        serde_json::from_str(&line).unwrap()
    };
    bundle.ok(&["update", "--memory", "64m", "--pids-limit", "17", "a"]);
    let event = stats();
    assert_eq!(
        (&event["type"], &event["id"]),
        (&json!("stats"), &json!("a"))
    );
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(event["data"]["pids"]["limit"], 17);
    assert_eq!(event["data"]["pids"]["current"], 1);

    let file = bundle.path().join("limits.json");
    std::fs::write(
        &file,
        // With a rule as Podman 5 sends one.
        r#"{"memory":{"limit":0},"pids":{"limit":18},"cpu":{"quota":0},
            "devices":[{"allow":false,"access":"rwm"}]}"#,
    )
    .unwrap();
    bundle.ok(&["update", "-r", file.to_str().unwrap(), "a"]);
    let event = stats();
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(event["data"]["pids"]["limit"], 18);
    bundle.ok(&["exec", "a", "sh", "-c", "echo x > /dev/null"]);

    for (args, text) in [
        (
            &["update", "--memory", "x", "a"][..],
            "invalid value for memory",
        ),
        (
            &["update", "--pids-limit", "x", "a"],
            "invalid value for pids-limit",
        ),
        (&["update", "-r", "/no/such", "a"], "/no/such"),
        (&["events", "--interval", "0s", "a"], "greater than 0"),
        (&["events", "--interval", "x", "a"], "invalid duration"),
    ] {
        let error = bundle.fails(args);
        assert!(error.contains(text), "{args:?}: {error}");
    }
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

#[test]
fn events_end_with_the_container() {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["run", "-d", "a"]);
    let mut child = bundle
        .command(&["events", "--interval", "10ms", "a"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
    assert!(line.contains("\"stats\""), "{line}");
    bundle.ok(&["kill", "a", "KILL"]);
    std::io::Read::read_to_string(&mut lines, &mut line).unwrap();
    assert!(child.wait().unwrap().success());
    bundle.ok(&["delete", "a"]);
    bundle.assert_empty();
}

#[test]
fn errors_are_also_logged() {
    let bundle = Bundle::new(&["true"]);
    let log = bundle.path().join("log.json");
    let output = bundle.output(&[
        "--log",
        log.to_str().unwrap(),
        "--log-format",
        "json",
        "start",
        "nope",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty() || output.stderr.starts_with(b"berth-runtime: "));
    // `--root` stands before the others here, `--log` after it.
    let line: Value = serde_json::from_str(&std::fs::read_to_string(log).unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container does not exist");
}

#[test]
fn mistakes_are_told() {
    let bundle = Bundle::new(&["true"]);
    for (args, text) in [
        (&["run"][..], "container id is missing"),
        (&["run", "a/b"], "invalid container ID"),
        (&["run", "--nope", "a"], "unknown option `--nope`"),
        (&["run", "--bundle", "/no/such", "a"], "/no/such"),
        (&["kill", "a", "NOPE"], "unknown signal"),
        (&["list", "-f", "x"], "invalid format option"),
        (&["--log-format", "x", "list"], "invalid log-format: x"),
        (&["--rootless", "x", "list"], "rootless"),
        (&["--log", "/no/such", "list"], "open /no/such"),
        (&["delete", "--force", ".."], "invalid container ID"),
        (&["start", "--nope", "a"], "unknown option `--nope`"),
        (&["nope"], "no such command"),
    ] {
        assert!(
            bundle.fails(args).contains(text),
            "{args:?}: {}",
            bundle.fails(args)
        );
    }
    // An error of exec is told from the program's own exit code.
    for (args, code) in [
        (&["exec", "nope", "true"][..], 255),
        // Not an error of exec yet.
        (&["exec", "--nope", "a", "true"], 1),
        (&["exec"], 1),
        (&["nope"], 3),
        (&["help", "nope"], 3),
    ] {
        assert_eq!(bundle.output(args).status.code(), Some(code), "{args:?}");
    }
    assert!(bundle.ok(&["exec", "--help"]).contains("--ignore-paused"));
    assert!(bundle.ok(&["run", "a", "-h"]).contains("--bundle DIR"));
    assert!(bundle.ok(&["help", "run"]).contains("--bundle DIR"));
    assert!(bundle.ok(&[]).contains("Commands of an OCI runtime"));
    std::fs::write(bundle.path().join("config.json"), "{").unwrap();
    let output = Command::new(BINARY)
        .args(["run", "a"])
        .current_dir(bundle.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("parse"));
}

#[test]
fn spec_features_and_version() {
    let bundle = Bundle::new(&["true"]);
    let dir = tempfile::tempdir().unwrap();
    bundle.ok(&["spec", "-b", dir.path().to_str().unwrap()]);
    assert!(dir.path().join("config.json").exists());
    assert!(
        bundle
            .fails(&["spec", "-b", dir.path().to_str().unwrap()])
            .contains("config.json")
    );
    let features: Value = serde_json::from_str(&bundle.ok(&["features"])).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert!(
        bundle
            .ok(&["--version"])
            .starts_with("berth-runtime version ")
    );
}

#[test]
fn network_devices_move_in() {
    // In a network namespace of our own, so that the host's is left alone.
    let script = |bundle: &Bundle, text: &str| {
        let output = Command::new("unshare")
            .args(["--net", "sh", "-ec"])
            .arg(format!(
                "berth() {{ {BINARY} --root {} \"$@\"; }}; {text}",
                bundle.state().display()
            ))
            .current_dir(bundle.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let make = "ip link add d0 type veth peer name d1; ip address add 192.0.2.7/25 dev d0; \
        ip address add 2001:db8::7/64 dev d0 nodad;";
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "ip address show inside; ip link show d1 | head -n 1",
    ]);
    let without = bundle.config.clone();
    bundle.config["linux"]["netDevices"] = json!({ "d0": { "name": "inside" }, "d1": {} });
    for user in [false, true] {
        if user {
            let map = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
            bundle.config["linux"]["uidMappings"] = map.clone();
            bundle.config["linux"]["gidMappings"] = map;
            let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({ "type": "user" }));
        }
        bundle.save();
        let (inside, error) = script(&bundle, &format!("{make} berth run a; ip -o link | wc -l"));
        for part in ["192.0.2.7/25", "2001:db8::7/64", "UP", "d1:"] {
            assert!(inside.contains(part), "{user} {part}: {inside} {error}");
        }
        // Only the loopback interface is left.
        assert!(inside.ends_with("1\n"), "{inside}");
    }
    let (_, error) = script(&bundle, "berth run a");
    assert!(
        error.contains("linux.netDevices: move interface d0: no such device"),
        "{error}"
    );
    bundle.config = without;
    bundle.config["linux"]["netDevices"] = json!({ "d0": {} });
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    let error = bundle.fails(&["run", "a"]);
    assert!(
        error.contains("linux.netDevices need a network namespace"),
        "{error}"
    );
    bundle.assert_empty();
}

/// As Podman runs its runtime for a user: root of a user namespace, with no say over
/// control groups.
#[test]
fn root_of_a_user_namespace_goes_without_a_control_group() {
    let mut bundle = Bundle::new(&["sh", "-c", "echo in; sleep 1000"]);
    let linux = bundle.config["linux"].as_object_mut().unwrap();
    linux.remove("cgroupsPath");
    linux.remove("resources");
    // Only one group is mapped.
    for mount in bundle.config["mounts"].as_array_mut().unwrap() {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| !option.as_str().unwrap().starts_with("gid="));
        }
    }
    bundle.save();
    let user = |script: &str| {
        let own = bundle.path().display();
        let script =
            format!("berth() {{ {BINARY} --root {own}/user-state \"$@\"; }}; cd {own}; {script}");
        let status = Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(bundle.path())
            .status();
        assert!(status.unwrap().success());
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(["unshare", "-r", "-m", "sh", "-c", &script])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        (out, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (out, error) = user(
        "berth run -d a >out 2>&1 </dev/null; berth exec a echo further; berth state a; \
         berth pause a; berth kill a KILL; berth delete --force a; cat out; ls user-state",
    );
    assert!(
        out.contains("further") && out.ends_with("in\n"),
        "{out} {error}"
    );
    assert!(out.contains("\"status\": \"running\""), "{out} {error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("has no control group"), "{error}");
    let (_, error) = user("berth --rootless false run a");
    assert!(error.contains("create control group /a"), "{error}");
}
