//! From a start message to a running container.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_cgroup::Cgroup;
use berth_runtime_core::steps::Clock;
use berth_runtime_core::{Create, Inherit, Root, Stdio};
use berth_seccomp::Program;
use berth_sys::signals::{self, SignalFd};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::process::Signal;

use super::exit::{CgroupGuard, RunningState};
use super::process::Process;
use super::run_dir::RunDir;
use super::serve::Container;
use super::shm;
use super::streams::Streams;
use super::tree;
use super::{Failed, Surroundings};
use crate::launcher::namespace;
use crate::log::Log;
use crate::overlay;
use crate::protocol::{INIT, SHM, Start};
use crate::timestamp::Timestamp;

/// Makes and starts the container. On an error everything made so far is
/// removed again.
pub(super) fn start(
    start: Start,
    fds: std::vec::IntoIter<OwnedFd>,
    host: &Surroundings<'_>,
) -> Result<Container, Failed> {
    let mut clock = Clock::start();
    let signals = become_monitor().map_err(|error| Failed::system("set up the monitor", error))?;
    let fds = Descriptors::take(&start, fds)?;
    let spec: Spec = read_json("configuration", &fds.config)?;
    let seccomp = fds.seccomp.as_ref().map(read_seccomp).transpose()?;
    clock.mark("monitor: receive");

    let run_dir = RunDir::create(&start.run_dir)?;
    clock.mark("monitor: run directory");
    let root = overlay::mount_detached(&start.root, run_dir.path())
        .map_err(|error| Failed::system("mount the root filesystem", error))?;
    clock.mark("monitor: overlay");
    let shm = match &fds.shm {
        Some(namespace) => Some(shm::open(namespace).map_err(|error| {
            Failed::system("open the shared memory of the other container", error)
        })?),
        None => None,
    };
    let trees = tree::open_all(&start.trees, fds.tree, run_dir.path())?;
    clock.mark("monitor: trees");
    // From here on the host's own mounts: a disk mounted there after the
    // launcher began can be the source of a bind mount.
    namespace::enter(host.namespace)
        .map_err(|error| Failed::system("return to the host's mount namespace", error))?;
    let log = Log::open(&start.log).map_err(|error| Failed::system("open the log", error))?;
    clock.mark("monitor: return and log");
    // What an earlier monitor left when it was killed; we hold its lock.
    let group = CgroupGuard::new(Cgroup::open(host.cgroups, &start.cgroup));
    group
        .clear()
        .map_err(|error| Failed::system("remove the old control group", error))?;
    let resources = berth_runtime_core::resources(&spec)?;
    Cgroup::create(host.cgroups, &start.cgroup, Some(&resources))
        .map_err(|error| Failed::system("create the control group", error))?;
    clock.mark("monitor: control group");

    let pipes = if start.tty {
        None
    } else {
        let pipes = Streams::pipes(start.open_stdin, start.stdin_once);
        Some(pipes.map_err(|error| Failed::system("make pipes", error))?)
    };
    let mut sources: Vec<(&Path, BorrowedFd<'_>)> = Vec::new();
    sources.extend(
        host.init
            .as_ref()
            .map(|tree| (Path::new(INIT), tree.as_fd())),
    );
    sources.extend(shm.as_ref().map(|tree| (Path::new(SHM), tree.as_fd())));
    let targets = start.trees.iter().map(|tree| tree.target.as_path());
    sources.extend(targets.zip(trees.iter().map(AsFd::as_fd)));
    let created = berth_runtime_core::create(&Create {
        spec: &spec,
        id: &start.id,
        root: Root::Mount(root.as_fd()),
        stdio: match &pipes {
            Some((_, child)) => Stdio::Fds(child.fds()),
            None => {
                let (width, height) = start.console_size;
                Stdio::Terminal { width, height }
            }
        },
        cgroup: Some(group.group()),
        seccomp: seccomp.as_ref(),
        network: fds.network.as_ref().map(AsFd::as_fd),
        sources: &sources,
        gate: false,
        rdt: None,
        inherit: Inherit::default(),
    })?;
    let started_at = Timestamp::now().to_string();
    clock.extend(created.steps);
    clock.mark("monitor: other");

    let process = created.process;
    let mut streams = match (pipes, process.console) {
        (Some((streams, _)), _) => streams,
        (None, Some(console)) => Streams::terminal(console, start.open_stdin)
            .map_err(|error| Failed::system("prepare the terminal", error))?,
        (None, None) => return Err(Failed::system("prepare the terminal", "there is none")),
    };
    for (socket, attach) in fds.attached.into_iter().zip(&start.attach) {
        streams.attach(socket, *attach);
    }
    let state = RunningState {
        steps: clock.into_steps(),
        made: created.made,
        bound: start.bound,
        own_pid_namespace: has_own_pid_namespace(&spec),
        state_dir: start.state_dir,
        started_at,
    };
    let first = Process::new(None, process.pid, process.pidfd, streams);
    Ok(Container::new(first, run_dir, group, log, signals, state))
}

/// A session of its own, children of children included, no death by signals
/// meant for others.
fn become_monitor() -> io::Result<SignalFd> {
    rustix::process::setsid()?;
    rustix::thread::set_name(c"berth-monitor")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // The launcher ignores it to have monitors reaped; we want to know.
    signals::set_default(Signal::CHILD)?;
    // A monitor ends with its container. A write to a pipe or socket without
    // a reader, or beyond a file size limit, must give an error.
    let ignored = [
        Signal::TERM,
        Signal::INT,
        Signal::QUIT,
        Signal::HUP,
        Signal::PIPE,
        Signal::XFSZ,
    ];
    for signal in ignored {
        signals::ignore(signal)?;
    }
    SignalFd::new(&[Signal::CHILD])
}

/// The descriptors of a start message, by name.
struct Descriptors {
    config: OwnedFd,
    seccomp: Option<OwnedFd>,
    network: Option<OwnedFd>,
    shm: Option<File>,
    tree: Option<OwnedFd>,
    attached: Vec<OwnedFd>,
}

impl Descriptors {
    fn take(start: &Start, mut fds: std::vec::IntoIter<OwnedFd>) -> Result<Self, Failed> {
        let mut next = |name: &str| {
            fds.next().ok_or_else(|| {
                Failed::invalid(format!("the start message lacks the descriptor of {name}"))
            })
        };
        let config = next("the configuration")?;
        let seccomp = if start.has_seccomp {
            Some(next("the seccomp program")?)
        } else {
            None
        };
        let network = if start.has_network {
            Some(next("the network namespace")?)
        } else {
            None
        };
        let shm = if start.has_shm {
            Some(next("the other container's mount namespace")?.into())
        } else {
            None
        };
        let tree = if start.has_tree {
            Some(next("the mount to take trees from")?)
        } else {
            None
        };
        let attached: Vec<OwnedFd> = fds.collect();
        if attached.len() != start.attach.len() {
            return Err(Failed::invalid(format!(
                "the start message has {} descriptors for {} attached streams",
                attached.len(),
                start.attach.len()
            )));
        }
        Ok(Self {
            config,
            seccomp,
            network,
            shm,
            tree,
            attached,
        })
    }
}

/// Reads a memory file from its beginning, wherever its position is.
fn read_memory_file(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let file = File::from(fd.try_clone()?);
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    what: &str,
    fd: &OwnedFd,
) -> Result<T, Failed> {
    let bytes =
        read_memory_file(fd).map_err(|error| Failed::system(&format!("read the {what}"), error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failed::invalid(format!("the {what} is not valid: {error}")))
}

pub(super) fn read_seccomp(fd: &OwnedFd) -> Result<Program, Failed> {
    let bytes =
        read_memory_file(fd).map_err(|error| Failed::system("read the seccomp program", error))?;
    Program::from_bytes(&bytes).map_err(|error| Failed::invalid(error.to_string()))
}

fn has_own_pid_namespace(spec: &Spec) -> bool {
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    namespaces.is_some_and(|list| {
        list.iter().any(|namespace| {
            namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none()
        })
    })
}
