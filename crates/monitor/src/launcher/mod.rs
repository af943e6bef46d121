//! The launcher: one per engine, forks a monitor for each start message.
//!
//! It stays small and single-threaded, because every monitor begins as a copy
//! of it. It outlives the engine: a new engine connects to the same socket. A
//! new launcher takes over from an old one without a moment in which no one
//! listens, and enters its mount namespace to find the layer mounts.

mod init;
mod layers;
pub(crate) mod namespace;
pub mod seal;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_cgroup::{Cgroup, Entry, Host};
use berth_sys::{fork, signals, socket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat, renameat};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, setsid};

use self::init::Init;
use self::layers::Layers;
use crate::protocol::Layer;
use crate::protocol::{
    Failure, FromLauncher, FromMonitor, LAUNCHER_SOCKET, Start, ToLauncher, TreeFrom, VERSION,
};
use crate::{endpoint, monitor, overlay};

/// How a launcher is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Holds `launcher.sock` and `containers/`; must exist.
    pub exec_root: PathBuf,
    /// A control group to move into, below the root of each hierarchy, so that
    /// the containers of an engine started from a login or a service are not
    /// counted and killed with it. Made when missing; a failure is not fatal.
    pub cgroup: Option<String>,
}

/// Runs a launcher until it is told to stop. When it listens it writes
/// `ready` and its process number to standard output and closes that.
pub fn run(options: &Options) -> io::Result<()> {
    if !seal::is_sealed()? {
        // Nothing of the caller's goes along but the standard descriptors.
        berth_sys::exec::close_on_exec_from(3)?;
        return Err(seal::execute_sealed_copy());
    }
    let mut launcher = Launcher::set_up(options)?;
    announce_ready()?;
    launcher.serve()
}

#[derive(Debug)]
struct Launcher {
    cgroups: Host,
    /// Where the containers' bind mounts are looked up: the mount namespace
    /// that the launcher was started in.
    host_namespace: File,
    /// `None` in a monitor just forked.
    listener: Option<OwnedFd>,
    connections: Vec<OwnedFd>,
    stopping: bool,
    init: Init,
    layers: Layers,
    /// An empty directory, mounted over for a moment at times.
    scratch: PathBuf,
}

impl Launcher {
    fn set_up(options: &Options) -> io::Result<Self> {
        // Fails when this process leads a group already; then it has what it
        // needs only if whoever started it saw to that.
        let _ = setsid();
        rustix::thread::set_name(c"berth-launcher")?;
        // No other process of this user may look into this one or into what
        // is forked from it and about to enter a container (CVE-2016-9962).
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        // Monitors that end are reaped by the kernel.
        signals::ignore(Signal::CHILD)?;
        signals::ignore(Signal::HUP)?;

        let cgroups = Host::detect().map_err(io::Error::other)?;
        if let Some(path) = &options.cgroup
            && let Err(error) = enter_cgroup(&cgroups, path)
        {
            warn(&format!("cannot enter control group {path}: {error}"));
        }
        let exec_root = endpoint::open_dir(&options.exec_root)?;
        make_private_dir(&options.exec_root.join("containers"))?;

        // One launcher at a time may look for another and replace it.
        let lock = openat(
            &exec_root,
            "launcher.lock",
            OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let old = endpoint::connect_in(exec_root.as_fd(), LAUNCHER_SOCKET).ok();

        let host_namespace = File::open("/proc/self/ns/mnt")?;
        let joined = match &old {
            Some(old) => namespace::join_that_of(old).inspect_err(|error| {
                warn(&format!(
                    "cannot enter the mount namespace of the launcher before: {error}"
                ));
            }),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        if joined.is_err() {
            namespace::make_private()?;
        }
        std::env::set_current_dir("/")?;
        let layers = Layers::open(&options.exec_root)?;
        let scratch = options.exec_root.join("scratch");
        make_private_dir(&scratch)?;

        // Listens before it has the name, and takes the name over at once.
        let temporary = format!(".{LAUNCHER_SOCKET}.{}", std::process::id());
        let listener = endpoint::listen_in(exec_root.as_fd(), &temporary)?;
        renameat(&exec_root, temporary.as_str(), &exec_root, LAUNCHER_SOCKET)?;
        if let Some(old) = old {
            let stop = serde_json::to_vec(&ToLauncher::Stop)?;
            if let Err(error) = socket::send(&old, &stop, &[]) {
                warn(&format!("cannot stop the launcher before: {error}"));
            }
        }
        Ok(Self {
            cgroups,
            host_namespace,
            listener: Some(listener),
            connections: Vec::new(),
            stopping: false,
            init: Init::new(&options.exec_root),
            layers,
            scratch,
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            // Only what can be read without waiting, once stopping.
            let ready = self.wait(self.stopping)?;
            if self.stopping && ready.is_empty() {
                return Ok(());
            }
            let mut closed = Vec::new();
            for index in ready {
                match index.checked_sub(1) {
                    None => self.accept()?,
                    Some(connection) => {
                        if !self.receive(connection) {
                            closed.push(connection);
                        }
                    }
                }
            }
            for index in closed.into_iter().rev() {
                self.connections.remove(index);
            }
        }
    }

    /// Which of listener (0) and connections (from 1) have something to read.
    fn wait(&self, no_wait: bool) -> io::Result<Vec<usize>> {
        let mut fds: Vec<PollFd<'_>> = self
            .listener
            .iter()
            .chain(&self.connections)
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        let now = rustix::event::Timespec::default();
        rustix::io::retry_on_intr(|| poll(&mut fds, no_wait.then_some(&now)))?;
        Ok((0..fds.len())
            .filter(|&index| !fds[index].revents().is_empty())
            .collect())
    }

    fn accept(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        while let Some(connection) = endpoint::accept_from(listener)? {
            self.connections.push(connection);
        }
        Ok(())
    }

    /// Serves one message; returns whether the connection goes on.
    fn receive(&mut self, connection: usize) -> bool {
        let socket = &self.connections[connection];
        let (bytes, fds) = match socket::receive(socket) {
            Ok(Some(message)) => message,
            Err(Errno::AGAIN) => return true,
            Ok(None) | Err(_) => return false,
        };
        match serde_json::from_slice(&bytes) {
            Ok(ToLauncher::Hello { .. }) => {
                let hello = FromLauncher::Hello {
                    version: VERSION,
                    pid: std::process::id(),
                    build: env!("CARGO_PKG_VERSION").to_owned(),
                };
                serde_json::to_vec(&hello)
                    .is_ok_and(|bytes| socket::send(socket, &bytes, &[]).is_ok())
            }
            Ok(ToLauncher::Start(start)) => {
                self.start(*start, fds);
                true
            }
            Ok(ToLauncher::Mount { layers, options }) => {
                match fds.first() {
                    Some(channel) => self.merge(layers, options, channel),
                    None => warn("a mount message came without a channel"),
                }
                true
            }
            Ok(ToLauncher::ForgetRemoved) => {
                self.layers.forget_removed();
                true
            }
            Ok(ToLauncher::Stop) => {
                self.stopping = true;
                true
            }
            Err(error) => {
                let message = format!("the launcher does not understand the message: {error}");
                if let Some(channel) = fds.first() {
                    refuse(channel, Failure::Invalid, message);
                } else {
                    warn(&message);
                }
                true
            }
        }
    }

    fn merge(&mut self, mut layers: Vec<Layer>, mut options: Vec<String>, channel: &OwnedFd) {
        let mount = self
            .layers
            .provide(&mut layers, &mut options)
            .and_then(|()| overlay::merge(&layers, &options, &self.scratch));
        let answer = match &mount {
            Ok(_) => FromLauncher::Mounted,
            Err(error) => FromLauncher::Failed {
                message: error.to_string(),
            },
        };
        let mount: Vec<_> = mount.iter().map(AsFd::as_fd).collect();
        if let Ok(bytes) = serde_json::to_vec(&answer) {
            // The engine may be gone; then nobody wants to know.
            let _ = socket::send(channel, &bytes, &mount);
        }
    }

    /// Mounts all layers that a container needs.
    fn provide(&mut self, start: &mut Start) -> io::Result<()> {
        let root = &mut start.root;
        self.layers.provide(&mut root.layers, &mut root.options)?;
        for tree in &mut start.trees {
            match &mut tree.from {
                TreeFrom::Layers { layers, options } => self.layers.provide(layers, options)?,
                TreeFrom::Writable(root) => {
                    self.layers.provide(&mut root.layers, &mut root.options)?;
                }
                TreeFrom::Given => {}
            }
        }
        Ok(())
    }

    fn start(&mut self, mut start: Start, fds: Vec<OwnedFd>) {
        // A copy, for the case that there is no child to answer.
        let mut channel = fds.first().and_then(|channel| channel.try_clone().ok());
        let provided = self
            .provide(&mut start)
            .and_then(|()| start.init.then(|| self.init.open()).transpose());
        let init = match provided {
            Ok(init) => init,
            Err(error) => {
                if let Some(channel) = &channel {
                    refuse(channel, Failure::System, error.to_string());
                }
                return;
            }
        };
        let copy = &mut channel;
        let launcher = &mut *self;
        let result = fork::fork(move || {
            // A monitor that kept the launcher's sockets would keep an engine
            // from noticing that the launcher died.
            *copy = None;
            launcher.listener = None;
            launcher.connections = Vec::new();
            let host = monitor::Surroundings {
                cgroups: &launcher.cgroups,
                namespace: &launcher.host_namespace,
                init,
            };
            monitor::run(start, fds, &host)
        });
        if let Err(error) = result
            && let Some(channel) = &channel
        {
            refuse(channel, Failure::System, format!("fork a monitor: {error}"));
        }
    }
}

fn refuse(channel: &OwnedFd, kind: Failure, message: String) {
    if let Ok(bytes) = serde_json::to_vec(&FromMonitor::StartFailed { kind, message }) {
        // The engine may be gone; then nobody wants to know.
        let _ = socket::send(channel, &bytes, &[]);
    }
}

fn enter_cgroup(host: &Host, path: &str) -> io::Result<()> {
    let group = Cgroup::open(host, path);
    let group = if group.exists() {
        group
    } else {
        Cgroup::create(host, path, None).map_err(io::Error::other)?
    };
    match group.entry().map_err(io::Error::other)? {
        Entry::Clone(dir) => {
            let file = openat(
                &dir,
                "cgroup.procs",
                OFlags::WRONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            File::from(file).write_all(b"0")
        }
        entry => entry.enter().map_err(Into::into),
    }
}

fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| crate::context(error, || format!("create {}", path.display())))
}

/// Tells whoever waits on standard output, then leaves it and standard input.
fn announce_ready() -> io::Result<()> {
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // No one has to listen.
    let _ = writeln!(out, "ready {}", std::process::id());
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// To standard error, which the engine has pointed at its log.
pub(crate) fn warn(message: &str) {
    let _ = writeln!(io::stderr(), "berth-runtime: {message}");
}
