//! `logs`: following, ends, times, and what a terminal makes of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use berth_e2e::{Engine, clients, eventually};

#[test]
fn follow_while_it_runs() {
    let engine = Engine::start();
    for client in clients() {
        engine.client(client, &["run", "-d", "-i", "--name", "cc", "busybox", "sh", "-c", "echo first; while [ ! -e /go ]; do usleep 1000; done; for i in $(seq 500); do echo line $i; done; exit 1"]).ok();
        let mut follower = engine
            .command(client)
            .args(["logs", "-f", "cc"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "first");
        engine.client(client, &["exec", "cc", "touch", "/go"]).ok();
        for n in 1..=500 {
            assert_eq!(
                lines.next().unwrap().unwrap(),
                format!("line {n}"),
                "{client}"
            );
        }
        assert!(lines.next().is_none(), "the log ends with the container");
        assert!(follower.wait().unwrap().success());
        engine.client(client, &["rm", "cc"]).ok();
    }
}

#[test]
fn tail_since_until_and_timestamps() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run",
            "--name",
            "cc",
            "busybox",
            "sh",
            "-c",
            "echo one; echo err >&2; usleep 20000; echo two; usleep 20000; echo three",
        ])
        .ok();
    for client in clients() {
        assert_eq!(
            engine.client(client, &["logs", "--tail", "2", "cc"]).ok(),
            "two\nthree"
        );
        assert_eq!(
            engine.client(client, &["logs", "--tail", "0", "cc"]).ok(),
            ""
        );
        let run = engine.client(client, &["logs", "cc"]);
        assert_eq!(
            (run.stdout.as_str(), run.stderr.as_str()),
            ("one\ntwo\nthree\n", "err\n")
        );
        let stamped = engine.client(client, &["logs", "-t", "cc"]).ok();
        let times: Vec<_> = stamped
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .collect();
        assert_eq!(
            times.iter().map(|(_, text)| *text).collect::<Vec<_>>(),
            ["one", "two", "three"]
        );
        let second = times[1].0;
        assert_eq!(
            engine
                .client(client, &["logs", "--since", second, "cc"])
                .ok(),
            "two\nthree",
            "{second}"
        );
        assert_eq!(
            engine
                .client(client, &["logs", "--until", times[0].0, "cc"])
                .ok()
                .lines()
                .next(),
            Some("one")
        );
    }
}

#[test]
fn the_file_is_dockers_json() {
    let engine = Engine::start();
    let id = engine
        .berth(&[
            "run",
            "-d",
            "busybox",
            "printf",
            "a <b> & \"c\"\\nno newline",
        ])
        .ok();
    engine.berth(&["wait", &id]).ok();
    let path = engine.berth(&["inspect", "-f", "{{.LogPath}}", &id]).ok();
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["log"], "a <b> & \"c\"\n");
    assert_eq!(lines[0]["stream"], "stdout");
    assert_eq!(lines[1]["log"], "no newline");
    assert!(lines[0]["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn rotation_keeps_the_newest() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run",
            "--name",
            "cc",
            "--log-opt",
            "max-size=10k",
            "--log-opt",
            "max-file=3",
            "busybox",
            "seq",
            "1",
            "2000",
        ])
        .ok();
    let path = engine.berth(&["inspect", "-f", "{{.LogPath}}", "cc"]).ok();
    let dir = std::path::Path::new(&path).parent().unwrap();
    let files = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains("-json.log"))
        .count();
    assert_eq!(files, 3);
    let text = engine.berth(&["logs", "cc"]).ok();
    let numbers: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(*numbers.last().unwrap(), 2000);
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "no gap in what is kept"
    );
}

#[test]
fn a_terminal_has_one_stream() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(
                client,
                &[
                    "run",
                    "-d",
                    "-t",
                    "--name",
                    "cc",
                    "busybox",
                    "sh",
                    "-c",
                    "echo out; echo err >&2",
                ],
            )
            .ok();
        engine.client(client, &["wait", "cc"]).ok();
        let run = engine.client(client, &["logs", "cc"]);
        assert_eq!(run.stdout, "out\r\nerr\r\n");
        engine.client(client, &["rm", "cc"]).ok();
    }
}

#[test]
fn following_ends_when_the_container_is_removed() {
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
            "echo up; sleep 600",
        ])
        .ok();
    let follower = engine
        .command("berth")
        .args(["logs", "-f", "cc"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it is logged", || {
        engine
            .berth(&["logs", "cc"])
            .ok()
            .contains("up")
            .then_some(())
    });
    engine.berth(&["rm", "-f", "cc"]).ok();
    assert_eq!(
        String::from_utf8(follower.wait_with_output().unwrap().stdout).unwrap(),
        "up\n"
    );
}
