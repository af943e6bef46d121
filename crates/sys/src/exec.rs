//! The last steps of a process before it becomes another program, and that.

use std::convert::Infallible;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

/// Default action for every signal, and none blocked.
///
/// Rust programs start with SIGPIPE ignored, and execve passes ignored signals
/// on to the new program.
///
/// Only those are touched that /proc says are not at their default (all without
/// it): sixty calls fewer on the way to a container's program.
pub fn reset_signals() {
    /// The kernel's `struct sigaction`, all zero: `SIG_DFL`, no flags, no mask.
    /// 32 bytes on the architectures with a restorer, 24 on the others.
    const DEFAULT: [u64; 4] = [0; 4];
    const SIGSET_SIZE: usize = 8;
    let changed = changed_signals().unwrap_or(u64::MAX);
    for signal in (1..=64).filter(|signal| changed & (1 << (signal - 1)) != 0) {
        // SAFETY: rt_sigaction reads at most 32 bytes of DEFAULT. SIG_DFL runs no
        // code of this process. SIGKILL and SIGSTOP fail, as they must.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SIGSET_SIZE,
            );
        }
    }
    // SAFETY: reads 8 bytes of DEFAULT, an empty set.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            DEFAULT.as_ptr(),
            std::ptr::null_mut::<u64>(),
            SIGSET_SIZE,
        );
    }
}

/// Signals that are ignored or caught: bit 0 is signal 1.
fn changed_signals() -> Option<u64> {
    // Not to wait, whatever a container has there.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open("/proc/self/status", flags, Mode::empty()).ok()?;
    let mut text = [0; 4096];
    let length = rustix::io::read(&file, &mut text).ok()?;
    let text = std::str::from_utf8(text.get(..length)?).ok()?;
    let mask = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    Some(mask("SigIgn:")? | mask("SigCgt:")?)
}

/// Replaces this process's program by `path`; comes back only with an error.
/// Strings are passed as they are, in order.
pub fn execve(path: &CStr, args: &[&CStr], env: &[&CStr]) -> io::Result<Infallible> {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: both arrays end with a null pointer, and their strings are alive and
    // end with a zero byte.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// As [`execve`], of the file that `program` refers to, in whatever way it was
/// opened.
pub fn execveat(program: BorrowedFd<'_>, args: &[&CStr], env: &[&CStr]) -> io::Result<Infallible> {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: both arrays end with a null pointer, and their strings are alive and
    // end with a zero byte; the path is an empty string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

fn pointers(strings: &[&CStr]) -> Vec<*const libc::c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain(std::iter::once(std::ptr::null()))
        .collect()
}

/// Marks every descriptor from `first` on close-on-exec (Linux 5.11).
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: changes flags only; no descriptor is closed under its owner.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Closes descriptors, those of consecutive numbers with one call (Linux 5.9).
pub fn close_all(fds: impl IntoIterator<Item = OwnedFd>) {
    let mut fds: Vec<OwnedFd> = fds.into_iter().collect();
    fds.sort_unstable_by_key(AsRawFd::as_raw_fd);
    while let (Some(first), Some(length)) = (
        fds.first().map(AsRawFd::as_raw_fd),
        (fds.chunk_by(|one, next| one.as_raw_fd() + 1 == next.as_raw_fd()))
            .next()
            .map(<[OwnedFd]>::len),
    ) {
        let run: Vec<OwnedFd> = fds.drain(..length).collect();
        // SAFETY: all descriptors of this range are in `run`: ours to close, and
        // given up below without closing them again.
        let result = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                first as libc::c_uint,
                first as libc::c_uint + length as libc::c_uint - 1,
                0,
            )
        };
        if result == 0 {
            run.into_iter().for_each(|fd| {
                let _ = fd.into_raw_fd();
            });
        }
        // Otherwise their drop closes them one by one.
    }
}

/// Ends the process at once: no exit handlers, no flushing of buffers that
/// belong to the parent.
pub fn exit(status: u8) -> ! {
    // SAFETY: nothing of this program runs afterwards.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Waits for the child that `pidfd` refers to and reaps it. Its wait status is
/// not wanted; a child already reaped is no error.
pub fn reap(pidfd: BorrowedFd<'_>) {
    use rustix::process::{WaitId, WaitIdOptions};
    // __WALL is implied for children with another exit signal than SIGCHLD by
    // waiting for EXITED through a pidfd made by clone.
    let _ = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)
    });
}

/// sched_setattr(2): policy, nice value, real-time priority, and the deadline
/// parameters in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// -20 to 19, for `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// 1 to 99, for `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`.
    pub period: u64,
}

/// Changes how the calling thread is scheduled.
pub fn set_schedule(schedule: &Schedule) -> io::Result<()> {
    /// `struct sched_attr`, first version.
    #[repr(C)]
    struct Attributes {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: schedule.policy,
        flags: schedule.flags,
        nice: schedule.nice,
        priority: schedule.priority,
        runtime: schedule.runtime,
        deadline: schedule.deadline,
        period: schedule.period,
    };
    // SAFETY: `attributes` is valid and says its size.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// ioprio_set(2) for the calling process: class 1 (real-time), 2 (best effort)
/// or 3 (idle), level 0 to 7.
pub fn set_io_priority(class: u8, level: u8) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    let value = (libc::c_int::from(class) << 13) | libc::c_int::from(level);
    // SAFETY: numbers only.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// personality(2), the execution domain with its flags.
pub fn set_personality(persona: u32) -> io::Result<()> {
    // SAFETY: affects only how later system calls of this process behave.
    if unsafe { libc::personality(libc::c_ulong::from(persona)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// set_mempolicy(2): `MPOL_*` mode with its flags, and the nodes (numbers below
/// 1024; others give `EINVAL`).
pub fn set_memory_policy(mode: u32, nodes: &[usize]) -> io::Result<()> {
    const BITS: usize = u64::BITS as usize;
    let mut mask = [0u64; 1024 / BITS];
    for &node in nodes {
        let word = mask
            .get_mut(node / BITS)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        *word |= 1 << (node % BITS);
    }
    // SAFETY: the mask is alive and as long as said; the kernel takes the bit
    // count plus one.
    let result = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            mode as libc::c_int,
            if nodes.is_empty() {
                std::ptr::null()
            } else {
                mask.as_ptr()
            },
            if nodes.is_empty() {
                0
            } else {
                mask.len() * BITS + 1
            },
        )
    };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The process a pidfd refers to, as a number in the procfs namespace mounted at
/// /proc. `None` when it is gone.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> Option<Pid> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))?
        .trim()
        .parse()
        .ok()?;
    Pid::from_raw(pid).filter(|pid| pid.as_raw_nonzero().get() > 0)
}
