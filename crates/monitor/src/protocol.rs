//! Messages between the engine, the launcher and the monitors.
//!
//! Every message is one JSON object in one `SOCK_SEQPACKET` datagram, with
//! descriptors beside it. A field added later has a default; an unknown field
//! is ignored; a message never loses a field. So an engine can talk to the
//! monitors that an older one left behind.
//!
//! ```text
//! <exec-root>/launcher.sock            0600, root; ToLauncher
//! <exec-root>/containers/<id>/monitor.sock  0600, root; ToMonitor / FromMonitor
//! ```
//!
//! Both ends check the other's credentials (`SO_PEERCRED`): CVE-2020-15257.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Counts up when the meaning of a message changes, or when an engine cannot do
/// with a launcher that lacks one: it then starts another, which takes over.
/// 2: EROFS layers, `Mount`, `ForgetRemoved`. 3: `Start::bound`, `Start::trees`.
pub const VERSION: u32 = 3;

/// The launcher's socket, in the exec root.
pub const LAUNCHER_SOCKET: &str = "launcher.sock";
/// A monitor's socket, in [`Start::run_dir`].
pub const MONITOR_SOCKET: &str = "monitor.sock";
/// The [`ExitRecord`], in [`Start::state_dir`].
pub const EXIT_FILE: &str = "exit.json";

/// Where a container finds the init that `--init` asks for.
pub const INIT: &str = "/sbin/docker-init";
/// Memory that processes share.
pub const SHM: &str = "/dev/shm";

/// Engine → launcher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToLauncher {
    /// First message of a connection; answered by [`FromLauncher::Hello`].
    Hello { version: u32 },
    /// Fork a monitor for this container. Not answered by the launcher: the
    /// monitor answers on the channel passed as the first descriptor, which
    /// then speaks [`ToMonitor`]/[`FromMonitor`] like a connection to
    /// `monitor.sock`.
    ///
    /// Descriptors, in this order: channel (SEQPACKET), OCI configuration
    /// (memory file, JSON, without `linux.seccomp`), then, when the flags in
    /// [`Start`] say so: compiled seccomp program, network namespace, mount
    /// namespace of the container whose /dev/shm is shared, the mount that
    /// [`TreeFrom::Given`] means, and one stream socket per entry of
    /// [`Start::attach`].
    Start(Box<Start>),
    /// Mount layers as one read-only file system. Answered by
    /// [`FromLauncher::Mounted`] or [`FromLauncher::Failed`] on the channel
    /// passed as the only descriptor.
    Mount {
        /// Topmost first; a container's upper directory may be the first.
        layers: Vec<Layer>,
        /// Further overlay options (`userxattr`).
        #[serde(default)]
        options: Vec<String>,
    },
    /// Layers were removed from disk: let go those whose files are gone. Not
    /// answered.
    ForgetRemoved,
    /// End, after the messages that have already arrived. Monitors go on, and
    /// with them the mount namespace they share with the launcher.
    Stop,
}

/// Launcher → engine.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromLauncher {
    Hello {
        version: u32,
        pid: u32,
        build: String,
    },
    /// Beside it, a detached mount: it lasts as long as it or a file in it is
    /// open.
    Mounted,
    Failed {
        message: String,
    },
}

/// Everything a monitor needs besides the OCI configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The container's full identifier.
    pub id: String,
    /// `<exec-root>/containers/<id>`: made by the monitor, 0700; holds
    /// `monitor.sock`; removed by it at its end.
    pub run_dir: PathBuf,
    /// Where `exit.json` ([`ExitRecord`]) is written, atomically, before the
    /// exit is announced. In the data root, so it outlives a crash of all.
    pub state_dir: PathBuf,
    pub root: RootFs,
    /// Control group path below the root of each hierarchy.
    pub cgroup: String,
    pub has_seccomp: bool,
    pub has_network: bool,
    /// The bind mount to [`SHM`] in the configuration is another container's.
    #[serde(default)]
    pub has_shm: bool,
    /// The bind mount to [`INIT`] in the configuration is a copy of this
    /// program, which is then the container's first process.
    #[serde(default)]
    pub init: bool,
    /// A terminal instead of three pipes.
    pub tty: bool,
    /// Initial terminal size: columns, rows; 0 = unset.
    #[serde(default)]
    pub console_size: (u16, u16),
    /// Keep stdin open (a pipe); else /dev/null.
    pub open_stdin: bool,
    /// Close stdin when the first attached client closes its side.
    pub stdin_once: bool,
    pub log: Log,
    /// Streams attached before the first byte is written.
    pub attach: Vec<Attach>,
    /// The container is killed when the channel of this message closes: it is
    /// of no use to anyone but the engine that started it (a step of a build).
    #[serde(default)]
    pub bound: bool,
    /// Sources of bind mounts that are no paths of the host.
    #[serde(default)]
    pub trees: Vec<Tree>,
    /// A detached mount came along, for [`TreeFrom::Given`].
    #[serde(default)]
    pub has_tree: bool,
}

/// The source of the bind mount to `target` in the configuration, instead of
/// the path there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tree {
    /// As the configuration spells it.
    pub target: PathBuf,
    pub from: TreeFrom,
    /// What of it: a file or directory from its root, links followed within it;
    /// empty = all.
    pub path: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TreeFrom {
    /// Layers as one read-only file system, topmost first; at least two.
    Layers {
        layers: Vec<Layer>,
        options: Vec<String>,
    },
    /// A file system that may be written to.
    Writable(RootFs),
    /// The mount that came with the start message; any number of trees may be
    /// of it.
    Given,
}

/// The root filesystem, described; mounted by the monitor inside the
/// launcher's private mount namespace and never visible on the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RootFs {
    /// Topmost first.
    pub layers: Vec<Layer>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Further overlay options (`userxattr`).
    #[serde(default)]
    pub options: Vec<String>,
}

/// One read-only layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "snake_case")]
pub enum Layer {
    Directory {
        path: PathBuf,
    },
    /// An EROFS image file, mounted once per launcher.
    Erofs {
        path: PathBuf,
    },
}

/// Where the output goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "snake_case")]
pub enum Log {
    None,
    /// Docker's json-file format. `max_size` in bytes, 0 = no limit;
    /// `max_files` counts the current one.
    JsonFile {
        path: PathBuf,
        max_size: u64,
        max_files: u32,
        compress: bool,
        /// Written as `attrs` on each line when not empty.
        #[serde(default)]
        attributes: BTreeMap<String, String>,
    },
}

/// One attached stream. With a terminal the bytes are raw, else output is
/// framed as Docker frames it: stream (1, 2), three zeros, big-endian length.
/// Bytes received are the container's stdin; the peer's half-close is its end.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Attach {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Engine → monitor. Each is answered by the message named, or by
/// [`FromMonitor::Failed`] with the same `request` number.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToMonitor {
    /// → `Status`.
    Status { request: u64 },
    /// Descriptor: a stream socket. → `Done`.
    Attach { request: u64, attach: Attach },
    /// → `Done`. Fails without a terminal.
    Resize {
        request: u64,
        exec: Option<String>,
        width: u16,
        height: u16,
    },
    /// Signal the first process, or an exec's process; through its pidfd, so
    /// never a stranger with a reused number. → `Done`.
    Kill {
        request: u64,
        exec: Option<String>,
        signal: i32,
    },
    /// SIGKILL to every process of the container. → `Done`.
    KillAll { request: u64 },
    /// Descriptors: OCI process (memory file, JSON), then the seccomp program
    /// when `has_seccomp`, then a stream socket when `attach` is set.
    /// → `ExecStarted`, and `ExecExited` later.
    Exec {
        request: u64,
        exec: String,
        tty: bool,
        console_size: (u16, u16),
        has_seccomp: bool,
        /// Keep stdin open; else /dev/null.
        open_stdin: bool,
        attach: Option<Attach>,
    },
    /// Apply new log limits without a restart. → `Done`.
    SetLog { request: u64, log: Log },
}

/// Monitor → engine: answers (with `request`) and events (to every connection).
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromMonitor {
    /// First message on the start channel when all went well: the program has
    /// been executed.
    Started {
        pid: u32,
        started_at: String,
        /// Where the time went: phases in microseconds.
        #[serde(default)]
        steps: Vec<(String, u64)>,
        /// What was missing in the root filesystem and was made to mount on,
        /// parents first; without symbolic links, from the root.
        #[serde(default)]
        made: Vec<String>,
    },
    /// First message on the start channel when it did not; the monitor ends,
    /// with nothing left behind.
    StartFailed {
        kind: Failure,
        message: String,
    },
    Status {
        request: u64,
        version: u32,
        pid: u32,
        started_at: String,
        /// Running execs and their pids.
        execs: BTreeMap<String, u32>,
        exit: Option<ExitRecord>,
    },
    Done {
        request: u64,
    },
    Failed {
        request: u64,
        kind: Failure,
        message: String,
    },
    ExecStarted {
        request: u64,
        pid: u32,
    },
    /// Event: an exec ended; its output has been delivered. Sent before its
    /// attached stream is closed: whoever sees the end of the stream and then
    /// asks for `Status` on the same connection learns the exit code first.
    /// (A client that reads too slowly gets the rest after this message.)
    ExecExited {
        exec: String,
        exit_code: i32,
    },
    /// Event: the kernel killed a process of the container for lack of memory.
    OutOfMemory,
    /// Event: the container ended, its output has been delivered and the
    /// record is on disk. The connection closes when the monitor has removed
    /// the control group and its own files. (A client that reads too slowly
    /// gets the rest after that.)
    ///
    /// A connection that closes without this message, or a `monitor.sock` that
    /// refuses connections, means a monitor that was killed: call
    /// [`crate::sweep::sweep`].
    Exited(ExitRecord),
}

/// Whose fault a failure is; decides the client's status and exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Program not found: exit code 127.
    NotFound,
    /// Program not executable: exit code 126.
    NotExecutable,
    /// A wrong configuration or request.
    Invalid,
    /// No such exec, no terminal, already ended.
    Conflict,
    /// Anything else: exit code 128 (as Docker) or 125 at the client.
    System,
}

/// `exit.json`: how a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// 0–255; 128 + signal when killed by one.
    pub exit_code: i32,
    pub oom_killed: bool,
    /// RFC 3339 with nanoseconds, UTC.
    pub started_at: String,
    pub finished_at: String,
}
