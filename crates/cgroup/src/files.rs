//! Reading, writing, making and removing the kernel's control files.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::Error;

/// Writes a value in one write(2); the error says the file, value and answer.
pub(crate) fn write(dir: &Path, file: &str, value: &str) -> Result<(), Error> {
    let path = dir.join(file);
    let result = open_at(&path).and_then(|fd| write_to(&fd, value));
    result.map_err(|errno| Error::io(format!("write {value:?} to"), &path, errno))
}

/// A control file that takes more than one value.
#[derive(Debug)]
pub(crate) struct ControlFile {
    fd: OwnedFd,
    path: PathBuf,
}

pub(crate) fn open(dir: &Path, file: &str) -> Result<ControlFile, Error> {
    let path = dir.join(file);
    match open_at(&path) {
        Ok(fd) => Ok(ControlFile { fd, path }),
        Err(errno) => Err(Error::io("open", &path, errno)),
    }
}

impl ControlFile {
    /// As [`write`].
    pub(crate) fn write(&self, value: &str) -> Result<(), Error> {
        write_to(&self.fd, value)
            .map_err(|errno| Error::io(format!("write {value:?} to"), &self.path, errno))
    }
}

fn open_at(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
}

fn write_to(fd: &OwnedFd, value: &str) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::io::write(fd, value.as_bytes())).map(drop)
}

/// In few calls: these files do not say how long they are, so the standard
/// library would begin with 32 bytes.
pub(crate) fn read(path: &Path) -> Result<String, Error> {
    let mut text = String::with_capacity(4096);
    std::fs::File::open(path)
        .and_then(|file| file.take(u64::MAX).read_to_string(&mut text))
        .map_err(|error| Error::io("read", path, error))?;
    Ok(text)
}

/// A file that holds one number; "max" is `u64::MAX`.
pub(crate) fn number(path: &Path) -> Result<u64, Error> {
    let text = read(path)?;
    let text = text.trim();
    if text == "max" {
        return Ok(u64::MAX);
    }
    text.parse().map_err(|_| {
        Error::Invalid(format!(
            "{} holds {text:?}, which is no number",
            path.display()
        ))
    })
}

/// Lines of "key value"; those that are not are passed over.
pub(crate) fn pairs(path: &Path) -> Result<Vec<(String, u64)>, Error> {
    Ok(read(path)?
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect())
}

/// One key of such a file; 0 when it is not there.
pub(crate) fn keyed(path: &Path, key: &str) -> Result<u64, Error> {
    Ok(pairs(path)?
        .into_iter()
        .find(|(name, _)| name == key)
        .map_or(0, |(_, value)| value))
}

/// Makes a directory and what is missing above it, and adds what it makes to
/// `made`, outermost first.
pub(crate) fn make_dirs(dir: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let make = |path: &Path, made: &mut Vec<PathBuf>| {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
            Ok(()) => made.push(path.to_owned()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    };
    match make(dir, made) {
        Err(Errno::NOENT) => {
            let parent = dir
                .parent()
                .ok_or_else(|| Error::Invalid(format!("{} has no parent", dir.display())))?;
            make_dirs(parent, made)?;
            make(dir, made).map_err(|errno| Error::io("mkdir", dir, errno))
        }
        other => other.map_err(|errno| Error::io("mkdir", dir, errno)),
    }
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

/// Process numbers in a group and below. A group that is gone has none.
pub(crate) fn processes_below(dir: &Path, found: &mut Vec<u32>) -> Result<(), Error> {
    match read(&dir.join("cgroup.procs")) {
        Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        Err(error) if error.is_absent() => return Ok(()),
        // A threaded v2 group lists none itself; its domain does.
        Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    for child in children(dir) {
        processes_below(&child, found)?;
    }
    Ok(())
}

/// Removes a group, children first, waiting while the kernel says busy: a
/// process that has just ended holds its group for a moment.
pub(crate) fn remove_tree(dir: &Path, patience: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(100);
    loop {
        match rustix::fs::rmdir(dir) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => {
                for child in children(dir) {
                    remove_tree(&child, deadline.saturating_duration_since(Instant::now()))?;
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
            Err(errno) => return Err(Error::io("rmdir", dir, errno)),
        }
    }
}
