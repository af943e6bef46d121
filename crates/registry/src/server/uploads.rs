//! Uploads of blobs: bytes go to a file of the repository while they are
//! hashed, and become a blob when their digest is verified. What has arrived
//! survives a restart; it is then hashed again when the upload goes on.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;

use super::names::{Algorithm, Digest, Hasher, hex};
use super::storage::{Storage, UPLOADS, exists, list, make_dir, new_file, remove};

/// Unfinished uploads of one repository, at most.
const MAX_UPLOADS: usize = 1000;

/// Pieces of a body that are written and hashed together.
const BATCH: usize = 1 << 20;

/// How long the request before may take to let go of an upload.
const HANDOVER: Duration = Duration::from_millis(50);

/// The uploads that this process has seen.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    open: Mutex<HashMap<(String, String), Arc<Upload>>>,
}

/// One upload that has not ended.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) id: String,
    path: PathBuf,
    /// Bytes on disk and hashed.
    offset: AtomicU64,
    algorithm: Algorithm,
    /// The one request that writes has it.
    state: Arc<tokio::sync::Mutex<Option<State>>>,
    /// A newer request wants to go on: the client gave up the one before.
    next: Notify,
}

/// The right to write to an upload. It goes along to the thread that writes, so
/// that it is not given away before a write ended whose request was cut. Whoever
/// gets it after the upload has ended finds no file any more.
pub(crate) type Hold = tokio::sync::OwnedMutexGuard<Option<State>>;

/// Without the open file: unfinished uploads may be many, descriptors are few,
/// and the file of an upload that has ended is a blob, which nobody writes to.
#[derive(Debug)]
pub(crate) struct State {
    hasher: Hasher,
    offset: u64,
}

impl Uploads {
    fn map(&self) -> MutexGuard<'_, HashMap<(String, String), Arc<Upload>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self) -> usize {
        self.map().len()
    }

    /// Begins an upload. `None`: the repository has too many.
    pub(crate) fn start(
        &self,
        storage: &Storage,
        name: &str,
        algorithm: Algorithm,
    ) -> io::Result<Option<Arc<Upload>>> {
        let folder = storage.folder(name, UPLOADS);
        if list(&folder)?.len() >= MAX_UPLOADS {
            return Ok(None);
        }
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        // The algorithm is part of the name: needed to go on after a restart.
        let id = format!("{}-{}", hex(&random), algorithm.name());
        let path = folder.join(&id);
        let _gate = storage.enter();
        make_dir(&folder)?;
        new_file(&path)?;
        let upload = Arc::new(Upload {
            id: id.clone(),
            path,
            offset: AtomicU64::new(0),
            algorithm,
            state: Arc::new(tokio::sync::Mutex::new(Some(State {
                hasher: Hasher::new(algorithm),
                offset: 0,
            }))),
            next: Notify::new(),
        });
        self.map()
            .insert((name.to_owned(), id), Arc::clone(&upload));
        Ok(Some(upload))
    }

    /// An upload that has not ended, also one from before a restart.
    pub(crate) fn find(
        &self,
        storage: &Storage,
        name: &str,
        id: &str,
    ) -> io::Result<Option<Arc<Upload>>> {
        let key = (name.to_owned(), id.to_owned());
        if let Some(upload) = self.map().get(&key) {
            return Ok(Some(Arc::clone(upload)));
        }
        let Some(algorithm) = algorithm_of(id) else {
            return Ok(None);
        };
        let path = storage.folder(name, UPLOADS).join(id);
        let Some(meta) = exists(&path)? else {
            return Ok(None);
        };
        let upload = Arc::new(Upload {
            id: id.to_owned(),
            path,
            offset: AtomicU64::new(meta.len()),
            algorithm,
            state: Arc::default(),
            next: Notify::new(),
        });
        // Another request may have found it at the same time.
        Ok(Some(Arc::clone(self.map().entry(key).or_insert(upload))))
    }

    pub(crate) fn forget(&self, name: &str, id: &str) {
        self.map().remove(&(name.to_owned(), id.to_owned()));
    }

    /// Removes uploads that nobody went on with for `age`.
    pub(crate) fn expire(&self, storage: &Storage, age: Duration) -> io::Result<usize> {
        let mut removed = 0;
        for name in storage.all_folders()? {
            let folder = storage.folder(&name, UPLOADS);
            for id in list(&folder)? {
                let path = folder.join(&id);
                let old = exists(&path)?
                    .and_then(|meta| meta.modified().ok())
                    .and_then(|time| SystemTime::now().duration_since(time).ok())
                    .is_some_and(|since| since > age);
                if old {
                    self.forget(&name, &id);
                    fs::remove_file(&path)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// `<32 digits>-<algorithm>`: what is no ID of ours is no file's name.
fn algorithm_of(id: &str) -> Option<Algorithm> {
    let (random, algorithm) = id.split_once('-')?;
    let fits = random.len() == 32 && random.bytes().all(|b| b.is_ascii_hexdigit());
    Algorithm::parse(algorithm).filter(|_| fits)
}

impl Upload {
    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    /// Takes the upload from a request that still waits for its client, if
    /// there is one: the client has begun anew.
    pub(crate) async fn acquire(&self) -> Hold {
        loop {
            self.next.notify_waiters();
            let lock = Arc::clone(&self.state).lock_owned();
            if let Ok(hold) = tokio::time::timeout(HANDOVER, lock).await {
                return hold;
            }
        }
    }

    /// Resolves when another request wants to go on with this upload.
    pub(crate) async fn wanted(&self) {
        self.next.notified().await;
    }

    /// What was received and hashed; read from disk after a restart or an
    /// error. Blocks.
    ///
    /// # Errors
    /// `NotFound` if the upload has ended; so with all that follow.
    fn state<'a>(&self, hold: &'a mut Hold) -> io::Result<&'a mut State> {
        if hold.is_none() {
            let state = State::open(&self.path, self.algorithm)?;
            self.offset.store(state.offset, Ordering::Release);
            **hold = Some(state);
        }
        hold.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Bytes so far, surely. Blocks.
    pub(crate) fn sure_offset(&self, hold: &mut Hold) -> io::Result<u64> {
        self.state(hold).map(|state| state.offset)
    }

    /// Writes and hashes pieces. Blocks.
    pub(crate) fn write(&self, hold: &mut Hold, pieces: &[Bytes]) -> io::Result<()> {
        let state = self.state(hold)?;
        match state.write(&self.path, pieces) {
            Ok(()) => {
                self.offset.store(state.offset, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                // How much of it was written only the disk knows.
                **hold = None;
                Err(error)
            }
        }
    }

    /// Makes what has arrived a blob of the repository if it has this digest;
    /// else forgets it, and gives the digest it has. Blocks.
    pub(crate) fn finish(
        &self,
        hold: &mut Hold,
        storage: &Storage,
        name: &str,
        digest: &Digest,
    ) -> io::Result<Result<(), Digest>> {
        let state = self.state(hold)?;
        let actual = state.digest(digest.algorithm, &self.path)?;
        if actual != *digest {
            fs::remove_file(&self.path)?;
            **hold = None;
            return Ok(Err(actual));
        }
        File::open(&self.path)?.sync_data()?;
        let size = state.offset;
        let _gate = storage.enter();
        storage.adopt(&self.path, digest, size)?;
        **hold = None;
        storage.link_blob(name, digest)?;
        Ok(Ok(()))
    }

    /// Gives up what has arrived. Blocks.
    pub(crate) fn discard(&self) -> io::Result<()> {
        remove(&self.path).map(drop)
    }
}

impl State {
    fn open(path: &Path, algorithm: Algorithm) -> io::Result<Self> {
        let mut hasher = Hasher::new(algorithm);
        let offset = hash(&mut File::open(path)?, &mut hasher)?;
        Ok(Self { hasher, offset })
    }

    fn write(&mut self, path: &Path, pieces: &[Bytes]) -> io::Result<()> {
        let mut file = File::options().append(true).open(path)?;
        let mut slices: Vec<_> = pieces
            .iter()
            .filter(|piece| !piece.is_empty())
            .map(|piece| IoSlice::new(piece))
            .collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            match file.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut left, n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        for piece in pieces {
            self.hasher.update(piece);
            self.offset += piece.len() as u64;
        }
        Ok(())
    }

    fn digest(&self, algorithm: Algorithm, path: &Path) -> io::Result<Digest> {
        if self.hasher.algorithm() == algorithm {
            return Ok(self.hasher.clone().finish());
        }
        let mut hasher = Hasher::new(algorithm);
        hash(&mut File::open(path)?, &mut hasher)?;
        Ok(hasher.finish())
    }
}

/// Hashes a file to its end; how long it was.
fn hash(file: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; BATCH];
    let mut length = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(length),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Gathers the pieces of a body until they are worth a write.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pieces: Vec<Bytes>,
    size: usize,
}

impl Batch {
    pub(crate) fn add(&mut self, piece: Bytes) {
        self.size += piece.len();
        self.pieces.push(piece);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.size >= BATCH || self.pieces.len() >= 512
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.size == 0
    }

    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        self.size = 0;
        std::mem::take(&mut self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "a";

    fn begin(storage: &Storage, uploads: &Uploads) -> Arc<Upload> {
        uploads
            .start(storage, NAME, Algorithm::Sha256)
            .unwrap()
            .unwrap()
    }

    #[tokio::test]
    async fn nobody_writes_to_an_upload_that_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let uploads = Uploads::default();
        let whole = Bytes::from_static(b"whole");
        let digest = Digest::of(Algorithm::Sha256, &whole);
        let upload = begin(&storage, &uploads);
        let mut hold = upload.acquire().await;
        upload
            .write(&mut hold, std::slice::from_ref(&whole))
            .unwrap();
        // Another request of the client has found it and waits.
        let late = uploads.find(&storage, NAME, &upload.id).unwrap().unwrap();
        let waiting = tokio::spawn(async move { (late.acquire().await, late) });
        tokio::task::yield_now().await;
        upload
            .finish(&mut hold, &storage, NAME, &digest)
            .unwrap()
            .unwrap();
        drop(hold);
        let (mut hold, late) = waiting.await.unwrap();
        let gone = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotFound);
        };
        gone(late.write(&mut hold, &[Bytes::from_static(b" and more")]));
        gone(late.sure_offset(&mut hold).map(drop));
        gone(late.finish(&mut hold, &storage, NAME, &digest).map(drop));
        assert_eq!(fs::read(storage.blob_path(&digest)).unwrap(), whole);

        let upload = begin(&storage, &uploads);
        let mut hold = upload.acquire().await;
        let refused = upload.finish(&mut hold, &storage, NAME, &digest).unwrap();
        assert!(refused.is_err());
        gone(upload.write(&mut hold, &[whole]));
    }

    #[tokio::test]
    async fn those_that_wait_hold_no_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let uploads = Uploads::default();
        let all: Vec<_> = (0..20).map(|_| begin(&storage, &uploads)).collect();
        for upload in &all {
            let mut hold = upload.acquire().await;
            upload
                .write(&mut hold, &[Bytes::from_static(b"part")])
                .unwrap();
        }
        let open = fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|file| all.iter().any(|upload| *file == upload.path))
            .count();
        assert_eq!(open, 0);
    }
}
