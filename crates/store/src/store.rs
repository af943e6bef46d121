//! The store's directories, its lock, recovery at open, and collection.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, statat,
};
use rustix::io::Errno;

use crate::blob::{Source, open_file};
use crate::busy::Busy;
use crate::disk::{children, open_directory, remove_tree, write_draft};
use crate::durable::{Mark, PAUSE, Syncer, boot_id, distrust_layers, mend_layers};
use crate::error::{Error, Result, invalid};
use crate::ingest::Ingests;
use crate::layer::{FormKind, Layer, Options, probe};
use crate::slots::Slots;
use crate::state::{Images, SnapshotRecord, State, describe, made, write_images};
use crate::trash::Trash;
use crate::{BlobReader, Digest, Store};

pub(crate) const IMAGES: &str = "images.json";
const LOCK: &str = "lock";
pub(crate) const LAYER_RECORD: &str = "layer.json";
pub(crate) const SNAPSHOT_RECORD: &str = "snapshot.json";

/// Longest record beside a layer or snapshot.
const MAX_RECORD: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) dirs: Dirs,
    pub(crate) options: Options,
    state: Mutex<State>,
    /// Held while the images change.
    writing: Mutex<()>,
    pub(crate) trash: Trash,
    pub(crate) syncer: Syncer,
    serial: AtomicU64,
    pub(crate) ingests: Ingests,
    pub(crate) slots: Arc<Slots>,
    /// Diff IDs that are being unpacked.
    pub(crate) unpacking: Busy,
    /// Bytes on disk of layers, by diff ID.
    measured: Mutex<HashMap<Digest, u64>>,
    /// Held by a check: one at a time.
    pub(crate) checking: Mutex<()>,
    removed: Hook,
    /// Holds the lock on the data root.
    _lock: File,
}

/// The right to change the images.
pub(crate) struct Turn<'a>(#[expect(dead_code, reason = "held")] MutexGuard<'a, ()>);

/// Whom to tell that layers were removed.
#[derive(Default)]
struct Hook(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl Hook {
    fn call(&self) {
        if let Some(tell) = self.0.get() {
            tell();
        }
    }
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hook")
            .field(&self.0.get().is_some())
            .finish()
    }
}

#[derive(Debug)]
pub(crate) struct Dirs {
    pub(crate) root: OwnedFd,
    pub(crate) tmp: OwnedFd,
    pub(crate) blobs: OwnedFd,
    pub(crate) layers: OwnedFd,
    pub(crate) snapshots: OwnedFd,
    pub(crate) ingest: OwnedFd,
}

impl Dirs {
    fn open(root: &Path) -> Result<Self> {
        let make = |name: &str, mode: u32| -> Result<OwnedFd> {
            let path = root.join(name);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&path)
                .map_err(Error::io("make directory", path.display()))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::empty())
                .map_err(Error::io("open directory", path.display()))
        };
        Ok(Self {
            // Others may pass (the mapped root of a user namespace must reach
            // its files), but not look.
            root: make("", 0o711)?,
            tmp: make("tmp", 0o700)?,
            blobs: make("blobs/sha256", 0o711)?,
            layers: make("layers/sha256", 0o711)?,
            snapshots: make("snapshots", 0o711)?,
            ingest: make("ingest/sha256", 0o700)?,
        })
    }
}

impl Store {
    /// Opens or makes a store; finishes or undoes what a crash interrupted.
    ///
    /// # Errors
    /// `Conflict` if another process has it open.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, probe::requested()?)
    }

    /// With new layers in that form, not the one that a probe finds.
    pub(crate) fn open_with(root: &Path, form: Option<FormKind>) -> Result<Self> {
        let dirs = Dirs::open(root)?;
        let root = root
            .canonicalize()
            .map_err(Error::io("find", root.display()))?;
        let lock = lock(&dirs.root, &root)?;
        let trash = dirs
            .tmp
            .try_clone()
            .and_then(Trash::new)
            .map_err(Error::io("start", "background removal"))?;
        let (mark, boot) = (Mark::read(&dirs.root)?, boot_id()?);
        let syncer = (dirs.root.try_clone())
            .and_then(|root| Syncer::new(root, dirs.tmp.try_clone()?, boot.clone(), PAUSE))
            .map_err(Error::io("start", "background syncing"))?;
        let devices = is_initial_user_namespace();
        let options = Options {
            form: form.unwrap_or_else(|| probe::find(&dirs.tmp, "probe", devices)),
            userxattr: false,
            devices,
        };
        let inner = Arc::new(Inner {
            root,
            dirs,
            options,
            state: Mutex::default(),
            writing: Mutex::default(),
            trash,
            syncer,
            serial: AtomicU64::new(0),
            ingests: Ingests::default(),
            slots: Slots::new(),
            unpacking: Busy::default(),
            measured: Mutex::default(),
            checking: Mutex::default(),
            removed: Hook::default(),
            _lock: lock,
        });
        inner.recover(mark, boot)?;
        Ok(Self { inner })
    }

    /// Has `tell` called whenever layers have been removed from their places:
    /// whoever mounted them lets them go, else their space never comes back.
    /// Called with the store locked: it must be short and not use the store.
    /// Only the first one set is used.
    pub fn on_layers_removed(&self, tell: impl Fn() + Send + Sync + 'static) {
        let _ = self.inner.removed.0.set(Box::new(tell));
    }
}

/// One engine per data root; the kernel drops the lock with the process.
fn lock(directory: &OwnedFd, root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let failed = || Error::io::<std::io::Error>("lock", path.display());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(
        openat(directory, LOCK, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| failed()(e.into()))?,
    );
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = (&mut file).take(20).read_to_string(&mut holder);
            return Err(Error::Conflict(format!(
                "data root {} is in use by another engine (process {})",
                root.display(),
                holder.trim()
            )));
        }
        Err(e) => return Err(failed()(e.into())),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(pid.as_bytes()))
        .map_err(failed())?;
    Ok(file)
}

/// Only there may device nodes be made.
fn is_initial_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn measured(&self) -> MutexGuard<'_, HashMap<Digest, u64>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for something new in `tmp/`.
    pub(crate) fn unique(&self, kind: &str) -> String {
        format!("{kind}-{}", self.serial.fetch_add(1, Ordering::Relaxed))
    }

    fn recover(self: &Arc<Self>, mut mark: Mark, boot: String) -> Result<()> {
        let durable = (mark.boot != boot).then_some(mark.publication);
        // Moved below one new name each, so that names are free again.
        let tmp =
            children(&self.dirs.tmp).map_err(Error::io("list", self.root.join("tmp").display()))?;
        for (name, _) in tmp {
            self.set_aside(&name)?;
        }
        let mut state = self.state();
        state.publication = mark.publication;
        state.blobs = self.list_blobs()?;
        state.layers = self.list_layers()?;
        state.snapshots = self.list_snapshots()?;
        self.read_pins(&mut state, durable)?;
        match open_file(&self.dirs.root, IMAGES) {
            Ok(mut file) => {
                let mut text = Vec::new();
                file.read_to_end(&mut text)
                    .map_err(Error::io("read", self.root.join(IMAGES).display()))?;
                state.read_images(&text, self, durable)?;
            }
            Err(Errno::NOENT) => {}
            Err(e) => return Err(Error::io("open", self.root.join(IMAGES).display())(e)),
        }
        if let Some(durable) = durable {
            distrust_layers(self, &mut state, durable);
        }
        self.collect(&mut state);
        self.sweep_ingests(&state);
        let last = state.publication;
        drop(state);
        if let Some(durable) = durable {
            mend_layers(self, durable);
            mark.boot = boot;
            mark.write(&self.dirs.root, &self.dirs.tmp)?;
        }
        if last > mark.publication {
            self.syncer.push(last);
        }
        Ok(())
    }

    fn set_aside(&self, name: &[u8]) -> Result<()> {
        let tmp = &self.dirs.tmp;
        loop {
            let old = format!("old-{}-{}", std::process::id(), self.unique("tmp"));
            match renameat(tmp, name, tmp, old.as_str()) {
                Ok(()) => self.trash.push(old),
                // It was an empty one of the names below, and taken.
                Err(Errno::NOENT) => {}
                // An engine with this process number had set that aside, and
                // was killed before it was removed.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR) => continue,
                Err(e) => return Err(Error::io("move", self.root.join("tmp").display())(e)),
            }
            return Ok(());
        }
    }

    fn list_blobs(&self) -> Result<HashMap<Digest, u64>> {
        let path = self.root.join("blobs");
        let failed = || Error::io("list", path.display());
        let mut blobs = HashMap::new();
        for (name, _) in children(&self.dirs.blobs).map_err(failed())? {
            let stat = statat(&self.dirs.blobs, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed())?;
            let digest = format!("sha256:{}", String::from_utf8_lossy(&name));
            blobs.insert(digest, u64::try_from(stat.st_size).unwrap_or_default());
        }
        Ok(blobs)
    }

    fn list_layers(&self) -> Result<HashMap<Digest, Layer>> {
        let path = self.root.join("layers");
        let failed = || Error::io("list", path.display());
        let mut layers = HashMap::new();
        for (name, _) in children(&self.dirs.layers).map_err(failed())? {
            let hex = String::from_utf8_lossy(&name).into_owned();
            match self.record(&self.dirs.layers, &name, LAYER_RECORD) {
                Ok(layer) => {
                    layers.insert(format!("sha256:{hex}"), layer);
                }
                Err(error) => {
                    tracing::warn!(layer = %hex, %error, "layer without its record is removed");
                    self.discard(&self.dirs.layers, &name);
                }
            }
        }
        Ok(layers)
    }

    fn list_snapshots(&self) -> Result<HashMap<String, SnapshotRecord>> {
        let path = self.root.join("snapshots");
        let failed = || Error::io("list", path.display());
        let mut snapshots = HashMap::new();
        for (name, kind) in children(&self.dirs.snapshots).map_err(failed())? {
            let Ok(key) = String::from_utf8(name) else {
                continue;
            };
            if kind == FileType::RegularFile {
                continue;
            }
            match self.record(&self.dirs.snapshots, key.as_bytes(), SNAPSHOT_RECORD) {
                Ok(snapshot) => {
                    snapshots.insert(key, snapshot);
                }
                // It may hold somebody's data: not ours to remove.
                Err(error) => {
                    tracing::warn!(%key, %error, "snapshot without its record is left alone")
                }
            }
        }
        Ok(snapshots)
    }

    fn record<T: serde::de::DeserializeOwned>(
        &self,
        parent: &OwnedFd,
        name: &[u8],
        file: &str,
    ) -> Result<T> {
        let failed = || Error::io("read", format!("{}/{file}", String::from_utf8_lossy(name)));
        let directory = open_directory(parent.as_fd(), name).map_err(failed())?;
        let mut text = Vec::new();
        open_file(&directory, file)
            .map_err(failed())?
            .take(MAX_RECORD)
            .read_to_end(&mut text)
            .map_err(Error::io("read", file))?;
        serde_json::from_slice(&text).or_else(|e| invalid(format!("{file} is damaged: {e}")))
    }

    /// Hides `name` at once and deletes it in the background.
    pub(crate) fn discard(&self, parent: &OwnedFd, name: &[u8]) {
        let gone = self.unique("gone");
        match renameat(parent, name, &self.dirs.tmp, gone.as_str()) {
            Ok(()) => self.trash.push(gone),
            Err(Errno::NOENT) => {}
            Err(error) => {
                let name = String::from_utf8_lossy(name).into_owned();
                tracing::warn!(%name, %error, "cannot move out of the store");
            }
        }
    }

    /// Removes every blob and layer that no image, snapshot or operation in
    /// flight stands on. A trace, not a count: it cannot drift.
    pub(crate) fn collect(&self, state: &mut State) {
        let (blobs, layers) = state.unreachable();
        for digest in blobs {
            state.blobs.remove(&digest);
            self.discard(&self.dirs.blobs, hex(&digest).as_bytes());
        }
        let any = !layers.is_empty();
        for digest in layers {
            state.layers.remove(&digest);
            self.discard(&self.dirs.layers, hex(&digest).as_bytes());
        }
        if any {
            self.tell_removed();
        }
    }

    /// To be taken before the state by whoever changes the images.
    pub(crate) fn turn(&self) -> Turn<'_> {
        let lock = self.writing.lock();
        Turn(lock.unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the images: on disk, then in memory. The state is not locked
    /// while the new text reaches the disk: that may take long, and containers
    /// are started meanwhile. Nobody else changes the images then, but what is
    /// known of them may change (their use, their layers), so `change` is made
    /// again.
    pub(crate) fn update_images<'a>(
        &'a self,
        _turn: &Turn<'_>,
        state: MutexGuard<'a, State>,
        change: impl Fn(&mut Images),
    ) -> Result<MutexGuard<'a, State>> {
        let mut images = state.images.clone();
        drop(state);
        change(&mut images);
        let failed = || Error::io("write", self.root.join(IMAGES).display().to_string());
        let text = write_images(&images)?;
        let draft = write_draft(IMAGES, &self.dirs.tmp, &text).map_err(failed())?;
        let mut state = self.state();
        renameat(&self.dirs.tmp, draft.as_str(), &self.dirs.root, IMAGES)
            .map_err(std::io::Error::from)
            .map_err(failed())?;
        crash_point("images");
        change(&mut state.images);
        Ok(state)
    }

    /// The directory of a layer: its record and content.
    pub(crate) fn open_layer(&self, diff_id: &str) -> rustix::io::Result<OwnedFd> {
        open_directory(self.dirs.layers.as_fd(), hex(diff_id).as_bytes())
    }

    /// After a layer came back: the sizes of the images that have it.
    pub(crate) fn describe_again(&self, state: &mut State, diff_id: &Digest) -> Result<()> {
        let source = StoredBlobs {
            inner: self,
            sizes: &state.blobs,
            layers: &state.layers,
        };
        for record in state.images.values_mut() {
            if record.layers.contains(diff_id) {
                *record = Arc::new(describe(record.saved.clone(), &state.layers, &source)?);
            }
        }
        Ok(())
    }

    /// After what is here of an image changed.
    pub(crate) fn describe_image(&self, state: &mut State, id: &Digest) -> Result<()> {
        let source = StoredBlobs {
            inner: self,
            sizes: &state.blobs,
            layers: &state.layers,
        };
        if let Some(record) = state.images.get_mut(id) {
            *record = Arc::new(describe(record.saved.clone(), &state.layers, &source)?);
        }
        Ok(())
    }

    /// Layers have left their places: whoever holds one may let it go.
    pub(crate) fn tell_removed(&self) {
        self.removed.call();
    }

    /// Where the content of a layer is.
    pub(crate) fn layer_path(&self, diff_id: &str, form: FormKind) -> PathBuf {
        self.root
            .join("layers/sha256")
            .join(hex(diff_id))
            .join(form.content())
    }
}

/// The file name for a digest that was checked when it entered the store.
pub(crate) fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// The blobs that are visible.
pub(crate) struct StoredBlobs<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) sizes: &'a HashMap<Digest, u64>,
    pub(crate) layers: &'a HashMap<Digest, Layer>,
}

impl Source for StoredBlobs<'_> {
    fn size(&self, digest: &str) -> Option<u64> {
        self.sizes.get(digest).copied()
    }

    fn made(&self, digest: &str) -> Option<u64> {
        made(self.layers, digest)
    }

    fn open(&self, digest: &str) -> Result<BlobReader> {
        let file = open_file(&self.inner.dirs.blobs, hex(digest));
        Ok(file.map_err(Error::io("open blob", digest))?.into())
    }
}

/// A directory of one operation below `tmp/`, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Work {
    inner: Arc<Inner>,
    name: String,
    pub(crate) fd: OwnedFd,
}

impl Work {
    pub(crate) fn new(inner: &Arc<Inner>, kind: &str) -> Result<Self> {
        let name = inner.unique(kind);
        let failed = || Error::io("make directory", format!("tmp/{name} of the store"));
        mkdirat(&inner.dirs.tmp, name.as_str(), Mode::RWXU).map_err(failed())?;
        let fd = open_directory(inner.dirs.tmp.as_fd(), name.as_bytes()).map_err(failed())?;
        Ok(Self {
            inner: inner.clone(),
            name,
            fd,
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Nearly always empty by now; a failed load leaves more.
        self.inner.trash.push(std::mem::take(&mut self.name));
    }
}

/// Replaces what a crash left under the name of something that is not there.
pub(crate) fn publish(
    from: &OwnedFd,
    name: &str,
    to: &OwnedFd,
    as_name: &str,
) -> rustix::io::Result<()> {
    match renameat(from, name, to, as_name) {
        Err(Errno::EXIST | Errno::NOTEMPTY) => {
            remove_tree(to.as_fd(), as_name.as_bytes())?;
            renameat(from, name, to, as_name)
        }
        other => other,
    }
}

/// Where a test has the process killed, to see what the next open finds.
pub(crate) fn crash_point(at: &str) {
    #[cfg(test)]
    if std::env::var("BERTH_STORE_TEST_CRASH").is_ok_and(|point| point == at) {
        crate::testing::kill_self();
    }
    let _ = at;
}

#[cfg(test)]
mod tests {
    use crate::Store;
    use crate::testing::assert_empty;

    /// In a container an engine has the same number each time.
    #[test]
    fn leftovers_of_a_process_with_our_number_do_not_keep_us_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let tmp = dir.path().join("tmp");
        for n in 0..30 {
            for name in [
                format!("old-{}-tmp-{n}", std::process::id()),
                format!("load-{n}"),
            ] {
                std::fs::create_dir_all(tmp.join(name).join("deep")).unwrap();
            }
        }
        let store = Store::open(dir.path()).unwrap();
        assert_empty(&store, dir.path());
    }

    /// A disk may take its time; containers are started meanwhile.
    #[test]
    fn the_store_is_free_while_its_images_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let turn = store.inner.turn();
        let state = store.inner.state();
        let calls = std::cell::Cell::new(0);
        let written = store.inner.update_images(&turn, state, |_| {
            if calls.replace(calls.get() + 1) == 0 {
                assert!(store.inner.state.try_lock().is_ok());
            }
        });
        drop(written.unwrap());
        assert_eq!(calls.get(), 2);
    }
}
