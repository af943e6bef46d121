//! Writable parts of root filesystems: `snapshots/<key>/{upper,work}`.
//!
//! On the path of every container start, so: few calls, nothing synced. A
//! snapshot is complete in `tmp/` before a rename gives it its name.

use std::collections::HashSet;
use std::io::Write;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, Uid, chmodat, chownat, mkdirat, renameat};
use rustix::io::Errno;

use crate::blob::hex_of;
use crate::disk::{create_file, open_directory, tree_size};
use crate::error::{Error, Result, invalid};
use crate::layer::{FormKind, Root};
use crate::state::{SnapshotRecord, State};
use crate::store::{Inner, SNAPSHOT_RECORD};
use crate::{Digest, Image, LayerLocation, Snapshot, Store};

const MAX_KEY: usize = 128;

impl Store {
    /// Makes the writable part of a root filesystem on top of an image.
    /// `mapped_root` owns the upper directory (0, 0 without user namespaces).
    ///
    /// # Errors
    /// `Conflict` if the key is taken, `NotFound` if the image's layers are gone.
    pub fn create_snapshot(
        &self,
        key: &str,
        image: &Image,
        mapped_root: (u32, u32),
    ) -> Result<Snapshot> {
        self.make_snapshot(key, mapped_root, |state| plan(state, image))
    }

    /// A writable root filesystem on these layers, bottom first; see
    /// [`Store::create_snapshot`]. None of them = an empty one.
    ///
    /// # Errors
    /// `Conflict` if the key is taken, `NotFound` if a layer is gone.
    pub fn create_snapshot_on(
        &self,
        key: &str,
        layers: &[Digest],
        mapped_root: (u32, u32),
    ) -> Result<Snapshot> {
        self.make_snapshot(key, mapped_root, |state| stack(state, layers))
    }

    fn make_snapshot(
        &self,
        key: &str,
        mapped_root: (u32, u32),
        plan: impl FnOnce(&State) -> Result<(SnapshotRecord, Root)>,
    ) -> Result<Snapshot> {
        check_key(key)?;
        let inner = &*self.inner;
        // Named in memory first: from here on its layers are kept.
        let (record, root) = {
            let state = &mut *inner.state();
            if state.snapshots.contains_key(key) {
                return Err(Error::Conflict(format!("snapshot {key} exists")));
            }
            let (record, root) = plan(state)?;
            state.snapshots.insert(key.to_owned(), record.clone());
            (record, root)
        };
        match make(inner, key, &record, root, mapped_root) {
            Ok(()) => Ok(describe(inner, &inner.state(), key, &record)),
            Err(error) => {
                inner.state().snapshots.remove(key);
                Err(error)
            }
        }
    }

    /// # Errors
    /// `NotFound` if there is none of that key.
    pub fn snapshot(&self, key: &str) -> Result<Snapshot> {
        let state = self.inner.state();
        match state.snapshots.get(key) {
            Some(record) => Ok(describe(&self.inner, &state, key, record)),
            None => Err(missing(key)),
        }
    }

    /// Hides it at once (rename into tmp); the files go in the background.
    ///
    /// # Errors
    /// `NotFound` if there is none of that key.
    pub fn remove_snapshot(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let inner = &*self.inner;
        let gone = inner.unique("snapshot");
        match renameat(&inner.dirs.snapshots, key, &inner.dirs.tmp, gone.as_str()) {
            Ok(()) => inner.trash.push(gone),
            Err(Errno::NOENT) => return Err(missing(key)),
            Err(e) => return Err(Error::io("remove snapshot", key)(e)),
        }
        let state = &mut *inner.state();
        if let Some(record) = state.snapshots.remove(key)
            && record.layers.iter().any(|layer| !state.is_used(layer))
        {
            inner.collect(state);
        }
        Ok(())
    }

    /// Where the layers of an image are, topmost first, down to the first that
    /// hides all below it. They stay as long as the image or a snapshot does.
    ///
    /// # Errors
    /// `NotFound` if they are gone.
    pub fn layers(&self, image: &Image) -> Result<Vec<LayerLocation>> {
        let state = self.inner.state();
        let (record, _) = plan(&state, image)?;
        Ok(locate(&self.inner, &state, &record))
    }

    /// Where these layers (bottom first) are, topmost first, as
    /// [`Store::layers`] says of an image's.
    ///
    /// # Errors
    /// `NotFound` if one is gone.
    pub fn locate_layers(&self, layers: &[Digest]) -> Result<Vec<LayerLocation>> {
        let state = self.inner.state();
        let (record, _) = stack(&state, layers)?;
        Ok(locate(&self.inner, &state, &record))
    }

    /// Bytes in the files of each layer of a snapshot, in the order of
    /// [`Snapshot::layers`].
    ///
    /// # Errors
    /// `NotFound` if there is none of that key.
    pub fn snapshot_layer_sizes(&self, key: &str) -> Result<Vec<u64>> {
        let state = self.inner.state();
        let record = state.snapshots.get(key).ok_or_else(|| missing(key))?;
        let size = |diff_id| state.layers.get(diff_id).map_or(0, |layer| layer.size);
        Ok(record.layers.iter().map(size).collect())
    }

    /// Keys of all snapshots, in order.
    pub fn snapshot_keys(&self) -> Result<Vec<String>> {
        let mut keys: Vec<_> = self.inner.state().snapshots.keys().cloned().collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Bytes in the writable part.
    pub fn snapshot_size(&self, key: &str) -> Result<u64> {
        check_key(key)?;
        let failed = || Error::io("measure snapshot", key);
        let path = format!("{key}/upper");
        match open_directory(self.inner.dirs.snapshots.as_fd(), path.as_bytes()) {
            Ok(upper) => tree_size(&upper).map_err(failed()),
            Err(Errno::NOENT) => Err(missing(key)),
            Err(e) => Err(failed()(e)),
        }
    }
}

fn plan(state: &State, image: &Image) -> Result<(SnapshotRecord, Root)> {
    if (state.images.get(&image.id)).is_some_and(|record| record.is_artifact) {
        return invalid(format!("{} is an artifact, not an image to run", image.id));
    }
    stack(state, image.config.rootfs().diff_ids()).map_err(|error| match error {
        Error::NotFound(_) => Error::NotFound(format!("No such image: {}", image.id)),
        other => other,
    })
}

/// Of layers with the lowest first: the topmost first, down to the first that
/// hides all below it; and what the container's root directory looks like.
fn stack(state: &State, diff_ids: &[Digest]) -> Result<(SnapshotRecord, Root)> {
    let mut layers = Vec::new();
    let mut seen = HashSet::new();
    let mut root = None;
    for diff_id in diff_ids.iter().rev() {
        hex_of(diff_id)?;
        // Further down it shows nothing that it does not show here, and overlayfs
        // takes a layer only once (ELOOP).
        if !seen.insert(diff_id) {
            continue;
        }
        let Some(layer) = state.layers.get(diff_id) else {
            return Err(Error::NotFound(format!("No such layer: {diff_id}")));
        };
        root.get_or_insert(layer.root);
        layers.push(diff_id.clone());
        if layer.opaque {
            break;
        }
    }
    Ok((SnapshotRecord { layers }, root.unwrap_or_default()))
}

fn make(
    inner: &Inner,
    key: &str,
    record: &SnapshotRecord,
    root: Root,
    mapped: (u32, u32),
) -> Result<()> {
    let name = inner.unique("create");
    let made = fill(inner, &name, record, root, mapped).and_then(|()| {
        Ok(renameat(
            &inner.dirs.tmp,
            name.as_str(),
            &inner.dirs.snapshots,
            key,
        )?)
    });
    made.map_err(|source| {
        inner.trash.push(name);
        Error::Io {
            action: "make snapshot",
            path: key.to_owned(),
            source,
        }
    })
}

fn fill(
    inner: &Inner,
    name: &str,
    record: &SnapshotRecord,
    root: Root,
    (uid, gid): (u32, u32),
) -> std::io::Result<()> {
    // Others may pass to `upper`, whose own mode then decides.
    let tmp = &inner.dirs.tmp;
    mkdirat(tmp, name, Mode::from_raw_mode(0o711))?;
    let directory = open_directory(tmp.as_fd(), name.as_bytes())?;
    for (part, mode, owner) in [
        (
            "upper",
            root.mode,
            (uid.saturating_add(root.uid), gid.saturating_add(root.gid)),
        ),
        ("work", 0o700, (uid, gid)),
    ] {
        mkdirat(&directory, part, Mode::from_raw_mode(mode))?;
        if owner != (0, 0) {
            chownat(
                &directory,
                part,
                Some(Uid::from_raw(owner.0)),
                Some(Gid::from_raw(owner.1)),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
    }
    // What mkdir made of it depends on the umask.
    chmodat(
        &directory,
        "upper",
        Mode::from_raw_mode(root.mode),
        AtFlags::empty(),
    )?;
    create_file(&directory, SNAPSHOT_RECORD)?.write_all(&serde_json::to_vec(record)?)
}

fn locate(inner: &Inner, state: &State, record: &SnapshotRecord) -> Vec<LayerLocation> {
    let layers = record.layers.iter().map(|diff_id| {
        let form = state
            .layers
            .get(diff_id)
            .map_or(FormKind::Directory, |layer| layer.form);
        let path = inner.layer_path(diff_id, form);
        match form {
            FormKind::Directory => LayerLocation::Directory(path),
            FormKind::Erofs => LayerLocation::Erofs(path),
        }
    });
    layers.collect()
}

fn describe(inner: &Inner, state: &State, key: &str, record: &SnapshotRecord) -> Snapshot {
    let at = inner.root.join("snapshots").join(key);
    // `index=off` as Docker: no file handles, so layers may be on any file
    // system. No redirects and no metadata-only copies: what is in `upper` can
    // be read without overlayfs (commit, diff, size), and none is followed.
    let mut options = vec![
        "index=off".to_owned(),
        "metacopy=off".to_owned(),
        "redirect_dir=nofollow".to_owned(),
    ];
    if inner.options.userxattr {
        options.push("userxattr".to_owned());
    }
    Snapshot {
        layers: locate(inner, state, record),
        upper: at.join("upper"),
        work: at.join("work"),
        options,
    }
}

/// Keys become file names.
pub(crate) fn check_key(key: &str) -> Result<()> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if key.is_empty() || key.len() > MAX_KEY || key.starts_with('.') || !key.bytes().all(is_plain) {
        return invalid(format!("snapshot key {key:?} is not a plain file name"));
    }
    Ok(())
}

fn missing(key: &str) -> Error {
    Error::NotFound(format!("No such snapshot: {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tar, docker_archive, load};

    /// Builders put the same empty layer into an image again and again.
    #[test]
    fn a_layer_that_comes_twice_is_mounted_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let empty = Tar::default().dir("d", 0o755).finish();
        let file = Tar::default().file("f", b"1").finish();
        let layers = [empty.clone(), file, empty.clone(), empty];
        let image = load(&store, &docker_archive(&["a"], &layers))
            .unwrap()
            .remove(0);
        let snapshot = store.create_snapshot("c", &image, (0, 0)).unwrap();
        assert_eq!(snapshot.layers.len(), 2);
        assert_eq!(store.layers(&image).unwrap(), snapshot.layers);
        assert_eq!(snapshot.read_file("f", 9).unwrap(), b"1");
        // Still known as made on that image.
        assert_eq!(store.prune(&|_| true).unwrap().0, []);
    }
}
