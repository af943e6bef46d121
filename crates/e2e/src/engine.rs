//! An engine of the test's own.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal};

use crate::{Run, eventually, image, leaks};

/// A running daemon with everything it owns in one temporary directory. The
/// end of the test ends its containers and removes all.
#[derive(Debug)]
pub struct Engine {
    dir: tempfile::TempDir,
    flags: Vec<String>,
    /// How layers are kept; `None` as the data root allows.
    layer_form: Option<String>,
    child: Option<Child>,
    /// Keeps the engine's network namespace while the daemon is down, as the
    /// host's own would stay.
    namespace: Child,
    cgroup: String,
}

static BIN_DIR: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();

/// Chooses the binaries under test; the first choice holds.
pub fn set_bin_dir(dir: PathBuf) {
    let _ = BIN_DIR.set(dir);
}

/// Where the binaries under test are.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = BIN_DIR.get() {
        return dir.clone();
    }
    if let Some(dir) = std::env::var_os("BERTH_BIN_DIR") {
        return dir.into();
    }
    let mut dir = std::env::current_exe().expect("a test knows its own path");
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    dir
}

impl Default for Engine {
    fn default() -> Self {
        Self::start()
    }
}

impl Engine {
    /// Starts one with the default settings and the busybox image loaded.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further daemon flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let engine = Self::start_empty(flags);
        engine.import_busybox();
        engine
    }

    /// Starts one without images.
    pub fn start_empty(flags: &[&str]) -> Self {
        Self::start_in(&std::env::temp_dir(), flags)
    }

    /// The same with everything it owns below `place`.
    pub fn start_in(place: &Path, flags: &[&str]) -> Self {
        Self::start_form_in(place, flags, None)
    }

    /// The same with layers in the form given, "erofs" or "directory".
    pub fn start_form_in(place: &Path, flags: &[&str], layer_form: Option<&str>) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the end-to-end tests need root"
        );
        let dir = tempfile::Builder::new()
            .prefix("berth-e2e-")
            .tempdir_in(place)
            .expect("the directory can be written");
        let namespace = Command::new("unshare")
            .args([
                "--net",
                "sh",
                "-c",
                "ip link set lo up && echo ready && exec sleep infinity",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux and iproute2 are installed");
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/berth-e2e-{}-{number}", std::process::id());
        let mut engine = Self {
            dir,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            layer_form: layer_form.map(str::to_owned),
            child: None,
            namespace,
            cgroup,
        };
        let mut ready = [0; 6];
        engine
            .namespace
            .stdout
            .as_mut()
            .expect("stdout is a pipe")
            .read_exact(&mut ready)
            .expect("the network namespace is made");
        engine.launch();
        engine
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_root(&self) -> PathBuf {
        self.dir().join("data")
    }

    pub fn exec_root(&self) -> PathBuf {
        self.dir().join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir().join("berth.sock")
    }

    /// The daemon's process.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("the daemon is running").id() as i32
    }

    /// Parent of the containers' control groups.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// Starts the daemon on what is there and waits until it serves.
    pub fn launch(&mut self) {
        let (ready, theirs) = std::io::pipe().expect("pipes are to be had");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir().join("daemon.log"))
            .expect("the directory can be written");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.namespace.id()))
            .arg(bin_dir().join("berth"))
            .arg("daemon")
            .args(["--ready-fd", "0", "--log-level", "debug"])
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .arg("--data-root")
            .arg(self.data_root())
            .arg("--exec-root")
            .arg(self.exec_root())
            .arg("--pidfile")
            .arg(self.dir().join("berth.pid"))
            .args(["--cgroup-parent", &self.cgroup])
            .args(&self.flags)
            .envs(
                self.layer_form
                    .iter()
                    .map(|form| ("BERTH_LAYER_FORM", form)),
            )
            // The write side of the pipe as descriptor 0: the one number that
            // can be chosen without unsafe code.
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(
                log.try_clone().expect("a descriptor is to be had"),
            ))
            .stderr(Stdio::from(log));
        self.child = Some(command.spawn().expect("nsenter is installed"));
        drop(command);
        let mut text = Vec::new();
        { ready }
            .read_to_end(&mut text)
            .expect("a pipe can be read");
        assert!(
            !text.is_empty(),
            "the daemon did not come up:\n{}",
            self.log()
        );
    }

    /// The daemon's own log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("daemon.log")).unwrap_or_default()
    }

    /// kill -9, and nothing else.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the daemon is ours");
            child.wait().expect("the daemon is ours");
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id() as i32, Signal::TERM);
            child.wait().expect("the daemon is ours");
        }
    }

    /// `berth ARGS` against this engine.
    pub fn berth(&self, args: &[&str]) -> Run {
        Run::new(self.command("berth").args(args), b"")
    }

    /// The same with input.
    pub fn berth_with(&self, args: &[&str], input: &[u8]) -> Run {
        Run::new(self.command("berth").args(args), input)
    }

    /// The stock Docker client against this engine.
    pub fn docker(&self, args: &[&str]) -> Run {
        Run::new(self.command("docker").args(args), b"")
    }

    /// A command prepared to talk to this engine: ours from the build, others
    /// from the path.
    pub fn command(&self, program: &str) -> Command {
        let own = bin_dir().join(program);
        let mut command = if program == "berth" {
            Command::new(own)
        } else {
            Command::new(program)
        };
        let host = format!("unix://{}", self.socket().display());
        command
            .env("DOCKER_HOST", &host)
            .env("DOCKER_CONFIG", self.dir().join("config"))
            .env_remove("DOCKER_CONTEXT")
            .env("BERTH_NO_AUTOSTART", "1");
        command
    }

    /// `client ARGS`: the same test with our client and the stock one.
    pub fn client(&self, client: &str, args: &[&str]) -> Run {
        Run::new(self.command(client).args(args), b"")
    }

    /// The same with input.
    pub fn client_with(&self, client: &str, args: &[&str], input: &[u8]) -> Run {
        Run::new(self.command(client).args(args), input)
    }

    /// A command inside the engine's network namespace.
    pub fn in_network(&self, args: &[&str]) -> Run {
        Run::new(
            Command::new("nsenter")
                .arg(format!("--net=/proc/{}/ns/net", self.namespace.id()))
                .args(args),
            b"",
        )
    }

    /// Runs `work` on a thread inside the engine's network namespace. Sockets
    /// and threads it makes stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/proc/{}/ns/net", self.namespace.id());
        let namespace = std::fs::File::open(path).expect("the namespace is held");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                rustix::thread::move_into_link_name_space(namespace.as_fd(), None)
                    .expect("root may enter");
                work()
            });
            thread.join().expect("the work does not panic")
        })
    }

    /// The arguments that run a program inside the engine's network namespace.
    pub fn nsenter(&self) -> [String; 2] {
        let target = format!("--net=/proc/{}/ns/net", self.namespace.id());
        ["nsenter".to_owned(), target]
    }

    /// Makes the image "busybox".
    pub fn import_busybox(&self) {
        self.berth_with(
            &["import", "--change", "CMD [\"sh\"]", "-", "busybox"],
            &image::busybox_rootfs(),
        )
        .ok();
    }

    /// The container's state as the API shows it: `.State.<field>`.
    pub fn state(&self, container: &str, field: &str) -> String {
        self.berth(&[
            "inspect",
            "--format",
            &format!("{{{{.State.{field}}}}}"),
            container,
        ])
        .ok()
    }

    /// Waits for a state.
    pub fn until_state(&self, container: &str, field: &str, value: &str) {
        eventually(&format!("{container} {field}={value}"), || {
            (self.state(container, field) == value).then_some(())
        });
    }

    /// Fails the test when something of a removed container is still there.
    pub fn assert_nothing_left(&self) {
        eventually("all control groups are gone", || {
            leaks::cgroups(&self.cgroup)
                .iter()
                .all(|path| path.ends_with("launcher"))
                .then_some(())
        });
        for dir in [
            self.data_root().join("containers"),
            self.exec_root().join("containers"),
            self.data_root().join("snapshots"),
        ] {
            eventually(&format!("{} is empty", dir.display()), || {
                let left = std::fs::read_dir(&dir)
                    .map(Iterator::count)
                    .unwrap_or_default();
                (left == 0).then_some(())
            });
        }
        let links = self
            .in_network(&["ip", "-o", "link", "show", "type", "veth"])
            .ok();
        let pool = self
            .flags
            .iter()
            .any(|flag| flag.starts_with("--network-pool"));
        assert!(
            pool || links.lines().count() <= 16,
            "network interfaces are left: {links}"
        );
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- daemon log ---\n{}", self.log());
        }
        self.kill();
        // The launcher and the monitors outlive the daemon: that is their job.
        for hierarchy in leaks::hierarchies() {
            kill_group(&hierarchy.join(self.cgroup.trim_start_matches('/')));
        }
        let mine = self.dir().display().to_string();
        for (pid, _) in leaks::processes(&mine) {
            signal(pid, Signal::KILL);
        }
        let _ = self.namespace.kill();
        let _ = self.namespace.wait();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            let left: Vec<_> = leaks::hierarchies()
                .iter()
                .map(|hierarchy| hierarchy.join(self.cgroup.trim_start_matches('/')))
                .filter(|path| path.exists())
                .collect();
            let mut dirs = leaks::cgroups(&self.cgroup);
            dirs.extend(left);
            if dirs.is_empty() || std::time::Instant::now() > deadline {
                break;
            }
            for dir in dirs {
                kill_group(&dir);
                let _ = std::fs::remove_dir(dir);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// SIGKILL to a group's processes and those below, which only the test started.
fn kill_group(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_group(&entry.path());
        }
    }
    let pids = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        if pid != std::process::id() as i32 {
            signal(pid, Signal::KILL);
        }
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The clients that tests run with: ours, and the stock one where installed.
pub fn clients() -> Vec<&'static str> {
    let mut clients = vec!["berth"];
    if crate::possible("stock docker client", crate::installed("docker")) {
        clients.push("docker");
    }
    clients
}

/// A pseudo-terminal for tests: (controlling side, other side).
pub fn terminal() -> (std::fs::File, std::fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .expect("terminals are to be had");
    grantpt(master.as_fd()).expect("ours");
    unlockpt(master.as_fd()).expect("ours");
    let name = ptsname(master.as_fd(), Vec::new()).expect("it has a name");
    let slave = std::fs::File::options()
        .read(true)
        .write(true)
        .open(name.to_str().expect("an ASCII path"))
        .expect("ours");
    (master.into(), slave)
}
