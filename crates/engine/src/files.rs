//! Small files that a crash leaves whole: written beside, then renamed.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use tokio::io::unix::AsyncFd;

/// Replaces `path` in one step.
///
/// Not synced to disk: a kill of the engine cannot lose a rename, only a power
/// cut can, and after that no container runs and the older state is as true as
/// the newer one. A sync would cost a start more than everything else together.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let beside = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&beside)?;
    file.write_all(bytes)?;
    fs::rename(&beside, path)
}

/// Makes a directory and its parents; the last one gets `mode`.
pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A descriptor driven by the event loop.
#[expect(
    deprecated,
    reason = "the replacement is unsafe, which only crates/sys may be; what makes the old one \
              unsound is a type whose descriptor changes, and an OwnedFd's does not"
)]
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// 64 random hex digits: the form of every identifier.
pub(crate) fn random_id() -> io::Result<String> {
    let mut buffer = [0u8; 32];
    rustix::rand::getrandom(&mut buffer, rustix::rand::GetRandomFlags::empty())?;
    Ok(hex(&buffer))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a text has the form of an identifier; anything else in our
/// directories is not ours to follow.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_whole_and_ids_differ() {
        let dir = std::env::temp_dir().join(random_id().unwrap());
        make_dir(&dir, 0o700).unwrap();
        let path = dir.join("a.json");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"2", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
        let (a, b) = (random_id().unwrap(), random_id().unwrap());
        assert!(is_id(&a) && is_id(&b) && a != b);
        assert!(!is_id("../../etc"));
    }
}
