//! A root filesystem of busybox, a configuration like Docker's, and a run of it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use berth_cgroup::Cgroup;
use berth_runtime_core::{
    Create, Created, Error, Exec, Inherit, Root, Started, Stdio, create, exec,
};
use berth_seccomp::Program;
use oci_spec::runtime::{Process, Spec};
use rustix::process::{WaitId, WaitIdOptions};
use serde_json::{Value, json};

/// A bundle in a temporary directory.
pub(crate) struct Bundle {
    directory: tempfile::TempDir,
    pub(crate) config: Value,
    pub(crate) seccomp: Option<Program>,
    pub(crate) gate: bool,
    pub(crate) cgroup: Option<Cgroup>,
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) const DOCKER_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

impl Bundle {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = directory.path().join("rootfs");
        for name in [
            "bin", "dev", "etc", "proc", "sys", "tmp", "root", "home/app",
        ] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "ls", "id", "true", "sleep", "stat", "tty", "stty", "test", "readlink",
            "mkdir", "touch", "grep", "hostname", "mount", "umask", "pwd", "env", "uname", "head",
            "wc", "ps", "kill", "chmod", "date", "dd", "find", "sort",
        ] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n",
        )
        .unwrap();
        fs::write(
            root.join("etc/group"),
            "root:x:0:root\napp:x:1001:\naudio:x:29:app\n",
        )
        .unwrap();
        Self {
            directory,
            config: docker_config(),
            seccomp: None,
            gate: false,
            cgroup: None,
        }
    }

    /// Runs a shell script.
    pub(crate) fn script(script: &str) -> Self {
        let mut bundle = Self::new();
        bundle.set("/process/args", json!(["/bin/sh", "-c", script]));
        bundle
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Sets a value of the configuration by JSON pointer; the parent must exist.
    pub(crate) fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = self.config.pointer_mut(parent).unwrap();
        parent.as_object_mut().unwrap().insert(key.into(), value);
        self
    }

    pub(crate) fn push(&mut self, pointer: &str, value: Value) -> &mut Self {
        self.config
            .pointer_mut(pointer)
            .unwrap()
            .as_array_mut()
            .unwrap()
            .push(value);
        self
    }

    pub(crate) fn bind(&mut self, source: &Path, destination: &str, options: &[&str]) -> &mut Self {
        self.push(
            "/mounts",
            json!({"type": "bind", "source": source, "destination": destination, "options": options}),
        )
    }

    pub(crate) fn without_namespace(&mut self, kind: &str) -> &mut Self {
        let list = self
            .config
            .pointer_mut("/linux/namespaces")
            .unwrap()
            .as_array_mut()
            .unwrap();
        list.retain(|entry| entry["type"] != kind);
        self
    }

    pub(crate) fn without_mount(&mut self, destination: &str) -> &mut Self {
        let list = self
            .config
            .pointer_mut("/mounts")
            .unwrap()
            .as_array_mut()
            .unwrap();
        list.retain(|entry| entry["destination"] != destination);
        self
    }

    pub(crate) fn spec(&self) -> Spec {
        serde_json::from_value(self.config.clone()).unwrap()
    }

    pub(crate) fn create(
        &self,
        stdio: Stdio<'_>,
        network: Option<BorrowedFd<'_>>,
    ) -> Result<Created, Error> {
        self.create_with(Root::Bundle(self.path()), stdio, network)
    }

    pub(crate) fn create_on(&self, root: Root<'_>, stdio: Stdio<'_>) -> Result<Created, Error> {
        self.create_with(root, stdio, None)
    }

    fn create_with(
        &self,
        root: Root<'_>,
        stdio: Stdio<'_>,
        network: Option<BorrowedFd<'_>>,
    ) -> Result<Created, Error> {
        let spec = self.spec();
        create(&Create {
            spec: &spec,
            id: "test",
            root,
            stdio,
            cgroup: self.cgroup.as_ref(),
            seccomp: self.seccomp.as_ref(),
            network,
            sources: &[],
            gate: self.gate,
            rdt: None,
            inherit: Inherit::default(),
        })
    }

    /// To the end of the program.
    pub(crate) fn run(&self) -> Result<Output, Error> {
        self.run_in(None)
    }

    pub(crate) fn run_in(&self, network: Option<BorrowedFd<'_>>) -> Result<Output, Error> {
        let files = Files::new();
        let created = self.create(files.stdio(), network)?;
        Ok(files.finish(&created.process))
    }

    /// The output of a run that must succeed.
    #[track_caller]
    pub(crate) fn stdout(&self) -> String {
        let output = self.run().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(output.code, 0, "{output:?}");
        output.stdout
    }

    /// The message of a run that must not start, with nothing left behind.
    #[track_caller]
    pub(crate) fn refusal(&self) -> Error {
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let error = self.run().expect_err("must not start");
        assert_eq!(
            rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
                .expect_err("a process is left"),
            rustix::io::Errno::CHILD
        );
        assert_eq!(
            before,
            fs::read_to_string("/proc/self/mountinfo").unwrap(),
            "a mount is left"
        );
        error
    }
}

/// Standard streams in memory files, so that nothing has to be read meanwhile.
pub(crate) struct Files {
    stdin: File,
    stdout: File,
    stderr: File,
}

impl Files {
    pub(crate) fn new() -> Self {
        let file = || -> File {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let file = rustix::fs::memfd_create("output", flags).unwrap();
            // For those who open /dev/stdout again.
            rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::APPEND).unwrap();
            file.into()
        };
        Self {
            stdin: File::open("/dev/null").unwrap(),
            stdout: file(),
            stderr: file(),
        }
    }

    pub(crate) fn stdio(&self) -> Stdio<'_> {
        Stdio::Fds([self.stdin.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()])
    }

    pub(crate) fn finish(mut self, process: &Started) -> Output {
        let code = wait(process);
        let read = |file: &mut File| {
            let mut text = String::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        Output {
            code,
            stdout: read(&mut self.stdout),
            stderr: read(&mut self.stderr),
        }
    }
}

/// Exit code, or 128 + signal.
pub(crate) fn wait(process: &Started) -> i32 {
    let status =
        rustix::process::waitid(WaitId::PidFd(process.pidfd.as_fd()), WaitIdOptions::EXITED)
            .unwrap()
            .unwrap();
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

/// A container that sleeps, for execs; killed at the end.
pub(crate) struct Sleeper {
    pub(crate) created: Created,
    pub(crate) bundle: Bundle,
}

impl Sleeper {
    pub(crate) fn new(bundle: Bundle) -> Self {
        let mut bundle = bundle;
        bundle.set("/process/args", json!(["/bin/sleep", "1000"]));
        let files = Files::new();
        let created = bundle
            .create(files.stdio(), None)
            .unwrap_or_else(|e| panic!("{e}"));
        Self { created, bundle }
    }

    /// The container's process section with changes.
    pub(crate) fn process(&self, changes: Value) -> Process {
        let mut process = self.bundle.config["process"].clone();
        for (key, value) in changes.as_object().unwrap() {
            process[key] = value.clone();
        }
        serde_json::from_value(process).unwrap()
    }

    pub(crate) fn start(&self, process: &Process, stdio: Stdio<'_>) -> Result<Started, Error> {
        exec(&Exec {
            pid: self.created.process.pid,
            pidfd: self.created.process.pidfd.as_fd(),
            process,
            linux: None,
            stdio,
            cgroup: self.bundle.cgroup.as_ref(),
            below: &[],
            seccomp: None,
            listener: None,
            rdt: None,
            inherit: Inherit::default(),
        })
    }

    pub(crate) fn exec(&self, changes: Value) -> Result<Output, Error> {
        let files = Files::new();
        let started = self.start(&self.process(changes), files.stdio())?;
        Ok(files.finish(&started))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        kill(&self.created.process);
    }
}

pub(crate) fn kill(process: &Started) {
    rustix::process::pidfd_send_signal(&process.pidfd, rustix::process::Signal::KILL).unwrap();
    wait(process);
}

/// What Docker 29 gives runc for `docker run` with the defaults, but for the
/// network and the control group.
fn docker_config() -> Value {
    json!({
        "ociVersion": "1.2.1",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOSTNAME=box"],
            "cwd": "/",
            "capabilities": {
                "bounding": DOCKER_CAPABILITIES,
                "effective": DOCKER_CAPABILITIES,
                "permitted": DOCKER_CAPABILITIES
            }
        },
        "root": {"path": "rootfs"},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]}
        ],
        "linux": {
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0",
                       "net.ipv4.ping_group_range": "0 2147483647"},
            "namespaces": [
                {"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"},
                {"type": "ipc"}, {"type": "cgroup"}, {"type": "time"}
            ],
            "devices": [],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
                "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
                "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"
            ]
        }
    })
}
