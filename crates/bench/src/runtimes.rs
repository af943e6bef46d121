//! OCI runtimes on one bundle: times of their commands, memory, system calls.
//!
//! All run the same configuration as the same user, in turn, with limits in force
//! and in the same layout of control groups.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, set_child_subreaper, waitpid};

use crate::sample::{in_turn_by, table, time};

/// Peers by name, found in PATH.
const PEERS: &[&str] = &["crun", "runc", "youki"];

/// The version 2 hierarchy of the hybrid layout.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

pub(crate) fn measure(rounds: usize) {
    if Path::new(UNIFIED).join("cgroup.controllers").exists() {
        return without_unified(rounds);
    }
    // Containers outlive the command that makes them: they end as our children.
    set_child_subreaper(Pid::from_raw(1)).expect("Linux has subreapers");
    let dir = tempfile::tempdir().expect("/tmp can be written");
    let mut runtimes = vec![Runtime::new(
        "berth-runtime",
        berth_e2e::engine::bin_dir().join("berth-runtime"),
        dir.path(),
    )];
    for &peer in PEERS {
        match find(peer) {
            Some(program) => runtimes.push(Runtime::new(peer, program, dir.path())),
            None => println!("({peer} is not installed)"),
        }
    }
    for runtime in &runtimes {
        println!("{}: {}", runtime.name, runtime.version());
    }
    println!();
    let names: Vec<_> = runtimes.iter().map(|runtime| runtime.name).collect();
    let figures = |what: &str, figure: &dyn Fn(&Runtime, &str) -> Duration| {
        table(
            &format!("OCI runtime: {what}"),
            &in_turn_by(&names, rounds, |runtime, round| {
                figure(
                    &runtimes[runtime],
                    &format!("bench-{}-{round}", names[runtime]),
                )
            }),
        );
    };
    let plain = "full Docker-like bundle";
    figures(&format!("run, {plain}"), &|runtime, id| runtime.run(id));
    figures("run, the same after 100 ms of rest", &|runtime, id| {
        std::thread::sleep(Duration::from_millis(100));
        runtime.run(id)
    });
    figures("run, the same without seccomp", &|runtime, id| {
        runtime.run_in(&runtime.unfiltered, id)
    });
    figures(
        &format!("create + start + delete, {plain}"),
        &|runtime, id| runtime.create_start_delete(id),
    );
    for runtime in &runtimes {
        runtime.keep_running();
    }
    figures("exec", &|runtime, _| runtime.exec());
    figures("state", &|runtime, _| runtime.state());
    for runtime in &runtimes {
        runtime.stop_running();
    }
    println!(
        "  {:<20}{:>14}{:>14}{:>14}{:>16}",
        "", "peak kB (run)", "system calls", "processes", "program bytes"
    );
    for runtime in &runtimes {
        let (calls, processes) = runtime.calls().unzip();
        println!(
            "  {:<20}{:>14}{:>14}{:>14}{:>16}",
            runtime.name,
            shown(runtime.peak_memory()),
            shown(calls),
            shown(processes),
            runtime.size()
        );
    }
    println!(
        "  (peak: the largest resident set of one process of a run, by GNU time; system calls\n  \
         of a run and its processes, by strace -f; programs without their libraries)\n"
    );
}

fn shown(figure: Option<u64>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string())
}

/// A program in PATH.
fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A runtime with a bundle and a root for states of its own.
struct Runtime {
    name: &'static str,
    program: PathBuf,
    root: PathBuf,
    /// Ends at once.
    bundle: PathBuf,
    /// The same without a system call filter.
    unfiltered: PathBuf,
    /// Stays; the container that `exec` and `state` are about.
    staying: PathBuf,
    running: String,
}

impl Runtime {
    fn new(name: &'static str, program: PathBuf, dir: &Path) -> Self {
        let dir = dir.join(name);
        let bundle = |kind: &str, change: &dyn Fn(&mut serde_json::Value)| {
            let path = dir.join(kind);
            let mut config = configuration();
            change(&mut config);
            make_bundle(&path, &config);
            path
        };
        Self {
            name,
            running: format!("bench-{name}-running"),
            program,
            root: dir.join("state"),
            bundle: bundle("bundle", &|_| {}),
            unfiltered: bundle("unfiltered", &|config| {
                config["linux"]["seccomp"] = serde_json::Value::Null;
            }),
            staying: bundle("staying", &|config| {
                config["process"]["args"] = serde_json::json!(["/bin/sleep", "100000"]);
            }),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        self.wrapped(&[], args)
    }

    /// The command as an argument of another program, if any.
    fn wrapped(&self, by: &[&str], args: &[&str]) -> Command {
        let mut words = by
            .iter()
            .map(|word| Path::new(*word))
            .chain([&*self.program]);
        let mut command = Command::new(words.next().expect("there is one at least"));
        command.args(words).arg("--root").arg(&self.root).args(args);
        command
    }

    fn version(&self) -> String {
        let output = Command::new(&self.program).arg("--version").output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().next().unwrap_or_default().to_owned()
    }

    fn run(&self, id: &str) -> Duration {
        self.run_in(&self.bundle, id)
    }

    fn run_in(&self, bundle: &Path, id: &str) -> Duration {
        time(self.command(&["run", "--bundle"]).arg(bundle).arg(id))
    }

    /// The sum of the three; that the process ends between them is not counted.
    fn create_start_delete(&self, id: &str) -> Duration {
        let pid_file = self.root.join("pid");
        let mut create = self.command(&["create", "--bundle"]);
        create.arg(&self.bundle).arg("--pid-file").arg(&pid_file);
        let create = time(create.arg(id));
        let start = time(&mut self.command(&["start", id]));
        reap(&pid_file);
        create + start + time(&mut self.command(&["delete", id]))
    }

    fn keep_running(&self) {
        let mut run = self.command(&["run", "--detach", "--bundle"]);
        run.arg(&self.staying).arg("--pid-file");
        time(run.arg(self.root.join("pid")).arg(&self.running));
    }

    fn stop_running(&self) {
        time(&mut self.command(&["kill", &self.running, "KILL"]));
        reap(&self.root.join("pid"));
        time(&mut self.command(&["delete", &self.running]));
    }

    fn exec(&self) -> Duration {
        time(&mut self.command(&["exec", &self.running, "/bin/true"]))
    }

    fn state(&self) -> Duration {
        time(&mut self.command(&["state", &self.running]))
    }

    /// kB; `None` without GNU time.
    fn peak_memory(&self) -> Option<u64> {
        let time = find("time")?;
        let report = self.root.join("time");
        let by = [time.to_str()?, "--format=%M", "--output", report.to_str()?];
        let mut run = self.wrapped(&by, &["run", "--bundle"]);
        crate::sample::time(
            run.arg(&self.bundle)
                .arg(format!("bench-{}-memory", self.name)),
        );
        std::fs::read_to_string(report).ok()?.trim().parse().ok()
    }

    /// System calls of a run, and its processes; `None` without strace.
    fn calls(&self) -> Option<(u64, u64)> {
        find("strace")?;
        let report = self.root.join("strace");
        let by = [
            "strace",
            "-f",
            "-qq",
            "--signal=none",
            "-o",
            report.to_str()?,
        ];
        let mut run = self.wrapped(&by, &["run", "--bundle"]);
        time(
            run.arg(&self.bundle)
                .arg(format!("bench-{}-calls", self.name)),
        );
        let text = std::fs::read(report).ok()?;
        let text = String::from_utf8_lossy(&text);
        let calls = text.lines().filter(|line| !line.contains(" resumed>"));
        let mut processes: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        processes.sort_unstable();
        processes.dedup();
        Some((calls.count() as u64, processes.len() as u64))
    }

    fn size(&self) -> u64 {
        std::fs::metadata(&self.program).map_or(0, |metadata| metadata.len())
    }
}

/// Waits for the end of a container's process, which has come to us.
fn reap(pid_file: &Path) {
    let pid = std::fs::read_to_string(pid_file).ok();
    let pid = pid.and_then(|text| Pid::from_raw(text.trim().parse().ok()?));
    let (_, status) = waitpid(pid, WaitOptions::empty())
        .expect("it is our child")
        .expect("it was waited for");
    let status = std::process::ExitStatus::from_raw(status.as_raw());
    assert!(
        status.success() || status.signal() == Some(9),
        "the container ended with {status}"
    );
}

/// Measures in a mount namespace without that hierarchy, all runtimes alike: crun
/// refuses the hybrid layout.
fn without_unified(rounds: usize) {
    let own = std::env::current_exe().expect("a program knows its own path");
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg(format!("umount -l {UNIFIED}; exec \"$@\""))
        .arg("sh")
        .arg(own)
        .arg("--bin-dir")
        .arg(berth_e2e::engine::bin_dir())
        .args(["--only", "runtimes", "--rounds", &rounds.to_string()])
        .status()
        .expect("util-linux is installed");
    assert!(
        status.success(),
        "measuring the runtimes ended with {status}"
    );
}

/// A root filesystem with busybox and a configuration.
fn make_bundle(dir: &Path, config: &serde_json::Value) {
    let rootfs = dir.join("rootfs");
    std::fs::create_dir_all(&rootfs).expect("a fresh directory");
    tar_extract(&berth_e2e::image::busybox_rootfs(), &rootfs);
    std::fs::write(dir.join("config.json"), config.to_string()).expect("a fresh directory");
}

/// What Docker would write: limits and all, with its default system call filter
/// for the capabilities in it.
fn configuration() -> serde_json::Value {
    let mut config: serde_json::Value =
        serde_json::from_str(include_str!("bundle.json")).expect("it is JSON");
    let capabilities = config["process"]["capabilities"]["bounding"].as_array();
    let capabilities: Vec<_> = capabilities
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str())
        .collect();
    let section = berth_seccomp::Profile::docker_default()
        .resolve(&capabilities, crate::kernel())
        .expect("the default profile holds on every kernel");
    config["linux"]["seccomp"] = serde_json::to_value(section).expect("plain data");
    config
}

fn tar_extract(archive: &[u8], to: &Path) {
    let run = berth_e2e::Run::new(Command::new("tar").arg("-xC").arg(to), archive);
    run.ok();
}
