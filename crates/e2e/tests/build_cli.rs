//! `berth build`: what people type, and what comes of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_e2e::engine::terminal;
use berth_e2e::{Engine, Run, eventually, installed, possible};
use rustix::process::{Pid, Signal, kill_process};

/// A directory with these files.
fn project(engine: &Engine, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let root = engine.dir().join(name);
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

/// `berth build --progress=plain ARGS` in a directory.
fn build(engine: &Engine, root: &Path, args: &[&str]) -> Run {
    build_with(engine, root, args, b"")
}

fn build_with(engine: &Engine, root: &Path, args: &[&str], input: &[u8]) -> Run {
    let mut command = engine.command("berth");
    command
        .current_dir(root)
        .args(["build", "--progress=plain"])
        .args(args);
    Run::new(&mut command, input)
}

/// What a step says for a tag, after the build has succeeded.
#[track_caller]
fn output(run: &Run, mark: &str) -> Vec<String> {
    assert_eq!(run.code, 0, "{run:#?}");
    let lines = run.stderr.lines().filter_map(|line| line.split_once(mark));
    lines.map(|(_, rest)| rest.trim().to_owned()).collect()
}

/// A line of the progress, from "#N name" on.
fn told(run: &Run, words: &str) -> bool {
    run.stderr.lines().any(|line| line.contains(words))
}

#[test]
fn an_image_is_built_from_a_directory_and_known_the_second_time() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "app",
        &[
            (
                "Dockerfile",
                "FROM busybox\nCOPY . /app\nRUN cat /app/data/text > /result\nCMD [\"cat\", \"/result\"]\n",
            ),
            ("data/text", "hello\n"),
            ("secret.log", "not this\n"),
            (".dockerignore", "*.log\n"),
        ],
    );
    let first = build(&engine, &root, &["-t", "app:1", "."]);
    assert_eq!(first.code, 0, "{first:#?}");
    assert!(
        first
            .stderr
            .starts_with("#0 building with \"default\" instance using docker driver\n")
    );
    assert_eq!(engine.berth(&["run", "--rm", "app:1"]).ok(), "hello");
    let listed = engine
        .berth(&["run", "--rm", "app:1", "ls", "-A", "/app"])
        .ok();
    assert_eq!(listed, ".dockerignore\nDockerfile\ndata");

    let second = build(&engine, &root, &["-t", "app:2", "."]);
    assert!(told(&second, "CACHED"), "{second:#?}");
    let sent = output(&second, "transferring context:");
    assert!(
        sent.iter()
            .all(|line| !line.contains("kB") && !line.contains("MB")),
        "{sent:?}"
    );
    let id = |name: &str| {
        engine
            .berth(&["image", "inspect", "--format={{.Id}}", name])
            .ok()
    };
    assert_eq!(id("app:1"), id("app:2"));

    // What changed is seen, and nothing else.
    std::fs::write(root.join("data/text"), "other\n").unwrap();
    build(&engine, &root, &["-t", "app:3", "."]).ok();
    assert_eq!(engine.berth(&["run", "--rm", "app:3"]).ok(), "other");
}

#[test]
fn dockerfiles_come_from_anywhere() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "context",
        &[("file", "in the context\n"), (".dockerignore", "none\n")],
    );
    let aside = project(
        &engine,
        "aside",
        &[
            (
                "Df",
                "FROM busybox\nCOPY fil* /x/\nRUN ls /x | sed s/^/saw:/\n",
            ),
            ("Df.dockerignore", "file\n"),
        ],
    );
    // Outside of the context, with an ignore file of its own.
    std::fs::write(root.join("filter"), "").unwrap();
    let path = aside.join("Df");
    let run = build(&engine, &root, &["-f", path.to_str().unwrap(), "."]);
    assert_eq!(output(&run, "saw:").last().unwrap(), "filter", "{run:#?}");
    // On stdin, with a context.
    let text = b"FROM busybox\nCOPY file /f\nRUN sed s/^/saw:/ /f\n";
    let run = build_with(&engine, &root, &["-f", "-", "."], text);
    assert!(
        output(&run, "saw:").contains(&"in the context".to_owned()),
        "{run:#?}"
    );
    // On stdin, without one.
    let run = build_with(
        &engine,
        &root,
        &["-"],
        b"FROM busybox\nRUN echo saw:nothing\n",
    );
    assert!(
        output(&run, "saw:").contains(&"nothing".to_owned()),
        "{run:#?}"
    );
    // A tar stream on stdin.
    let mut archive = tar::Builder::new(Vec::new());
    for (name, data) in [("sub/Df", &text[..]), ("file", b"in the archive\n")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, data).unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let run = build_with(&engine, &root, &["-f", "sub/Df", "-"], &archive);
    assert!(
        output(&run, "saw:").contains(&"in the archive".to_owned()),
        "{run:#?}"
    );
    build(&engine, &root, &["."]).fails(
        1,
        "failed to read dockerfile: open Dockerfile: no such file or directory",
    );
}

#[test]
fn arguments_labels_and_named_contexts() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "app",
        &[(
            "Dockerfile",
            "FROM busybox AS base\nARG A\nARG B=default\nRUN echo saw:$A-$B\nFROM base\nCOPY --from=more note /\nRUN echo saw:$(cat /note)\nLABEL own=1\n",
        )],
    );
    let more = project(
        &engine,
        "more",
        &[("note", "from the other"), (".dockerignore", "x")],
    );
    let mut command = engine.command("berth");
    command
        .current_dir(&root)
        .env("A", "environment")
        .args([
            "build",
            "--progress=plain",
            "--build-arg=A",
            "--build-arg=B=given",
        ])
        .arg(format!("--build-context=more={}", more.display()))
        .args(["--label=x=y", "-t=app", "."]);
    let run = Run::new(&mut command, b"");
    let seen = output(&run, "saw:");
    assert!(seen.contains(&"environment-given".to_owned()), "{run:#?}");
    assert!(seen.contains(&"from the other".to_owned()), "{run:#?}");
    let labels = engine
        .berth(&[
            "image",
            "inspect",
            "--format={{json .Config.Labels}}",
            "app",
        ])
        .ok();
    assert_eq!(labels, r#"{"own":"1","x":"y"}"#);
    // Another image in the place of a stage's base.
    engine.berth(&["tag", "app", "other"]).ok();
    let run = build(
        &engine,
        &root,
        &[
            "--build-context=busybox=docker-image://other",
            "--target=base",
            "-t=swapped",
            ".",
        ],
    );
    assert_eq!(run.code, 0, "{run:#?}");
    engine
        .berth(&["run", "--rm", "swapped", "test", "-e", "/note"])
        .ok();
}

#[test]
fn results_go_where_they_should() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "app",
        &[(
            "Dockerfile",
            "FROM busybox AS make\nRUN mkdir -p /out/sub && echo made > /out/sub/file && ln -s sub/file /out/link\nFROM scratch\nCOPY --from=make /out /\n",
        )],
    );
    let dest = root.join("result");
    build(&engine, &root, &["-o", "result", "."]).ok();
    let read = |path: &str| std::fs::read_to_string(dest.join(path)).unwrap();
    assert_eq!(
        (read("sub/file"), read("link")),
        ("made\n".to_owned(), "made\n".to_owned())
    );
    assert!(dest.join("link").is_symlink());

    let mut command = engine.command("berth");
    command
        .current_dir(&root)
        .args(["build", "-q", "-o", "-", "."]);
    let tar = command.stderr(Stdio::null()).output().unwrap().stdout;
    let mut archive = tar::Archive::new(tar.as_slice());
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert!(
        names
            .iter()
            .any(|name| name.trim_end_matches('/') == "sub/file"),
        "{names:?}"
    );

    for kind in ["oci", "docker"] {
        let file = format!("{kind}.tar");
        let output = format!("type={kind},dest={file}");
        build(&engine, &root, &["-t=app:1", "-o", &output, "."]).ok();
        let tar = std::fs::read(root.join(&file)).unwrap();
        engine.berth_with(&["load"], &tar).ok();
        engine.berth(&["image", "inspect", "app:1"]).ok();
        engine.berth(&["rmi", "app:1"]).ok();
    }
    let left: Vec<_> = std::fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn ids_and_metadata_are_written() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "app",
        &[("Dockerfile", "FROM busybox\nRUN echo > /x\n")],
    );
    let run = build(
        &engine,
        &root,
        &["-t=app", "--iidfile=iid", "--metadata-file=meta.json", "."],
    );
    assert_eq!(run.code, 0, "{run:#?}");
    let id = std::fs::read_to_string(root.join("iid")).unwrap();
    engine.berth(&["run", "--rm", &id, "test", "-e", "/x"]).ok();
    let metadata = std::fs::read(root.join("meta.json")).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    assert!(
        metadata["containerimage.digest"]
            .as_str()
            .unwrap()
            .starts_with("sha256:"),
        "{metadata}"
    );
    // Quiet: the ID, and nothing else.
    let mut command = engine.command("berth");
    command.current_dir(&root).args(["build", "-q", "."]);
    let quiet = Run::new(&mut command, b"");
    assert_eq!(
        (quiet.stdout.trim_end(), quiet.stderr.as_str()),
        (id.as_str(), "")
    );
    // A file of an earlier build does not outlive a failure.
    std::fs::write(root.join("Dockerfile"), "FROM busybox\nRUN false\n").unwrap();
    build(&engine, &root, &["--iidfile=iid", "."]).fails(1, "exit code: 1");
    assert!(!root.join("iid").exists());
}

#[test]
fn failures_are_told_as_buildx_tells_them() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "app",
        &[("Dockerfile", "FROM busybox\nRUN echo before && exit 3\n")],
    );
    let run = build(&engine, &root, &["."]);
    assert_eq!(run.code, 1, "{run:#?}");
    let tail = "\
------
Dockerfile:2
--------------------
   1 |     FROM busybox
   2 | >>> RUN echo before && exit 3
   3 |     
--------------------
ERROR: failed to build: failed to solve: process \"/bin/sh -c echo before && exit 3\" did not complete successfully: exit code: 3
";
    assert!(run.stderr.ends_with(tail), "{}", run.stderr);
    assert!(
        run.stderr
            .contains("\n > [2/2] RUN echo before && exit 3:\n"),
        "{}",
        run.stderr
    );
    assert!(told(&run, "ERROR: process"), "{}", run.stderr);
    build(&engine, &root, &["-t", "UPPER", "."]).fails(1, "invalid tag \"UPPER\"");
    build(&engine, &root, &["/no/such"])
        .fails(1, "unable to prepare context: path \"/no/such\" not found");
    std::fs::write(root.join("Dockerfile"), "FROM busybox\nRUNN x\n").unwrap();
    build(&engine, &root, &["."]).fails(1, "unknown instruction: RUNN");
}

#[test]
fn secrets_reach_the_step_that_asks_and_no_image() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "app",
        &[
            (
                "Dockerfile",
                "FROM busybox\nRUN --mount=type=secret,id=file --mount=type=secret,id=word,env=WORD echo saw:$(cat /run/secrets/file)-$WORD\nRUN test ! -e /run/secrets/file\n",
            ),
            ("key", "value-of-file"),
        ],
    );
    let mut command = engine.command("berth");
    command
        .current_dir(&root)
        .env("GIVEN", "value-of-variable")
        .args(["build", "--progress=plain", "-t=app"])
        .args([
            "--secret=id=file,src=key",
            "--secret=id=word,env=GIVEN",
            ".",
        ]);
    let run = Run::new(&mut command, b"");
    assert!(
        output(&run, "saw:").contains(&"value-of-file-value-of-variable".to_owned()),
        "{run:#?}"
    );
    let saved = engine.dir().join("saved.tar");
    engine
        .berth(&["save", "-o", saved.to_str().unwrap(), "app"])
        .ok();
    let bytes = std::fs::read(saved).unwrap();
    assert!(!bytes.windows(15).any(|window| window == b"value-of-variab"));
    std::fs::write(
        root.join("Dockerfile"),
        "FROM busybox\nRUN --mount=type=secret,id=other,required=true true\n",
    )
    .unwrap();
    build(&engine, &root, &["--secret=id=file,src=key", "."]).fails(1, "other");
}

/// A program of this machine, with the libraries that it needs.
fn take_along(program: &str, root: &Path) {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
        .unwrap();
    let listed = Command::new("ldd").arg(&found).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    let needed = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    for path in needed.chain([found]) {
        let copy = root.join(path.strip_prefix("/").unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(path, copy).unwrap();
    }
}

#[test]
fn an_agent_is_forwarded_to_the_step_that_asks() {
    let here = ["ssh-agent", "ssh-add", "ssh-keygen", "ldd"];
    if !possible("ssh-agent", here.iter().all(|program| installed(program))) {
        return;
    }
    let engine = Engine::start();
    let path = engine.dir().join("agent");
    let mut agent = Command::new("ssh-agent")
        .args(["-D", "-a"])
        .arg(&path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the agent listens", || path.exists().then_some(()));
    let key = engine.dir().join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "build-key", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    let added = Command::new("ssh-add")
        .arg(&key)
        .env("SSH_AUTH_SOCK", &path)
        .stderr(Stdio::null())
        .status();
    assert!(added.unwrap().success());
    let root = project(
        &engine,
        "app",
        &[(
            "Dockerfile",
            "FROM busybox\nCOPY root /\nRUN mkdir -p /etc && echo root:x:0:0::/:/bin/sh > /etc/passwd\nRUN --mount=type=ssh,id=x ssh-add -l | sed s/^/saw:/\nRUN test ! -e \"$SSH_AUTH_SOCK\"\n",
        )],
    );
    take_along("ssh-add", &root.join("root"));
    let run = build(
        &engine,
        &root,
        &[&format!("--ssh=x={}", path.display()), "."],
    );
    let default = {
        let mut command = engine.command("berth");
        command
            .current_dir(&root)
            .env("SSH_AUTH_SOCK", &path)
            .args(["build", "--progress=plain", "--no-cache", "--ssh=x", "."]);
        Run::new(&mut command, b"")
    };
    let _ = agent.kill();
    let _ = agent.wait();
    for run in [run, default] {
        assert!(
            output(&run, "saw:").join(" ").contains("build-key"),
            "{run:#?}"
        );
    }
    build(
        &engine,
        &root,
        &[&format!("--ssh=x={}", key.display()), "."],
    )
    .fails(1, "keys are not supported yet");
}

/// A build that hangs in its step, told on a file.
fn hanging(engine: &Engine) -> (Child, PathBuf) {
    let root = project(
        engine,
        "app",
        &[("Dockerfile", "FROM busybox\nRUN echo begun && sleep 1000\n")],
    );
    let told = engine.dir().join("told");
    let child = engine
        .command("berth")
        .current_dir(&root)
        .args(["build", "--progress=plain", "-t=never", "."])
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&told).unwrap())
        .spawn()
        .unwrap();
    eventually("the step runs", || {
        let text = std::fs::read_to_string(&told).unwrap();
        text.contains(" begun").then_some(())
    });
    (child, told)
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

#[test]
fn an_interrupted_build_ends_in_mid_step() {
    let engine = Engine::start();
    let (mut child, told) = hanging(&engine);
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let text = std::fs::read_to_string(told).unwrap();
    assert!(text.contains("CANCELED\n"), "{text}");
    assert!(
        text.ends_with("ERROR: failed to build: failed to solve: Canceled: context canceled\n"),
        "{text}"
    );
    // Nothing of the step is left, and no image.
    eventually("the step is gone", || {
        let processes = berth_e2e::leaks::processes("sleep 1000");
        let of_engine = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.contains(engine.cgroup()))
        };
        let left = processes.iter().filter(|(pid, _)| of_engine(pid)).count();
        (left == 0).then_some(())
    });
    engine
        .berth(&["image", "inspect", "never"])
        .fails(1, "No such image");
}

#[test]
fn progress_on_a_terminal_and_as_json() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "app",
        &[("Dockerfile", "FROM busybox as base\nRUN echo some output\n")],
    );
    let mut command = engine.command("berth");
    command
        .current_dir(&root)
        .env("TERM", "xterm")
        .args(["build", "--no-cache", "-t=app", "."]);
    let (mut master, slave) = terminal();
    let size = rustix::termios::Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&slave, size).unwrap();
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::from(slave))
        .spawn()
        .unwrap();
    drop(command);
    let mut shown = Vec::new();
    // Ends with an error when the other side is closed.
    let _ = master.read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8_lossy(&shown);
    let last = shown.rsplit("[+] Building ").next().unwrap();
    let head = last.lines().next().unwrap();
    assert!(
        head.contains("FINISHED") && head.contains("docker:default"),
        "{shown}"
    );
    assert!(last.contains("RUN echo some output"), "{shown}");
    assert!(
        last.contains("1 warning found (use docker --debug to expand):"),
        "{shown}"
    );

    let mut command = engine.command("berth");
    command
        .current_dir(&root)
        .args(["build", "--progress=rawjson", "."]);
    let run = Run::new(&mut command, b"");
    assert_eq!(run.code, 0, "{run:#?}");
    let lines: Vec<serde_json::Value> = run
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let vertices = lines
        .iter()
        .filter_map(|line| line["vertexes"].as_array())
        .flatten();
    let names: Vec<_> = vertices
        .filter_map(|vertex| vertex["name"].as_str())
        .collect();
    assert!(names.contains(&"[2/2] RUN echo some output"), "{names:?}");
}

#[test]
fn checks_are_told_without_a_build() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "app",
        &[("Dockerfile", "FROM busybox as base\nRUN false\n")],
    );
    let run = build(&engine, &root, &["--check", "."]);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(
        run.stdout.starts_with(
            "Check complete, 1 warning has been found!\n\nWARNING: FromAsCasing - https://"
        ),
        "{run:#?}"
    );
    assert!(
        run.stdout
            .contains("\nDockerfile:1\n--------------------\n   1 | >>> FROM busybox as base\n"),
        "{run:#?}"
    );
    let run = build(&engine, &root, &["--call=check,format=json", "."]);
    let found: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(found["warnings"][0]["ruleName"], "FromAsCasing");
    let run = build(&engine, &root, &["--call=targets", "."]);
    assert!(run.stdout.contains("base"), "{run:#?}");
    std::fs::write(root.join("Dockerfile"), "FROM busybox AS base\n").unwrap();
    assert_eq!(
        build(&engine, &root, &["--check", "."]).ok(),
        "Check complete, no warnings found."
    );
}

#[test]
fn the_cache_is_listed_and_removed() {
    let engine = Engine::start();
    let root = project(
        &engine,
        "app",
        &[("Dockerfile", "FROM busybox\nRUN echo some > /x\n")],
    );
    build(&engine, &root, &["-t=app", "."]).ok();
    let du = engine.berth(&["builder", "du"]).ok();
    assert!(du.starts_with("ID ") && du.contains("Total:"), "{du}");
    let verbose = engine.berth(&["buildx", "du", "--verbose"]).ok();
    assert!(verbose.contains("RUN echo some"), "{verbose}");
    assert!(verbose.contains("Kept because:"), "{verbose}");
    let df = engine.berth(&["system", "df", "-v"]).ok();
    assert!(df.contains("CACHE ID") && df.contains("regular"), "{df}");
    engine.berth(&["rmi", "app"]).ok();
    let pruned = engine.berth(&["builder", "prune", "--all", "--force"]).ok();
    assert!(pruned.contains("Total:"), "{pruned}");
    let left = engine.berth(&["builder", "du", "--format={{.ID}}"]).ok();
    assert_eq!(left, "", "{pruned}");
    let run = build(&engine, &root, &["-t=app", "."]);
    assert!(
        !told(&run, "CACHED") || !output(&run, "RUN").is_empty(),
        "{run:#?}"
    );
    engine.berth(&["rmi", "app"]).ok();
    let question = engine.berth_with(&["system", "prune"], b"n\n").ok();
    assert!(question.contains("  - unused build cache\n"), "{question}");
    let pruned = engine.berth(&["system", "prune", "--all", "--force"]).ok();
    assert!(pruned.contains("Deleted build cache objects:"), "{pruned}");
    assert_eq!(
        engine.berth(&["builder", "du", "--format={{.ID}}"]).ok(),
        ""
    );
    let builders = engine.berth(&["buildx", "ls"]).ok();
    assert!(builders.contains("default*"), "{builders}");
    engine
        .berth(&["buildx", "create"])
        .fails(1, "not supported yet");
}
