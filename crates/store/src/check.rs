//! Finding damage, and mending what can be mended from what is here.
//!
//! Safe while the store is in use: everything is looked at again under the
//! store's lock before it is called damaged or changed.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, TryLockError};

use rustix::io::Errno;

use crate::blob::{Tee, open_file};
use crate::disk::{children, open_directory};
use crate::error::{Error, Result, invalid};
use crate::layer::{self, Layer};
use crate::reference::familiar;
use crate::regenerate::Original;
use crate::state::{Record, State, read_saved};
use crate::store::{IMAGES, Inner, LAYER_RECORD, Work, hex, publish};
use crate::unpack::{unpack_blob, write_record};
use crate::{Digest, Store};

/// Something that `check` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// "blob sha256:…", "layer sha256:…", "image …", "file …".
    pub what: String,
    pub problem: String,
    /// What repair did or would do.
    pub remedy: String,
    pub repaired: bool,
}

/// What a check came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Blobs, layers, images and snapshots that were looked at.
    pub checked: u64,
    pub damage: Vec<Damage>,
}

impl Store {
    /// Verifies every blob, layer, record and reference against each other.
    /// With `repair`, mends what can be mended from what is here (a layer from
    /// its blob; a damaged blob from nothing: it is removed with the images
    /// that need it, which are named). Reads all blobs, so it takes its time.
    ///
    /// # Errors
    /// `Conflict` while another check runs.
    pub fn check(&self, repair: bool) -> Result<Report> {
        let _one = match self.inner.checking.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Conflict(
                    "a check of the store is running already".to_owned(),
                ));
            }
        };
        let mut check = Check {
            inner: &self.inner,
            repair,
            report: Report::default(),
            bad: HashSet::new(),
            given: HashSet::new(),
        };
        check.images_file()?;
        check.blobs()?;
        check.layers()?;
        check.strays()?;
        check.ingests()?;
        Ok(check.report)
    }
}

struct Check<'a> {
    inner: &'a Arc<Inner>,
    repair: bool,
    report: Report,
    /// Blobs from which nothing can be made again.
    bad: HashSet<Digest>,
    /// Layers whose streams were made and are right.
    given: HashSet<Digest>,
}

impl Check<'_> {
    fn found(&mut self, what: String, problem: String, remedy: String, repaired: bool) {
        tracing::warn!(%what, %problem, repaired, "damage in the store");
        self.report.damage.push(Damage {
            what,
            problem,
            remedy,
            repaired,
        });
    }

    /// `images.json` against what is known of the images.
    fn images_file(&mut self) -> Result<()> {
        let inner = self.inner;
        let turn = inner.turn();
        let state = inner.state();
        self.report.checked += state.images.len() as u64;
        let problem = match read_images(inner) {
            Err(error) => Some(error.to_string()),
            Ok(saved) => {
                let on_disk: BTreeSet<_> = saved
                    .iter()
                    .map(|saved| key(&saved.id, &saved.names))
                    .collect();
                let known: BTreeSet<_> = (state.images.values())
                    .map(|record| key(&record.saved.id, &record.saved.names))
                    .collect();
                (on_disk != known).then(|| "it does not say what the engine knows".to_owned())
            }
        };
        // Before the first image there is no file.
        let Some(problem) = problem.filter(|_| !state.images.is_empty()) else {
            return Ok(());
        };
        if self.repair {
            drop(inner.update_images(&turn, state, |_| ())?);
        }
        self.found(
            format!("file {IMAGES}"),
            problem,
            "write it again".to_owned(),
            self.repair,
        );
        Ok(())
    }

    fn blobs(&mut self) -> Result<()> {
        let mut digests: BTreeSet<Digest> = BTreeSet::new();
        {
            let state = self.inner.state();
            digests.extend(state.blobs.keys().cloned());
            digests.extend(
                state
                    .images
                    .values()
                    .flat_map(|record| record.blobs.clone()),
            );
        }
        for digest in digests {
            self.report.checked += 1;
            let giver = {
                let state = self.inner.state();
                let layer = state.layers.get(&digest);
                layer
                    .filter(|_| !state.blobs.contains_key(&digest))
                    .cloned()
            };
            match verify_blob(self.inner, &digest, giver.as_ref()) {
                Verdict::Good if giver.is_some() => drop(self.given.insert(digest)),
                Verdict::Good => {}
                Verdict::Unreadable(problem) => self.found(
                    format!("blob {digest}"),
                    problem,
                    "check the disk; nothing is removed for what may pass".to_owned(),
                    false,
                ),
                Verdict::Bad(problem) => self.bad_blob(&digest, problem)?,
            }
        }
        Ok(())
    }

    /// Nothing can be made again from nothing: it goes with what needs it.
    fn bad_blob(&mut self, digest: &Digest, problem: String) -> Result<()> {
        let inner = self.inner;
        let turn = inner.turn();
        let state = inner.state();
        let users: Vec<Arc<Record>> = (state.images.values())
            .filter(|record| record.blobs.contains(digest))
            .cloned()
            .collect();
        if !state.blobs.contains_key(digest) && users.is_empty() {
            // Removed while it was read.
            return Ok(());
        }
        self.bad.insert(digest.clone());
        let remedy = if users.is_empty() {
            "remove it; no image needs it".to_owned()
        } else {
            let names: Vec<_> = users.iter().map(|record| name(record)).collect();
            format!(
                "remove it with the images that need it, to be pulled or loaded again: {}",
                names.join(", ")
            )
        };
        if self.repair {
            let mut guard = inner.update_images(&turn, state, |images| {
                for record in &users {
                    images.remove(&record.saved.id);
                }
            })?;
            let state = &mut *guard;
            if state.blobs.remove(digest).is_some() {
                inner.discard(&inner.dirs.blobs, hex(digest).as_bytes());
            } else {
                // Its layer gave it, and goes as well.
                inner.unpin_layer(state, digest)?;
            }
            inner.collect(state);
        }
        self.found(format!("blob {digest}"), problem, remedy, self.repair);
        Ok(())
    }

    fn layers(&mut self) -> Result<()> {
        let mut diff_ids: BTreeSet<Digest> = BTreeSet::new();
        {
            let state = self.inner.state();
            diff_ids.extend(state.layers.keys().cloned());
            diff_ids.extend(
                state
                    .images
                    .values()
                    .flat_map(|record| record.layers.clone()),
            );
            let snapshots = state.snapshots.values();
            diff_ids.extend(snapshots.flat_map(|snapshot| snapshot.layers.clone()));
        }
        for diff_id in diff_ids {
            self.report.checked += 1;
            let known = self.inner.state().layers.get(&diff_id).cloned();
            let problem = match known {
                Some(layer) => {
                    let deep = !self.given.contains(&diff_id);
                    verify_layer(self.inner, &diff_id, &layer, deep)
                }
                None => Some("it is missing".to_owned()),
            };
            if let Some(problem) = problem {
                self.bad_layer(&diff_id, problem)?;
            }
        }
        Ok(())
    }

    fn bad_layer(&mut self, diff_id: &Digest, problem: String) -> Result<()> {
        let (blob, users, snapshots, pinned) = {
            let state = self.inner.state();
            let is_used = state.is_used(diff_id);
            if !is_used {
                // Removed while it was looked at.
                return Ok(());
            }
            (
                self.source(&state, diff_id),
                users(&state, diff_id),
                standing_on(&state, diff_id),
                state.pins.layers().any(|layer| layer == diff_id),
            )
        };
        let what = format!("layer {diff_id}");
        if blob.is_none() && pinned && users.is_empty() && snapshots.is_empty() {
            if self.repair {
                let state = &mut *self.inner.state();
                self.inner.unpin_layer(state, diff_id)?;
                self.inner.collect(state);
            }
            let remedy = "remove it from the build cache: the next build makes it again";
            self.found(what, problem, remedy.to_owned(), self.repair);
            return Ok(());
        }
        let Some(blob) = blob else {
            let remedy = format!(
                "nothing is here to make it from: pull or load again an image that has it{}",
                needed_by(&users, &snapshots)
            );
            self.found(what, problem, remedy, false);
            return Ok(());
        };
        let remedy = format!(
            "unpack it again from blob {blob}{}",
            needed_by(&users, &snapshots)
        );
        let (repaired, remedy) = match self
            .repair
            .then(|| unpack_again(self.inner, &blob, diff_id))
        {
            None => (false, remedy),
            Some(Ok(())) => (true, remedy),
            Some(Err(error)) => (false, format!("{remedy}; that failed: {error}")),
        };
        self.found(what, problem, remedy, repaired);
        Ok(())
    }

    /// A good blob that becomes that layer.
    fn source(&self, state: &State, diff_id: &Digest) -> Option<Digest> {
        let manifests = state
            .images
            .values()
            .flat_map(|record| record.manifests.iter());
        manifests
            .flat_map(|found| &found.layers)
            .find(|(layer, blob)| {
                layer == diff_id && state.blobs.contains_key(blob) && !self.bad.contains(blob)
            })
            .map(|(_, blob)| blob.clone())
    }

    /// Files that the store knows nothing of.
    fn strays(&mut self) -> Result<()> {
        let inner = self.inner;
        let state = &mut *inner.state();
        let dirs = &inner.dirs;
        let mut strays = Vec::new();
        for (place, directory) in [("blobs", &dirs.blobs), ("layers", &dirs.layers)] {
            for name in names(directory, place)? {
                let digest = format!("sha256:{name}");
                let is_known = match place {
                    "blobs" => state.blobs.contains_key(&digest),
                    _ => state.layers.contains_key(&digest),
                };
                if !is_known {
                    strays.push((format!("{place}/sha256/{name}"), directory, name));
                }
            }
        }
        for (path, directory, name) in strays {
            if self.repair {
                inner.discard(directory, name.as_bytes());
            }
            self.found(
                format!("file {path}"),
                "nothing is known of it".to_owned(),
                "remove it".to_owned(),
                self.repair,
            );
        }
        for key in names(&dirs.snapshots, "snapshots")? {
            self.report.checked += 1;
            if !state.snapshots.contains_key(&key) {
                self.found(
                    format!("file snapshots/{key}"),
                    "it has no record, but may hold a container's files".to_owned(),
                    "look at it, then remove it by hand".to_owned(),
                    false,
                );
            }
        }
        Ok(())
    }

    fn ingests(&mut self) -> Result<()> {
        let stale = self.inner.stale_ingests(&self.inner.state());
        if stale.is_empty() {
            return Ok(());
        }
        if self.repair {
            self.inner.sweep_ingests(&self.inner.state());
        }
        for name in stale {
            self.found(
                format!("file ingest/sha256/{name}"),
                "nobody waits for this incomplete download any more".to_owned(),
                "remove it".to_owned(),
                self.repair,
            );
        }
        Ok(())
    }
}

/// Puts a layer into its place again. Synced at once: no publication follows
/// that would have it looked at after a power cut.
pub(crate) fn unpack_again(inner: &Arc<Inner>, blob: &Digest, diff_id: &Digest) -> Result<()> {
    let _turn = inner.unpacking.turn(diff_id);
    let work = Work::new(inner, "repair")?;
    let file = open_file(&inner.dirs.blobs, hex(blob)).map_err(Error::io("open blob", blob))?;
    let size = file
        .metadata()
        .map_err(Error::io("look at blob", blob))?
        .len();
    let mut unpacked = unpack_blob(inner, &work, file, size, &mut |_| {})?;
    let found = unpacked.diff_id.as_ref().unwrap_or(blob);
    if found != diff_id {
        return invalid(format!("blob {blob} becomes layer {found}"));
    }
    // It is what it was: what it gave, it gives again.
    let old = inner.state().layers.get(diff_id).cloned();
    if let Some(old) = old.filter(|old| old.built.is_some()) {
        unpacked.layer.built = old.built;
        let at = open_directory(work.fd.as_fd(), unpacked.directory.as_bytes())
            .map_err(Error::io("open", "a layer"))?;
        write_record(&at, &unpacked.layer)?;
    }
    rustix::fs::syncfs(&work.fd).map_err(Error::io("sync layer", diff_id))?;
    let state = &mut *inner.state();
    inner.discard(&inner.dirs.layers, hex(diff_id).as_bytes());
    publish(
        &work.fd,
        &unpacked.directory,
        &inner.dirs.layers,
        hex(diff_id),
    )
    .map_err(Error::io("publish layer", diff_id))?;
    inner.measured().remove(diff_id);
    inner.tell_removed();
    state.layers.insert(diff_id.clone(), unpacked.layer);
    inner.describe_again(state, diff_id)
}

/// Whether a blob is here and has its digest.
pub(crate) fn is_good(inner: &Inner, digest: &str, giver: Option<&Layer>) -> bool {
    matches!(verify_blob(inner, digest, giver), Verdict::Good)
}

enum Verdict {
    Good,
    Bad(String),
    /// The disk's fault, perhaps a passing one.
    Unreadable(String),
}

/// `giver` is the layer of that digest, which may give it without a file.
fn verify_blob(inner: &Inner, digest: &str, giver: Option<&Layer>) -> Verdict {
    let file = match open_file(&inner.dirs.blobs, hex(digest)) {
        Ok(file) => file,
        Err(Errno::NOENT) if giver.is_some_and(|layer| layer.built.is_some()) => {
            let verified = giver.map(|layer| Original::open(inner, digest, layer)?.verify());
            return match verified {
                None | Some(Ok(())) => Verdict::Good,
                Some(Err(Error::Io { source, .. })) if source.raw_os_error().is_some() => {
                    Verdict::Unreadable(format!("its layer cannot be read: {source}"))
                }
                Some(Err(error)) => Verdict::Bad(error.to_string()),
            };
        }
        Err(Errno::NOENT) => return Verdict::Bad("it is missing".to_owned()),
        Err(error) => return Verdict::Unreadable(format!("it cannot be opened: {error}")),
    };
    match Tee::hash(file).finish() {
        Ok((found, _)) if found == digest => Verdict::Good,
        Ok((found, size)) => Verdict::Bad(format!("its content, {size} bytes, has digest {found}")),
        Err(error) => Verdict::Unreadable(format!("it cannot be read: {error}")),
    }
}

/// What is wrong with a layer that is said to be there; `deep` also makes its
/// stream, if that can be made.
fn verify_layer(inner: &Inner, diff_id: &Digest, layer: &Layer, deep: bool) -> Option<String> {
    let directory = match inner.open_layer(diff_id) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Some("it is missing".to_owned()),
        Err(error) => return Some(format!("it cannot be opened: {error}")),
    };
    match read_record(&directory) {
        Ok(record) if record == *layer => {}
        Ok(_) => return Some(format!("{LAYER_RECORD} does not say what the engine knows")),
        Err(error) => return Some(error.to_string()),
    }
    let mut verified = layer::verify(layer, &directory);
    if verified.is_ok() && deep && layer.built.is_some() {
        verified = Original::open(inner, diff_id, layer).and_then(|original| original.verify());
    }
    verified.err().map(|error| error.to_string())
}

fn read_record(directory: &OwnedFd) -> Result<Layer> {
    let mut text = Vec::new();
    let file: File = open_file(directory, LAYER_RECORD).map_err(Error::io("open", LAYER_RECORD))?;
    file.take(1 << 20)
        .read_to_end(&mut text)
        .map_err(Error::io("read", LAYER_RECORD))?;
    serde_json::from_slice(&text)
        .or_else(|error| invalid(format!("{LAYER_RECORD} is damaged: {error}")))
}

fn read_images(inner: &Inner) -> Result<Vec<crate::state::Saved>> {
    let mut text = Vec::new();
    open_file(&inner.dirs.root, IMAGES)
        .map_err(Error::io("open", IMAGES))?
        .read_to_end(&mut text)
        .map_err(Error::io("read", IMAGES))?;
    read_saved(&text)
}

fn key(id: &Digest, names: &[String]) -> (Digest, Vec<String>) {
    (id.clone(), names.to_vec())
}

fn name(record: &Record) -> String {
    let saved = &record.saved;
    saved
        .names
        .first()
        .map_or_else(|| saved.id.clone(), |name| familiar(name))
}

fn users(state: &State, diff_id: &Digest) -> Vec<String> {
    (state.images.values())
        .filter(|record| record.layers.contains(diff_id))
        .map(|record| name(record))
        .collect()
}

fn standing_on(state: &State, diff_id: &Digest) -> Vec<String> {
    (state.snapshots.iter())
        .filter(|(_, snapshot)| snapshot.layers.contains(diff_id))
        .map(|(key, _)| key.get(..12).unwrap_or(key).to_owned())
        .collect()
}

fn needed_by(images: &[String], snapshots: &[String]) -> String {
    let mut text = String::new();
    if !images.is_empty() {
        text.push_str("; images that need it: ");
        text.push_str(&images.join(", "));
    }
    if !snapshots.is_empty() {
        text.push_str("; containers that stand on it: ");
        text.push_str(&snapshots.join(", "));
    }
    text
}

fn names(directory: &OwnedFd, place: &str) -> Result<Vec<String>> {
    let list = children(directory).map_err(Error::io("list", place))?;
    Ok(list
        .into_iter()
        .map(|(name, _)| String::from_utf8_lossy(&name).into_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use crate::testing::{Tar, docker_archive, load};

    fn image(store: &Store, name: &str, content: &[u8]) -> Image {
        let layer = Tar::default().file("f", content).finish();
        load(store, &docker_archive(&[name], &[layer]))
            .unwrap()
            .remove(0)
    }

    fn what(damage: &[Damage]) -> Vec<(&str, bool)> {
        damage
            .iter()
            .map(|damage| (damage.what.as_str(), damage.repaired))
            .collect()
    }

    #[test]
    fn each_kind_of_damage_is_found_and_mended() {
        for place in ["/tmp", "/var/tmp"] {
            let dir = tempfile::tempdir_in(place).unwrap();
            let store = Store::open(dir.path()).unwrap();
            let (good, bad) = (image(&store, "good:1", b"1"), image(&store, "bad:1", b"2"));
            store.create_snapshot("c", &good, (0, 0)).unwrap();
            let clean = store.check(false).unwrap();
            assert!(clean.damage.is_empty() && clean.checked >= 10, "{clean:?}");

            let layer = good.config.rootfs().diff_ids()[0].clone();
            let layer_at = dir.path().join("layers/sha256").join(hex(&layer));
            std::fs::remove_dir_all(&layer_at).unwrap();
            let blob_at = dir
                .path()
                .join("blobs/sha256")
                .join(hex(&bad.config_digest));
            std::fs::write(&blob_at, "short").unwrap();
            std::fs::write(dir.path().join("layers/sha256/stray"), "x").unwrap();
            std::fs::write(dir.path().join(IMAGES), "[]").unwrap();
            let old = dir.path().join("ingest/sha256").join("0".repeat(64));
            File::create(&old)
                .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
                .unwrap();

            let damage = |repaired| {
                vec![
                    (format!("file {IMAGES}"), repaired),
                    (format!("blob {}", bad.config_digest), repaired),
                    (format!("layer {layer}"), repaired),
                    ("file layers/sha256/stray".to_owned(), repaired),
                    (format!("file ingest/sha256/{}", "0".repeat(64)), repaired),
                ]
            };
            for repair in [false, true] {
                let report = store.check(repair).unwrap();
                let want = damage(repair);
                let want: Vec<_> = want
                    .iter()
                    .map(|(what, done)| (what.as_str(), *done))
                    .collect();
                assert_eq!(what(&report.damage), want);
                assert!(report.damage[1].remedy.ends_with(": bad:1"));
            }
            assert!(store.check(false).unwrap().damage.is_empty());
            assert!(layer_at.exists() && !blob_at.exists() && !old.exists());
            assert!(store.find("bad:1").is_err());
            drop(store);
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(store.find("good:1").unwrap().size, good.size);
            assert!(store.check(false).unwrap().damage.is_empty());
        }
    }

    #[test]
    fn an_image_without_a_layer_survives_a_restart_and_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let before = image(&store, "a:1", b"12345");
        drop(store);
        let layers = dir.path().join("layers/sha256");
        std::fs::remove_dir_all(&layers).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.find("a:1").unwrap().size, 0);
        assert!(store.create_snapshot("c", &before, (0, 0)).is_err());
        assert_eq!(store.check(true).unwrap().damage.len(), 1);
        assert_eq!(store.find("a:1").unwrap().size, before.size);
        store.create_snapshot("c", &before, (0, 0)).unwrap();
    }
}
