//! Processes killed with -9 at various points: what goes on, goes on; what
//! ends leaves nothing.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used)]

mod common;

use berth_cgroup::Host;
use berth_monitor::client;
use berth_monitor::protocol::*;
use berth_monitor::sweep::sweep;
use common::*;
use rustix::process::{Pid, Signal, kill_process};

fn kill(pid: u32) {
    kill_process(
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
}

#[test]
fn engine_goes_and_comes_back() {
    let launcher = Launcher::new();
    let mut container = launcher
        .shell(
            "i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); sleep 0.005; done; read x; exit 9",
        )
        .stdin(false);
    container.run(&launcher);
    // The engine is gone: its connections close.
    container.channel = None;
    container.reconnect();
    let status = container.ask(|request| ToMonitor::Status { request }, &[]);
    assert!(matches!(status, FromMonitor::Status { pid, .. } if pid == container.pid));
    eventually("the log goes on without an engine", || {
        (container.log().len() == 200).then_some(())
    });
    let lines: Vec<String> = container.log().into_iter().map(|(_, text)| text).collect();
    let expected: Vec<String> = (0..200).map(|number| format!("{number}\n")).collect();
    assert_eq!(lines, expected);
    let (stream, theirs) = pair();
    container.ask(
        |request| ToMonitor::Attach {
            request,
            attach: ALL,
        },
        &[&theirs],
    );
    write(&stream, "go\n");
    assert_eq!(container.exit_code(), 9);
}

#[test]
fn exit_while_no_engine_is_there_is_on_record() {
    let launcher = Launcher::new();
    let mut container = launcher.shell("exit 6");
    container.run(&launcher);
    container.channel = None;
    let record = eventually("the record", || {
        client::read_exit_record(&container.start.state_dir).unwrap()
    });
    assert_eq!(record.exit_code, 6);
    eventually("the run directory is gone", || {
        (!container.start.run_dir.exists()).then_some(())
    });
    container.assert_gone();
}

#[test]
fn killed_launcher_leaves_containers_alone() {
    let mut launcher = Launcher::new();
    let mut container = launcher
        .shell("echo before; read x; echo after; exit 8")
        .stdin(false);
    let stream = container.stream(ALL);
    container.run(&launcher);
    read_until(&stream, "before\n");
    launcher.kill();
    write(&stream, "go\n");
    read_until(&stream, "after\n");
    assert_eq!(container.exit_code(), 8);
    // And one started by its successor.
    launcher.restart();
    let mut next = launcher.shell("exit 2");
    next.run(&launcher);
    assert_eq!(next.exit_code(), 2);
}

#[test]
fn second_launcher_while_containers_run() {
    let mut launcher = Launcher::new();
    let mut old = launcher.container(&["sleep", "1000"]);
    old.run(&launcher);
    assert!(launcher.replace().wait().unwrap().success());
    let mut new = launcher.shell("exit 1");
    new.run(&launcher);
    assert_eq!(new.exit_code(), 1);
    old.kill(libc::SIGKILL);
    assert_eq!(old.exit_code(), 137);
}

#[test]
fn start_sent_before_the_launcher_is_replaced_is_served() {
    let mut launcher = Launcher::new();
    let socket = launcher.connect();
    let mut containers: Vec<Container> = (0..5).map(|_| launcher.shell("exit 3")).collect();
    for container in &mut containers {
        container.send(&socket);
    }
    assert!(launcher.replace().wait().unwrap().success());
    for container in &containers {
        assert!(matches!(
            container.receive(),
            Some(FromMonitor::Started { .. })
        ));
        assert_eq!(container.exit_code(), 3);
    }
}

#[test]
fn killed_monitor_is_swept() {
    let launcher = Launcher::new();
    let host = Host::detect().unwrap();
    let mut container = launcher.shell("sleep 1000 & sleep 1000");
    container.run(&launcher);
    let sweep_it =
        |container: &Container| sweep(&host, &container.start.cgroup, &container.start.run_dir);
    // Not while it lives.
    let error = sweep_it(&container).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(is_alive(container.pid));

    kill(container.monitor_pid());
    assert!(container.receive().is_none(), "closes without an exit");
    assert!(client::connect(&container.start.run_dir, MONITOR_SOCKET).is_err());
    eventually("the lock is free", || sweep_it(&container).ok());
    container.assert_gone();
    eventually("the container ends", || {
        (!is_alive(container.pid)).then_some(())
    });
    sweep_it(&container).unwrap();
}

#[test]
fn start_after_a_killed_monitor_sweeps_by_itself() {
    let launcher = Launcher::new();
    let mut first = launcher.container(&["sleep", "1000"]);
    first.run(&launcher);
    let first_pid = first.pid;
    kill(first.monitor_pid());
    assert!(first.receive().is_none());
    let mut second = launcher.shell("exit 5");
    second.start = first.start.clone();
    second.run(&launcher);
    eventually("the container ends", || {
        (!is_alive(first_pid)).then_some(())
    });
    assert_eq!(second.exit_code(), 5);
}

#[test]
fn killed_at_any_moment_of_the_start() {
    let launcher = Launcher::new();
    let host = Host::detect().unwrap();
    let socket = launcher.connect();
    for delay in 0..30 {
        let mut container = launcher.container(&["sleep", "1000"]);
        container.send(&socket);
        // The only child of the launcher is the newest monitor.
        let children = format!("/proc/{0}/task/{0}/children", launcher.pid());
        let monitor: u32 = eventually("a monitor", || {
            std::fs::read_to_string(&children)
                .unwrap()
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        });
        std::thread::sleep(std::time::Duration::from_micros(delay * 300));
        kill(monitor);
        while container.receive().is_some() {}
        eventually("it can be swept", || {
            sweep(&host, &container.start.cgroup, &container.start.run_dir).ok()
        });
        container.assert_gone();
        eventually("the monitor is reaped", || {
            std::fs::read_to_string(&children)
                .unwrap()
                .is_empty()
                .then_some(())
        });
    }
    assert!(matches!(
        launcher.hello(&socket),
        FromLauncher::Hello { .. }
    ));
}

#[test]
fn many_containers_start_and_end_together() {
    let launcher = Launcher::new();
    let socket = launcher.connect();
    let mut containers: Vec<Container> = (0..20)
        .map(|number| launcher.shell(&format!("echo {number}; exit {number}")))
        .collect();
    for container in &mut containers {
        container.send(&socket);
    }
    for (number, container) in containers.iter().enumerate() {
        assert!(matches!(
            container.receive(),
            Some(FromMonitor::Started { .. })
        ));
        assert_eq!(container.exit_code(), i32::try_from(number).unwrap());
        assert_eq!(
            container.log(),
            [("stdout".to_owned(), format!("{number}\n"))]
        );
    }
}

#[test]
fn host_process_namespace_is_cleared_at_the_end() {
    let launcher = Launcher::new();
    let mut container = launcher.shell("sleep 1000 & sleep 1000 & echo started; exit 0");
    let namespaces = container.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    container.run(&launcher);
    assert_eq!(container.exit_code(), 0);
}
