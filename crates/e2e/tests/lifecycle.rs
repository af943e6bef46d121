//! Stop, kill, pause, restart, rename, remove, wait, top, stats.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use berth_e2e::{Engine, clients, eventually};

#[test]
fn stop_by_signal_and_by_timeout() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(
                client,
                &[
                    "run",
                    "-d",
                    "--name",
                    "polite",
                    "busybox",
                    "sh",
                    "-c",
                    "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.01; done",
                ],
            )
            .ok();
        eventually("it is ready", || {
            engine
                .client(client, &["logs", "polite"])
                .ok()
                .contains("ready")
                .then_some(())
        });
        engine.client(client, &["stop", "polite"]).ok();
        assert_eq!(engine.state("polite", "ExitCode"), "5");
        assert!(
            engine
                .client(client, &["logs", "polite"])
                .ok()
                .ends_with("bye")
        );

        engine
            .client(
                client,
                &["run", "-d", "--name", "deaf", "busybox", "sleep", "600"],
            )
            .ok();
        engine.client(client, &["stop", "-t", "1", "deaf"]).ok();
        assert_eq!(
            engine.state("deaf", "ExitCode"),
            "137",
            "the first process ignores SIGTERM without a handler"
        );
        engine.client(client, &["rm", "polite", "deaf"]).ok();
    }
    engine.assert_nothing_left();
}

#[test]
fn kill_with_a_chosen_signal() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(
                client,
                &[
                    "run",
                    "-d",
                    "--name",
                    "cc",
                    "busybox",
                    "sh",
                    "-c",
                    "trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done",
                ],
            )
            .ok();
        eventually("it is ready", || {
            engine
                .client(client, &["logs", "cc"])
                .ok()
                .contains("ready")
                .then_some(())
        });
        engine.client(client, &["kill", "-s", "USR1", "cc"]).ok();
        assert_eq!(engine.client(client, &["wait", "cc"]).ok(), "9");
        engine
            .client(client, &["kill", "cc"])
            .fails(1, "is not running");
        engine.client(client, &["rm", "cc"]).ok();
    }
}

#[test]
fn pause_stops_time_for_the_processes() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(
                client,
                &[
                    "run",
                    "-d",
                    "--name",
                    "cc",
                    "busybox",
                    "sh",
                    "-c",
                    "i=0; while :; do i=$((i+1)); echo $i > /count; usleep 1000; done",
                ],
            )
            .ok();
        engine.client(client, &["pause", "cc"]).ok();
        assert_eq!(engine.state("cc", "Status"), "paused");
        assert!(engine.client(client, &["ps"]).ok().contains("(Paused)"));
        engine
            .client(client, &["pause", "cc"])
            .fails(1, "is already paused");
        engine
            .client(client, &["exec", "cc", "true"])
            .fails(1, "is paused, unpause the container before exec");
        engine.client(client, &["unpause", "cc"]).ok();
        let first: u64 = engine
            .client(client, &["exec", "cc", "cat", "/count"])
            .stdout
            .trim()
            .parse()
            .unwrap_or_default();
        eventually("it counts on", || {
            let count: u64 = engine
                .client(client, &["exec", "cc", "cat", "/count"])
                .stdout
                .trim()
                .parse()
                .unwrap_or_default();
            (count > first).then_some(())
        });
        engine
            .client(client, &["unpause", "cc"])
            .fails(1, "is not paused");
        engine.client(client, &["rm", "-f", "cc"]).ok();
    }
    engine.assert_nothing_left();
}

#[test]
fn restart_keeps_the_files_and_changes_the_process() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(
                client,
                &[
                    "run",
                    "-d",
                    "--name",
                    "cc",
                    "busybox",
                    "sh",
                    "-c",
                    "echo x >> /runs; sleep 600",
                ],
            )
            .ok();
        let runs = |count: &str| {
            eventually("the run is noted", || {
                let noted = engine.client(client, &["exec", "cc", "grep", "-c", "x", "/runs"]);
                (noted.stdout.trim() == count).then_some(())
            });
        };
        // Killed before its first word, it would have nothing to keep.
        runs("1");
        let pid = engine.state("cc", "Pid");
        engine.client(client, &["restart", "-t", "0", "cc"]).ok();
        assert_ne!(engine.state("cc", "Pid"), pid);
        runs("2");
        engine.client(client, &["rm", "-f", "cc"]).ok();
    }
    engine.assert_nothing_left();
}

#[test]
fn restart_policy() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "cc",
            "--restart",
            "on-failure:2",
            "busybox",
            "sh",
            "-c",
            "echo x; exit 1",
        ])
        .ok();
    eventually("it gave up", || {
        (engine.state("cc", "Status") == "exited").then_some(())
    });
    assert_eq!(engine.berth(&["logs", "cc"]).ok(), "x\nx\nx");
    assert_eq!(
        engine
            .berth(&["inspect", "-f", "{{.RestartCount}}", "cc"])
            .ok(),
        "2"
    );
}

#[test]
fn rename_and_remove() {
    let engine = Engine::start();
    // No names that an identifier could begin with.
    for client in clients() {
        engine
            .client(
                client,
                &["run", "-d", "--name", "one", "busybox", "sleep", "600"],
            )
            .ok();
        engine.client(client, &["rename", "one", "two"]).ok();
        engine
            .client(client, &["inspect", "one"])
            .fails(1, "o such");
        assert_eq!(
            engine
                .client(client, &["inspect", "-f", "{{.Name}}", "two"])
                .ok(),
            "/two"
        );
        engine.client(client, &["rm", "two"]).fails(1, "cannot remove container \"two\": container is running: stop the container before removing or force remove");
        engine.client(client, &["rm", "-f", "two"]).ok();
        assert_eq!(engine.client(client, &["ps", "-aq"]).ok(), "");
    }
    engine.assert_nothing_left();
}

#[test]
fn list_with_filters_and_formats() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run", "-d", "--name", "runs", "--label", "tier=web", "busybox", "sleep", "600",
        ])
        .ok();
    engine.berth(&[
        "run", "--name", "ended", "--label", "tier=db", "busybox", "sh", "-c", "exit 3",
    ]);
    engine.berth(&["create", "--name", "made", "busybox"]).ok();
    for client in clients() {
        let names = |args: &[&str]| {
            let mut all = vec!["ps", "--format", "{{.Names}}"];
            all.extend(args);
            engine.client(client, &all).ok().replace('\n', " ")
        };
        assert_eq!(names(&[]), "runs");
        assert_eq!(names(&["-a"]), "made ended runs");
        assert_eq!(names(&["-n", "2"]), "made ended");
        assert_eq!(names(&["-a", "-f", "status=exited"]), "ended");
        assert_eq!(names(&["-a", "-f", "exited=3"]), "ended");
        assert_eq!(names(&["-a", "-f", "label=tier"]), "ended runs");
        assert_eq!(names(&["-a", "-f", "label=tier=db"]), "ended");
        assert_eq!(names(&["-a", "-f", "name=ma"]), "made");
        assert_eq!(
            names(&["-a", "-f", "ancestor=busybox", "-f", "before=ended"]),
            "runs"
        );
        let status = engine
            .client(client, &["ps", "-a", "--format", "{{.Names}}:{{.Status}}"])
            .ok();
        assert!(
            status.contains("ended:Exited (3) ")
                && status.contains("made:Created")
                && status.contains("runs:Up "),
            "{status}"
        );
        let table = engine.client(client, &["ps"]).ok();
        assert!(
            table.starts_with("CONTAINER ID   IMAGE     COMMAND"),
            "{table}"
        );
    }
}

#[test]
fn top_and_stats() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "cc",
            "busybox",
            "sh",
            "-c",
            "sleep 601 & sleep 602; true",
        ])
        .ok();
    for client in clients() {
        let top = engine.client(client, &["top", "cc"]).ok();
        assert!(
            top.contains("CMD") && top.contains("sleep 601") && top.contains("sleep 602"),
            "{top}"
        );
        let stats = engine
            .client(
                client,
                &[
                    "stats",
                    "--no-stream",
                    "--format",
                    "{{.Name}} {{.PIDs}} {{.MemUsage}}",
                    "cc",
                ],
            )
            .ok();
        assert!(
            stats.starts_with("cc 3 ") && stats.contains("iB / "),
            "{stats}"
        );
    }
}

#[test]
fn wait_conditions() {
    let engine = Engine::start();
    engine
        .berth(&["create", "--name", "cc", "busybox", "sh", "-c", "exit 6"])
        .ok();
    let wait = |condition: &str| {
        let path = format!("http://d/v1.44/containers/cc/wait?condition={condition}");
        std::process::Command::new("curl")
            .args(["-s", "--unix-socket"])
            .arg(engine.socket())
            .args(["-X", "POST", &path])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let next = wait("next-exit");
    let removed = wait("removed");
    // Both have been accepted when the daemon has two more connections than now.
    eventually("both wait", || {
        (engine.log().matches("/containers/cc/wait").count() >= 2).then_some(())
    });
    engine.berth(&["start", "-a", "cc"]).fails(6, "");
    let text = |child: std::process::Child| {
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert!(text(next).contains("\"StatusCode\":6"));
    engine.berth(&["rm", "cc"]).ok();
    assert!(text(removed).contains("\"StatusCode\":6"));
}

#[test]
fn events_tell_the_story() {
    let engine = Engine::start();
    engine.berth(&[
        "run", "--rm", "--name", "cc", "--label", "k=v", "busybox", "sh", "-c", "exit 2",
    ]);
    for client in clients() {
        let text = engine
            .client(
                client,
                &[
                    "events",
                    "--since",
                    "1",
                    "--until",
                    &now(),
                    "--filter",
                    "container=cc",
                    "--format",
                    "{{.Action}}",
                ],
            )
            .ok();
        let actions: Vec<_> = text.lines().collect();
        assert_eq!(
            actions,
            ["create", "attach", "start", "die", "destroy"],
            "{client}"
        );
        let die = engine
            .client(client, &["events", "--since", "1", "--until", &now(), "--filter", "event=die", "--format", "{{index .Actor.Attributes \"exitCode\"}} {{.Actor.Attributes.k}} {{.Actor.Attributes.image}}"])
            .ok();
        assert_eq!(die, "2 v busybox");
    }
}

fn now() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}
