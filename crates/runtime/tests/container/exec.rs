//! Further processes in a running container.

use std::os::fd::AsFd as _;

use berth_runtime_core::{Error, Stdio};
use serde_json::json;

use crate::fixture::{Bundle, Sleeper, wait};

crate::harness::tests!("exec":
    output_and_exit_code, joins_every_namespace, the_words_of_missing_programs,
    user_and_capabilities, terminal, the_parent_stays_at_home, a_dead_container, user_namespace,
    shared_pid_namespace, cwd_must_be_inside,
);

fn sleeper() -> Sleeper {
    Sleeper::new(Bundle::new())
}

fn output_and_exit_code() {
    let output = sleeper()
        .exec(json!({"args": ["sh", "-c", "echo out; echo err >&2; exit 7"]}))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (output.code, &*output.stdout, &*output.stderr),
        (7, "out\n", "err\n")
    );
}

const NAMESPACES: &str =
    "cd /proc/self/ns; for n in cgroup ipc mnt net pid time user uts; do readlink $n; done";

fn check_namespaces(sleeper: &Sleeper) {
    let output = sleeper
        .exec(json!({"args": ["sh", "-c", NAMESPACES]}))
        .unwrap_or_else(|e| panic!("{e}"));
    let pid = sleeper.created.process.pid;
    let expected: String = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
        .map(|name| {
            let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
            format!("{}\n", link.display())
        })
        .concat();
    assert_eq!(output.stdout, expected, "{output:?}");
}

fn joins_every_namespace() {
    let sleeper = sleeper();
    check_namespaces(&sleeper);
    let text = sleeper.exec(json!({"args": ["sh", "-c", "hostname; ps | grep -c sleep; ls /"]}));
    assert!(text.unwrap().stdout.starts_with("box\n"));
}

fn the_words_of_missing_programs() {
    let sleeper = sleeper();
    let error = sleeper.exec(json!({"args": ["nope"]})).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)));
    assert_eq!(
        error.to_string(),
        r#"exec: "nope": executable file not found in $PATH"#
    );
    let error = sleeper.exec(json!({"args": ["/etc/passwd"]})).unwrap_err();
    assert!(matches!(error, Error::NotExecutable(_)));
    let error = sleeper.exec(json!({"args": ["/no/such"]})).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"exec: "/no/such": stat /no/such: no such file or directory"#
    );
}

fn user_and_capabilities() {
    let output = sleeper()
        .exec(json!({
            "args": ["sh", "-c", "id -u; id -g; id -G; echo $HOME; echo x >> /dev/stdout; grep Cap /proc/self/status"],
            "user": {"uid": 0, "gid": 0, "username": "app", "additionalGids": [77]},
        }))
        .unwrap_or_else(|e| panic!("{e}"));
    let expected = "1000\n1001\n1001 29 77\n/home/app\nx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
        CapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";
    assert_eq!(output.stdout, expected, "{output:?}");
}

fn terminal() {
    let sleeper = sleeper();
    let process =
        sleeper.process(json!({"args": ["sh", "-c", "tty; stty size; echo hello > /dev/tty"]}));
    let started = sleeper
        .start(
            &process,
            Stdio::Terminal {
                width: 80,
                height: 24,
            },
        )
        .unwrap_or_else(|e| panic!("{e}"));
    let mut text = String::new();
    let mut buffer = [0u8; 4096];
    while let Ok(count @ 1..) = rustix::io::read(started.console.as_ref().unwrap(), &mut buffer) {
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert_eq!(text, "/dev/pts/0\r\n24 80\r\nhello\r\n");
    assert_eq!(wait(&started), 0);
}

/// The process namespace of the parent's children is changed only for the clone.
fn the_parent_stays_at_home() {
    let links = || {
        ["pid_for_children", "time_for_children", "pid", "mnt", "net"]
            .map(|name| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap())
    };
    let before = links();
    let sleeper = sleeper();
    sleeper
        .exec(json!({"args": ["true"]}))
        .unwrap_or_else(|e| panic!("{e}"));
    sleeper.exec(json!({"args": ["nope"]})).unwrap_err();
    assert_eq!(before, links());
}

fn a_dead_container() {
    let mut sleeper = sleeper();
    let process = &mut sleeper.created.process;
    rustix::process::pidfd_send_signal(&process.pidfd, rustix::process::Signal::KILL).unwrap();
    let limit = rustix::event::Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let mut ready = [rustix::event::PollFd::from_borrowed_fd(
        process.pidfd.as_fd(),
        rustix::event::PollFlags::IN,
    )];
    rustix::event::poll(&mut ready, Some(&limit)).unwrap();
    let error = sleeper.exec(json!({"args": ["true"]})).unwrap_err();
    assert!(error.to_string().contains("no such process"), "{error}");
}

fn user_namespace() {
    let mut bundle = Bundle::new();
    crate::namespaces::map_user(&mut bundle);
    let sleeper = Sleeper::new(bundle);
    check_namespaces(&sleeper);
    let output = sleeper
        .exec(json!({"args": ["sh", "-c", "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status"]}))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        output.stdout,
        "0\n         0     100000      65536\nCapEff:\t00000000a80425fb\n"
    );
}

fn shared_pid_namespace() {
    let mut bundle = Bundle::new();
    bundle.without_namespace("pid");
    let sleeper = Sleeper::new(bundle);
    check_namespaces(&sleeper);
}

/// CVE-2024-21626.
fn cwd_must_be_inside() {
    let sleeper = sleeper();
    for fd in 3..40 {
        let cwd = format!("/proc/self/fd/{fd}");
        let script = json!({"args": ["sh", "-c", "readlink /proc/self/cwd; ls"], "cwd": cwd});
        match sleeper.exec(script) {
            // Our own descriptor of the container's root leads nowhere else.
            Ok(output) => assert!(
                output.stdout.starts_with("/\nbin\ndev\netc\nhome\n"),
                "{output:?}"
            ),
            Err(error) => {
                let text = error.to_string();
                let known = ["possible container breakout", "chdir to cwd"];
                assert!(
                    known.iter().any(|words| text.contains(words)),
                    "{fd}: {text}"
                );
            }
        }
    }
}
