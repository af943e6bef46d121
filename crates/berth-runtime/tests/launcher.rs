//! The launcher itself.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use berth_monitor::client;
use berth_monitor::protocol::*;
use common::*;

#[test]
fn answers_and_is_set_apart() {
    let launcher = Launcher::new();
    let socket = launcher.connect();
    let FromLauncher::Hello {
        version,
        pid,
        build,
    } = launcher.hello(&socket)
    else {
        panic!("the launcher does not greet");
    };
    assert_eq!((version, pid), (VERSION, launcher.pid()));
    assert!(!build.is_empty());

    let proc = std::path::PathBuf::from(format!("/proc/{pid}"));
    assert_eq!(
        fs::read_to_string(proc.join("comm")).unwrap(),
        "berth-launcher\n"
    );
    // CVE-2019-5736: its program is a sealed copy, not the file on the host.
    let program = fs::read_link(proc.join("exe")).unwrap();
    assert!(
        program
            .to_string_lossy()
            .starts_with("/memfd:berth-runtime"),
        "{program:?}"
    );
    let error = fs::OpenOptions::new()
        .write(true)
        .open(proc.join("exe"))
        .unwrap_err();
    assert!(
        matches!(error.raw_os_error(), Some(libc::EPERM | libc::ETXTBSY)),
        "the program can be opened for writing: {error}"
    );
    // Not dumpable: its files in /proc belong to root whoever it runs as, and
    // its own session and mount namespace are set apart.
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    assert_eq!(fields[3], pid.to_string(), "session");
    assert_ne!(
        fs::read_link(proc.join("ns/mnt")).unwrap(),
        fs::read_link("/proc/self/ns/mnt").unwrap()
    );
    let socket = fs::metadata(launcher.exec_root().join(LAUNCHER_SOCKET)).unwrap();
    assert_eq!(
        (socket.permissions().mode() & 0o777, socket.uid()),
        (0o600, 0)
    );
    // Every descriptor but the standard ones is closed at an exec.
    for entry in fs::read_dir(proc.join("fdinfo")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().parse::<u32>().unwrap() > 2 {
            let info = fs::read_to_string(entry.path()).unwrap();
            let flags = info
                .lines()
                .find_map(|line| line.strip_prefix("flags:\t"))
                .unwrap();
            let flags = u32::from_str_radix(flags, 8).unwrap();
            assert_ne!(flags & libc::O_CLOEXEC as u32, 0, "{entry:?}");
        }
    }
}

#[test]
fn nonsense_does_not_stop_it() {
    let launcher = Launcher::new();
    let socket = launcher.connect();
    berth_sys::socket::send(&socket, b"not a message", &[]).unwrap();
    berth_sys::socket::send(&socket, br#"{"type":"start"}"#, &[]).unwrap();
    assert!(matches!(
        launcher.hello(&socket),
        FromLauncher::Hello { .. }
    ));

    // With a channel there is someone to tell.
    let (ours, theirs) = client::channel().unwrap();
    use std::os::fd::AsFd;
    berth_sys::socket::send(&socket, br#"{"type":"start"}"#, &[theirs.as_fd()]).unwrap();
    readable(&ours);
    let answer = client::receive_from_monitor(&ours).unwrap().unwrap();
    assert!(matches!(
        answer,
        FromMonitor::StartFailed {
            kind: Failure::Invalid,
            ..
        }
    ));
    drop(socket);
    assert!(matches!(
        launcher.hello(&launcher.connect()),
        FromLauncher::Hello { .. }
    ));
}

#[test]
fn stops_when_told() {
    let mut launcher = Launcher::new();
    client::send_to_launcher(launcher.connect(), &ToLauncher::Stop, &[]).unwrap();
    let pid = launcher.pid();
    eventually("the launcher ends", || (!is_alive(pid)).then_some(()));
    launcher.kill_ended();
}

#[test]
fn second_launcher_takes_over_in_the_namespace_of_the_first() {
    let mut launcher = Launcher::new();
    let namespace = fs::read_link(format!("/proc/{}/ns/mnt", launcher.pid())).unwrap();
    let before = launcher.connect();
    let mut old = launcher.replace();
    assert!(old.wait().unwrap().success());
    assert_eq!(
        fs::read_link(format!("/proc/{}/ns/mnt", launcher.pid())).unwrap(),
        namespace
    );
    // The connection to the old one is closed, a new one serves.
    readable(&before);
    assert!(client::receive_from_launcher(&before).unwrap().is_none());
    let FromLauncher::Hello { pid, .. } = launcher.hello(&launcher.connect()) else {
        panic!("the launcher does not greet");
    };
    assert_eq!(pid, launcher.pid());
}

#[test]
fn there_is_always_someone_to_connect_to() {
    let mut launcher = Launcher::new();
    let exec_root = launcher.exec_root();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let clients = std::thread::spawn(move || {
        let mut count = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            client::connect(&exec_root, LAUNCHER_SOCKET).unwrap();
            count += 1;
        }
        count
    });
    for _ in 0..3 {
        assert!(launcher.replace().wait().unwrap().success());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(clients.join().unwrap() > 0);
}

#[test]
fn new_launcher_after_a_killed_one() {
    let mut launcher = Launcher::new();
    launcher.kill();
    assert!(client::connect(&launcher.exec_root(), LAUNCHER_SOCKET).is_err());
    launcher.restart();
    assert!(matches!(
        launcher.hello(&launcher.connect()),
        FromLauncher::Hello { .. }
    ));
}
