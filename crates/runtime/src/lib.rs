//! An OCI configuration becomes a process: namespaces, mounts, root
//! filesystem, users, capabilities, seccomp, terminals, exec.
//!
//! Must not know about HTTP, async runtimes or images. Everything here runs in
//! a single-threaded process (the OCI command line or a monitor), so the
//! cloned child may allocate.
//!
//! # How a container is made
//!
//! The parent checks the whole configuration and opens everything of the host
//! that is needed (`create`, `mounts`): what can be refused is refused before a
//! process exists. Then one `clone3` (`namespaces`). The child (`child`) attaches
//! the root (`rootfs`), mounts, devices and masks below it by descriptor, pivots,
//! and becomes the program (`process`). It reports over one socket (`sync`), whose
//! end of file is the program's start. A further process (`exec`) joins the
//! container's namespaces and ends in the same `process`.
//!
//! # What defends the host
//!
//! - No path of the container is used as a path: `paths` resolves inside the root
//!   to descriptors, which are then mounted on.
//! - /proc is written through a procfs of our own (`procfs`).
//! - Until its program runs, the child is undumpable, all its descriptors are
//!   close-on-exec, and it dies with its parent.
//! - Each known way out has its CVE number beside the defence and a test in
//!   `tests/container/defences.rs`.

mod capabilities;
mod cgroups;
mod child;
mod copyup;
mod create;
mod devices;
mod error;
mod exec;
mod filesystems;
mod hooks;
mod idmap;
mod limits;
mod listener;
mod lookup;
mod masks;
mod mounts;
mod namespaces;
mod netdev;
mod options;
mod paths;
pub mod probe;
mod process;
mod procfs;
mod rdt;
mod resources;
pub mod restore;
mod rootfs;
mod security;
pub mod steps;
mod sync;
mod sysctl;
mod terminal;
pub mod users;

use std::os::fd::{BorrowedFd, OwnedFd};

use berth_cgroup::Cgroup;
use berth_seccomp::Program;
use oci_spec::runtime::{Linux, Process, Spec};

pub use error::Error;
pub use hooks::Poststop;
pub use listener::Listener;
pub use rdt::{Rdt, RdtUsage};
pub use resources::resources;

/// Where the container's root filesystem comes from.
#[derive(Debug)]
pub enum Root<'a> {
    /// `root.path` of the configuration, relative to this bundle directory.
    Bundle(&'a std::path::Path),
    /// A detached mount (an overlay from `fsmount`), attached by the child.
    Mount(BorrowedFd<'a>),
}

/// What becomes the first process's descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum Stdio<'a> {
    /// These three descriptors.
    Fds([BorrowedFd<'a>; 3]),
    /// A new terminal made in the container's own devpts; its other side is
    /// returned as `Started::console`. Size in (columns, rows); 0 = unset.
    Terminal { width: u16, height: u16 },
}

/// Everything needed to make a container besides its configuration.
#[derive(Debug)]
pub struct Create<'a> {
    pub spec: &'a Spec,
    pub id: &'a str,
    pub root: Root<'a>,
    pub stdio: Stdio<'a>,
    /// Made by the caller with the limits applied.
    pub cgroup: Option<&'a Cgroup>,
    /// What `linux.intelRdt` asks for, applied.
    pub rdt: Option<&'a Rdt>,
    /// Compiled by the caller; when `None`, `linux.seccomp` is compiled here.
    pub seccomp: Option<&'a Program>,
    /// A network namespace to join instead of the one in the configuration.
    pub network: Option<BorrowedFd<'a>>,
    /// Detached mounts that are the sources of the bind mounts to these
    /// destinations, instead of the paths in the configuration.
    pub sources: &'a [(&'a std::path::Path, BorrowedFd<'a>)],
    /// Wait for [`Created::start`] before the user's program is executed.
    pub gate: bool,
    pub inherit: Inherit,
}

/// What a process keeps of whoever makes it, besides its standard streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inherit {
    /// Descriptors 3 and following, so many; the caller has made sure that they
    /// are what is meant, and inherits nothing else there.
    pub descriptors: u32,
    /// The session keyring, instead of a new one.
    pub keyring: bool,
}

/// A process of a container, alive, a child of the caller.
#[derive(Debug)]
pub struct Started {
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// The terminal's controlling side, when one was asked for.
    pub console: Option<OwnedFd>,
}

impl Started {
    /// Kills and reaps it.
    pub fn end(&self) {
        create::end(self);
    }
}

/// A made container, waiting at the gate when one was asked for. The process that
/// made it may end and leave this to one it forked: the container waits for as long
/// as anybody holds it, and ends when nobody does.
#[derive(Debug)]
pub struct Created {
    pub process: Started,
    /// Where the time went, up to the program or the gate.
    pub steps: Vec<steps::Step>,
    /// What was missing in the root filesystem and was made to mount on: paths
    /// from the root without symbolic links, parents first.
    pub made: Vec<String>,
    gate: Option<(sync::ParentEnd, create::Parting)>,
}

impl Created {
    /// Opens the gate and returns when the program has been executed. Errors of
    /// the exec itself (not found, not executable) come from here, or from
    /// [`create`] when there was no gate.
    /// On error the process is gone and reaped. Without a gate, or when it is open
    /// already, nothing happens.
    pub fn start(&mut self) -> Result<(), Error> {
        create::start(self)
    }
}

/// Makes a container. Without a gate it returns when the program has been
/// executed. On error the child is gone and reaped.
pub fn create(request: &Create<'_>) -> Result<Created, Error> {
    create::create(request)
}

/// A further process in a running container.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The container's first process.
    pub pid: u32,
    pub pidfd: BorrowedFd<'a>,
    pub process: &'a Process,
    /// Of the container's configuration, for what holds for all its processes.
    pub linux: Option<&'a Linux>,
    pub stdio: Stdio<'a>,
    pub cgroup: Option<&'a Cgroup>,
    /// Groups below `cgroup`; see [`Cgroup::entry_below`].
    pub below: &'a [(Option<&'a str>, &'a str)],
    pub rdt: Option<&'a Rdt>,
    pub seccomp: Option<&'a Program>,
    /// For a filter with SCMP_ACT_NOTIFY.
    pub listener: Option<&'a Listener>,
    pub inherit: Inherit,
}

/// Runs `process` in the container; returns when it has been executed.
pub fn exec(request: &Exec<'_>) -> Result<Started, Error> {
    exec::exec(request)
}
