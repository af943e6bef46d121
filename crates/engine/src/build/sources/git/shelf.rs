//! Repositories as a part of the build cache.

use std::path::{Path, PathBuf};

use berth_build::solve::{self, Row, Shelf};

use super::super::super::caches::nanoseconds;
use super::super::Sources;
use super::system;
use crate::files::is_id;

/// Names of rows are as long as those of records.
const SHOWN: usize = 25;

impl Shelf for Sources {
    fn rows(&self) -> Vec<Row> {
        let rows = repositories(&self.git).into_iter().map(|(name, path)| {
            let meta = std::fs::metadata(&path);
            let created = meta.as_ref().ok().and_then(|meta| meta.created().ok());
            let used = meta.as_ref().ok().and_then(|meta| meta.modified().ok());
            let size = size(&path);
            let remote = std::fs::read_to_string(path.join("remote")).unwrap_or_default();
            Row {
                id: id(&name),
                kind: solve::GIT.to_owned(),
                description: format!("git repository {remote}"),
                size,
                own: size,
                in_use: self.is_used(&name),
                created: nanoseconds(created.or(used)),
                last_used: used.map(|used| nanoseconds(Some(used))),
                usage_count: 1,
                ..Row::default()
            }
        });
        rows.collect()
    }

    fn remove(&self, wanted: &str) -> Result<bool, solve::Error> {
        let all = repositories(&self.git);
        let Some((name, path)) = all.into_iter().find(|(name, _)| id(name) == wanted) else {
            return Ok(false);
        };
        let user = self.user(&name);
        let Ok(_alone) = user.try_lock() else {
            return Ok(false);
        };
        // Without this file it is no repository, whenever the rest goes.
        let failed = |error| system(format!("remove {}: {error}", path.display()));
        match std::fs::remove_file(path.join("remote")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        std::fs::remove_dir_all(&path).map_err(failed)?;
        Ok(true)
    }
}

impl Sources {
    fn is_used(&self, name: &str) -> bool {
        self.user(name).try_lock().is_err()
    }
}

fn id(name: &str) -> String {
    name.get(..SHOWN).unwrap_or(name).to_owned()
}

fn repositories(root: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        is_id(&name).then(|| (name, entry.path()))
    });
    named.collect()
}

/// Bytes on disk.
fn size(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut total = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total += meta.blocks() * 512;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    total
}
