//! The registry's root: blobs shared by all repositories, and small files per
//! repository that say which blobs, manifests and tags it has.
//!
//! ```text
//! lock                                   process of the one server
//! tmp/                                   drafts; emptied at the start
//! blobs/<algorithm>/<hex>                content, manifests included
//! repositories/<name>/_blobs/<algorithm>/<hex>       empty: has this blob
//! repositories/<name>/_manifests/<algorithm>/<hex>   JSON: its media type
//! repositories/<name>/_tags/<tag>                    a digest
//! repositories/<name>/_referrers/<algorithm>/<hex>/<algorithm>-<hex>
//!                                        JSON: descriptor of what refers to it
//! repositories/<name>/_uploads/<id>      bytes that have arrived
//! ```
//!
//! Every file appears by rename or is empty, content before what names it, so
//! a kill at any moment leaves the old or the new state.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::names::{Algorithm, Digest};

pub(crate) const BLOBS: &str = "_blobs";
pub(crate) const MANIFESTS: &str = "_manifests";
pub(crate) const TAGS: &str = "_tags";
pub(crate) const REFERRERS: &str = "_referrers";
pub(crate) const UPLOADS: &str = "_uploads";

/// Locks that repositories share by their names.
const STRIPES: usize = 64;

/// Why a root cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is in use by another registry (process {holder}): end that one, or choose another --root", root.display())]
    InUse { root: PathBuf, holder: String },
}

#[derive(Debug)]
pub(crate) struct Storage {
    root: PathBuf,
    serial: AtomicU64,
    /// Who adds or names something reads; collection writes while it removes.
    gate: RwLock<()>,
    /// While a collection runs: what was named since it began.
    named: Mutex<Option<HashSet<Digest>>>,
    stripes: Vec<Mutex<()>>,
    /// Bytes in `blobs/`.
    bytes: AtomicU64,
    _lock: File,
}

impl Storage {
    /// Opens or makes a root.
    ///
    /// # Errors
    /// `InUse` if another process serves it.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { what, path, source }
        };
        make_dir(root).map_err(failed("make directory", root))?;
        let root = root.canonicalize().map_err(failed("find", root))?;
        let lock = lock(&root)?;
        let tmp = root.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("empty", &tmp)(error));
            }
            _ => {}
        }
        for name in ["tmp", "repositories"] {
            let path = root.join(name);
            make_dir(&path).map_err(failed("make directory", &path))?;
        }
        for algorithm in Algorithm::ALL {
            let path = root.join("blobs").join(algorithm.name());
            make_dir(&path).map_err(failed("make directory", &path))?;
        }
        let storage = Self {
            root,
            serial: AtomicU64::new(0),
            gate: RwLock::new(()),
            named: Mutex::new(None),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            bytes: AtomicU64::new(0),
            _lock: lock,
        };
        let bytes = storage
            .count_bytes()
            .map_err(failed("read", &storage.root))?;
        storage.bytes.store(bytes, Ordering::Relaxed);
        Ok(storage)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes of all blobs.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_bytes(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn count_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for algorithm in Algorithm::ALL {
            for entry in fs::read_dir(self.root.join("blobs").join(algorithm.name()))? {
                bytes += entry?.metadata()?.len();
            }
        }
        Ok(bytes)
    }

    /// Held by whoever adds or names something.
    pub(crate) fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while something unused is removed.
    pub(crate) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn named(&self) -> MutexGuard<'_, Option<HashSet<Digest>>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a collection that runs that this is in use. Call within
    /// [`Self::enter`].
    pub(crate) fn use_now(&self, digest: &Digest) {
        if let Some(named) = &mut *self.named() {
            named.insert(digest.clone());
        }
    }

    /// One change of a repository's tags and manifests at a time.
    pub(crate) fn change(&self, name: &str) -> MutexGuard<'_, ()> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or_default();
        self.stripes[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root
            .join("blobs")
            .join(digest.algorithm.name())
            .join(&digest.hex)
    }

    /// `repositories/<name>/<kind>`; the name is a valid one.
    pub(crate) fn folder(&self, name: &str, kind: &str) -> PathBuf {
        self.root.join("repositories").join(name).join(kind)
    }

    pub(crate) fn record_path(&self, name: &str, kind: &str, digest: &Digest) -> PathBuf {
        self.folder(name, kind)
            .join(digest.algorithm.name())
            .join(&digest.hex)
    }

    /// A name for a draft.
    pub(crate) fn draft(&self) -> PathBuf {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(format!("draft-{serial}"))
    }

    /// Replaces a small file, whole or not at all, also when the power fails.
    pub(crate) fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let draft = self.draft();
        let result = new_file(&draft).and_then(|mut file| {
            file.write_all(content)?;
            file.sync_data()?;
            rename(&draft, path)
        });
        if result.is_err() {
            let _ = fs::remove_file(&draft);
        }
        result
    }

    /// Moves a finished and verified draft to its place among the blobs. Call
    /// within [`Self::enter`].
    pub(crate) fn adopt(&self, draft: &Path, digest: &Digest, size: u64) -> io::Result<()> {
        self.use_now(digest);
        let path = self.blob_path(digest);
        if path.exists() {
            return fs::remove_file(draft);
        }
        rename(draft, &path)?;
        self.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    /// Length of a blob of this repository. What was said to be there stays for
    /// the grace time of the collection.
    pub(crate) fn blob_size(&self, name: &str, digest: &Digest) -> io::Result<Option<u64>> {
        let _gate = self.enter();
        if !renew(&self.record_path(name, BLOBS, digest))? {
            return Ok(None);
        }
        self.use_now(digest);
        Ok(exists(&self.blob_path(digest))?.map(|meta| meta.len()))
    }

    pub(crate) fn open_blob(&self, name: &str, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        if self.blob_size(name, digest)?.is_none() {
            return Ok(None);
        }
        match File::open(self.blob_path(digest)) {
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says that a repository has a blob. Call within [`Self::enter`].
    pub(crate) fn link_blob(&self, name: &str, digest: &Digest) -> io::Result<()> {
        self.use_now(digest);
        let path = self.record_path(name, BLOBS, digest);
        if renew(&path)? {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            make_dir(parent)?;
        }
        new_file(&path).map(drop)
    }

    /// Whether the repository had it. The content stays until the collection.
    pub(crate) fn unlink_blob(&self, name: &str, digest: &Digest) -> io::Result<bool> {
        let _gate = self.enter();
        remove(&self.record_path(name, BLOBS, digest))
    }

    /// Takes a blob over from another repository: whether it has it.
    pub(crate) fn mount(&self, name: &str, digest: &Digest, from: &str) -> io::Result<bool> {
        let _gate = self.enter();
        if !renew(&self.record_path(from, BLOBS, digest))?
            || exists(&self.blob_path(digest))?.is_none()
        {
            return Ok(false);
        }
        self.link_blob(name, digest)?;
        Ok(true)
    }

    /// The same from whichever repository has it.
    pub(crate) fn mount_any(&self, name: &str, digest: &Digest) -> io::Result<bool> {
        for from in self.all_folders()? {
            if self.mount(name, digest, &from)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A repository is there once it has a manifest.
    pub(crate) fn has_repository(&self, name: &str) -> io::Result<bool> {
        let folder = self.folder(name, MANIFESTS);
        for algorithm in Algorithm::ALL {
            if !list(&folder.join(algorithm.name()))?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All repositories that have a manifest, sorted.
    pub(crate) fn repositories(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for name in self.all_folders()? {
            if self.has_repository(&name)? {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The names of all folders that may be repositories, parents first.
    pub(crate) fn all_folders(&self) -> io::Result<Vec<String>> {
        let top = self.root.join("repositories");
        let mut pending = vec![String::new()];
        let mut names = Vec::new();
        while let Some(parent) = pending.pop() {
            for child in list(&top.join(&parent))? {
                if child.starts_with('_') {
                    continue;
                }
                let name = match parent.as_str() {
                    "" => child,
                    parent => format!("{parent}/{child}"),
                };
                pending.push(name.clone());
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The digests that are named by files of a folder such as [`BLOBS`].
    pub(crate) fn digests(&self, name: &str, kind: &str) -> io::Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            for hex in list(&self.folder(name, kind).join(algorithm.name()))? {
                digests.extend(Digest::from_parts(algorithm, &hex));
            }
        }
        Ok(digests)
    }
}

/// One server per root; the kernel drops the lock with the process.
fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join("lock");
    let failed = |source: io::Error| Error::Io {
        what: "lock",
        path: path.clone(),
        source,
    };
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = (&mut file).take(20).read_to_string(&mut holder);
            return Err(Error::InUse {
                root: root.to_owned(),
                holder: holder.trim().to_owned(),
            });
        }
        Err(error) => return Err(failed(error.into())),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

pub(crate) fn new_file(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Renames into a folder that may not be there yet.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = to.parent() {
                make_dir(parent)?;
            }
            fs::rename(from, to)
        }
        other => other,
    }
}

pub(crate) fn exists(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The content of a small file, if there is one.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it was there.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Names in a folder; none if it is not there.
pub(crate) fn list(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        // Another name than ours is nobody's.
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// Sets the time of a file to now: whether it is there.
pub(crate) fn renew(path: &Path) -> io::Result<bool> {
    match File::options().write(true).open(path) {
        Ok(file) => {
            file.set_modified(SystemTime::now())?;
            Ok(true)
        }
        Err(error) if absent(&error) => Ok(false),
        // Served from a disk that nobody writes to, collections included.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            exists(path).map(|meta| meta.is_some())
        }
        Err(error) => Err(error),
    }
}
