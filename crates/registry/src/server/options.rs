//! What `berth registry serve` can be told.

use std::path::PathBuf;
use std::time::Duration;

/// How a registry is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens, HOST:PORT; port 0 takes a free one.
    pub address: String,
    /// Its data; made if it is not there.
    pub root: PathBuf,
    /// Longest manifest, bytes.
    pub max_manifest: usize,
    /// Unfinished uploads are removed after this time without a byte.
    pub upload_expiry: Duration,
    /// Refuse all that changes something.
    pub read_only: bool,
}

impl Options {
    /// The defaults, for an address and a root.
    pub fn new(address: impl Into<String>, root: impl Into<PathBuf>) -> Self {
        Self {
            address: address.into(),
            root: root.into(),
            max_manifest: 4 << 20,
            upload_expiry: Duration::from_secs(7 * 24 * 3600),
            read_only: false,
        }
    }
}
