//! The domain: containers, images, volumes, networks, execs, events, each in
//! its own module. The only place that changes state.
//!
//! Speaks in the types of `berth-api` and returns its errors; must not know
//! about HTTP. Everything that blocks (store, netlink) runs off the event loop;
//! only a container's small state file, which is not synced, is written on it.
//!
//! ```text
//! <data-root>/containers/<id>/   config.json, hosts, hostname, resolv.conf,
//!                                <id>-json.log, exit.json
//! <data-root>/networks.json      the built-in networks
//! <data-root>/volumes/<name>/    _data and volume.json
//! <data-root>/build/files/, build/cache-mounts/, build/contexts/   what builds keep
//! <data-root>/engine-id
//! <exec-root>/launcher.sock, launcher.log, containers/<id>/   (the monitors')
//! ```

mod archive;
pub mod build;
mod changes;
mod config;
mod container;
mod download;
mod engine;
mod error;
mod events;
mod exec;
mod files;
mod health;
mod images;
mod info;
mod isolation;
mod launcher;
mod logs;
mod monitor;
mod networks;
mod recover;
mod registries;
mod rootfs;
mod seccomp;
mod signals;
mod spec;
mod stats;
mod time;
mod top;
mod tree;
mod usage;
mod volumes;

use berth_api::Error;
use berth_api::event::Event;
use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc};

pub use berth_build::solve::Bounds;
pub use berth_store::Limits;
pub use config::{BridgeOptions, BuildGc, Config, RegistryOptions};
pub use engine::Engine;
pub use events::event_matches;
pub use images::{CommitOptions, PullRequest, PushRequest};

/// What `attach` and `exec start` need to know.
#[derive(Clone, Debug, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Send the log so far first.
    pub logs: bool,
    /// Stay connected.
    pub stream: bool,
    /// "ctrl-p,ctrl-q"; empty = the default.
    pub detach_keys: String,
}

/// A connected stream: raw with a terminal, framed without. Its bytes go to the
/// client unchanged; the client's bytes are the container's stdin, and shutting
/// down the write half is its end.
#[derive(Debug)]
pub struct Attachment {
    pub tty: bool,
    /// The log so far, when asked for; sent before the stream.
    pub logs: Option<mpsc::Receiver<Bytes>>,
    /// `None` when only the logs were asked for.
    pub stream: Option<UnixStream>,
    /// The keys that detach, as bytes. The server watches the client's bytes
    /// for them, because only it knows when the client is gone.
    pub detach_keys: Vec<u8>,
}

/// What `logs` was asked for. Times in nanoseconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub since: Option<i64>,
    pub until: Option<i64>,
    pub timestamps: bool,
    pub details: bool,
    /// Lines from the end; `None` = all.
    pub tail: Option<u64>,
}

/// The log as the client gets it: framed unless the container has a terminal.
/// Closed at its end; dropping it stops following.
#[derive(Debug)]
pub struct Logs {
    pub tty: bool,
    pub chunks: mpsc::Receiver<Result<Bytes, Error>>,
}

/// A stream that is made while it is read. An error in it means that what came
/// before is not the whole: the client must not be told that it ended well.
#[derive(Debug)]
pub struct Download {
    /// Empty when there is nothing at all.
    pub first: Bytes,
    pub chunks: mpsc::Receiver<Result<Bytes, Error>>,
}

/// Events that were, then events as they come.
#[derive(Debug)]
pub struct Events {
    pub past: Vec<Event>,
    pub live: broadcast::Receiver<Event>,
}
