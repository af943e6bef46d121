//! Registries on the loopback of an engine's network namespace: the packaged
//! docker-registry, our own, and one that can be told to fail.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::engine::bin_dir;
use crate::oci::Content;
use crate::{Engine, eventually};

/// Bytes up to which a blob is taken for a configuration.
const SMALL: usize = 10_000;

/// A registry in a process of its own. It ends with the test.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    /// "127.0.0.1:5000"
    pub address: String,
}

pub use Registry as DockerRegistry;

impl Registry {
    /// The packaged docker-registry, without authentication.
    pub fn start(engine: &Engine, port: u16) -> Self {
        Self::start_with(engine, port, "")
    }

    /// The same with further sections of its configuration, in YAML.
    pub fn start_with(engine: &Engine, port: u16, more: &str) -> Self {
        let config = engine.dir().join(format!("registry-{port}.yml"));
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n{more}\n",
            root(engine, port)
        );
        std::fs::write(&config, text).expect("the directory can be written");
        let config = config.display().to_string();
        Self::spawn(engine, port, &["docker-registry", "serve", &config])
    }

    /// Our own.
    pub fn berth(engine: &Engine, port: u16) -> Self {
        let program = bin_dir().join("berth").display().to_string();
        let (address, root) = (format!("127.0.0.1:{port}"), root(engine, port));
        let words = [
            &*program, "registry", "serve", "--addr", &address, "--root", &root,
        ];
        Self::spawn(engine, port, &words)
    }

    fn spawn(engine: &Engine, port: u16, words: &[&str]) -> Self {
        let log = std::fs::File::create(engine.dir().join(format!("registry-{port}.log")))
            .expect("the directory can be written");
        let [program, target] = engine.nsenter();
        let child = Command::new(program)
            .arg(&target)
            .args(words)
            .env("BERTH_NO_AUTOSTART", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor is to be had"))
            .stderr(log)
            .spawn()
            .expect("nsenter and docker-registry are installed: run scripts/setup.sh");
        let registry = Self {
            child,
            address: format!("127.0.0.1:{port}"),
        };
        eventually("the registry listens", || {
            engine.inside(|| TcpStream::connect(&registry.address).ok())
        });
        registry
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }
}

fn root(engine: &Engine, port: u16) -> String {
    let root = engine.dir().join(format!("registry-{port}"));
    root.display().to_string()
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What goes wrong with a request whose path contains `path`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub path: String,
    pub how: How,
    /// So many times; then all is well.
    pub times: usize,
}

#[derive(Clone, Debug)]
pub enum How {
    /// The connection is cut after so many bytes of the body.
    Cut(usize),
    /// After so many bytes nothing comes until [`FaultyRegistry::release`].
    Hold(usize),
    /// Another answer, with headers ("Retry-After: 0").
    Answer(u16, &'static str),
    /// Another length than the content has; the connection then ends.
    Claim(usize),
    /// Other bytes of the same length.
    Garbage,
    /// The range that was asked for is not honoured.
    Whole,
}

/// A registry that serves one repository of any name, counts what it sends
/// and fails as told.
#[derive(Clone, Debug)]
pub struct FaultyRegistry {
    shared: Arc<Shared>,
    pub address: String,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    content: Content,
    faults: Vec<Fault>,
    /// Bytes of bodies that were sent, by digest or tag.
    served: HashMap<String, usize>,
    /// "GET /v2/…", in their order.
    requests: Vec<String>,
    /// Requests that wait to be released.
    held: usize,
    /// Layers on their way, and the most there were at once.
    sending: usize,
    most: usize,
    open: bool,
}

impl FaultyRegistry {
    pub fn start(engine: &Engine, port: u16, content: Content, faults: &[Fault]) -> Self {
        Self::start_at(engine, &format!("127.0.0.1:{port}"), content, faults)
    }

    pub fn start_at(engine: &Engine, address: &str, content: Content, faults: &[Fault]) -> Self {
        let address = address.to_owned();
        let shared = Arc::new(Shared::default());
        {
            let mut state = shared.state();
            state.content = content;
            state.faults = faults.to_vec();
        }
        let listener = engine
            .inside(|| TcpListener::bind(&address))
            .expect("the port is free in a namespace of our own");
        let ours = Arc::clone(&shared);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let shared = Arc::clone(&ours);
                std::thread::spawn(move || drop(shared.serve(socket)));
            }
        });
        Self { shared, address }
    }

    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Bytes sent of a blob (by digest) so far.
    pub fn served(&self, what: &str) -> usize {
        self.shared.state().served.get(what).copied().unwrap_or(0)
    }

    pub fn forget_served(&self) {
        self.shared.state().served.clear();
    }

    /// Requests so far whose line contains `text`.
    pub fn requests(&self, text: &str) -> usize {
        let state = self.shared.state();
        state
            .requests
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Layers that were on their way at the same time, at most.
    pub fn most_at_once(&self) -> usize {
        self.shared.state().most
    }

    pub fn set_faults(&self, faults: &[Fault]) {
        self.shared.state().faults = faults.to_vec();
    }

    /// Waits until a request is held.
    pub fn until_held(&self, count: usize) {
        eventually("a request is held", || {
            (self.shared.state().held >= count).then_some(())
        });
    }

    /// Lets held requests go on, and those to come.
    pub fn release(&self) {
        self.shared.state().open = true;
        self.shared.released.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, socket: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(socket.try_clone()?);
        let mut socket = socket;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace();
            let method = words.next().unwrap_or_default().to_owned();
            // What a mirror is told in the query makes no difference here.
            let path = words.next().unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default().to_owned();
            let (mut start, mut length) = (0, 0);
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let header = header.trim().to_ascii_lowercase();
                if header.is_empty() {
                    break;
                }
                if let Some(range) = header.strip_prefix("range: bytes=") {
                    start = range.trim_end_matches('-').parse().unwrap_or(0);
                }
                if let Some(text) = header.strip_prefix("content-length: ") {
                    length = text.parse().unwrap_or(0);
                }
            }
            std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
            if !self.answer(&mut socket, &method, &path, start)? {
                return Ok(());
            }
        }
    }

    /// Whether the connection goes on.
    fn answer(
        &self,
        socket: &mut TcpStream,
        method: &str,
        path: &str,
        start: usize,
    ) -> std::io::Result<bool> {
        let (found, fault) = {
            let mut state = self.state();
            state.requests.push(format!("{method} {path}"));
            let fault = state
                .faults
                .iter_mut()
                .find(|fault| fault.times > 0 && path.contains(&fault.path))
                .filter(|_| method == "GET")
                .map(|fault| {
                    fault.times -= 1;
                    fault.how.clone()
                });
            (state.content.find(path), fault)
        };
        if let Some(How::Answer(status, headers)) = fault {
            let headers = match headers {
                "" => String::new(),
                text => format!("{text}\r\n"),
            };
            write!(
                socket,
                "HTTP/1.1 {status} Fault\r\n{headers}Content-Length: 0\r\n\r\n"
            )?;
            return Ok(true);
        }
        let Some((what, media_type, mut bytes)) = found else {
            let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
            let body = if method == "HEAD" { "" } else { body };
            write!(
                socket,
                "HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
            return Ok(true);
        };
        let mut claimed = bytes.len();
        let mut start = start;
        match fault {
            Some(How::Claim(length)) => claimed = length,
            Some(How::Garbage) => bytes.iter_mut().for_each(|byte| *byte ^= 0x55),
            Some(How::Whole) => start = 0,
            _ => {}
        }
        let status = if start > 0 {
            format!(
                "206 Partial Content\r\nContent-Range: bytes {start}-{}/{claimed}",
                claimed.saturating_sub(1)
            )
        } else {
            "200 OK".to_owned()
        };
        let start = start.min(bytes.len());
        let digest = if what.is_empty() {
            String::new()
        } else {
            format!("Docker-Content-Digest: {what}\r\n")
        };
        write!(
            socket,
            "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\n{digest}Content-Length: {}\r\n\r\n",
            claimed.saturating_sub(start)
        )?;
        if method == "HEAD" {
            return Ok(true);
        }
        let body = &bytes[start..];
        let stop = match fault {
            Some(How::Cut(after) | How::Hold(after)) => after.min(body.len()),
            _ => body.len(),
        };
        let counted = path.contains("/blobs/") && body.len() > SMALL;
        if counted {
            let state = &mut *self.state();
            state.sending += 1;
            state.most = state.most.max(state.sending);
        }
        let sent = self.send(socket, &what, &body[..stop]);
        if counted && !matches!(fault, Some(How::Hold(_))) {
            self.state().sending -= 1;
        }
        sent?;
        match fault {
            Some(How::Hold(_)) => {
                self.hold();
                let sent = self.send(socket, &what, &body[stop..]);
                self.state().sending -= usize::from(counted);
                sent?;
                Ok(true)
            }
            Some(How::Cut(_) | How::Claim(_)) => Ok(false),
            _ => Ok(true),
        }
    }

    /// Counts before it sends: what was counted is never less than what came.
    fn send(&self, socket: &mut TcpStream, what: &str, bytes: &[u8]) -> std::io::Result<()> {
        for piece in bytes.chunks(16 << 10) {
            *self.state().served.entry(what.to_owned()).or_default() += piece.len();
            socket.write_all(piece)?;
        }
        Ok(())
    }

    fn hold(&self) {
        let mut state = self.state();
        state.held += 1;
        while !state.open {
            state = self
                .released
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Content {
    /// Digest, media type and bytes of what a path names.
    fn find(&self, path: &str) -> Option<(String, String, Vec<u8>)> {
        if path == "/v2/" {
            return Some((String::new(), "application/json".into(), b"{}".to_vec()));
        }
        if path.ends_with("/tags/list") {
            let tags: Vec<_> = self
                .manifests
                .keys()
                .filter(|name| !name.contains(':'))
                .collect();
            let list = serde_json::json!({"name": "x", "tags": tags});
            return Some((
                String::new(),
                "application/json".into(),
                list.to_string().into(),
            ));
        }
        if let Some((_, digest)) = path.split_once("/blobs/") {
            let bytes = self.blobs.get(digest)?.clone();
            return Some((digest.to_owned(), "application/octet-stream".into(), bytes));
        }
        let (_, name) = path.split_once("/manifests/")?;
        let (media_type, digest) = self.manifests.get(name)?;
        Some((
            digest.clone(),
            media_type.clone(),
            self.blobs.get(digest)?.clone(),
        ))
    }
}
