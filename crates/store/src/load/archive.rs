//! The outer archive: its files spooled and hashed, found again by name.

use std::collections::HashMap;
use std::io::Read;

use serde::de::DeserializeOwned;

use super::ahead::Ahead;
use crate::Digest;
use crate::blob::Source;
use crate::decompress::decompress;
use crate::error::{Error, Result, invalid};
use crate::incoming::{Arrived, Incoming};
use crate::layer::clean;
use crate::tar::{Kind, Reader};

/// More files than any archive of images has.
const MAX_FILES: usize = 100_000;
/// Bytes of all names and targets together, which are kept in memory.
const MAX_NAMES: usize = 16 << 20;
/// Links to links, as old `docker save` never wrote them.
const MAX_LINKS: usize = 8;

#[derive(Debug)]
pub(super) struct Archive {
    incoming: Incoming,
    ahead: Ahead,
    files: HashMap<Vec<u8>, Digest>,
    /// Links between names: old archives have each layer's bytes once.
    links: HashMap<Vec<u8>, Vec<u8>>,
}

impl Archive {
    pub(super) fn read(input: &mut dyn Read, incoming: Incoming) -> Result<Self> {
        let (_, plain) = decompress(input)?;
        let mut tar = Reader::new(plain);
        let mut archive = Self {
            ahead: Ahead::new(incoming.clone()),
            incoming,
            files: HashMap::new(),
            links: HashMap::new(),
        };
        let mut names = 0;
        while let Some(entry) = tar.next()? {
            names += entry.name.len() + entry.link.len();
            if names > MAX_NAMES {
                return invalid(format!(
                    "the names in the archive are longer than {MAX_NAMES} bytes"
                ));
            }
            if archive.files.len() + archive.links.len() >= MAX_FILES {
                return invalid(format!("the archive has more than {MAX_FILES} files"));
            }
            let here = |error: Error| {
                error.within(&format!("entry {:?}", String::from_utf8_lossy(&entry.name)))
            };
            let path = clean(&entry.name).map_err(here)?;
            let name = path.join(&b'/');
            match entry.kind {
                Kind::File if entry.extents.is_some() => {
                    return Err(here(Error::Invalid("it is sparse".to_owned())));
                }
                Kind::File => {
                    let claimed = name.strip_prefix(b"blobs/sha256/");
                    let claimed = claimed.and_then(|hex| std::str::from_utf8(hex).ok());
                    let claimed = claimed.map(|hex| format!("sha256:{hex}"));
                    let digest = archive
                        .ahead
                        .spool(&mut tar, entry.size, claimed.as_deref())
                        .map_err(here)?;
                    check_name(&name, &digest)?;
                    archive.links.remove(&name);
                    archive.files.insert(name, digest);
                }
                Kind::Symlink => {
                    let directory = path.split_last().map_or(&[][..], |(_, parent)| parent);
                    archive.link(name, resolve(directory, &entry.link));
                }
                Kind::HardLink => archive.link(name, resolve(&[], &entry.link)),
                _ => {}
            }
        }
        // To the end, so that a damaged tail of a compressed stream is seen.
        std::io::copy(&mut tar.into_inner(), &mut std::io::sink())
            .map_err(Error::stream("the archive"))?;
        Ok(archive)
    }

    fn link(&mut self, name: Vec<u8>, target: Option<Vec<u8>>) {
        self.files.remove(&name);
        if let Some(target) = target {
            self.links.insert(name, target);
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The digest of the file of that name.
    pub(super) fn find(&self, name: &str) -> Option<&Digest> {
        let mut name = clean(name.as_bytes()).ok()?.join(&b'/');
        for _ in 0..MAX_LINKS {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => return self.files.get(&name),
            }
        }
        None
    }

    pub(super) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let Some(digest) = self.find(name) else {
            return invalid(format!("the archive has no {name}"));
        };
        serde_json::from_slice(&self.blobs().document(digest)?)
            .or_else(|error| invalid(format!("{name} is not valid: {error}")))
    }

    pub(super) fn ahead(&self) -> &Ahead {
        &self.ahead
    }

    pub(super) fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    pub(super) fn blobs(&self) -> Arrived<'_> {
        Arrived(&self.incoming)
    }
}

/// A file that is named by a digest must have it.
fn check_name(name: &[u8], digest: &str) -> Result<()> {
    let Some(claimed) = name.strip_prefix(b"blobs/sha256/") else {
        return Ok(());
    };
    if digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.as_bytes() == claimed)
    {
        return Ok(());
    }
    invalid(format!(
        "blob {} does not match its digest: its content has {digest}",
        String::from_utf8_lossy(name)
    ))
}

/// Follows `..` by text: nothing here is a real file system.
fn resolve(directory: &[Vec<u8>], link: &[u8]) -> Option<Vec<u8>> {
    let mut path = if link.starts_with(b"/") {
        Vec::new()
    } else {
        directory.to_vec()
    };
    for component in link.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(path.pop()?),
            _ => path.push(component.to_vec()),
        }
    }
    Some(path.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Tar, refused};

    #[test]
    fn names_are_bounded_together() {
        let target = vec![b'x'; 1_000_000];
        let archive = (0..20).fold(Tar::default(), |tar, n| {
            tar.pax(&[("linkpath", target.as_slice())])
                .symlink(&format!("link-{n}"), "x")
        });
        let message = refused(&archive.finish());
        assert!(message.contains("names in the archive"), "{message}");
    }
}
