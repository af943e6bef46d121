//! What a power cut may take.
//!
//! A publication syncs `images.json` and nothing else: to wait for hundreds of
//! megabytes would double the time of a pull. The rest is synced a little later,
//! and `synced.json` then says up to which publication all is on disk. When the
//! store is opened in another boot, the images published since then are looked
//! at: their blobs by digest, and their layers are unpacked again.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::syncfs;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::blob::open_file;
use crate::check::{is_good, unpack_again};
use crate::disk::replace_file;
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::state::{Record, State};
use crate::store::{Inner, hex};

const MARK: &str = "synced.json";
const MAX_MARK: u64 = 4096;

/// By then the kernel has written most of it by itself.
pub(crate) const PAUSE: Duration = Duration::from_secs(30);

/// `synced.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// In which it was written: what came after is still whole as long as that
    /// lasts.
    pub(crate) boot: String,
    /// This publication and all before it are on disk.
    pub(crate) publication: u64,
}

impl Mark {
    /// Without one, or with a damaged one, nothing is known to be on disk.
    pub(crate) fn read(root: &OwnedFd) -> Result<Self> {
        let mut text = Vec::new();
        match open_file(root, MARK) {
            Ok(file) => file.take(MAX_MARK).read_to_end(&mut text),
            Err(Errno::NOENT) => return Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
        .map_err(Error::io("read", MARK))?;
        Ok(serde_json::from_slice(&text).unwrap_or_default())
    }

    pub(crate) fn write(&self, root: &OwnedFd, tmp: &OwnedFd) -> Result<()> {
        serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|text| replace_file(root, MARK, tmp, &text))
            .map_err(Error::io("write", MARK))
    }
}

/// Of the running kernel.
pub(crate) fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(text.trim().to_owned())
}

/// Syncs in the background what was published. What it does not get to, the
/// next open gives it again.
#[derive(Debug)]
pub(crate) struct Syncer {
    publications: Option<Sender<u64>>,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    pub(crate) fn new(
        root: OwnedFd,
        tmp: OwnedFd,
        boot: String,
        pause: Duration,
    ) -> io::Result<Self> {
        let (publications, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("store-sync".to_owned())
            .spawn(move || work(&root, &tmp, &boot, pause, &queue))?;
        Ok(Self {
            publications: Some(publications),
            thread: Some(thread),
        })
    }

    pub(crate) fn push(&self, publication: u64) {
        if let Some(publications) = &self.publications {
            // Fails only if the thread is gone.
            let _ = publications.send(publication);
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.publications = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(root: &OwnedFd, tmp: &OwnedFd, boot: &str, pause: Duration, queue: &Receiver<u64>) {
    while let Ok(mut publication) = queue.recv() {
        let until = Instant::now() + pause;
        loop {
            match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(next) => publication = publication.max(next),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let mark = Mark {
            boot: boot.to_owned(),
            publication,
        };
        let done = syncfs(root).map_err(Error::io("sync", "the store"));
        if let Err(error) = done.and_then(|()| mark.write(root, tmp)) {
            tracing::warn!(%error, "images are not known to be on disk");
        }
    }
}

/// A blob of an image that is not what it was.
pub(crate) fn lost_blob<'a>(
    inner: &Inner,
    layers: &HashMap<Digest, Layer>,
    record: &'a Record,
) -> Option<&'a Digest> {
    let mut blobs = record.blobs.iter();
    blobs.find(|digest| !is_good(inner, digest, layers.get(*digest)))
}

/// Gives up the layers of images published after `durable`, but those that
/// earlier images stand on. Nothing tells whether their content is whole.
pub(crate) fn distrust_layers(inner: &Inner, state: &mut State, durable: u64) {
    let (sound, doubtful): (Vec<_>, Vec<_>) =
        (state.images.values().cloned()).partition(|record| record.saved.publication <= durable);
    let mut sound: HashSet<&Digest> = sound.iter().flat_map(|record| &record.layers).collect();
    sound.extend(state.pins.layers());
    // As blobs of their images these have been read.
    let read = doubtful.iter().flat_map(|record| &record.blobs);
    sound.extend(read.filter(|digest| !state.blobs.contains_key(*digest)));
    let sound: HashSet<Digest> = sound.into_iter().cloned().collect();
    for diff_id in doubtful.iter().flat_map(|record| &record.layers) {
        if !sound.contains(diff_id) && state.layers.remove(diff_id).is_some() {
            inner.discard(&inner.dirs.layers, hex(diff_id).as_bytes());
        }
    }
}

/// Unpacks them again. A layer that this fails for is missing, and said to be
/// by a check.
pub(crate) fn mend_layers(inner: &Arc<Inner>, durable: u64) {
    let missing: HashMap<Digest, Digest> = {
        let state = inner.state();
        let doubtful = (state.images.values())
            .filter(|record| record.saved.publication > durable)
            .flat_map(|record| {
                let layers = record.manifests.iter().flat_map(|found| &found.layers);
                layers.filter(|(diff_id, _)| record.layers.contains(diff_id))
            });
        doubtful
            .filter(|(diff_id, _)| !state.layers.contains_key(diff_id))
            .cloned()
            .collect()
    };
    for (diff_id, blob) in missing {
        match unpack_again(inner, &blob, &diff_id) {
            Ok(()) => tracing::info!(layer = %diff_id, "unpacked again after a power cut"),
            Err(error) => {
                tracing::error!(layer = %diff_id, %error, "lost in a power cut: check the store");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;
    use crate::Store;
    use crate::layer::FormKind;
    use crate::testing::{Tar, docker_archive, load};

    fn cut_power(root: &Path, publication: u64) {
        let mark = Mark {
            boot: "another".to_owned(),
            publication,
        };
        fs::write(root.join(MARK), serde_json::to_vec(&mark).unwrap()).unwrap();
    }

    #[test]
    fn what_a_power_cut_took_is_made_again_or_given_up() {
        for form in [FormKind::Directory, FormKind::Erofs] {
            let dir = tempfile::tempdir().unwrap();
            let open = || Store::open_with(dir.path(), Some(form)).unwrap();
            let base = Tar::default().file("base", b"base").finish();
            let top = Tar::default().file("top", b"top").finish();
            let store = open();
            let archive = docker_archive(&["old"], std::slice::from_ref(&base));
            load(&store, &archive).unwrap();
            let archive = docker_archive(&["new"], &[base, top]);
            let new = load(&store, &archive).unwrap().remove(0);
            drop(store);
            let diff_ids = new.config.rootfs().diff_ids();
            let layers = [0, 1].map(|n: usize| {
                let layer = dir.path().join("layers/sha256").join(hex(&diff_ids[n]));
                layer.join(form.content())
            });
            let inodes = || layers.each_ref().map(|path| path.metadata().unwrap().ino());
            let before = inodes();
            // The engine was killed, and nothing else.
            drop(open());
            assert_eq!(inodes(), before);

            match form {
                FormKind::Directory => fs::write(layers[1].join("top"), "").unwrap(),
                FormKind::Erofs => File::create(&layers[1]).map(drop).unwrap(),
            }
            cut_power(dir.path(), 1);
            let store = open();
            let snapshot = store.create_snapshot("c", &new, (0, 0)).unwrap();
            assert_eq!(snapshot.read_file("top", 9).unwrap(), b"top");
            assert_eq!(store.find("new").unwrap().size, 7);
            assert!(store.check(false).unwrap().damage.is_empty());
            store.remove_snapshot("c").unwrap();
            drop(store);
            assert_eq!(inodes()[0], before[0], "known to be on disk");
            // Looked at once.
            let after = inodes();
            drop(open());
            assert_eq!(inodes(), after);

            let blob = dir.path().join("blobs/sha256").join(hex(&diff_ids[1]));
            let length = blob.metadata().unwrap().len() as usize;
            fs::write(blob, vec![0; length]).unwrap();
            cut_power(dir.path(), 2);
            assert!(open().find("new").is_ok(), "known to be on disk");
            cut_power(dir.path(), 1);
            let store = open();
            assert!(store.find("old").is_ok() && store.find("new").is_err());
        }
    }

    #[test]
    fn a_publication_is_marked_once_it_is_on_disk() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let fd = || OwnedFd::from(File::open(dir.path()).unwrap());
        let syncer = Syncer::new(fd(), fd(), "this".to_owned(), Duration::ZERO).unwrap();
        syncer.push(7);
        while Mark::read(&fd()).unwrap().publication != 7 {
            std::thread::yield_now();
        }
    }
}
