//! The container's log: output becomes lines, lines become entries, entries
//! reach the file in single writes of whole lines.
//!
//! A log must never stop a container: what cannot be written (a full disk) is
//! dropped and counted, and the count is noted in the log once it can be
//! written again.

mod compress;
mod encode;
mod file;
mod lines;

use std::io;

use crate::protocol;
use crate::timestamp::Timestamp;
use file::JsonFile;
use lines::{Lines, Piece};

/// Which output a text came from; a terminal has only `Stdout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// As in the log.
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// As in the header of a frame of an attached stream.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// Where the output of a container is kept.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<JsonFile>,
    stdout: Lines,
    stderr: Lines,
}

impl Log {
    /// Opens the log file, made if needed, and repairs an unfinished last line.
    pub(crate) fn open(settings: &protocol::Log) -> io::Result<Self> {
        Ok(Self {
            file: Self::open_file(settings)?,
            stdout: Lines::default(),
            stderr: Lines::default(),
        })
    }

    fn open_file(settings: &protocol::Log) -> io::Result<Option<JsonFile>> {
        match settings {
            protocol::Log::None => Ok(None),
            protocol::Log::JsonFile {
                path,
                max_size,
                max_files,
                compress,
                attributes,
            } => {
                let rotation = file::Rotation {
                    max_size: *max_size,
                    max_files: *max_files,
                    compress: *compress,
                };
                JsonFile::open(path, rotation, attributes).map(Some)
            }
        }
    }

    /// Goes on with other settings; the old ones stay when that fails.
    pub(crate) fn change(&mut self, settings: &protocol::Log) -> io::Result<()> {
        self.file = Self::open_file(settings)?;
        Ok(())
    }

    /// Takes output as it came; entries of complete lines are in the file when
    /// this returns.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) {
        let Some(file) = &mut self.file else { return };
        let lines = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        lines.feed(bytes, now, |piece| file.add(stream, &piece));
        file.flush();
    }

    /// Writes what is left of a line that had no end.
    pub(crate) fn finish(&mut self) {
        let Some(file) = &mut self.file else { return };
        self.stdout
            .finish(|piece: Piece<'_>| file.add(Stream::Stdout, &piece));
        self.stderr
            .finish(|piece: Piece<'_>| file.add(Stream::Stderr, &piece));
        file.flush();
    }

    /// Whether [`Log::work`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        self.file.as_ref().is_some_and(JsonFile::is_compressing)
    }

    /// A few milliseconds of compressing a rotated file, to be called when
    /// nothing else is waiting.
    pub(crate) fn work(&mut self) {
        if let Some(file) = &mut self.file {
            file.compress_some();
        }
    }
}
