//! Ending everything in a group.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{Cgroup, Error, Layout, files};

pub(crate) fn kill_all(group: &Cgroup) -> Result<(), Error> {
    // cgroup.kill (Linux 5.14) ends all at once and cannot be outrun by forks.
    let at_once = group.host.layout() == Layout::V2
        && files::write(&group.unified()?, "cgroup.kill", "1").is_ok();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut pause = Duration::from_micros(200);
    let mut round = 0;
    loop {
        let processes = group.processes()?;
        if processes.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::Invalid(format!(
                "{} processes of {} did not end within 10 seconds of SIGKILL",
                processes.len(),
                group.path()
            )));
        }
        if !at_once {
            // Those that fork faster than we look are held still meanwhile.
            let hold = round > 1 && group.hold(true).is_ok();
            let processes = if hold { group.processes()? } else { processes };
            for pid in processes {
                kill(pid);
            }
            // A frozen process of v1 takes the signal only when it thaws.
            if hold || group.is_frozen().unwrap_or(false) {
                group.hold(false)?;
            }
            round += 1;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Through a pidfd, so that a number reused meanwhile is not hit between the
/// two calls; a process that is gone is no error.
fn kill(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => {
            let _ = pidfd_send_signal(&fd, Signal::KILL);
        }
        Err(Errno::NOSYS) => {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        Err(_) => {}
    }
}
