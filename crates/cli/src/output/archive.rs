//! Archives from the engine: to a file, or to what reads our output.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use http_body_util::BodyExt as _;
use rustix::termios::isatty;

use crate::context::Context;
use crate::failure::{Failure, os_words, path_error};
use crate::transport::Request;

/// Where an archive goes, settled before the engine begins to make one.
pub(crate) enum Target {
    Stdout,
    /// Written beside its place, and put there when complete.
    File {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
    },
    /// A device or a pipe, written as it comes.
    Stream(File),
}

impl Target {
    /// `path` as given by `--output`. `failed` begins the message: "failed to
    /// save image".
    pub(crate) fn open(path: &str, failed: &str) -> Result<Self, Failure> {
        if path.is_empty() {
            if isatty(rustix::stdio::stdout()) {
                return Err(Failure::new(
                    "cowardly refusing to save to a terminal. Use the -o flag or redirect",
                ));
            }
            return Ok(Self::Stdout);
        }
        let why = |text: String| Failure::new(format!("{failed}: {text}"));
        let given = Path::new(path);
        let dir = match given.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        if !dir.is_dir() {
            return Err(why(format!(
                "invalid output path: stat {}: no such file or directory",
                dir.display()
            )));
        }
        let open = |error: std::io::Error| why(path_error("open", path, &error));
        let real = std::fs::canonicalize(given).unwrap_or_else(|_| given.to_owned());
        match std::fs::metadata(&real) {
            Ok(meta) if meta.is_dir() => {
                return Err(why(format!(
                    "invalid output path: cannot write to a directory: {path}"
                )));
            }
            Ok(meta) if !meta.is_file() => {
                return OpenOptions::new()
                    .write(true)
                    .open(&real)
                    .map(Self::Stream)
                    .map_err(open);
            }
            _ => {}
        }
        let name = real.file_name().unwrap_or_default().to_string_lossy();
        let temporary = real.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(open)?;
        Ok(Self::File {
            file,
            temporary,
            path: real,
        })
    }

    /// Asks the engine and writes what it sends.
    pub(crate) async fn receive(
        mut self,
        context: &Context,
        request: Request,
    ) -> Result<(), Failure> {
        let outcome = self.write(context, request).await;
        if let Self::File {
            temporary, path, ..
        } = &self
        {
            if outcome.is_ok() {
                return std::fs::rename(temporary, path).map_err(|error| {
                    Failure::new(path_error("rename", &path.display().to_string(), &error))
                });
            }
            let _ = std::fs::remove_file(temporary);
        }
        outcome
    }

    async fn write(&mut self, context: &Context, request: Request) -> Result<(), Failure> {
        let mut body = context.send(request).await?.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|error| Failure::new(format!("the engine's reply broke off: {error}")))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            let written = match self {
                Self::Stdout => std::io::stdout().lock().write_all(data),
                Self::File { file, .. } | Self::Stream(file) => file.write_all(data),
            };
            written.map_err(|error| {
                Failure::new(format!("cannot write the archive: {}", os_words(&error)))
            })?;
        }
        match self {
            Self::Stdout => std::io::stdout().lock().flush(),
            Self::File { file, .. } | Self::Stream(file) => file.flush(),
        }
        .map_err(|error| Failure::new(format!("cannot write the archive: {}", os_words(&error))))
    }
}
