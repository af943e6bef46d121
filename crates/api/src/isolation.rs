//! `GET /containers/{id}/isolation`: what holds a container. An operation of
//! berth's own; Docker has none like it.

go_struct! {
    /// Read from the kernel for a running container, not from its configuration.
    pub struct Isolation {
        namespaces: Vec<Namespace>,
        user: User,
        /// Names, as the first process holds them.
        capabilities: Vec<String>,
        /// What can never be gained again, by any program.
        bounding_capabilities: Vec<String>,
        /// "filter", "strict" or "none".
        seccomp: String,
        no_new_privileges: bool,
        masked_paths: Vec<String>,
        readonly_paths: Vec<String>,
        limits: Vec<Limit>,
        filesystem: Filesystem,
        /// What the container was given beyond the defaults, in sentences.
        loosened: Vec<String>,
    }
}

go_struct! {
    pub struct Namespace {
        /// "mnt", "pid", "net", …
        kind: String,
        /// The kernel's number of it.
        inode: u64,
        /// Whether the host's processes are in the same one.
        shared_with_host: bool,
    }
}

go_struct! {
    pub struct User {
        uid: u32,
        gid: u32,
        /// Lines of /proc/PID/uid_map: "inside outside count".
        uid_map: Vec<String>,
    }
}

go_struct! {
    /// One limited thing, in the unit given.
    pub struct Limit {
        name: String,
        used: Option<u64>,
        /// `None` = no limit.
        limit: Option<u64>,
        /// "bytes", "processes", "thousandths of a CPU".
        unit: String,
    }
}

go_struct! {
    pub struct Filesystem {
        readonly_root: bool,
        /// Read-only layers, topmost first.
        layers: Vec<Layer>,
        writable: String,
        /// Bytes.
        writable_size: u64,
    }
}

go_struct! {
    pub struct Layer {
        /// "erofs": one file, mounted; "directory".
        form: String,
        path: String,
        /// Bytes in its files.
        size: u64,
    }
}
