//! Descriptors that a parent left open for this process to find by number.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};

/// Takes over descriptor `number`, which some parent opened for this process,
/// and marks it close-on-exec. The error is `BADF` when it is not open. Standard
/// input stays open, on `/dev/null`; the other standard streams are refused.
///
/// To be called once for each number, at the start of the process, before
/// anything else could own it.
pub fn take(number: RawFd) -> Result<OwnedFd, Errno> {
    if number == 0 {
        let copy = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(null)?;
        return Ok(copy);
    }
    if number <= 2 {
        return Err(Errno::BADF);
    }
    // SAFETY: the borrowed descriptor is used for one call that fails with
    // EBADF if it is not open.
    let open = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(open, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, as the call above has shown, and by this function's
    // contract nothing in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The sockets that systemd passed (sd_listen_fds(3)); none when it passed
/// none to this process. The variables are removed, so that children do not
/// take them for theirs.
///
/// To be called at the start of `main`, before any thread is started.
pub fn activation_sockets() -> Vec<OwnedFd> {
    /// The first descriptor passed: SD_LISTEN_FDS_START.
    const FIRST: RawFd = 3;
    let number = |name| -> Option<i32> { std::env::var(name).ok()?.parse().ok() };
    let ours = number("LISTEN_PID") == i32::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").filter(|count| ours && *count > 0);
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        // SAFETY: by this function's contract no other thread exists that
        // could read the environment meanwhile.
        unsafe { std::env::remove_var(name) };
    }
    let last = FIRST.saturating_add(count.unwrap_or(0));
    (FIRST..last).map_while(|fd| take(fd).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn open_descriptors_are_taken_and_closed_ones_refused() {
        let (read, _write) = std::io::pipe().unwrap();
        let number = OwnedFd::from(read).into_raw_fd();
        let taken = take(number).unwrap();
        let flags = rustix::io::fcntl_getfd(&taken).unwrap();
        assert!(flags.contains(FdFlags::CLOEXEC));
        drop(taken);
        assert_eq!(take(number).unwrap_err(), Errno::BADF);
        assert_eq!(take(1).unwrap_err(), Errno::BADF);
    }
}
