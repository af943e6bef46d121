//! The low-level definition of a build: a directed acyclic graph of
//! operations. Each maps onto an operation of BuildKit's LLB (`pb.Op`), so that
//! another front (its gRPC interface) can hand in graphs of its own.
//!
//! ```text
//! Image                  SourceOp docker-image://     → a root filesystem
//! Local, Git, Http       SourceOp local://, git://, https://  → a tree of files
//! Exec                   ExecOp                       → root + one layer
//! Files                  FileOp                       → root + one layer
//! Merge                  MergeOp                      → layers of all, in order
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_store::Platform;
use serde::{Deserialize, Serialize};

use crate::dockerfile::{Lines, Sharing};

/// Index of a vertex in [`Graph::vertices`].
pub type Id = usize;

/// Vertices in an order in which each comes after all its inputs. Only what is
/// needed for the outputs is ever run.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub vertices: Vec<Vertex>,
}

/// One operation, and what people are told about it.
#[derive(Clone, Debug)]
pub struct Vertex {
    pub op: Op,
    /// What the operation works on; it names them by their place in this list.
    pub inputs: Vec<Id>,
    /// As progress shows it: "[build 2/5] RUN make".
    pub name: String,
    /// The instruction as written, for the classic builder's "Step 1/3 : …".
    pub text: String,
    /// Where it stands in the Dockerfile.
    pub lines: Option<Lines>,
    /// `--no-cache`, `--no-cache-filter`: run even when the result is known
    /// from another build. Within a build it is run once.
    pub ignore_cache: bool,
}

/// Place in [`Vertex::inputs`].
pub type Input = usize;

/// What is done. All that decides the result is in here (and in the contents of
/// the inputs): its JSON is part of the cache key. Names, places and what does
/// not decide are `serde(skip)` or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Image(Image),
    Local(Local),
    Git(Git),
    Http(Http),
    Exec(Box<Exec>),
    Files(Files),
    /// Layers of all inputs, one after the other (`COPY --link`).
    Merge,
}

/// A root filesystem from an image, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// As people know it ("docker.io/library/debian:12").
    #[serde(skip)]
    pub reference: String,
    /// Manifest digest that the reference was resolved to when the build was
    /// planned; empty when nobody resolved it yet (`COPY --from=image`).
    pub digest: String,
    #[serde(skip)]
    pub platform: Platform,
}

/// Files from the client: the context, or a named one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    pub name: String,
    /// Only what these select is needed (slash paths from the root of the
    /// context, wildcards as in COPY); empty = all. A hint: more may come.
    #[serde(skip)]
    pub paths: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Git {
    /// Remote as git takes it.
    pub remote: String,
    /// Branch, tag, commit or ref; empty = the remote's HEAD.
    pub reference: String,
    /// Directory that becomes the root; empty = all.
    pub subdir: String,
    pub keep_git_dir: bool,
    /// Commit that it must be (`ADD --checksum`), whole or a prefix.
    pub checksum: String,
    pub submodules: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    pub url: String,
    /// "sha256:…" that the content must have.
    pub checksum: String,
    /// Name of the file; else from the answer, else from the address.
    pub filename: String,
}

/// Runs a program in the first input as root filesystem (none of index
/// [`Exec::root`] = scratch).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub root: Option<Input>,
    pub args: Vec<String>,
    /// In order; a later one of the same name wins.
    pub env: Vec<(String, String)>,
    /// `HTTP_PROXY` and the like: passed on, no part of the cache key.
    #[serde(skip)]
    pub proxies: Vec<(String, String)>,
    pub cwd: String,
    /// As USER has it; empty = root.
    pub user: String,
    pub hostname: String,
    pub network: crate::dockerfile::Network,
    pub security: crate::dockerfile::Security,
    /// "name:address".
    pub extra_hosts: Vec<String>,
    /// "name=soft:hard", of this build; a program may see them. That they hold
    /// is the worker's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ulimits: Vec<String>,
    /// Bytes of /dev/shm; 0 = the worker's default.
    #[serde(default)]
    pub shm_size: i64,
    pub mounts: Vec<Mount>,
    pub platform: Platform,
}

/// `RUN --mount`, variables replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute.
    pub target: String,
    pub kind: MountKind,
    pub read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A path of an input (none = an empty directory). Written to unless
    /// read-only; what is written is thrown away.
    Bind { from: Option<Input>, source: String },
    /// A directory that outlives the build, filled from an input at first.
    Cache {
        id: String,
        #[serde(skip)]
        sharing: Sharing,
        from: Option<Input>,
        source: String,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// Bytes; 0 = the kernel's default.
    Tmpfs { size: u64 },
    /// From the client. As a file at the target and, or, a variable.
    Secret {
        id: String,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
        /// No file if there is a variable only.
        file: bool,
        env: Option<String>,
    },
    /// Socket of the client's SSH agent.
    Ssh {
        id: String,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// Changes files; gives one layer on the base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// What is changed; none = scratch (`COPY --link`, `FROM scratch`).
    pub base: Option<Input>,
    pub actions: Vec<FileAction>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileAction {
    Copy(Copy),
    /// A file with this content (heredocs).
    Write {
        target: String,
        data: Arc<[u8]>,
        mode: Option<ModeChange>,
        owner: Option<String>,
    },
    /// WORKDIR. Parents are made, too; what is there stays as it is.
    MakeDir {
        path: String,
        /// Lower twelve bits.
        mode: u32,
        owner: Option<String>,
    },
}

/// COPY and ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    pub from: Input,
    /// From the root of the input; wildcards as Go's `filepath.Match`, and with
    /// `parents` also `**` and the pivot `/./`.
    pub sources: Vec<String>,
    /// Absolute. Ends with a slash when it must be a directory.
    pub target: String,
    /// "user[:group]", names or numbers, looked up in the base. None = 0:0 from
    /// a context, as they are from a root filesystem.
    pub owner: Option<String>,
    pub mode: Option<ModeChange>,
    pub parents: bool,
    pub exclude: Vec<String>,
    /// Archives are unpacked: never, when they are some (ADD of local files),
    /// or an error if it is none (`--unpack`).
    pub unpack: Unpack,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unpack {
    #[default]
    Never,
    Archives,
    Always,
}

/// `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModeChange {
    /// Lower twelve bits.
    Octal(u32),
    /// "u=rwX,go=rX", checked when planned.
    Symbolic(String),
}

/// What a Dockerfile comes to for one platform.
#[derive(Clone, Debug)]
pub struct Plan {
    pub graph: Graph,
    /// The filesystem of the target; none = scratch and nothing on it.
    pub output: Option<Id>,
    pub image: ImagePlan,
    pub platform: Platform,
}

/// What the image's configuration says besides its layers.
#[derive(Clone, Debug, Default)]
pub struct ImagePlan {
    /// The `config` of the OCI configuration, as Docker writes it (Healthcheck,
    /// OnBuild and Shell included).
    pub config: serde_json::Map<String, serde_json::Value>,
    pub author: String,
    /// Base image's other keys that stay ("os.features" and the like).
    pub base: serde_json::Map<String, serde_json::Value>,
    /// Base image's history, then one entry per instruction.
    pub history: Vec<History>,
    /// Seconds since 1970 for `created` and file times; none = no `created`,
    /// and files have [`crate::FILE_TIME`].
    pub source_date_epoch: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Only from base images, or by SOURCE_DATE_EPOCH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// The vertex whose layer it is. When that turns out to have changed
    /// nothing, the entry becomes an empty layer.
    #[serde(skip)]
    pub vertex: Option<Id>,
}

/// Build arguments and the like by name.
pub type Variables = BTreeMap<String, String>;
