//! The packaged docker-registry on a loopback port and root of its own, and
//! blobs to push.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_registry::client::{Access, BlobSource, Client, Credentials, Options, Repository};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Ends with the test that started it.
pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
    _dir: TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::with("", "")
    }

    /// With more lines in the section "http", and more sections.
    pub(crate) fn with(http: &str, sections: &str) -> Self {
        Self::at("127.0.0.1", http, sections)
    }

    pub(crate) fn at(address: &str, http: &str, sections: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let config = dir.path().join("config.yml");
        let root = dir.path().join("data").display().to_string();
        // Port 0 cannot be asked for its number: the log says it.
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {root}\n  \
                 delete:\n    enabled: true\nhttp:\n  addr: {address}:0\n{http}{sections}"
            ),
        )
        .unwrap();
        Self::run(dir, &config)
    }

    fn run(dir: TempDir, config: &PathBuf) -> Self {
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker-registry is not installed: run scripts/setup.sh");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut host = None;
        while host.is_none() {
            let mut line = String::new();
            assert!(
                log.read_line(&mut line).unwrap() > 0,
                "docker-registry ended"
            );
            host = line
                .split_once("listening on ")
                .map(|(_, rest)| rest.split(['"', ',']).next().unwrap().trim().to_owned());
        }
        // Nobody may write to a closed pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self {
            child,
            host: host.unwrap(),
            _dir: dir,
        }
    }

    pub(crate) fn repository(&self, client: &Client, name: &str, access: Access) -> Repository {
        client
            .repository(&self.host, name, &Credentials::default(), access)
            .unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn options() -> Options {
    Options {
        user_agent: "berth-test".to_owned(),
        // Not those of the machine.
        config_dirs: vec![PathBuf::from("/nonexistent")],
        ..Options::default()
    }
}

pub(crate) fn client() -> Client {
    Client::new(options()).unwrap()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// Bytes that do not repeat.
pub(crate) fn noise(length: usize) -> Bytes {
    let mut state = length as u64 + 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// A blob in memory that counts how often it was opened.
pub(crate) struct Source {
    pub(crate) bytes: Bytes,
    pub(crate) opened: AtomicUsize,
}

impl Source {
    pub(crate) fn new(bytes: &Bytes) -> Self {
        Self {
            bytes: bytes.clone(),
            opened: AtomicUsize::new(0),
        }
    }
}

impl BlobSource for Source {
    fn open(&self, offset: u64) -> std::io::Result<BoxStream<'static, std::io::Result<Bytes>>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let mut rest = self.bytes.slice(usize::try_from(offset).unwrap()..);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            pieces.push(Ok(rest.split_to(rest.len().min(1 << 20))));
        }
        Ok(stream::iter(pieces).boxed())
    }
}

pub(crate) async fn push(repository: &Repository, bytes: &Bytes) -> String {
    let digest = digest(bytes);
    let source = Source::new(bytes);
    repository
        .push_blob(&digest, bytes.len() as u64, &source, &|_| ())
        .await
        .unwrap();
    digest
}

pub(crate) async fn read(repository: &Repository, digest: &str, offset: u64) -> Vec<u8> {
    let mut blob = repository.blob(digest, offset, &[]).await.unwrap();
    assert_eq!(blob.offset, offset);
    let mut all = Vec::new();
    while let Some(piece) = blob.stream.next().await {
        all.extend_from_slice(&piece.unwrap());
    }
    all
}

/// A manifest with the blob as configuration and only layer.
pub(crate) fn manifest(digest: &str, size: usize) -> Bytes {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{size}}}]}}"#
    )
    .into()
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
