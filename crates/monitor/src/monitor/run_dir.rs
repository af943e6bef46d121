//! `<exec-root>/containers/<id>`: the monitor's place in the filesystem.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;

use super::Failed;
use crate::protocol::MONITOR_SOCKET;
use crate::{endpoint, sweep};

/// The directory, its lock and the listening socket in it; removed on drop.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    /// Locked as long as this monitor lives, so that there is never a second
    /// one for the same container, nor a sweep behind its back.
    _lock: OwnedFd,
    listener: OwnedFd,
}

impl RunDir {
    /// Makes the directory, or takes over what a killed monitor left.
    pub(super) fn create(path: &Path) -> Result<Self, Failed> {
        let failed = |error: io::Error| {
            Failed::system(
                &format!("prepare the run directory {}", path.display()),
                error,
            )
        };
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let dir = endpoint::open_dir(path).map_err(failed)?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(Failed::conflict("the container is running already"));
            }
            Err(error) => return Err(failed(error.into())),
        }
        match rustix::fs::unlinkat(&dir, MONITOR_SOCKET, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let listener = endpoint::listen_in(dir.as_fd(), MONITOR_SOCKET).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: dir,
            listener,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = sweep::remove_run_dir(&self.path) {
            crate::launcher::warn(&format!("remove {}: {error}", self.path.display()));
        }
    }
}
