//! Execs in a running container.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::Shutdown;

use berth_monitor::protocol::*;
use common::*;

fn sleeper(launcher: &Launcher) -> Container {
    let mut container = launcher.container(&["sleep", "1000"]);
    container.run(launcher);
    container
}

fn exec_exited(container: &Container) -> (String, i32) {
    match container.receive() {
        Some(FromMonitor::ExecExited { exec, exit_code }) => (exec, exit_code),
        other => panic!("not the end of an exec: {other:?}"),
    }
}

fn end(mut container: Container) {
    container.kill(libc::SIGKILL);
    assert_eq!(container.exit_code(), 137);
}

#[test]
fn output_and_exit_code() {
    let launcher = Launcher::new();
    let mut container = sleeper(&launcher);
    let process = container.process(&[
        "sh",
        "-c",
        "echo out; echo err >&2; cat /proc/1/comm; exit 7",
    ]);
    let (stream, theirs) = pair();
    let options = ExecOptions {
        stream: Some((theirs, OUTPUT)),
        ..Default::default()
    };
    let answer = container.exec("e1", &process, options);
    assert!(
        matches!(answer, FromMonitor::ExecStarted { .. }),
        "{answer:?}"
    );
    assert_eq!(exec_exited(&container), ("e1".to_owned(), 7));
    assert_eq!(
        read_framed(&stream),
        (b"out\nsleep\n".to_vec(), b"err\n".to_vec())
    );
    // An exec's output is not in the container's log.
    assert!(container.log().is_empty());
    end(container);
}

#[test]
fn input_ends_with_the_client() {
    let launcher = Launcher::new();
    let mut container = sleeper(&launcher);
    let process = container.process(&["wc", "-c"]);
    let (stream, theirs) = pair();
    let options = ExecOptions {
        open_stdin: true,
        stream: Some((theirs, ALL)),
        ..Default::default()
    };
    container.exec("e", &process, options);
    write(&stream, "12345");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(exec_exited(&container).1, 0);
    assert_eq!(read_framed(&stream).0, b"5\n");
    end(container);
}

#[test]
fn terminal_with_resize_and_signal() {
    let launcher = Launcher::new();
    let mut container = sleeper(&launcher);
    let mut process = container.process(&["sh"]);
    process["terminal"] = true.into();
    let (stream, theirs) = pair();
    let options = ExecOptions {
        tty: true,
        size: (80, 24),
        open_stdin: true,
        stream: Some((theirs, ALL)),
    };
    let answer = container.exec("t", &process, options);
    assert!(
        matches!(answer, FromMonitor::ExecStarted { .. }),
        "{answer:?}"
    );
    write(&stream, "stty size\n");
    read_until(&stream, "24 80\r\n");
    let exec = || Some("t".to_owned());
    let resize = |request| ToMonitor::Resize {
        request,
        exec: exec(),
        width: 100,
        height: 30,
    };
    assert!(matches!(
        container.ask(resize, &[]),
        FromMonitor::Done { .. }
    ));
    write(&stream, "stty size\n");
    read_until(&stream, "30 100\r\n");
    let kill = |request| ToMonitor::Kill {
        request,
        exec: exec(),
        signal: libc::SIGKILL,
    };
    assert!(matches!(container.ask(kill, &[]), FromMonitor::Done { .. }));
    assert_eq!(exec_exited(&container), ("t".to_owned(), 137));
    read_all(&stream);
    end(container);
}

#[test]
fn several_at_once() {
    let launcher = Launcher::new();
    let mut container = sleeper(&launcher);
    let mut streams = Vec::new();
    for number in 0..8 {
        let process = container.process(&["sh", "-c", &format!("read x; echo $x; exit {number}")]);
        let (stream, theirs) = pair();
        let options = ExecOptions {
            open_stdin: true,
            stream: Some((theirs, ALL)),
            ..Default::default()
        };
        let answer = container.exec(&number.to_string(), &process, options);
        assert!(
            matches!(answer, FromMonitor::ExecStarted { .. }),
            "{answer:?}"
        );
        streams.push(stream);
    }
    let status = container.ask(|request| ToMonitor::Status { request }, &[]);
    let FromMonitor::Status { execs, .. } = status else {
        panic!("{status:?}")
    };
    assert_eq!(execs.len(), 8);
    for (number, stream) in streams.iter().enumerate().rev() {
        write(stream, &format!("line {number}\n"));
        let exit_code = i32::try_from(number).unwrap();
        assert_eq!(exec_exited(&container), (number.to_string(), exit_code));
        assert_eq!(
            read_framed(stream).0,
            format!("line {number}\n").into_bytes()
        );
    }
    end(container);
}

#[test]
fn failures() {
    let launcher = Launcher::new();
    let mut container = sleeper(&launcher);
    for (program, expected) in [
        ("/no/such", Failure::NotFound),
        ("no-such", Failure::NotFound),
        ("/etc/passwd", Failure::NotExecutable),
    ] {
        let process = container.process(&[program]);
        match container.exec("f", &process, ExecOptions::default()) {
            FromMonitor::Failed { kind, .. } => assert_eq!(kind, expected, "{program}"),
            other => panic!("{other:?}"),
        }
    }
    let process = container.process(&["sleep", "1000"]);
    assert!(matches!(
        container.exec("same", &process, ExecOptions::default()),
        FromMonitor::ExecStarted { .. }
    ));
    assert!(matches!(
        container.exec("same", &process, ExecOptions::default()),
        FromMonitor::Failed {
            kind: Failure::Conflict,
            ..
        }
    ));
    let kill = |request| ToMonitor::Kill {
        request,
        exec: Some("nope".into()),
        signal: 9,
    };
    assert!(matches!(
        container.ask(kill, &[]),
        FromMonitor::Failed {
            kind: Failure::Conflict,
            ..
        }
    ));
    // The container's end is the exec's end too, and comes after it.
    container.kill(libc::SIGKILL);
    assert_eq!(exec_exited(&container), ("same".to_owned(), 137));
    assert_eq!(container.exit_code(), 137);
}

#[test]
fn background_process_of_an_exec_does_not_hold_it() {
    let launcher = Launcher::new();
    let mut container = sleeper(&launcher);
    let process = container.process(&["sh", "-c", "sleep 1000 & echo done"]);
    let (stream, theirs) = pair();
    let options = ExecOptions {
        stream: Some((theirs, OUTPUT)),
        ..Default::default()
    };
    container.exec("b", &process, options);
    assert_eq!(exec_exited(&container).1, 0);
    assert_eq!(read_framed(&stream).0, b"done\n");
    end(container);
}

#[test]
fn exec_shares_namespaces_and_group() {
    let launcher = Launcher::new();
    let mut container = sleeper(&launcher);
    let process = container.process(&["sleep", "1000"]);
    let answer = container.exec("n", &process, ExecOptions::default());
    let FromMonitor::ExecStarted { pid, .. } = answer else {
        panic!("{answer:?}")
    };
    for namespace in ["mnt", "net", "ipc", "uts", "pid", "cgroup"] {
        let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_eq!(of(pid), of(container.pid), "{namespace}");
    }
    let of = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(of(pid), of(container.pid));
    assert!(container.cgroup().processes().unwrap().contains(&pid));
    end(container);
}
