//! How a new process enters a group without waiting for an RCU grace period.
//!
//! Moving another process costs 7–17 ms on an idle host, on v1 and v2 alike.
//! v2 clones straight into the group. On v1 a single-threaded process that
//! writes "0" to `tasks` moves itself and takes no lock that waits (Linux 5.5
//! and later): 0.7 ms for ten hierarchies, measured, against 7 ms.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::Error;
use crate::host::{Hierarchy, Version};

/// Opened before the clone.
#[derive(Debug)]
pub enum Entry {
    /// For `clone3(CLONE_INTO_CGROUP)`.
    Clone(OwnedFd),
    /// The `tasks` files, for [`Entry::enter`] in the child.
    Tasks(TaskFiles),
}

/// Of a version 1 group, one for each hierarchy.
#[derive(Debug)]
pub struct TaskFiles(Vec<OwnedFd>);

impl Drop for TaskFiles {
    fn drop(&mut self) {
        berth_sys::exec::close_all(std::mem::take(&mut self.0));
    }
}

impl Entry {
    pub(crate) fn clone_into(dir: &Path) -> Result<Self, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(dir, flags, Mode::empty())
            .map_err(|errno| Error::io("open", dir, errno))?;
        Ok(Self::Clone(fd))
    }

    pub(crate) fn tasks<'a>(
        dirs: impl Iterator<Item = (&'a Hierarchy, PathBuf)>,
    ) -> Result<Self, Error> {
        let open = |(hierarchy, dir): (&Hierarchy, PathBuf)| {
            let path = dir.join(match hierarchy.version {
                Version::V1 => "tasks",
                Version::V2 => "cgroup.procs",
            });
            rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| Error::io("open", &path, errno))
        };
        let files = dirs.map(open).collect::<Result<_, _>>()?;
        Ok(Self::Tasks(TaskFiles(files)))
    }

    /// Moves the calling, single-threaded process in. After a clone into the
    /// group there is nothing to do. Does not allocate.
    pub fn enter(&self) -> Result<(), Errno> {
        match self {
            Self::Clone(_) => Ok(()),
            Self::Tasks(files) => {
                for file in &files.0 {
                    rustix::io::retry_on_intr(|| rustix::io::write(file, b"0"))?;
                }
                Ok(())
            }
        }
    }
}
