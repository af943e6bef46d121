//! Lists in the making: `~/.docker/manifests/<list>/<image>`, as Docker's
//! client keeps them.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::entry::Entry;
use crate::context::Context;
use crate::failure::{Failure, path_error};
use crate::reference::Reference;

/// Longest file read, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
}

/// A name as one component of a path: it has neither slashes nor colons.
fn safe(name: &Reference) -> String {
    name.full().replace(':', "%").replace('/', "#")
}

fn failed(verb: &'static str, path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::new(path_error(verb, &path, &error))
}

impl Store {
    pub(super) fn of(context: &Context) -> Self {
        let config = context
            .config
            .path
            .parent()
            .unwrap_or_else(|| Path::new(""));
        Self {
            root: config.join("manifests"),
        }
    }

    pub(super) fn has(&self, list: &Reference) -> bool {
        self.root.join(safe(list)).is_dir()
    }

    pub(super) fn get(
        &self,
        list: &Reference,
        image: &Reference,
    ) -> Result<Option<Entry>, Failure> {
        read(&self.root.join(safe(list)).join(safe(image)))
    }

    /// All images of a list, by name.
    pub(super) fn list(&self, list: &Reference) -> Result<Vec<Entry>, Failure> {
        let dir = self.root.join(safe(list));
        let mut names = Vec::new();
        for file in fs::read_dir(&dir).map_err(failed("open", &dir))? {
            let file = file.map_err(failed("readdirent", &dir))?;
            // What is not yet in place begins with a dot.
            if !file.file_name().as_encoded_bytes().starts_with(b".") {
                names.push(file.path());
            }
        }
        names.sort_unstable();
        names
            .iter()
            .filter_map(|path| read(path).transpose())
            .collect()
    }

    pub(super) fn put(
        &self,
        list: &Reference,
        image: &Reference,
        entry: &Entry,
    ) -> Result<(), Failure> {
        let dir = self.root.join(safe(list));
        fs::create_dir_all(&dir).map_err(failed("mkdir", &dir))?;
        let path = dir.join(safe(image));
        let temporary = dir.join(format!(".{}.tmp", std::process::id()));
        let text = entry.to_json()?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(failed("write", &path))
    }

    pub(super) fn remove(&self, list: &Reference) -> Result<(), Failure> {
        let dir = self.root.join(safe(list));
        fs::remove_dir_all(&dir).map_err(failed("unlinkat", &dir))
    }
}

fn read(path: &Path) -> Result<Option<Entry>, Failure> {
    let text = match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_FILE => {
            return Err(Failure::new(format!(
                "{} is longer than {MAX_FILE} bytes",
                path.display()
            )));
        }
        Ok(_) => fs::read(path).map_err(failed("open", path))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Failure::new(format!(
            "{} is not valid: {error}: remove the list with 'manifest rm'",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::entry::{DOCKER_MANIFEST, Descriptor};
    use super::*;

    #[test]
    fn lists_are_folders_with_dockers_names() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store {
            root: dir.path().join("manifests"),
        };
        let named = |text| Reference::parse(text).unwrap().or_latest();
        let (list, image) = (
            named("h:5000/a/list"),
            named(
                "h:5000/a/x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            ),
        );
        assert!(!store.has(&list) && store.get(&list, &image).unwrap().is_none());
        let descriptor = Descriptor {
            media_type: DOCKER_MANIFEST.to_owned(),
            ..Descriptor::default()
        };
        let entry = Entry::new(image.full(), descriptor, b"{}").unwrap();
        store.put(&list, &image, &entry).unwrap();
        let folder = dir.path().join("manifests/h%5000#a#list%latest");
        assert!(folder.is_dir());
        let files: Vec<_> = fs::read_dir(&folder).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        assert!(
            files[0]
                .file_name()
                .to_str()
                .unwrap()
                .starts_with("h%5000#a#x@sha256%0123")
        );
        assert_eq!(store.list(&list).unwrap().len(), 1);
        fs::write(folder.join("broken"), "{").unwrap();
        assert!(store.list(&list).is_err());
        store.remove(&list).unwrap();
        assert!(!store.has(&list));
    }
}
