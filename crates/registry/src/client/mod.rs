//! Pull from and push to registries: distribution specification 1.1.
//!
//! One [`Client`] per engine: it holds the connections, the tokens and what
//! `certs.d` and `hosts.toml` say of each registry.

mod account;
mod answer;
mod auth;
mod blobs;
mod challenge;
mod digest;
mod download;
mod failure;
mod hosts;
mod hosts_file;
mod insecure;
mod link;
mod listing;
mod manifests;
mod places;
mod retry;
mod session;
mod tls;
mod transport;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use download::{Answer, Download, Downloader, Validators};
use places::check_name;

/// What the daemon's options say about registries.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// "User-Agent" of every request.
    pub user_agent: String,
    /// Base addresses that are asked before Docker Hub.
    pub mirrors: Vec<String>,
    /// Hosts, host:port or networks that may speak plain HTTP or show any
    /// certificate; 127.0.0.0/8 and ::1 always may.
    pub insecure: Vec<String>,
    /// Folders with `<host[:port]>/{hosts.toml,*.crt,*.cert,*.key}`, in order
    /// of precedence; empty: `/etc/docker/certs.d`, `/etc/containerd/certs.d`.
    pub config_dirs: Vec<PathBuf>,
    /// Ask the registry itself only, not what `hosts.toml` names before it.
    pub direct: bool,
    /// Longest wait for a response, and between two pieces of a body; a minute
    /// if it is not said.
    pub timeout: Option<Duration>,
}

/// As in `X-Registry-Auth` and the credentials file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// OAuth refresh token, used in place of a password.
    pub identity_token: String,
    /// Sent as it is.
    pub registry_token: String,
}

// Never a secret in a log.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What is to be done in a repository, which decides the scope of the token
/// and the hosts: mirrors serve pulls only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Pull,
    Push,
}

/// Talks to registries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(Arc<places::Registries>);

/// One repository at its registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Repository(Arc<places::Target>);

/// A manifest or index as it was served; its digest was verified when it was
/// asked for by digest, and computed from the bytes otherwise.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub media_type: String,
    pub digest: String,
    pub bytes: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
}

/// The bytes of a blob from `offset` on. The caller verifies the digest.
pub struct BlobStream {
    /// Where it begins: 0 if the registry knows no ranges.
    pub offset: u64,
    /// Length of the whole blob, if it was said.
    pub size: Option<u64>,
    pub stream: BoxStream<'static, Result<Bytes, Error>>,
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream")
            .field("offset", &self.offset)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// The text is for people and says the registry, what was tried and why it
/// failed, in Docker's words where clients match on them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 401, 403: "pull access denied for x, repository does not exist or may
    /// require 'docker login'", "unauthorized: …".
    #[error("{0}")]
    Denied(String),
    /// "manifest for x not found: manifest unknown: manifest unknown".
    #[error("{0}")]
    NotFound(String),
    /// What the registry sent breaks the protocol, or is not what was asked.
    #[error("{0}")]
    Invalid(String),
    /// Nobody answers, or only errors, after all retries.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Unsupported(String),
}

/// What `POST /auth` answers with.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// To be kept in place of the password, if there is one.
    pub identity_token: String,
}

#[derive(Clone, Debug, Default)]
pub struct SearchResult {
    pub name: String,
    pub description: String,
    pub stars: u64,
    pub is_official: bool,
    pub is_automated: bool,
}

/// A blob to push, readable from any offset, as often as a retry needs.
pub trait BlobSource: Send + Sync {
    /// Bytes from `offset` to the end, in pieces.
    fn open(&self, offset: u64) -> std::io::Result<BoxStream<'static, std::io::Result<Bytes>>>;
}

impl Client {
    /// # Errors
    /// `Invalid` if an option or a file in a configuration folder is wrong.
    #[allow(clippy::needless_pass_by_value)]
    pub fn new(options: Options) -> Result<Self, Error> {
        Ok(Self(Arc::new(places::Registries::new(&options)?)))
    }

    /// `host` as in a normalised name ("docker.io", "r.example:5000"), `name`
    /// as on the wire ("library/busybox").
    pub fn repository(
        &self,
        host: &str,
        name: &str,
        credentials: &Credentials,
        access: Access,
    ) -> Result<Repository, Error> {
        self.open(host, name, credentials, access)
    }

    /// Verifies credentials as `docker login` does.
    pub async fn login(&self, host: &str, credentials: &Credentials) -> Result<Login, Error> {
        self.verify(host, credentials).await
    }

    /// The v1 search of Docker Hub and registries that have it. The term may
    /// begin with a host.
    pub async fn search(
        &self,
        term: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<SearchResult>, Error> {
        self.find(term, limit, credentials).await
    }

    /// Names of the repositories of a registry, all pages.
    pub async fn catalog(
        &self,
        host: &str,
        credentials: &Credentials,
    ) -> Result<Vec<String>, Error> {
        self.all_repositories(host, credentials).await
    }
}

impl Repository {
    /// By tag or digest; all manifest media types accepted.
    pub async fn manifest(&self, reference: &str) -> Result<Manifest, Error> {
        self.get_manifest(reference).await
    }

    /// HEAD: what a tag or digest stands for; `None` if it is not there.
    pub async fn manifest_descriptor(&self, reference: &str) -> Result<Option<Descriptor>, Error> {
        self.head_manifest(reference).await
    }

    /// Starts at `offset` if the registry can. `urls` are tried after the
    /// registry (foreign layers). Retries to get the response; a stream that
    /// breaks is an error, after which the caller asks again from where it is.
    pub async fn blob(
        &self,
        digest: &str,
        offset: u64,
        urls: &[String],
    ) -> Result<BlobStream, Error> {
        self.get_blob(digest, offset, urls).await
    }

    /// HEAD: its length; `None` if it is not there.
    pub async fn blob_size(&self, digest: &str) -> Result<Option<u64>, Error> {
        self.head_blob(digest).await
    }

    /// Asks the registry to take the blob from another of its repositories:
    /// whether it did.
    pub async fn mount_blob(&self, digest: &str, from: &str) -> Result<bool, Error> {
        self.mount(digest, from).await
    }

    /// Uploads a blob, going on after a cut where the registry says; nothing
    /// is sent if it is there already. `sent` is told the bytes so far.
    pub async fn push_blob(
        &self,
        digest: &str,
        size: u64,
        source: &dyn BlobSource,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        self.upload(digest, size, source, sent).await
    }

    /// Under a tag or its digest; the digest the registry gave it.
    pub async fn push_manifest(
        &self,
        reference: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<String, Error> {
        self.put_manifest(reference, media_type, bytes).await
    }

    /// All tags, all pages.
    pub async fn tags(&self) -> Result<Vec<String>, Error> {
        self.all_tags().await
    }

    /// Deletes a manifest or, where the registry can, a tag.
    pub async fn delete_manifest(&self, reference: &str) -> Result<(), Error> {
        self.remove_manifest(reference).await
    }

    /// What refers to a manifest (signatures, attestations); by the referrers
    /// API, else by the tag scheme.
    pub async fn referrers(&self, digest: &str) -> Result<Vec<Descriptor>, Error> {
        self.all_referrers(digest).await
    }
}
