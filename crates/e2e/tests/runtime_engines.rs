//! berth-runtime in runc's place: under dockerd, Podman, containerd and the
//! tools that make bundles. What is not installed is said; newer engines come
//! from a tree made by scripts/peers.sh that BERTH_PEERS names.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use berth_e2e::engine::bin_dir;
use berth_e2e::{Run, eventually, image, installed, leaks, oci, possible};

const IN_PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/in-peers.sh");

/// A directory, a control group and, if need be, a daemon of the test's own.
struct Place {
    dir: tempfile::TempDir,
    group: String,
    daemon: Option<Child>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let group = format!("/berth-engines{name}");
        Self {
            dir,
            group,
            daemon: None,
        }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// A busybox system; returns its path.
    fn rootfs(&self) -> String {
        let path = self.path("rootfs");
        std::fs::create_dir(&path).unwrap();
        tar::Archive::new(&image::busybox_rootfs()[..])
            .unpack(&path)
            .unwrap();
        path
    }

    /// In a network namespace of its own.
    fn serve(&mut self, mut command: Vec<String>, extra: &[&str]) {
        command.extend(extra.iter().map(|&word| word.to_owned()));
        let log = std::fs::File::create(self.path("log")).unwrap();
        let daemon = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"])
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
    }

    /// Nothing of the containers is left.
    fn assert_clean(&self) {
        eventually("the control groups go", || {
            // Podman's own, of its monitors, stays.
            let mut left = leaks::cgroups(&self.group).into_iter();
            left.all(|path| path.ends_with("conmon")).then_some(())
        });
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(own), "{mounts}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            // Its own end takes its children along.
            let pid = rustix::process::Pid::from_child(daemon);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = daemon.wait();
        }
        for hierarchy in leaks::hierarchies() {
            let group = hierarchy.join(self.group.trim_start_matches('/'));
            let _ = std::fs::remove_dir(group.join("conmon"));
            let _ = std::fs::remove_dir(group);
        }
    }
}

fn runtime() -> String {
    bin_dir().join("berth-runtime").to_str().unwrap().to_owned()
}

/// How to run a program of the tree that BERTH_PEERS names.
fn peer(program: &str) -> Option<Vec<String>> {
    let root = std::env::var_os("BERTH_PEERS").map(PathBuf::from);
    let found = root.filter(|root| {
        ["usr/bin", "usr/sbin"]
            .iter()
            .any(|dir| root.join(dir).join(program).is_file())
    });
    possible(
        &format!("{program} in a tree that BERTH_PEERS names"),
        found.is_some(),
    );
    let root = found?.to_str()?.to_owned();
    Some(vec![IN_PEERS.to_owned(), root, program.to_owned()])
}

/// Nothing that hangs hangs the suite.
fn run(words: &[&str], input: &[u8]) -> Run {
    let mut command = Command::new("timeout");
    Run::new(command.args(["--signal", "KILL", "60"]).args(words), input)
}

const MEMORY: &str =
    "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
const PIDS: &str = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null";

/// What docker and podman have in common; `flags` are `run`'s.
fn life(engine: &dyn Fn(&[&str]) -> Run, flags: &[&str], image: &str) {
    let run = |more: &[&str], command: &[&str]| {
        engine(&[&["run"], flags, more, &[image], command].concat())
    };
    let once = |command: &[&str]| run(&["--rm"], command);
    assert_eq!(once(&["echo", "hi"]).ok(), "hi");
    assert_eq!(once(&["sh", "-c", "exit 7"]).code, 7);
    once(&["nonesuch"]).fails(127, "executable file not found in $PATH");
    once(&["/etc/passwd"]).fails(126, "ermission denied");
    let terminal = run(&["--rm", "-t"], &["sh", "-c", "tty; exit 4"]);
    assert!(terminal.stdout.starts_with("/dev/pts/0"), "{terminal:#?}");
    assert_eq!(terminal.code, 4);

    let script = "trap 'exit 5' TERM; echo tick; while :; do sleep 0.05; done";
    let limits = ["-d", "--name", "life", "-m", "64m", "--pids-limit", "20"];
    run(&limits, &["sh", "-c", script]).ok();
    let inside = |script: &str| engine(&["exec", "life", "sh", "-c", script]);
    assert!(inside(MEMORY).stdout.starts_with("67108864\n"));
    assert!(inside(PIDS).stdout.starts_with("20\n"));
    assert_eq!(inside("exit 3").code, 3);
    // Docker says it where the program's output would be.
    let missing = engine(&["exec", "life", "nonesuch"]);
    let words = missing.stdout.clone() + &missing.stderr;
    assert!(words.contains("executable file not found"), "{missing:#?}");
    assert_eq!(missing.code, 127);
    let terminal = engine(&["exec", "-t", "life", "tty"]);
    assert!(terminal.stdout.starts_with("/dev/pts/"), "{terminal:#?}");
    eventually("the log has its line", || {
        engine(&["logs", "life"])
            .ok()
            .contains("tick")
            .then_some(())
    });
    let status = || engine(&["inspect", "-f", "{{.State.Status}}", "life"]).ok();
    engine(&["pause", "life"]).ok();
    assert_eq!(status(), "paused");
    engine(&["unpause", "life"]).ok();
    assert_eq!(status(), "running");
    let update = ["update", "-m", "100m", "--memory-swap", "200m", "life"];
    engine(&update).ok();
    assert!(inside(MEMORY).stdout.starts_with("104857600\n"));
    assert!(engine(&["top", "life"]).ok().contains("sleep"));
    engine(&["stats", "--no-stream", "life"]).ok();
    let code = || engine(&["inspect", "-f", "{{.State.ExitCode}}", "life"]).ok();
    engine(&["stop", "life"]).ok();
    assert_eq!(code(), "5");
    engine(&["start", "life"]).ok();
    engine(&["kill", "life"]).ok();
    assert_eq!(engine(&["wait", "life"]).ok(), "137");
    engine(&["rm", "life"]).ok();
    // A container that runs is removed.
    run(
        &["-d", "--name", "gone", "--stop-signal", "KILL"],
        &["sleep", "1000"],
    )
    .ok();
    engine(&["rm", "-f", "gone"]).ok();
}

#[test]
fn dockerd() {
    let Some(dockerd) = peer("dockerd") else {
        return;
    };
    if !possible("docker client", installed("docker")) {
        return;
    }
    let mut place = Place::new();
    let host = format!("unix://{}", place.path("docker.sock"));
    let (data, exec, pid) = (place.path("data"), place.path("run"), place.path("pid"));
    let berth = format!("berth={}", runtime());
    let flags = [
        ["-H", &host],
        ["--data-root", &data],
        ["--exec-root", &exec],
        ["--pidfile", &pid],
        ["--add-runtime", &berth],
        ["--init-path", &runtime()],
        ["--bridge", "none"],
    ];
    let mut flags = flags.concat();
    flags.extend(["--iptables=false", "--ip6tables=false"]);
    place.serve(dockerd, &flags);
    let docker = |args: &[&str]| run(&[&["docker", "-H", &host], args].concat(), b"");
    eventually("dockerd comes up", || {
        (docker(&["version"]).code == 0).then_some(())
    });
    let import = ["docker", "-H", &host, "import", "-", "busybox"];
    run(&import, &image::busybox_rootfs()).ok();
    let group = place.group.clone();
    let flags = [
        "--runtime",
        "berth",
        "--network",
        "none",
        "--cgroup-parent",
        &group,
    ];
    life(&docker, &flags, "busybox");
    let init = [&["run", "--rm", "--init"], &flags[..], &["busybox", "ps"]].concat();
    assert!(docker(&init).ok().contains("/sbin/docker-init"));
    place.assert_clean();
}

fn podman(program: &[String]) {
    let place = Place::new();
    let (root, state, runtime) = (place.path("storage"), place.path("run"), runtime());
    let (tmp, hooks) = (place.path("tmp"), place.path("hooks"));
    std::fs::create_dir(&hooks).unwrap();
    let mut words: Vec<&str> = program.iter().map(String::as_str).collect();
    words.extend(["--root", &root, "--runroot", &state, "--tmpdir", &tmp]);
    words.extend(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
    words.extend(["--events-backend", "file", "--runtime", &runtime]);
    words.extend(["--hooks-dir", &hooks]);
    // That of the tree may lack its libraries.
    let conmon = place.path("conmon");
    if program.len() > 1 {
        std::fs::copy("/usr/bin/conmon", &conmon).unwrap();
        words.extend(["--conmon", &conmon]);
    }
    let podman = |args: &[&str]| run(&[&words[..], args].concat(), b"");
    let import = [&words[..], &["import", "-", "localhost/busybox"]].concat();
    run(&import, &image::busybox_rootfs()).ok();
    let flags = ["--network", "none", "--cgroup-parent", &place.group];
    life(&podman, &flags, "localhost/busybox");
    let once = |more: &[&str], command: &[&str]| {
        let image = ["localhost/busybox"];
        podman(&[&["run", "--rm"], &flags[..], more, &image, command].concat()).ok()
    };
    let map = once(
        &["--uidmap", "0:100000:65536"],
        &["cat", "/proc/self/uid_map"],
    );
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(map, ["0", "100000", "65536"]);

    let log = place.path("hooks.log");
    let script = format!("(cat; echo) >> {log}");
    let hook = serde_json::json!({
        "version": "1.0.0",
        "hook": {"path": "/bin/sh", "args": ["sh", "-c", script]},
        "when": {"always": true},
        "stages": ["createRuntime", "poststart"],
    });
    std::fs::write(Path::new(&hooks).join("hook.json"), hook.to_string()).unwrap();
    once(&[], &["true"]);
    let states = std::fs::read_to_string(&log).unwrap();
    let states: Vec<serde_json::Value> = (states.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(states[0]["status"], "creating");
    assert_eq!(states[1]["status"], "running");
    assert_eq!(states.len(), 2);

    if criu_works(program) {
        podman_checkpoint(&podman, &flags, &place.path("checkpoint.tar.gz"));
    }
    place.assert_clean();
}

/// Whether CRIU works where this program runs.
fn criu_works(program: &[String]) -> bool {
    let mut words: Vec<&str> = program.iter().map(String::as_str).collect();
    words.pop();
    words.extend(["criu", "check"]);
    possible("CRIU that works", run(&words, b"").code == 0)
}

/// A container that is checkpointed and restored, in place and from an archive.
fn podman_checkpoint(podman: &dyn Fn(&[&str]) -> Run, flags: &[&str], archive: &str) {
    let counter = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";
    let image = ["localhost/busybox", "sh", "-c", counter];
    podman(&[&["run", "-d", "--name", "count"], flags, &image].concat()).ok();
    let last = || -> Option<u32> { podman(&["logs", "count"]).ok().lines().last()?.parse().ok() };
    let beyond = |number: u32| eventually("it counts on", || last().filter(|n| *n > number));
    let status = || podman(&["inspect", "-f", "{{.State.Status}}", "count"]).ok();
    let container = |args: &[&str]| podman(&[&["container"], args].concat());
    beyond(5);
    container(&["checkpoint", "count"]).ok();
    assert_eq!(status(), "exited");
    let stopped = beyond(5);
    container(&["restore", "count"]).ok();
    assert_eq!(status(), "running");
    assert!(beyond(stopped) < stopped + 1000);
    container(&["checkpoint", "--leave-running", "count"]).ok();
    beyond(beyond(stopped));
    container(&["checkpoint", "--export", archive, "count"]).ok();
    let stopped = beyond(stopped);
    podman(&["rm", "count"]).ok();
    container(&["restore", "--import", archive]).ok();
    beyond(stopped);
    podman(&["rm", "-f", "-t", "0", "count"]).ok();
}

#[test]
fn podman_of_this_machine() {
    if possible("podman", installed("podman")) {
        podman(&["podman".to_owned()]);
    }
}

#[test]
fn podman_of_the_peers() {
    if let Some(program) = peer("podman")
        && possible("conmon", installed("conmon"))
    {
        podman(&program);
    }
}

#[test]
fn containerd() {
    let (Some(containerd), Some(ctr)) = (peer("containerd"), peer("ctr")) else {
        return;
    };
    let mut place = Place::new();
    let socket = place.path("containerd.sock");
    let (data, state) = (place.path("data"), place.path("state"));
    let flags = ["--address", &socket, "--root", &data, "--state", &state];
    place.serve(containerd, &flags);
    let ctr = |args: &[&str]| {
        let mut words: Vec<&str> = ctr.iter().map(String::as_str).collect();
        words.extend(["--address", &socket]);
        run(&[&words[..], args].concat(), b"")
    };
    eventually("containerd comes up", || {
        (ctr(&["version"]).code == 0).then_some(())
    });
    let (rootfs, runtime) = (place.rootfs(), runtime());
    let group = format!("{}/one", place.group);
    let make = |more: &[&str], id: &str, command: &[&str]| {
        let flags = ["run", "--runc-binary", &runtime, "--cgroup", &group];
        ctr(&[&flags[..], more, &["--rootfs", &rootfs, id], command].concat())
    };
    assert_eq!(make(&["--rm"], "once", &["echo", "hi"]).ok(), "hi");
    assert_eq!(make(&["--rm"], "code", &["sh", "-c", "exit 7"]).code, 7);
    let limit = ["-d", "--memory-limit", "67108864"];
    make(&limit, "long", &["sleep", "1000"]).ok();
    let task = |args: &[&str]| ctr(&[&["task"], args].concat());
    let inside = [
        "exec",
        "--exec-id",
        "x",
        "long",
        "sh",
        "-c",
        "echo in; exit 3",
    ];
    let inside = task(&inside);
    assert_eq!((inside.code, inside.stdout.as_str()), (3, "in\n"));
    task(&["pause", "long"]).ok();
    assert!(task(&["ls"]).ok().contains("PAUSED"));
    task(&["resume", "long"]).ok();
    assert!(task(&["ps", "long"]).ok().lines().count() > 1);
    assert!(task(&["metrics", "long"]).ok().contains("67108864"));
    task(&["kill", "-s", "KILL", "long"]).ok();
    eventually("it ends", || {
        task(&["ls"]).ok().contains("STOPPED").then_some(())
    });
    task(&["rm", "long"]);
    ctr(&["container", "rm", "long"]).ok();
    place.assert_clean();
}

/// `ctr` restores only what is of an image.
#[test]
fn containerd_checkpoint() {
    let (Some(containerd), Some(ctr)) = (peer("containerd"), peer("ctr")) else {
        return;
    };
    if !criu_works(&ctr) {
        return;
    }
    let mut place = Place::new();
    let socket = place.path("containerd.sock");
    let (data, state) = (place.path("data"), place.path("state"));
    let flags = ["--address", &socket, "--root", &data, "--state", &state];
    place.serve(containerd, &flags);
    let ctr = |args: &[&str]| {
        let mut words: Vec<&str> = ctr.iter().map(String::as_str).collect();
        words.extend(["--address", &socket]);
        run(&[&words[..], args].concat(), b"")
    };
    eventually("containerd comes up", || {
        (ctr(&["version"]).code == 0).then_some(())
    });
    let mut content = oci::Content::default();
    let layer = oci::compressed(&image::busybox_rootfs());
    let digest = content.image(oci::HOST, vec![layer]);
    let (layout, archive) = (place.path("layout"), place.path("image.tar"));
    content.write_layout(Path::new(&layout), "localhost/busybox:latest", &digest);
    run(&["tar", "-cf", &archive, "-C", &layout, "."], b"").ok();
    let native = ["--snapshotter", "native"];
    ctr(&[&["image", "import", "--local"], &native[..], &[&archive]].concat()).ok();

    let (group, runtime, out) = (format!("{}/one", place.group), runtime(), place.path("out"));
    std::fs::create_dir(&out).unwrap();
    let mount = format!("type=bind,src={out},dst=/out,options=rbind:rw");
    let flags = ["run", "-d", "--runc-binary", &runtime, "--cgroup", &group];
    let counter = "i=0; while :; do i=$((i+1)); echo $i >/out/n; sleep 0.05; done";
    let what = ["localhost/busybox:latest", "long", "sh", "-c", counter];
    ctr(&[&flags[..], &native, &["--mount", &mount], &what].concat()).ok();
    let last = || -> Option<u32> {
        let text = std::fs::read_to_string(Path::new(&out).join("n")).ok()?;
        text.trim().parse().ok()
    };
    let beyond = |number: u32| eventually("it counts on", || last().filter(|n| *n > number));
    beyond(5);
    ctr(&["containers", "checkpoint", "--task", "long", "here"]).ok();
    // It was left running.
    beyond(beyond(5));
    let end = || {
        eventually("it ends", || {
            let ended = ctr(&["task", "ls"]).ok().contains("STOPPED");
            ended.then_some(())
        });
        ctr(&["task", "rm", "long"]);
        ctr(&["containers", "rm", "long"]).ok();
    };
    ctr(&["task", "kill", "-s", "KILL", "long"]).ok();
    end();
    let stopped = last().unwrap();
    std::fs::remove_file(Path::new(&out).join("n")).unwrap();
    ctr(&["containers", "restore", "--live", "long", "here"]).ok();
    assert!(beyond(5) < stopped + 1000);
    let (images, work) = (place.path("images"), place.path("work"));
    let paths = ["--image-path", &images, "--work-path", &work];
    ctr(&[&["task", "checkpoint", "--exit"], &paths[..], &["long"]].concat()).ok();
    assert!(Path::new(&images).join("inventory.img").exists());
    end();
    place.assert_clean();
}

#[test]
fn buildah() {
    if !possible("buildah", installed("buildah")) {
        return;
    }
    let place = Place::new();
    let (root, state, runtime) = (place.path("storage"), place.path("run"), runtime());
    let buildah = |args: &[&str]| {
        let words = ["buildah", "--root", &root, "--runroot", &state];
        run(
            &[&words[..], &["--storage-driver", "vfs"], args].concat(),
            b"",
        )
    };
    let name = buildah(&["from", "scratch"]).ok();
    let rootfs = place.rootfs();
    buildah(&["copy", &name, &rootfs, "/"]).ok();
    let inside = |command: &[&str]| {
        let flags = [
            "run",
            "--runtime",
            &runtime,
            "--network",
            "none",
            &name,
            "--",
        ];
        buildah(&[&flags[..], command].concat())
    };
    inside(&["sh", "-c", "echo made > /made"]).ok();
    assert_eq!(inside(&["cat", "/made"]).ok(), "made");
    assert_ne!(inside(&["sh", "-c", "exit 7"]).code, 0);
    buildah(&["rm", &name]).ok();
    place.assert_clean();
}

/// A bundle that umoci made of an image that buildah would have pulled.
#[test]
fn umoci() {
    if !possible("umoci", installed("umoci")) {
        return;
    }
    let place = Place::new();
    let (layout, bundle) = (place.path("layout"), place.path("bundle"));
    let tagged = format!("{layout}:x");
    run(&["umoci", "init", "--layout", &layout], b"").ok();
    run(&["umoci", "new", "--image", &tagged], b"").ok();
    run(&["umoci", "unpack", "--image", &tagged, &bundle], b"").ok();
    let into = Path::new(&bundle).join("rootfs");
    tar::Archive::new(&image::busybox_rootfs()[..])
        .unpack(into)
        .unwrap();
    let path = Path::new(&bundle).join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["process"]["args"] = serde_json::json!(["sh", "-c", "echo hi; exit 7"]);
    config["process"]["terminal"] = false.into();
    config["linux"]["cgroupsPath"] = format!("{}/umoci", place.group).into();
    std::fs::write(&path, config.to_string()).unwrap();
    let state = place.path("state");
    let runtime = runtime();
    let output = run(
        &[&runtime, "--root", &state, "run", "-b", &bundle, "u"],
        b"",
    );
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (7, "hi\n"),
        "{output:#?}"
    );
    place.assert_clean();
}
