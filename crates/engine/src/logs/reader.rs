//! The json-file format: finding the files, the last lines, and what a client
//! gets to see of each.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use berth_api::frame::{self, Stream};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{LogOptions, time};

/// Longest rotated file that is inflated into memory.
const MAX_INFLATED: u64 = 1 << 30;
const CHUNK: usize = 64 * 1024;

/// An open log file and which one it is.
#[derive(Debug)]
pub(super) enum Source {
    Plain {
        file: File,
        inode: u64,
    },
    /// A compressed one, inflated.
    Memory(io::Cursor<Vec<u8>>),
}

impl Source {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self::Plain { file, inode })
    }

    fn inflate(path: &Path) -> io::Result<Self> {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(File::open(path)?)
            .take(MAX_INFLATED)
            .read_to_end(&mut bytes)?;
        Ok(Self::Memory(io::Cursor::new(bytes)))
    }

    pub(super) fn inode(&self) -> Option<u64> {
        match self {
            Self::Plain { inode, .. } => Some(*inode),
            Self::Memory(_) => None,
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain { file, .. } => file.read(buffer),
            Self::Memory(cursor) => cursor.read(buffer),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Plain { file, .. } => file.seek(position),
            Self::Memory(cursor) => cursor.seek(position),
        }
    }
}

fn rotated(path: &Path, number: u32, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}{suffix}"));
    name.into()
}

/// All files of a log, oldest first. The current one is opened first: when a
/// rotation comes between, it is met again under its next name and left out.
pub(super) fn open_all(path: &Path) -> io::Result<Vec<Source>> {
    let mut list: Vec<Source> = Vec::new();
    match Source::open(path) {
        Ok(source) => list.push(source),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for number in 1.. {
        let source = match Source::open(&rotated(path, number, "")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match Source::inflate(&rotated(path, number, ".gz")) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    other => other?,
                }
            }
            other => other?,
        };
        let seen =
            source.inode().is_some() && list.iter().any(|other| other.inode() == source.inode());
        if !seen {
            list.push(source);
        }
    }
    list.reverse();
    Ok(list)
}

/// The files that came after the one with this inode, oldest first.
pub(super) fn successors(path: &Path, inode: u64) -> io::Result<Vec<Source>> {
    let mut newer = Vec::new();
    let mut candidate = path.to_owned();
    for number in 1.. {
        match Source::open(&candidate) {
            Ok(source) if source.inode() == Some(inode) => break,
            Ok(source) => newer.push(source),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Compressed meanwhile, or gone: only the current one is new.
                newer.truncate(1);
                break;
            }
            Err(error) => return Err(error),
        }
        candidate = rotated(path, number, "");
    }
    newer.reverse();
    Ok(newer)
}

/// Positions the files so that the last `count` lines are left to read, and
/// drops those before; reads from the end only what is needed.
pub(super) fn tail(mut files: Vec<Source>, count: u64) -> io::Result<Vec<Source>> {
    let mut left = count;
    for index in (0..files.len()).rev() {
        let (offset, found) = last_lines(&mut files[index], left)?;
        files[index].seek(SeekFrom::Start(offset))?;
        left -= found;
        if left == 0 {
            return Ok(files.split_off(index));
        }
    }
    Ok(files)
}

/// Where the last `count` whole lines begin, and how many there are.
fn last_lines(source: &mut Source, count: u64) -> io::Result<(u64, u64)> {
    let mut position = source.seek(SeekFrom::End(0))?;
    if count == 0 {
        return Ok((position, 0));
    }
    let mut found = 0;
    let mut buffer = vec![0; CHUNK];
    let mut at_end = true;
    while position > 0 {
        let length = position.min(CHUNK as u64);
        position -= length;
        source.seek(SeekFrom::Start(position))?;
        // At most CHUNK, see above.
        let part = &mut buffer[..length as usize];
        source.read_exact(part)?;
        for (index, byte) in part.iter().enumerate().rev() {
            if *byte != b'\n' {
                continue;
            }
            if at_end {
                // The end of the last line begins no line.
                at_end = false;
                continue;
            }
            found += 1;
            if found == count {
                return Ok((position + index as u64 + 1, found));
            }
        }
    }
    Ok((0, if at_end { found } else { found + 1 }))
}

/// One line of the file.
#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Line {
    log: String,
    stream: String,
    attrs: std::collections::BTreeMap<String, String>,
    time: String,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Bytes(Vec<u8>),
    Skipped,
    /// Past `until`: nothing later can be wanted.
    Ended,
}

pub(super) fn show(line: &[u8], options: &LogOptions, tty: bool) -> Shown {
    // A line that is no JSON was cut by a crash of the machine.
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        return Shown::Skipped;
    };
    let at = line.time.parse::<Timestamp>().unwrap_or_default();
    let nanoseconds = time::nanoseconds(at);
    if options.until.is_some_and(|until| nanoseconds > until) {
        return Shown::Ended;
    }
    if options.since.is_some_and(|since| nanoseconds < since) {
        return Shown::Skipped;
    }
    let stream = match line.stream.as_str() {
        "stderr" if options.stderr => Stream::Stderr,
        "stdout" if options.stdout => Stream::Stdout,
        _ => return Shown::Skipped,
    };
    let mut text = String::new();
    if options.timestamps {
        text.push_str(&time::format(at));
        text.push(' ');
    }
    if options.details {
        let pairs: Vec<String> = line
            .attrs
            .iter()
            .map(|(key, value)| format!("{}={}", escape(key), escape(value)))
            .collect();
        text.push_str(&pairs.join(","));
        text.push(' ');
    }
    text.push_str(&line.log);
    if tty {
        return Shown::Bytes(text.into_bytes());
    }
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let mut bytes = frame::header(stream, length).to_vec();
    bytes.extend(text.as_bytes());
    Shown::Bytes(bytes)
}

/// Go's `url.QueryEscape`.
fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

/// Cuts a byte stream into lines; keeps what is not whole yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    /// Calls `each` for every whole line, until it says to stop.
    pub(super) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8]) -> bool) -> bool {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        let mut go_on = true;
        while go_on && let Some(length) = self.buffer[start..].iter().position(|b| *b == b'\n') {
            go_on = each(&self.buffer[start..start + length]);
            start += length + 1;
        }
        self.buffer.drain(..start);
        go_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all() -> LogOptions {
        LogOptions {
            stdout: true,
            stderr: true,
            ..LogOptions::default()
        }
    }

    fn memory(text: &str) -> Source {
        Source::Memory(io::Cursor::new(text.as_bytes().to_vec()))
    }

    fn rest(files: Vec<Source>) -> String {
        files.into_iter().fold(String::new(), |mut text, mut file| {
            file.read_to_string(&mut text).unwrap();
            text
        })
    }

    proptest! {
        #[test]
        fn tail_is_the_last_lines(lines in prop::collection::vec("[a-z]{0,40}", 0..60), cut in 0usize..60, count in 0u64..70) {
            let cut = cut.min(lines.len());
            let join = |part: &[String]| part.iter().map(|l| format!("{l}\n")).collect::<String>();
            let files = vec![memory(&join(&lines[..cut])), memory(&join(&lines[cut..]))];
            let skip = lines.len().saturating_sub(count as usize);
            prop_assert_eq!(rest(tail(files, count).unwrap()), join(&lines[skip..]));
        }

        #[test]
        fn lines_survive_any_cut(text in "[a-c\n]{0,80}", cut in 0usize..80) {
            let cut = cut.min(text.len());
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                lines.push(part.as_bytes(), |line| { seen.push(line.to_vec()); true });
            }
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let want: Vec<Vec<u8>> = if text.contains('\n') {
                whole.split('\n').map(|l| l.as_bytes().to_vec()).collect()
            } else { Vec::new() };
            prop_assert_eq!(seen, want);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = show(&bytes, &all(), false);
        }
    }

    #[test]
    fn lines_as_clients_see_them() {
        let line = br#"{"log":"hi\n","stream":"stderr","attrs":{"k":"a b"},"time":"1970-01-01T00:00:02Z"}"#;
        let mut options = all();
        assert_eq!(
            show(line, &options, false),
            Shown::Bytes(b"\x02\0\0\0\0\0\0\x03hi\n".to_vec())
        );
        options.timestamps = true;
        options.details = true;
        assert_eq!(
            show(line, &options, true),
            Shown::Bytes(b"1970-01-01T00:00:02.000000000Z k=a+b hi\n".to_vec())
        );
        options.since = Some(2_000_000_001);
        assert_eq!(show(line, &options, true), Shown::Skipped);
        options.since = None;
        options.until = Some(1_999_999_999);
        assert_eq!(show(line, &options, true), Shown::Ended);
        options.until = None;
        options.stderr = false;
        assert_eq!(show(line, &options, true), Shown::Skipped);
    }

    #[test]
    fn rotation_is_followed() {
        let dir = std::env::temp_dir().join(crate::files::random_id().unwrap());
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("log");
        std::fs::write(&path, "1\n").unwrap();
        let old = Source::open(&path).unwrap().inode().unwrap();
        std::fs::rename(&path, rotated(&path, 1, "")).unwrap();
        std::fs::write(&path, "2\n").unwrap();
        std::fs::rename(rotated(&path, 1, ""), rotated(&path, 2, "")).unwrap();
        std::fs::rename(&path, rotated(&path, 1, "")).unwrap();
        std::fs::write(&path, "3\n").unwrap();
        assert_eq!(rest(successors(&path, old).unwrap()), "2\n3\n");
        assert_eq!(rest(open_all(&path).unwrap()), "1\n2\n3\n");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
