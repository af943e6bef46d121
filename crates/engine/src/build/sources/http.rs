//! Downloads.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::Path;
use std::sync::Arc;

use berth_build::files::Files;
use berth_build::graph::Http;
use berth_build::solve;
use berth_build::tree::{Entry, Node, Tree};
use berth_registry::client::{Answer, Download, Error, Validators};
use berth_store::Digest;
use futures_util::StreamExt as _;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::SyncIoBridge;

use super::{Sources, Tell, hash, invalid, stopped, system};
use crate::files as small;

/// Bytes of a file.
const MAX_SIZE: u64 = 64 << 30;
/// Of files that are fetched, as BuildKit has it.
const FILE_MODE: u32 = 0o600;
/// Between the network and the disk.
const BUFFER: usize = 256 << 10;
/// Bytes between two figures.
const INTERVAL: u64 = 1 << 20;
const UNNAMED: &str = "__unnamed__";
const MAX_NAME: usize = 255;

/// What is known of an address.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    etag: String,
    last_modified: String,
    digest: Digest,
    size: u64,
    /// Seconds since 1970.
    modified: i64,
    /// As the answer has it.
    filename: Option<String>,
}

impl Sources {
    /// A tree of one file. What did not change, or is here and has the checksum,
    /// is not fetched again.
    ///
    /// # Errors
    /// `Invalid` if the content has another checksum.
    pub(in super::super) async fn http(
        &self,
        files: &Files,
        http: &Http,
        tell: Tell<'_>,
    ) -> Result<Arc<Tree>, solve::Error> {
        let name = hash(&http.url);
        let path = self.http.join(&name);
        let user = self.user(&name);
        let _alone = user.lock().await;
        let known = {
            let (files, path) = (files.clone(), path.clone());
            let known = tokio::task::spawn_blocking(move || known(&files, &path)).await;
            known.map_err(|error| stopped(&error))?
        };
        if let Some(known) = &known
            && known.digest == http.checksum
        {
            return Ok(tree(http, known));
        }
        let validators = known
            .as_ref()
            .map_or_else(Validators::default, |known| Validators {
                etag: known.etag.clone(),
                last_modified: known.last_modified.clone(),
            });
        let answer = self.downloader.get(&http.url, &validators).await;
        let record = match (answer.map_err(failed)?, known) {
            (Answer::NotModified, Some(known)) => known,
            (Answer::NotModified, None) => {
                return Err(invalid(
                    "the server says that a file did not change which it was not asked about"
                        .to_owned(),
                ));
            }
            (Answer::Found(download), _) => {
                let record = self.keep(files, download, tell).await?;
                self.note(&path, &record);
                record
            }
        };
        if !http.checksum.is_empty() && record.digest != http.checksum {
            return Err(invalid(format!(
                "digest mismatch {}: {}",
                record.digest, http.checksum
            )));
        }
        Ok(tree(http, &record))
    }

    /// Writes down what was said of an address, if it is of use. Losing it
    /// costs another download only.
    fn note(&self, path: &Path, record: &Record) {
        if record.etag.is_empty() && record.last_modified.is_empty() {
            let _ = std::fs::remove_file(path);
            return;
        }
        let written = serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|bytes| small::replace(path, &bytes, 0o600));
        if let Err(error) = written {
            tracing::warn!("write {}: {error}", path.display());
        }
    }

    /// Puts a content among the engine's files as it comes.
    async fn keep(
        &self,
        files: &Files,
        download: Download,
        tell: Tell<'_>,
    ) -> Result<Record, solve::Error> {
        let size = download.size;
        if size.is_some_and(|size| size > MAX_SIZE) {
            return Err(too_large());
        }
        small::make_dir(&self.http, 0o700).map_err(|error| unwritten(&error))?;
        let (near, far) = tokio::io::duplex(BUFFER);
        let input = SyncIoBridge::new(far);
        let kept = tokio::task::spawn_blocking({
            let (files, scratch) = (files.clone(), self.http.clone());
            move || add(&files, &scratch, size, input)
        });
        let fetched = pump(download.stream, near, size.unwrap_or(0), tell).await;
        let kept = kept.await.map_err(|error| stopped(&error))?;
        // A download that broke off is why the file is too short.
        fetched?;
        let (digest, size) = kept.map_err(|error| unwritten(&error))?;
        Ok(Record {
            etag: download.validators.etag,
            last_modified: download.validators.last_modified,
            digest,
            size,
            modified: download.modified.unwrap_or(0),
            filename: download.filename,
        })
    }
}

/// Moves the pieces of a download into `sink`. Dropped, it cuts them off.
async fn pump(
    mut stream: impl futures_util::Stream<Item = Result<bytes::Bytes, Error>> + Unpin,
    mut sink: tokio::io::DuplexStream,
    total: u64,
    tell: Tell<'_>,
) -> Result<(), solve::Error> {
    let (mut current, mut told) = (0, 0);
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(failed)?;
        current += piece.len() as u64;
        if current > MAX_SIZE {
            return Err(too_large());
        }
        if sink.write_all(&piece).await.is_err() {
            // Who reads has failed, and says why.
            return Ok(());
        }
        if current - told >= INTERVAL {
            told = current;
            tell(current, total, false);
        }
    }
    tell(current, total.max(current), true);
    Ok(())
}

/// Blocks. A content of unknown length waits in a file without a name.
fn add(
    files: &Files,
    scratch: &Path,
    size: Option<u64>,
    mut input: impl Read,
) -> io::Result<(Digest, u64)> {
    if let Some(size) = size {
        return Ok((files.add(size, &mut input)?, size));
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(scratch, flags, Mode::RUSR | Mode::WUSR)?);
    let size = io::copy(&mut input, &mut file)?;
    file.rewind()?;
    Ok((files.add(size, &mut file)?, size))
}

/// The record of an address whose content is here. Blocks.
fn known(files: &Files, path: &Path) -> Option<Record> {
    let bytes = std::fs::read(path).ok()?;
    let record: Record = serde_json::from_slice(&bytes).ok()?;
    files.contains(&record.digest).then_some(record)
}

fn tree(http: &Http, record: &Record) -> Arc<Tree> {
    let entry = Entry {
        path: name(http, record),
        node: Node::File {
            digest: record.digest.clone(),
            size: record.size,
        },
        mode: FILE_MODE,
        uid: 0,
        gid: 0,
        mtime: record.modified.saturating_mul(1_000_000_000),
        xattrs: Vec::new(),
    };
    Arc::new(Tree {
        entries: vec![entry],
    })
}

/// As asked for, as the answer has it, or the last part of the address: one
/// name, whatever a server sends.
fn name(http: &Http, record: &Record) -> String {
    let path = http.url.split(['?', '#']).next().unwrap_or_default();
    let path = path.splitn(4, '/').nth(3).unwrap_or_default();
    let said = record.filename.as_deref().unwrap_or_default();
    let candidates = [http.filename.as_str(), said, path];
    let mut names = candidates.iter().map(|text| {
        let text = text.trim_end_matches('/');
        text.rsplit('/').next().unwrap_or(text)
    });
    let is_name = |name: &&str| {
        !matches!(*name, "" | "." | "..") && name.len() <= MAX_NAME && !name.contains('\0')
    };
    names.find(is_name).unwrap_or(UNNAMED).to_owned()
}

fn failed(error: Error) -> solve::Error {
    match error {
        Error::NotFound(message) => solve::Error::NotFound(message),
        other => invalid(other.to_string()),
    }
}

fn unwritten(error: &io::Error) -> solve::Error {
    system(format!("keep a download: {error}"))
}

fn too_large() -> solve::Error {
    invalid(format!("the file is larger than {} GiB", MAX_SIZE >> 30))
}
