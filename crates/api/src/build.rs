//! berth's own way to build: one connection, on which the engine asks for what
//! it needs, so that only files that changed are ever sent.
//!
//! `POST /build/session` with `Upgrade: berth-build` and `Connection: Upgrade`
//! is answered by 101; then both sides send frames:
//!
//! ```text
//! length: u32 big-endian, of what follows; kind: u8; channel: u32 big-endian; payload
//! ```
//!
//! Kind 0 carries one JSON message ([`ToEngine`] or [`ToClient`]); its channel
//! is 0. Kind 1 carries bytes of a channel, kind 2 ends a channel (no payload).
//! A channel is opened by the message that names it; the side that asked
//! chooses the number. No frame is longer than [`MAX_FRAME`].
//!
//! ```text
//! client                               engine
//!   Start ─────────────────────────────▶
//!   ◀─────────────────────────── Walk { context, channel }
//!   Stats… (as JSON lines in the channel), end ───▶
//!   ◀─────────────────────────── Read { context, files, channel }
//!   bytes of the files, one after the other, end ─▶
//!   ◀─────────────────────────── Status, Warning …
//!   ◀─────────────────────────── Secret / Ssh / Output …
//!   ◀─────────────────────────── Done or Failed
//! ```
//!
//! The client's end of the connection is the end of the build: what runs is
//! killed. Values of secrets never leave memory on either side.
//!
//! Each direction of a channel ends by itself. `Refused` before anything came
//! on the channel answers the request; after that it fails the build, and the
//! channel is not ended. The engine ends its direction of a channel, too, when
//! it wants no more of it; what comes after that is thrown away. Both sides
//! always read, whatever they are writing: who waits with reading until all
//! is written may wait for ever. In frames of Rust: [`frame`].

pub mod frame;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::Ulimit;
use crate::registry::AuthConfig;

/// Bytes after the length.
pub const MAX_FRAME: usize = 1 << 20;
pub const PROTOCOL: &str = "berth-build";

/// What is built, how, and where it goes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildRequest {
    /// Shown with errors: "Dockerfile", "stdin".
    pub dockerfile_name: String,
    /// Text of the Dockerfile, when the client has it; else it is read from
    /// the main context (which then is remote) at `dockerfile_name`.
    pub dockerfile: Option<String>,
    /// The main one is "context".
    pub contexts: BTreeMap<String, ContextSource>,
    pub target: String,
    /// null: taken from the client's environment and unset there.
    pub build_args: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    /// "os/architecture[/variant]"; empty = the engine's.
    pub platforms: Vec<String>,
    pub tags: Vec<String>,
    pub no_cache: bool,
    pub no_cache_filter: Vec<String>,
    /// Look for newer base images.
    pub pull: bool,
    /// "default", "none", "host".
    pub network: String,
    /// "name:address"; "host-gateway" as address.
    pub extra_hosts: Vec<String>,
    pub outputs: Vec<Output>,
    pub cache_from: Vec<CacheSpec>,
    pub cache_to: Vec<CacheSpec>,
    /// Those that the client can give.
    pub secrets: Vec<String>,
    pub ssh: Vec<String>,
    /// "network.host", "security.insecure".
    pub allow: Vec<String>,
    /// "", "check", "outline", "targets" (with ",format=json" split off).
    pub call: String,
    pub limits: Limits,
    /// By registry host.
    pub auth: BTreeMap<String, AuthConfig>,
    /// "image" annotations, keys as `[level:]key`.
    pub annotations: BTreeMap<String, String>,
}

/// Bounds of each step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes; 0 = none.
    pub memory: i64,
    /// Bytes, memory included; -1 = unlimited, 0 = twice the memory.
    pub memory_swap: i64,
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    pub cpu_quota: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Bytes of /dev/shm; 0 = the daemon's default.
    pub shm_size: i64,
    pub ulimits: Vec<Ulimit>,
    pub cgroup_parent: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContextSource {
    /// No files.
    Empty,
    /// The client's directory. `identity` is the same for the same directory of
    /// the same machine and user: what was sent before need not be sent again.
    Client { identity: String },
    /// The client sends a tar stream when asked by [`ToClient::Archive`].
    Archive,
    /// git or http address.
    Remote { url: String },
    /// `docker-image://`.
    Image { reference: String },
    /// `oci-layout://`: the client sends the layout as a tar stream when asked
    /// by [`ToClient::Archive`].
    Layout { digest: String },
}

/// `--output`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Output {
    /// "image", "registry" (image and push), "docker", "oci", "local", "tar",
    /// "cacheonly".
    pub kind: String,
    /// name, push, compression, compression-level, force-compression,
    /// oci-mediatypes, annotation.*, platform-split, mode, … `dest` stays with
    /// the client: what it gets comes on a channel.
    pub attributes: BTreeMap<String, String>,
}

/// `--cache-from`, `--cache-to`: "inline", "registry", "local".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheSpec {
    pub kind: String,
    pub attributes: BTreeMap<String, String>,
}

/// Client → engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToEngine {
    /// First message.
    Start { request: Box<BuildRequest> },
    /// Answers a request that could not be served; the channel is not used.
    Refused { channel: u32, message: String },
    /// Answer to `Secret`: its value follows on the channel, then its end.
    /// Absent: there is none of that name.
    SecretValue { channel: u32, found: bool },
}

/// Engine → client.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToClient {
    /// List a context: one [`Stat`] per line on the channel, each directory
    /// followed by what is in it, in the order of names' bytes, without what
    /// `.dockerignore` leaves out.
    Walk {
        context: String,
        channel: u32,
    },
    /// Send the contents of files: numbers of lines of that walk, ascending;
    /// one after the other on the channel, each exactly as long as its stat
    /// said (a file that changed meanwhile is refused).
    Read {
        context: String,
        files: Vec<u32>,
        channel: u32,
    },
    /// Send the tar stream.
    Archive {
        context: String,
        channel: u32,
    },
    Secret {
        id: String,
        channel: u32,
    },
    /// Connect to the agent of that name: bytes go both ways until either side
    /// ends the channel.
    Ssh {
        id: String,
        channel: u32,
    },
    /// A tar stream of output number `index` follows on the channel ("local":
    /// unpack it; "oci", "docker", "tar": write it as it is).
    Output {
        index: usize,
        channel: u32,
    },
    /// The local cache (`type=local`): a tar stream of its directory to or from
    /// the client.
    CacheOut {
        index: usize,
        channel: u32,
    },
    CacheIn {
        index: usize,
        channel: u32,
    },
    Status(Box<Status>),
    Done {
        result: Box<BuildResult>,
    },
    /// The error, and the place in the Dockerfile to show above it.
    Failed {
        message: String,
        excerpt: String,
        /// Of a RUN that failed; else 0.
        #[serde(default)]
        exit_code: i32,
    },
}

/// One line of a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stat {
    #[serde(rename = "p")]
    pub path: String,
    /// `st_mode`, type bits included.
    #[serde(rename = "m")]
    pub mode: u32,
    #[serde(rename = "s", skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Nanoseconds since 1970. With inode and ctime it tells whether the file
    /// is as it was.
    #[serde(rename = "t", skip_serializing_if = "is_zero_i")]
    pub mtime: i64,
    #[serde(rename = "c", skip_serializing_if = "is_zero_i")]
    pub ctime: i64,
    #[serde(rename = "i", skip_serializing_if = "is_zero")]
    pub inode: u64,
    /// Target of a symbolic link.
    #[serde(rename = "l", skip_serializing_if = "String::is_empty")]
    pub link: String,
    /// Path of an earlier entry that is the same file.
    #[serde(rename = "h", skip_serializing_if = "String::is_empty")]
    pub hard_link: String,
    /// Major and minor of a device.
    #[serde(rename = "d", skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
    /// Names and values, base64; only `security.capability` and `user.*`.
    #[serde(rename = "x", skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_zero_i(value: &i64) -> bool {
    *value == 0
}

/// BuildKit's `SolveStatus`: what `--progress=rawjson` prints, line by line.
/// Times are RFC 3339 with nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vertexes: Vec<Vertex>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<VertexStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<VertexLog>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<VertexWarning>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vertex {
    pub digest: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VertexStatus {
    pub id: String,
    pub vertex: String,
    pub name: String,
    pub total: i64,
    pub current: i64,
    pub timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VertexLog {
    pub vertex: String,
    /// 1 = output, 2 = errors.
    pub stream: i32,
    /// Base64.
    pub data: String,
    pub timestamp: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VertexWarning {
    pub vertex: String,
    pub level: i32,
    /// Base64: name of the check and what it says.
    pub short: String,
    /// Each base64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
}

/// What came of a build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildResult {
    /// Manifest or index; empty without an image output.
    pub image: String,
    pub config: String,
    pub names: Vec<String>,
    /// What `--metadata-file` gets ("containerimage.digest", …).
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// What `--call` prints, as JSON.
    pub call: Option<serde_json::Value>,
}

go_struct! {
    /// Reply of `POST /build/prune`. What the cache holds is listed in
    /// [`crate::usage::BuildCacheUsage`].
    pub struct PruneReport {
        caches_deleted: Option<Vec<String>>,
        space_reclaimed: u64,
    }
}

go_struct! {
    /// What `GET /system/df` lists of the build cache.
    pub struct CacheRecord {
        #[serde(rename = "ID")]
        id: String,
        /// The space is Docker's.
        #[serde(rename = " Parents", alias = "Parents", skip_serializing_if = "Vec::is_empty")]
        parents: Vec<String>,
        /// "regular", "source.local", "exec.cachemount", "source.git.checkout".
        r#type: String,
        description: String,
        in_use: bool,
        /// With an image or a container: removing it gives no space back.
        shared: bool,
        /// Bytes on disk; what two records have in common is in the older
        /// one's.
        size: i64,
        created_at: String,
        last_used_at: Option<String>,
        usage_count: i64,
        /// Why it stays: an extension of berth's own.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        reasons: Vec<String>,
    }
}

/// What `--call=check` gives: BuildKit's `frontend.lint` result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LintResult {
    pub warnings: Vec<LintWarning>,
    pub sources: Vec<SourceInfo>,
    /// Why a build would fail.
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    pub build_error: Option<LintError>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LintWarning {
    #[serde(rename = "ruleName")]
    pub rule_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    pub location: Location,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LintError {
    pub message: String,
    pub location: Location,
}

/// A text that locations are in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceInfo {
    pub filename: String,
    /// Base64.
    pub data: String,
    pub language: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Location {
    #[serde(rename = "sourceIndex", skip_serializing_if = "is_zero")]
    pub source_index: u64,
    /// One per line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<SourceRange>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceRange {
    pub start: Position,
    pub end: Position,
}

/// The first line is 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Position {
    #[serde(skip_serializing_if = "is_zero")]
    pub line: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub character: u64,
}

/// What `--call=outline` gives: BuildKit's `frontend.outline` result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outline {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OutlineArgument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<OutlineNeed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<OutlineNeed>,
    /// Base64.
    pub sources: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutlineArgument {
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    pub location: Location,
}

/// A secret or an SSH agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutlineNeed {
    pub name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    pub location: Location,
}

/// What `--call=targets` gives: BuildKit's `frontend.targets` result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetList {
    pub targets: Vec<Target>,
    /// Base64.
    pub sources: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Target {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "default", skip_serializing_if = "std::ops::Not::not")]
    pub is_default: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub platform: String,
    pub location: Location,
}
