//! Content by digest: written into a work directory while it is hashed, made
//! visible by rename once all that belongs together is verified.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result, invalid};
use crate::reference::is_lower_hex;
use crate::{BlobReader, Digest};

/// Longest manifest, index or configuration that is read into memory.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;

/// The hexadecimal part of a well-formed SHA-256 digest: safe as a file name.
pub(crate) fn hex_of(digest: &str) -> Result<&str> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(is_lower_hex) => Ok(hex),
        None if digest.starts_with("sha512:") => invalid(format!(
            "digest {digest:?} is not a SHA-256 digest: images with SHA-512 digests are not supported"
        )),
        _ => invalid(format!("digest {digest:?} is not a SHA-256 digest")),
    }
}

/// The first twelve digits, as people see IDs.
pub(crate) fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// "sha256:…" of some bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    name_digest(Sha256::new_with_prefix(bytes))
}

pub(crate) fn name_digest(hasher: Sha256) -> Digest {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hasher.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Passes a stream on and hashes it; with a file, writes it there, too.
#[derive(Debug)]
pub(crate) struct Tee<R> {
    input: R,
    hasher: Sha256,
    count: u64,
    copy: Option<File>,
}

impl<R: Read> Tee<R> {
    pub(crate) fn hash(input: R) -> Self {
        Self {
            input,
            hasher: Sha256::new(),
            count: 0,
            copy: None,
        }
    }

    pub(crate) fn copy(input: R, file: File) -> Self {
        Self {
            copy: Some(file),
            ..Self::hash(input)
        }
    }

    /// Reads what is left, and says the digest and length of the whole.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64)> {
        let mut buffer = vec![0; 128 << 10];
        while self.read(&mut buffer)? > 0 {}
        Ok((name_digest(self.hasher), self.count))
    }
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = loop {
            match self.input.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.hasher.update(&buffer[..n]);
        if let Some(file) = &mut self.copy {
            file.write_all(&buffer[..n])?;
        }
        self.count += n as u64;
        Ok(n)
    }
}

/// Where documents and layers are looked up by digest.
pub(crate) trait Source {
    fn size(&self, digest: &str) -> Option<u64>;

    /// Length of a plain layer that can be made and takes no space.
    fn made(&self, digest: &str) -> Option<u64> {
        let _ = digest;
        None
    }

    fn open(&self, digest: &str) -> Result<BlobReader>;

    /// The whole of a manifest, index or configuration.
    fn document(&self, digest: &str) -> Result<Vec<u8>> {
        match self.size(digest) {
            None => return invalid(format!("blob {digest} is missing")),
            Some(size) if size > MAX_DOCUMENT => {
                return invalid(format!(
                    "blob {digest} of {size} bytes is too long for a manifest or configuration"
                ));
            }
            Some(_) => {}
        }
        let mut bytes = Vec::new();
        self.open(digest)?
            .take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read blob", digest))?;
        Ok(bytes)
    }
}

pub(crate) fn open_file(directory: &OwnedFd, name: &str) -> rustix::io::Result<File> {
    openat(
        directory,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map(File::from)
}
