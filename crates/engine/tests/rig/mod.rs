//! An engine of the test's own, in this process.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex};

use berth_api::Error;
use berth_api::build::{BuildRequest, BuildResult, Stat};
use berth_build::progress::Event;
use berth_engine::build::{Ask, Failure, Peer};
use berth_engine::{BridgeOptions, Config, Engine};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

pub(crate) struct Rig {
    engine: Engine,
    dir: PathBuf,
    cgroup: String,
    events: Arc<Mutex<Vec<Event>>>,
    asked: Arc<Mutex<Vec<String>>>,
    taken: Taken,
}

/// What the client got, by number of output.
type Taken = Arc<Mutex<BTreeMap<usize, Vec<u8>>>>;

impl Rig {
    /// Runs a test in a process's own network namespace, on a thread of its own.
    pub(crate) fn run(test: impl AsyncFnOnce(&Rig) + Send + 'static) {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        let work = move || {
            // This thread only, and those that it starts.
            berth_sys::netns::unshare_network().unwrap();
            assert!(
                Command::new("ip")
                    .args(["link", "set", "lo", "up"])
                    .status()
                    .unwrap()
                    .success()
            );
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let dir = tempfile::Builder::new()
                .prefix("berth-builds-")
                .tempdir_in("/var/tmp")
                .unwrap();
            let cgroup = format!("/berth-builds-{}", std::process::id());
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                runtime.block_on(async {
                    let rig = Self::open(dir.path(), &cgroup).await;
                    test(&rig).await;
                    rig.engine.close().await;
                });
            }));
            drop(runtime);
            end(dir.path(), &cgroup);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        };
        std::thread::spawn(work)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    async fn open(dir: &Path, cgroup: &str) -> Self {
        let config = Config {
            data_root: dir.join("data"),
            exec_root: dir.join("run"),
            runtime: runtime(),
            cgroup_parent: cgroup.to_owned(),
            bridge: BridgeOptions {
                mtu: 1500,
                masquerade: false,
                ..BridgeOptions::default()
            },
            registries: berth_engine::RegistryOptions::default(),
            image_gc: berth_engine::Limits::default(),
            build_gc: berth_engine::BuildGc::Off,
            log_driver: "json-file".into(),
            log_opts: BTreeMap::new(),
            labels: Vec::new(),
            default_ulimits: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_opts: Vec::new(),
            default_shm_size: 64 << 20,
            default_ipc_mode: "private".into(),
            default_cgroupns_mode: "host".into(),
            default_stop_timeout: 10,
            no_new_privileges: false,
            seccomp_profile: "builtin".into(),
            init: false,
            experimental: false,
            debug: false,
            network_pool: 4,
        };
        let engine = Engine::open(config).await.unwrap();
        let (mut inside, outside) = tokio::io::duplex(1 << 20);
        let archive = busybox();
        let write = async move {
            inside.write_all(&archive).await.unwrap();
            inside.shutdown().await.unwrap();
        };
        let import = engine.image_import(outside, "busybox", "latest", "", &[], "");
        let (imported, ()) = tokio::join!(import, write);
        imported.unwrap();
        Self {
            engine,
            dir: dir.to_owned(),
            cgroup: cgroup.to_owned(),
            events: Arc::default(),
            asked: Arc::default(),
            taken: Arc::default(),
        }
    }

    #[allow(dead_code, reason = "not every test looks at it")]
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    #[allow(dead_code, reason = "not every test looks at it")]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the client got as output of that number.
    #[allow(dead_code, reason = "not every test looks at it")]
    pub(crate) fn taken(&self, index: usize) -> Vec<u8> {
        self.taken.lock().unwrap()[&index].clone()
    }

    pub(crate) async fn build(&self, request: BuildRequest) -> Result<BuildResult, Failure> {
        self.events.lock().unwrap().clear();
        let events = self.events.clone();
        let sink = Arc::new(move |event| events.lock().unwrap().push(event));
        let client = Client {
            context: self.context(),
            asked: self.asked.clone(),
            walked: Mutex::default(),
            taken: self.taken.clone(),
        };
        self.asked.lock().unwrap().clear();
        self.engine.build(request, Arc::new(client), sink).await
    }

    /// The client's directory.
    pub(crate) fn context(&self) -> PathBuf {
        let path = self.dir.join("context");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Files whose contents the last build asked the client for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn output(&self, errors: bool) -> String {
        let mut bytes = Vec::new();
        for event in self.events() {
            if let Event::Log { stderr, data, .. } = event
                && stderr == errors
            {
                bytes.extend(data);
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Steps that were started and not known.
    pub(crate) fn ran(&self) -> usize {
        let events = self.events();
        let is_run = |id: &usize| {
            events.iter().any(|event| {
                matches!(event, Event::Known { id: known, name, .. } if known == id && name.contains("RUN"))
            })
        };
        let cached = |id: &usize| {
            events
                .iter()
                .any(|event| matches!(event, Event::Cached(known) if known == id))
        };
        let started = events.iter().filter_map(|event| match event {
            Event::Started(id) => Some(id),
            _ => None,
        });
        started.filter(|id| is_run(id) && !cached(id)).count()
    }

    /// What the built image has above busybox, by `docker save` of it.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let layers = self.layers();
        for layer in layers.iter().skip(1) {
            let mut archive = tar::Archive::new(layer.as_slice());
            for entry in archive.entries().unwrap() {
                let path = entry
                    .unwrap()
                    .path()
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.push(path.trim_end_matches('/').to_owned());
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// Plain layers of the image "built".
    fn layers(&self) -> Vec<Vec<u8>> {
        let blobs = self.dir.join("data/blobs/sha256");
        let images: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.dir.join("data/images.json")).unwrap())
                .unwrap();
        let id = find_name(&images, "docker.io/library/built:latest").unwrap();
        let read =
            |digest: &str| std::fs::read(blobs.join(digest.trim_start_matches("sha256:"))).unwrap();
        let mut manifest: serde_json::Value = serde_json::from_slice(&read(&id)).unwrap();
        if let Some(inner) = manifest["manifests"][0]["digest"].as_str() {
            manifest = serde_json::from_slice(&read(inner)).unwrap();
        }
        let layers = manifest["layers"].as_array().unwrap().clone();
        layers
            .iter()
            .map(|layer| {
                let bytes = read(layer["digest"].as_str().unwrap());
                if bytes.starts_with(&[0x1f, 0x8b]) {
                    let mut plain = Vec::new();
                    std::io::Read::read_to_end(
                        &mut flate2::read::MultiGzDecoder::new(bytes.as_slice()),
                        &mut plain,
                    )
                    .unwrap();
                    plain
                } else {
                    bytes
                }
            })
            .collect()
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        let list = |path: &str| {
            std::fs::read_dir(self.dir.join(path))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
        };
        list("run/build")
            .chain(list("data/snapshots"))
            .chain(list("run/containers"))
            .collect()
    }

    pub(crate) fn nothing_is_left(&self) {
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new());
        let _ = &self.cgroup;
    }

    pub(crate) async fn nothing_is_left_soon(&self) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !self.leftovers().is_empty() && std::time::Instant::now() < end {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.nothing_is_left();
    }
}

/// The ID of the image with that name.
fn find_name(value: &serde_json::Value, name: &str) -> Option<String> {
    if let Some(names) = value["names"].as_array()
        && names.iter().any(|known| known == name)
    {
        return value["id"].as_str().map(str::to_owned);
    }
    match value {
        serde_json::Value::Array(list) => list.iter().find_map(|value| find_name(value, name)),
        serde_json::Value::Object(map) => map.values().find_map(|value| find_name(value, name)),
        _ => None,
    }
}

fn runtime() -> PathBuf {
    let dir = std::env::var_os("BERTH_BIN_DIR").map_or_else(
        || {
            let own = std::env::current_exe().unwrap();
            own.parent().unwrap().parent().unwrap().to_owned()
        },
        PathBuf::from,
    );
    let runtime = dir.join("berth-runtime");
    assert!(runtime.is_file(), "{} is not built", runtime.display());
    runtime
}

/// A root filesystem with the machine's static busybox.
fn busybox() -> Vec<u8> {
    let program = ["/usr/bin/busybox", "/bin/busybox"]
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .expect("busybox-static is installed: run scripts/setup.sh");
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind, mode, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        archive.append_data(&mut header, path, data).unwrap();
    };
    for dir in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        add(dir, tar::EntryType::Directory, 0o755, &[]);
    }
    add("bin/busybox", tar::EntryType::Regular, 0o755, &program);
    add(
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\n",
    );
    add("etc/group", tar::EntryType::Regular, 0o644, b"root:x:0:\n");
    for applet in [
        "sh", "cat", "echo", "true", "sleep", "ls", "id", "env", "grep", "tail", "wc", "ip",
        "mount", "touch", "mkdir", "rm", "stat", "dd", "hostname", "df", "sort", "ln", "test",
        "nc",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        archive
            .append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    archive.into_inner().unwrap()
}

/// Ends the launcher and what it started, by their control group.
fn end(dir: &Path, cgroup: &str) {
    let _ = dir;
    for round in 0..200 {
        let mut left = false;
        for procs in groups(cgroup) {
            for pid in std::fs::read_to_string(procs.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
            {
                left = true;
                if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
        if !left {
            break;
        }
        if round > 1 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    let mut all = groups(cgroup);
    all.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in all {
        let _ = std::fs::remove_dir(path);
    }
}

fn groups(cgroup: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut list = Vec::new();
    for mount in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let root = Path::new(mount.split(' ').nth(4).unwrap()).join(cgroup.trim_start_matches('/'));
        collect(&root, &mut list);
    }
    list
}

fn collect(path: &Path, list: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(path) else {
        return;
    };
    list.push(path.to_owned());
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        collect(&entry.path(), list);
    }
}

/// Has one secret, "key", one agent, "default", which says back what it is
/// told, and one directory.
struct Client {
    context: PathBuf,
    /// Paths whose contents were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    walked: Mutex<Vec<Stat>>,
    taken: Taken,
}

impl Client {
    /// Depth first, names in the order of their bytes.
    fn walk(&self) -> Vec<u8> {
        let mut stats = Vec::new();
        visit(&self.context, "", &mut stats);
        let mut bytes = Vec::new();
        for stat in &stats {
            serde_json::to_writer(&mut bytes, stat).unwrap();
            bytes.push(b'\n');
        }
        *self.walked.lock().unwrap() = stats;
        bytes
    }

    fn read(&self, files: &[u32]) -> Vec<u8> {
        let stats = self.walked.lock().unwrap();
        let mut bytes = Vec::new();
        for &file in files {
            let path = &stats[file as usize].path;
            self.asked.lock().unwrap().push(path.clone());
            bytes.extend(std::fs::read(self.context.join(path)).unwrap());
        }
        bytes
    }
}

fn visit(dir: &Path, within: &str, stats: &mut Vec<Stat>) {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    for name in names {
        let path = dir.join(&name);
        let metadata = path.symlink_metadata().unwrap();
        let name = format!("{within}{}", name.to_str().unwrap());
        let kind = metadata.file_type();
        stats.push(Stat {
            path: name.clone(),
            mode: metadata.mode(),
            size: if kind.is_file() { metadata.size() } else { 0 },
            mtime: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            ctime: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
            inode: metadata.ino(),
            link: std::fs::read_link(&path)
                .map_or_else(|_| String::new(), |to| to.to_str().unwrap().to_owned()),
            ..Stat::default()
        });
        if kind.is_dir() {
            visit(&path, &format!("{name}/"), stats);
        }
    }
}

fn stream(bytes: Vec<u8>) -> DuplexStream {
    let (mut inside, outside) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let _ = inside.write_all(&bytes).await;
        let _ = inside.shutdown().await;
    });
    outside
}

impl Peer for Client {
    fn ask(
        &self,
        ask: Ask,
    ) -> Pin<Box<dyn Future<Output = Result<DuplexStream, Error>> + Send + '_>> {
        Box::pin(async move {
            match ask {
                Ask::Secret { id } if id == "key" => Ok(stream(b"value\n".to_vec())),
                Ask::Output { index } => {
                    let (mut inside, outside) = tokio::io::duplex(64 << 10);
                    let taken = self.taken.clone();
                    tokio::spawn(async move {
                        let mut data = Vec::new();
                        inside.read_to_end(&mut data).await.unwrap();
                        taken.lock().unwrap().insert(index, data);
                    });
                    Ok(outside)
                }
                Ask::Secret { id } => Err(Error::not_found(format!("secret {id}"))),
                Ask::Ssh { .. } => {
                    let (mut inside, outside) = tokio::io::duplex(64);
                    tokio::spawn(async move {
                        let mut word = [0; 5];
                        if inside.read_exact(&mut word).await.is_ok() {
                            let _ = inside.write_all(&word).await;
                        }
                    });
                    Ok(outside)
                }
                Ask::Walk { .. } => Ok(stream(self.walk())),
                Ask::Read { files, .. } => Ok(stream(self.read(&files))),
                Ask::Archive { .. } => {
                    let mut archive = tar::Builder::new(Vec::new());
                    archive.follow_symlinks(false);
                    archive.append_dir_all(".", &self.context).unwrap();
                    Ok(stream(archive.into_inner().unwrap()))
                }
                _ => Err(Error::not_implemented("this client cannot")),
            }
        })
    }
}
