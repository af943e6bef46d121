//! Compressing a rotated log file a little at a time, so that the monitor
//! needs no second thread or process for it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Bytes read per step: a few milliseconds of work.
const STEP: usize = 128 * 1024;

/// A file on its way to becoming its compressed form. The compressed file
/// appears under its name when it is complete, then the original goes; a kill
/// in between leaves the original, which readers take just as well.
#[derive(Debug)]
pub(super) struct Compressor {
    source: PathBuf,
    target: PathBuf,
    temporary: PathBuf,
    input: File,
    output: GzEncoder<File>,
}

impl Compressor {
    pub(super) fn start(source: &Path, target: PathBuf) -> io::Result<Self> {
        let mut temporary = target.clone().into_os_string();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        Ok(Self {
            source: source.to_owned(),
            input: File::open(source)?,
            output: GzEncoder::new(create(&temporary)?, Compression::fast()),
            target,
            temporary,
        })
    }

    /// Returns whether there is more to do. On an error the original stays.
    pub(super) fn step(&mut self) -> bool {
        match self.try_step() {
            Ok(more) => more,
            Err(_) => {
                let _ = std::fs::remove_file(&self.temporary);
                false
            }
        }
    }

    fn try_step(&mut self) -> io::Result<bool> {
        let mut buffer = vec![0; STEP];
        let length = self.input.read(&mut buffer)?;
        if length > 0 {
            self.output.write_all(&buffer[..length])?;
            return Ok(true);
        }
        self.output.try_finish()?;
        std::fs::rename(&self.temporary, &self.target)?;
        std::fs::remove_file(&self.source)?;
        Ok(false)
    }
}

fn create(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(path)
}
