//! Blobs on their way from a registry into the store.
//!
//! A blob has one writer for the whole engine, whoever asked first; others
//! read what arrives. When the writer gives up, one of those takes its place
//! and goes on where it stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use berth_api::Error;
use berth_registry::client::{self, Repository};
use berth_store::{Blob, Incoming, Ingest};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::SemaphorePermit;

use super::board::Board;
use super::document::Descriptor;
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, from_registry, waiting};

/// Before the second try of a blob; doubled for each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// A connection that brought this much before it was cut is no failed try.
const WORTH: u64 = 1 << 20;

/// Bytes of a manifest.
const MAX_MANIFEST: u64 = 4 << 20;

/// One image on its way.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) engine: Engine,
    pub(crate) repository: Repository,
    pub(crate) incoming: Incoming,
    pub(crate) board: Arc<Board>,
}

/// Why a blob did not arrive.
enum Failure {
    /// Another try may help.
    Cut(Error),
    Final(Error),
}

impl Fetch {
    /// Adds a document that was fetched; fails if it is not what it says.
    pub(crate) async fn put(&self, digest: &str, bytes: &Bytes) -> Result<(), Error> {
        let (incoming, digest, bytes) = (self.incoming.clone(), digest.to_owned(), bytes.clone());
        blocking(move || incoming.put(&digest, &bytes).api()).await
    }

    /// What is in the store already, if it has the length that was announced.
    async fn stored(&self, blob: &Descriptor) -> Result<Option<Bytes>, Error> {
        use std::io::Read as _;
        let (store, blob) = (self.engine.0.store.clone(), blob.clone());
        blocking(move || {
            let Ok((file, size)) = store.open_blob(&blob.digest) else {
                return Ok(None);
            };
            if size != blob.size {
                return Ok(None);
            }
            let mut bytes = Vec::new();
            match file.take(size).read_to_end(&mut bytes) {
                Ok(_) => Ok(Some(bytes.into())),
                Err(error) => Err(Error::system(format!("read {}: {error}", blob.digest))),
            }
        })
        .await
    }

    /// A manifest or index that an index names.
    pub(crate) async fn manifest(&self, entry: &Descriptor) -> Result<Bytes, Error> {
        check_size(entry, MAX_MANIFEST)?;
        let bytes = match self.stored(entry).await? {
            Some(bytes) => bytes,
            None => self.repository.manifest(&entry.digest).await.api()?.bytes,
        };
        self.put(&entry.digest, &bytes).await?;
        Ok(bytes)
    }

    /// A small blob, held in memory.
    pub(crate) async fn document(&self, blob: &Descriptor, limit: u64) -> Result<Bytes, Error> {
        check_size(blob, limit)?;
        let bytes = match self.stored(blob).await? {
            Some(bytes) => bytes,
            None => self.collect(blob).await?,
        };
        self.put(&blob.digest, &bytes).await?;
        Ok(bytes)
    }

    async fn collect(&self, blob: &Descriptor) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        let mut tries = Tries::new(self.engine.0.registries.attempts);
        loop {
            let failure = match self.open(blob, bytes.len() as u64).await {
                Ok(mut stream) => loop {
                    match stream.next().await {
                        Some(Ok(piece)) => {
                            if (bytes.len() + piece.len()) as u64 > blob.size {
                                return Err(too_long(blob));
                            }
                            bytes.extend_from_slice(&piece);
                        }
                        Some(Err(error)) => break error,
                        None if bytes.len() as u64 == blob.size => return Ok(bytes.into()),
                        None => break cut(blob),
                    }
                },
                Err(error) => error,
            };
            tries.next(failure, 0, |_| {}).await?;
        }
    }

    /// The bytes of a blob from `offset` on.
    async fn open(
        &self,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<impl futures_util::Stream<Item = Result<Bytes, Failure>> + Unpin + use<>, Failure>
    {
        let body = self
            .repository
            .blob(&blob.digest, offset, blob.urls())
            .await
            .map_err(failure)?;
        if let Some(size) = body.size
            && size != blob.size
        {
            return Err(Failure::Final(Error::system(format!(
                "blob {} has {size} bytes at the registry where its manifest says {}",
                blob.digest, blob.size
            ))));
        }
        // A registry without ranges begins at the beginning. What is there is
        // not thrown away, as others read it: the digest tells if it differs.
        let Some(mut skip) = offset.checked_sub(body.offset) else {
            return Err(Failure::Final(Error::system(format!(
                "the registry sent blob {} from byte {} when asked for byte {offset}",
                blob.digest, body.offset
            ))));
        };
        Ok(Box::pin(body.stream.map(move |piece| {
            let mut piece = piece.map_err(failure)?;
            let known = skip.min(piece.len() as u64);
            skip -= known;
            Ok(piece.split_off(usize::try_from(known).unwrap_or(usize::MAX)))
        })))
    }

    /// Whether nothing needs to be done.
    pub(crate) async fn all_present(
        &self,
        blobs: &[(&Descriptor, Option<&String>)],
    ) -> Result<bool, Error> {
        let blobs: Vec<(String, u64, Option<String>)> = blobs
            .iter()
            .map(|(blob, diff_id)| (blob.digest.clone(), blob.size, diff_id.cloned()))
            .collect();
        let (store, incoming) = (self.engine.0.store.clone(), self.incoming.clone());
        blocking(move || {
            Ok(blobs.iter().all(|(digest, size, diff_id)| {
                diff_id.as_ref().is_none_or(|id| incoming.has_layer(id))
                    && store.open_blob(digest).is_ok_and(|(_, have)| have == *size)
            }))
        })
        .await
    }

    /// Brings one blob and, with a diff ID, the layer that is in it.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        blob: &Descriptor,
        diff_id: Option<&str>,
        shown: bool,
    ) -> Result<(), Error> {
        let registries = &self.engine.0.registries;
        let id = blob.short();
        let mut rereads = 0;
        // What is said of a blob that needs nothing more, and whether to
        // unpack while another pull downloads.
        let (mut end, mut along) = ("Already exists", true);
        let last = if diff_id.is_some() {
            "Pull complete"
        } else {
            "Download complete"
        };
        let _unpacking = self.permit(&registries.unpacking, &id, shown).await?;
        loop {
            let transfer = self.permit(&registries.downloads, &id, shown).await?;
            let diff_id = match diff_id {
                Some(diff_id) if !self.has_layer(diff_id).await? => Some(diff_id),
                _ => None,
            };
            match self.begin(blob).await? {
                Blob::Present(_) => {
                    drop(transfer);
                    let Some(diff_id) = diff_id else {
                        if shown {
                            self.board.status(&id, end);
                        }
                        return Ok(());
                    };
                    self.unpack(blob, diff_id, &Arc::new(true.into()))
                        .await?
                        .api()?;
                    self.board.status(&id, last);
                    return Ok(());
                }
                Blob::Arriving(ingest) if ingest.is_writer() => {
                    match self.write(ingest, blob, diff_id, transfer).await {
                        Ok(()) => {
                            self.board.status(&id, last);
                            return Ok(());
                        }
                        // Once: a proxy on the way may have had a bad copy.
                        Err(Wrong::Digest(error)) if rereads == 0 => {
                            tracing::warn!("download {} again: {error}", blob.digest);
                            rereads += 1;
                        }
                        Err(Wrong::Digest(error) | Wrong::Other(error)) => return Err(error),
                    }
                }
                Blob::Arriving(ingest) => {
                    drop(transfer);
                    // Whatever came of it is seen when asked for again.
                    if let Err(error) = self.follow(ingest, blob, diff_id.filter(|_| along)).await {
                        tracing::debug!("{} by another pull: {error}", blob.digest);
                        along = false;
                    }
                    end = last;
                }
            }
        }
    }

    /// Waits for a permit and says so.
    async fn permit<'a>(
        &self,
        limit: &'a tokio::sync::Semaphore,
        id: &str,
        shown: bool,
    ) -> Result<SemaphorePermit<'a>, Error> {
        if let Ok(permit) = limit.try_acquire() {
            return Ok(permit);
        }
        if shown {
            self.board.status(id, "Waiting");
        }
        limit
            .acquire()
            .await
            .map_err(|_| Error::system("the engine is shutting down"))
    }

    async fn has_layer(&self, diff_id: &str) -> Result<bool, Error> {
        let (incoming, diff_id) = (self.incoming.clone(), diff_id.to_owned());
        blocking(move || Ok(incoming.has_layer(&diff_id))).await
    }

    async fn begin(&self, blob: &Descriptor) -> Result<Blob, Error> {
        let (incoming, blob) = (self.incoming.clone(), blob.clone());
        blocking(move || incoming.blob(&blob.digest, blob.size).api()).await
    }

    /// Unpacks a blob that is there or arriving, on a thread of its own, as
    /// it waits for the registry. `arrived` says whether to show how far it is:
    /// a blob has one bar at a time.
    async fn unpack(
        self: &Arc<Self>,
        blob: &Descriptor,
        diff_id: &str,
        arrived: &Arc<AtomicBool>,
    ) -> Result<Result<(), berth_store::Error>, Error> {
        let (fetch, blob, diff_id) = (Arc::clone(self), blob.clone(), diff_id.to_owned());
        let arrived = Arc::clone(arrived);
        waiting("unpack", move || {
            let id = blob.short();
            let mut report = |done| {
                if arrived.load(Ordering::Relaxed) {
                    fetch.board.bar(&id, "Extracting", done, blob.size);
                }
            };
            Ok(fetch.incoming.unpack(&blob.digest, &diff_id, &mut report))
        })
        .await
    }

    /// Downloads as the blob's one writer, while its layer is unpacked.
    async fn write(
        self: &Arc<Self>,
        ingest: Ingest,
        blob: &Descriptor,
        diff_id: Option<&str>,
        transfer: SemaphorePermit<'_>,
    ) -> Result<(), Wrong> {
        let here = Arc::new(AtomicBool::new(false));
        let unpacked = async {
            match diff_id {
                Some(diff_id) => self.unpack(blob, diff_id, &here).await,
                None => Ok(Ok(())),
            }
        };
        let arrived = async {
            self.download(&ingest, blob).await.map_err(Wrong::Other)?;
            self.board.status(&blob.short(), "Verifying Checksum");
            let finished = blocking(move || Ok(ingest.finish())).await;
            match finished.map_err(Wrong::Other)? {
                Ok(()) => {}
                Err(error @ berth_store::Error::Invalid(_)) => {
                    return Err(Wrong::Digest(Error::system(error.to_string())));
                }
                error => error.api().map_err(Wrong::Other)?,
            }
            self.board.status(&blob.short(), "Download complete");
            here.store(true, Ordering::Relaxed);
            drop(transfer);
            Ok(())
        };
        tokio::pin!(unpacked, arrived);
        let unpacked = tokio::select! {
            biased;
            result = &mut arrived => {
                result?;
                unpacked.await
            }
            result = &mut unpacked => {
                // Bad data that has a wrong digest as well is asked for again;
                // more of it does not help a full disk.
                if !matches!(&result, Ok(Err(error)) if is_full(error)) {
                    arrived.await?;
                }
                result
            }
        };
        unpacked
            .and_then(|result| result.api())
            .map_err(Wrong::Other)
    }

    /// Reads along until the blob is there or its writer gave up.
    async fn follow(
        self: &Arc<Self>,
        ingest: Ingest,
        blob: &Descriptor,
        diff_id: Option<&str>,
    ) -> Result<(), Error> {
        if let Some(diff_id) = diff_id {
            let shown = Arc::new(true.into());
            return self.unpack(blob, diff_id, &shown).await?.api();
        }
        let (fetch, blob) = (Arc::clone(self), blob.clone());
        waiting("follow", move || {
            use std::io::Read as _;
            let failed = |error| Error::system(format!("read {}: {error}", blob.digest));
            let mut reader = ingest.reader().api()?;
            let mut buffer = vec![0; 64 << 10];
            let mut done = 0;
            loop {
                let count = reader.read(&mut buffer).map_err(failed)?;
                if count == 0 {
                    return Ok(());
                }
                done += count as u64;
                fetch
                    .board
                    .bar(&blob.short(), "Downloading", done, blob.size);
            }
        })
        .await
    }

    /// Appends what is missing, with as many tries as the options allow.
    async fn download(&self, ingest: &Ingest, blob: &Descriptor) -> Result<(), Error> {
        let id = blob.short();
        let mut tries = Tries::new(self.engine.0.registries.attempts);
        loop {
            let before = ingest.written();
            let Err(failure) = self.append(ingest, blob).await else {
                return Ok(());
            };
            let gained = ingest.written().saturating_sub(before);
            tries
                .next(failure, gained, |pause| {
                    let text = format!("Retrying in {} seconds", pause.as_secs_f32().ceil());
                    self.board.status(&id, text);
                })
                .await?;
        }
    }

    async fn append(&self, ingest: &Ingest, blob: &Descriptor) -> Result<(), Failure> {
        let id = blob.short();
        let mut written = ingest.written();
        if written == blob.size {
            return Ok(());
        }
        let mut stream = self.open(blob, written).await?;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            if written + piece.len() as u64 > blob.size {
                return Err(Failure::Final(too_long(blob)));
            }
            ingest.write(&piece).api().map_err(Failure::Final)?;
            written += piece.len() as u64;
            self.board.bar(&id, "Downloading", written, blob.size);
        }
        if written == blob.size {
            Ok(())
        } else {
            Err(cut(blob))
        }
    }
}

/// Why a blob that was written is not in the store.
enum Wrong {
    Digest(Error),
    Other(Error),
}

fn is_full(error: &berth_store::Error) -> bool {
    let berth_store::Error::Io { source, .. } = error else {
        return false;
    };
    matches!(
        source.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

fn failure(error: client::Error) -> Failure {
    let again = matches!(error, client::Error::Unavailable(_));
    let error = from_registry(error);
    if again {
        Failure::Cut(error)
    } else {
        Failure::Final(error)
    }
}

fn cut(blob: &Descriptor) -> Failure {
    Failure::Cut(Error::system(format!(
        "the registry ended blob {} early",
        blob.digest
    )))
}

fn too_long(blob: &Descriptor) -> Error {
    Error::system(format!(
        "the registry sent more of blob {} than the {} bytes its manifest says",
        blob.digest, blob.size
    ))
}

fn check_size(blob: &Descriptor, limit: u64) -> Result<(), Error> {
    if blob.size > limit {
        return Err(Error::system(format!(
            "{} has {} bytes; at most {limit} are taken",
            blob.digest, blob.size
        )));
    }
    Ok(())
}

/// Counts the tries of one blob.
struct Tries {
    left: u32,
    most: u32,
    pause: Duration,
}

impl Tries {
    fn new(most: u32) -> Self {
        Self {
            left: most,
            most,
            pause: FIRST_PAUSE,
        }
    }

    /// Waits before the next try, or gives the reason why there is none.
    async fn next(
        &mut self,
        failure: Failure,
        gained: u64,
        announce: impl Fn(Duration),
    ) -> Result<(), Error> {
        let error = match failure {
            Failure::Cut(error) => error,
            Failure::Final(error) => return Err(error),
        };
        if gained >= WORTH {
            *self = Self::new(self.most);
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return Err(error);
        }
        tracing::warn!("try again in {:?}: {error}", self.pause);
        announce(self.pause);
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
