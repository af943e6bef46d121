//! One daemon per PID file.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// The daemon's own PID file; removed on drop.
///
/// A lock on the file says that its owner lives, not the number in it, which
/// after a crash may long belong to someone else.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    _locked: File,
}

impl PidFile {
    /// The error is the sentence to show.
    pub(crate) fn create(path: &Path) -> Result<Self, String> {
        let failed = |what: &str, error: Errno| {
            format!("failed to start daemon: {what} {}: {error}", path.display())
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| {
                format!(
                    "failed to start daemon: create {}: {error}",
                    parent.display()
                )
            })?;
        }
        loop {
            let fd = rustix::fs::open(
                path,
                OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                Mode::from_raw_mode(0o644),
            )
            .map_err(|error| failed("open", error))?;
            let mut file = File::from(fd);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let mut pid = String::new();
                    let _ = file.read_to_string(&mut pid);
                    return Err(format!(
                        "failed to start daemon, ensure the daemon is not running or delete {}: process with PID {} is still running",
                        path.display(),
                        pid.trim()
                    ));
                }
                Err(error) => return Err(failed("lock", error)),
            }
            // The daemon before may have removed the file between the two calls.
            let ours = rustix::fs::fstat(&file).map_err(|error| failed("stat", error))?;
            if !rustix::fs::stat(path).is_ok_and(|named| named.st_ino == ours.st_ino) {
                continue;
            }
            let write = file
                .set_len(0)
                .and_then(|()| write!(file, "{}", std::process::id()));
            write.map_err(|error| {
                format!("failed to start daemon: write {}: {error}", path.display())
            })?;
            return Ok(Self {
                path: path.to_owned(),
                _locked: file,
            });
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time_and_stale_files_do_not_matter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/x.pid");
        let first = PidFile::create(&path).unwrap();
        let own = std::process::id().to_string();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), own);
        let error = PidFile::create(&path).unwrap_err();
        assert!(error.ends_with(&format!("process with PID {own} is still running")));
        drop(first);
        assert!(!path.exists());
        // Left by a killed daemon; its number is in use by another process.
        std::fs::write(&path, "1").unwrap();
        let second = PidFile::create(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), own);
        drop(second);
    }
}
