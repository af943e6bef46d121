//! What holds a container: namespaces, capabilities, seccomp, masks, devices.
//! Each check fails when its defence is taken away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use berth_e2e::{Engine, clients};

/// Runs a script in a fresh container with `flags`.
fn sh(engine: &Engine, flags: &[&str], script: &str) -> String {
    let mut args = vec!["run", "--rm"];
    args.extend(flags);
    args.extend(["busybox", "sh", "-c", script]);
    engine.berth(&args).ok()
}

#[test]
fn namespaces_are_its_own() {
    let engine = Engine::start();
    for namespace in ["mnt", "pid", "net", "ipc", "uts", "time"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{namespace}"))
            .unwrap()
            .display()
            .to_string();
        let engine_net = engine.in_network(&["readlink", "/proc/self/ns/net"]).ok();
        let inside = sh(&engine, &[], &format!("readlink /proc/self/ns/{namespace}"));
        assert_ne!(inside, host, "{namespace}");
        assert_ne!(inside, engine_net);
    }
    let shared = [
        ("--pid=host", "pid"),
        ("--ipc=host", "ipc"),
        ("--uts=host", "uts"),
    ];
    for (flag, namespace) in shared {
        let host = std::fs::read_link(format!("/proc/self/ns/{namespace}"))
            .unwrap()
            .display()
            .to_string();
        assert_eq!(
            sh(
                &engine,
                &[flag],
                &format!("readlink /proc/self/ns/{namespace}")
            ),
            host
        );
    }
    let host = engine.in_network(&["readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(
        sh(&engine, &["--network=host"], "readlink /proc/self/ns/net"),
        host
    );
}

#[test]
fn joining_another_containers_namespaces() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "base",
            "--ipc",
            "shareable",
            "busybox",
            "sleep",
            "600",
        ])
        .ok();
    for (flag, namespace) in [
        ("--network=container:base", "net"),
        ("--pid=container:base", "pid"),
        ("--ipc=container:base", "ipc"),
    ] {
        let base = engine
            .berth(&[
                "exec",
                "base",
                "readlink",
                &format!("/proc/self/ns/{namespace}"),
            ])
            .ok();
        assert_eq!(
            sh(
                &engine,
                &[flag],
                &format!("readlink /proc/self/ns/{namespace}")
            ),
            base
        );
    }
    assert!(sh(&engine, &["--pid=container:base"], "ps").contains("sleep 600"));
}

#[test]
fn capabilities_are_dockers_fourteen_and_none_is_inheritable() {
    let engine = Engine::start();
    let status = sh(&engine, &[], "grep Cap /proc/self/status");
    // CVE-2022-24769, CVE-2022-29162: nothing inheritable.
    assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
    for field in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(
            status.contains(&format!("{field}:\t00000000a80425fb")),
            "{status}"
        );
    }
    assert!(status.contains("CapAmb:\t0000000000000000"));
    let status = sh(&engine, &["-u", "1000"], "grep Cap /proc/self/status");
    assert!(
        status.contains("CapEff:\t0000000000000000")
            && status.contains("CapBnd:\t00000000a80425fb"),
        "{status}"
    );
    let status = sh(
        &engine,
        &["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"],
        "grep CapBnd /proc/self/status",
    );
    assert_eq!(status, "CapBnd:\t0000000000001000");
}

#[test]
fn seccomp_filters_unless_turned_off() {
    let engine = Engine::start();
    assert_eq!(
        sh(&engine, &[], "grep Seccomp: /proc/self/status"),
        "Seccomp:\t2"
    );
    assert_eq!(
        sh(
            &engine,
            &["--security-opt", "seccomp=unconfined"],
            "grep Seccomp: /proc/self/status"
        ),
        "Seccomp:\t0"
    );
    engine
        .berth(&["run", "--rm", "busybox", "unshare", "-U", "true"])
        .fails(1, "Operation not permitted");
    engine
        .berth(&[
            "run",
            "--rm",
            "--security-opt",
            "seccomp=unconfined",
            "busybox",
            "unshare",
            "-U",
            "true",
        ])
        .ok();
    let profile = engine.dir().join("profile.json");
    std::fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#).unwrap();
    let option = format!("seccomp={}", profile.display());
    for client in clients() {
        engine
            .client(
                client,
                &[
                    "run",
                    "--rm",
                    "--security-opt",
                    &option,
                    "busybox",
                    "mkdir",
                    "/x",
                ],
            )
            .fails(1, "Operation not permitted");
    }
}

#[test]
fn no_new_privileges() {
    let engine = Engine::start();
    assert_eq!(
        sh(&engine, &[], "grep NoNewPrivs /proc/self/status"),
        "NoNewPrivs:\t0"
    );
    assert_eq!(
        sh(
            &engine,
            &["--security-opt", "no-new-privileges"],
            "grep NoNewPrivs /proc/self/status"
        ),
        "NoNewPrivs:\t1"
    );
}

#[test]
fn proc_and_sys_are_masked_and_read_only() {
    let engine = Engine::start();
    assert_eq!(
        sh(
            &engine,
            &[],
            "cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c"
        ),
        "0"
    );
    assert_eq!(
        sh(
            &engine,
            &[],
            "ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v : | wc -w"
        ),
        "0",
        "masked directories are empty"
    );
    for path in [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/panic",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/profiling",
    ] {
        let run = engine.berth(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            &format!("test ! -e {path} || echo 1 > {path}"),
        ]);
        assert!(
            run.code == 0 || run.stderr.contains("Read-only file system"),
            "{path}: {run:?}"
        );
    }
    let run = engine.berth(&["run", "--rm", "busybox", "sh", "-c", "for d in /sys/fs/cgroup /sys/fs/cgroup/memory; do mkdir $d/x 2>/dev/null && echo made; done; true"]);
    assert!(!run.stdout.contains("made"), "{run:?}");
    let mounts = sh(&engine, &[], "cat /proc/mounts");
    assert!(
        mounts.lines().any(|line| line.contains(" /sys sysfs ro,")),
        "{mounts}"
    );
}

#[test]
fn read_only_root() {
    let engine = Engine::start();
    engine
        .berth(&["run", "--rm", "--read-only", "busybox", "touch", "/x"])
        .fails(1, "Read-only file system");
    sh(
        &engine,
        &["--read-only", "--tmpfs", "/run"],
        "touch /run/x /dev/shm/x",
    );
}

#[test]
fn only_the_usual_devices() {
    let engine = Engine::start();
    let devices = sh(&engine, &[], "ls /dev");
    // A link to /proc/kcore, where the kernel has that (it is masked).
    let devices: Vec<_> = devices
        .split_whitespace()
        .filter(|name| *name != "core")
        .collect();
    assert_eq!(
        devices,
        [
            "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
            "stdout", "tty", "urandom", "zero"
        ]
    );
    assert_eq!(
        sh(
            &engine,
            &["--device", "/dev/kmsg:/dev/log0:r"],
            "test -c /dev/log0 && echo yes"
        ),
        "yes"
    );
}

#[test]
fn privileged_loosens_all_of_it() {
    let engine = Engine::start();
    let status = sh(
        &engine,
        &["--privileged"],
        "grep -E 'CapEff|Seccomp:' /proc/self/status",
    );
    assert!(
        status.contains("Seccomp:\t0") && !status.contains("a80425fb"),
        "{status}"
    );
    let mounts = sh(&engine, &["--privileged"], "cat /proc/mounts");
    assert!(
        mounts.lines().any(|line| line.contains(" /sys sysfs rw,")),
        "{mounts}"
    );
}

#[test]
fn no_descriptor_leaks_into_the_container() {
    // CVE-2024-21626: a leaked descriptor of a host directory.
    let engine = Engine::start();
    engine
        .berth(&["run", "-d", "--name", "cc", "busybox", "sleep", "600"])
        .ok();
    for script in [
        sh(&engine, &[], "ls -l /proc/self/fd /proc/1/fd"),
        engine
            .berth(&["exec", "cc", "ls", "-l", "/proc/self/fd"])
            .ok(),
    ] {
        let targets: Vec<_> = script
            .lines()
            .filter_map(|line| line.split(" -> ").nth(1))
            .collect();
        assert!(
            targets.iter().all(|target| target.starts_with("pipe:")
                || target.starts_with("/dev/null")
                || target.starts_with("/proc/")),
            "{script}"
        );
    }
    engine
        .berth(&["run", "--rm", "-w", "/proc/self/fd/7", "busybox", "pwd"])
        .fails(125, "not a directory");
    let run = engine.berth(&["exec", "-w", "/proc/self/fd/7/../../..", "cc", "pwd"]);
    assert_ne!(run.code, 0, "{run:?}");
}

#[test]
fn sysctls_only_of_its_namespaces() {
    let engine = Engine::start();
    assert_eq!(
        sh(
            &engine,
            &["--sysctl", "net.ipv4.ip_forward=1"],
            "cat /proc/sys/net/ipv4/ip_forward"
        ),
        "1"
    );
    assert_eq!(
        sh(
            &engine,
            &["--sysctl", "kernel.shm_rmid_forced=1"],
            "cat /proc/sys/kernel/shm_rmid_forced"
        ),
        "1"
    );
    // CVE-2022-0811: kernel.core_pattern through a sysctl.
    engine
        .berth(&[
            "run",
            "--rm",
            "--sysctl",
            "kernel.core_pattern=|/evil",
            "busybox",
            "true",
        ])
        .fails(125, "kernel.core_pattern");
    let run = engine.berth(&[
        "run",
        "--rm",
        "--sysctl",
        "kernel.shm_rmid_forced=1+kernel.core_pattern=/evil",
        "busybox",
        "true",
    ]);
    assert_ne!(run.code, 0);
    assert!(
        !std::fs::read_to_string("/proc/sys/kernel/core_pattern")
            .unwrap()
            .contains("evil")
    );
}

#[test]
fn the_hosts_mount_table_shows_nothing() {
    let engine = Engine::start();
    let before = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    engine
        .berth(&["run", "-d", "--name", "cc", "busybox", "sleep", "600"])
        .ok();
    let mine = engine.dir().display().to_string();
    for pid in ["self".to_owned(), engine.pid().to_string()] {
        let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
        assert!(!table.contains(&mine), "{table}");
    }
    assert_eq!(
        before.lines().count(),
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count()
    );
}

#[test]
fn the_runtime_cannot_be_overwritten() {
    // CVE-2019-5736: /proc/PID/exe of a process on its way into the container.
    let engine = Engine::start();
    let runtime = berth_e2e::engine::bin_dir().join("berth-runtime");
    let before = std::fs::metadata(&runtime).unwrap().modified().unwrap();
    engine.berth(&["run", "-d", "--name", "cc", "--privileged", "busybox", "sh", "-c", "ln -sf /proc/self/exe /bin/trap; while :; do for p in /proc/[0-9]*; do { echo evil > $p/exe; } 2>/dev/null; done; done"]).ok();
    for _ in 0..20 {
        engine.berth(&["exec", "cc", "true"]);
    }
    engine.berth(&["rm", "-f", "cc"]).ok();
    assert_eq!(
        std::fs::metadata(&runtime).unwrap().modified().unwrap(),
        before
    );
}

#[test]
fn isolation_is_shown_as_it_is() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "held",
            "-m",
            "64m",
            "--pids-limit",
            "50",
            "busybox",
            "sleep",
            "600",
        ])
        .ok();
    let text = engine.berth(&["isolation", "held"]).ok();
    for words in [
        "Namespaces      ",
        "ipc mnt net pid",
        "Seccomp         filter",
        "of 64MiB",
        "chown dac_override",
        "1 read-only, shared",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert!(!text.contains("Loosened"), "{text}");
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "loose",
            "--privileged",
            "--pid",
            "host",
            "busybox",
            "sleep",
            "600",
        ])
        .ok();
    let text = engine.berth(&["isolation", "loose"]).ok();
    for words in [
        "Seccomp         none",
        "Loosened        privileged",
        "Loosened        sees and can signal",
        "sys_admin",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    let json = engine
        .berth(&["isolation", "--format", "json", "loose"])
        .ok();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let pid = value["Namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .find(|namespace| namespace["Kind"] == "pid")
        .unwrap();
    assert_eq!(pid["SharedWithHost"], true);
    engine
        .berth(&["isolation", "nobody"])
        .fails(1, "No such container: nobody");
}
