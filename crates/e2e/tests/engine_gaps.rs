//! Init, shared IPC, groups, health checks, volumes of other containers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use berth_e2e::{Engine, Run, clients, eventually, image};

#[test]
fn init_forwards_signals_reaps_and_ends_as_the_program() {
    let engine = Engine::start();
    for client in clients() {
        let run = |args: &[&str]| {
            engine.client(
                client,
                &[&["run", "--rm", "--init", "busybox"], args].concat(),
            )
        };
        assert_eq!(run(&["sh", "-c", "exit 7"]).code, 7);
        assert_eq!(run(&["sh", "-c", "kill -9 $$"]).code, 137);
        run(&["nosuch"]).fails(127, "exec nosuch failed: No such file or directory");
        assert_eq!(run(&["/etc/passwd"]).code, 126);
        let first = run(&["sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; echo $$"]).ok();
        assert!(first.starts_with("/sbin/docker-init -- sh -c"), "{first}");
        // An orphan becomes the init's child, and no zombie.
        run(&[
            "sh",
            "-c",
            "(sleep 0.05 & echo $! >/tmp/pid); pid=$(cat /tmp/pid); while test -d /proc/$pid; do usleep 5000; done",
        ])
        .ok();

        let script = "trap 'echo got; exit 5' TERM; echo ready; while :; do usleep 10000; done";
        engine
            .client(
                client,
                &[
                    "run", "-d", "--name", "trap", "--init", "busybox", "sh", "-c", script,
                ],
            )
            .ok();
        eventually("the program is ready", || {
            (engine.client(client, &["logs", "trap"]).ok() == "ready").then_some(())
        });
        engine.client(client, &["stop", "-t", "10", "trap"]).ok();
        assert_eq!(engine.state("trap", "ExitCode"), "5");
        let shown = engine
            .client(
                client,
                &["inspect", "-f", "{{.Path}} {{.HostConfig.Init}}", "trap"],
            )
            .ok();
        assert_eq!(shown, "sh true");
        engine.client(client, &["rm", "trap"]).ok();
    }
    engine.assert_nothing_left();
}

#[test]
fn init_of_the_daemon_is_the_default_but_not_beside_other_processes() {
    let engine = Engine::start_with(&["--init"]);
    let first = |flags: &[&str]| {
        let script = ["busybox", "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"];
        engine
            .berth(&[&["run", "--rm"], flags, &script].concat())
            .ok()
    };
    assert!(first(&[]).starts_with("/sbin/docker-init -- sh"));
    assert!(!first(&["--init=false"]).contains("docker-init"));
    assert!(!first(&["--pid=host"]).contains("docker-init"));
}

/// CVE-2019-5736: what the container has is a copy, and nobody can change it.
#[test]
fn init_cannot_be_overwritten_and_the_host_sees_no_mount() {
    let engine = Engine::start();
    let script = "mount -o remount,rw /sbin/docker-init; chmod 777 /sbin/docker-init; \
                  echo bad >>/sbin/docker-init; echo $?";
    let run = engine.berth(&[
        "run",
        "--rm",
        "--init",
        "--cap-add",
        "SYS_ADMIN",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(run.stdout.trim(), "1", "{run:?}");
    engine
        .berth(&[
            "run", "-d", "--name", "box", "--init", "busybox", "sleep", "600",
        ])
        .ok();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = engine.dir().display().to_string();
    assert!(!mounts.contains(&own), "{mounts}");
}

#[test]
fn a_shareable_ipc_namespace_comes_with_its_shared_memory() {
    let engine = Engine::start();
    for (name, mode) in [("open", "shareable"), ("closed", "private")] {
        let words = [
            "run",
            "-d",
            "--name",
            name,
            "--ipc",
            mode,
            "--shm-size",
            "2m",
            "busybox",
            "sleep",
            "600",
        ];
        engine.berth(&words).ok();
    }
    for client in clients() {
        let join = |other: &str, script: &str| {
            let ipc = format!("--ipc=container:{other}");
            engine.client(
                client,
                &["run", "--rm", &ipc, "busybox", "sh", "-c", script],
            )
        };
        let script = "echo from the other >/dev/shm/x; readlink /proc/self/ns/ipc; \
                      grep ' /dev/shm ' /proc/mounts";
        let seen = join("open", script).ok();
        let own = engine
            .client(
                client,
                &[
                    "exec",
                    "open",
                    "sh",
                    "-c",
                    "cat /dev/shm/x; readlink /proc/self/ns/ipc",
                ],
            )
            .ok();
        let (text, namespace) = own.split_once('\n').unwrap();
        assert_eq!(text, "from the other");
        assert!(seen.starts_with(namespace), "{seen} {own}");
        assert!(
            seen.contains("nosuid,nodev,noexec") && seen.contains("size=2048k"),
            "{seen}"
        );
        join("closed", "true").fails(
            125,
            "non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
        );
        // To "not found" the stock client's answer is a pull of the image.
        if client == "berth" {
            join("nobody", "true").fails(125, "No such container: nobody");
        }
    }
}

/// A donor that replaces its /dev/shm does not lead the other one anywhere.
#[test]
fn shared_memory_is_not_followed_out_of_the_other_container() {
    let engine = Engine::start();
    let script = "umount /dev/shm; rmdir /dev/shm; ln -s /etc /dev/shm; echo ready; sleep 600";
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "evil",
            "--privileged",
            "--ipc",
            "shareable",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    eventually("the link is there", || {
        engine
            .berth(&["logs", "evil"])
            .ok()
            .ends_with("ready")
            .then_some(())
    });
    engine
        .berth(&[
            "run",
            "--rm",
            "--ipc=container:evil",
            "busybox",
            "ls",
            "/dev/shm",
        ])
        .fails(125, "open the shared memory of the other container");
}

/// CVE-2022-36109: the primary group is among the others, also of an exec.
#[test]
fn the_primary_group_is_always_a_member() {
    let engine = Engine::start();
    let groups = |args: &[&str]| {
        let words = ["busybox", "grep", "Groups", "/proc/self/status"];
        let line = engine
            .berth(&[&["run", "--rm"], args, &words].concat())
            .ok();
        line.split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(groups(&[]), "0");
    assert_eq!(groups(&["-u", "77:88", "--group-add", "extra"]), "88 1234");
    assert_eq!(groups(&["-u", "app"]), "1000 1234");
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "box",
            "--group-add",
            "5",
            "busybox",
            "sleep",
            "600",
        ])
        .ok();
    let line = engine
        .berth(&[
            "exec",
            "-u",
            "77:88",
            "box",
            "grep",
            "Groups",
            "/proc/self/status",
        ])
        .ok();
    assert_eq!(
        line.split_whitespace().skip(1).collect::<Vec<_>>(),
        ["5", "88"]
    );
    engine
        .berth(&["run", "--rm", "--group-add", "nosuch", "busybox", "true"])
        .fails(
            125,
            "unable to find group nosuch: no matching entries in group file",
        );
}

#[test]
fn health_follows_the_check_and_survives_the_daemon() {
    let mut engine = Engine::start();
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "box",
            "--health-cmd",
            "cat /state && exit $(cat /state)",
            "--health-interval",
            "20ms",
            "--health-retries",
            "2",
            "busybox",
            "sleep",
            "600",
        ])
        .ok();
    let set = |engine: &Engine, state: &str| {
        let script = format!("echo {state} >/new; mv /new /state");
        engine.berth(&["exec", "box", "sh", "-c", &script]).ok();
    };
    engine.until_state("box", "Health.Status", "unhealthy");
    set(&engine, "0");
    engine.until_state("box", "Health.Status", "healthy");
    assert_eq!(engine.state("box", "Health.FailingStreak"), "0");
    assert!(engine.berth(&["ps"]).ok().contains("(healthy)"));
    for (filter, count) in [("health=healthy", 1), ("health=unhealthy", 0)] {
        let rows = engine.berth(&["ps", "-q", "--filter", filter]).ok();
        assert_eq!(rows.lines().count(), count, "{filter}");
    }
    engine.kill();
    engine.launch();
    assert_eq!(engine.state("box", "Health.Status"), "healthy");
    set(&engine, "3");
    engine.until_state("box", "Health.Status", "unhealthy");
    let log = engine
        .berth(&["inspect", "-f", "{{json .State.Health.Log}}", "box"])
        .ok();
    assert!(log.contains("\"ExitCode\":3,\"Output\":\"3\\n\""), "{log}");
    // "until now" means the whole second.
    eventually("the event is told", || {
        let words = [
            "events",
            "--since",
            "0",
            "--until",
            "0s",
            "--filter",
            "event=health_status",
        ];
        let events = engine.berth(&words).ok();
        events.contains("health_status: unhealthy").then_some(())
    });

    engine.berth(&["pause", "box"]).ok();
    engine.berth(&["unpause", "box"]).ok();
    set(&engine, "0");
    engine.until_state("box", "Health.Status", "healthy");
    engine.berth(&["stop", "-t", "0", "box"]).ok();
    assert_eq!(engine.state("box", "Health.Status"), "unhealthy");
    engine.berth(&["rm", "box"]).ok();
    engine.assert_nothing_left();
}

/// An image archive whose configuration has a health check.
fn archive_with_check(engine: &Engine) -> Vec<u8> {
    let dir = engine.dir().join("archive");
    std::fs::create_dir_all(&dir).unwrap();
    let layer = dir.join("layer.tar");
    std::fs::write(&layer, image::busybox_rootfs()).unwrap();
    let digest = Run::new(Command::new("sha256sum").arg(&layer), b"").ok();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Healthcheck": { "Test": ["CMD", "true"], "Interval": 20_000_000 } },
        "rootfs": {
            "type": "layers",
            "diff_ids": [format!("sha256:{}", digest.split(' ').next().unwrap())],
        },
        "history": [],
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let manifest =
        r#"[{"Config":"config.json","RepoTags":["checked:latest"],"Layers":["layer.tar"]}]"#;
    std::fs::write(dir.join("manifest.json"), manifest).unwrap();
    let files = ["manifest.json", "config.json", "layer.tar"];
    let output = Command::new("tar").arg("-cC").arg(dir).args(files).output();
    output.unwrap().stdout
}

#[test]
fn health_of_the_image_start_period_and_timeout() {
    let engine = Engine::start();
    engine
        .berth_with(&["load"], &archive_with_check(&engine))
        .ok();
    engine
        .berth(&["run", "-d", "--name", "image", "checked", "sleep", "600"])
        .ok();
    engine.until_state("image", "Health.Status", "healthy");
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "off",
            "--no-healthcheck",
            "checked",
            "sleep",
            "600",
        ])
        .ok();
    assert!(
        !engine
            .berth(&["ps", "--filter", "name=off"])
            .ok()
            .contains("health")
    );
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "slow",
            "--health-cmd",
            "sleep 60",
            "--health-timeout",
            "50ms",
            "--health-interval",
            "10ms",
            "--health-retries",
            "1",
            "busybox",
            "sleep",
            "600",
        ])
        .ok();
    engine.until_state("slow", "Health.Status", "unhealthy");
    let log = engine
        .berth(&["inspect", "-f", "{{json .State.Health.Log}}", "slow"])
        .ok();
    assert!(
        log.contains("Health check exceeded timeout (50ms)"),
        "{log}"
    );
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "patient",
            "--health-cmd",
            "false",
            "--health-start-period",
            "1h",
            "--health-start-interval",
            "10ms",
            "--health-retries",
            "1",
            "busybox",
            "sleep",
            "600",
        ])
        .ok();
    eventually("five checks have failed", || {
        let count = engine
            .berth(&["inspect", "-f", "{{len .State.Health.Log}}", "patient"])
            .ok();
        (count == "5").then_some(())
    });
    assert_eq!(engine.state("patient", "Health.Status"), "starting");
    engine
        .berth(&[
            "run",
            "--rm",
            "--health-cmd",
            "x",
            "--health-interval",
            "1us",
            "busybox",
            "true",
        ])
        .fails(125, "Interval in Healthcheck cannot be less than 1ms");
}

fn volumes(engine: &Engine) -> usize {
    std::fs::read_dir(engine.data_root().join("volumes"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_dir())
        .count()
}

#[test]
fn volumes_of_other_containers() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(
                client,
                &[
                    "create", "--name", "data", "-v", "/data", "-v", "named:/n", "busybox", "true",
                ],
            )
            .ok();
        let with = |from: &str, script: &str| {
            engine.client(
                client,
                &[
                    "run",
                    "--rm",
                    "--volumes-from",
                    from,
                    "busybox",
                    "sh",
                    "-c",
                    script,
                ],
            )
        };
        with("data", "echo one >/data/a; echo two >/n/b").ok();
        assert_eq!(with("data:ro", "cat /data/a /n/b").ok(), "one\ntwo");
        with("data:ro", "echo x >/data/a").fails(1, "Read-only file system");
        with("data:sometimes", "true").fails(125, "invalid mode: sometimes");
        // To "not found" the stock client's answer is a pull of the image.
        if client == "berth" {
            with("nobody", "true").fails(125, "No such container: nobody");
        }
        assert_eq!(
            volumes(&engine),
            2,
            "--rm removes nothing that another one has"
        );
        // The last one that has it takes it along.
        engine
            .client(
                client,
                &[
                    "create",
                    "--name",
                    "user",
                    "--volumes-from",
                    "data",
                    "busybox",
                    "true",
                ],
            )
            .ok();
        engine.client(client, &["rm", "-v", "data"]).ok();
        assert_eq!(volumes(&engine), 2);
        engine.client(client, &["rm", "-v", "user"]).ok();
        eventually("only the named one is left", || {
            (volumes(&engine) == 1).then_some(())
        });
    }
}

#[test]
fn volumes_are_filled_once_and_anonymous_ones_go_with_rm() {
    let engine = Engine::start();
    engine
        .berth_with(
            &["import", "--change", "VOLUME /home", "-", "withvolume"],
            &image::busybox_rootfs(),
        )
        .ok();
    engine
        .berth(&["run", "--rm", "withvolume", "touch", "/home/x"])
        .ok();
    eventually("--rm has removed the image's volume", || {
        (volumes(&engine) == 0).then_some(())
    });
    let run = |script: &str| {
        engine
            .berth(&[
                "run",
                "--rm",
                "-v",
                "conf:/etc",
                "busybox",
                "sh",
                "-c",
                script,
            ])
            .ok()
    };
    assert_eq!(
        run("grep -c localhost /etc/hosts; grep -c app /etc/passwd; echo mine >/etc/passwd"),
        "2\n1"
    );
    assert_eq!(
        run("cat /etc/passwd"),
        "mine",
        "filled at its first use only"
    );
    let empty = engine
        .berth(&[
            "run",
            "--rm",
            "--mount",
            "type=volume,src=bare,dst=/etc,volume-nocopy",
            "busybox",
            "ls",
            "/etc",
        ])
        .ok();
    assert!(!empty.contains("passwd"), "{empty}");
}

/// A daemon killed while it restarts a container still removes it at its end.
#[test]
fn automatic_removal_outlives_a_killed_restart() {
    let mut engine = Engine::start();
    let script = "trap : TERM; echo ready; while :; do usleep 10000; done";
    engine
        .berth(&[
            "run", "-d", "--rm", "--name", "box", "busybox", "sh", "-c", script,
        ])
        .ok();
    eventually("it ignores SIGTERM", || {
        (engine.berth(&["logs", "box"]).ok() == "ready").then_some(())
    });
    let mut restart = engine
        .command("berth")
        .args(["restart", "-t", "60", "box"])
        .spawn()
        .unwrap();
    eventually("the restart has begun", || {
        engine.log().contains("/restart").then_some(())
    });
    engine.kill();
    let _ = restart.wait();
    engine.launch();
    let flag = engine
        .berth(&["inspect", "-f", "{{.HostConfig.AutoRemove}}", "box"])
        .ok();
    assert_eq!(flag, "true");
    // A restart that nothing disturbs keeps the container.
    let before = engine.state("box", "Pid");
    engine.berth(&["restart", "-t", "0", "box"]).ok();
    assert_ne!(engine.state("box", "Pid"), before);
    engine.berth(&["kill", "box"]).ok();
    engine.assert_nothing_left();
}

#[test]
fn volumes_are_managed() {
    let engine = Engine::start();
    for client in clients() {
        let run = |args: &[&str]| engine.client(client, &[&["volume"], args].concat());
        assert_eq!(run(&["create", "--label", "a=b", "data"]).ok(), "data");
        assert_eq!(run(&["create", "data"]).ok(), "data", "it is there already");
        let anonymous = run(&["create"]).ok();
        assert_eq!(anonymous.len(), 64);
        engine
            .client(
                client,
                &[
                    "create", "--name", "box", "-v", "data:/d", "busybox", "true",
                ],
            )
            .ok();
        let ls = |filter: &str| run(&["ls", "-q", "--filter", filter]).ok();
        assert_eq!(ls("label=a"), "data");
        assert_eq!(ls("dangling=true"), anonymous);
        assert_eq!(ls("name=dat"), "data");
        assert!(
            run(&["ls"])
                .ok()
                .starts_with("DRIVER    VOLUME NAME\nlocal     ")
        );
        run(&["ls", "--filter", "x=y"]).fails(1, "invalid filter 'x'");
        let shown = run(&[
            "inspect",
            "-f",
            "{{.Driver}} {{.Scope}} {{.Labels}} {{.Mountpoint}}",
            "data",
        ])
        .ok();
        let path = engine.data_root().join("volumes/data/_data");
        assert_eq!(shown, format!("local local map[a:b] {}", path.display()));
        run(&["inspect", "none"]).fails(1, "get none: no such volume");
        run(&["inspect", "../containers"]).fails(1, "");
        run(&["rm", "data"]).fails(1, "remove data: volume is in use - [");
        run(&["rm", "none"]).fails(1, "get none: no such volume");
        run(&["create", "bad name"]).fails(1, "includes invalid characters");
        run(&["create", "--driver", "nope", "z"]).fails(1, "plugin \"nope\" not found");
        std::fs::write(path.join("file"), [0; 1000]).unwrap();
        let pruned = run(&["prune", "-f"]).ok();
        assert_eq!(
            pruned,
            format!("Deleted Volumes:\n{anonymous}\n\nTotal reclaimed space: 0B")
        );
        engine.client(client, &["rm", "-v", "box"]).ok();
        assert_eq!(
            run(&["prune", "-f"]).ok(),
            "Total reclaimed space: 0B",
            "it has a name"
        );
        assert!(
            run(&["prune", "-af"])
                .ok()
                .ends_with("reclaimed space: 1kB")
        );
        assert_eq!(run(&["ls", "-q"]).ok(), "");
        run(&["rm", "-f", "data"]).ok();
    }
}
