//! Limits are really in force inside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use berth_e2e::{Engine, clients};

/// The limit as the container sees it, on either control group version.
fn read(engine: &Engine, client: &str, args: &[&str], v1: &str, v2: &str) -> String {
    let script = format!("cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}");
    let mut all = vec!["run", "--rm"];
    all.extend(args);
    all.extend(["busybox", "sh", "-c", &script]);
    engine.client(client, &all).ok()
}

#[test]
fn memory_is_limited_and_its_excess_killed() {
    let engine = Engine::start();
    for client in clients() {
        assert_eq!(
            read(
                &engine,
                client,
                &["-m", "64m"],
                "memory/memory.limit_in_bytes",
                "memory.max"
            ),
            "67108864"
        );
        // tail keeps all it reads of an endless line.
        let run = engine.client(
            client,
            &[
                "run",
                "--name",
                "eater",
                "-m",
                "16m",
                "--memory-swap",
                "16m",
                "busybox",
                "sh",
                "-c",
                "tail /dev/zero; exit $?",
            ],
        );
        assert_eq!(run.code, 137, "{run:?}");
        assert_eq!(engine.state("eater", "OOMKilled"), "true");
        engine.client(client, &["rm", "eater"]).ok();
    }
}

#[test]
fn processes_are_limited() {
    let engine = Engine::start();
    for client in clients() {
        assert_eq!(
            read(
                &engine,
                client,
                &["--pids-limit", "17"],
                "pids/pids.max",
                "pids.max"
            ),
            "17"
        );
        let run = engine.client(
            client,
            &[
                "run",
                "--rm",
                "--pids-limit",
                "5",
                "busybox",
                "sh",
                "-c",
                "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; true",
            ],
        );
        assert!(run.stderr.contains("can't fork"), "{run:?}");
    }
}

#[test]
fn cpu_is_limited() {
    let engine = Engine::start();
    for client in clients() {
        assert_eq!(
            read(
                &engine,
                client,
                &["--cpus", "0.5"],
                "cpu/cpu.cfs_quota_us",
                "cpu.max"
            )
            .split(' ')
            .next(),
            Some("50000")
        );
        let shares = read(
            &engine,
            client,
            &["--cpu-shares", "512"],
            "cpu/cpu.shares",
            "cpu.weight",
        );
        assert!(
            shares == "512" || shares == "20" || shares == "59",
            "{shares}"
        );
        assert_eq!(
            read(
                &engine,
                client,
                &["--cpuset-cpus", "0"],
                "cpuset/cpuset.cpus",
                "cpuset.cpus"
            ),
            "0"
        );
        assert_eq!(
            engine
                .client(
                    client,
                    &["run", "--rm", "--cpuset-cpus", "0", "busybox", "nproc"]
                )
                .ok(),
            "1"
        );
        // A busy loop under a tenth of a CPU is throttled.
        let script = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done; cat /sys/fs/cgroup/cpu/cpu.stat 2>/dev/null || cat /sys/fs/cgroup/cpu.stat";
        let stat = engine
            .client(
                client,
                &[
                    "run", "--rm", "--cpus", "0.1", "busybox", "sh", "-c", script,
                ],
            )
            .ok();
        let throttled: u64 = stat
            .lines()
            .find_map(|line| line.strip_prefix("nr_throttled "))
            .unwrap()
            .parse()
            .unwrap();
        assert!(throttled > 0, "{stat}");
    }
}

#[test]
fn ulimits_and_devices() {
    let engine = Engine::start();
    for client in clients() {
        assert_eq!(
            engine
                .client(
                    client,
                    &[
                        "run",
                        "--rm",
                        "--ulimit",
                        "nofile=123:456",
                        "busybox",
                        "sh",
                        "-c",
                        "ulimit -Sn; ulimit -Hn"
                    ]
                )
                .ok(),
            "123\n456"
        );
        // Not in the list of devices: the node can be made, not opened.
        engine
            .client(
                client,
                &[
                    "run",
                    "--rm",
                    "busybox",
                    "sh",
                    "-c",
                    "mknod /tmp/fuse c 10 229 && exec 3</tmp/fuse",
                ],
            )
            .fails(1, "Operation not permitted");
        engine
            .client(
                client,
                &[
                    "run",
                    "--rm",
                    "--device-cgroup-rule",
                    "c 10:229 r",
                    "busybox",
                    "sh",
                    "-c",
                    // Without the driver the kernel says so instead.
                    "mknod /tmp/fuse c 10 229; (exec 3</tmp/fuse) 2>&1 | grep -v 'not permitted' ; ! (exec 3</tmp/fuse) 2>&1 | grep 'not permitted'",
                ],
            )
            .ok();
    }
}

#[test]
fn limits_change_while_it_runs() {
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
                    "-m",
                    "64m",
                    "--memory-swap",
                    "64m",
                    "busybox",
                    "sleep",
                    "600",
                ],
            )
            .ok();
        engine
            .client(
                client,
                &[
                    "update",
                    "-m",
                    "96m",
                    "--memory-swap",
                    "96m",
                    "--pids-limit",
                    "33",
                    "cc",
                ],
            )
            .ok();
        let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
        assert_eq!(
            engine
                .client(client, &["exec", "cc", "sh", "-c", script])
                .ok(),
            "100663296"
        );
        assert_eq!(
            engine
                .client(
                    client,
                    &[
                        "inspect",
                        "-f",
                        "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}",
                        "cc"
                    ]
                )
                .ok(),
            "100663296 33"
        );
        engine.client(client, &["rm", "-f", "cc"]).ok();
    }
    engine.assert_nothing_left();
}
