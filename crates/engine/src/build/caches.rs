//! `RUN --mount=type=cache`: directories that outlive builds.
//!
//! ```text
//! <root>/<SHA-256 of the id>/id          the id
//! <root>/<SHA-256 of the id>/<n>/data    the directory
//! <root>/gone/                           what is being removed
//! ```
//!
//! An id has several directories only if steps that do not share had to run at
//! the same time. Locks are of this process: the steps of an engine that was
//! killed die with it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_api::Error;
use berth_build::dockerfile::Sharing;
use berth_build::solve::{self, Row, Shelf};
use berth_store::{disk_usage, remove_directory};
use tokio::sync::Notify;

use super::session::failed;
use crate::error::io;
use crate::files;

/// Directories of one id; more steps that do not share wait.
const MAX_SLOTS: usize = 64;

const GONE: &str = "gone";

#[derive(Debug)]
pub(super) struct Caches {
    root: PathBuf,
    users: Arc<Users>,
}

#[derive(Debug, Default)]
struct Users {
    /// By directory.
    used: Mutex<HashMap<PathBuf, Use>>,
    /// Told when a directory becomes free.
    freed: Notify,
}

#[derive(Debug)]
enum Use {
    /// By so many steps that share it; one of them fills it.
    Shared(usize, Filling),
    Alone,
}

type Filling = Arc<Mutex<()>>;

/// One directory, kept for a step.
#[derive(Debug)]
pub(super) struct Cache {
    /// `<root>/<hash>/<n>`
    pub(super) dir: PathBuf,
    filling: Filling,
    users: Arc<Users>,
}

impl Cache {
    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Has the directory made, unless it is there: by one step, while others
    /// that share it wait. Blocks.
    pub(super) fn fill(&self, make: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let _one = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        match self.data().exists() {
            true => Ok(()),
            false => make(),
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let mut used = self.users.lock();
        match used.get_mut(&self.dir) {
            Some(Use::Shared(count, _)) if *count > 1 => *count -= 1,
            _ => {
                used.remove(&self.dir);
            }
        }
        drop(used);
        self.users.freed.notify_waiters();
    }
}

impl Users {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Use>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caches {
    /// What removals left that were cut off is removed in the background.
    pub(super) fn new(root: PathBuf) -> Self {
        let left = directories(&root.join(GONE));
        if !left.is_empty() {
            std::thread::spawn(move || {
                for dir in left {
                    if let Err(error) = remove_directory(&dir) {
                        tracing::warn!("remove {}: {error}", dir.display());
                    }
                }
            });
        }
        Self {
            root,
            users: Arc::default(),
        }
    }

    /// A directory of that id, as `sharing` says; it may not have been filled
    /// yet. Waits for its turn; dropping the future gives it up.
    pub(super) async fn take(&self, id: &str, sharing: Sharing) -> Result<Cache, Error> {
        let all = self.root.join(digest(id));
        files::make_dir(&all, 0o700).map_err(|error| io("make", &all, &error))?;
        self.name(&all, id)?;
        loop {
            let freed = self.users.freed.notified();
            tokio::pin!(freed);
            // From here on nothing is missed.
            freed.as_mut().enable();
            if let Some(cache) = self.try_take(&all, sharing)? {
                return Ok(cache);
            }
            freed.await;
        }
    }

    /// Writes down whose directory it is, once: steps may begin side by side.
    fn name(&self, all: &Path, id: &str) -> Result<(), Error> {
        let name = all.join("id");
        let _one = self.users.lock();
        if name.exists() {
            return Ok(());
        }
        files::replace(&name, id.as_bytes(), 0o600).map_err(|error| io("write", &name, &error))
    }

    fn try_take(&self, all: &Path, sharing: Sharing) -> Result<Option<Cache>, Error> {
        let mut used = self.users.lock();
        let slots = (0..MAX_SLOTS).map(|number| all.join(number.to_string()));
        let existing: Vec<PathBuf> = slots.clone().filter(|dir| dir.exists()).collect();
        let shared = |dir: &&PathBuf| matches!(used.get(*dir), Some(Use::Shared(..)));
        let free = |dir: &&PathBuf| !used.contains_key(*dir);
        let found = match sharing {
            Sharing::Shared => existing
                .iter()
                .find(shared)
                .or_else(|| existing.iter().find(free)),
            Sharing::Private | Sharing::Locked => existing.iter().find(free),
        };
        let dir = match (found, sharing) {
            (Some(dir), _) => dir.clone(),
            (None, Sharing::Locked) if !existing.is_empty() => return Ok(None),
            (None, _) => {
                let Some(dir) = slots.into_iter().find(|dir| !existing.contains(dir)) else {
                    return Ok(None);
                };
                std::fs::create_dir(&dir).map_err(|error| io("make", &dir, &error))?;
                dir
            }
        };
        let filling = match (used.get_mut(&dir), sharing) {
            (Some(Use::Shared(count, filling)), _) => {
                *count += 1;
                filling.clone()
            }
            (_, Sharing::Shared) => {
                let filling = Filling::default();
                used.insert(dir.clone(), Use::Shared(1, filling.clone()));
                filling
            }
            _ => {
                used.insert(dir.clone(), Use::Alone);
                Filling::default()
            }
        };
        // When it was last used; lost, it is only given up earlier.
        let _ = std::fs::File::open(&dir).and_then(|dir| dir.set_modified(SystemTime::now()));
        Ok(Some(Cache {
            dir,
            filling,
            users: self.users.clone(),
        }))
    }

    /// Removes a directory that no step uses; whether it did. Blocks.
    pub(super) fn remove(&self, dir: &Path) -> Result<bool, Error> {
        let gone = {
            let used = self.users.lock();
            if used.contains_key(dir) {
                return Ok(false);
            }
            // Out of sight before anyone can take it; under a name that no
            // removal had which was cut off.
            let all = self.root.join(GONE);
            let unique = files::random_id().map_err(|error| io("remove", dir, &error))?;
            let gone = all.join(unique);
            files::make_dir(&all, 0o700).map_err(|error| io("make", &all, &error))?;
            match std::fs::rename(dir, &gone) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(io("remove", dir, &error)),
                Ok(()) => gone,
            }
        };
        remove_directory(&gone).map_err(|error| io("remove", &gone, &error))?;
        Ok(true)
    }
}

/// Names of rows are as long as those of records.
const HASH_SHOWN: usize = 22;

impl Shelf for Caches {
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for all in directories(&self.root) {
            let id = std::fs::read_to_string(all.join("id")).unwrap_or_default();
            for dir in directories(&all) {
                let Some(name) = row_id(&dir) else { continue };
                let times = std::fs::metadata(&dir);
                let created = times.as_ref().ok().and_then(|meta| meta.created().ok());
                let used = times.as_ref().ok().and_then(|meta| meta.modified().ok());
                let size = disk_usage(&dir).unwrap_or_default();
                rows.push(Row {
                    id: name,
                    kind: solve::CACHE_MOUNT.to_owned(),
                    description: format!("cached mount with id {id:?}"),
                    size,
                    own: size,
                    in_use: self.users.lock().contains_key(&dir),
                    created: nanoseconds(created.or(used)),
                    last_used: used.map(|used| nanoseconds(Some(used))),
                    usage_count: 1,
                    ..Row::default()
                });
            }
        }
        rows
    }

    fn remove(&self, id: &str) -> Result<bool, solve::Error> {
        let mut all = directories(&self.root).into_iter();
        let found = all.find_map(|all| {
            let mut slots = directories(&all).into_iter();
            slots.find(|dir| row_id(dir).is_some_and(|row| row == id))
        });
        match found {
            Some(dir) => self.remove(&dir).map_err(failed),
            None => Ok(false),
        }
    }
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let is_directory = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|t| t.is_dir());
    (entries.filter(is_directory).map(|entry| entry.path())).collect()
}

/// None: it is on its way out.
fn row_id(dir: &Path) -> Option<String> {
    let slot: usize = dir.file_name()?.to_str()?.parse().ok()?;
    let hash = dir.parent()?.file_name()?.to_str()?;
    Some(format!("{}-{slot:02}", hash.get(..HASH_SHOWN)?))
}

/// Since 1970.
pub(super) fn nanoseconds(time: Option<SystemTime>) -> u64 {
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Ids are anything; names of directories are not.
fn digest(id: &str) -> String {
    berth_store::digest_of(id.as_bytes())
        .trim_start_matches("sha256:")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sharing_modes() {
        let root = tempfile::tempdir().unwrap();
        let caches = Caches::new(root.path().to_owned());
        let one = caches.take("../x", Sharing::Shared).await.unwrap();
        let two = caches.take("../x", Sharing::Shared).await.unwrap();
        assert_eq!(one.dir, two.dir);
        assert!(one.dir.starts_with(root.path()));
        let own = caches.take("../x", Sharing::Private).await.unwrap();
        assert_ne!(own.dir, one.dir);
        assert_ne!(
            caches.take("y", Sharing::Locked).await.unwrap().dir,
            one.dir
        );
        // Both are taken: a locked one waits.
        let waits = caches.take("../x", Sharing::Locked);
        tokio::pin!(waits);
        let at_once = futures_util::poll!(waits.as_mut());
        assert!(at_once.is_pending());
        drop(one);
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        let dir = two.dir.clone();
        assert!(!caches.remove(&dir).unwrap());
        drop(two);
        let locked = waits.await.unwrap();
        assert_eq!(locked.dir, dir);
        drop((locked, own));
        let rows = caches.rows();
        let row = |dir: &Path| {
            rows.iter()
                .find(|row| row_id(dir).as_ref() == Some(&row.id))
        };
        assert_eq!(rows.len(), 3);
        let found = row(&dir).unwrap();
        assert_eq!(found.description, r#"cached mount with id "../x""#);
        assert!(!found.in_use && found.last_used.unwrap() > 0 && found.size > 0);
        assert!(Shelf::remove(&caches, &found.id).unwrap());
        assert!(!Shelf::remove(&caches, &found.id).unwrap());
        assert!(!dir.exists());
        assert_eq!(directories(&root.path().join(GONE)), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn steps_that_share_a_new_one_fill_it_once() {
        let root = tempfile::tempdir().unwrap();
        let caches = Caches::new(root.path().to_owned());
        let (mut all, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..8 {
            let cache = Arc::new(caches.take("x", Sharing::Shared).await.unwrap());
            all.push(cache.clone());
            threads.push(std::thread::spawn(move || {
                let mut filled = false;
                let make = || {
                    std::fs::create_dir(cache.data()).map_err(|e| Error::system(e.to_string()))?;
                    filled = true;
                    Ok(())
                };
                cache.fill(make).unwrap();
                filled
            }));
        }
        let filled = threads.into_iter().map(|thread| thread.join().unwrap());
        assert_eq!(filled.filter(|filled| *filled).count(), 1);
    }

    #[tokio::test]
    async fn one_that_a_step_made_deep_can_be_removed() {
        let root = tempfile::tempdir().unwrap();
        let caches = Caches::new(root.path().to_owned());
        let cache = caches.take("x", Sharing::Shared).await.unwrap();
        let dir = cache.dir.clone();
        std::fs::create_dir(cache.data()).unwrap();
        drop(cache);
        let mut here = std::fs::File::open(dir.join("data")).unwrap();
        // More than descriptors: one for each would not do.
        for _ in 0..3000 {
            rustix::fs::mkdirat(&here, "d", rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::DIRECTORY;
            let next = rustix::fs::openat(&here, "d", flags, rustix::fs::Mode::empty());
            here = next.unwrap().into();
        }
        // A removal that was killed, and one more.
        let gone = root.path().join(GONE);
        files::make_dir(&gone, 0o700).unwrap();
        std::fs::create_dir(gone.join("0")).unwrap();
        assert_eq!(caches.rows().len(), 1);
        assert!(caches.remove(&dir).unwrap());
        assert_eq!(directories(&gone), [gone.join("0")]);
    }
}
