//! What an engine sends, as one file; what a directory holds, as a tar stream.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use super::wire::Incoming;
use crate::failure::path_error;

/// Writes a stream to a file, which is there only when it is complete. Devices
/// and pipes are written as it comes.
pub(super) fn file(mut input: Incoming, path: &Path) -> Result<(), String> {
    let failed = |error| path_error("write", &path.display().to_string(), &error);
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if real.metadata().is_ok_and(|meta| !meta.is_file()) {
        let mut out = OpenOptions::new().write(true).open(&real).map_err(failed)?;
        return pour(&mut input, &mut out).map_err(failed);
    }
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    let temporary = real.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)
        .map_err(failed)?;
    let written = pour(&mut input, &mut out).and_then(|()| std::fs::rename(&temporary, &real));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

fn pour(input: &mut Incoming, out: &mut dyn Write) -> io::Result<()> {
    while let Some(bytes) = input.next()? {
        out.write_all(&bytes)?;
    }
    out.flush()
}

/// What a local cache holds. One that is not there yet holds nothing, which is
/// no reason to fail: the first build makes it.
pub(super) fn cache(root: &Path, out: &mut dyn Write) -> io::Result<()> {
    match root.is_dir() {
        true => directory(root, out),
        false => tar::Builder::new(out).finish(),
    }
}

/// Files and directories below `root`, no links.
fn directory(root: &Path, out: &mut dyn Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    add(root, Path::new(""), &mut builder)?;
    builder.finish()
}

fn add(root: &Path, inside: &Path, builder: &mut tar::Builder<&mut dyn Write>) -> io::Result<()> {
    let mut names: Vec<_> = std::fs::read_dir(root.join(inside))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort_unstable();
    for name in names {
        let inside = inside.join(name);
        let path = root.join(&inside);
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            builder.append_dir(&inside, &path)?;
            add(root, &inside, builder)?;
        } else if kind.is_file() {
            builder.append_path_with_name(&path, &inside)?;
        }
    }
    Ok(())
}
