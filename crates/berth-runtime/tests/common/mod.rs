//! A real launcher with its own exec root, and containers from a busybox root
//! filesystem. Everything is removed at the end of a test, and that nothing
//! else was left is checked.
// Each test file uses its own part of this; a failure here fails the test.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod bundle;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth_cgroup::{Cgroup, Host};
use berth_monitor::client;
use berth_monitor::protocol::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_berth-runtime");

/// Long enough for any step on a loaded machine; reached only on failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `done` gives something; fails the test when it never does.
pub(crate) fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process that is killed, by its number, at the end of the test.
pub(crate) struct Launcher {
    pub(crate) dir: tempfile::TempDir,
    child: Child,
}

impl Launcher {
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        // On a filesystem that can hold an overlay's upper directory, with a
        // path too long for a socket address.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let child = Self::spawn(&exec_root(dir.path()));
        make_rootfs(&dir.path().join("layer"));
        Self { dir, child }
    }

    pub(crate) fn spawn(exec_root: &Path) -> Child {
        std::fs::create_dir_all(exec_root).unwrap();
        let mut child = Command::new(BINARY)
            .args(["launcher", "--exec-root"])
            .arg(exec_root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut line)
            .unwrap();
        assert_eq!(line, format!("ready {}\n", child.id()));
        child
    }

    pub(crate) fn exec_root(&self) -> PathBuf {
        exec_root(self.dir.path())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Reaps one that has ended by itself.
    pub(crate) fn kill_ended(&mut self) {
        assert!(self.child.wait().unwrap().success());
    }

    /// A new one after [`Launcher::kill`].
    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(&self.exec_root());
    }

    /// A second launcher in place of this one.
    pub(crate) fn replace(&mut self) -> Child {
        let new = Self::spawn(&self.exec_root());
        std::mem::replace(&mut self.child, new)
    }

    pub(crate) fn connect(&self) -> OwnedFd {
        client::connect(&self.exec_root(), LAUNCHER_SOCKET).unwrap()
    }

    pub(crate) fn hello(&self, socket: &OwnedFd) -> FromLauncher {
        client::send_to_launcher(socket, &ToLauncher::Hello { version: VERSION }, &[]).unwrap();
        readable(socket);
        client::receive_from_launcher(socket).unwrap().unwrap()
    }

    /// A container that runs `command` in a shell.
    pub(crate) fn shell(&self, command: &str) -> Container {
        self.container(&["sh", "-c", command])
    }

    pub(crate) fn container(&self, args: &[&str]) -> Container {
        let id = format!("c{}", uuid());
        let base = self.dir.path().join(&id);
        for name in ["upper", "work", "state"] {
            std::fs::create_dir_all(base.join(name)).unwrap();
        }
        let start = Start {
            id: id.clone(),
            run_dir: self.exec_root().join("containers").join(&id),
            state_dir: base.join("state"),
            root: RootFs {
                layers: vec![Layer::Directory {
                    path: self.dir.path().join("layer"),
                }],
                upper: base.join("upper"),
                work: base.join("work"),
                options: Vec::new(),
            },
            cgroup: format!("/berth-test/{id}"),
            has_seccomp: false,
            has_network: false,
            has_shm: false,
            init: false,
            tty: false,
            console_size: (0, 0),
            open_stdin: false,
            stdin_once: false,
            log: Log::JsonFile {
                path: base.join("log"),
                max_size: 0,
                max_files: 1,
                compress: false,
                attributes: BTreeMap::new(),
            },
            attach: Vec::new(),
            bound: false,
            trees: Vec::new(),
            has_tree: false,
        };
        Container {
            start,
            config: config(args),
            streams: Vec::new(),
            log: base.join("log"),
            channel: None,
            pid: 0,
            request: 0,
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            assert_no_mounts(self.dir.path());
        }
    }
}

fn exec_root(dir: &Path) -> PathBuf {
    dir.join("a-directory-with-a-rather-long-name".repeat(4))
        .join("exec")
}

/// None of our mounts shows on the host.
pub(crate) fn assert_no_mounts(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let dir = dir.to_str().unwrap();
    let ours: Vec<_> = mounts
        .lines()
        .filter(|line| line.contains(dir) || line.contains(" overlay /proc/"))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
}

fn uuid() -> String {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).unwrap();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A root filesystem with busybox and its applets.
pub(crate) fn make_rootfs(root: &Path) {
    for name in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find(|path| Path::new(path).exists())
        .expect("these tests need busybox-static");
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let output = Command::new(busybox).arg("--list").output().unwrap();
    for applet in String::from_utf8(output.stdout).unwrap().lines() {
        if applet != "busybox" {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
}

/// The example configuration, for these arguments.
pub(crate) fn config(args: &[&str]) -> Value {
    let mut config: Value =
        serde_json::from_str(include_str!("../../src/commands/example.json")).unwrap();
    config["process"]["args"] = json!(args);
    config["process"]["terminal"] = json!(false);
    config["root"]["readonly"] = json!(false);
    config
}

pub(crate) struct Container {
    pub(crate) start: Start,
    pub(crate) config: Value,
    /// The container's ends of the attached streams, until it is started.
    pub(crate) streams: Vec<UnixStream>,
    pub(crate) log: PathBuf,
    pub(crate) channel: Option<OwnedFd>,
    pub(crate) pid: u32,
    request: u64,
}

impl Container {
    pub(crate) fn tty(mut self) -> Self {
        self.start.tty = true;
        self.config["process"]["terminal"] = json!(true);
        self
    }

    pub(crate) fn stdin(mut self, once: bool) -> Self {
        self.start.open_stdin = true;
        self.start.stdin_once = once;
        self
    }

    /// Adds an attached stream and returns the client's end.
    pub(crate) fn stream(&mut self, attach: Attach) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.start.attach.push(attach);
        self.streams.push(theirs);
        ours
    }

    /// Sends the start message; the answer comes on the channel.
    pub(crate) fn send(&mut self, launcher: &OwnedFd) {
        let (ours, theirs) = client::channel().unwrap();
        let config = client::memory_file("config", self.config.to_string().as_bytes()).unwrap();
        let mut fds = vec![theirs.as_fd(), config.as_fd()];
        fds.extend(self.streams.iter().map(AsFd::as_fd));
        let message = ToLauncher::Start(Box::new(self.start.clone()));
        client::send_to_launcher(launcher, &message, &fds).unwrap();
        drop(fds);
        self.streams.clear();
        self.channel = Some(ours);
    }

    pub(crate) fn run(&mut self, launcher: &Launcher) {
        self.send(&launcher.connect());
        match self.receive() {
            Some(FromMonitor::Started { pid, .. }) => self.pid = pid,
            other => panic!("not started: {other:?}"),
        }
    }

    /// The failure of a start that must fail, with nothing left behind.
    pub(crate) fn fail(&mut self, launcher: &Launcher) -> (Failure, String) {
        self.send(&launcher.connect());
        let failure = match self.receive() {
            Some(FromMonitor::StartFailed { kind, message }) => (kind, message),
            other => panic!("not failed: {other:?}"),
        };
        assert!(self.receive().is_none());
        self.assert_gone();
        failure
    }

    pub(crate) fn receive(&self) -> Option<FromMonitor> {
        let channel = self.channel.as_ref().unwrap();
        readable(channel);
        client::receive_from_monitor(channel).unwrap()
    }

    /// A new connection in place of the channel, as after an engine's restart.
    pub(crate) fn reconnect(&mut self) {
        self.channel = Some(client::connect(&self.start.run_dir, MONITOR_SOCKET).unwrap());
    }

    /// Sends a request and returns its answer, which has to be the next
    /// message.
    pub(crate) fn ask(
        &mut self,
        make: impl FnOnce(u64) -> ToMonitor,
        fds: &[&dyn AsFd],
    ) -> FromMonitor {
        self.request += 1;
        let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        client::send_to_monitor(self.channel.as_ref().unwrap(), &make(self.request), &fds).unwrap();
        let answer = self.receive().expect("an answer");
        let number = match &answer {
            FromMonitor::Status { request, .. }
            | FromMonitor::Done { request }
            | FromMonitor::Failed { request, .. }
            | FromMonitor::ExecStarted { request, .. } => *request,
            other => panic!("not an answer: {other:?}"),
        };
        assert_eq!(number, self.request);
        answer
    }

    pub(crate) fn kill(&mut self, signal: i32) {
        let answer = self.ask(
            |request| ToMonitor::Kill {
                request,
                exec: None,
                signal,
            },
            &[],
        );
        assert!(matches!(answer, FromMonitor::Done { .. }), "{answer:?}");
    }

    /// Waits for the end; the record of it is on disk, and everything else is
    /// gone when the channel closes.
    pub(crate) fn wait(&self) -> ExitRecord {
        let record = loop {
            match self.receive() {
                Some(FromMonitor::Exited(record)) => break record,
                Some(_) => {}
                None => panic!("closed without the exit"),
            }
        };
        let on_disk = client::read_exit_record(&self.start.state_dir).unwrap();
        assert_eq!(on_disk.as_ref(), Some(&record));
        while self.receive().is_some() {}
        self.assert_gone();
        record
    }

    pub(crate) fn exit_code(&self) -> i32 {
        self.wait().exit_code
    }

    pub(crate) fn cgroup(&self) -> Cgroup {
        Cgroup::open(&Host::detect().unwrap(), &self.start.cgroup)
    }

    pub(crate) fn assert_gone(&self) {
        assert!(!self.cgroup().exists(), "the control group is left");
        assert!(!self.start.run_dir.exists(), "the run directory is left");
    }

    pub(crate) fn monitor_pid(&self) -> u32 {
        let socket = self.channel.as_ref().unwrap();
        // The channel's peer is the launcher; a connection's is the monitor.
        let _ = socket;
        let connection = client::connect(&self.start.run_dir, MONITOR_SOCKET).unwrap();
        let pid = rustix::net::sockopt::socket_peercred(&connection)
            .unwrap()
            .pid;
        pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// What the log holds: (stream, text).
    pub(crate) fn log(&self) -> Vec<(String, String)> {
        std::fs::read_to_string(&self.log)
            .unwrap()
            .lines()
            .map(|line| {
                let value: Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| value[key].as_str().unwrap().to_owned();
                assert!(text("time").ends_with('Z'));
                (text("stream"), text("log"))
            })
            .collect()
    }

    pub(crate) fn exec(
        &mut self,
        exec: &str,
        process: &Value,
        options: ExecOptions,
    ) -> FromMonitor {
        let ExecOptions {
            tty,
            size,
            open_stdin,
            stream,
        } = options;
        let process = client::memory_file("process", process.to_string().as_bytes()).unwrap();
        let mut fds: Vec<&dyn AsFd> = vec![&process];
        if let Some((stream, _)) = &stream {
            fds.push(stream);
        }
        let exec = exec.to_owned();
        let attach = stream.as_ref().map(|(_, attach)| *attach);
        self.ask(
            |request| ToMonitor::Exec {
                request,
                exec,
                tty,
                console_size: size,
                has_seccomp: false,
                open_stdin,
                attach,
            },
            &fds,
        )
    }

    /// The process of the configuration with other arguments.
    pub(crate) fn process(&self, args: &[&str]) -> Value {
        let mut process = self.config["process"].clone();
        process["args"] = json!(args);
        process["terminal"] = json!(false);
        process
    }
}

#[derive(Default)]
pub(crate) struct ExecOptions {
    pub(crate) tty: bool,
    pub(crate) size: (u16, u16),
    pub(crate) open_stdin: bool,
    pub(crate) stream: Option<(UnixStream, Attach)>,
}

pub(crate) const OUTPUT: Attach = Attach {
    stdin: false,
    stdout: true,
    stderr: true,
};
pub(crate) const ALL: Attach = Attach {
    stdin: true,
    stdout: true,
    stderr: true,
};

pub(crate) fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    (ours, theirs)
}

pub(crate) fn readable(fd: impl AsFd) {
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&timeout)).unwrap(), 1, "nothing came");
}

/// Everything until the end, raw.
pub(crate) fn read_all(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Everything until the end, unframed: (stdout, stderr).
pub(crate) fn read_framed(stream: &UnixStream) -> (Vec<u8>, Vec<u8>) {
    unframe(&read_all(stream))
}

pub(crate) fn unframe(mut bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let (header, rest) = bytes.split_at(8);
        assert_eq!(header[1..4], [0, 0, 0]);
        let length = u32::from_be_bytes(header[4..].try_into().unwrap()) as usize;
        let (payload, rest) = rest.split_at(length);
        match header[0] {
            1 => stdout.extend_from_slice(payload),
            2 => stderr.extend_from_slice(payload),
            other => panic!("stream {other}"),
        }
        bytes = rest;
    }
    (stdout, stderr)
}

/// Reads until `text` has come; returns everything read.
pub(crate) fn read_until(mut stream: &UnixStream, text: &str) -> String {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&read).contains(text) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(
            length > 0,
            "ended before {text:?}: {:?}",
            String::from_utf8_lossy(&read)
        );
        read.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

pub(crate) fn write(mut stream: &UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

/// Whether a process exists and has not ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(')')
            .unwrap()
            .1
            .trim_start()
            .starts_with(['Z', 'X'])
    })
}

impl Drop for Container {
    /// A test that failed leaves no container running.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(connection) = client::connect(&self.start.run_dir, MONITOR_SOCKET)
        {
            let _ = client::send_to_monitor(&connection, &ToMonitor::KillAll { request: 0 }, &[]);
        }
    }
}

/// Everything in a directory of the host, to see later that nobody changed it.
pub(crate) fn snapshot(dir: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    // Always the same, unlike that of a map.
    let state = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
    let mut lines = Vec::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(path) = rest.pop() {
        let found = std::fs::symlink_metadata(&path).unwrap();
        let content = if found.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        lines.push(format!(
            "{} {:o} {}:{} {} {:x}",
            path.display(),
            found.mode(),
            found.uid(),
            found.gid(),
            content.len(),
            std::hash::BuildHasher::hash_one(&state, &content)
        ));
        if found.is_dir() {
            let entries = std::fs::read_dir(&path).unwrap();
            rest.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    lines.join("\n")
}

/// The end of a process that must not hang.
pub(crate) fn ended(mut child: Child, what: &str) -> std::process::Output {
    eventually(what, || child.try_wait().unwrap());
    child.wait_with_output().unwrap()
}
