//! A further process in a running container.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use berth_cgroup::Entry;
use berth_sys::clone::{
    self, CLONE_CLEAR_SIGHAND, CLONE_NEWCGROUP, CLONE_NEWPID, CLONE_NEWUSER, CLONE_PARENT, Cloned,
};
use oci_spec::runtime::ContainerState;
use rustix::fs::{CWD, Mode, OFlags};

use crate::child;
use crate::create;
use crate::error::{Context as _, Error, Result};
use crate::limits;
use crate::listener;
use crate::namespaces::{self, ALL, Home};
use crate::probe;
use crate::process::{self, Goal, Identity};
use crate::rdt::Rdt;
use crate::security;
use crate::sync::{self, ChildEnd, Message, ParentEnd};
use crate::terminal::Terminal;
use crate::{Exec, Started, Stdio};

/// How the namespaces of the container's first process are joined.
#[derive(Debug)]
enum Join {
    /// All at once, through its pidfd (Linux 5.8).
    Pidfd(u64),
    /// One by one, in this order.
    Each(Vec<(u64, OwnedFd)>),
}

/// How the process comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Born in the container's process namespace, it joins the others itself.
    Directly,
    /// Made by a process that has joined the others, so that the container never
    /// sees one of its own with the host's root and working directory: one that
    /// has CAP_SYS_PTRACE could enter them (CVE-2016-9962). Root of the
    /// container's own user namespace has no rights over a process outside it.
    Staged,
}

/// See [`crate::exec`].
pub(crate) fn exec(request: &Exec<'_>) -> Result<Started> {
    let mut goal = Goal::new(request.process, request.linux, request.seccomp)?;
    goal.descriptors = request.inherit.descriptors;
    listener::check(request.seccomp, request.listener)?;
    let entry = request
        .cgroup
        .map(|group| group.entry_below(request.below))
        .transpose()
        .map_err(|error| {
            Error::step(
                "open the control group",
                std::io::Error::other(error.to_string()),
            )
        })?;
    let other = (entry.as_ref())
        .filter(|entry| matches!(entry, Entry::Clone(_)) && request.below.is_empty())
        .and_then(|_| first_below(request));
    let rdt_tasks = request.rdt.map(Rdt::tasks).transpose()?.unwrap_or_default();
    let join = Join::prepare(request)?;
    let (parent, child) = sync::pair()?;

    let how = join.how();
    // Children are born in the container's process namespace; then back home.
    let home = (how == How::Directly && join.has(CLONE_NEWPID))
        .then(|| Home::new(true, false))
        .transpose()?;
    if home.is_some() {
        join.enter(request, CLONE_NEWPID)
            .step(|| "join the container's pid namespace")?;
    }
    let cloned = match how {
        How::Directly => clone(entry.as_ref(), 0)?,
        How::Staged => (namespaces::fork(CLONE_CLEAR_SIGHAND, None)?, false),
    };
    match cloned {
        (Cloned::Child, mut in_cgroup) => {
            std::mem::forget(home);
            drop(parent);
            let error = match how {
                How::Directly => Ok(()),
                How::Staged => {
                    stage(request, &join, entry.as_ref(), &child).map(|staged| in_cgroup = staged)
                }
            }
            .and_then(|()| {
                let groups = Groups {
                    entry: entry.as_ref().filter(|_| !in_cgroup),
                    other: other.as_deref(),
                    rdt_tasks: &rdt_tasks,
                };
                run(request, &goal, &join, groups, &child)
            });
            let error = match error {
                Ok(never) => match never {},
                Err(error) => error,
            };
            child::fail(&child, &error)
        }
        (Cloned::Parent { pid, pidfd }, _) => {
            drop(home);
            drop(child);
            let mut started = Started {
                pid,
                pidfd,
                console: None,
            };
            let met = match how {
                How::Directly => Ok(()),
                How::Staged => meet(&parent, &mut started),
            };
            let watched =
                met.and_then(|()| watch(request, other.as_deref(), &parent, &mut started));
            match watched {
                Ok(()) => Ok(started),
                Err(error) => {
                    create::end(&started);
                    Err(error)
                }
            }
        }
    }
}

/// Joins what there is to see, makes the real process as a sibling and ends.
/// Returns only in that one, with whether it is in the control group already.
fn stage(request: &Exec<'_>, join: &Join, entry: Option<&Entry>, sync: &ChildEnd) -> Result<bool> {
    namespaces::protect()?;
    // Both through the host's procfs; the process inherits them.
    berth_sys::exec::reset_signals();
    child::set_oom_score(request.process)?;
    join.enter(request, !CLONE_NEWCGROUP)
        .step(|| "join the container's namespaces")?;
    match clone(entry, CLONE_PARENT)? {
        (Cloned::Child, in_cgroup) => {
            sync.wait_for_introduction()?;
            Ok(in_cgroup)
        }
        (Cloned::Parent { pid, pidfd }, _) => {
            sync.spawned(pid, pidfd.as_fd())?;
            berth_sys::exec::exit(0)
        }
    }
}

/// The process held so far is the stage: it introduces the real one and ends.
fn meet(parent: &ParentEnd, started: &mut Started) -> Result<()> {
    match parent.next()? {
        Some(Message::Spawned(pid, pidfd)) => {
            let stage = std::mem::replace(&mut started.pidfd, pidfd);
            started.pid = pid;
            berth_sys::exec::reap(stage.as_fd());
            parent.go()
        }
        Some(Message::Failed(error)) => Err(error),
        _ => Err(Error::step(
            "hear from the new process",
            rustix::io::Errno::PROTO,
        )),
    }
}

/// True when the child is in the group already.
fn clone(entry: Option<&Entry>, extra: u64) -> Result<(Cloned, bool)> {
    let flags = CLONE_CLEAR_SIGHAND | extra;
    if let Some(Entry::Clone(group)) = entry
        && probe::ways().clone_into_cgroup()
        && let Ok(cloned) = clone::clone3(flags, Some(group.as_fd()))
    {
        return Ok((cloned, true));
    }
    Ok((namespaces::fork(flags, None)?, false))
}

fn watch(
    request: &Exec<'_>,
    other: Option<&str>,
    parent: &ParentEnd,
    started: &mut Started,
) -> Result<()> {
    loop {
        match parent.next()? {
            None => return Ok(()),
            Some(Message::Failed(error)) => return Err(error),
            Some(Message::Console(master)) => started.console = Some(master),
            Some(Message::Attach) => {
                let below = match request.below {
                    [(None, path)] => request.cgroup.map(|group| group.child(path)),
                    _ => None,
                };
                let group = below.as_ref().or(request.cgroup);
                match (create::attach(group, started.pid), request.cgroup, other) {
                    // As for one who may enter by itself.
                    (Err(_), Some(group), Some(other)) => {
                        create::attach(Some(&group.child(other)), started.pid)?;
                    }
                    (result, ..) => result?,
                }
                parent.go()?;
            }
            Some(Message::Listener(number)) => {
                if let Some(listener) = request.listener {
                    let status = ContainerState::Running;
                    listener.hand_over(started, number, request.pid, status)?;
                }
                parent.go()?;
            }
            Some(other) => {
                return Err(Error::step(
                    format!("hear from the new process: {other:?}"),
                    rustix::io::Errno::PROTO,
                ));
            }
        }
    }
}

impl Join {
    fn prepare(request: &Exec<'_>) -> Result<Self> {
        let (pid, ways) = (request.pid, probe::ways());
        let mut flags = 0;
        let mut each = Vec::new();
        for (flag, name) in ALL {
            let own = inode(&format!("/proc/self/ns/{name}"));
            // No such kind of namespace in this kernel.
            let Some(own) = own else { continue };
            let path = format!("/proc/{pid}/ns/{name}");
            let theirs = inode(&path).ok_or_else(|| {
                Error::step(
                    format!("find the container's process {pid}"),
                    rustix::io::Errno::SRCH,
                )
            })?;
            // One's own user namespace may not be joined again, and what is shared
            // needs no joining.
            if own == theirs {
                continue;
            }
            flags |= flag;
            if !ways.pidfd_setns() {
                let fd =
                    rustix::fs::openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                        .step(|| format!("open {path}"))?;
                each.push((flag, fd));
            }
        }
        // The number may have become another's between the looks at /proc: not
        // while the process is there.
        if !is_alive(request.pidfd) {
            return Err(Error::step(
                "join the container: it has ended",
                rustix::io::Errno::SRCH,
            ));
        }
        Ok(if ways.pidfd_setns() {
            Self::Pidfd(flags)
        } else {
            Self::Each(each)
        })
    }

    fn how(&self) -> How {
        if self.has(CLONE_NEWPID) && !self.has(CLONE_NEWUSER) {
            How::Staged
        } else {
            How::Directly
        }
    }

    fn has(&self, flag: u64) -> bool {
        match self {
            Self::Pidfd(flags) => flags & flag != 0,
            Self::Each(each) => each.iter().any(|(one, _)| *one == flag),
        }
    }

    /// All but the process namespace. The caller's rights may be needed for some
    /// that do not belong to the container's user namespace (a time namespace with
    /// offsets, a foreign network), so the user namespace comes last; a caller
    /// without rights outside gets them by joining it first.
    fn enter_all(&self, request: &Exec<'_>) -> std::io::Result<()> {
        let others = !(CLONE_NEWPID | CLONE_NEWUSER);
        match self.enter(request, others) {
            Ok(()) => self.enter(request, CLONE_NEWUSER),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && self.has(CLONE_NEWUSER) => {
                self.enter(request, CLONE_NEWUSER)?;
                self.enter(request, others)
            }
            Err(error) => Err(error),
        }
    }

    /// Joins those of `wanted` that the container has.
    fn enter(&self, request: &Exec<'_>, wanted: u64) -> std::io::Result<()> {
        match self {
            Self::Pidfd(flags) if flags & wanted == 0 => Ok(()),
            Self::Pidfd(flags) => clone::setns(request.pidfd, flags & wanted),
            Self::Each(each) => each
                .iter()
                .filter(|(flag, _)| flag & wanted != 0)
                .try_for_each(|(flag, fd)| clone::setns(fd.as_fd(), *flag)),
        }
    }
}

/// A pidfd becomes readable when its process ends.
fn is_alive(pidfd: std::os::fd::BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut ready = [PollFd::new(&pidfd, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::default())) == Ok(0)
}

fn inode(path: &str) -> Option<(u64, u64)> {
    let stat = rustix::fs::stat(path).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// What the new process has to enter by itself.
#[derive(Clone, Copy, Debug)]
struct Groups<'a> {
    entry: Option<&'a Entry>,
    /// Where the container's first process is below it.
    other: Option<&'a str>,
    rdt_tasks: &'a [OwnedFd],
}

/// Where the container's first process went below its control group, version 2.
fn first_below(request: &Exec<'_>) -> Option<String> {
    // As the host shows it: of the container's own /proc nothing is believed.
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", request.pid)).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = path.strip_prefix(request.cgroup?.path())?.trim_matches('/');
    (!below.is_empty()).then(|| below.to_owned())
}

/// Version 2: a container that has made groups of its own with controllers has
/// left none in its own; then where its first process went.
fn enter_cgroup(entry: &Entry, other: Option<&str>, sync: &ChildEnd) -> Result<()> {
    let busy = |error: &Error| matches!(error, Error::Step { source, .. } if source.raw_os_error() == Some(libc::EBUSY));
    match (child::enter_cgroup(entry, sync), entry, other) {
        (Err(error), Entry::Clone(directory), Some(below)) if busy(&error) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(directory, below, flags, Mode::empty())
                .step(|| format!("open control group {below}"))?;
            child::enter_cgroup(&Entry::Clone(directory), sync)
        }
        (result, ..) => result,
    }
}

/// The new process.
fn run(
    request: &Exec<'_>,
    goal: &Goal<'_>,
    join: &Join,
    groups: Groups<'_>,
    sync: &ChildEnd,
) -> Result<Infallible> {
    // Before the container can see this process (CVE-2019-5736).
    namespaces::protect()?;
    let how = join.how();
    if how == How::Directly {
        berth_sys::exec::reset_signals();
        child::set_oom_score(request.process)?;
    }
    let affinity = request.process.exec_cpu_affinity().as_ref();
    if let Some(list) = affinity.and_then(|affinity| affinity.initial().as_deref()) {
        limits::set_affinity(list)?;
    }
    if let Some(entry) = groups.entry {
        enter_cgroup(entry, groups.other, sync)?;
    }
    child::enter_rdt(groups.rdt_tasks)?;
    if let Some(list) = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref()) {
        limits::set_affinity(list)?;
    }
    match how {
        How::Directly => join.enter_all(request),
        // Last, for a group outside cannot be left from within.
        How::Staged => join.enter(request, CLONE_NEWCGROUP),
    }
    .step(|| "join the container's namespaces")?;
    if join.has(CLONE_NEWUSER) {
        child::become_root()?;
    }
    rustix::process::setsid().step(|| "lead a new session")?;
    if !request.inherit.keyring {
        security::new_session_keyring(None)?;
    }
    // Joining a mount namespace has made its root ours.
    let root = rustix::fs::openat(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step(|| "open the container's root")?;
    let identity = Identity::resolve(root.as_fd(), request.process)?;
    match request.stdio {
        Stdio::Fds(fds) => process::set_stdio(fds)?,
        Stdio::Terminal { width, height } => {
            let terminal = Terminal::open(root.as_fd(), None, width, height)?;
            sync.console(terminal.master.as_fd())?;
            terminal.control()?;
            process::set_stdio([terminal.slave.as_fd(); 3])?;
        }
    }
    process::become_program(goal, &identity, None, sync)
}
