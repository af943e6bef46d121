//! Partial blobs on disk: `ingest/sha256/<hex>`.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, statat, unlinkat};
use rustix::io::Errno;

use crate::Digest;
use crate::arrival::Arrival;
use crate::disk::children;
use crate::error::{Error, Result, invalid};
use crate::state::State;
use crate::store::{Inner, hex};

/// A partial blob that nobody has asked for in so long is given up.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The blobs that are arriving, or have arrived and belong to no image yet.
#[derive(Debug, Default)]
pub(crate) struct Ingests {
    by_digest: Mutex<HashMap<Digest, Weak<Arrival>>>,
}

impl Ingests {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Weak<Arrival>>> {
        self.by_digest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The arrival of that blob, and whether the caller is its writer. To be
    /// called under the store's lock, after a look at the visible blobs.
    pub(crate) fn ingest(&self, digest: &str, size: u64) -> Result<(Arc<Arrival>, bool)> {
        let mut ingests = self.ingests.lock();
        if let Some(arrival) = ingests.get(digest).and_then(Weak::upgrade) {
            if arrival.size() != size {
                return invalid(format!(
                    "blob {digest} is said to have {size} bytes, and {} elsewhere",
                    arrival.size()
                ));
            }
            let is_writer = arrival.claim();
            return Ok((arrival, is_writer));
        }
        ingests.retain(|_, arrival| arrival.strong_count() > 0);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(
            &self.dirs.ingest,
            hex(digest),
            flags,
            Mode::from_raw_mode(0o600),
        )
        .map_err(Error::io("create ingest of blob", digest))?;
        let arrival = Arc::new(Arrival::new(
            format!("blob {digest}"),
            File::from(file),
            size,
            Some(digest.to_owned()),
        ));
        ingests.insert(digest.to_owned(), Arc::downgrade(&arrival));
        Ok((arrival, true))
    }

    /// Makes a whole ingest a blob. It stays an ingest, too, until
    /// [`Self::forget_ingest`]: killed in between, nothing is fetched again.
    pub(crate) fn link_ingest(&self, digest: &str) -> Result<()> {
        let name = hex(digest);
        let link = || {
            linkat(
                &self.dirs.ingest,
                name,
                &self.dirs.blobs,
                name,
                AtFlags::empty(),
            )
        };
        match link() {
            // What a crash left under the name of something that is not there.
            Err(Errno::EXIST) => {
                unlinkat(&self.dirs.blobs, name, AtFlags::empty()).and_then(|()| link())
            }
            other => other,
        }
        .map_err(Error::io("publish blob", digest))
    }

    pub(crate) fn forget_ingest(&self, digest: &str) {
        self.ingests.lock().remove(digest);
        self.unlink_ingest(hex(digest).as_bytes());
    }

    /// Removes ingests that nobody is on: of blobs that are visible now, and
    /// such as are older than a week.
    pub(crate) fn sweep_ingests(&self, state: &State) {
        for name in self.stale_ingests(state) {
            self.unlink_ingest(name.as_bytes());
        }
    }

    /// The names of those. The store's lock, held for `state`, keeps them so:
    /// an ingest begins under it.
    pub(crate) fn stale_ingests(&self, state: &State) -> Vec<String> {
        let live = self.ingests.lock();
        let names = match children(&self.dirs.ingest) {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!(%error, "cannot list partial downloads");
                return Vec::new();
            }
        };
        let names = names
            .into_iter()
            .map(|(name, _)| String::from_utf8_lossy(&name).into_owned());
        names
            .filter(|name| {
                let digest = format!("sha256:{name}");
                let is_live = live
                    .get(&digest)
                    .is_some_and(|arrival| arrival.strong_count() > 0);
                !is_live && (state.blobs.contains_key(&digest) || self.is_old(name.as_bytes()))
            })
            .collect()
    }

    fn is_old(&self, name: &[u8]) -> bool {
        let Ok(stat) = statat(&self.dirs.ingest, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return false;
        };
        let changed = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default());
        SystemTime::UNIX_EPOCH
            .checked_add(changed)
            .and_then(|changed| changed.elapsed().ok())
            .is_some_and(|age| age > MAX_AGE)
    }

    fn unlink_ingest(&self, name: &[u8]) {
        match unlinkat(&self.dirs.ingest, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                let name = String::from_utf8_lossy(name).into_owned();
                tracing::warn!(%name, %error, "cannot remove a partial download");
            }
        }
    }
}
