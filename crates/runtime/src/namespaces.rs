//! Which namespaces a container gets, and the clone that gives them.
//!
//! One `clone3` makes the first process with all new namespaces. Joining an
//! existing process or making a time namespace with offsets changes only where
//! *children* are born, so the parent does it for itself around the clone and goes
//! back: no process in between is needed. Only with a user namespace beside joined
//! ones a short-lived stage process joins them first, and makes the real one as
//! its sibling.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_cgroup::Entry;
use berth_sys::clone::{
    self, CLONE_CLEAR_SIGHAND, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS,
    CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS, CLONE_PARENT, Cloned,
};
use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Context as _, Error, Result};
use crate::probe;
use crate::sync::ChildEnd;

/// The namespaces of a container: new, joined, or (all others) the caller's.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*`.
    new: u64,
    joined: Vec<(u64, OwnedFd)>,
    /// Lines for `/proc/self/timens_offsets`.
    offsets: String,
}

/// Where the process after a clone is.
#[derive(Debug)]
pub(crate) enum Side {
    /// The container's first process. `staged`: it has to wait until the stage
    /// has introduced it to the parent. `in_cgroup`: it was cloned into its group.
    Child { staged: bool, in_cgroup: bool },
    /// The caller. With `staged` the process is the stage, not the container's.
    Parent {
        pid: u32,
        pidfd: OwnedFd,
        staged: bool,
    },
}

fn flag_of(kind: LinuxNamespaceType) -> (u64, &'static str) {
    match kind {
        LinuxNamespaceType::Mount => (CLONE_NEWNS, "mount"),
        LinuxNamespaceType::Cgroup => (CLONE_NEWCGROUP, "cgroup"),
        LinuxNamespaceType::Uts => (CLONE_NEWUTS, "uts"),
        LinuxNamespaceType::Ipc => (CLONE_NEWIPC, "ipc"),
        LinuxNamespaceType::User => (CLONE_NEWUSER, "user"),
        LinuxNamespaceType::Pid => (CLONE_NEWPID, "pid"),
        LinuxNamespaceType::Network => (CLONE_NEWNET, "network"),
        LinuxNamespaceType::Time => (CLONE_NEWTIME, "time"),
    }
}

/// Every namespace kind, for joining a process. User first: it gives the right to
/// join the others.
pub(crate) const ALL: [(u64, &str); 8] = [
    (CLONE_NEWUSER, "user"),
    (CLONE_NEWCGROUP, "cgroup"),
    (CLONE_NEWIPC, "ipc"),
    (CLONE_NEWUTS, "uts"),
    (CLONE_NEWNET, "net"),
    (CLONE_NEWPID, "pid"),
    (CLONE_NEWTIME, "time"),
    (CLONE_NEWNS, "mnt"),
];

impl Namespaces {
    /// Reads the configuration and opens the namespaces to join. `network`
    /// overrides what it says about the network.
    pub(crate) fn open(linux: &Linux, network: Option<BorrowedFd<'_>>) -> Result<Self> {
        let mut namespaces = Self::default();
        let mut seen = 0;
        for entry in linux.namespaces().iter().flatten() {
            let (flag, name) = flag_of(entry.typ());
            if seen & flag != 0 {
                return Err(Error::invalid(format!(
                    "linux.namespaces: {name} is listed twice"
                )));
            }
            seen |= flag;
            match entry
                .path()
                .as_deref()
                .filter(|path| !path.as_os_str().is_empty())
            {
                _ if flag == CLONE_NEWNET && network.is_some() => {}
                None => namespaces.new |= flag,
                Some(path) => namespaces.joined.push((flag, open(path)?)),
            }
        }
        if let Some(network) = network {
            let own = rustix::io::fcntl_dupfd_cloexec(network, 3)
                .step(|| "keep the network namespace")?;
            namespaces.joined.push((CLONE_NEWNET, own));
        }
        if namespaces.new & CLONE_NEWNS == 0 {
            return Err(Error::invalid(
                "a container needs a new mount namespace: its root filesystem is set up there",
            ));
        }
        for (clock, offset) in linux.time_offsets().iter().flatten() {
            if namespaces.new & CLONE_NEWTIME == 0 {
                return Err(Error::invalid(
                    "linux.timeOffsets need a new time namespace",
                ));
            }
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                return Err(Error::invalid(format!(
                    "linux.timeOffsets: clock {clock:?} has no offset"
                )));
            }
            namespaces.offsets.push_str(&format!(
                "{clock} {} {}\n",
                offset.secs().unwrap_or(0),
                offset.nanosecs().unwrap_or(0)
            ));
        }
        Ok(namespaces)
    }

    /// Whether the container has one of its own, as opposed to the caller's or
    /// somebody else's.
    pub(crate) fn is_new(&self, flag: u64) -> bool {
        self.new & flag != 0
    }

    /// Whether it does not share the caller's.
    pub(crate) fn is_separate(&self, flag: u64) -> bool {
        self.is_new(flag) || self.joined.iter().any(|(joined, _)| *joined == flag)
    }

    pub(crate) fn joins(&self, flag: u64) -> Option<&OwnedFd> {
        self.joined
            .iter()
            .find(|(joined, _)| *joined == flag)
            .map(|(_, fd)| fd)
    }

    /// A user namespace decides who owns the others and whether they may be
    /// joined, so it cannot be mixed with joins in one clone.
    fn needs_stage(&self) -> bool {
        self.joins(CLONE_NEWUSER).is_some()
            || (self.is_new(CLONE_NEWUSER) && !self.joined.is_empty())
    }

    /// Makes the container's first process. In the stage, when one is needed, this
    /// does not return.
    pub(crate) fn spawn(&self, entry: Option<&Entry>, sync: &ChildEnd) -> Result<Side> {
        if !self.needs_stage() {
            let home = self.lead_children(true)?;
            return Ok(match self.clone_into(entry, 0)? {
                (Cloned::Child, in_cgroup) => {
                    // The way back is the parent's alone.
                    std::mem::forget(home);
                    Side::Child {
                        staged: false,
                        in_cgroup,
                    }
                }
                (Cloned::Parent { pid, pidfd }, _) => Side::Parent {
                    pid,
                    pidfd,
                    staged: false,
                },
            });
        }
        match fork(CLONE_CLEAR_SIGHAND, None)? {
            Cloned::Parent { pid, pidfd } => Ok(Side::Parent {
                pid,
                pidfd,
                staged: true,
            }),
            Cloned::Child => match self.stage(entry, sync) {
                Ok(in_cgroup) => Ok(Side::Child {
                    staged: true,
                    in_cgroup,
                }),
                Err(error) => {
                    sync.fail(&error);
                    berth_sys::exec::exit(1)
                }
            },
        }
    }

    /// Joins, clones the real process as a sibling, introduces it and ends.
    /// Returns only in the clone.
    fn stage(&self, entry: Option<&Entry>, sync: &ChildEnd) -> Result<bool> {
        protect()?;
        // Before a joined cgroup namespace, from which the group would be out of
        // sight; the child is born where the stage is.
        let entry = match entry {
            Some(entry) if self.joins(CLONE_NEWCGROUP).is_some() => {
                crate::child::enter_cgroup(entry, sync)?;
                None
            }
            entry => entry,
        };
        let entered = entry.is_none();
        self.join_all()?;
        self.lead_children(false)?;
        match self.clone_into(entry, CLONE_PARENT)? {
            (Cloned::Child, in_cgroup) => Ok(in_cgroup || entered),
            (Cloned::Parent { pid, pidfd }, _) => {
                sync.spawned(pid, pidfd.as_fd())?;
                berth_sys::exec::exit(0)
            }
        }
    }

    /// setns for everything but process and time namespaces, which are for
    /// children; the user namespace last, so that the caller's rights still count.
    pub(crate) fn join_all(&self) -> Result<()> {
        let others = self.joined.iter().filter(|(flag, _)| *flag != CLONE_NEWPID);
        let (user, others): (Vec<_>, Vec<_>) = others.partition(|(flag, _)| *flag == CLONE_NEWUSER);
        for (flag, fd) in others.into_iter().chain(user) {
            clone::setns(fd.as_fd(), *flag)
                .step(|| format!("join the {} namespace", name(*flag)))?;
        }
        Ok(())
    }

    /// Joins what the clone did not give. In the child, without a stage.
    pub(crate) fn join_in_child(&self) -> Result<()> {
        if self.needs_stage() {
            Ok(())
        } else {
            self.join_all()
        }
    }

    /// Has children be born in a joined process namespace, or in a new time
    /// namespace with offsets.
    fn lead_children(&self, come_back: bool) -> Result<Option<Home>> {
        let pid = self.joins(CLONE_NEWPID);
        let time =
            self.is_new(CLONE_NEWTIME) && (!self.offsets.is_empty() || !probe::ways().clone3());
        if pid.is_none() && !time {
            return Ok(None);
        }
        // Opened before anything changes, so that the way back is certain.
        let home = come_back
            .then(|| Home::new(pid.is_some(), time))
            .transpose()?;
        if let Some(pid) = pid {
            clone::setns(pid.as_fd(), CLONE_NEWPID).step(|| "join the pid namespace")?;
        }
        if time {
            clone::unshare(CLONE_NEWTIME).step(|| "make a time namespace")?;
            if !self.offsets.is_empty() {
                std::fs::write("/proc/self/timens_offsets", &self.offsets)
                    .step(|| "set the time namespace's offsets")?;
            }
        }
        Ok(home)
    }

    /// The clone with all that it can give at once. True with it when the child is
    /// in its control group already.
    fn clone_into(&self, entry: Option<&Entry>, extra: u64) -> Result<(Cloned, bool)> {
        // A cgroup namespace is rooted at the group its maker is in, and clone3
        // makes namespaces before the child enters the group: so the child
        // unshares it later.
        let mut flags = (self.new & !CLONE_NEWCGROUP) | extra | CLONE_CLEAR_SIGHAND;
        if !self.offsets.is_empty() || !probe::ways().clone3() {
            flags &= !CLONE_NEWTIME;
        }
        let group = match entry {
            Some(Entry::Clone(group)) if probe::ways().clone_into_cgroup() => Some(group.as_fd()),
            _ => None,
        };
        if let Some(group) = group {
            check_at_home()?;
            match clone::clone3(flags, Some(group)) {
                Ok(cloned) => return Ok((cloned, true)),
                // Not possible here (a threaded group, an outer sandbox): the child
                // enters by itself.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EBUSY | libc::EOPNOTSUPP | libc::EACCES | libc::ENOSYS)
                    ) => {}
                Err(error) => return Err(spawn_failed(error)),
            }
        }
        Ok((fork(flags, None)?, false))
    }

    /// The cgroup namespace, made after entering the group.
    pub(crate) fn unshare_cgroup(&self) -> Result<()> {
        if self.is_new(CLONE_NEWCGROUP) {
            clone::unshare(CLONE_NEWCGROUP).step(|| "make a cgroup namespace")?;
        }
        Ok(())
    }
}

/// This process could not come back from where it led its children.
static STRANDED: AtomicBool = AtomicBool::new(false);

/// To be asked before a process is made.
pub(crate) fn check_at_home() -> Result<()> {
    if STRANDED.load(Ordering::Relaxed) {
        return Err(Error::step(
            "make another process: this one may not go back to its own namespaces",
            rustix::io::Errno::PERM,
        ));
    }
    Ok(())
}

/// clone3, or clone where it is not allowed.
pub(crate) fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    check_at_home()?;
    if probe::ways().clone3() {
        clone::clone3(flags, cgroup)
    } else {
        clone::clone(flags)
    }
    .map_err(spawn_failed)
}

fn spawn_failed(error: std::io::Error) -> Error {
    if error.raw_os_error() == Some(libc::EDEADLK) {
        return Error::invalid("containers can only be made by a process with a single thread");
    }
    Error::step("create the container's process", error)
}

/// Before anything of the container can see this process: it must not be dumped
/// or traced, and its /proc entries must be root's, for its program is the host's
/// (CVE-2019-5736). It dies with its parent until the program runs.
pub(crate) fn protect() -> Result<()> {
    use rustix::process::{DumpableBehavior, Signal};
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step(|| "become undumpable")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .step(|| "tie the process to its parent")
}

/// From here on the process does not die with its parent.
pub(crate) fn untie() -> Result<()> {
    rustix::process::set_parent_process_death_signal(None)
        .step(|| "untie the process from its parent")
}

pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step(|| format!("open namespace {}", path.display()))
}

fn name(flag: u64) -> &'static str {
    ALL.iter()
        .find(|(known, _)| *known == flag)
        .map_or("unknown", |(_, name)| name)
}

/// The way back for a parent that led its children elsewhere: joins its own
/// namespaces again when dropped, or makes [`check_at_home`] fail.
#[derive(Debug)]
pub(crate) struct Home(Vec<(u64, OwnedFd)>);

impl Home {
    pub(crate) fn new(pid: bool, time: bool) -> Result<Self> {
        let mut namespaces = Vec::new();
        for (wanted, flag, name) in [(pid, CLONE_NEWPID, "pid"), (time, CLONE_NEWTIME, "time")] {
            if wanted {
                namespaces.push((flag, open(Path::new(&format!("/proc/self/ns/{name}")))?));
            }
        }
        Ok(Self(namespaces))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for (flag, fd) in &self.0 {
            // Root of a user namespace may leave the host's process namespace for one
            // of its own, and not come back. Later children would start in the wrong
            // place, so there must be none.
            if clone::setns(fd.as_fd(), *flag).is_err() {
                STRANDED.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(json: &str) -> Linux {
        serde_json::from_str(json).unwrap()
    }

    fn refusal(json: &str) -> String {
        Namespaces::open(&linux(json), None)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_configuration_is_checked() {
        assert!(refusal(r#"{"namespaces":[{"type":"pid"}]}"#).contains("mount namespace"));
        assert!(refusal(r#"{"namespaces":[{"type":"mount"},{"type":"mount"}]}"#).contains("twice"));
        assert!(
            refusal(r#"{"namespaces":[{"type":"mount"}],"timeOffsets":{"monotonic":{"secs":1}}}"#)
                .contains("need a new time namespace")
        );
        assert!(
            refusal(r#"{"namespaces":[{"type":"mount"},{"type":"ipc","path":"/nowhere"}]}"#)
                .contains("open namespace /nowhere: no such file or directory")
        );
    }

    #[test]
    fn a_stage_is_only_needed_for_user_namespaces_beside_joined_ones() {
        let open = |json: &str| Namespaces::open(&linux(json), None).unwrap();
        let joined = open(
            r#"{"namespaces":[{"type":"mount"},{"type":"pid","path":"/proc/self/ns/pid"},
                {"type":"network","path":"/proc/self/ns/net"}]}"#,
        );
        assert!(!joined.needs_stage());
        assert!(!joined.is_new(CLONE_NEWPID) && joined.is_separate(CLONE_NEWPID));
        let user = open(
            r#"{"namespaces":[{"type":"mount"},{"type":"user"},
                {"type":"network","path":"/proc/self/ns/net"}]}"#,
        );
        assert!(user.needs_stage());
        assert!(!open(r#"{"namespaces":[{"type":"mount"},{"type":"user"}]}"#).needs_stage());
    }
}
