//! `berth registry serve` on the loopback, and curl to talk to it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use crate::Run;
use crate::engine::bin_dir;

/// A registry of our own with its root in a directory of its own.
#[derive(Debug)]
pub struct Served {
    dir: tempfile::TempDir,
    flags: Vec<String>,
    child: Option<Child>,
    /// "127.0.0.1:12345"
    pub host: String,
    /// "http://127.0.0.1:12345"
    pub url: String,
}

/// What came of a request.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Served {
    pub fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory is to be had");
        Self::start_in(dir, flags)
    }

    /// The same with files already there, which flags may name.
    pub fn start_in(dir: tempfile::TempDir, flags: &[&str]) -> Self {
        let mut served = Self {
            dir,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            child: None,
            host: "127.0.0.1:0".to_owned(),
            url: String::new(),
        };
        served.launch();
        served
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// Starts it at the port it had, and waits until it serves.
    pub fn launch(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir().join("log"))
            .expect("the directory can be written");
        let mut child = Command::new(bin_dir().join("berth"))
            .args(["registry", "serve", "--addr", &self.host, "--root"])
            .arg(self.root())
            .args(&self.flags)
            .env("BERTH_LOG_LEVEL", "debug")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("berth is built");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is a pipe"))
            .read_line(&mut line)
            .expect("a pipe can be read");
        self.child = Some(child);
        self.url = line
            .trim()
            .strip_prefix("Serving the registry at ")
            .unwrap_or_else(|| panic!("the registry did not come up:\n{}", self.log()))
            .to_owned();
        self.host = self
            .url
            .split("://")
            .nth(1)
            .expect("it is a URL")
            .to_owned();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().expect("it runs").id();
        let pid = Pid::from_raw(pid.cast_signed()).expect("it runs");
        rustix::process::kill_process(pid, signal).expect("it is ours");
    }

    /// kill -9
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }

    /// SIGTERM; the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let mut child = self.child.take()?;
        child.wait().expect("it is ours").code()
    }

    /// "/v2/…" with curl.
    pub fn curl(&self, path: &str, args: &[&str]) -> Reply {
        curl(&format!("{}{path}", self.url), args, b"")
    }

    /// The same with a body.
    pub fn send(&self, path: &str, args: &[&str], body: &[u8]) -> Reply {
        let mut all = vec!["--data-binary", "@-"];
        all.extend(args);
        curl(&format!("{}{path}", self.url), &all, body)
    }

    /// Uploads a blob in one request; its digest.
    pub fn push_blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = crate::oci::digest(bytes);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let reply = self.send(&path, &["-X", "POST"], bytes);
        assert_eq!(reply.status, 201, "{reply:?}");
        digest
    }

    pub fn put_manifest(&self, name: &str, reference: &str, kind: &str, bytes: &[u8]) -> Reply {
        let header = format!("Content-Type: {kind}");
        let path = format!("/v2/{name}/manifests/{reference}");
        self.send(&path, &["-X", "PUT", "-H", &header], bytes)
    }

    /// Pushes all blobs and manifests, and the tags.
    pub fn push(&self, name: &str, content: &crate::oci::Content) {
        for bytes in content.blobs.values() {
            self.push_blob(name, bytes);
        }
        let mut entries: Vec<_> = content.manifests.iter().collect();
        // Images before the indexes that name them, digests before tags.
        entries.sort_by_key(|(reference, (kind, _))| {
            (kind == crate::oci::INDEX, !reference.contains(':'))
        });
        for (reference, (kind, digest)) in entries {
            let reply = self.put_manifest(name, reference, kind, &content.blobs[digest]);
            assert_eq!(reply.status, 201, "{reply:?}");
        }
    }

    /// `skopeo ARGS` with credentials of its own.
    pub fn skopeo(&self, args: &[&str]) -> Run {
        self.tool("skopeo", args)
    }

    pub fn tool(&self, program: &str, args: &[&str]) -> Run {
        Run::new(
            Command::new(program)
                .args(args)
                .env("REGISTRY_AUTH_FILE", self.dir().join("auth.json"))
                .env("HOME", self.dir()),
            b"",
        )
    }

    /// `berth ARGS`, which needs no engine for this.
    pub fn berth(&self, args: &[&str]) -> Run {
        self.berth_with(args, b"")
    }

    pub fn berth_with(&self, args: &[&str], input: &[u8]) -> Run {
        Run::new(
            Command::new(bin_dir().join("berth"))
                .args(args)
                .env("DOCKER_CONFIG", self.dir().join("config"))
                .env("BERTH_HOST", "unix:///nowhere/berth.sock")
                .env("BERTH_NO_AUTOSTART", "1"),
            input,
        )
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- registry log ---\n{}", self.log());
        }
        self.kill();
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Fails the test unless it is an error document with this code.
    #[track_caller]
    pub fn is_error(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.json()["errors"][0]["code"], code, "{self:?}");
    }
}

pub fn curl(url: &str, args: &[&str], body: &[u8]) -> Reply {
    use std::io::Write as _;
    let headers = tempfile::NamedTempFile::new().expect("a file is to be had");
    let mut child = Command::new("curl")
        .args(["-s", "-g", "--path-as-is", "-D"])
        .arg(headers.path())
        .args(args)
        .arg(url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("curl is installed");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let body = body.to_vec();
    // A server may answer before it has read all.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&body);
    });
    let output = child.wait_with_output().expect("curl runs");
    writer.join().expect("the writer does not panic");
    let text = std::fs::read_to_string(headers.path()).expect("curl wrote it");
    // After "100 Continue" comes the reply.
    let last = text.trim_end().split("\r\n\r\n").last().unwrap_or_default();
    let mut lines = last.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .unwrap_or_else(|| panic!("no reply from {url}: {:?}", output.status));
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    Reply {
        status,
        headers,
        body: output.stdout,
    }
}
