//! The end of a container: its record, and what is removed.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use berth_cgroup::Cgroup;

use crate::launcher::warn;
use crate::protocol::{EXIT_FILE, ExitRecord};
use crate::steps::Step;
use crate::sweep;

/// What is known of a running container for its end.
#[derive(Debug)]
pub(super) struct RunningState {
    /// When its first process ends, the kernel ends all others.
    pub(super) own_pid_namespace: bool,
    pub(super) state_dir: PathBuf,
    pub(super) started_at: String,
    /// Where the time of the start went; taken by the message that says so.
    pub(super) steps: Vec<Step>,
    /// Told with it: what was made to mount on.
    pub(super) made: Vec<String>,
    /// See [`crate::protocol::Start::bound`].
    pub(super) bound: bool,
}

/// The container's control group; killed and removed on drop.
#[derive(Debug)]
pub(super) struct CgroupGuard(Cgroup);

impl CgroupGuard {
    pub(super) fn new(group: Cgroup) -> Self {
        Self(group)
    }

    pub(super) fn group(&self) -> &Cgroup {
        &self.0
    }

    pub(super) fn clear(&self) -> Result<(), berth_cgroup::Error> {
        sweep::remove_cgroup(&self.0)
    }
}

impl Drop for CgroupGuard {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            warn(&format!("remove control group {}: {error}", self.0.path()));
        }
    }
}

/// Writes `exit.json`: under another name first, so that a reader sees either
/// nothing or all of it. It has to survive our processes, not the machine: a
/// machine that went down took the container with it, and the engine says so.
pub(super) fn write_record(state_dir: &Path, record: &ExitRecord) -> io::Result<()> {
    let temporary = state_dir.join(format!(".{EXIT_FILE}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    std::fs::rename(&temporary, state_dir.join(EXIT_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(crate::client::read_exit_record(dir.path()).unwrap(), None);
        let record = ExitRecord {
            exit_code: 137,
            oom_killed: true,
            started_at: "2026-01-01T00:00:00Z".into(),
            finished_at: "2026-01-01T00:00:01.5Z".into(),
        };
        write_record(dir.path(), &record).unwrap();
        assert_eq!(
            crate::client::read_exit_record(dir.path()).unwrap(),
            Some(record)
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
