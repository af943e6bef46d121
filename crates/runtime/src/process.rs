//! A process of a container turns into the program it is for: its user, groups,
//! capabilities, limits, filters, descriptors, working directory. Shared by create
//! and exec.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use berth_seccomp::Program;
use oci_spec::runtime::{Linux, LinuxMemoryPolicy, LinuxPersonality, Process};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::{Errno, FdFlags};

use crate::capabilities::Sets;
use crate::error::{Context as _, Error, Result};
use crate::limits;
use crate::lookup::{self, c_string};
use crate::namespaces;
use crate::paths;
use crate::procfs::Procfs;
use crate::security;
use crate::sync::ChildEnd;
use crate::users;

/// Everything [`become_program`] needs; checked before the process exists.
#[derive(Debug)]
pub(crate) struct Goal<'a> {
    pub(crate) process: &'a Process,
    pub(crate) capabilities: Sets,
    pub(crate) seccomp: Option<&'a Program>,
    pub(crate) personality: Option<&'a LinuxPersonality>,
    pub(crate) memory_policy: Option<&'a LinuxMemoryPolicy>,
    /// Descriptors after the standard streams that stay open.
    pub(crate) descriptors: u32,
}

/// Who the program runs as.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    groups: Vec<Gid>,
    home: Option<String>,
}

impl<'a> Goal<'a> {
    pub(crate) fn new(
        process: &'a Process,
        linux: Option<&'a Linux>,
        seccomp: Option<&'a Program>,
    ) -> Result<Self> {
        if process.args().as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::invalid("process.args is empty"));
        }
        if !process.cwd().is_absolute() {
            return Err(Error::invalid(format!(
                "process.cwd: {:?} is not an absolute path",
                process.cwd().display()
            )));
        }
        limits::check(process)?;
        security::check_labels(process, None)?;
        Ok(Self {
            process,
            capabilities: Sets::new(process.capabilities().as_ref()),
            seccomp,
            personality: linux.and_then(|linux| linux.personality().as_ref()),
            memory_policy: linux.and_then(|linux| linux.memory_policy().as_ref()),
            descriptors: 0,
        })
    }
}

impl Identity {
    /// `user.username` is resolved in the container's own files; without one the
    /// numbers of the configuration count.
    pub(crate) fn resolve(root: BorrowedFd<'_>, process: &Process) -> Result<Self> {
        let user = process.user();
        let mut groups: Vec<u32> = user.additional_gids().iter().flatten().copied().collect();
        let has_home = process
            .env()
            .iter()
            .flatten()
            .any(|entry| entry.len() > 5 && entry.starts_with("HOME="));
        let (uid, gid, home) = match user.username() {
            Some(name) => {
                let found = users::resolve_user(root, name)?;
                let asked_for = std::mem::take(&mut groups);
                // The primary group always among them: else the program could
                // leave it, and with it what the group is denied
                // (CVE-2022-36109, CVE-2018-7169).
                let all = [found.gid]
                    .into_iter()
                    .chain(found.additional_gids)
                    .chain(asked_for);
                for gid in all {
                    if !groups.contains(&gid) {
                        groups.push(gid);
                    }
                }
                (found.uid, found.gid, (!has_home).then_some(found.home))
            }
            None => {
                let uid = user.uid();
                let home = (!has_home).then(|| users::home_of(root, uid));
                (uid, user.gid(), home)
            }
        };
        for id in [uid, gid].iter().chain(&groups) {
            // -1 means "leave as it is" to the kernel.
            if *id == u32::MAX {
                return Err(Error::invalid(format!("{id} is no user or group number")));
            }
        }
        Ok(Self {
            uid,
            gid,
            groups: groups.into_iter().map(Gid::from_raw).collect(),
            home,
        })
    }
}

/// Runs in the new process, inside the container's root, as root of its user
/// namespace. Comes back only with an error.
pub(crate) fn become_program(
    goal: &Goal<'_>,
    identity: &Identity,
    procfs: Option<&Procfs>,
    sync: &ChildEnd,
) -> Result<Infallible> {
    let process = goal.process;
    own_stdio(identity)?;
    if security::wants_labels(process) {
        match procfs {
            Some(procfs) => security::label_next_exec(process, procfs)?,
            None => security::label_next_exec(process, &Procfs::detached()?)?,
        }
    }
    limits::set_scheduling(process)?;
    if let Some(personality) = goal.personality {
        limits::set_personality(personality)?;
    }
    if let Some(policy) = goal.memory_policy {
        limits::set_memory_policy(policy)?;
    }
    limits::set_rlimits(process)?;
    rustix::process::umask(Mode::from_raw_mode(
        process.user().umask().unwrap_or(0o022) & 0o777,
    ));
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).step(|| "set no_new_privs")?;
    }
    goal.capabilities.drop_bounding()?;
    // The directory may be one that only root, or only the user, can enter.
    let entered = rustix::process::chdir(process.cwd());
    become_user(identity)?;
    if entered.is_err() {
        rustix::process::chdir(process.cwd()).step(|| {
            format!(
                "chdir to cwd ({:?}) set in config.json failed",
                process.cwd()
            )
        })?;
    }
    check_cwd()?;

    let env = environment(process, identity)?;
    let args = process.args().as_deref().unwrap_or_default();
    let args = args
        .iter()
        .map(|arg| c_string(arg))
        .collect::<Result<Vec<_>>>()?;
    let program = lookup::find(name_of(process), &env)?;
    let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
    let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();

    // Everything of the host that is still open closes with the program's start
    // (CVE-2024-21626).
    let kept = i32::try_from(goal.descriptors).unwrap_or(0);
    berth_sys::exec::close_on_exec_from(kept.saturating_add(3)).step(|| "close descriptors")?;
    if !sync.parent_is_alive() {
        return Err(Error::step(
            "start the program: the engine is gone",
            Errno::PIPE,
        ));
    }
    namespaces::untie()?;
    // As late as possible, so that a profile need not allow what only we need.
    // Without no_new_privs the filter takes CAP_SYS_ADMIN, which goes right after.
    match goal.seccomp {
        Some(filter) if !no_new_privileges => {
            regain_capabilities()?;
            security::load_seccomp(filter, sync)?;
            goal.capabilities.apply()?;
        }
        Some(filter) => {
            goal.capabilities.apply()?;
            security::load_seccomp(filter, sync)?;
        }
        None => goal.capabilities.apply()?,
    }
    berth_sys::exec::execve(&program, &args, &env)
        .map_err(|error| lookup::exec_failed(&program, &error))
}

/// What needs no waiting for `start` to be found out: engines tell a program
/// that is missing (127) from one that cannot be executed (126) by what `create`
/// says. The last word is [`become_program`]'s, as the user.
pub(crate) fn find_program(process: &Process, identity: &Identity) -> Result<()> {
    if rustix::process::chdir(process.cwd()).is_ok() {
        check_cwd()?;
    }
    lookup::find(name_of(process), &environment(process, identity)?).map(drop)
}

fn name_of(process: &Process) -> &str {
    (process.args().iter().flatten().next()).map_or("", String::as_str)
}

/// Groups, group, user; the permitted capabilities survive for
/// [`Sets::apply`]. Always setgroups, or the engine's own groups would stay
/// (CVE-2022-36109).
fn become_user(identity: &Identity) -> Result<()> {
    match rustix::thread::set_thread_groups(&identity.groups) {
        Ok(()) => {}
        // A user namespace of an unprivileged user: setgroups is denied there, and
        // nobody could have more groups than that user.
        Err(Errno::PERM) if identity.groups.is_empty() && setgroups_is_denied() => {}
        Err(errno) => return Err(errno).step(|| "set supplementary groups"),
    }
    let gid = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .step(|| format!("set group {}", identity.gid))?;
    rustix::thread::set_keep_capabilities(true).step(|| "keep capabilities")?;
    let uid = Uid::from_raw(identity.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .step(|| format!("set user {}", identity.uid))?;
    rustix::thread::set_keep_capabilities(false).step(|| "keep capabilities no longer")
}

fn setgroups_is_denied() -> bool {
    std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.starts_with(b"deny"))
}

/// A change of user clears the effective set; loading a filter needs it.
fn regain_capabilities() -> Result<()> {
    let mut sets = rustix::thread::capabilities(None).step(|| "read capabilities")?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).step(|| "raise capabilities")
}

/// A working directory outside the root is reported by the kernel with a path that
/// does not start with a slash, or not at all (CVE-2024-21626).
fn check_cwd() -> Result<()> {
    let cwd = rustix::process::getcwd(Vec::new());
    match cwd {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(Error::invalid(
            "current working directory is outside of container mount namespace root -- possible \
             container breakout detected",
        )),
        Err(errno) => Err(errno).step(|| "get the working directory"),
    }
}

fn environment(process: &Process, identity: &Identity) -> Result<Vec<CString>> {
    let home = identity.home.as_ref().map(|home| format!("HOME={home}"));
    let given = process.env().iter().flatten().chain(&home);
    // Of several with one name the last counts, while getenv(3) finds the first.
    let mut seen = HashSet::new();
    let mut env = Vec::new();
    for entry in given.rev() {
        if seen.insert(entry.split('=').next()) {
            env.push(c_string(entry)?);
        }
    }
    env.reverse();
    Ok(env)
}

/// Gives standard input, output and error to the user, so that /dev/stdout can be
/// opened again; not the shared null device.
fn own_stdio(identity: &Identity) -> Result<()> {
    if identity.uid == 0 {
        return Ok(());
    }
    for fd in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let stat = rustix::fs::fstat(fd).step(|| "stat standard streams")?;
        if stat.st_uid == identity.uid
            || paths::is_device(&stat, rustix::fs::FileType::CharacterDevice, 1, 3)
        {
            continue;
        }
        match rustix::fs::fchown(fd, Some(Uid::from_raw(identity.uid)), None) {
            // Not everything has an owner (sockets of other namespaces, read-only
            // files): then it stays as it is, as in runc.
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS | Errno::ACCESS) => {}
            Err(errno) => return Err(errno).step(|| "give away standard streams"),
        }
    }
    Ok(())
}

/// Makes three descriptors standard input, output and error. To be called in the
/// container's root.
pub(crate) fn set_stdio(fds: [BorrowedFd<'_>; 3]) -> Result<()> {
    // Above the three first, so that none is overwritten before it is copied. One
    // that is in its place already stays there.
    let copy = |number: RawFd, fd: BorrowedFd<'_>| {
        match own_null(fd) {
            Some(null) if null.as_raw_fd() > 2 => Ok(Some(null)),
            Some(null) => rustix::io::fcntl_dupfd_cloexec(&null, 3).map(Some),
            None if fd.as_raw_fd() == number => {
                rustix::io::fcntl_setfd(fd, FdFlags::empty()).map(|()| None)
            }
            None => rustix::io::fcntl_dupfd_cloexec(fd, 3).map(Some),
        }
        .step(|| "copy standard streams")
    };
    let [stdin, stdout, stderr] = fds;
    let (stdin, stdout, stderr) = (copy(0, stdin)?, copy(1, stdout)?, copy(2, stderr)?);
    (stdin.map_or(Ok(()), rustix::stdio::dup2_stdin))
        .and_then(|()| stdout.map_or(Ok(()), rustix::stdio::dup2_stdout))
        .and_then(|()| stderr.map_or(Ok(()), rustix::stdio::dup2_stderr))
        .step(|| "set standard streams")
}

/// For the host's null device the container's: root there could change the mode of
/// the host's node through the descriptor, and a checkpoint has no name for it.
fn own_null(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let is_null = |fd: BorrowedFd<'_>| {
        rustix::fs::fstat(fd)
            .is_ok_and(|stat| paths::is_device(&stat, rustix::fs::FileType::CharacterDevice, 1, 3))
    };
    if !is_null(fd) {
        return None;
    }
    let access = rustix::fs::fcntl_getfl(fd).ok()? & OFlags::RWMODE;
    // Not to wait for whatever an image may have there.
    let careful = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", access | careful, Mode::empty()).ok()?;
    if !is_null(null.as_fd()) {
        return None;
    }
    rustix::fs::fcntl_setfl(&null, access).ok()?;
    Some(null)
}
