//! Images: pull, push, load, save and removal against whole engines, each with
//! a registry on its own loopback that holds the same two images.
//!
//! "mixed" is ten layers of 300 MB of mixed files, "small" one layer of 44,597
//! small files (scripts/bench-images.sh makes both, without a network).

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_e2e::{Engine, Run};

use crate::engines::{Docker, Podman};
use crate::sample::{Series, table, time};

/// On every engine's own loopback; pushes go to fresh registries above it, so
/// that none has the layers already.
const PORT: u16 = 5000;
const IMAGES: [&str; 2] = ["mixed", "small"];
/// In the order in which they can follow each other.
const STEPS: [&str; 5] = ["pull", "push", "save", "rmi", "load"];

/// In each of the directories: a disk and memory are two stories.
pub(crate) fn measure(rounds: usize, places: &[String]) {
    let rounds = rounds.clamp(1, 5);
    for place in places {
        let dir = tempfile::Builder::new()
            .prefix("bench-images-")
            .tempdir_in(place)
            .expect("the directory can be written");
        println!("Images, data on {}\n", file_system(dir.path()));
        let images = make_images(dir.path());
        let mut subjects = subjects(dir.path());
        for subject in &mut subjects {
            subject.fill(&images);
        }
        for image in IMAGES {
            one(&mut subjects, image, rounds);
        }
        drop(subjects);
        if Some(place) == places.first() {
            many(dir.path(), 10);
        }
    }
}

/// A thousand images of one small layer each, listed through the API.
fn many(dir: &Path, rounds: usize) {
    const COUNT: usize = 1000;
    let engine = Engine::start_in(dir, &[]);
    let archive = berth_e2e::image::busybox_rootfs();
    engine.berth_with(&["import", "-", "many:0"], &archive).ok();
    for number in 1..COUNT {
        let change = format!("LABEL number={number}");
        let name = format!("many:{number}");
        let args = ["import", "--change", &change, "-", &name];
        engine.berth_with(&args, &archive).ok();
    }
    let mut subjects = vec![crate::sample::Subject {
        name: "berth, GET /images/json".into(),
        command: Box::new(|_| {
            let mut command = Command::new("curl");
            command.args(["-sf", "-o", "/dev/null", "--unix-socket"]);
            command.arg(engine.socket());
            command.arg("http://localhost/v1.50/images/json");
            command
        }),
    }];
    table(
        &format!("list of {COUNT} images, the start of curl included"),
        &crate::sample::in_turn(&mut subjects, rounds, Duration::ZERO),
    );
}

fn make_images(dir: &Path) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/bench-images.sh");
    let images = dir.join("images");
    time(Command::new(script).arg(&images));
    images
}

fn file_system(dir: &Path) -> String {
    Run::new(Command::new("stat").args(["-f", "-c", "%T"]).arg(dir), b"").ok()
}

fn one(subjects: &mut [Subject], image: &str, rounds: usize) {
    let mut rows: Vec<Vec<Series>> = STEPS
        .iter()
        .map(|_| {
            (subjects.iter())
                .map(|subject| Series::new(subject.name))
                .collect()
        })
        .collect();
    for round in 0..=rounds {
        for (at, subject) in subjects.iter_mut().enumerate() {
            for (step, rows) in STEPS.iter().zip(&mut rows) {
                let elapsed = subject.step(step, image, round);
                // The first round warms up.
                if round > 0 {
                    rows[at].add(elapsed);
                }
            }
            subject.step("rmi", image, round);
        }
    }
    for (step, rows) in STEPS.iter().zip(&rows) {
        table(&format!("{step} of {image}"), rows);
    }
    for subject in subjects {
        if let Some(peak) = subject.peak() {
            println!("  {}: peak memory of the engine {peak} kB", subject.name);
        }
    }
    println!();
}

/// An engine, and the registries on its loopback.
struct Subject {
    name: &'static str,
    engine: Kind,
    dir: PathBuf,
    /// Holds both images.
    registry: Option<Registry>,
}

enum Kind {
    Berth(Engine),
    Docker(Docker),
    Podman(Podman),
}

fn subjects(dir: &Path) -> Vec<Subject> {
    let mut kinds = vec![("berth", Kind::Berth(Engine::start_in(dir, &[])))];
    kinds.extend(Docker::start_in(dir).map(|docker| ("docker", Kind::Docker(docker))));
    kinds.extend(Podman::find_in(dir).map(|podman| ("podman", Kind::Podman(podman))));
    kinds
        .into_iter()
        .map(|(name, engine)| Subject {
            name,
            engine,
            dir: dir.join(format!("work-{name}")),
            registry: None,
        })
        .collect()
}

impl Subject {
    fn command(&self) -> Command {
        match &self.engine {
            Kind::Berth(engine) => engine.command("berth"),
            Kind::Docker(docker) => docker.command(),
            Kind::Podman(podman) => podman.command(),
        }
    }

    /// The process whose network namespace the engine is in.
    fn network(&self) -> u32 {
        match &self.engine {
            Kind::Berth(engine) => engine.pid().unsigned_abs(),
            Kind::Docker(docker) => docker.pid(),
            Kind::Podman(podman) => podman.network(),
        }
    }

    /// Starts the registry and copies the images into it.
    fn fill(&mut self, images: &Path) {
        std::fs::create_dir_all(&self.dir).expect("a fresh directory");
        let registry = Registry::start(self.network(), &self.dir.join("registry"), PORT);
        for image in IMAGES {
            time(
                inside(self.network())
                    .args(["skopeo", "--insecure-policy", "copy", "--quiet"])
                    .arg("--dest-tls-verify=false")
                    .arg(format!("oci:{}", images.join(image).display()))
                    .arg(format!("docker://127.0.0.1:{PORT}/{image}:latest")),
            );
        }
        self.registry = Some(registry);
    }

    fn step(&self, step: &str, image: &str, round: usize) -> Duration {
        let name = format!("127.0.0.1:{PORT}/{image}:latest");
        let archive = self.dir.join("saved.tar");
        let mut command = self.command();
        match step {
            "pull" => {
                command.args(["pull", "--quiet"]);
                if matches!(self.engine, Kind::Podman(_)) {
                    command.arg("--tls-verify=false");
                }
                command.arg(&name);
            }
            "push" => return self.push(&name, round),
            "save" => {
                let _ = std::fs::remove_file(&archive);
                command.arg("save");
                if matches!(self.engine, Kind::Podman(_)) {
                    command.arg("--quiet");
                }
                command.arg("-o").arg(&archive).arg(&name);
            }
            "load" => {
                command.arg("load").arg("-i").arg(&archive);
            }
            _ => {
                command.args(["rmi", &name]);
            }
        }
        time(&mut command)
    }

    fn push(&self, name: &str, round: usize) -> Duration {
        let port = PORT + 1 + u16::try_from(round).unwrap_or(0);
        let root = self.dir.join("pushed");
        let registry = Registry::start(self.network(), &root, port);
        let target = format!("127.0.0.1:{port}/pushed:latest");
        time(self.command().args(["tag", name, &target]));
        let mut command = self.command();
        command.arg("push");
        match &self.engine {
            Kind::Podman(_) => command.arg("--tls-verify=false"),
            _ => command.arg("--quiet"),
        };
        let elapsed = time(command.arg(&target));
        time(self.command().args(["rmi", &target]));
        drop(registry);
        let _ = std::fs::remove_dir_all(&root);
        elapsed
    }

    /// Highest resident size in kB since the last look; nothing for engines
    /// without a daemon.
    fn peak(&self) -> Option<u64> {
        if matches!(self.engine, Kind::Podman(_)) {
            return None;
        }
        let pid = self.network();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // 5: forget the peak.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

/// Runs a command in the network namespace of a process.
fn inside(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net"));
    command
}

/// The reference registry (package docker-registry) on a loopback.
struct Registry(Child);

impl Registry {
    fn start(network: u32, root: &Path, port: u16) -> Self {
        std::fs::create_dir_all(root).expect("a fresh directory");
        let config = root.join("config.yml");
        let address = (Ipv4Addr::LOCALHOST, port);
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: '{}:{}'}}\n",
            root.join("data").display(),
            address.0,
            address.1
        );
        std::fs::write(&config, text).expect("the directory can be written");
        let child = inside(network)
            .args(["docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed (scripts/setup.sh)");
        let url = format!("http://127.0.0.1:{port}/v2/");
        berth_e2e::eventually("the registry answers", || {
            inside(network)
                .args(["curl", "-sf", &url])
                .stdout(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
                .then_some(())
        });
        Self(child)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
