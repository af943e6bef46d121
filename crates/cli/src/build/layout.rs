//! `oci-layout://`: an image in a directory, as the OCI image layout has it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::path_error;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// "path[:tag|@digest]": the directory, and the digest of what is meant.
pub(super) fn find(place: &str) -> Result<(PathBuf, String), String> {
    let (place, digest) = match place.split_once('@') {
        Some((place, digest)) => (place, Some(digest)),
        None => (place, None),
    };
    let (path, tag) = match place.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !Path::new(place).is_dir() => (path, Some(tag)),
        _ => (place, None),
    };
    let root = PathBuf::from(path);
    let index = root.join("index.json");
    let text = std::fs::read(&index)
        .map_err(|error| path_error("open", &index.display().to_string(), &error))?;
    let index: Index =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", index.display()))?;
    if let Some(digest) = digest {
        return Ok((root, digest.to_owned()));
    }
    let named = |descriptor: &&Descriptor, tag: &str| {
        descriptor
            .annotations
            .get("org.opencontainers.image.ref.name")
            .is_some_and(|name| name == tag)
    };
    let manifests = &index.manifests;
    let found = match (tag, manifests.as_slice()) {
        (Some(tag), _) => manifests.iter().find(|one| named(one, tag)),
        (None, [only]) => Some(only),
        (None, _) => manifests.iter().find(|one| named(one, "latest")),
    };
    found
        .map(|descriptor| (root, descriptor.digest.clone()))
        .ok_or_else(|| format!("{path} has no image {:?}", tag.unwrap_or("latest")))
}

/// Writes the layout as a tar stream: its own files only.
pub(super) fn send(root: &Path, out: &mut dyn Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(out);
    for name in ["oci-layout", "index.json"] {
        builder.append_path_with_name(root.join(name), name)?;
    }
    let algorithm = root.join("blobs/sha256");
    let mut names: Vec<_> = std::fs::read_dir(&algorithm)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort_unstable();
    for name in names {
        let digest = name.to_string_lossy();
        if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            let inside = format!("blobs/sha256/{digest}");
            builder.append_path_with_name(algorithm.join(&name), inside)?;
        }
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_by_tag_digest_or_as_the_only_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let write = |text: &str| std::fs::write(dir.path().join("index.json"), text).unwrap();
        write(r#"{"manifests":[{"digest":"sha256:1"}]}"#);
        assert_eq!(find(root).unwrap().1, "sha256:1");
        write(
            r#"{"manifests":[{"digest":"sha256:1","annotations":{"org.opencontainers.image.ref.name":"a"}},{"digest":"sha256:2"}]}"#,
        );
        assert_eq!(find(&format!("{root}:a")).unwrap().1, "sha256:1");
        assert_eq!(find(&format!("{root}@sha256:9")).unwrap().1, "sha256:9");
        assert!(find(root).is_err() && find("/no/such").is_err());
    }
}
