//! What can go wrong with a group.

use std::io;
use std::path::Path;

/// Says the file, what was written and the kernel's answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be met on this host.
    #[error("{0}")]
    Invalid(String),
    /// A control file or directory refused.
    #[error("{action} {path}: {source}")]
    Io {
        action: String,
        path: String,
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            action: action.into(),
            path: path.display().to_string(),
            source: source.into(),
        }
    }

    pub(crate) fn missing(controller: &str) -> Self {
        Self::Invalid(format!("the host has no {controller} cgroup controller"))
    }

    /// The kernel's answer, when there was one.
    pub(crate) fn errno(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::Io { source, .. } => rustix::io::Errno::from_io_error(source),
            Self::Invalid(_) => None,
        }
    }

    /// This user may not do it.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        use rustix::io::Errno;
        matches!(
            self.errno(),
            Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)
        )
    }

    /// This kernel has no such thing.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        use rustix::io::Errno;
        matches!(self.errno(), Some(Errno::INVAL | Errno::NOSYS))
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            Some(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV)
        )
    }
}
