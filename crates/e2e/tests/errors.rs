//! Bad input: Docker's wording, status and exit codes, and nothing left.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use berth_e2e::{Engine, Run, clients};

#[test]
fn exit_codes_of_run() {
    let engine = Engine::start();
    for client in clients() {
        let run = |args: &[&str]| engine.client(client, &[&["run", "--rm"], args].concat());
        run(&["busybox", "no-such-program"]).fails(
            127,
            "exec: \"no-such-program\": executable file not found in $PATH",
        );
        run(&["busybox", "/no/such/program"]).fails(127, "no such file or directory");
        run(&["busybox", "/etc/not-executable"]).fails(126, "permission denied");
        run(&["busybox", "/etc"]).fails(126, "");
        run(&["--no-such-flag", "busybox"]).fails(125, "unknown flag: --no-such-flag");
        run(&["-m", "1k", "busybox", "true"]).fails(125, "Minimum memory limit allowed is 6MB");
        run(&["-m", "nonsense", "busybox", "true"]).fails(125, "invalid size: 'nonsense'");
        run(&["--user", "nobody-here", "busybox", "true"])
            .fails(125, "unable to find user nobody-here");
        run(&["UPPER", "true"]).fails(
            125,
            "invalid reference format: repository name (library/UPPER) must be lowercase",
        );
        run(&["--cap-add", "NONSENSE", "busybox", "true"]).fails(125, "NONSENSE");
        run(&["--cpus", "1000", "busybox", "true"]).fails(125, "range of CPUs is from 0.01 to");
        run(&["--pid", "container:nobody", "busybox", "true"]).fails(125, "o such container");
        run(&["--network", "container:nobody", "busybox", "true"]).fails(125, "o such container");
    }
    engine.assert_nothing_left();
}

#[test]
fn names() {
    let engine = Engine::start();
    let id = engine.berth(&["create", "--name", "taken", "busybox"]).ok();
    for client in clients() {
        engine.client(client, &["create", "--name", "taken", "busybox"]).fails(1, &format!("Conflict. The container name \"/taken\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."));
        engine
            .client(client, &["create", "--name", "no/slash", "busybox"])
            .fails(
                1,
                "Invalid container name (no/slash), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
            );
        engine
            .client(client, &["start", "nobody"])
            .fails(1, "No such container: nobody");
        engine
            .client(client, &["inspect", "nobody"])
            .fails(1, "o such object: nobody");
    }
}

#[test]
fn images() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(client, &["image", "inspect", "nothing"])
            .fails(1, "No such image: nothing:latest");
        engine
            .client(client, &["rmi", "nothing"])
            .fails(1, "No such image: nothing:latest");
        engine
            .client(client, &["tag", "nothing", "x"])
            .fails(1, "No such image: nothing:latest");
        engine
            .client_with(client, &["load"], b"this is no archive")
            .fails(1, "");
        engine
            .client(client, &["run", "--rm", "--pull", "never", "nothing"])
            .fails(125, "nothing");
    }
    assert_eq!(engine.berth(&["images", "-q"]).ok().lines().count(), 1);
}

fn http(engine: &Engine, method: &str, path: &str, body: &str) -> (u16, String) {
    let run = Run::new(
        std::process::Command::new("curl")
            .args(["-s", "-g", "-w", "\n%{http_code}", "--unix-socket"])
            .arg(engine.socket())
            .args([
                "-X",
                method,
                "-H",
                "Content-Type: application/json",
                "-d",
                body,
            ])
            .arg(format!("http://d{path}")),
        b"",
    );
    let (text, code) = run.stdout.rsplit_once('\n').expect("a status");
    (code.parse().expect("a number"), text.to_owned())
}

#[test]
fn the_api_answers_bad_requests() {
    let engine = Engine::start();
    let message = |(code, text): (u16, String)| {
        let body: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
        (
            code,
            body["message"].as_str().unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(http(&engine, "GET", "/v1.99/info", "").0, 400);
    assert!(
        message(http(&engine, "GET", "/v1.99/info", ""))
            .1
            .contains("client version 1.99 is too new. Maximum supported API version is 1.55")
    );
    assert!(
        message(http(&engine, "GET", "/v1.10/info", ""))
            .1
            .contains("client version 1.10 is too old")
    );
    assert_eq!(
        message(http(&engine, "GET", "/nowhere", "")),
        (404, "page not found".into())
    );
    assert_eq!(
        http(&engine, "POST", "/v1.44/containers/create", "{not json").0,
        400
    );
    assert_eq!(
        http(&engine, "POST", "/v1.44/containers/create", "{\"Image\":5}").0,
        400
    );
    assert_eq!(
        http(
            &engine,
            "POST",
            "/v1.44/containers/create",
            "{\"Image\":\"nothing\"}"
        )
        .0,
        404
    );
    assert_eq!(
        http(
            &engine,
            "GET",
            "/v1.44/containers/json?filters=nonsense",
            ""
        )
        .0,
        400
    );
    assert_eq!(
        http(
            &engine,
            "GET",
            "/v1.44/containers/json?filters={\"nonsense\":[\"x\"]}",
            ""
        )
        .0,
        400
    );
    // What exists in Docker and not here yet says so.
    let (code, text) = message(http(&engine, "GET", "/v1.44/containers/x/changes", ""));
    assert!(
        code == 501 && text.contains("not supported"),
        "{code} {text}"
    );
    assert_eq!(http(&engine, "GET", "/v1.44/swarm", "").0, 503);
    assert_eq!(http(&engine, "GET", "/_ping", "").1, "OK");
}

#[test]
fn daemon_flags_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = |args: &[&str]| {
        let mut command = std::process::Command::new(berth_e2e::engine::bin_dir().join("berth"));
        command
            .arg("daemon")
            .args(args)
            .args(["--data-root"])
            .arg(dir.path().join("data"))
            .arg("--exec-root")
            .arg(dir.path().join("run"));
        Run::new(&mut command, b"")
    };
    let unknown = daemon(&["--no-such-flag"]);
    assert!(
        unknown.code != 0 && unknown.stderr.contains("unknown flag: --no-such-flag"),
        "{unknown:?}"
    );
    let file = dir.path().join("daemon.json");
    std::fs::write(&file, "{\"no-such-key\": 1}").unwrap();
    let run = daemon(&["--config-file", file.to_str().unwrap(), "--validate"]);
    assert!(
        run.code != 0
            && run.stderr.contains(
                "the following directives don't match any configuration option: no-such-key"
            ),
        "{run:?}"
    );
    std::fs::write(&file, "{\"debug\": true, \"labels\": [\"a=b\"]}").unwrap();
    let run = daemon(&["--config-file", file.to_str().unwrap(), "--validate"]);
    assert!(
        run.code == 0 && (run.stdout.clone() + &run.stderr).contains("configuration OK"),
        "{run:?}"
    );
    let run = daemon(&[
        "--config-file",
        file.to_str().unwrap(),
        "--label",
        "c=d",
        "--validate",
    ]);
    assert!(
        run.code != 0
            && run
                .stderr
                .contains("specified both as a flag and in the configuration file: labels"),
        "{run:?}"
    );
    let run = daemon(&["--userns-remap", "default"]);
    assert!(
        run.code != 0 && run.stderr.contains("not supported"),
        "{run:?}"
    );
}

#[test]
fn no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}/none.sock", dir.path().display());
    let mut command = std::process::Command::new(berth_e2e::engine::bin_dir().join("berth"));
    command
        .env("DOCKER_HOST", &socket)
        .env("BERTH_NO_AUTOSTART", "1")
        .arg("ps");
    Run::new(&mut command, b"").fails(
        1,
        &format!("Cannot connect to the Docker daemon at {socket}. Is the docker daemon running?"),
    );
}
