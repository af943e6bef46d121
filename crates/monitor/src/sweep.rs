//! What a monitor does at its end, done for one that was killed.

use std::io;
use std::path::Path;

use berth_cgroup::{Cgroup, Host};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::endpoint;
use crate::protocol::MONITOR_SOCKET;

/// Kills what is left of a container whose monitor is gone, and removes its
/// control group and the run directory. Does nothing that a second call, or a
/// call after a clean end, would trip over. Fails with `WouldBlock` while the
/// monitor is alive.
pub fn sweep(host: &Host, cgroup: &str, run_dir: &Path) -> io::Result<()> {
    let dir = match endpoint::open_dir(run_dir) {
        Ok(dir) => Some(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(dir) = &dir {
        // A monitor holds this lock as long as it lives.
        flock(dir, FlockOperation::NonBlockingLockExclusive)?;
    }
    remove_cgroup(&Cgroup::open(host, cgroup)).map_err(io::Error::other)?;
    remove_run_dir(run_dir)
}

/// Whether a monitor has this run directory, which it locks as long as it lives.
pub fn has_monitor(run_dir: &Path) -> bool {
    endpoint::open_dir(run_dir).is_ok_and(|dir| {
        flock(&dir, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    })
}

/// Also kills the processes that are still in the group.
pub(crate) fn remove_cgroup(cgroup: &Cgroup) -> Result<(), berth_cgroup::Error> {
    if !cgroup.exists() {
        return Ok(());
    }
    cgroup.kill_all()?;
    cgroup.remove()
}

/// The socket and the directory; it holds nothing else.
pub(crate) fn remove_run_dir(run_dir: &Path) -> io::Result<()> {
    for result in [
        std::fs::remove_file(run_dir.join(MONITOR_SOCKET)),
        std::fs::remove_dir(run_dir),
    ] {
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
