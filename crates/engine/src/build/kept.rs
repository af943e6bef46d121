//! Contents of files from outside, as what the build cache has: a row for each
//! context of a client that is remembered, and one for all else.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use berth_build::files::Files;
use berth_build::solve::{self, Row, Shelf};
use berth_store::Digest;

use super::caches::nanoseconds;
use super::context::known_contents;

/// Digits of a context's name that name it for people.
const ID_LENGTH: usize = 25;
/// Names what no context has.
const OTHERS: &str = "files-of-no-context";

/// The store of contents, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Contents {
    /// `<data-root>/build`
    root: PathBuf,
    files: Mutex<Option<Files>>,
}

impl Contents {
    pub(super) fn new(root: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            root,
            files: Mutex::default(),
        })
    }

    /// Blocks the first time.
    pub(super) fn open(&self) -> Result<Files, solve::Error> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &*files {
            return Ok(files.clone());
        }
        let root = self.root.join("files");
        let opened = Files::open(&root)
            .map_err(|error| solve::Error::System(format!("open {}: {error}", root.display())))?;
        Ok(files.insert(opened).clone())
    }

    /// What is remembered of contexts: files, by their names.
    fn contexts(&self) -> Vec<(String, PathBuf)> {
        let entries = std::fs::read_dir(self.root.join("contexts"));
        let entries = entries.into_iter().flatten().flatten();
        let named = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_name = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_name.then(|| (name[..ID_LENGTH].to_owned(), entry.path()))
        });
        named.collect()
    }

    /// Gives back what no context has.
    fn collect(&self) -> Result<(), solve::Error> {
        let kept: HashSet<Digest> = (self.contexts().iter())
            .flat_map(|(_, path)| known_contents(path).into_keys())
            .collect();
        let files = self.open()?;
        files
            .collect(&|digest| kept.contains(digest))
            .map(drop)
            .map_err(|error| {
                solve::Error::System(format!("collect contents of build contexts: {error}"))
            })
    }
}

impl Shelf for Contents {
    fn rows(&self) -> Vec<Row> {
        let mut seen: HashSet<Digest> = HashSet::new();
        let mut rows = Vec::new();
        let Ok(files) = self.open() else {
            return rows;
        };
        let mut contexts = self.contexts();
        contexts.sort_by_key(|(_, path)| created(path));
        for (id, path) in contexts {
            let contents: HashMap<Digest, u64> = known_contents(&path);
            let new = contents.keys();
            let new = new.filter(|digest| seen.insert((*digest).clone()));
            // What became a layer counts there.
            let size = files.size_of(new.map(String::as_str));
            rows.push(row(id, "local source for context", size, &path));
        }
        let known: u64 = rows.iter().map(|row| row.size).sum();
        let size = files.size();
        if size > known {
            let root = self.root.join("files");
            let others = row(
                OTHERS.to_owned(),
                "files of archives and downloads",
                size - known,
                &root,
            );
            rows.push(others);
        }
        rows
    }

    fn remove(&self, id: &str) -> Result<bool, solve::Error> {
        if id != OTHERS {
            let mut contexts = self.contexts().into_iter();
            let Some((_, path)) = contexts.find(|(name, _)| name == id) else {
                return Ok(false);
            };
            // A build that reads it now holds its contents, and remembers it
            // again at its end.
            std::fs::remove_file(&path).map_err(|error| {
                solve::Error::System(format!("remove {}: {error}", path.display()))
            })?;
        }
        self.collect()?;
        Ok(true)
    }
}

fn row(id: String, description: &str, size: u64, path: &Path) -> Row {
    let used = path.metadata().and_then(|meta| meta.modified()).ok();
    Row {
        id,
        kind: solve::LOCAL.to_owned(),
        description: description.to_owned(),
        size,
        own: size,
        created: nanoseconds(created(path)),
        last_used: used.map(|used| nanoseconds(Some(used))),
        usage_count: 1,
        ..Row::default()
    }
}

fn created(path: &Path) -> Option<SystemTime> {
    let meta = path.metadata().ok()?;
    meta.created().or_else(|_| meta.modified()).ok()
}

/// A context was used, and is as it was.
pub(super) fn touch(path: &Path) {
    // Lost, it is only given up earlier.
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_listed_and_given_up() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("contexts")).unwrap();
        let contents = Contents::new(root.path().to_owned());
        assert_eq!(contents.rows(), []);
        let files = contents.open().unwrap();
        let one = files.add_bytes(&[1; 10_000]).unwrap();
        let two = files.add_bytes(&[2; 10_000]).unwrap();
        let line =
            |digest: &str| format!("{{\"p\":\"f\",\"m\":33188,\"s\":10000,\"D\":\"{digest}\"}}\n");
        let name = "a".repeat(64);
        std::fs::write(root.path().join("contexts").join(&name), line(&one)).unwrap();
        let rows = contents.rows();
        assert_eq!((rows[0].id.as_str(), rows[0].size), (&name[..25], 10_000));
        assert_eq!(rows[1].id, OTHERS);
        assert!(rows[1].size >= 10_000);

        assert!(contents.remove(OTHERS).unwrap());
        assert!(files.contains(&one) && !files.contains(&two));
        assert!(contents.remove(&name[..25]).unwrap());
        assert!(!files.contains(&one));
        assert!(!contents.remove(&name[..25]).unwrap());
    }
}
