//! Containers through launcher and monitor: output, log, attach, exec, end.

mod common;

use std::fs;
use std::net::Shutdown;

use berth_monitor::protocol::*;
use common::*;
use serde_json::json;

#[test]
fn runs_and_logs_and_leaves_nothing() {
    let launcher = Launcher::new();
    let mut container = launcher.shell("echo out; echo err >&2; printf rest; exit 3");
    container.run(&launcher);
    let record = container.wait();
    assert_eq!((record.exit_code, record.oom_killed), (3, false));
    assert!(record.started_at < record.finished_at, "{record:?}");
    let log = container.log();
    let of = |stream: &str| {
        log.iter()
            .filter(|(s, _)| s == stream)
            .map(|(_, text)| text.as_str())
            .collect::<String>()
    };
    assert_eq!(
        (of("stdout").as_str(), of("stderr").as_str()),
        ("out\nrest", "err\n")
    );
}

#[test]
fn is_a_container() {
    let launcher = Launcher::new();
    let mut container = launcher.shell(
        "echo $$; hostname; cat /proc/1/comm; ls /; touch /written; id -u; \
         grep -E '^(SigBlk|SigIgn|CapEff|Seccomp):' /proc/self/status; ls /proc/self/fd",
    );
    let stream = container.stream(OUTPUT);
    container.run(&launcher);
    let (stdout, stderr) = read_framed(&stream);
    assert_eq!(
        container.exit_code(),
        0,
        "{}",
        String::from_utf8_lossy(&stderr)
    );
    let text = String::from_utf8(stdout).unwrap();
    assert!(text.starts_with("1\nberth\nsh\n"), "{text}");
    // Signals the monitor ignores or blocks are as programs expect them.
    assert!(text.contains("SigBlk:\t0000000000000000\n"), "{text}");
    assert!(text.contains("SigIgn:\t0000000000000000\n"), "{text}");
    // CVE-2024-21626: nothing but the standard descriptors (3 is ls's own).
    assert!(text.ends_with("\n0\n1\n2\n3\n"), "{text}");
    // What it wrote is in its upper directory, not in the layer.
    assert!(container.start.root.upper.join("written").exists());
    assert!(!launcher.dir.path().join("layer/written").exists());
}

#[test]
fn exit_codes() {
    let launcher = Launcher::new();
    for (command, code) in [
        ("exit 0", 0),
        ("exit 255", 255),
        ("kill -9 $$; sleep 9", 137),
    ] {
        // Process 1 of a namespace cannot kill itself; a child of it can.
        let command = format!("sh -c '{command}'");
        let mut container = launcher.container(&["sh", "-c", &format!("{command}; exit $?")]);
        container.run(&launcher);
        assert_eq!(container.exit_code(), code, "{command}");
    }
    let mut container = launcher.container(&["sleep", "1000"]);
    container.run(&launcher);
    container.kill(libc::SIGKILL);
    assert_eq!(container.exit_code(), 137);
}

#[test]
fn what_cannot_start_leaves_nothing() {
    let launcher = Launcher::new();
    let mut missing = launcher.container(&["/no/such/program"]);
    let (kind, message) = missing.fail(&launcher);
    assert_eq!(kind, Failure::NotFound, "{message}");
    assert!(message.contains("no such file or directory"), "{message}");

    let (kind, message) = launcher.container(&["no-such-program"]).fail(&launcher);
    assert_eq!(kind, Failure::NotFound, "{message}");
    assert!(
        message.contains("executable file not found in $PATH"),
        "{message}"
    );

    let (kind, message) = launcher.container(&["/etc/passwd"]).fail(&launcher);
    assert_eq!(kind, Failure::NotExecutable, "{message}");

    let mut bad = launcher.container(&["true"]);
    bad.config = json!({ "ociVersion": 7 });
    assert_eq!(bad.fail(&launcher).0, Failure::Invalid);

    let mut bad = launcher.container(&["true"]);
    bad.start.root.upper = "/no/such/upper".into();
    let (kind, message) = bad.fail(&launcher);
    assert_eq!(kind, Failure::System);
    assert!(message.contains("/no/such/upper"), "{message}");

    let mut bad = launcher.container(&["true"]);
    bad.start.log = Log::JsonFile {
        path: "/no/such/log".into(),
        max_size: 0,
        max_files: 1,
        compress: false,
        attributes: Default::default(),
    };
    assert_eq!(bad.fail(&launcher).0, Failure::System);
    // The launcher goes on.
    let mut good = launcher.shell("exit 4");
    good.run(&launcher);
    assert_eq!(good.exit_code(), 4);
}

#[test]
fn same_container_does_not_start_twice() {
    let launcher = Launcher::new();
    let mut first = launcher.container(&["sleep", "1000"]);
    first.run(&launcher);
    let mut second = launcher.container(&["true"]);
    second.start = Start {
        attach: Vec::new(),
        bound: false,
        trees: Vec::new(),
        has_tree: false,
        ..first.start.clone()
    };
    second.send(&launcher.connect());
    let answer = second.receive();
    assert!(
        matches!(
            answer,
            Some(FromMonitor::StartFailed {
                kind: Failure::Conflict,
                ..
            })
        ),
        "{answer:?}"
    );
    first.kill(libc::SIGKILL);
    assert_eq!(first.exit_code(), 137);
}

#[test]
fn attached_input_with_half_close() {
    let launcher = Launcher::new();
    let mut container = launcher.container(&["cat"]).stdin(true);
    let stream = container.stream(ALL);
    container.run(&launcher);
    write(&stream, "through\n");
    read_until(&stream, "through\n");
    write(&stream, "and the rest");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_framed(&stream).0, b"and the rest");
    assert_eq!(container.exit_code(), 0);
}

#[test]
fn much_data_both_ways() {
    let launcher = Launcher::new();
    let mut container = launcher.container(&["cat"]).stdin(true);
    container.start.log = Log::None;
    let stream = container.stream(ALL);
    container.run(&launcher);
    let mut data = vec![0u8; 5_000_000];
    rustix::rand::getrandom(&mut data[..256], rustix::rand::GetRandomFlags::empty()).unwrap();
    for index in 256..data.len() {
        data[index] = data[index - 256].wrapping_mul(31).wrapping_add(index as u8);
    }
    let sender = stream.try_clone().unwrap();
    let copy = data.clone();
    let writer = std::thread::spawn(move || {
        std::io::Write::write_all(&mut &sender, &copy).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let (stdout, _) = read_framed(&stream);
    writer.join().unwrap();
    assert!(stdout == data, "{} of {} bytes", stdout.len(), data.len());
    assert_eq!(container.exit_code(), 0);
}

#[test]
fn stdin_stays_open_for_the_next_client_unless_once() {
    let launcher = Launcher::new();
    let mut container = launcher.container(&["cat"]).stdin(false);
    let first = container.stream(ALL);
    container.run(&launcher);
    write(&first, "one\n");
    read_until(&first, "one\n");
    // As with Docker, its end of input detaches the client.
    first.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&first).is_empty());

    let (second, theirs) = pair();
    let answer = container.ask(
        |request| ToMonitor::Attach {
            request,
            attach: ALL,
        },
        &[&theirs],
    );
    assert!(matches!(answer, FromMonitor::Done { .. }));
    drop(theirs);
    write(&second, "two\n");
    read_until(&second, "two\n");
    container.kill(libc::SIGKILL);
    assert_eq!(container.exit_code(), 137);
    assert_eq!(container.log().len(), 2);
}

#[test]
fn client_that_leaves_or_does_not_read() {
    let launcher = Launcher::new();
    let mut container = launcher.shell("read go; seq 1 400000; echo end >&2");
    container.start.open_stdin = true;
    let leaver = container.stream(OUTPUT);
    let slow = container.stream(ALL);
    let quick = container.stream(Attach {
        stdout: false,
        ..OUTPUT
    });
    container.run(&launcher);
    drop(leaver);
    write(&slow, "go\n");
    // More than pipe, buffer and socket hold: the program waits for the one
    // that does not read, as with Docker.
    let monitor = container.monitor_pid();
    let cpu = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let wchan = |pid: u32| {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap()
            .contains(") S")
    };
    eventually("program and monitor wait", || {
        let before = cpu(monitor);
        std::thread::sleep(std::time::Duration::from_millis(100));
        (cpu(monitor) == before && wchan(monitor)).then_some(())
    });
    assert!(is_alive(container.pid));
    let (stdout, stderr) = read_framed(&slow);
    assert!(stdout.ends_with(b"399999\n400000\n"));
    assert_eq!(stdout.iter().filter(|&&b| b == b'\n').count(), 400_000);
    assert_eq!(stderr, b"end\n");
    assert_eq!(read_framed(&quick), (Vec::new(), b"end\n".to_vec()));
    assert_eq!(container.exit_code(), 0);
    assert_eq!(container.log().len(), 400_001);
}

#[test]
fn stuck_client_does_not_hold_up_the_end() {
    let launcher = Launcher::new();
    let mut container = launcher.shell("seq 1 150000");
    let stuck = container.stream(OUTPUT);
    container.run(&launcher);
    assert_eq!(container.exit_code(), 0);
    assert_eq!(container.log().len(), 150_000);
    // And it still gets everything when it reads.
    assert!(read_framed(&stuck).0.ends_with(b"150000\n"));
}

#[test]
fn terminal() {
    let launcher = Launcher::new();
    let mut container = launcher.container(&["sh"]).tty().stdin(true);
    container.start.console_size = (91, 37);
    let stream = container.stream(ALL);
    container.run(&launcher);
    write(&stream, "stty size; tty\n");
    let text = read_until(&stream, "/dev/");
    assert!(text.contains("37 91\r\n"), "{text:?}");
    let resize = |request| ToMonitor::Resize {
        request,
        exec: None,
        width: 120,
        height: 50,
    };
    assert!(matches!(
        container.ask(resize, &[]),
        FromMonitor::Done { .. }
    ));
    write(&stream, "stty size\n");
    read_until(&stream, "50 120\r\n");
    write(&stream, "exit 5\n");
    read_all(&stream);
    assert_eq!(container.exit_code(), 5);
    assert!(
        container
            .log()
            .iter()
            .any(|(stream, text)| stream == "stdout" && text == "50 120\r\n")
    );
}

#[test]
fn resize_needs_a_terminal() {
    let launcher = Launcher::new();
    let mut container = launcher.container(&["sleep", "1000"]);
    container.run(&launcher);
    let resize = |request| ToMonitor::Resize {
        request,
        exec: None,
        width: 1,
        height: 1,
    };
    assert!(matches!(
        container.ask(resize, &[]),
        FromMonitor::Failed {
            kind: Failure::Conflict,
            ..
        }
    ));
    let status = container.ask(|request| ToMonitor::Status { request }, &[]);
    let FromMonitor::Status {
        version,
        pid,
        execs,
        exit,
        ..
    } = status
    else {
        panic!()
    };
    assert_eq!(
        (version, pid, execs.len(), exit),
        (VERSION, container.pid, 0, None)
    );
    let answer = container.ask(
        |request| ToMonitor::Kill {
            request,
            exec: None,
            signal: 99,
        },
        &[],
    );
    assert!(
        matches!(
            answer,
            FromMonitor::Failed {
                kind: Failure::Invalid,
                ..
            }
        ),
        "{answer:?}"
    );
    let answer = container.ask(|request| ToMonitor::KillAll { request }, &[]);
    assert!(matches!(answer, FromMonitor::Done { .. }), "{answer:?}");
    assert_eq!(container.exit_code(), 137);
}

#[test]
fn monitor_keeps_only_what_it_needs_and_ignores_signals() {
    let launcher = Launcher::new();
    let bystander = launcher.connect();
    let mut container = launcher.container(&["sleep", "1000"]);
    container.run(&launcher);
    let monitor = container.monitor_pid();
    assert_eq!(
        fs::read_to_string(format!("/proc/{monitor}/comm")).unwrap(),
        "berth-monitor\n"
    );
    // Channel, its own socket, lock, signals, pipes, pidfd, log: none of the
    // launcher's sockets, layers or namespaces.
    let links: Vec<String> = fs::read_dir(format!("/proc/{monitor}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|link| link.display().to_string())
        .collect();
    let sockets = links
        .iter()
        .filter(|link| link.starts_with("socket:"))
        .count();
    // Channel, listener, and the connection that asked for the pid (if it has
    // not been noticed as closed yet).
    assert!(sockets <= 3, "{links:?}");
    for link in &links {
        assert!(
            !link.contains("/layer") && !link.contains("/upper"),
            "{link}"
        );
    }
    for signal in [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGPIPE,
    ] {
        let pid = rustix::process::Pid::from_raw(monitor as i32).unwrap();
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
    let status = container.ask(|request| ToMonitor::Status { request }, &[]);
    assert!(matches!(status, FromMonitor::Status { .. }));
    container.kill(libc::SIGKILL);
    container.wait();
    drop(bystander);
}

#[test]
fn log_has_dockers_form_and_rotates() {
    let launcher = Launcher::new();
    let mut container = launcher.shell("for i in 1 2 3 4 5 6; do echo \"<$i>\"; sleep 0.05; done");
    container.start.log = Log::JsonFile {
        path: container.log.clone(),
        max_size: 150,
        max_files: 2,
        compress: false,
        attributes: [("a".to_owned(), "b".to_owned())].into(),
    };
    container.run(&launcher);
    assert_eq!(container.exit_code(), 0);
    let current = fs::read_to_string(&container.log).unwrap();
    let line = current.lines().next().unwrap();
    assert!(line.starts_with(r#"{"log":"\u003c"#), "{line}");
    assert!(
        line.contains(r#"\u003e\n","stream":"stdout","attrs":{"a":"b"},"time":"2"#),
        "{line}"
    );
    let mut rotated = container.log.clone().into_os_string();
    rotated.push(".1");
    assert!(fs::metadata(rotated).unwrap().len() >= 150);
}

#[test]
fn memory_limit_kills_and_is_told() {
    let launcher = Launcher::new();
    let mut container = launcher.shell("x=$(head -c 100000000 /dev/zero | tr '\\0' a); echo $?");
    container.config["linux"]["resources"] =
        json!({ "memory": { "limit": 20_000_000, "swap": 20_000_000 } });
    container.run(&launcher);
    let record = container.wait();
    assert!(record.oom_killed, "{record:?}");
}
