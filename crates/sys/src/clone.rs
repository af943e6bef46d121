//! clone3(2): a child process with namespaces, a pidfd and a control group in
//! one call.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A pidfd for the child. The constants are our own, 64 bits wide: libc's
/// `CLONE_INTO_CGROUP` and `CLONE_CLEAR_SIGHAND` are `int` and evaluate to 0.
pub const CLONE_PIDFD: u64 = 0x1000;
/// Reset handled signals to their default in the child. Ignored ones stay
/// ignored; see [`crate::exec::reset_signals`].
pub const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// Make the child a member of the version 2 group given (Linux 5.7).
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// The child becomes a child of the caller's parent.
pub const CLONE_PARENT: u64 = 0x8000;
/// New time namespace (Linux 5.6); not possible with clone(2), whose low byte
/// is the exit signal.
pub const CLONE_NEWTIME: u64 = 0x80;
/// New mount namespace.
pub const CLONE_NEWNS: u64 = 0x2_0000;
/// New cgroup namespace.
pub const CLONE_NEWCGROUP: u64 = 0x200_0000;
/// New UTS namespace.
pub const CLONE_NEWUTS: u64 = 0x400_0000;
/// New IPC namespace.
pub const CLONE_NEWIPC: u64 = 0x800_0000;
/// New user namespace.
pub const CLONE_NEWUSER: u64 = 0x1000_0000;
/// New process namespace.
pub const CLONE_NEWPID: u64 = 0x2000_0000;
/// New network namespace.
pub const CLONE_NEWNET: u64 = 0x4000_0000;

/// `struct clone_args`, version 2 (88 bytes).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// On which side of the clone the caller is.
#[derive(Debug)]
pub enum Cloned {
    /// In the new process. It must end with execve or [`crate::exec::exit`],
    /// never by returning through the parent's code.
    Child,
    /// In the caller.
    Parent {
        /// The child's number in the caller's process namespace.
        pid: u32,
        /// Refers to the child for as long as it is held.
        pidfd: OwnedFd,
    },
}

/// True when the calling process has exactly one thread.
pub fn is_single_threaded() -> bool {
    // The kernel allows it to one without others, and does nothing (unshare(2)):
    // so no /proc is needed, which may be a container's.
    // SAFETY: a process with a single thread has none to be separated from.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return true;
    }
    if io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        return false;
    }
    // Where a sandbox denies that call. Two links for the directory itself and one
    // per thread.
    rustix::fs::stat("/proc/self/task").is_ok_and(|stat| stat.st_nlink == 3)
}

/// Forks with `flags` (`CLONE_*` above; a pidfd is always made). `cgroup` is the
/// directory for [`CLONE_INTO_CGROUP`], which is added when it is given.
///
/// Fails with `EDEADLK` in a process with several threads: locks held by the
/// others would stay locked in the child for ever.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    if !is_single_threaded() {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: flags | CLONE_PIDFD,
        pidfd: &raw mut pidfd as u64,
        // With CLONE_PARENT the kernel takes the parent's own exit signal.
        exit_signal: if flags & CLONE_PARENT == 0 {
            libc::SIGCHLD as u64
        } else {
            0
        },
        ..CloneArgs::default()
    };
    if let Some(group) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid structure of the size passed and `pidfd` outlives
    // the call. No CLONE_VM and no stack: the child gets a copy of this address
    // space and goes on here, like fork. It is the only thread (checked above), so
    // no lock is held by a thread that does not exist in the child.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    finish(result, pidfd)
}

/// The same through clone(2), for sandboxes in which clone3 is not allowed
/// (Docker's profile answers ENOSYS). Knows neither [`CLONE_NEWTIME`] nor
/// [`CLONE_INTO_CGROUP`] (`EINVAL`); [`CLONE_CLEAR_SIGHAND`] is left to
/// [`crate::exec::reset_signals`].
pub fn clone(flags: u64) -> io::Result<Cloned> {
    if !is_single_threaded() {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    if flags & (CLONE_NEWTIME | CLONE_INTO_CGROUP) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut pidfd: libc::c_int = -1;
    let signal = if flags & CLONE_PARENT == 0 {
        libc::SIGCHLD as u64
    } else {
        0
    };
    let flags = (flags & !CLONE_CLEAR_SIGHAND) | CLONE_PIDFD | signal;
    // SAFETY: as in `clone3`; the third argument is where the pidfd is stored.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags as libc::c_ulong,
            std::ptr::null_mut::<libc::c_void>(),
            &raw mut pidfd,
            std::ptr::null_mut::<libc::c_void>(),
            0usize,
        )
    };
    finish(result, pidfd)
}

fn finish(result: libc::c_long, pidfd: libc::c_int) -> io::Result<Cloned> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: pid as u32,
            // SAFETY: the kernel stored a new close-on-exec descriptor, ours alone.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Moves the calling process into new namespaces (`CLONE_NEW*`).
pub fn unshare(flags: u64) -> io::Result<()> {
    const NAMESPACES: u64 = CLONE_NEWNS
        | CLONE_NEWCGROUP
        | CLONE_NEWUTS
        | CLONE_NEWIPC
        | CLONE_NEWUSER
        | CLONE_NEWPID
        | CLONE_NEWNET
        | CLONE_NEWTIME;
    if flags & !NAMESPACES != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: only namespaces are unshared, never the descriptor table or memory.
    if unsafe { libc::unshare(flags as libc::c_int) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// setns(2). `namespaces` is a `CLONE_NEW*` set with a pidfd, one of them (or 0)
/// with a namespace's own descriptor.
pub fn setns(fd: BorrowedFd<'_>, namespaces: u64) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and flags and touches no memory.
    if unsafe { libc::setns(fd.as_raw_fd(), namespaces as libc::c_int) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The user or process namespace around the one given (ioctl_ns(2)).
///
/// # Errors
/// `EPERM` when it is outside of the caller's own.
pub fn parent_namespace(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    // SAFETY: takes no argument and touches no memory.
    let parent = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_PARENT) };
    if parent < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made a new close-on-exec descriptor, ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test harness runs this in a second thread, where a clone is refused.
    #[test]
    fn refuses_to_fork_a_threaded_process() {
        let error = std::thread::spawn(|| clone3(0, None).map(|_| ()).unwrap_err())
            .join()
            .unwrap();
        assert_eq!(error.raw_os_error(), Some(libc::EDEADLK));
        assert_eq!(
            clone(CLONE_NEWTIME).map(|_| ()).unwrap_err().raw_os_error(),
            Some(libc::EDEADLK)
        );
    }

    #[test]
    fn unshare_takes_only_namespaces() {
        let error = unshare(libc::CLONE_FILES as u64).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
