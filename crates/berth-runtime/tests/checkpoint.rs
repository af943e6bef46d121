//! `checkpoint` and `restore`, with a real CRIU where it works.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::bundle::Bundle;
use common::*;
use serde_json::{Value, json};

/// Writes how far it has counted to /n.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i >/m; mv /m /n; sleep 0.02; done";

/// Why CRIU cannot do what a test needs; said in its output.
fn criu_lacks(feature: Option<&str>) -> bool {
    let mut command = Command::new("criu");
    command.arg("check");
    if let Some(feature) = feature {
        command.args(["--feature", feature]);
    }
    let why = match command.output() {
        Ok(output) if output.status.success() => return false,
        Ok(output) => {
            String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout)
        }
        Err(error) => format!("criu: {error}"),
    };
    eprintln!("not tested here: CRIU does not work or lacks {feature:?}: {why}");
    true
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

fn shell(command: &str) -> Bundle {
    Bundle::new(&["sh", "-c", command])
}

impl Images {
    fn of(bundle: &Bundle) -> Self {
        Self {
            images: bundle.path().join("images"),
            work: bundle.path().join("work"),
        }
    }

    fn with<'a>(&'a self, verb: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec![verb, "--image-path", self.images.to_str().unwrap()];
        args.extend(["--work-path", self.work.to_str().unwrap()]);
        args.extend(rest);
        args
    }
}

struct Images {
    images: PathBuf,
    work: PathBuf,
}

fn checkpoint(bundle: &Bundle, rest: &[&str]) {
    bundle.ok(&Images::of(bundle).with("checkpoint", rest));
}

/// As `Bundle::leave`, with no file of the host as standard error, for a checkpoint
/// has no name for it.
fn leave(bundle: &Bundle, args: &[&str]) {
    let log = bundle.path().join("log");
    let mut command = bundle.command(&[&["--log", log.to_str().unwrap()], args].concat());
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.stderr(Stdio::null()).status().unwrap();
    assert!(
        status.success(),
        "{args:?}: {}",
        std::fs::read_to_string(log).unwrap_or_default()
    );
}

fn restore(bundle: &Bundle, rest: &[&str]) {
    leave(bundle, &Images::of(bundle).with("restore", rest));
}

fn file(bundle: &Bundle, name: &str) -> Option<String> {
    std::fs::read_to_string(bundle.path().join("rootfs").join(name)).ok()
}

fn count(bundle: &Bundle) -> u64 {
    eventually("it counts", || file(bundle, "n")?.trim().parse().ok())
}

fn counts_beyond(bundle: &Bundle, number: u64) {
    eventually("it goes on counting", || {
        (count(bundle) > number).then_some(())
    });
}

/// Mount points with their options, in some order.
fn mounts(bundle: &Bundle, id: &str) -> Vec<(String, String, String)> {
    let pid = &bundle.state_of(id)["pid"];
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mut found: Vec<_> = (text.lines())
        .map(|line| {
            let mut fields = line.split(' ').skip(3);
            let mut next = || fields.next().unwrap().to_owned();
            let (root, at, options) = (next(), next(), next());
            (at, options, root)
        })
        .collect();
    found.sort();
    found
}

fn delete(bundle: &Bundle, id: &str) {
    bundle.ok(&["delete", "--force", id]);
    bundle.assert_empty();
}

#[test]
fn counter_goes_on_with_its_memory_mounts_and_limits() {
    if criu_lacks(None) {
        return;
    }
    let mut bundle = shell(COUNTER);
    for name in ["one", "two"] {
        let source = bundle.path().join(name);
        std::fs::create_dir(&source).unwrap();
        // One filesystem and the same flags: CRIU alone would not set them twice.
        bundle.config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": format!("/{name}"),
            "source": source,
            "type": "bind",
            "options": ["bind", "ro", "nosuid"],
        }));
    }
    // What is mounted below the source of a recursive bind mount comes along.
    let source = bundle.path().join("tree");
    let inner = Tmpfs::new(source.join("inner"));
    std::fs::write(inner.0.join("x"), "in").unwrap();
    bundle.config["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/tree", "source": source, "type": "bind", "options": ["rbind"],
    }));
    bundle.config["linux"]["resources"]["pids"] = json!({ "limit": 77 });
    leave(&bundle, &["run", "-d", "a"]);
    count(&bundle);
    let before = mounts(&bundle, "a");
    checkpoint(&bundle, &["a"]);
    assert!(bundle.fails(&["state", "a"]).contains("does not exist"));
    bundle.assert_empty();
    let stopped = count(&bundle);
    // The name may be another one.
    restore(&bundle, &["-d", "b"]);
    counts_beyond(&bundle, stopped);
    assert!(file(&bundle, "n").unwrap().trim().parse::<u64>().unwrap() < stopped + 10_000);
    assert_eq!(bundle.state_of("b")["status"], "running");
    assert_eq!(mounts(&bundle, "b"), before);
    assert_eq!(bundle.ok(&["exec", "b", "cat", "/tree/inner/x"]), "in");
    let refused = bundle.output(&["exec", "b", "touch", "/two/x"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Read-only"));
    let group = bundle.config["linux"]["cgroupsPath"].as_str().unwrap();
    let limit = ["", "/pids"]
        .map(|hierarchy| format!("/sys/fs/cgroup{hierarchy}{group}/pids.max"))
        .into_iter()
        .find_map(|path| std::fs::read_to_string(path).ok());
    assert_eq!(limit.unwrap(), "77\n");
    assert!(!bundle.state().join("b/criu").exists());
    assert!(
        bundle
            .fails(&Images::of(&bundle).with("restore", &["-d", "b"]))
            .contains("already exists")
    );
    bundle.ok(&["kill", "b", "KILL"]);
    eventually("it ends", || {
        (bundle.state_of("b")["status"] == "stopped").then_some(())
    });
    delete(&bundle, "b");
}

#[test]
fn container_left_running_can_be_restored_again_and_again() {
    if criu_lacks(None) {
        return;
    }
    let mut bundle = shell(COUNTER);
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut();
    namespaces.unwrap().push(json!({ "type": "cgroup" }));
    leave(&bundle, &["run", "-d", "a"]);
    count(&bundle);
    let before = mounts(&bundle, "a");
    checkpoint(&bundle, &["--leave-running", "a"]);
    let there = count(&bundle);
    assert_eq!(bundle.state_of("a")["status"], "running");
    counts_beyond(&bundle, there);
    delete(&bundle, "a");
    for _ in 0..2 {
        let there = count(&bundle);
        restore(&bundle, &["-d", "--pid-file", "pid", "a"]);
        eventually("it counts from there", || {
            (count(&bundle) != there).then_some(())
        });
        let pid = std::fs::read_to_string(bundle.path().join("pid")).unwrap();
        assert_eq!(bundle.state_of("a")["pid"].to_string(), pid);
        assert_eq!(mounts(&bundle, "a"), before);
        assert!(
            bundle
                .ok(&["exec", "a", "cat", "/proc/1/cgroup"])
                .contains(":/\n")
        );
        delete(&bundle, "a");
    }
}

/// In the foreground: pipes lead to the new command, whose exit code is the program's.
#[test]
fn streams_of_the_new_command_and_exit_code() {
    if criu_lacks(None) {
        return;
    }
    let bundle = shell(
        "echo before; while [ ! -e /go ]; do sleep 0.02; done; read x; echo after $x; exit 7",
    );
    let (stdin, keep) = std::io::pipe().unwrap();
    let mut run = bundle.command(&["run", "a"]);
    let mut run: Child = (run
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::null()))
    .spawn()
    .unwrap();
    let mut first = [0; 7];
    let mut output = run.stdout.take().unwrap();
    output.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"before\n");
    eventually("it runs", || {
        (bundle.state_of("a")["status"] == "running").then_some(())
    });
    // It removes the container, as the command in the foreground does.
    let _ = bundle.output(&Images::of(&bundle).with("checkpoint", &["a"]));
    assert_eq!(run.wait().unwrap().code(), Some(137));
    bundle.assert_empty();
    drop(keep);

    let mut restored = bundle.command(&Images::of(&bundle).with("restore", &["a"]));
    let mut restored = (restored.stdin(Stdio::piped()).stdout(Stdio::piped()))
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut restored.stdin.take().unwrap(), b"all\n").unwrap();
    std::fs::write(bundle.path().join("rootfs/go"), "").unwrap();
    let output = restored.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "after all\n");
    assert_eq!(output.status.code(), Some(7));
    bundle.assert_empty();
}

#[test]
fn open_files_and_pipes_stay_open() {
    if criu_lacks(None) {
        return;
    }
    // A file half read, a pipe between two processes, and one deleted file.
    let bundle = shell(
        "printf '1\\n2\\n' >/data; exec 3</data; read one <&3; \
         echo gone >/gone; exec 4</gone; rm /gone; \
         (while :; do echo tick; sleep 0.02; done) | while read tick; do i=$((i+1)); echo $i >/m; mv /m /n; done & \
         touch /ready; while [ ! -e /go ]; do sleep 0.02; done; \
         read two <&3; read four <&4; echo $one $two $four >/x; mv /x /result; exec sleep 1000",
    );
    leave(&bundle, &["run", "-d", "a"]);
    eventually("it is ready", || file(&bundle, "ready"));
    count(&bundle);
    checkpoint(&bundle, &["a"]);
    let stopped = count(&bundle);
    restore(&bundle, &["-d", "a"]);
    counts_beyond(&bundle, stopped);
    std::fs::write(bundle.path().join("rootfs/go"), "").unwrap();
    let result = eventually("the files are read on", || file(&bundle, "result"));
    assert_eq!(result, "1 2 gone\n");
    delete(&bundle, "a");
}

struct Tmpfs(PathBuf);

impl Tmpfs {
    fn new(at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "inner"])
            .arg(&at)
            .status();
        assert!(mount.unwrap().success());
        Self(at)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// A network namespace of the test's own, with nothing but a loopback device.
struct Network(Child);

impl Network {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo up && exec sleep 1000",
            ])
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        let mut up = [0; 3];
        child.stdout.take().unwrap().read_exact(&mut up).unwrap();
        Self(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn tcp_connections_stay_established() {
    if criu_lacks(None) {
        return;
    }
    let mut bundle = shell(
        "sleep 1000 | nc -l -p 7000 | while read x; do echo $x >/m; mv /m /n; done & \
         while ! netstat -ltn | grep -q :7000; do sleep 0.02; done; \
         (i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done) | nc 127.0.0.1 7000",
    );
    let network = Network::new();
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "network" {
            namespace["path"] = json!(network.path());
        }
    }
    leave(&bundle, &["run", "-d", "a"]);
    count(&bundle);
    let error = bundle.fails(&Images::of(&bundle).with("checkpoint", &["a"]));
    assert!(error.contains("criu failed: type DUMP"), "{error}");
    let went_on = count(&bundle);
    counts_beyond(&bundle, went_on);
    let output =
        bundle.output(&Images::of(&bundle).with("checkpoint", &["--tcp-established", "a"]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && stderr.contains("nft") {
        eprintln!("not tested here: CRIU cannot block the network: {stderr}");
        return delete(&bundle, "a");
    }
    assert!(output.status.success(), "{stderr}");
    let stopped = count(&bundle);
    restore(&bundle, &["--tcp-established", "-d", "a"]);
    counts_beyond(&bundle, stopped);
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let pid = bundle.state_of("a")["pid"].to_string();
    assert_eq!(namespace(&pid), namespace(&network.0.id().to_string()));
    delete(&bundle, "a");
}

#[test]
fn terminal_goes_to_the_new_console_socket() {
    if criu_lacks(None) {
        return;
    }
    let mut bundle = shell("while read x; do echo got $x; done");
    bundle.config["process"]["terminal"] = json!(true);
    let path = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = ["--console-socket", path.to_str().unwrap()];
    let receive = || {
        let (socket, _) = listener.accept().unwrap();
        let (_, mut fds) = berth_sys::socket::receive(&socket).unwrap().unwrap();
        std::fs::File::from(fds.remove(0))
    };
    let talk = |console: &std::fs::File, word: &str| {
        use std::io::Write as _;
        let (mut input, mut output) = (console, console);
        writeln!(input, "{word}").unwrap();
        let mut heard = String::new();
        while !heard.contains(&format!("got {word}")) {
            let mut bytes = [0; 256];
            let length = output.read(&mut bytes).unwrap();
            heard += &String::from_utf8_lossy(&bytes[..length]);
        }
    };
    leave(&bundle, &["run", "-d", socket[0], socket[1], "a"]);
    let console = receive();
    talk(&console, "one");
    checkpoint(&bundle, &["a"]);
    drop(console);
    assert!(
        bundle
            .fails(&Images::of(&bundle).with("restore", &["-d", "a"]))
            .contains("--console-socket")
    );
    restore(&bundle, &["-d", socket[0], socket[1], "a"]);
    talk(&receive(), "two");
    delete(&bundle, "a");
}

#[test]
fn dump_stands_on_a_pre_dump() {
    if criu_lacks(None) || criu_lacks(Some("mem_dirty_track")) {
        return;
    }
    let bundle = shell(COUNTER);
    leave(&bundle, &["run", "-d", "a"]);
    count(&bundle);
    let path = |name: &str| bundle.path().join(name).to_str().unwrap().to_owned();
    bundle.ok(&[
        "checkpoint",
        "--pre-dump",
        "--image-path",
        &path("pre"),
        "a",
    ]);
    let there = count(&bundle);
    counts_beyond(&bundle, there);
    checkpoint(&bundle, &["--parent-path", "../pre", "a"]);
    assert!(bundle.path().join("images/parent").exists());
    let stopped = count(&bundle);
    restore(&bundle, &["-d", "a"]);
    counts_beyond(&bundle, stopped);
    delete(&bundle, "a");
}

#[test]
fn hooks_see_the_restored_process() {
    if criu_lacks(None) {
        return;
    }
    let mut bundle = shell(COUNTER);
    let log = bundle.path().join("hooks");
    for name in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ] {
        let line = format!(
            "echo {name} $(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/') >>{}",
            log.display()
        );
        if matches!(name, "createContainer" | "startContainer") {
            // They would run in the container, where that file is not.
            continue;
        }
        bundle.config["hooks"][name] = json!([{
            "path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/bin:/usr/bin"],
        }]);
    }
    leave(&bundle, &["run", "-d", "a"]);
    count(&bundle);
    checkpoint(&bundle, &["a"]);
    assert!(
        std::fs::read_to_string(&log)
            .unwrap()
            .ends_with("poststop 0\n")
    );
    std::fs::remove_file(&log).unwrap();
    restore(&bundle, &["-d", "a"]);
    let pid = bundle.state_of("a")["pid"].to_string();
    // As runc: a restored container has started before.
    assert_eq!(
        std::fs::read_to_string(&log).unwrap(),
        format!("prestart {pid}\ncreateRuntime {pid}\n")
    );
    delete(&bundle, "a");

    // One that fails leaves nothing.
    bundle.config["hooks"] = json!({
        "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 3"] }],
    });
    let error = bundle.fails(&Images::of(&bundle).with("restore", &["-d", "a"]));
    assert!(
        error.contains("createRuntime hook #0") && error.contains("output: no"),
        "{error}"
    );
    bundle.assert_empty();
}

#[test]
fn paused_container_is_checkpointed() {
    if criu_lacks(None) {
        return;
    }
    let bundle = shell(COUNTER);
    leave(&bundle, &["run", "-d", "a"]);
    count(&bundle);
    bundle.ok(&["pause", "a"]);
    checkpoint(&bundle, &["a"]);
    bundle.assert_empty();
    let stopped = count(&bundle);
    restore(&bundle, &["-d", "a"]);
    counts_beyond(&bundle, stopped);
    assert_eq!(bundle.state_of("a")["status"], "running");
    delete(&bundle, "a");
}

#[test]
fn failed_checkpoint_lets_the_container_go_on() {
    if criu_lacks(None) {
        return;
    }
    let bundle = shell(COUNTER);
    // A file of the host as standard output has no name in the container.
    let log = std::fs::File::create(bundle.path().join("log")).unwrap();
    let mut run = bundle.command(&["run", "-d", "a"]);
    let status = run
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    count(&bundle);
    let error = bundle.fails(&Images::of(&bundle).with("checkpoint", &["a"]));
    let log = bundle.path().join("work/dump.log");
    assert!(error.contains("criu failed: type DUMP errno"), "{error}");
    assert!(error.contains("Can't lookup mount"), "{error}");
    assert!(
        error.ends_with(&format!("\nlog file: {}\n", log.display())),
        "{error}"
    );
    assert_eq!(bundle.state_of("a")["status"], "running");
    let there = count(&bundle);
    counts_beyond(&bundle, there);
    delete(&bundle, "a");

    // Not a checkpoint at all.
    std::fs::create_dir_all(bundle.path().join("other")).unwrap();
    std::fs::write(bundle.path().join("other/descriptors.json"), "[]").unwrap();
    let error = bundle.fails(&["restore", "--image-path", "other", "-d", "a"]);
    assert!(error.contains("criu failed: type RESTORE errno"), "{error}");
    bundle.assert_empty();
}

/// A killed `checkpoint` leaves a container that runs or is stopped, a killed
/// `restore` one that can be deleted.
#[test]
fn killed_at_any_moment() {
    if criu_lacks(None) {
        return;
    }
    let bundle = shell(COUNTER);
    let images = Images::of(&bundle);
    let step =
        std::env::var("BERTH_TEST_PATIENCE").map_or(20, |times| 20 * times.parse::<u64>().unwrap());
    let kill_after = |args: &[&str], time: Duration| {
        let mut command = bundle.command(args);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(time);
        child.kill().unwrap();
        child.wait().unwrap().code().is_none()
    };
    leave(&bundle, &["run", "-d", "a"]);
    count(&bundle);
    checkpoint(&bundle, &["--leave-running", "a"]);
    let mut killed = 0;
    for round in 0..12 {
        let there = bundle.output(&["state", "a"]);
        if !there.status.success() {
            leave(&bundle, &["run", "-d", "a"]);
            count(&bundle);
        }
        let other = bundle.path().join("other");
        let args = ["checkpoint", "--image-path", other.to_str().unwrap(), "a"];
        killed += u32::from(kill_after(&args, Duration::from_millis(round * step)));
        eventually("it runs, is stopped or gone", || {
            let output = bundle.output(&["state", "a"]);
            let Ok(state) = serde_json::from_slice::<Value>(&output.stdout) else {
                return Some(());
            };
            match state["status"].as_str().unwrap() {
                // Frozen only for as long as CRIU is at it.
                "paused" => None,
                "running" => {
                    let there = count(&bundle);
                    counts_beyond(&bundle, there);
                    Some(())
                }
                "stopped" => {
                    bundle.ok(&["delete", "a"]);
                    bundle.assert_empty();
                    Some(())
                }
                other => panic!("{other}"),
            }
        });
    }
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
    for round in 0..12 {
        let args = images.with("restore", &["-d", "a"]);
        killed += u32::from(kill_after(&args, Duration::from_millis(round * step)));
        bundle.ok(&["delete", "--force", "a"]);
        bundle.assert_empty();
        assert!(!bundle.state().join("a").exists());
    }
    assert!(killed > 0, "none was killed in time");
}

/// Either can restore what the other has written.
#[test]
fn checkpoints_are_runcs() {
    if criu_lacks(None) {
        return;
    }
    let bundle = shell(COUNTER);
    let state = bundle.path().join("runc");
    let runc = |args: &[&str]| {
        let mut command = Command::new("runc");
        command
            .arg("--root")
            .arg(&state)
            .args(args)
            .current_dir(bundle.path());
        let log = bundle.path().join("runc.log");
        let stderr = std::fs::File::create(&log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let status = match command.stderr(stderr).status() {
            Ok(status) => status,
            Err(error) => {
                eprintln!("not tested here: runc: {error}");
                return false;
            }
        };
        assert!(
            status.success(),
            "{args:?}: {}",
            std::fs::read_to_string(log).unwrap()
        );
        true
    };
    bundle.save();
    if !runc(&["--version"]) {
        return;
    }
    let images = Images::of(&bundle);
    leave(&bundle, &["run", "-d", "a"]);
    count(&bundle);
    checkpoint(&bundle, &["a"]);
    let stopped = count(&bundle);
    runc(&images.with("restore", &["-d", "a"]));
    counts_beyond(&bundle, stopped);
    if !is_installed("iptables-restore") {
        eprintln!("not tested here: runc does not tell CRIU to do without iptables");
        runc(&["delete", "--force", "a"]);
        return bundle.assert_empty();
    }
    runc(&images.with("checkpoint", &["a"]));
    let stopped = count(&bundle);
    restore(&bundle, &["-d", "a"]);
    counts_beyond(&bundle, stopped);
    delete(&bundle, "a");
}

#[test]
fn mistakes_are_told_before_criu_is_asked() {
    let bundle = shell("while :; do sleep 1; done");
    let missing = "no such file or directory";
    assert!(
        bundle
            .fails(&["checkpoint", "a"])
            .contains("container does not exist")
    );
    assert!(bundle.fails(&["restore", "a"]).contains(missing));
    assert!(
        bundle
            .fails(&["restore", "--image-path", "nowhere", "a"])
            .contains("nowhere")
    );
    std::fs::create_dir(bundle.path().join("empty")).unwrap();
    let error = bundle.fails(&["restore", "--image-path", "empty", "a"]);
    assert!(
        error.contains("descriptors.json") && error.contains(missing),
        "{error}"
    );
    let error = bundle.fails(&["restore", "--bundle", "empty", "a"]);
    assert!(
        error.contains("config.json") && error.contains("not found"),
        "{error}"
    );
    // Podman asks so whether a container can be restored into a pod.
    let error = bundle.fails(&["restore", "--lsm-mount-context"]);
    assert!(
        error.contains("flag needs an argument: --lsm-mount-context"),
        "{error}"
    );

    leave(&bundle, &["create", "a"]);
    let error = bundle.fails(&["checkpoint", "a"]);
    assert!(
        error.contains("Container cannot be checkpointed in created state"),
        "{error}"
    );
    bundle.ok(&["start", "a"]);
    let output = bundle
        .command(&["checkpoint", "a"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("executable file not found in $PATH") && error.contains("install"),
        "{error}"
    );
    for (args, why) in [
        (
            &["--parent-path", "/x"][..],
            "--parent-path must be relative",
        ),
        (&["--parent-path", "x"], "invalid --parent-path"),
        (&["--page-server", "x"], "ADDRESS:PORT"),
        (&["--page-server", "x:y"], "Invalid port number"),
        (
            &["--manage-cgroups-mode", "x"],
            "Invalid manage-cgroups-mode value",
        ),
        (&["--empty-ns", "pid"], "namespace \"pid\" is not supported"),
        (
            &["--lazy-pages", "--status-fd", "77"],
            "invalid --status-fd argument 77",
        ),
    ] {
        let error = bundle.fails(&[&["checkpoint"], args, &["a"]].concat());
        assert!(error.contains(why), "{args:?}: {error}");
    }
    assert_eq!(bundle.state_of("a")["status"], "running");
    bundle.ok(&["kill", "a", "KILL"]);
    eventually("it ends", || {
        (bundle.state_of("a")["status"] == "stopped").then_some(())
    });
    let error = bundle.fails(&["checkpoint", "a"]);
    assert!(
        error.contains("Container cannot be checkpointed in stopped state"),
        "{error}"
    );
    delete(&bundle, "a");
}

#[test]
fn user_namespaces_are_refused() {
    let mut bundle = shell("true");
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "type": "user" }));
    let error = bundle.fails(&["restore", "a"]);
    assert!(
        error.contains("user namespace cannot be checkpointed or restored"),
        "{error}"
    );
}
