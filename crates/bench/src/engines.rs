//! Whole commands against whole engines.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth_e2e::{Engine, Run};

use crate::sample::{Series, Subject, in_turn, table};

pub(crate) fn measure(rounds: usize) {
    let berth = Engine::start_with(&["--network-pool", "8"]);
    let without_pool = Engine::start_with(&["--network-pool", "0"]);
    let docker = Docker::start();
    let podman = Podman::find();

    for network in ["none", "bridge"] {
        for (pacing, pause) in [
            ("back to back", Duration::ZERO),
            ("after 100 ms of rest", Duration::from_millis(100)),
        ] {
            let mut subjects = vec![
                berth_run("berth, slots ready", &berth, network),
                berth_run("berth, no slot left", &without_pool, network),
            ];
            if let Some(docker) = &docker {
                subjects.push(docker.subject("docker", &run(network, "busybox")));
            }
            if let Some(podman) = &podman {
                subjects.push(podman.subject(&run(network, "localhost/busybox")));
            }
            table(
                &format!("run --rm --network {network} busybox true, {pacing}"),
                &in_turn(&mut subjects, rounds, pause),
            );
        }
    }

    berth
        .berth(&["run", "-d", "--name", "cc", "busybox", "sleep", "3600"])
        .ok();
    let mut subjects = vec![Subject {
        name: "berth".into(),
        command: Box::new(|_| {
            let mut command = berth.command("berth");
            command.args(["exec", "cc", "true"]);
            command
        }),
    }];
    if let Some(docker) = &docker {
        crate::sample::time(
            docker
                .command()
                .args(["run", "-d", "--name", "cc", "busybox", "sleep", "3600"]),
        );
        subjects.push(docker.subject("docker", &["exec", "cc", "true"]));
    }
    table(
        "exec c true, back to back",
        &in_turn(&mut subjects, rounds, Duration::ZERO),
    );
    drop(subjects);

    let mut rows = vec![many("berth", || berth.command("berth"))];
    if let Some(docker) = &docker {
        rows.push(many("docker", || docker.command()));
    }
    table("50 × run --rm busybox true, 8 at a time (whole)", &rows);
}

/// The command that is measured; limits hold in all engines alike.
fn run<'a>(network: &'a str, image: &'a str) -> [&'a str; 10] {
    [
        "run",
        "--rm",
        "--network",
        network,
        "--memory",
        "256m",
        "--pids-limit",
        "100",
        image,
        "true",
    ]
}

fn berth_run<'a>(name: &str, engine: &'a Engine, network: &'a str) -> Subject<'a> {
    Subject {
        name: name.into(),
        command: Box::new(move |_| {
            let mut command = engine.command("berth");
            command.args(run(network, "busybox"));
            command
        }),
    }
}

/// Fifty runs, eight at a time, three times over.
fn many(name: &str, command: impl Fn() -> Command) -> Series {
    let mut series = Series::new(name);
    for _ in 0..3 {
        let start = Instant::now();
        let mut running: Vec<Child> = Vec::new();
        for _ in 0..50 {
            if running.len() == 8 {
                wait_for_one(&mut running);
            }
            let child = command()
                .args(run("bridge", "busybox"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .expect("the client starts");
            running.push(child);
        }
        while !running.is_empty() {
            wait_for_one(&mut running);
        }
        series.add(start.elapsed());
    }
    series
}

fn wait_for_one(running: &mut Vec<Child>) {
    loop {
        for index in 0..running.len() {
            if running[index].try_wait().expect("our child").is_some() {
                let status = running.swap_remove(index).wait().expect("our child");
                assert!(status.success(), "a run ended with {status}");
                return;
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A dockerd of our own, when one is installed: in PATH, or in a tree made by
/// scripts/peers.sh that BERTH_PEERS names.
pub(crate) struct Docker {
    daemon: Child,
    dir: tempfile::TempDir,
}

impl Docker {
    fn start() -> Option<Self> {
        let docker = Self::start_in(Path::new("/var/tmp"))?;
        Run::new(
            docker.command().args(["import", "-", "busybox"]),
            &berth_e2e::image::busybox_rootfs(),
        )
        .ok();
        Some(docker)
    }

    /// Without images, its data below `place`.
    pub(crate) fn start_in(place: &Path) -> Option<Self> {
        // In a network namespace of its own, as berth's engines are.
        let peer = peer("dockerd")?;
        let mut launch = Command::new("unshare");
        launch.args(["--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"]);
        launch.arg(peer.get_program()).args(peer.get_args());
        let dir = tempfile::Builder::new()
            .prefix("bench-docker-")
            .tempdir_in(place)
            .expect("the directory can be written");
        let path = |name: &str| dir.path().join(name);
        launch
            .arg("-H")
            .arg(format!("unix://{}", path("docker.sock").display()))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("run"))
            .arg("--pidfile")
            .arg(path("docker.pid"));
        let log = std::fs::File::create(path("log")).expect("a fresh directory");
        let daemon = launch
            .stdin(Stdio::null())
            .stdout(Stdio::from(
                log.try_clone().expect("a descriptor is to be had"),
            ))
            .stderr(Stdio::from(log))
            .spawn()
            .expect("dockerd starts");
        let docker = Self { daemon, dir };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !docker
            .command()
            .arg("version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
        {
            if Instant::now() > deadline {
                println!(
                    "(dockerd did not come up: {})",
                    std::fs::read_to_string(docker.dir.path().join("log")).unwrap_or_default()
                );
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(docker)
    }

    /// The daemon's process, which is in a network namespace of its own.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env(
            "DOCKER_HOST",
            format!("unix://{}", self.dir.path().join("docker.sock").display()),
        );
        command.env("DOCKER_CONFIG", self.dir.path());
        command
    }

    /// Whether the client can drive BuildKit: with a plugin that is installed,
    /// or that of the tree which BERTH_PEERS names.
    pub(crate) fn has_buildx(&self) -> bool {
        if let Ok(peers) = std::env::var("BERTH_PEERS") {
            let plugins = Path::new(&peers).join("usr/libexec/docker/cli-plugins");
            let config = serde_json::json!({ "cliPluginsExtraDirs": [plugins] });
            std::fs::write(self.dir.path().join("config.json"), config.to_string())
                .expect("a file of ours");
        }
        (self.command().args(["buildx", "version"]))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn subject<'a>(&'a self, name: &str, args: &[&'a str]) -> Subject<'a> {
        let args = args.to_vec();
        Subject {
            name: name.into(),
            command: Box::new(move |_| {
                let mut command = self.command();
                command.args(&args);
                command
            }),
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self
            .command()
            .args(["rm", "-f", "cc"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = Command::new("kill")
            .arg(self.daemon.id().to_string())
            .status();
        let _ = self.daemon.wait();
    }
}

pub(crate) struct Podman {
    dir: tempfile::TempDir,
    /// Keeps a network namespace with a loopback of its own.
    network: Child,
}

impl Podman {
    fn find() -> Option<Self> {
        let podman = Self::find_in(Path::new("/var/tmp"))?;
        // An unpacked tree may lack a library of its parts.
        let import = Run::new(
            podman.command().args(["import", "-", "localhost/busybox"]),
            &berth_e2e::image::busybox_rootfs(),
        );
        let first = run("none", "localhost/busybox");
        let first = Run::new(podman.command().args(first), b"");
        for run in [import, first] {
            if run.code != 0 {
                println!("(podman cannot run containers here: {})", run.stderr.trim());
                return None;
            }
        }
        Some(podman)
    }

    /// Without images, its data below `place`.
    pub(crate) fn find_in(place: &Path) -> Option<Self> {
        peer("podman")?;
        let dir = tempfile::Builder::new()
            .prefix("bench-podman-")
            .tempdir_in(place)
            .expect("the directory can be written");
        let network = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up; exec sleep infinity",
            ])
            .spawn()
            .expect("util-linux and iproute2 are installed");
        Some(Self { dir, network })
    }

    /// A process in the network namespace of the commands.
    pub(crate) fn network(&self) -> u32 {
        self.network.id()
    }

    pub(crate) fn command(&self) -> Command {
        let podman = peer("podman").expect("found before");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.network.id()))
            .arg(podman.get_program())
            .args(podman.get_args())
            .arg("--root")
            .arg(self.dir.path().join("root"))
            .arg("--runroot")
            .arg(self.dir.path().join("run"))
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
            .env("PODMAN_IGNORE_CGROUPSV1_WARNING", "1");
        command
    }

    fn subject<'a>(&'a self, args: &[&'a str]) -> Subject<'a> {
        let args = args.to_vec();
        Subject {
            name: "podman".into(),
            command: Box::new(move |_| {
                let mut command = self.command();
                command.args(&args);
                command
            }),
        }
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.network.kill();
        let _ = self.network.wait();
    }
}

const IN_PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/in-peers.sh");

/// A peer's program: from PATH, or run inside the tree that BERTH_PEERS names
/// (laid over the host's root in a mount namespace of its own).
fn peer(program: &str) -> Option<Command> {
    if let Some(root) = std::env::var_os("BERTH_PEERS").map(PathBuf::from)
        && ["usr/bin", "usr/sbin"]
            .iter()
            .any(|dir| root.join(dir).join(program).is_file())
    {
        let mut command = Command::new(IN_PEERS);
        command.arg(root).arg(program);
        return Some(command);
    }
    if berth_e2e::installed(program) {
        return Some(Command::new(program));
    }
    println!("({program} is not installed)");
    None
}
