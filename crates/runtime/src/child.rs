//! The container's first process, from the clone to its program.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_cgroup::Entry;
use berth_sys::clone::CLONE_NEWUSER;
use oci_spec::runtime::{ContainerState, Process};
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::Stdio;
use crate::create::Plan;
use crate::devices;
use crate::error::{Context as _, Error, Result};
use crate::hooks::{self, Place};
use crate::masks;
use crate::mounts::{self, Made};
use crate::namespaces;
use crate::paths::{self, Kind};
use crate::process::{self, Identity};
use crate::procfs::Procfs;
use crate::rootfs;
use crate::security;
use crate::steps::Clock;
use crate::sync::ChildEnd;
use crate::terminal::Terminal;

/// Runs the child to its end: the program, or a report of what failed.
pub(crate) fn run(plan: &Plan<'_>, sync: &ChildEnd, staged: bool, in_cgroup: bool) -> ! {
    let error = match make(plan, sync, staged, in_cgroup) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    fail(sync, &error)
}

/// Reports and ends with the exit code a shell would give, in case the report is
/// not allowed to leave.
pub(crate) fn fail(sync: &ChildEnd, error: &Error) -> ! {
    sync.fail(error);
    berth_sys::exec::exit(match error {
        Error::NotFound(_) => 127,
        Error::NotExecutable(_) => 126,
        Error::Invalid(_) | Error::Step { .. } => 1,
    })
}

fn make(plan: &Plan<'_>, sync: &ChildEnd, staged: bool, in_cgroup: bool) -> Result<Infallible> {
    let mut clock = Clock::start();
    berth_sys::exec::reset_signals();
    namespaces::protect()?;
    if staged {
        sync.wait_for_introduction()?;
    }
    let own_user = plan.namespaces.is_new(CLONE_NEWUSER);
    if !own_user {
        set_oom_score(plan.process)?;
    }
    if let (Some(entry), false) = (&plan.entry, in_cgroup) {
        enter_cgroup(entry, sync)?;
    }
    enter_rdt(&plan.rdt_tasks)?;
    clock.mark("child: enter control group");
    plan.namespaces.join_in_child()?;
    if own_user {
        sync.wait_for_map()?;
    }
    if plan.namespaces.is_separate(CLONE_NEWUSER) {
        become_root()?;
    }
    plan.namespaces.unshare_cgroup()?;
    rustix::process::setsid().step(|| "lead a new session")?;
    if !plan.request.inherit.keyring {
        security::new_session_keyring(Some(plan.request.id))?;
    }
    // Modes are meant as they are written while files are made.
    rustix::process::umask(Mode::empty());

    clock.mark("child: namespaces");
    let root = plan.root.as_fd();
    rootfs::attach(root, plan.root_directory().as_deref())?;
    let mut made = mounts::attach_all(root, &plan.mounts)?;
    clock.mark("child: mounts");
    let linux = plan.linux();
    if !mounts::has_foreign_dev(&plan.mounts) {
        devices::make_all(root, linux, plan.namespaces.is_separate(CLONE_NEWUSER))?;
    }
    let terminal = open_terminal(plan, root, &made, sync)?;
    make_cwd(root, plan.process)?;
    set_names(plan)?;
    let procfs = set_sysctls(plan, made.proc.take())?;
    clock.mark("child: devices and names");
    let identity = Identity::resolve(root, plan.process)?;

    if plan.waits_for_hooks() {
        sync.wait_for_hooks()?;
    }
    let container_pid = rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs();
    let hooks = plan.hooks();
    if hooks.is_some() {
        rustix::process::fchdir(root).step(|| "enter the root filesystem")?;
    }
    hooks::run(
        Place::Container,
        "createContainer",
        hooks.and_then(|hooks| hooks.create_container().as_ref()),
        &plan.state,
        ContainerState::Creating,
        container_pid,
    )?;

    // Still with the host's null device in reach.
    masks::mask(root, linux.masked_paths().as_deref().unwrap_or_default())?;
    masks::make_read_only(root, linux.readonly_paths().as_deref().unwrap_or_default())?;
    made.finish()?;
    rootfs::pivot(root, plan.propagation)?;
    if plan.is_root_read_only() {
        rootfs::make_read_only(root)?;
    }

    // Before the gate: whoever reads the output of `create` waits for its end.
    match (&plan.request.stdio, &terminal) {
        (Stdio::Fds(fds), _) => process::set_stdio(*fds)?,
        (Stdio::Terminal { .. }, Some(terminal)) => {
            terminal.control()?;
            process::set_stdio([terminal.slave.as_fd(); 3])?;
        }
        (Stdio::Terminal { .. }, None) => {}
    }
    if plan.request.gate {
        process::find_program(plan.process, &identity)?;
    }
    clock.mark("child: masks and pivot");
    sync.steps(&clock.into_steps())?;
    sync.made(&made.places)?;
    if plan.request.gate {
        // `create` may end and leave the gate to another process; the end of
        // the last one that can open it is noticed as the socket's end.
        namespaces::untie()?;
        sync.wait_at_gate()?;
    }
    hooks::run(
        Place::Container,
        "startContainer",
        hooks.and_then(|hooks| hooks.start_container().as_ref()),
        &plan.state,
        ContainerState::Created,
        container_pid,
    )?;
    process::become_program(&plan.goal, &identity, procfs.as_ref(), sync)
}

/// Root of the user namespace, with all capabilities in it.
pub(crate) fn become_root() -> Result<()> {
    match rustix::thread::set_thread_groups(&[]) {
        // Denied in the namespaces of unprivileged users.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno).step(|| "drop supplementary groups"),
    }
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .step(|| "become the root group of the user namespace")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
        .step(|| "become root of the user namespace")
}

/// Through the host's procfs, before anything of the container is in sight.
/// Lowering it below what was inherited may not be allowed; that is no failure.
pub(crate) fn set_oom_score(process: &Process) -> Result<()> {
    let Some(score) = process.oom_score_adj() else {
        return Ok(());
    };
    write_oom_score("self", score)
}

pub(crate) fn write_oom_score(pid: &str, score: i32) -> Result<()> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let file = rustix::fs::openat(CWD, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .step(|| format!("open {path}"))?;
    match rustix::io::write(&file, score.to_string().as_bytes()) {
        Ok(_) | Err(Errno::ACCESS | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno).step(|| format!("write {score} to {path}")),
    }
}

/// Version 2 too, when the clone could not. A user may not leave the groups of a
/// session for one that is delegated elsewhere; then the parent has it done.
pub(crate) fn enter_cgroup(entry: &Entry, sync: &ChildEnd) -> Result<()> {
    let entered = match entry {
        Entry::Clone(directory) => rustix::fs::openat(
            directory,
            "cgroup.procs",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .and_then(|file| rustix::io::write(&file, b"0").map(drop)),
        Entry::Tasks(_) => entry.enter(),
    };
    match entered {
        Err(Errno::ACCESS | Errno::PERM) => sync.wait_for_attach(),
        result => result.step(|| "enter the control group"),
    }
}

/// Only this process, which has one thread; what it makes later follows.
pub(crate) fn enter_rdt(tasks: &[OwnedFd]) -> Result<()> {
    tasks.iter().try_for_each(|file| {
        rustix::io::write(file, b"0").step(|| "enter the Intel RDT class")?;
        Ok(())
    })
}

fn open_terminal(
    plan: &Plan<'_>,
    root: BorrowedFd<'_>,
    made: &Made,
    sync: &ChildEnd,
) -> Result<Option<Terminal>> {
    let Stdio::Terminal { width, height } = plan.request.stdio else {
        return Ok(None);
    };
    let terminal = Terminal::open(root, made.devpts.as_ref(), width, height)?;
    if !mounts::has_foreign_dev(&plan.mounts) {
        terminal.bind_console(root)?;
    }
    sync.console(terminal.master.as_fd())?;
    Ok(Some(terminal))
}

/// The working directory is made when the image lacks it, as Docker and runc do.
fn make_cwd(root: BorrowedFd<'_>, process: &Process) -> Result<()> {
    let cwd = process.cwd();
    if cwd == Path::new("/") {
        return Ok(());
    }
    match paths::open_in(root, cwd) {
        Err(Errno::NOENT) => paths::ensure(root, cwd, Kind::Directory).map(drop),
        // What is wrong with it is for chdir to say, in runc's words.
        _ => Ok(()),
    }
}

fn set_names(plan: &Plan<'_>) -> Result<()> {
    if let Some(name) = plan
        .request
        .spec
        .hostname()
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        rustix::system::sethostname(name.as_bytes())
            .step(|| format!("set the host name {name:?}"))?;
    }
    if let Some(name) = plan
        .request
        .spec
        .domainname()
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        rustix::system::setdomainname(name.as_bytes())
            .step(|| format!("set the domain name {name:?}"))?;
    }
    Ok(())
}

/// Returns the procfs for later use. Without a /proc of the container's own, one
/// is made only when something is to be written.
fn set_sysctls(plan: &Plan<'_>, own: Option<Procfs>) -> Result<Option<Procfs>> {
    if plan.sysctls.is_empty() {
        return Ok(own);
    }
    let procfs = match own {
        Some(procfs) => procfs,
        None => Procfs::detached()?,
    };
    for (path, value) in &plan.sysctls {
        procfs.write(path, value.as_bytes())?;
    }
    Ok(Some(procfs))
}
