//! Forking a single-threaded process.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;

/// Forks; the child runs `child` and ends with its value as exit status. The
/// child never returns into the caller's code, runs no exit handlers and
/// flushes no buffer of the parent.
///
/// Refuses to run in a process with more than one thread: a lock held by
/// another thread would stay locked in the child for ever.
pub fn fork(child: impl FnOnce() -> u8) -> io::Result<Pid> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(io::Error::other(format!(
            "cannot fork: the process has {threads} threads"
        )));
    }
    // SAFETY: this is the only thread (checked above, and only this thread
    // could start another), so every lock and the allocator are in a sound
    // state in the child, which may therefore run ordinary code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // A panic must not unwind into the parent's frames.
            let status = catch_unwind(AssertUnwindSafe(child)).unwrap_or(101);
            // SAFETY: ends the process; nothing of this program runs after it.
            unsafe { libc::_exit(i32::from(status)) }
        }
        pid => Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork returned no process")),
    }
}

/// How many threads this process has: field 20 of
/// `/proc/self/stat` (proc_pid_stat(5)).
fn thread_count() -> io::Result<u32> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The command name may hold anything, also spaces and brackets.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(17))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self/stat has no thread count"))
}

/// Gives the process a mount namespace of its own.
pub fn unshare_mount_namespace() -> io::Result<()> {
    // SAFETY: CLONE_NEWNS does not touch the descriptor table, which is what
    // makes other uses of unshare unsafe.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?)
}

/// Gives free heap pages back to the kernel. Worth a call when a phase that
/// used much memory has ended in a process that then lives long.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own lock and may be called at
    // any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};

    /// nextest and the standard harness run a test in a second thread, so the
    /// test that forks does it from a process it made for the purpose.
    #[test]
    fn refuses_with_threads() {
        let (tell, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        let error = fork(|| 0).unwrap_err();
        assert!(error.to_string().contains("threads"), "{error}");
        drop(tell);
        let _ = other.join();
    }

    #[test]
    fn child_runs_closure_and_ends() {
        // SAFETY: the child calls only async-signal-safe functions before it
        // forks again through the function under test, which is now alone.
        let middle = unsafe { libc::fork() };
        if middle == 0 {
            let status = (|| {
                let pid = fork(|| 42).ok()?;
                let (_, status) = waitpid(Some(pid), WaitOptions::empty()).ok()??;
                status.exit_status()
            })();
            // SAFETY: ends the process.
            unsafe { libc::_exit(if status == Some(42) { 7 } else { 1 }) };
        }
        let (_, status) = waitpid(Pid::from_raw(middle), WaitOptions::empty())
            .unwrap()
            .unwrap();
        assert_eq!(status.exit_status(), Some(7));
    }
}
