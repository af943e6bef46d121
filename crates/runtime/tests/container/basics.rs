//! A container starts, is what its configuration says, and ends.

use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;

use berth_runtime_core::{Error, Stdio};
use serde_json::json;

use crate::fixture::{Bundle, Files, kill, wait};

crate::harness::tests!("basics":
    output_and_exit_code, the_words_of_missing_programs, a_clean_process, devices, hidden_paths,
    names, terminal, gate, gate_reports_a_failed_start, gate_dies_with_its_parent, gate_is_handed_on, limits,
    seccomp, seccomp_without_no_new_privileges, hooks_run_in_order, a_failing_hook_stops_it,
    read_only_root, unsupported_parts_are_refused, oom_score, missing_cwd_is_made, scheduling,
);

fn output_and_exit_code() {
    let output = Bundle::script("echo out; echo err >&2; exit 3")
        .run()
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (output.code, &*output.stdout, &*output.stderr),
        (3, "out\n", "err\n")
    );
}

fn the_words_of_missing_programs() {
    let mut bundle = Bundle::new();
    let mut refused = |arg: &str| bundle.set("/process/args", json!([arg])).refusal();
    let error = refused("nope");
    assert!(matches!(error, Error::NotFound(_)));
    assert_eq!(
        error.to_string(),
        r#"exec: "nope": executable file not found in $PATH"#
    );
    let error = refused("/nope");
    assert!(matches!(error, Error::NotFound(_)));
    assert_eq!(
        error.to_string(),
        r#"exec: "/nope": stat /nope: no such file or directory"#
    );
    let error = refused("/etc/passwd");
    assert!(matches!(error, Error::NotExecutable(_)));
    assert_eq!(
        error.to_string(),
        r#"exec: "/etc/passwd": permission denied"#
    );
    let junk = bundle.rootfs().join("junk");
    std::fs::write(&junk, [0u8; 64]).unwrap();
    std::fs::set_permissions(&junk, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let error = bundle.set("/process/args", json!(["/junk"])).refusal();
    assert!(matches!(error, Error::NotExecutable(_)));
    assert_eq!(error.to_string(), "exec /junk: exec format error");
    bundle.set("/process/args", json!([]));
    assert!(matches!(bundle.refusal(), Error::Invalid(_)));
}

fn a_clean_process() {
    let text =
        Bundle::script("cat /proc/self/status; echo; umask; ls /proc/self/fd; pwd; echo $$; ps")
            .stdout();
    let line = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{text}"));
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    for set in ["CapBnd", "CapPrm", "CapEff"] {
        assert_eq!(line(set), "00000000a80425fb", "{set}");
    }
    // CVE-2022-29162.
    assert_eq!(line("CapInh"), "0000000000000000");
    assert_eq!(line("CapAmb"), "0000000000000000");
    // Rust ignores SIGPIPE; the program must not.
    for mask in ["SigIgn", "SigBlk"] {
        assert_eq!(line(mask), "0000000000000000", "{mask}");
    }
    assert_eq!(line("NoNewPrivs"), "0");
    let tail: Vec<_> = text.split("\n\n").nth(1).unwrap().lines().collect();
    // umask; descriptors 0 to 2 and the one of ls; the directory; the shell is 1.
    assert_eq!(&tail[..7], ["0022", "0", "1", "2", "3", "/", "1"], "{text}");
    assert!(
        !text.contains("berth"),
        "processes of the host are seen: {text}"
    );
}

fn devices() {
    let mut bundle = Bundle::script(
        "cd /dev; for d in null zero full random urandom tty fuse; do stat -c '%n %F %t:%T %a %u:%g' $d; done; \
         for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done; \
         echo x > null; head -c 2 zero | wc -c",
    );
    bundle.push(
        "/linux/devices",
        json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4}),
    );
    let text = bundle.stdout();
    let expected = "\
null character special file 1:3 666 0:0
zero character special file 1:5 666 0:0
full character special file 1:7 666 0:0
random character special file 1:8 666 0:0
urandom character special file 1:9 666 0:0
tty character special file 5:0 666 0:0
fuse character special file a:e5 640 3:4
fd /proc/self/fd
stdin /proc/self/fd/0
stdout /proc/self/fd/1
stderr /proc/self/fd/2
ptmx pts/ptmx
2
";
    assert_eq!(text, expected);
}

fn hidden_paths() {
    let mut bundle = Bundle::script(
        "cat /proc/keys /proc/timer_list /proc/interrupts | wc -c; ls /etc /root | wc -l; \
         stat -c '%t:%T' /proc/interrupts; \
         for f in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness; do \
           (echo x > $f) 2>&1 | grep -o 'Read-only file system'; done; \
         (mkdir /etc/x) 2>&1 | grep -o 'Read-only file system'",
    );
    for directory in ["/etc", "/root"] {
        bundle.push("/linux/maskedPaths", json!(directory));
    }
    assert_eq!(
        bundle.stdout(),
        "0\n3\n1:3\nRead-only file system\nRead-only file system\nRead-only file system\n"
    );
}

fn names() {
    let mut bundle = Bundle::script(
        "hostname; cat /proc/sys/kernel/domainname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    );
    bundle.set("/domainname", json!("example.org"));
    assert_eq!(bundle.stdout(), "box\nexample.org\n0\n");
    bundle.without_namespace("uts");
    assert!(
        bundle
            .refusal()
            .to_string()
            .contains("needs a UTS namespace")
    );
}

/// CVE-2025-52565: the terminal is the container's own and /dev/console is it.
fn terminal() {
    let mut bundle = Bundle::script(
        "tty; stty size; stat -c %t:%T /dev/console; stat -Lc %t:%T /proc/self/fd/0; \
         grep ' /dev/console devpts ' /proc/mounts | wc -l; echo hello > /dev/tty; \
         stat -c '%u %a' /dev/pts/0; id -u",
    );
    bundle
        .set("/process/terminal", json!(true))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let created = bundle
        .create(
            Stdio::Terminal {
                width: 101,
                height: 33,
            },
            None,
        )
        .unwrap_or_else(|e| panic!("{e}"));
    let console = created.process.console.as_ref().expect("no console");
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    // EIO is how a terminal says that nobody holds its other side.
    while let Ok(count @ 1..) = rustix::io::read(console, &mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(wait(&created.process), 0);
    let text = String::from_utf8(text).unwrap().replace('\r', "");
    assert_eq!(
        text,
        "/dev/pts/0\n33 101\n88:0\n88:0\n1\nhello\n1000 620\n1000\n"
    );
}

fn gate() {
    let mut bundle = Bundle::script("echo ran");
    bundle.gate = true;
    let files = Files::new();
    let mut created = bundle
        .create(files.stdio(), None)
        .unwrap_or_else(|e| panic!("{e}"));
    let exe = std::fs::read_link(format!("/proc/{}/exe", created.process.pid)).unwrap();
    assert_eq!(
        exe,
        std::env::current_exe().unwrap(),
        "the program runs before the gate opens"
    );
    created.start().unwrap_or_else(|e| panic!("{e}"));
    let output = files.finish(&created.process);
    assert_eq!((output.code, &*output.stdout), (0, "ran\n"));
    created.start().unwrap();
}

fn gate_reports_a_failed_start() {
    let mut bundle = Bundle::new();
    bundle.gate = true;
    // What is missing or no program is known before the gate, as with runc.
    for (program, missing) in [("nope", true), ("/etc/passwd", false)] {
        bundle.set("/process/args", json!([program]));
        let error = bundle.create(Files::new().stdio(), None).unwrap_err();
        assert_eq!(matches!(error, Error::NotFound(_)), missing, "{error}");
        assert_eq!(
            matches!(error, Error::NotExecutable(_)),
            !missing,
            "{error}"
        );
    }
    // Only the kernel tells that it cannot execute this.
    std::fs::write(bundle.rootfs().join("junk"), "\x7fELF").unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bundle.rootfs().join("junk"), mode).unwrap();
    bundle.set("/process/args", json!(["/junk"]));
    let files = Files::new();
    let mut created = bundle
        .create(files.stdio(), None)
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(matches!(created.start(), Err(Error::NotExecutable(_))));
    assert!(!std::path::Path::new(&format!("/proc/{}", created.process.pid)).exists());
}

/// Nobody opens the gate any more: the process must not wait for ever.
fn gate_dies_with_its_parent() {
    let mut bundle = Bundle::script("echo ran");
    bundle.gate = true;
    let files = Files::new();
    let created = bundle
        .create(files.stdio(), None)
        .unwrap_or_else(|e| panic!("{e}"));
    let pidfd = created.process.pidfd.try_clone().unwrap();
    drop(created);
    let mut ready = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    let limit = rustix::event::Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    assert_eq!(
        rustix::event::poll(&mut ready, Some(&limit)),
        Ok(1),
        "it still waits"
    );
    let status = rustix::process::waitid(
        rustix::process::WaitId::PidFd(pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    assert_eq!(status.unwrap().unwrap().exit_status(), Some(1));
}

/// `create` and `start` of the OCI command line: the maker ends, a process that it
/// forked opens the gate.
fn gate_is_handed_on() {
    use berth_sys::clone::{Cloned, clone3};
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).unwrap();
    let mut bundle = Bundle::script("echo ran; exit 5");
    bundle.gate = true;
    let files = Files::new();
    let Cloned::Parent { pidfd: maker, .. } = clone3(0, None).unwrap() else {
        let mut created = bundle
            .create(files.stdio(), None)
            .unwrap_or_else(|e| panic!("{e}"));
        let own = rustix::process::getpid();
        let Cloned::Child = clone3(0, None).unwrap() else {
            berth_sys::exec::exit(0)
        };
        // Until the maker is gone, and we are somebody else's child.
        let maker = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty());
        if let Ok(maker) = maker {
            let mut ready = [rustix::event::PollFd::new(
                &maker,
                rustix::event::PollFlags::IN,
            )];
            let limit = rustix::event::Timespec {
                tv_sec: 20,
                tv_nsec: 0,
            };
            rustix::event::poll(&mut ready, Some(&limit)).unwrap();
        }
        berth_sys::exec::exit(u8::from(created.start().is_err()))
    };
    berth_sys::exec::reap(maker.as_fd());
    let mut codes = Vec::new();
    while let Ok(Some((_, status))) = rustix::process::wait(rustix::process::WaitOptions::empty()) {
        codes.push(status.exit_status());
    }
    codes.sort();
    assert_eq!(codes, [Some(0), Some(5)], "the keeper and the program");
}

fn limits() {
    let mut bundle =
        Bundle::script("ulimit -n; ulimit -c; umask; cat /proc/1/limits | grep 'Max processes'");
    bundle
        .set(
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                // More than this machine allows: lowered, not refused.
                {"type": "RLIMIT_NPROC", "soft": u64::MAX, "hard": u64::MAX},
            ]),
        )
        .set("/process/user", json!({"uid": 0, "gid": 0, "umask": 0o27}));
    let text = bundle.stdout();
    assert!(text.starts_with("100\n0\n0027\nMax processes"), "{text}");
}

/// A filter that denies mkdir with EPERM, made by hand.
fn deny_mkdir() -> berth_seccomp::Program {
    let mkdir = libc::SYS_mkdir as u32;
    let instructions: [(u16, u8, u8, u32); 4] = [
        (0x20, 0, 0, 0),                // load the system call's number
        (0x15, 0, 1, mkdir),            // is it mkdir?
        (0x06, 0, 0, 0x0005_0000 | 77), // EBADFD
        (0x06, 0, 0, 0x7fff_0000),      // allow
    ];
    let filter = instructions
        .iter()
        .flat_map(|(code, jt, jf, k)| {
            [&code.to_ne_bytes()[..], &[*jt, *jf], &k.to_ne_bytes()].concat()
        })
        .collect();
    berth_seccomp::Program { filter, flags: 0 }
}

fn seccomp() {
    let mut bundle =
        Bundle::script("mkdir /tmp/x; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; exit 0");
    bundle.seccomp = Some(deny_mkdir());
    bundle
        .set("/process/noNewPrivileges", json!(true))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let output = bundle.run().unwrap_or_else(|e| panic!("{e}"));
    assert!(
        output.stderr.contains("File descriptor in bad state"),
        "{output:?}"
    );
    assert_eq!(output.stdout, "NoNewPrivs:\t1\nSeccomp:\t2\n");
}

fn seccomp_without_no_new_privileges() {
    let mut bundle =
        Bundle::script("mkdir /tmp/x; grep -E '^(Seccomp|NoNewPrivs|CapEff):' /proc/self/status");
    bundle.seccomp = Some(deny_mkdir());
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let output = bundle.run().unwrap_or_else(|e| panic!("{e}"));
    assert!(
        output.stderr.contains("File descriptor in bad state"),
        "{output:?}"
    );
    assert_eq!(
        output.stdout,
        "CapEff:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
    );
}

fn hooks_run_in_order() {
    let mut bundle = Bundle::script("echo program >> /tmp/log; sleep 1000");
    let log = bundle.rootfs().join("tmp/log");
    let host = |name: &str| {
        json!([{"path": "/bin/sh", "args": ["sh", "-c",
            format!("echo {name} $(grep -o '\"status\":\"[a-z]*\"') >> {}", log.display())]}])
    };
    bundle.set(
        "/hooks",
        json!({
            "prestart": host("prestart"),
            "createRuntime": host("createRuntime"),
            "createContainer": host("createContainer"),
            // In the container: its own shell and paths.
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c",
                "echo startContainer $(cat | grep -o '\"pid\":1[,}]') >> /tmp/log"],
                "env": ["PATH=/bin"]}],
            "poststart": host("poststart"),
        }),
    );
    let files = Files::new();
    let created = bundle
        .create(files.stdio(), None)
        .unwrap_or_else(|e| panic!("{e}"));
    let text = std::fs::read_to_string(&log).unwrap();
    kill(&created.process);
    let mut lines: Vec<_> = text.lines().filter(|line| *line != "program").collect();
    assert_eq!(lines.pop(), Some(r#"poststart "status":"running""#));
    assert_eq!(
        lines,
        [
            r#"prestart "status":"creating""#,
            r#"createRuntime "status":"creating""#,
            r#"createContainer "status":"creating""#,
            r#"startContainer "pid":1,"#,
        ]
    );
}

fn a_failing_hook_stops_it() {
    for when in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
    ] {
        let mut bundle = Bundle::script("sleep 1000");
        bundle.set(
            "/hooks",
            json!({when: [{"path": "/bin/sh", "args": ["sh", "-c", "echo no; exit 4"]}]}),
        );
        let text = bundle.refusal().to_string();
        assert!(
            text.contains(&format!("error running {when} hook #0")),
            "{text}"
        );
    }
}

fn read_only_root() {
    let mut bundle = Bundle::script("echo x > /file; echo y > /dev/shm/z && echo ok");
    bundle.set("/root/readonly", json!(true));
    let output = bundle.run().unwrap_or_else(|e| panic!("{e}"));
    assert!(
        output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
    assert_eq!(output.stdout, "ok\n");
    // The image below is not touched: it may be shared.
    std::fs::write(bundle.rootfs().join("file"), "x").unwrap();
}

/// Nothing of a configuration is accepted and ignored.
fn unsupported_parts_are_refused() {
    for (pointer, value) in [
        ("/linux/intelRdt", json!({})),
        ("/linux/rootfsPropagation", json!("sideways")),
        ("/process/apparmorProfile", json!("docker-default")),
        ("/process/selinuxLabel", json!("system_u:object_r:x:s0")),
        ("/linux/mountLabel", json!("system_u:object_r:x:s0")),
        ("/process/cwd", json!("relative")),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["X"]}),
        ),
    ] {
        let mut bundle = Bundle::new();
        let error = bundle.set(pointer, value).refusal();
        assert!(matches!(error, Error::Invalid(_)), "{pointer}: {error}");
    }
}

fn oom_score() {
    let mut bundle = Bundle::script("cat /proc/self/oom_score_adj");
    assert_eq!(
        bundle.set("/process/oomScoreAdj", json!(321)).stdout(),
        "321\n"
    );
}

fn missing_cwd_is_made() {
    let mut bundle = Bundle::script("pwd; echo $PWD");
    assert_eq!(
        bundle.set("/process/cwd", json!("/a/new/one")).stdout(),
        "/a/new/one\n/a/new/one\n"
    );
}

fn scheduling() {
    let mut bundle = Bundle::new();
    bundle.set(
        "/process/args",
        json!([
            "/bin/busybox",
            "sh",
            "-c",
            "busybox cut -d' ' -f19 /proc/self/stat; busybox ionice -p 1; uname -m"
        ]),
    );
    bundle
        .set(
            "/process/scheduler",
            json!({"policy": "SCHED_BATCH", "nice": 7}),
        )
        .set(
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 6}),
        )
        .set(
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "0"}),
        );
    let native = bundle.stdout();
    assert!(native.starts_with("7\nbest-effort: prio 6\n"), "{native}");
    bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
    assert_ne!(bundle.stdout(), native, "the machine's name is the same");
    for (pointer, value) in [
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 9}),
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "5000"}),
        ),
    ] {
        let mut bundle = Bundle::new();
        assert!(
            matches!(bundle.set(pointer, value).refusal(), Error::Invalid(_)),
            "{pointer}"
        );
    }
}
