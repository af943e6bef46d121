//! Manifests in the storage: put, get, delete, tags and referrers.

use std::io;

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::errors::{Code, Failure};
use super::names::{Algorithm, Digest, Reference};
use super::storage::{
    BLOBS, MANIFESTS, REFERRERS, Storage, TAGS, exists, list, read, remove, renew,
};

/// What is kept beside a manifest in a repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) media_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
}

/// A manifest that is there.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

/// Which of the referrers of a manifest are asked for.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Those whose digest comes after this.
    pub(crate) after: Option<String>,
    pub(crate) artifact_type: Option<String>,
    /// Bytes of descriptors; one is given however long it is.
    pub(crate) most: usize,
}

impl Storage {
    pub(crate) fn record(&self, name: &str, digest: &Digest) -> io::Result<Option<Record>> {
        let content = read(&self.record_path(name, MANIFESTS, digest))?;
        Ok(content.and_then(|content| serde_json::from_slice(&content).ok()))
    }

    /// What a tag stands for.
    pub(crate) fn tag(&self, name: &str, tag: &str) -> io::Result<Option<Digest>> {
        let content = read(&self.folder(name, TAGS).join(tag))?;
        Ok(content
            .as_deref()
            .and_then(|content| std::str::from_utf8(content).ok())
            .and_then(Digest::parse))
    }

    pub(crate) fn tags(&self, name: &str) -> io::Result<Vec<String>> {
        let mut tags = list(&self.folder(name, TAGS))?;
        tags.sort_unstable();
        Ok(tags)
    }

    pub(crate) fn manifest(&self, name: &str, reference: &Reference) -> io::Result<Option<Stored>> {
        let digest = match reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(tag) => match self.tag(name, tag)? {
                Some(digest) => digest,
                None => return Ok(None),
            },
        };
        let Some(record) = self.record(name, &digest)? else {
            return Ok(None);
        };
        Ok(read(&self.blob_path(&digest))?.map(|bytes| Stored {
            digest,
            media_type: record.media_type,
            bytes,
        }))
    }

    /// The same for a client, which may push what refers to it next: what was
    /// said to be there stays for the grace time of the collection.
    pub(crate) fn promise_manifest(
        &self,
        name: &str,
        reference: &Reference,
    ) -> io::Result<Option<Stored>> {
        let _gate = self.enter();
        let stored = self.manifest(name, reference)?;
        if let Some(stored) = &stored {
            self.use_now(&stored.digest);
            if matches!(reference, Reference::Digest(_)) {
                renew(&self.record_path(name, MANIFESTS, &stored.digest))?;
            }
        }
        Ok(stored)
    }

    /// Stores a manifest and, if asked by tag, names it.
    ///
    /// # Errors
    /// `MANIFEST_BLOB_UNKNOWN` if what it refers to is not in the repository,
    /// unless `sparse`: then only what is missing is not asked for.
    pub(crate) fn put_manifest(
        &self,
        name: &str,
        tag: Option<&str>,
        digest: &Digest,
        document: &Document,
        bytes: &[u8],
        sparse: bool,
    ) -> Result<(), Failure> {
        let _change = self.change(name);
        let _gate = self.enter();
        for link in document.blobs.iter().chain(&document.manifests) {
            // From here to the end the collection waits, and then knows.
            self.use_now(&link.digest);
        }
        if !sparse {
            self.demand_links(name, document)?;
        }
        let draft = self.draft();
        self.write(&draft, bytes)?;
        self.adopt(&draft, digest, bytes.len() as u64)?;
        if let Some(subject) = &document.subject {
            let descriptor = document.descriptor(digest, bytes.len()).to_string();
            let path = self
                .record_path(name, REFERRERS, subject)
                .join(referrer_file(digest));
            self.write(&path, descriptor.as_bytes())?;
        }
        let record = Record {
            media_type: document.media_type.clone(),
            subject: document.subject.as_ref().map(ToString::to_string),
        };
        let record = serde_json::to_vec(&record).map_err(io::Error::other)?;
        self.write(&self.record_path(name, MANIFESTS, digest), &record)?;
        if let Some(tag) = tag {
            self.write(
                &self.folder(name, TAGS).join(tag),
                digest.to_string().as_bytes(),
            )?;
        }
        Ok(())
    }

    /// All that a manifest refers to is in the repository, at the length it
    /// says. Its subject may come later.
    fn demand_links(&self, name: &str, document: &Document) -> Result<(), Failure> {
        let kinds = [(BLOBS, &document.blobs), (MANIFESTS, &document.manifests)];
        for (kind, links) in kinds {
            for link in links {
                let here = exists(&self.record_path(name, kind, &link.digest))?.is_some();
                let size = match exists(&self.blob_path(&link.digest))? {
                    Some(meta) if here => meta.len(),
                    _ => {
                        return Err(Failure::new(
                            Code::ManifestBlobUnknown,
                            format!("{} is not in the repository: push it first", link.digest),
                        )
                        .detail(serde_json::json!({"digest": link.digest.to_string()})));
                    }
                };
                if size != link.size {
                    return Err(Failure::new(
                        Code::ManifestInvalid,
                        format!(
                            "the manifest says that {} has {} bytes, it has {size}",
                            link.digest, link.size
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Removes a tag: whether it was there.
    pub(crate) fn delete_tag(&self, name: &str, tag: &str) -> io::Result<bool> {
        let _change = self.change(name);
        let _gate = self.enter();
        remove(&self.folder(name, TAGS).join(tag))
    }

    /// Removes a manifest and the tags that stand for it: whether it was there.
    pub(crate) fn delete_manifest(&self, name: &str, digest: &Digest) -> io::Result<bool> {
        let _change = self.change(name);
        let _gate = self.enter();
        self.remove_manifest(name, digest)
    }

    /// The same with the locks held. Names go first, so that none ever stands
    /// for nothing.
    pub(crate) fn remove_manifest(&self, name: &str, digest: &Digest) -> io::Result<bool> {
        let Some(record) = self.record(name, digest)? else {
            return Ok(false);
        };
        for tag in self.tags(name)? {
            if self.tag(name, &tag)?.as_ref() == Some(digest) {
                remove(&self.folder(name, TAGS).join(&tag))?;
            }
        }
        if let Some(subject) = record.subject.as_deref().and_then(Digest::parse) {
            let folder = self.record_path(name, REFERRERS, &subject);
            remove(&folder.join(referrer_file(digest)))?;
            // Fails while others are there.
            let _ = std::fs::remove_dir(folder);
        }
        remove(&self.record_path(name, MANIFESTS, digest))
    }

    /// Descriptors of what refers to a manifest, in the order of their digests,
    /// and whether there are more. What is not on the page is not held in
    /// memory: annotations may be long.
    pub(crate) fn referrers(
        &self,
        name: &str,
        subject: &Digest,
        page: &Page,
    ) -> io::Result<(Vec<serde_json::Value>, bool)> {
        let folder = self.record_path(name, REFERRERS, subject);
        let mut files = list(&folder)?;
        files.sort_unstable();
        let mut descriptors = Vec::new();
        let mut size = 0;
        for file in files {
            let Some(digest) = referrer_digest(&file) else {
                continue;
            };
            if page
                .after
                .as_ref()
                .is_some_and(|after| digest.to_string() <= *after)
            {
                continue;
            }
            // Left by a kill between the two files.
            if self.record(name, &digest)?.is_none() {
                continue;
            }
            let Some(content) = read(&folder.join(&file))? else {
                continue;
            };
            let Ok(descriptor) = serde_json::from_slice::<serde_json::Value>(&content) else {
                continue;
            };
            let wanted = page.artifact_type.as_deref();
            if wanted.is_some_and(|wanted| descriptor["artifactType"] != wanted) {
                continue;
            }
            size += content.len();
            if size > page.most && !descriptors.is_empty() {
                return Ok((descriptors, true));
            }
            descriptors.push(descriptor);
        }
        Ok((descriptors, false))
    }
}

fn referrer_file(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm.name(), digest.hex)
}

pub(crate) fn referrer_digest(file: &str) -> Option<Digest> {
    let (algorithm, hex) = file.split_once('-')?;
    Digest::from_parts(Algorithm::parse(algorithm)?, hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/vnd.oci.image.index.v1+json";

    fn put(storage: &Storage, subject: &Digest, kind: &str) -> Digest {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{TYPE}","artifactType":"{kind}","manifests":[],"subject":{{"mediaType":"{TYPE}","digest":"{subject}","size":2}}}}"#
        );
        let document = Document::parse(None, text.as_bytes()).unwrap();
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        storage
            .put_manifest("a", None, &digest, &document, text.as_bytes(), false)
            .unwrap();
        digest
    }

    #[test]
    fn referrers_are_read_page_by_page() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let subject = Digest::of(Algorithm::Sha256, b"x");
        let mut all = ["k/1", "k/2", "k/3"].map(|kind| put(&storage, &subject, kind));
        all.sort_unstable();
        let ask = |after: Option<&Digest>, kind: Option<&str>, most| {
            let page = Page {
                after: after.map(ToString::to_string),
                artifact_type: kind.map(str::to_owned),
                most,
            };
            let (found, more) = storage.referrers("a", &subject, &page)?;
            let digests = found
                .iter()
                .map(|one| one["digest"].as_str().unwrap().to_owned());
            Ok::<_, io::Error>((digests.collect::<Vec<_>>(), more))
        };
        let texts =
            |digests: &[Digest]| digests.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ask(None, None, 1 << 20).unwrap(), (texts(&all), false));
        assert_eq!(ask(None, None, 1).unwrap(), (texts(&all[..1]), true));
        assert_eq!(
            ask(Some(&all[1]), None, 1).unwrap(),
            (texts(&all[2..]), false)
        );
        assert_eq!(ask(None, Some("k/2"), 1).unwrap().0.len(), 1);
        assert_eq!(ask(None, Some("k"), 1).unwrap(), (Vec::new(), false));
        // What comes after the page is not read.
        let folder = storage.record_path("a", REFERRERS, &subject);
        let last = folder.join(referrer_file(&all[2]));
        std::fs::remove_file(&last).unwrap();
        std::fs::create_dir(&last).unwrap();
        assert_eq!(ask(None, None, 1).unwrap(), (texts(&all[..1]), true));
        ask(None, None, 1 << 20).unwrap_err();
    }
}
