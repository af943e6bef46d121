//! Further processes in a running container.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use berth_e2e::{Engine, clients, eventually};

#[test]
fn output_exit_code_and_stdin() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run", "-d", "--name", "cc", "-e", "A=image", "busybox", "sleep", "600",
        ])
        .ok();
    for client in clients() {
        let run = engine.client(
            client,
            &["exec", "cc", "sh", "-c", "echo out; echo err >&2; exit 4"],
        );
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (4, "out\n", "err\n")
        );
        let run = engine.client_with(
            client,
            &["exec", "-i", "cc", "cat"],
            b"through and through\n",
        );
        assert_eq!(run.ok(), "through and through");
        assert_eq!(
            engine
                .client(
                    client,
                    &[
                        "exec",
                        "-e",
                        "B=exec",
                        "-w",
                        "/tmp",
                        "-u",
                        "app",
                        "cc",
                        "sh",
                        "-c",
                        "echo $A $B $(pwd) $(id -u)"
                    ]
                )
                .ok(),
            "image exec /tmp 1000"
        );
    }
}

#[test]
fn shares_the_container_and_its_limits() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "cc",
            "--pids-limit",
            "50",
            "busybox",
            "sleep",
            "600",
        ])
        .ok();
    for client in clients() {
        // Same namespaces, same control groups, as seen from inside.
        for namespace in ["mnt", "pid", "net", "ipc", "uts", "cgroup", "time"] {
            let script = format!(
                "test \"$(readlink /proc/1/ns/{namespace})\" = \"$(readlink /proc/self/ns/{namespace})\""
            );
            engine
                .client(client, &["exec", "cc", "sh", "-c", &script])
                .ok();
        }
        engine.client(client, &["exec", "cc", "sh", "-c", "cat /proc/1/cgroup > /a; cat /proc/self/cgroup > /b; test \"$(cat /a)\" = \"$(cat /b)\""]).ok();
        // And the same confinement.
        for field in ["CapBnd", "CapEff", "CapInh", "Seccomp", "NoNewPrivs"] {
            let script = format!(
                "test \"$(grep {field}: /proc/1/status)\" = \"$(grep {field}: /proc/self/status)\""
            );
            engine
                .client(client, &["exec", "cc", "sh", "-c", &script])
                .ok();
        }
    }
}

#[test]
fn errors_are_dockers() {
    let engine = Engine::start();
    engine
        .berth(&["run", "-d", "--name", "cc", "busybox", "sleep", "600"])
        .ok();
    engine
        .berth(&["create", "--name", "stopped", "busybox"])
        .ok();
    for client in clients() {
        // Docker sends these words on the stream that was to carry the output.
        for (program, code, words) in [
            ("no-such-program", 127, "executable file not found in $PATH"),
            ("/etc/not-executable", 126, "permission denied"),
        ] {
            let run = engine.client(client, &["exec", "cc", program]);
            assert_eq!(run.code, code, "{run:?}");
            assert!(
                (run.stdout.clone() + &run.stderr).contains(words),
                "{run:?}"
            );
        }
        engine
            .client(client, &["exec", "stopped", "true"])
            .fails(1, "is not running");
        engine
            .client(client, &["exec", "nobody", "true"])
            .fails(1, "No such container: nobody");
    }
}

#[test]
fn detached_and_inspected() {
    let engine = Engine::start();
    engine
        .berth(&["run", "-d", "--name", "cc", "busybox", "sleep", "600"])
        .ok();
    for client in clients() {
        engine
            .client(client, &["exec", "-d", "cc", "touch", "/made"])
            .ok();
        eventually("the file is there", || {
            (engine
                .client(client, &["exec", "cc", "test", "-e", "/made"])
                .code
                == 0)
                .then_some(())
        });
        engine.client(client, &["exec", "cc", "rm", "/made"]).ok();
    }
}

#[test]
fn an_exec_ends_with_its_container() {
    let engine = Engine::start();
    engine
        .berth(&["run", "-d", "--name", "cc", "busybox", "sleep", "600"])
        .ok();
    let child = engine
        .command("berth")
        .args(["exec", "cc", "sleep", "600"])
        .spawn()
        .unwrap();
    eventually("two processes", || {
        (engine.berth(&["top", "cc"]).ok().lines().count() == 3).then_some(())
    });
    engine.berth(&["rm", "-f", "cc"]).ok();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137));
    engine.assert_nothing_left();
}
