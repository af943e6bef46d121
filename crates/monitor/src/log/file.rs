//! The log file: whole lines per write, rotation by size.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::compress::Compressor;
use super::lines::Piece;
use super::{Stream, encode};
use crate::timestamp::Timestamp;

/// Entries are gathered up to this many bytes before they are written.
const BATCH: usize = 128 * 1024;

/// When a new file is begun, and what becomes of the old ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    /// In bytes; 0 = never.
    pub(super) max_size: u64,
    /// Counts the current one.
    pub(super) max_files: u32,
    pub(super) compress: bool,
}

/// A log file in Docker's json-file format.
#[derive(Debug)]
pub(super) struct JsonFile {
    path: PathBuf,
    rotation: Rotation,
    /// Encoded once, the same on each entry.
    attributes: Vec<u8>,
    file: File,
    size: u64,
    /// Whole entries, not yet written.
    batch: Vec<u8>,
    /// Entries lost since the last successful write.
    dropped: u64,
    compressor: Option<Compressor>,
}

impl JsonFile {
    pub(super) fn open(
        path: &Path,
        rotation: Rotation,
        attributes: &BTreeMap<String, String>,
    ) -> io::Result<Self> {
        let file = open(path)?;
        let size = drop_unfinished_line(&file)?;
        Ok(Self {
            path: path.to_owned(),
            rotation,
            attributes: encode::attributes(attributes),
            file,
            size,
            batch: Vec::new(),
            dropped: 0,
            compressor: None,
        })
    }

    /// Adds one entry; it is in the file after [`JsonFile::flush`].
    pub(super) fn add(&mut self, stream: Stream, piece: &Piece<'_>) {
        // Like Docker: a file ends with the entry that reaches the limit.
        let limit = self.rotation.max_size;
        if limit != 0 && self.size + self.batch.len() as u64 >= limit {
            self.flush();
            if self.size >= limit {
                self.rotate();
            }
        } else if self.batch.len() >= BATCH {
            self.flush();
        }
        encode::entry(
            &mut self.batch,
            piece.text,
            piece.terminated,
            stream,
            &self.attributes,
            piece.time,
        );
    }

    /// Writes what was added, in one write: a monitor that is killed leaves
    /// whole lines, and what a kill in the middle of a write left is repaired
    /// by the next [`JsonFile::open`].
    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.dropped != 0 {
            let note = format!(
                "berth: {} log entries were lost: the log could not be written",
                self.dropped
            );
            let mut entry = Vec::new();
            encode::entry(
                &mut entry,
                note.as_bytes(),
                true,
                Stream::Stderr,
                &self.attributes,
                Timestamp::now(),
            );
            if self.write(&entry) == 0 {
                self.dropped = 0;
            }
        }
        let batch = std::mem::take(&mut self.batch);
        self.dropped += self.write(&batch);
        self.batch = batch;
        self.batch.clear();
        self.batch.shrink_to(4096);
    }

    /// Returns how many of the entries are not in the file.
    fn write(&mut self, entries: &[u8]) -> u64 {
        let mut written = 0;
        while written < entries.len() {
            match self.file.write(&entries[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if written < entries.len() {
            // Take back the half of a line that still found room.
            let whole = entries[..written]
                .iter()
                .rposition(|&byte| byte == b'\n')
                .map_or(0, |at| at + 1);
            if self.file.set_len(self.size + whole as u64).is_ok() {
                written = whole;
            }
        }
        self.size += written as u64;
        entries[written..]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count() as u64
    }

    /// Begins a new file: `log` becomes `log.1`, `log.1` becomes `log.2`, and
    /// so on; with one file only, it is emptied. When that fails the old file
    /// goes on; the next entry tries again.
    fn rotate(&mut self) {
        if self.compressor.is_some() {
            // It reads `log.1`. The file grows a little beyond its limit
            // rather than have the container wait.
            return;
        }
        if self.rotation.max_files < 2 {
            if self.file.set_len(0).is_ok() {
                self.size = 0;
            }
            return;
        }
        for number in (1..self.rotation.max_files).rev() {
            for suffix in ["", ".gz"] {
                let old = self.numbered(number, suffix);
                // Most of them do not exist.
                let _ = if number == self.rotation.max_files - 1 {
                    std::fs::remove_file(old)
                } else {
                    std::fs::rename(old, self.numbered(number + 1, suffix))
                };
            }
        }
        let first = self.numbered(1, "");
        if std::fs::rename(&self.path, &first).is_err() {
            return;
        }
        match open(&self.path) {
            Ok(file) => {
                self.file = file;
                self.size = 0;
                if self.rotation.compress {
                    self.compressor = Compressor::start(&first, self.numbered(1, ".gz")).ok();
                }
            }
            Err(_) => {
                let _ = std::fs::rename(&first, &self.path);
            }
        }
    }

    fn numbered(&self, number: u32, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}{suffix}"));
        name.into()
    }

    pub(super) fn is_compressing(&self) -> bool {
        self.compressor.is_some()
    }

    pub(super) fn compress_some(&mut self) {
        if let Some(compressor) = &mut self.compressor
            && !compressor.step()
        {
            self.compressor = None;
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Docker's mode; the directory above is closed to others.
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Cuts off what follows the last newline, left by a crash in the middle of a
/// write; returns the size. An entry is at most a little over 6 × 16 KiB long.
fn drop_unfinished_line(file: &File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut end = size;
    let mut buffer = [0; 4096];
    while end > 0 {
        let length = end.min(if end == size { 1 } else { buffer.len() as u64 });
        // `length` is at most the buffer's.
        let part = &mut buffer[..length as usize];
        file.read_exact_at(part, end - length)?;
        if let Some(newline) = part.iter().rposition(|&byte| byte == b'\n') {
            end = end - length + newline as u64 + 1;
            break;
        }
        end -= length;
    }
    if end != size {
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &[u8]) -> Piece<'_> {
        Piece {
            text,
            terminated: true,
            time: Timestamp::now(),
        }
    }

    fn texts(path: &Path) -> Vec<String> {
        let content = std::fs::read_to_string(path).unwrap_or_default();
        content
            .lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                value["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    fn rotation(max_size: u64, max_files: u32) -> Rotation {
        Rotation {
            max_size,
            max_files,
            compress: false,
        }
    }

    #[test]
    fn rotates_and_keeps_the_newest_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c-json.log");
        let mut file = JsonFile::open(&path, rotation(1, 3), &BTreeMap::new()).unwrap();
        for text in [b"1", b"2", b"3", b"4"] {
            file.add(Stream::Stdout, &piece(text));
        }
        file.flush();
        assert_eq!(texts(&path), ["4\n"]);
        assert_eq!(texts(&dir.path().join("c-json.log.1")), ["3\n"]);
        assert_eq!(texts(&dir.path().join("c-json.log.2")), ["2\n"]);
        assert!(!dir.path().join("c-json.log.3").exists());
    }

    #[test]
    fn single_file_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = JsonFile::open(&path, rotation(1, 1), &BTreeMap::new()).unwrap();
        file.add(Stream::Stdout, &piece(b"1"));
        file.add(Stream::Stdout, &piece(b"2"));
        file.flush();
        assert_eq!(texts(&path), ["2\n"]);
    }

    #[test]
    fn compresses_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = JsonFile::open(
            &path,
            Rotation {
                compress: true,
                ..rotation(1, 3)
            },
            &BTreeMap::new(),
        )
        .unwrap();
        for text in [&b"one"[..], b"two", b"three"] {
            file.add(Stream::Stdout, &piece(text));
            file.flush();
            while file.is_compressing() {
                file.compress_some();
            }
        }
        assert!(!dir.path().join("log.1").exists());
        for (name, text) in [("log.1.gz", "two"), ("log.2.gz", "one")] {
            let mut content = String::new();
            let packed = File::open(dir.path().join(name)).unwrap();
            io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut content)
                .unwrap();
            assert!(
                content.starts_with(&format!("{{\"log\":\"{text}\\n\"")),
                "{content}"
            );
        }
    }

    #[test]
    fn unfinished_line_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (before, after) in [
            ("{}\n", "{}\n".to_owned()),
            ("{}\n{\"lo", "{}\n".to_owned()),
            ("half", String::new()),
            ("", String::new()),
            (&format!("a\n{}", "x".repeat(10_000)), "a\n".to_owned()),
        ] {
            std::fs::write(&path, before).unwrap();
            JsonFile::open(&path, rotation(0, 1), &BTreeMap::new()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }

    /// RLIMIT_FSIZE stands for the full disk: writes beyond it fail.
    #[test]
    fn full_disk_drops_whole_entries_and_notes_it() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        berth_sys::signals::ignore(rustix::process::Signal::XFSZ).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut file = JsonFile::open(&path, rotation(0, 1), &BTreeMap::new()).unwrap();
        let before = getrlimit(Resource::Fsize);
        setrlimit(
            Resource::Fsize,
            Rlimit {
                current: Some(100),
                ..before
            },
        )
        .unwrap();
        for _ in 0..5 {
            file.add(Stream::Stdout, &piece(b"text"));
        }
        file.flush();
        let kept = texts(&path).len();
        assert_eq!(kept, 1, "{:?}", texts(&path));
        setrlimit(Resource::Fsize, before).unwrap();
        file.add(Stream::Stdout, &piece(b"again"));
        file.flush();
        let texts = texts(&path);
        assert_eq!(texts.len(), 3);
        assert!(texts[1].contains("4 log entries were lost"), "{}", texts[1]);
        assert_eq!(texts[2], "again\n");
    }
}
