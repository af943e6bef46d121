//! A blob on its way from another registry: written to a draft and hashed once,
//! read by any number of clients while it grows.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::watch;

use super::Server;
use super::names::{Digest, Hasher};
use super::proxy::Origin;
use super::reply::{self, Body};
use super::storage::{Storage, new_file};
use crate::client::{Error, Repository};

/// How often a download goes on after its connection broke.
const ATTEMPTS: usize = 5;

/// Bytes that a client gets at once.
const PIECE: u64 = 512 << 10;

#[derive(Debug)]
pub(crate) struct Download {
    path: PathBuf,
    file: Arc<File>,
    /// As the other registry said.
    size: Option<u64>,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// So many bytes are in the file.
    Arrived(u64),
    /// All are, and they have the digest.
    Verified(u64),
    Failed,
}

type Pieces = BoxStream<'static, Result<Bytes, Error>>;

/// What the one task that writes has.
struct Writer {
    file: Arc<File>,
    hasher: Hasher,
    offset: u64,
}

impl Download {
    /// Blocks.
    pub(crate) fn create(storage: &Storage, size: Option<u64>) -> io::Result<Self> {
        let path = storage.draft();
        let file = Arc::new(new_file(&path)?);
        Ok(Self {
            path,
            file,
            size,
            progress: watch::Sender::new(Progress::Arrived(0)),
        })
    }

    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Downloads to the end, whether a client still waits or not.
    pub(crate) async fn run(
        self: Arc<Self>,
        server: Server,
        origin: Arc<Origin>,
        repository: Repository,
        name: String,
        digest: Digest,
        first: Pieces,
    ) {
        let outcome = self
            .receive(&server, &repository, &name, &digest, first)
            .await;
        // First the blob is there, then the download is not any more.
        origin.forget(&digest);
        match outcome {
            Ok(size) => {
                self.progress.send_replace(Progress::Verified(size));
            }
            Err(why) => {
                tracing::error!("download of {digest}: {why}");
                self.progress.send_replace(Progress::Failed);
            }
        }
    }

    async fn receive(
        &self,
        server: &Server,
        repository: &Repository,
        name: &str,
        digest: &Digest,
        first: Pieces,
    ) -> Result<u64, String> {
        let mut writer = Writer {
            file: Arc::clone(&self.file),
            hasher: Hasher::new(digest.algorithm),
            offset: 0,
        };
        let mut pieces = first;
        let mut attempt = 1;
        loop {
            let broken = loop {
                match pieces.next().await {
                    None if self.size.is_some_and(|size| writer.offset < size) => {
                        break "it ended too early".to_owned();
                    }
                    None => return self.finish(server, name, digest, writer).await,
                    Some(Err(error)) => break error.to_string(),
                    Some(Ok(piece)) => writer = self.write(writer, piece).await?,
                }
            };
            if attempt == ATTEMPTS {
                return Err(broken);
            }
            attempt += 1;
            tracing::info!(
                "download of {digest} goes on at {}: {broken}",
                writer.offset
            );
            let again = repository
                .blob(&digest.to_string(), writer.offset, &[])
                .await
                .map_err(|error| error.to_string())?;
            if again.offset != writer.offset {
                return Err(broken);
            }
            pieces = again.stream;
        }
    }

    async fn write(&self, mut writer: Writer, piece: Bytes) -> Result<Writer, String> {
        let end = writer.offset + piece.len() as u64;
        // It must not fill the disk by never ending.
        if self.size.is_some_and(|size| end > size) {
            return Err("it is longer than was said".to_owned());
        }
        let writer = super::blocking(move || {
            writer.file.as_ref().write_all(&piece)?;
            writer.hasher.update(&piece);
            writer.offset = end;
            Ok(writer)
        })
        .await
        .map_err(|error| error.to_string())?;
        self.progress.send_replace(Progress::Arrived(end));
        Ok(writer)
    }

    async fn finish(
        &self,
        server: &Server,
        name: &str,
        digest: &Digest,
        writer: Writer,
    ) -> Result<u64, String> {
        let (path, name, digest) = (self.path.clone(), name.to_owned(), digest.clone());
        server
            .storage(move |storage| {
                let actual = writer.hasher.finish();
                if actual != digest {
                    return Err(io::Error::other(format!("its digest is {actual}")));
                }
                writer.file.sync_data()?;
                let _gate = storage.enter();
                storage.adopt(&path, &digest, writer.offset)?;
                storage.link_blob(&name, &digest)?;
                Ok(writer.offset)
            })
            .await
            .map_err(|error| error.to_string())
    }

    /// The bytes as they arrive. The last one is kept back until the digest is
    /// verified, so no client takes a wrong blob for a whole one.
    pub(crate) fn body(self: &Arc<Self>) -> Body {
        let progress = self.progress.subscribe();
        let state = (Arc::clone(self), progress, 0);
        reply::streamed(stream::try_unfold(
            state,
            |(download, mut progress, at)| async move {
                let ready = |progress: &Progress| match progress {
                    Progress::Arrived(count) => *count > at + 1,
                    Progress::Verified(_) | Progress::Failed => true,
                };
                let now = *progress.wait_for(ready).await.map_err(io::Error::other)?;
                let end = match now {
                    Progress::Arrived(count) => count - 1,
                    Progress::Verified(size) => size,
                    Progress::Failed => return Err(io::Error::other("the download failed")),
                };
                if at == end {
                    return Ok(None);
                }
                let count = usize::try_from(PIECE.min(end - at)).unwrap_or_default();
                let file = Arc::clone(&download.file);
                let piece = super::blocking(move || {
                    let mut buffer = vec![0; count];
                    file.read_exact_at(&mut buffer, at)?;
                    Ok(Bytes::from(buffer))
                })
                .await?;
                let at = at + piece.len() as u64;
                Ok(Some((piece, (download, progress, at))))
            },
        ))
    }
}

impl Drop for Download {
    /// Of one that failed; a finished one has moved.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
