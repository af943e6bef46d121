//! The process section of the configuration and what the process is set up with,
//! seen by the program that runs (config.md, "Process"; config-linux.md).
#![allow(
    clippy::needless_pass_by_value,
    clippy::print_stderr,
    clippy::unwrap_used
)]

mod common;

use common::bundle::Bundle;
use serde_json::{Value, json};

/// What a shell says in a container with these changes to its configuration.
fn said(script: &str, changes: &[(&str, Value)]) -> String {
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.set(changes);
    let output = bundle.ok(&["run", "a"]);
    bundle.assert_empty();
    output
}

fn refusal(changes: &[(&str, Value)]) -> String {
    let mut bundle = Bundle::new(&["true"]);
    bundle.set(changes);
    let error = bundle.fails(&["run", "a"]);
    bundle.assert_empty();
    error
}

#[test]
fn user_groups_umask_and_directory() {
    let user = json!({ "uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o27 });
    let output = said(
        "id -u; id -g; id -G; umask; pwd; echo $HOME",
        &[
            ("/process/user", user),
            ("/process/cwd", json!("/made/for it")),
            ("/process/env", json!(["PATH=/bin", "HOME=/h"])),
        ],
    );
    assert_eq!(output, "1000\n1001\n1001 7 8\n0027\n/made/for it\n/h\n");
    // What runc has when nothing is said.
    assert_eq!(said("umask", &[]), "0022\n");
}

#[test]
fn five_sets_of_capabilities() {
    // Of different bits, so that none is taken for another.
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_AUDIT_WRITE"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
        "ambient": ["CAP_KILL"],
    });
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    // Root would regain all with the execution.
    bundle.set(&[
        ("/process/capabilities", sets),
        ("/process/user", json!({ "uid": 1000, "gid": 1000 })),
        ("/process/noNewPrivileges", json!(false)),
    ]);
    let output = bundle.ok(&["run", "a"]);
    let of = |name: &str| {
        let line = output.lines().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    let (chown, kill, setuid, audit_write) = (1, 1 << 5, 1 << 7, 1 << 29);
    assert_eq!(of("CapBnd"), chown | kill | setuid | audit_write);
    assert_eq!(of("CapInh"), kill);
    // After an execution as a user, what is ambient is left.
    assert_eq!(
        (of("CapAmb"), of("CapPrm"), of("CapEff")),
        (kill, kill, kill)
    );
    assert_eq!(of("NoNewPrivs"), 0);
    bundle.set(&[("/process/noNewPrivileges", json!(true))]);
    assert!(bundle.ok(&["run", "a"]).contains("NoNewPrivs:\t1"));
    bundle.set(&[
        ("/process/capabilities", Value::Null),
        ("/process/user/uid", json!(0)),
    ]);
    assert!(
        bundle
            .ok(&["run", "a"])
            .contains("CapBnd:\t0000000000000000")
    );
    bundle.assert_empty();
}

#[test]
fn resource_limits() {
    let limits = [
        ("CPU", "Max cpu time", 100, 200),
        ("FSIZE", "Max file size", 1 << 30, 1 << 31),
        ("DATA", "Max data size", 1 << 30, 1 << 31),
        ("STACK", "Max stack size", 1 << 22, 1 << 23),
        ("CORE", "Max core file size", 0, 10),
        ("RSS", "Max resident set", 1 << 30, 1 << 31),
        ("NPROC", "Max processes", 500, 600),
        ("NOFILE", "Max open files", 100, 200),
        ("MEMLOCK", "Max locked memory", 4096, 8192),
        ("AS", "Max address space", 1_u64 << 32, 1_u64 << 33),
        ("LOCKS", "Max file locks", 10, 20),
        ("SIGPENDING", "Max pending signals", 30, 40),
        ("MSGQUEUE", "Max msgqueue size", 4096, 8192),
        ("NICE", "Max nice priority", 0, 0),
        ("RTPRIO", "Max realtime priority", 0, 0),
        ("RTTIME", "Max realtime timeout", 1000, 2000),
    ];
    let rlimits: Vec<_> = limits
        .iter()
        .map(|(name, _, soft, hard)| json!({ "type": format!("RLIMIT_{name}"), "soft": soft, "hard": hard }))
        .collect();
    let output = said(
        "cat /proc/self/limits",
        &[("/process/rlimits", json!(rlimits))],
    );
    for (_, name, soft, hard) in limits {
        let line = output.lines().find(|line| line.starts_with(name)).unwrap();
        let numbers: Vec<_> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(numbers, [soft.to_string(), hard.to_string()], "{line}");
    }
    let twice = json!([{ "type": "RLIMIT_CPU", "soft": 1, "hard": 1 }, { "type": "RLIMIT_CPU", "soft": 2, "hard": 2 }]);
    let error = refusal(&[("/process/rlimits", twice)]);
    assert!(error.contains("RLIMIT_CPU"), "{error}");
}

#[test]
fn score_for_the_out_of_memory_killer() {
    let script = "cat /proc/self/oom_score_adj";
    assert_eq!(
        said(script, &[("/process/oomScoreAdj", json!(500))]),
        "500\n"
    );
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.set(&[("/process/oomScoreAdj", json!(400))]);
    bundle.leave(&["run", "-d", "a"]);
    assert_eq!(
        bundle.ok(&["exec", "a", "cat", "/proc/self/oom_score_adj"]),
        "400\n"
    );
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

/// Field of /proc/self/stat, counted from 1.
fn field(number: usize) -> String {
    // cut, in the shell itself: a process of its own has the same scheduling.
    format!("cut -d' ' -f{number} /proc/self/stat")
}

#[test]
fn scheduling() {
    let policy = |scheduler: Value| {
        let script = format!("{}; {}; {}", field(41), field(40), field(19));
        said(&script, &[("/process/scheduler", scheduler)])
    };
    assert_eq!(
        policy(json!({ "policy": "SCHED_OTHER", "nice": 5 })),
        "0\n0\n5\n"
    );
    assert_eq!(
        policy(json!({ "policy": "SCHED_BATCH", "nice": 7 })),
        "3\n0\n7\n"
    );
    assert!(policy(json!({ "policy": "SCHED_IDLE" })).starts_with("5\n0\n"));
    for (name, number) in [("SCHED_FIFO", 1), ("SCHED_RR", 2)] {
        let mut bundle = Bundle::new(&["sh", "-c", &format!("{}; {}", field(41), field(40))]);
        bundle.set(&[(
            "/process/scheduler",
            json!({ "policy": name, "priority": 10 }),
        )]);
        let output = bundle.output(&["run", "a"]);
        if output.status.success() {
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said, format!("{number}\n10\n"));
        } else {
            // Without CAP_SYS_NICE, or in a group without realtime.
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(
                error.contains("set the scheduling policy: operation not permitted"),
                "{error}"
            );
            eprintln!("SKIPPED: {name} is not allowed here");
        }
        bundle.assert_empty();
    }
    // Flags reach the kernel: reset on fork shows in the child of the shell.
    let script = format!("awk '{{ print $19 }}' /proc/$$/stat; {}; true", field(19));
    let reset =
        json!({ "policy": "SCHED_BATCH", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"] });
    let mut bundle = Bundle::new(&["sh", "-c", &script]);
    bundle.set(&[("/process/scheduler", reset)]);
    assert_eq!(bundle.ok(&["run", "a"]), "-5\n0\n");
    for (scheduler, words) in [
        (
            json!({ "policy": "SCHED_OTHER", "priority": -1 }),
            "-1 is no priority",
        ),
        (
            json!({ "policy": "SCHED_NOPE" }),
            "process.scheduler.policy",
        ),
        (
            json!({ "policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 1, "period": 1 }),
            "set the scheduling policy",
        ),
    ] {
        let error = refusal(&[("/process/scheduler", scheduler)]);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn priority_of_input_and_output() {
    for (class, level, shown) in [
        ("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
    ] {
        let output = said(
            "ionice -p $$",
            &[(
                "/process/ioPriority",
                json!({ "class": class, "priority": level }),
            )],
        );
        assert_eq!(output.trim(), shown);
    }
    for (priority, words) in [
        (
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }),
            "8 is not from 0 to 7",
        ),
        (
            json!({ "class": "IOPRIO_CLASS_NOPE", "priority": 1 }),
            "process.ioPriority.class",
        ),
    ] {
        let error = refusal(&[("/process/ioPriority", priority)]);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn processors_of_an_exec() {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.set(&[(
        "/process/execCPUAffinity",
        json!({ "initial": "0", "final": "0" }),
    )]);
    bundle.leave(&["run", "-d", "a"]);
    let list = |args: &[&str]| {
        let status = bundle.ok(args);
        let line = status
            .lines()
            .find(|line| line.starts_with("Cpus_allowed_list"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(list(&["exec", "a", "cat", "/proc/self/status"]), "0");
    // Not of the first process.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let first = list(&["exec", "a", "cat", "/proc/1/status"]);
    assert!(
        own.contains(&format!("Cpus_allowed_list:\t{first}\n")),
        "{first}"
    );
    let process = bundle.path().join("process.json");
    let mut value = bundle.config["process"].clone();
    value["args"] = json!(["true"]);
    value["execCPUAffinity"] = json!({ "initial": "x" });
    std::fs::write(&process, value.to_string()).unwrap();
    let error = bundle.fails(&["exec", "-p", process.to_str().unwrap(), "a"]);
    assert!(error.contains("execCPUAffinity.initial"), "{error}");
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

#[test]
fn personality() {
    let machine = |domain: &str| {
        said(
            "uname -m",
            &[("/linux/personality", json!({ "domain": domain }))],
        )
    };
    assert_eq!(machine("LINUX").trim(), std::env::consts::ARCH);
    if cfg!(target_arch = "x86_64") {
        assert_eq!(machine("LINUX32").trim(), "i686");
        // Of an exec too.
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        bundle.set(&[("/linux/personality", json!({ "domain": "LINUX32" }))]);
        bundle.leave(&["run", "-d", "a"]);
        assert_eq!(bundle.ok(&["exec", "a", "uname", "-m"]), "i686\n");
        bundle.ok(&["delete", "--force", "a"]);
        bundle.assert_empty();
    }
}

#[test]
fn policy_of_memory() {
    let script = "cut -d' ' -f2 /proc/self/numa_maps | sort -u";
    for (policy, shown) in [
        (json!({ "mode": "MPOL_BIND", "nodes": "0" }), "bind:0"),
        (
            json!({ "mode": "MPOL_PREFERRED", "nodes": "0" }),
            "prefer:0",
        ),
        (
            json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] }),
            "interleave=static:0",
        ),
        (json!({ "mode": "MPOL_LOCAL" }), "local"),
    ] {
        let output = said(script, &[("/linux/memoryPolicy", policy)]);
        if output.is_empty() {
            eprintln!("SKIPPED: this kernel has no NUMA");
            return;
        }
        assert!(
            output.lines().any(|line| line == shown),
            "{shown}: {output}"
        );
    }
    let error = refusal(&[(
        "/linux/memoryPolicy",
        json!({ "mode": "MPOL_BIND", "nodes": "x" }),
    )]);
    assert!(error.contains("\"x\" is no list"), "{error}");
}

/// runc's words where the kernel lacks the module; what a kernel with it does is
/// for a machine that has one.
#[test]
fn security_modules() {
    let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with(b"Y"));
    if apparmor {
        let error = refusal(&[("/process/apparmorProfile", json!("no-such-profile"))]);
        assert!(error.contains("no-such-profile"), "{error}");
    } else {
        let error = refusal(&[("/process/apparmorProfile", json!("x"))]);
        assert!(error.contains("AppArmor is not enabled"), "{error}");
    }
    // What a process is without any.
    for none in ["", "unconfined"] {
        assert_eq!(
            said("echo ran", &[("/process/apparmorProfile", json!(none))]),
            "ran\n"
        );
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        for field in ["/process/selinuxLabel", "/linux/mountLabel"] {
            let error = refusal(&[(field, json!("system_u:object_r:x:s0"))]);
            assert!(error.contains("SELinux is not enabled"), "{error}");
        }
    }
}

#[test]
fn annotations_are_shown() {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.set(&[("/annotations", json!({ "org.example.key": "value" }))]);
    bundle.leave(&["run", "-d", "a"]);
    assert_eq!(
        bundle.state_of("a")["annotations"]["org.example.key"],
        "value"
    );
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

#[test]
fn names_and_kernel_parameters() {
    let output = said(
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
        &[
            ("/hostname", json!("mrsdalloway")),
            ("/domainname", json!("example.org")),
            (
                "/linux/sysctl",
                json!({ "net.ipv4.ip_forward": "1", "kernel.msgmax": "9000" }),
            ),
        ],
    );
    assert_eq!(output, "mrsdalloway\nexample.org\n1\n9000\n");
    for (key, words) in [
        (
            "kernel.core_pattern",
            "is not in a separate kernel namespace",
        ),
        ("net.nope.nope", "net/nope/nope"),
    ] {
        let error = refusal(&[("/linux/sysctl", json!({ key: "1" }))]);
        assert!(error.contains(words), "{error}");
    }
}
