//! The domain: containers, images, volumes, networks, execs, events, each in
//! its own module. The only place that changes state.
//!
//! Speaks in the types of `berth-api` and returns its errors; must not know
//! about HTTP. Everything that blocks (store, netlink, files) runs off the
//! event loop.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_api::container::{
    CreateRequest, CreateResponse, Inspect, PruneReport, Summary, Top, Update, UpdateResponse,
    WaitCondition, WaitResponse,
};
use berth_api::event::Event;
use berth_api::exec::{ExecConfig, ExecCreated, ExecInspect};
use berth_api::filters::Filters;
use berth_api::image::{self, HistoryItem};
use berth_api::progress::Progress;
use berth_api::stats::Stats;
use berth_api::system::{Info, Version};
use berth_api::{Error, network};
use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Settings that come from the command line and daemon.json.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    /// The small binary that stands between engine and containers.
    pub runtime: PathBuf,
    /// Parent of the containers' control groups ("/berth").
    pub cgroup_parent: String,
    pub bridge: BridgeOptions,
    pub log_driver: String,
    pub log_opts: BTreeMap<String, String>,
    pub labels: Vec<String>,
    pub default_ulimits: Vec<berth_api::container::Ulimit>,
    pub dns: Vec<String>,
    pub dns_search: Vec<String>,
    pub dns_opts: Vec<String>,
    /// Bytes.
    pub default_shm_size: i64,
    pub default_ipc_mode: String,
    pub default_cgroupns_mode: String,
    /// Seconds.
    pub default_stop_timeout: i64,
    pub no_new_privileges: bool,
    /// Path of a profile, "builtin" or "unconfined".
    pub seccomp_profile: String,
    pub init: bool,
    pub experimental: bool,
    pub debug: bool,
    /// Ready network namespaces of each kind.
    pub network_pool: usize,
}

/// The default bridge network.
#[derive(Clone, Debug, Default)]
pub struct BridgeOptions {
    /// `--bridge none` turns it off.
    pub disabled: bool,
    /// Interface name; default "berth0".
    pub interface: Option<String>,
    /// `--bip`: address with prefix length.
    pub address: Option<String>,
    pub mtu: u32,
    pub masquerade: bool,
    pub forward: bool,
}

/// The engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {}

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

/// Events that were, then events as they come.
#[derive(Debug)]
pub struct Events {
    pub past: Vec<Event>,
    pub live: broadcast::Receiver<Event>,
}

impl Engine {
    /// Opens the data root, finds the monitors of running containers again,
    /// settles what a crash left behind, starts the launcher.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let _ = config;
        todo!()
    }
    pub fn config(&self) -> &Config {
        todo!()
    }
    /// Saves state and lets go; containers keep running.
    pub async fn close(&self) {
        todo!()
    }

    // System
    pub async fn info(&self) -> Result<Info, Error> {
        todo!()
    }
    pub fn version(&self) -> Version {
        todo!()
    }
    /// Times in nanoseconds since 1970. The receiver's messages are not yet
    /// filtered: use [`event_matches`].
    pub fn events(&self, since: Option<i64>, filters: &Filters) -> Result<Events, Error> {
        let _ = (since, filters);
        todo!()
    }

    // Images
    pub async fn image_list(
        &self,
        all: bool,
        filters: &Filters,
    ) -> Result<Vec<image::Summary>, Error> {
        let _ = (all, filters);
        todo!()
    }
    pub async fn image_inspect(&self, name: &str) -> Result<image::Inspect, Error> {
        let _ = name;
        todo!()
    }
    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryItem>, Error> {
        let _ = name;
        todo!()
    }
    pub async fn image_tag(&self, name: &str, repo: &str, tag: &str) -> Result<(), Error> {
        let _ = (name, repo, tag);
        todo!()
    }
    pub async fn image_remove(
        &self,
        name: &str,
        force: bool,
        prune: bool,
    ) -> Result<Vec<image::Deleted>, Error> {
        let _ = (name, force, prune);
        todo!()
    }
    /// `archive` is the body as it arrives; progress lines go to `progress`.
    pub async fn image_load(
        &self,
        archive: DuplexStream,
        quiet: bool,
        progress: mpsc::Sender<Progress>,
    ) -> Result<(), Error> {
        let _ = (archive, quiet, progress);
        todo!()
    }
    /// Returns the new image's ID.
    pub async fn image_import(
        &self,
        archive: DuplexStream,
        repo: &str,
        tag: &str,
        message: &str,
        changes: &[String],
        platform: &str,
    ) -> Result<String, Error> {
        let _ = (archive, repo, tag, message, changes, platform);
        todo!()
    }
    /// Only images that ship with berth ("hello-world") until registries come;
    /// others are `NotImplemented`.
    pub async fn image_pull(
        &self,
        name: &str,
        tag: &str,
        progress: mpsc::Sender<Progress>,
    ) -> Result<(), Error> {
        let _ = (name, tag, progress);
        todo!()
    }

    // Containers
    pub async fn container_create(
        &self,
        name: &str,
        platform: &str,
        request: CreateRequest,
    ) -> Result<CreateResponse, Error> {
        let _ = (name, platform, request);
        todo!()
    }
    pub async fn container_list(
        &self,
        all: bool,
        limit: usize,
        size: bool,
        filters: &Filters,
    ) -> Result<Vec<Summary>, Error> {
        let _ = (all, limit, size, filters);
        todo!()
    }
    pub async fn container_inspect(&self, name: &str, size: bool) -> Result<Inspect, Error> {
        let _ = (name, size);
        todo!()
    }
    /// `NotModified` when it runs already.
    pub async fn container_start(&self, name: &str) -> Result<(), Error> {
        let _ = name;
        todo!()
    }
    /// `timeout` in seconds, negative = wait for ever; `NotModified` when it is stopped already.
    pub async fn container_stop(
        &self,
        name: &str,
        signal: &str,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let _ = (name, signal, timeout);
        todo!()
    }
    pub async fn container_restart(
        &self,
        name: &str,
        signal: &str,
        timeout: Option<i64>,
    ) -> Result<(), Error> {
        let _ = (name, signal, timeout);
        todo!()
    }
    /// Signal by name ("SIGKILL", "KILL") or number; empty = SIGKILL.
    pub async fn container_kill(&self, name: &str, signal: &str) -> Result<(), Error> {
        let _ = (name, signal);
        todo!()
    }
    pub async fn container_pause(&self, name: &str) -> Result<(), Error> {
        let _ = name;
        todo!()
    }
    pub async fn container_unpause(&self, name: &str) -> Result<(), Error> {
        let _ = name;
        todo!()
    }
    pub async fn container_rename(&self, name: &str, new: &str) -> Result<(), Error> {
        let _ = (name, new);
        todo!()
    }
    pub async fn container_resize(&self, name: &str, width: u16, height: u16) -> Result<(), Error> {
        let _ = (name, width, height);
        todo!()
    }
    pub async fn container_update(
        &self,
        name: &str,
        update: Update,
    ) -> Result<UpdateResponse, Error> {
        let _ = (name, update);
        todo!()
    }
    pub async fn container_remove(
        &self,
        name: &str,
        force: bool,
        volumes: bool,
    ) -> Result<(), Error> {
        let _ = (name, force, volumes);
        todo!()
    }
    pub async fn container_prune(&self, filters: &Filters) -> Result<PruneReport, Error> {
        let _ = filters;
        todo!()
    }
    /// The outer result is known at once (no such container); the reply is sent
    /// when the condition holds.
    pub async fn container_wait(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<WaitResponse>, Error> {
        let _ = (name, condition);
        todo!()
    }
    /// Works before the start too: the stream then waits for it.
    pub async fn container_attach(
        &self,
        name: &str,
        options: AttachOptions,
    ) -> Result<Attachment, Error> {
        let _ = (name, options);
        todo!()
    }
    pub async fn container_logs(&self, name: &str, options: LogOptions) -> Result<Logs, Error> {
        let _ = (name, options);
        todo!()
    }
    /// `ps` options as Docker's: "-ef" when empty.
    pub async fn container_top(&self, name: &str, ps_args: &str) -> Result<Top, Error> {
        let _ = (name, ps_args);
        todo!()
    }
    /// One sample; `previous` fills `precpu_stats`.
    pub async fn container_stats(
        &self,
        name: &str,
        previous: Option<&Stats>,
    ) -> Result<Stats, Error> {
        let _ = (name, previous);
        todo!()
    }

    // Execs
    pub async fn exec_create(
        &self,
        container: &str,
        config: ExecConfig,
    ) -> Result<ExecCreated, Error> {
        let _ = (container, config);
        todo!()
    }
    /// Starts it; `None` when detached. Sizes in columns and rows.
    pub async fn exec_start(
        &self,
        id: &str,
        detach: bool,
        tty: bool,
        size: (u16, u16),
    ) -> Result<Option<Attachment>, Error> {
        let _ = (id, detach, tty, size);
        todo!()
    }
    pub async fn exec_resize(&self, id: &str, width: u16, height: u16) -> Result<(), Error> {
        let _ = (id, width, height);
        todo!()
    }
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecInspect, Error> {
        let _ = id;
        todo!()
    }

    // Networks (more comes later)
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<network::Network>, Error> {
        let _ = filters;
        todo!()
    }
    pub async fn network_inspect(&self, name: &str) -> Result<network::Network, Error> {
        let _ = name;
        todo!()
    }
}

/// Whether an event passes the filters of `GET /events`.
pub fn event_matches(event: &Event, filters: &Filters) -> bool {
    let _ = (event, filters);
    todo!()
}
