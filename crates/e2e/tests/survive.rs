//! kill -9 of daemon, launcher and monitors: containers go on where they can,
//! the state is true after a restart, and nothing leaks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use berth_e2e::{Engine, clients, eventually, leaks};
use rustix::process::{Pid, Signal, kill_process};

fn kill9(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Processes of one role, by name.
fn pids(engine: &Engine, name: &str) -> Vec<i32> {
    leaks::engine_processes(engine)
        .into_iter()
        .filter(|(_, comm)| comm.starts_with(name))
        .map(|(pid, _)| pid)
        .collect()
}

#[test]
fn containers_survive_the_daemon_and_no_line_is_lost() {
    let mut engine = Engine::start();
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "cc",
            "busybox",
            "sh",
            "-c",
            "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; usleep 2000; done; exit 12",
        ])
        .ok();
    let pid = engine.state("cc", "Pid");
    let started = engine.state("cc", "StartedAt");
    for _ in 0..3 {
        engine.kill();
        engine.launch();
        assert_eq!(engine.state("cc", "Pid"), pid);
        assert_eq!(engine.state("cc", "Status"), "running");
    }
    assert_eq!(engine.state("cc", "StartedAt"), started);
    // All that one does with a running container works with the new daemon.
    assert_eq!(engine.berth(&["exec", "cc", "echo", "in"]).ok(), "in");
    engine.berth(&["pause", "cc"]).ok();
    engine.berth(&["unpause", "cc"]).ok();
    let waiter = engine
        .command("berth")
        .args(["wait", "cc"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    engine.berth(&["exec", "cc", "touch", "/stop"]).ok();
    assert_eq!(
        String::from_utf8(waiter.wait_with_output().unwrap().stdout).unwrap(),
        "12\n"
    );
    let numbers: Vec<u64> = engine
        .berth(&["logs", "cc"])
        .ok()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert!(
        numbers.iter().copied().eq(1..=numbers.len() as u64),
        "lines are missing: {numbers:?}"
    );
    engine.berth(&["rm", "cc"]).ok();
    engine.assert_nothing_left();
}

#[test]
fn an_exit_while_the_daemon_is_away_is_known_afterwards() {
    let mut engine = Engine::start();
    let go = engine.dir().join("go");
    let bind = format!("{}:/host", engine.dir().display());
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "cc",
            "-v",
            &bind,
            "busybox",
            "sh",
            "-c",
            "until [ -e /host/go ]; do usleep 1000; done; echo last words; exit 42",
        ])
        .ok();
    engine
        .berth(&[
            "run",
            "-d",
            "--rm",
            "--name",
            "auto",
            "-v",
            &bind,
            "busybox",
            "sh",
            "-c",
            "until [ -e /host/go ]; do usleep 1000; done",
        ])
        .ok();
    engine.kill();
    std::fs::write(go, "").unwrap();
    eventually("the monitors ended", || {
        pids_of_monitors(&engine).is_empty().then_some(())
    });
    engine.launch();
    assert_eq!(engine.state("cc", "ExitCode"), "42");
    assert_eq!(engine.berth(&["logs", "cc"]).ok(), "last words");
    eventually("--rm is honoured", || {
        (engine.berth(&["ps", "-aq"]).ok().lines().count() == 1).then_some(())
    });
    engine.berth(&["start", "cc"]).ok();
    engine.berth(&["wait", "cc"]).ok();
    engine.berth(&["rm", "cc"]).ok();
    engine.assert_nothing_left();
}

/// The daemon may be down, so not through the rig's list.
fn pids_of_monitors(engine: &Engine) -> Vec<i32> {
    let mine = engine.dir().display().to_string();
    leaks::processes(&mine)
        .into_iter()
        .map(|(pid, _)| pid)
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| comm.starts_with("berth-monitor"))
        })
        .collect()
}

#[test]
fn containers_survive_the_launcher() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "cc",
            "busybox",
            "sh",
            "-c",
            "while :; do echo x; usleep 5000; done",
        ])
        .ok();
    for pid in pids(&engine, "berth-launcher") {
        kill9(pid);
    }
    assert_eq!(engine.berth(&["exec", "cc", "echo", "in"]).ok(), "in");
    // And new ones start, with a new launcher.
    eventually("a new launcher serves", || {
        (engine.berth(&["run", "--rm", "busybox", "true"]).code == 0).then_some(())
    });
    engine.berth(&["rm", "-f", "cc"]).ok();
    engine.assert_nothing_left();
}

#[test]
fn a_killed_monitor_ends_its_container_and_nothing_leaks() {
    let engine = Engine::start();
    engine
        .berth(&["run", "-d", "--name", "cc", "busybox", "sleep", "600"])
        .ok();
    engine
        .berth(&["run", "-d", "--name", "other", "busybox", "sleep", "600"])
        .ok();
    let pid: i32 = engine.state("cc", "Pid").parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let monitor: i32 = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill9(monitor);
    engine.until_state("cc", "Running", "false");
    eventually("its process is gone", || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    assert_ne!(engine.state("cc", "ExitCode"), "0");
    assert_eq!(engine.state("other", "Running"), "true");
    engine.berth(&["start", "cc"]).ok();
    assert_eq!(engine.berth(&["exec", "cc", "echo", "again"]).ok(), "again");
    engine.berth(&["rm", "-f", "cc", "other"]).ok();
    engine.assert_nothing_left();
}

#[test]
fn the_daemon_killed_at_any_moment_of_a_run() {
    let mut engine = Engine::start();
    // Each round kills a little later; the whole run takes about ten milliseconds.
    for round in 0..25 {
        let name = format!("round{round}");
        let child = engine
            .command("berth")
            .args(["run", "--name", &name, "busybox", "sh", "-c", "exit 3"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(round * 700));
        engine.kill();
        let _ = child.wait_with_output();
        engine.launch();
        let listed = engine
            .berth(&[
                "ps",
                "-a",
                "--filter",
                &format!("name=^{name}$"),
                "--format",
                "{{.State}}",
            ])
            .ok();
        match listed.as_str() {
            // Not yet made, or made and not yet started.
            "" | "created" => {}
            "running" | "exited" => {
                assert_eq!(engine.berth(&["wait", &name]).ok(), "3", "round {round}");
            }
            other => panic!("round {round}: {other}"),
        }
        engine.berth(&["rm", "-f", &name]);
    }
    assert_eq!(engine.berth(&["ps", "-aq"]).ok(), "");
    engine.assert_nothing_left();
}

#[test]
fn the_launcher_killed_at_any_moment_of_a_run() {
    let engine = Engine::start();
    for round in 0..15 {
        let child = engine
            .command("berth")
            .args(["run", "--rm", "busybox", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(round * 900));
        for pid in pids(&engine, "berth-launcher") {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        let _ = child.wait_with_output();
        eventually("the engine starts containers again", || {
            (engine.berth(&["run", "--rm", "busybox", "true"]).code == 0).then_some(())
        });
    }
    for id in engine.berth(&["ps", "-aq"]).ok().lines() {
        engine.berth(&["rm", "-f", id]).ok();
    }
    engine.assert_nothing_left();
}

#[test]
fn attached_clients_end_and_attach_again_when_the_daemon_dies() {
    let mut engine = Engine::start();
    for client in clients() {
        engine
            .client(
                client,
                &["run", "-d", "-i", "--name", "cc", "busybox", "cat"],
            )
            .ok();
        engine.kill();
        engine.launch();
        let mut attached = engine
            .command(client)
            .args(["attach", "cc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        attached
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"hello\n")
            .unwrap();
        let mut line = String::new();
        BufReader::new(attached.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "hello\n");
        engine.client(client, &["rm", "-f", "cc"]).ok();
        attached.wait().unwrap();
    }
    engine.assert_nothing_left();
}

#[test]
fn sigterm_leaves_the_containers() {
    let mut engine = Engine::start();
    engine
        .berth(&["run", "-d", "--name", "cc", "busybox", "sleep", "600"])
        .ok();
    engine.stop();
    engine.launch();
    assert_eq!(engine.state("cc", "Running"), "true");
    assert_eq!(
        engine
            .berth(&[
                "info",
                "-f",
                "{{.LiveRestoreEnabled}} {{.ContainersRunning}}"
            ])
            .ok(),
        "true 1"
    );
}

#[test]
fn the_daemon_killed_at_any_moment_of_a_stop_and_a_removal() {
    let mut engine = Engine::start();
    for round in 0..14u64 {
        let name = format!("round{round}");
        engine
            .berth(&["run", "-d", "--name", &name, "busybox", "sleep", "600"])
            .ok();
        let command: &[&str] = if round % 2 == 0 {
            &["rm", "-f"]
        } else {
            &["stop", "-t", "0"]
        };
        let child = engine
            .command("berth")
            .args(command)
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(round * 600));
        engine.kill();
        let _ = child.wait_with_output();
        engine.launch();
        let state = engine
            .berth(&[
                "ps",
                "-a",
                "--filter",
                &format!("name=^{name}$"),
                "--format",
                "{{.State}}",
            ])
            .ok();
        match state.as_str() {
            // Removed.
            "" => continue,
            "running" => assert_eq!(engine.berth(&["exec", &name, "echo", "in"]).ok(), "in"),
            "exited" => {
                engine.berth(&["start", &name]).ok();
            }
            // Begun and not ended: a second removal ends it.
            "removing" | "dead" => {}
            other => panic!("round {round}: {other}"),
        }
        engine.berth(&["rm", "-f", &name]).ok();
    }
    assert_eq!(engine.berth(&["ps", "-aq"]).ok(), "");
    engine.assert_nothing_left();
}

#[test]
fn a_monitor_killed_at_any_moment_of_a_run() {
    let engine = Engine::start();
    for round in 0..12u64 {
        let name = format!("round{round}");
        let child = engine
            .command("berth")
            .args(["run", "--name", &name, "busybox", "sleep", "600"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_micros(round * 1000));
        eventually("there was a monitor to kill", || {
            let monitors = pids(&engine, "berth-monitor");
            for &pid in &monitors {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
            (!monitors.is_empty()).then_some(())
        });
        assert_ne!(
            child.wait_with_output().unwrap().status.code(),
            Some(0),
            "round {round}"
        );
        engine.until_state(&name, "Running", "false");
        // It can be started again, and ended.
        engine.berth(&["start", &name]).ok();
        assert_eq!(engine.berth(&["exec", &name, "echo", "in"]).ok(), "in");
        engine.berth(&["rm", "-f", &name]).ok();
    }
    engine.assert_nothing_left();
}

#[test]
fn a_full_disk_is_an_error_and_not_a_wreck() {
    let dir = tempfile::tempdir().unwrap();
    let mut mount = std::process::Command::new("unshare");
    mount
        .args([
            "--mount",
            "--net",
            "sh",
            "-c",
            "ip link set lo up; mount -t tmpfs -o size=6m tmpfs \"$1\"; shift; exec \"$@\"",
            "sh",
        ])
        .arg(dir.path())
        .arg(berth_e2e::engine::bin_dir().join("berth"))
        .args([
            "daemon",
            "--ready-fd",
            "0",
            "--cgroup-parent",
            &format!("/berth-e2e-full-{}", std::process::id()),
        ])
        .arg("--host")
        .arg(format!("unix://{}/berth.sock", dir.path().display()))
        .arg("--data-root")
        .arg(dir.path().join("data"))
        .arg("--exec-root")
        .arg(dir.path().join("run"))
        .arg("--pidfile")
        .arg(dir.path().join("pid"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let (ready, theirs) = std::io::pipe().unwrap();
    let mut daemon = mount.stdin(Stdio::from(theirs)).spawn().unwrap();
    drop(mount);
    let mut byte = [0];
    std::io::Read::read_exact(&mut { ready }, &mut byte).unwrap();
    // The socket is on the mount that only the daemon's namespace has.
    let client = |args: &[&str], input: &[u8]| {
        let mut command = std::process::Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", daemon.id()))
            .arg(berth_e2e::engine::bin_dir().join("berth"))
            .args(args)
            .env(
                "DOCKER_HOST",
                format!("unix://{}/berth.sock", dir.path().display()),
            );
        berth_e2e::Run::new(&mut command, input)
    };
    let mut big = berth_e2e::image::busybox_rootfs();
    big.truncate(big.len() - 1024);
    let mut filler = tar::Header::new_gnu();
    filler.set_path("filler").unwrap();
    filler.set_mode(0o644);
    filler.set_size(8 << 20);
    filler.set_cksum();
    big.extend_from_slice(filler.as_bytes());
    big.extend(vec![7; 8 << 20]);
    big.extend([0; 1024]);
    client(&["import", "-", "big"], &big).fails(1, "No space left on device");
    assert_eq!(client(&["images", "-q"], b"").ok(), "");
    // What fits still works.
    client(
        &["import", "-", "small"],
        &berth_e2e::image::busybox_rootfs(),
    )
    .ok();
    assert_eq!(
        client(
            &["run", "--rm", "--network", "none", "small", "echo", "works"],
            b""
        )
        .ok(),
        "works"
    );
    let launcher = leaks::processes(&dir.path().display().to_string());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    for (pid, _) in launcher {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    let group = format!("berth-e2e-full-{}", std::process::id());
    eventually("its groups can be removed", || {
        let mut left = leaks::cgroups(&group);
        left.extend(
            leaks::hierarchies()
                .iter()
                .map(|dir| dir.join(&group))
                .filter(|dir| dir.exists()),
        );
        left.iter().for_each(|dir| drop(std::fs::remove_dir(dir)));
        left.is_empty().then_some(())
    });
}

#[test]
fn two_engines_leave_each_other_alone() {
    let first = Engine::start();
    first
        .berth(&["run", "-d", "--name", "mine", "busybox", "sleep", "600"])
        .ok();
    // Another data root, the same parent of control groups, no bridge.
    let dir = tempfile::tempdir().unwrap();
    let start = |bridge: &[&str]| {
        let mut command = std::process::Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", first.pid()))
            .arg(berth_e2e::engine::bin_dir().join("berth"))
            .args([
                "daemon",
                "--ready-fd",
                "0",
                "--cgroup-parent",
                first.cgroup(),
            ])
            .arg("--host")
            .arg(format!("unix://{}/berth.sock", dir.path().display()))
            .arg("--data-root")
            .arg(dir.path().join("data"))
            .arg("--exec-root")
            .arg(dir.path().join("run"))
            .arg("--pidfile")
            .arg(dir.path().join("pid"))
            .args(bridge)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let (mut ready, theirs) = std::io::pipe().unwrap();
        let child = command.stdin(Stdio::from(theirs)).spawn().unwrap();
        drop(command);
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut ready, &mut text).unwrap();
        (child, !text.is_empty())
    };
    let (child, serves) = start(&[]);
    assert!(!serves, "the bridge is the first engine's");
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        words.contains("belongs to another engine that is running"),
        "{words}"
    );
    let (mut child, serves) = start(&["--bridge", "none"]);
    assert!(serves);
    assert_eq!(
        first.berth(&["exec", "mine", "echo", "alive"]).ok(),
        "alive"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    for (pid, _) in leaks::processes(&dir.path().display().to_string()) {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
    first.berth(&["rm", "-f", "mine"]).ok();
}
