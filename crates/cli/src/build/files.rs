//! A context of this machine: what the engine may have of it, and sending it.

use std::io::{self, Read as _, Write};
use std::num::NonZero;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

use berth_api::build::Stat;
use berth_build::ignore::Ignore;
use rustix::fs::{FileType, OFlags};

use super::walk;
use crate::failure::os_words;

/// Bytes that are sent at once: smaller files travel together.
const CHUNK: usize = 1024 * 1024 - 64;
/// Files of a batch.
const MAX_BATCH: usize = 256;
const MAX_THREADS: usize = 4;
/// Chunks that wait for each thread's turn.
const READ_AHEAD: usize = 2;

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

    /// The contents of files, one after the other. Several threads read, for a
    /// context of many small files costs the time of opening them.
    ///
    /// # Errors
    /// Numbers of what is no file of the walk; a file that is another now.
    pub(super) fn read(&self, numbers: &[u32], out: &mut dyn Write) -> Result<(), String> {
        let batches = batches(self.asked(numbers)?);
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = threads.min(MAX_THREADS).min(batches.len());
        std::thread::scope(|scope| {
            // Batches go round, so each thread's pieces are taken in its turn.
            let pieces: Vec<_> = (0..threads)
                .map(|first| {
                    let (sender, pieces) = sync_channel(READ_AHEAD);
                    let own = batches.iter().skip(first).step_by(threads);
                    scope.spawn(move || {
                        for batch in own {
                            let end = self.pieces(batch, &sender).transpose();
                            // Nobody takes more when one has failed.
                            if sender.send(end).is_err() {
                                return;
                            }
                        }
                    });
                    pieces
                })
                .collect();
            for turn in 0..batches.len() {
                let pieces = &pieces[turn % threads];
                while let Some(piece) = pieces.recv().ok().flatten() {
                    match out.write_all(&piece?) {
                        Ok(()) => {}
                        // The engine has enough: it says itself why.
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                        Err(error) => return Err(error.to_string()),
                    }
                }
            }
            Ok(())
        })
    }

    /// The stats of files that were listed.
    fn asked(&self, numbers: &[u32]) -> Result<Vec<&Stat>, String> {
        if !numbers.is_sorted_by(|a, b| a < b) {
            return Err("the engine asked for files in no order".to_owned());
        }
        numbers
            .iter()
            .map(|&number| {
                usize::try_from(number)
                    .ok()
                    .and_then(|at| self.stats.get(at))
                    .filter(|stat| FileType::from_raw_mode(stat.mode) == FileType::RegularFile)
                    .ok_or_else(|| "the engine asked for a file that it was not offered".to_owned())
            })
            .collect()
    }

    /// Reads the files of a batch; none at the end.
    fn pieces(
        &self,
        batch: &[&Stat],
        pieces: &SyncSender<Piece>,
    ) -> Result<Option<Vec<u8>>, String> {
        let mut buffer = Vec::new();
        for stat in batch {
            let mut file = self.open(stat)?;
            let mut left = stat.size;
            while left > 0 {
                let room = (CHUNK - buffer.len()) as u64;
                let before = buffer.len();
                (&mut file)
                    .take(left.min(room))
                    .read_to_end(&mut buffer)
                    .map_err(|error| failed("read", stat, &error))?;
                let count = (buffer.len() - before) as u64;
                if count == 0 {
                    return Err(changed(stat));
                }
                left -= count;
                if buffer.len() == CHUNK {
                    let full = std::mem::take(&mut buffer);
                    if pieces.send(Some(Ok(full))).is_err() {
                        return Ok(None);
                    }
                }
            }
        }
        let _ = pieces.send(Some(Ok(buffer)));
        Ok(None)
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

/// Bytes of a batch, or why not; none at its end.
type Piece = Option<Result<Vec<u8>, String>>;

/// Files that one thread reads before another has its turn.
fn batches(stats: Vec<&Stat>) -> Vec<Vec<&Stat>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for stat in stats {
        batch.push(stat);
        bytes += stat.size;
        if bytes >= CHUNK as u64 || batch.len() == MAX_BATCH {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
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
    fn an_engine_that_has_enough_is_not_refused() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::write(dir.path().join(name), vec![0; 2 * CHUNK]).unwrap();
        }
        let context = Context::walk(dir.path(), None).unwrap();
        assert_eq!(context.read(&[0, 1], &mut Gone), Ok(()));
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
        assert_eq!(read(&context, &[]).unwrap(), b"");
        for numbers in [&[9][..], &[2], &[1, 0], &[0, 0]] {
            assert!(read(&context, numbers).is_err(), "{numbers:?}");
        }
    }

    #[test]
    fn many_files_keep_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<_> = (1000..1000 + 3 * MAX_BATCH)
            .map(|number| number.to_string())
            .collect();
        for name in &names {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let context = Context::walk(dir.path(), None).unwrap();
        let numbers: Vec<_> = (0..names.len() as u32).collect();
        assert_eq!(
            read(&context, &numbers).unwrap(),
            names.concat().into_bytes()
        );
        // One that is gone fails all.
        std::fs::remove_file(dir.path().join(&names[MAX_BATCH + 1])).unwrap();
        assert!(read(&context, &numbers).is_err());
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
