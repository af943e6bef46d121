//! Garbage collection while serving: what no manifest refers to goes.
//!
//! A push first uploads blobs, or asks whether they are there, and then names
//! them in a manifest. So what was uploaded, mounted or asked for within the
//! grace time is kept (its link's time says so), and what requests name while a
//! collection runs is remembered and kept as well. Each removal closes the gate
//! for a moment, so it never falls between the check and the write of a push.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::document::Document;
use super::manifests::referrer_digest;
use super::names::{Algorithm, Digest, Reference};
use super::storage::{BLOBS, MANIFESTS, REFERRERS, Storage, TAGS, UPLOADS, exists, list, remove};

/// What is collected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) grace: Duration,
    /// Also manifests that no tag leads to.
    pub(crate) untagged: bool,
}

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) manifests: u64,
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
}

/// Ends the remembering of what is named, however the collection ends.
struct Watch<'a>(&'a Storage);

impl<'a> Watch<'a> {
    fn start(storage: &'a Storage) -> Option<Self> {
        let _gate = storage.close();
        let mut named = storage.named();
        if named.is_some() {
            return None;
        }
        *named = Some(HashSet::new());
        Some(Self(storage))
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        *self.0.named() = None;
    }
}

/// Collects; `None` if a collection runs already. Blocks.
pub(crate) fn collect(storage: &Storage, rules: Rules) -> io::Result<Option<Removed>> {
    let Some(_watch) = Watch::start(storage) else {
        return Ok(None);
    };
    let mut removed = Removed::default();
    let mut used = HashSet::new();
    for name in storage.all_folders()? {
        if rules.untagged {
            removed.manifests += untagged(storage, &name, rules)?;
        }
        match referenced(storage, &name)? {
            Some(referenced) => unlink(storage, &name, &referenced, rules)?,
            None => tracing::error!(
                "repository {name} has a manifest that cannot be read: nothing of it is collected"
            ),
        }
        used.extend(storage.digests(&name, BLOBS)?);
        used.extend(storage.digests(&name, MANIFESTS)?);
    }
    for algorithm in Algorithm::ALL {
        for hex in list(&storage.root().join("blobs").join(algorithm.name()))? {
            let Some(digest) = Digest::from_parts(algorithm, &hex) else {
                continue;
            };
            let path = storage.blob_path(&digest);
            if used.contains(&digest) || !is_old(&path, rules.grace)? {
                continue;
            }
            let _gate = storage.close();
            if is_named(storage, &digest) {
                continue;
            }
            let size = exists(&path)?.map_or(0, |meta| meta.len());
            if remove(&path)? {
                storage.forget_bytes(size);
                removed.blobs += 1;
                removed.bytes += size;
            }
        }
    }
    let mut folders = storage.all_folders()?;
    // Children before their parents.
    folders.sort_unstable_by(|a, b| b.cmp(a));
    for name in folders {
        prune_folders(storage, &name)?;
    }
    Ok(Some(removed))
}

fn is_named(storage: &Storage, digest: &Digest) -> bool {
    storage
        .named()
        .as_ref()
        .is_some_and(|named| named.contains(digest))
}

/// Whether nothing happened to a file for this long. One that is gone is not
/// old: there is nothing to remove.
fn is_old(path: &Path, grace: Duration) -> io::Result<bool> {
    let Some(meta) = exists(path)? else {
        return Ok(false);
    };
    let time = meta.modified()?;
    // A time to come (the clock was set back) is not old.
    Ok(SystemTime::now()
        .duration_since(time)
        .is_ok_and(|since| since >= grace))
}

fn document(storage: &Storage, name: &str, digest: &Digest) -> io::Result<Option<Document>> {
    let stored = storage.manifest(name, &Reference::Digest(digest.clone()))?;
    Ok(stored.and_then(|stored| Document::parse(Some(&stored.media_type), &stored.bytes).ok()))
}

/// Removes manifests to which no tag leads, not through an index either, and
/// which refer to none that is kept.
fn untagged(storage: &Storage, name: &str, rules: Rules) -> io::Result<u64> {
    let mut removed = 0;
    let all = storage.digests(name, MANIFESTS)?;
    let live = live(storage, name, rules)?;
    for digest in all.into_iter().filter(|digest| !live.contains(digest)) {
        let path = storage.record_path(name, MANIFESTS, &digest);
        if !is_old(&path, rules.grace)? {
            continue;
        }
        let _change = storage.change(name);
        let _gate = storage.close();
        if is_old(&path, rules.grace)?
            && !is_named(storage, &digest)
            && storage.remove_manifest(name, &digest)?
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// What tags lead to, and what is too young to be removed: an index whose tag
/// is on its way needs what it names.
fn live(storage: &Storage, name: &str, rules: Rules) -> io::Result<HashSet<Digest>> {
    let mut live = HashSet::new();
    let mut pending = Vec::new();
    for digest in storage.digests(name, MANIFESTS)? {
        if !is_old(&storage.record_path(name, MANIFESTS, &digest), rules.grace)? {
            pending.push(digest);
        }
    }
    for tag in storage.tags(name)? {
        pending.extend(storage.tag(name, &tag)?);
    }
    while let Some(digest) = pending.pop() {
        if !live.insert(digest.clone()) {
            continue;
        }
        if let Some(document) = document(storage, name, &digest)? {
            pending.extend(document.manifests.into_iter().map(|link| link.digest));
        }
        let referrers = list(&storage.record_path(name, REFERRERS, &digest))?;
        pending.extend(referrers.iter().filter_map(|file| referrer_digest(file)));
    }
    Ok(live)
}

/// The blobs that the manifests of a repository refer to; `None` if that cannot
/// be known.
fn referenced(storage: &Storage, name: &str) -> io::Result<Option<HashSet<Digest>>> {
    let mut blobs = HashSet::new();
    for digest in storage.digests(name, MANIFESTS)? {
        match document(storage, name, &digest)? {
            Some(document) => blobs.extend(document.blobs.into_iter().map(|link| link.digest)),
            // Deleted meanwhile.
            None if storage.record(name, &digest)?.is_none() => {}
            None => return Ok(None),
        }
    }
    Ok(Some(blobs))
}

/// Removes the links to blobs that no manifest refers to.
fn unlink(
    storage: &Storage,
    name: &str,
    referenced: &HashSet<Digest>,
    rules: Rules,
) -> io::Result<()> {
    for digest in storage.digests(name, BLOBS)? {
        let path = storage.record_path(name, BLOBS, &digest);
        if referenced.contains(&digest) || !is_old(&path, rules.grace)? {
            continue;
        }
        let _gate = storage.close();
        if is_old(&path, rules.grace)? && !is_named(storage, &digest) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Removes the empty folders of a repository, and itself if nothing is left.
fn prune_folders(storage: &Storage, name: &str) -> io::Result<()> {
    let _gate = storage.close();
    for algorithm in Algorithm::ALL {
        let folder = storage.folder(name, REFERRERS).join(algorithm.name());
        for subject in list(&folder)? {
            let _ = fs::remove_dir(folder.join(subject));
        }
        for kind in [BLOBS, MANIFESTS, REFERRERS] {
            let _ = fs::remove_dir(storage.folder(name, kind).join(algorithm.name()));
        }
    }
    for kind in [BLOBS, MANIFESTS, REFERRERS, TAGS, UPLOADS] {
        // Fails while something is in it, which is what is wanted.
        let _ = fs::remove_dir(storage.folder(name, kind));
    }
    let _ = fs::remove_dir(storage.folder(name, ""));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const HOUR: Duration = Duration::from_secs(3600);

    fn put(storage: &Storage, text: &str) -> Digest {
        let document = Document::parse(Some(INDEX), text.as_bytes()).unwrap();
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        storage
            .put_manifest("a", None, &digest, &document, text.as_bytes(), false)
            .unwrap();
        digest
    }

    #[test]
    fn a_young_index_keeps_what_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let empty = r#"{"schemaVersion":2,"manifests":[]}"#;
        let child = put(&storage, empty);
        let parent = put(
            &storage,
            &format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{INDEX}","digest":"{child}","size":{}}}]}}"#,
                empty.len()
            ),
        );
        let age = |digest: &Digest| {
            let path = storage.record_path("a", MANIFESTS, digest);
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - 2 * HOUR).unwrap();
        };
        let removed = || {
            let rules = Rules {
                grace: HOUR,
                untagged: true,
            };
            collect(&storage, rules).unwrap().unwrap().manifests
        };
        age(&child);
        assert_eq!(removed(), 0);
        assert!(storage.record("a", &child).unwrap().is_some());
        age(&parent);
        assert_eq!(removed(), 2);
    }
}
