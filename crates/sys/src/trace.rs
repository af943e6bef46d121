//! Killing a program at a system call, for tests of what it leaves behind then.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A stop at a system call has this bit in its signal (`PTRACE_O_TRACESYSGOOD`).
const AT_CALL: libc::c_int = libc::SIGTRAP | 0x80;

/// Runs `command` and kills it with SIGKILL as it begins its `number`th system
/// call, from 1. Only its own calls count, not those of its children, which go on.
/// Returns whether it was killed: not when it ended before.
pub fn kill_at_call(command: &mut Command, number: usize) -> io::Result<bool> {
    // SAFETY: ptrace(2) is a plain system call, allowed after fork.
    unsafe {
        command.pre_exec(|| check(libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize)));
    }
    let child = command.spawn()?;
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    let mut calls = 0;
    let mut inside = false;
    let mut signal = 0;
    let mut is_set_up = false;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call; the child is ours and not waited for
        // elsewhere.
        check(libc::c_long::from(unsafe {
            libc::waitpid(pid, &raw mut status, 0)
        }))?;
        if !libc::WIFSTOPPED(status) {
            return Ok(false);
        }
        if !is_set_up {
            is_set_up = true;
            request(
                libc::PTRACE_SETOPTIONS,
                pid,
                (libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL) as usize,
            )?;
        }
        match libc::WSTOPSIG(status) {
            AT_CALL => {
                inside = !inside;
                calls += usize::from(inside);
                if inside && calls == number {
                    // SAFETY: both take numbers only; the child is ours.
                    unsafe {
                        check(libc::c_long::from(libc::kill(pid, libc::SIGKILL)))?;
                        check(libc::c_long::from(libc::waitpid(pid, &raw mut status, 0)))?;
                    }
                    return Ok(true);
                }
            }
            // Of execve.
            libc::SIGTRAP => {}
            other => signal = other,
        }
        request(libc::PTRACE_SYSCALL, pid, signal as usize)?;
        signal = 0;
    }
}

fn request(what: libc::c_uint, pid: libc::pid_t, data: usize) -> io::Result<()> {
    // SAFETY: these requests take a number as their data.
    check(unsafe { libc::ptrace(what, pid, 0_usize, data) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_reached_until_the_end() {
        let killed = |number| kill_at_call(&mut Command::new("/bin/true"), number).unwrap();
        assert!(killed(1));
        let calls = (1..).find(|&number| !killed(number)).unwrap();
        assert!(!killed(calls + 1));
    }
}
