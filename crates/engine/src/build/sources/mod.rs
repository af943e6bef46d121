//! Files from elsewhere: git repositories and downloads, for ADD and for
//! contexts.
//!
//! ```text
//! <data-root>/build/git/<hash of the remote>/    a bare, shallow repository
//! <data-root>/build/git/known_hosts              hosts that SSH has met
//! <data-root>/build/http/<hash of the address>   what an answer said
//! ```
//!
//! Contents are in the engine's [`Files`]; here is only what saves fetching
//! them again. All of it may be lost at any time.

pub(super) mod client;
mod git;
mod http;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use berth_build::files::Files;
use berth_build::graph::{Git, Http};
use berth_build::plan::GitAddress;
use berth_build::solve;
use berth_build::tree::{Node, Tree};
use berth_registry::client::Downloader;

pub(super) use self::git::Access;

/// Bytes that came, of how many (0 = not known), and whether that is all.
pub(super) type Tell<'a> = &'a (dyn Fn(u64, u64, bool) + Send + Sync);

/// One per engine.
#[derive(Debug)]
pub(super) struct Sources {
    git: PathBuf,
    http: PathBuf,
    downloader: Downloader,
    /// Who uses a repository or fetches an address, by name of its directory
    /// or file: one after the other.
    users: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Sources {
    /// `root`: `<data-root>/build`.
    pub(super) fn new(root: &Path, agent: &str) -> Self {
        Self {
            git: root.join("git"),
            http: root.join("http"),
            downloader: Downloader::new(agent),
            users: Mutex::default(),
        }
    }

    /// The context at an address: a repository, an archive, or a Dockerfile,
    /// which is all there is then, under that name.
    pub(super) async fn context(
        &self,
        files: &Files,
        address: &str,
        keep_git_dir: bool,
        access: &Access,
        tell: Tell<'_>,
    ) -> Result<Arc<Tree>, solve::Error> {
        if let Some(parsed) = GitAddress::parse(address, false) {
            let mut git: Git = parsed.map_err(solve::Error::Invalid)?.source();
            git.keep_git_dir |= keep_git_dir;
            return self.git(files, &git, access, tell).await;
        }
        let http = Http {
            url: address.to_owned(),
            checksum: String::new(),
            filename: "Dockerfile".to_owned(),
        };
        let single = self.http(files, &http, tell).await?;
        let Some(Node::File { digest, .. }) = single.entries.first().map(|entry| &entry.node)
        else {
            return Ok(single);
        };
        let (files, digest) = (files.clone(), digest.clone());
        let unpacked = tokio::task::spawn_blocking(move || unpack(&files, &digest)).await;
        Ok(match unpacked.map_err(|error| stopped(&error))?? {
            Some(tree) => Arc::new(tree),
            None => single,
        })
    }

    /// The lock of a name.
    fn user(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, user| Arc::strong_count(user) > 1);
        users.entry(name.to_owned()).or_default().clone()
    }
}

/// None if it is text: no archive begins like that.
fn unpack(files: &Files, digest: &str) -> Result<Option<Tree>, solve::Error> {
    use std::io::Read as _;
    const LOOK: u64 = 512;
    let failed = |error: std::io::Error| invalid(format!("read the remote context: {error}"));
    let mut head = Vec::new();
    let content = files.read(digest).map_err(failed)?;
    content.take(LOOK).read_to_end(&mut head).map_err(failed)?;
    let is_text = std::str::from_utf8(&head)
        .map_or_else(|error| error.error_len().is_none(), |_| true)
        && !head.contains(&0);
    if is_text {
        return Ok(None);
    }
    let mut content = files.read(digest).map_err(failed)?;
    files.take_tar(&mut content).map(Some).map_err(failed)
}

fn invalid(message: String) -> solve::Error {
    solve::Error::Invalid(message)
}

fn system(message: String) -> solve::Error {
    solve::Error::System(message)
}

fn stopped(error: &tokio::task::JoinError) -> solve::Error {
    system(format!("the engine is shutting down: {error}"))
}

/// What a name in our directories is made of: addresses may hold secrets.
fn hash(text: &str) -> String {
    berth_store::digest_of(text.as_bytes())
        .trim_start_matches("sha256:")
        .to_owned()
}
