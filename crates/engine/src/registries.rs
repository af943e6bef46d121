//! The engine's way to registries: one client, and the limits that all pulls
//! and pushes share.

use berth_api::Error;
use berth_registry::client::{Client, Options};
use tokio::sync::Semaphore;

use crate::config::RegistryOptions;
use crate::error::IntoApi as _;

#[derive(Debug)]
pub(crate) struct Registries {
    pub(crate) client: Client,
    /// One permit for each blob that is on its way.
    pub(crate) downloads: Semaphore,
    pub(crate) uploads: Semaphore,
    /// One permit for each layer that is being unpacked: threads and memory.
    pub(crate) unpacking: Semaphore,
    /// Tries for one blob.
    pub(crate) attempts: u32,
}

/// "User-Agent" of every request.
pub(crate) const USER_AGENT: &str = concat!("berth/", env!("CARGO_PKG_VERSION"));

impl Registries {
    pub(crate) fn new(options: &RegistryOptions) -> Result<Self, Error> {
        let client = Client::new(Options {
            user_agent: USER_AGENT.to_owned(),
            mirrors: options.mirrors.clone(),
            insecure: options.insecure.clone(),
            ..Options::default()
        })
        .api()?;
        let limit = |number: usize| match number {
            0 => Semaphore::MAX_PERMITS,
            number => number.min(Semaphore::MAX_PERMITS),
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            client,
            downloads: Semaphore::new(limit(options.max_downloads)),
            uploads: Semaphore::new(limit(options.max_uploads)),
            // Each layer that arrives is unpacked meanwhile; while some of
            // those wait for bytes, finished ones must not.
            unpacking: Semaphore::new(
                limit(options.max_downloads)
                    .saturating_add(cpus)
                    .min(MAX_UNPACKING),
            ),
            attempts: options.download_attempts,
        })
    }
}

/// Layers that are unpacked at a time, whatever the limit on downloads: each
/// takes a few megabytes.
const MAX_UNPACKING: usize = 16;
