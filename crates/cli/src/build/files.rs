//! A context of this machine: what the engine may have of it, and sending it.

use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use berth_api::build::Stat;
use berth_build::ignore::Ignore;
use rustix::fs::{FileType, OFlags};

use super::walk;
use crate::failure::os_words;

/// Smaller files travel together.
const CHUNK: usize = 1024 * 1024 - 64;

/// A walk, and the files in it.
pub(super) struct Context {
    root: OwnedFd,
    pub(super) stats: Vec<Stat>,
}

impl Context {
    pub(super) fn walk(root: &Path, ignore: Option<&Ignore>) -> Result<Self, String> {
        let root = walk::open_root(root)?;
        let stats = walk::walk(root.as_fd(), ignore)?;
        Ok(Self { root, stats })
    }

    /// The walk as JSON lines.
    pub(super) fn list(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut lines = Vec::with_capacity(CHUNK);
        for stat in &self.stats {
            serde_json::to_writer(&mut lines, stat)?;
            lines.push(b'\n');
            if lines.len() > CHUNK / 2 {
                out.write_all(&lines)?;
                lines.clear();
            }
        }
        out.write_all(&lines)
    }

    /// The contents of files, one after the other.
    ///
    /// # Errors
    /// Numbers of what is no file of the walk; a file that is another now.
    pub(super) fn read(&self, numbers: &[u32], out: &mut dyn Write) -> Result<(), String> {
        if !numbers.is_sorted_by(|a, b| a < b) {
            return Err("the engine asked for files in no order".to_owned());
        }
        let mut buffer = vec![0; CHUNK];
        let mut filled = 0;
        for &number in numbers {
            let stat = usize::try_from(number)
                .ok()
                .and_then(|at| self.stats.get(at))
                .filter(|stat| FileType::from_raw_mode(stat.mode) == FileType::RegularFile)
                .ok_or("the engine asked for a file that it was not offered")?;
            let mut file = self.open(stat)?;
            let mut left = stat.size;
            // One more than is left, to see that it ends there.
            while left > 0 {
                if filled == buffer.len() {
                    write(out, &buffer)?;
                    filled = 0;
                }
                let room = &mut buffer[filled..];
                let most = usize::try_from(left).map_or(room.len(), |left| room.len().min(left));
                match file.read(&mut room[..most]) {
                    Ok(0) => return Err(changed(stat)),
                    Ok(count) => {
                        filled += count;
                        left -= count as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed("read", stat, &error)),
                }
            }
        }
        write(out, &buffer[..filled])
    }

    /// The file, if it still is the one of the walk.
    fn open(&self, stat: &Stat) -> Result<std::fs::File, String> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = walk::open_beneath(self.root.as_fd(), &stat.path, flags)
            .map_err(|error| failed("open", stat, &error.into()))?;
        let now = rustix::fs::fstat(&file).map_err(|error| failed("stat", stat, &error.into()))?;
        let same = FileType::from_raw_mode(now.st_mode) == FileType::RegularFile
            && u64::try_from(now.st_size) == Ok(stat.size);
        if same {
            Ok(file.into())
        } else {
            Err(changed(stat))
        }
    }
}

fn write(out: &mut dyn Write, bytes: &[u8]) -> Result<(), String> {
    out.write_all(bytes).map_err(|error| error.to_string())
}

fn changed(stat: &Stat) -> String {
    format!(
        "error from sender: {} changed while it was sent: build again",
        stat.path
    )
}

fn failed(verb: &str, stat: &Stat, error: &io::Error) -> String {
    format!(
        "error from sender: {verb} {}: {}",
        stat.path,
        os_words(error)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(context: &Context, numbers: &[u32]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        context.read(numbers, &mut out).map(|()| out)
    }

    #[test]
    fn contents_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let large = vec![7u8; CHUNK * 2 + 5];
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("a"), "first").unwrap();
        std::fs::write(dir.path().join("b"), &large).unwrap();
        std::fs::write(dir.path().join("d/c"), "").unwrap();
        std::fs::write(dir.path().join("e"), "last").unwrap();
        let context = Context::walk(dir.path(), None).unwrap();
        let mut lines = Vec::new();
        context.list(&mut lines).unwrap();
        let listed: Vec<Stat> = serde_json::Deserializer::from_slice(&lines)
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(listed, context.stats);
        let want = [&b"first"[..], &large, b"last"].concat();
        assert!(read(&context, &[0, 1, 3, 4]).unwrap() == want);
        for numbers in [&[9][..], &[2], &[1, 0], &[0, 0]] {
            assert!(read(&context, numbers).is_err(), "{numbers:?}");
        }
    }

    #[test]
    fn what_changed_is_not_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "before").unwrap();
        let context = Context::walk(dir.path(), None).unwrap();
        std::fs::write(&path, "longer than before").unwrap();
        let error = read(&context, &[0]).unwrap_err();
        assert!(error.contains("a changed while it was sent"), "{error}");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(read(&context, &[0]).is_err());
    }
}
