//! `run` in all its forms, with our client and the stock one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::process::Stdio;

use berth_e2e::{Engine, clients, eventually};

#[test]
fn attached_output_and_exit_code() {
    let engine = Engine::start();
    for client in clients() {
        let run = engine.client(
            client,
            &[
                "run",
                "--rm",
                "busybox",
                "sh",
                "-c",
                "echo out; echo err >&2; exit 7",
            ],
        );
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr.as_str()),
            (7, "out\n", "err\n"),
            "{client}"
        );
    }
    engine.assert_nothing_left();
}

/// What `make bench` shows; each part of the way has its say.
#[test]
fn a_start_tells_where_its_time_went() {
    let engine = Engine::start();
    engine.berth(&["run", "--rm", "busybox", "true"]).ok();
    let log = engine.log();
    let (_, steps) = log.split_once("start steps: ").expect("logged at debug");
    for part in ["engine: ", "monitor: ", "runtime: ", "child: mounts="] {
        assert!(steps.contains(part), "{part} is not in {steps}");
    }
}

#[test]
fn killed_by_a_signal_is_128_and_its_number() {
    let engine = Engine::start();
    for client in clients() {
        let run = engine.client(
            client,
            &["run", "--rm", "--init", "busybox", "sh", "-c", "kill -9 $$"],
        );
        assert_eq!(run.code, 137, "{run:?}");
    }
}

#[test]
fn piped_stdin_reaches_the_program_and_ends() {
    let engine = Engine::start();
    let input: Vec<u8> = (0..200_000u32)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    for client in clients() {
        let run = engine.client_with(client, &["run", "--rm", "-i", "busybox", "cat"], &input);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(
            run.stdout.as_bytes() == input,
            "{client}: {} of {} bytes came back",
            run.stdout.len(),
            input.len()
        );
        let run = engine.client_with(client, &["run", "--rm", "busybox", "cat"], b"not asked for");
        assert_eq!(
            (run.code, run.stdout.as_str()),
            (0, ""),
            "without -i there is no stdin"
        );
    }
}

#[test]
fn detached_prints_the_id_and_wait_gives_the_code() {
    let engine = Engine::start();
    for client in clients() {
        let id = engine
            .client(
                client,
                &["run", "-d", "busybox", "sh", "-c", "echo hi; exit 3"],
            )
            .ok();
        assert_eq!(id.len(), 64);
        assert_eq!(engine.client(client, &["wait", &id]).ok(), "3");
        assert_eq!(engine.client(client, &["logs", &id]).ok(), "hi");
        engine.client(client, &["rm", &id]).ok();
    }
    engine.assert_nothing_left();
}

#[test]
fn a_terminal_with_its_size() {
    let engine = Engine::start();
    for client in clients() {
        let (mut master, slave) = berth_e2e::engine::terminal();
        let size = rustix::termios::Winsize {
            ws_row: 31,
            ws_col: 97,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&slave, size).unwrap();
        let before = rustix::termios::tcgetattr(&slave).unwrap();
        let mut child = engine
            .command(client)
            // The size may arrive a moment after the start: docker sends it then.
            .args(["run", "--rm", "-it", "busybox", "sh", "-c", "until [ \"$(stty size)\" = '31 97' ]; do usleep 1000; done; tty; stty size; read x; echo got:$x"])
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::from(slave.try_clone().unwrap()))
            .stderr(Stdio::from(slave.try_clone().unwrap()))
            .spawn()
            .unwrap();
        let mut seen = String::new();
        let mut buffer = [0; 4096];
        while !seen.contains("31 97") {
            let count = master.read(&mut buffer).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        master.write_all(b"word\r").unwrap();
        while !seen.contains("got:word") {
            let count = master.read(&mut buffer).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        assert!(
            seen.contains("/dev/pts/0") || seen.contains("/dev/console"),
            "{seen}"
        );
        assert!(child.wait().unwrap().success());
        let after = rustix::termios::tcgetattr(&slave).unwrap();
        assert_eq!(
            format!("{:?}", before.local_modes),
            format!("{:?}", after.local_modes),
            "{client} restores the terminal"
        );
    }
    engine.assert_nothing_left();
}

#[test]
fn start_attached_again() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(
                client,
                &[
                    "create",
                    "--name",
                    "again",
                    "-i",
                    "busybox",
                    "sh",
                    "-c",
                    "read x; echo $x; exit 4",
                ],
            )
            .ok();
        for word in ["one", "two"] {
            let run = engine.client_with(
                client,
                &["start", "-a", "-i", "again"],
                format!("{word}\n").as_bytes(),
            );
            assert_eq!((run.code, run.stdout.trim()), (4, word), "{run:?}");
        }
        engine.client(client, &["rm", "again"]).ok();
    }
}

#[test]
fn environment_user_directory_and_hostname() {
    let engine = Engine::start();
    for client in clients() {
        let run = |args: &[&str]| {
            engine
                .client(client, &[&["run", "--rm"], args].concat())
                .ok()
        };
        assert_eq!(
            run(&["-e", "A=b c", "busybox", "sh", "-c", "echo $A $HOME $PATH"]),
            "b c /root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        );
        assert_eq!(
            run(&[
                "-u",
                "app",
                "busybox",
                "sh",
                "-c",
                "id -u; id -G; echo $HOME"
            ]),
            "1000\n1000 1234\n/home"
        );
        assert_eq!(
            run(&["-u", "77:88", "--group-add", "extra", "busybox", "id"]),
            "uid=77 gid=88 groups=88,1234(extra)"
        );
        assert_eq!(run(&["-w", "/made/here", "busybox", "pwd"]), "/made/here");
        assert_eq!(
            run(&[
                "-h",
                "box",
                "busybox",
                "sh",
                "-c",
                "hostname; cat /etc/hostname; grep -c box /etc/hosts"
            ]),
            "box\nbox\n1"
        );
        assert_eq!(run(&["--entrypoint", "echo", "busybox", "entry"]), "entry");
    }
}

#[test]
fn hello_world_needs_no_network() {
    let engine = Engine::start_empty(&[]);
    for client in clients() {
        let run = engine.client(client, &["run", "--rm", "hello-world"]);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stdout.contains("Hello from"), "{run:?}");
    }
    engine.assert_nothing_left();
}

#[test]
fn binds_and_tmpfs() {
    let engine = Engine::start();
    let shared = engine.dir().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host").unwrap();
    let bind = format!("{}:/in", shared.display());
    for client in clients() {
        let run = |args: &[&str]| engine.client(client, &[&["run", "--rm"], args].concat());
        assert_eq!(
            run(&["-v", &bind, "busybox", "cat", "/in/file"]).ok(),
            "from the host"
        );
        run(&["-v", &format!("{bind}:ro"), "busybox", "touch", "/in/x"])
            .fails(1, "Read-only file system");
        run(&["-v", &bind, "busybox", "touch", "/in/from-inside"]).ok();
        assert!(shared.join("from-inside").exists());
        let df = run(&[
            "--tmpfs",
            "/scratch:size=1m,mode=700",
            "busybox",
            "sh",
            "-c",
            "grep ' /scratch ' /proc/mounts; stat -c %a /scratch",
        ])
        .ok();
        assert!(
            df.contains("tmpfs") && df.contains("size=1024k") && df.ends_with("700"),
            "{df}"
        );
        run(&[
            "--mount",
            "type=bind,src=/no/such/path,dst=/x",
            "busybox",
            "true",
        ])
        .fails(125, "bind source path does not exist: /no/such/path");
    }
}

#[test]
fn many_at_once() {
    let engine = Engine::start();
    let children: Vec<_> = (0..24)
        .map(|n| {
            engine
                .command("berth")
                .args([
                    "run",
                    "--rm",
                    "busybox",
                    "sh",
                    "-c",
                    &format!("echo {n}; exit {n}"),
                ])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(n as i32));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{n}\n"));
    }
    engine.assert_nothing_left();
}

#[test]
fn detach_keys_leave_the_container_running() {
    let engine = Engine::start();
    let (mut master, slave) = berth_e2e::engine::terminal();
    let mut child = engine
        .command("berth")
        .args(["run", "-it", "--name", "kept", "busybox", "cat"])
        .stdin(Stdio::from(slave.try_clone().unwrap()))
        .stdout(Stdio::from(slave.try_clone().unwrap()))
        .stderr(Stdio::from(slave))
        .spawn()
        .unwrap();
    eventually("it runs", || {
        (engine.berth(&["ps", "-q"]).ok().len() == 12).then_some(())
    });
    master.write_all(b"\x10\x11").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(engine.state("kept", "Running"), "true");
    engine.berth(&["rm", "-f", "kept"]).ok();
    engine.assert_nothing_left();
}
