//! A listener that answers like an engine and keeps what it was asked.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::Value;

/// One request, in a form in which two clients can be compared.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recorded {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) body: Value,
}

pub(crate) struct Recorder {
    pub(crate) socket: PathBuf,
    seen: Arc<Mutex<Vec<Recorded>>>,
}

impl Recorder {
    pub(crate) fn start(directory: &Path) -> Self {
        let socket = directory.join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let log = Arc::clone(&log);
                std::thread::spawn(move || serve(connection, &log));
            }
        });
        Self { socket, seen }
    }

    /// What was asked since the last call.
    pub(crate) fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn serve(connection: UnixStream, log: &Mutex<Vec<Recorded>>) {
    let mut out = connection.try_clone().unwrap();
    let mut input = BufReader::new(connection);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut words = line.split_whitespace();
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        let (mut length, mut chunked) = (0, false);
        loop {
            let mut header = String::new();
            input.read_line(&mut header).unwrap();
            let header = header.trim().to_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            chunked |= header == "transfer-encoding: chunked";
        }
        let body = if chunked {
            read_chunks(&mut input)
        } else {
            let mut body = vec![0; length];
            input.read_exact(&mut body).unwrap();
            body
        };
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let path = path
            .strip_prefix("/v1.")
            .map_or(path, |rest| rest.find('/').map_or(rest, |at| &rest[at..]));
        if !path.ends_with("_ping") {
            log.lock().unwrap().push(Recorded {
                method: method.clone(),
                path: path.to_owned(),
                query: query
                    .split('&')
                    .filter_map(|pair| pair.split_once('='))
                    .map(|(name, value)| (name.to_owned(), decode(value)))
                    .collect(),
                body: serde_json::from_slice(&body)
                    .map(without_defaults)
                    .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned())),
            });
        }
        let detach = String::from_utf8_lossy(&body).contains(r#""Detach":true"#);
        if path.ends_with("/attach")
            || (path.starts_with("/exec/") && path.ends_with("/start") && !detach)
        {
            let _ = out.write_all(
                b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n\x01\0\0\0\0\0\0\x04out\n",
            );
            return;
        }
        let (status, reply) = answer(&method, path);
        let length = reply.len();
        let reply = if method == "HEAD" { "" } else { &reply };
        let _ = write!(
            out,
            "HTTP/1.1 {status}\r\nApi-Version: 1.50\r\nOstype: linux\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{reply}"
        );
    }
}

fn answer(method: &str, path: &str) -> (&'static str, String) {
    let id = "a".repeat(64);
    let container = format!(
        r#"{{"Id":"{id}","Name":"/x","State":{{"Running":true}},"Config":{{"AttachStdout":true,"AttachStderr":true,"OpenStdin":true}},"HostConfig":{{"LogConfig":{{"Type":"json-file"}}}},"NetworkSettings":{{"Ports":{{"53/udp":null,"80/tcp":[{{"HostIp":"0.0.0.0","HostPort":"8080"}}]}}}}}}"#
    );
    match (method, path) {
        ("POST", "/containers/create") => (
            "201 Created",
            format!(r#"{{"Id":"{id}","Warnings":["careful"]}}"#),
        ),
        ("POST", _) if path.ends_with("/wait") => ("200 OK", r#"{"StatusCode":3}"#.to_owned()),
        ("POST", _) if path.ends_with("/exec") => ("201 Created", r#"{"Id":"e1"}"#.to_owned()),
        ("GET", "/exec/e1/json") => ("200 OK", r#"{"ID":"e1","ExitCode":4}"#.to_owned()),
        ("GET", "/containers/json") => ("200 OK", CONTAINERS.replace("NOW", &now().to_string())),
        ("GET", "/images/json") => ("200 OK", IMAGES.replace("NOW", &now().to_string())),
        ("GET", "/networks") => ("200 OK", NETWORKS.to_owned()),
        ("GET", _) if path.ends_with("/history") => {
            ("200 OK", HISTORY.replace("NOW", &now().to_string()))
        }
        ("GET", _) if path.ends_with("/top") => (
            "200 OK",
            r#"{"Titles":["UID","PID","CMD"],"Processes":[["root","12","sleep 9"]]}"#.to_owned(),
        ),
        ("GET", _)
            if path.starts_with("/containers/none")
                || path.starts_with("/images/none")
                || path.starts_with("/networks/none")
                || path.starts_with("/volumes/none")
                || path.starts_with("/plugins/none") =>
        {
            (
                "404 Not Found",
                r#"{"message":"No such object: none"}"#.to_owned(),
            )
        }
        ("GET", _) if path.starts_with("/containers/") && path.ends_with("/json") => {
            ("200 OK", container)
        }
        ("DELETE", _) if path.starts_with("/images/") => (
            "200 OK",
            r#"[{"Untagged":"a:b"},{"Deleted":"sha256:12"}]"#.to_owned(),
        ),
        ("DELETE", "/containers/none") => (
            "404 Not Found",
            r#"{"message":"No such container: none"}"#.to_owned(),
        ),
        ("POST", "/images/create") => (
            "200 OK",
            "{\"status\":\"Pulling\",\"id\":\"l1\"}\n{\"status\":\"Done\"}\n".to_owned(),
        ),
        ("GET", "/events") => (
            "200 OK",
            r#"{"Type":"container","Action":"start","Actor":{"ID":"abc","Attributes":{"image":"i","name":"n"}},"scope":"local","time":1136073600,"timeNano":1136073600123456789}"#.to_owned(),
        ),
        ("POST", "/images/load") => ("200 OK", r#"{"stream":"Loaded image: a:b\n"}"#.to_owned()),
        ("POST", "/containers/prune") => (
            "200 OK",
            r#"{"ContainersDeleted":["c1"],"SpaceReclaimed":12345}"#.to_owned(),
        ),
        ("POST", _) if path.ends_with("/update") => ("200 OK", r#"{"Warnings":[]}"#.to_owned()),
        ("POST" | "DELETE", _) => ("204 No Content", String::new()),
        _ => ("200 OK", "{}".to_owned()),
    }
}

const CONTAINERS: &str = r#"[{"Id":"0123456789abcdef0123","Names":["/web","/other/link"],"Image":"nginx:1","ImageID":"sha256:11","Command":"nginx -g 'daemon off;' and more","Created":NOW,"Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"PrivatePort":90,"Type":"udp"}],"Labels":{"a":"b"},"State":"running","Status":"Up 5 seconds","HostConfig":{"NetworkMode":"bridge"},"NetworkSettings":{"Networks":{"bridge":{}}},"Mounts":[{"Type":"volume","Name":"averylongvolumenamethatiscut","Driver":"local"}],"SizeRw":1024,"SizeRootFs":4321000},
{"Id":"fedcba9876543210ffff","Names":["/a"],"Image":"sha256:abcdef0123456789","ImageID":"sha256:abcdef0123456789","Command":"sh","Created":NOW,"Ports":[],"Labels":{},"State":"exited","Status":"Exited (0) 2 hours ago","HostConfig":{},"NetworkSettings":{"Networks":{}},"Mounts":[]}]"#;

const IMAGES: &str = r#"[{"Id":"sha256:0123456789abcdef0123","RepoTags":["busybox:latest","busybox:1"],"RepoDigests":["busybox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"],"Created":NOW,"Size":4321000,"SharedSize":-1,"Containers":-1},
{"Id":"sha256:fedcba9876543210ffff","RepoTags":[],"RepoDigests":[],"Created":NOW,"Size":1240000000,"SharedSize":-1,"Containers":-1}]"#;

const NETWORKS: &str = r#"[{"Name":"host","Id":"1123456789abcdef0123","Scope":"local","Driver":"host","IPAM":{}},{"Name":"bridge","Id":"0123456789abcdef0123","Scope":"local","Driver":"bridge","IPAM":{}}]"#;

const HISTORY: &str = r#"[{"Id":"sha256:0123456789abcdef0123","Created":NOW,"CreatedBy":"/bin/sh -c #(nop) CMD [\"sh\"] and very much more text","Size":0,"Comment":"c"},{"Id":"<missing>","Created":NOW,"CreatedBy":"ADD x","Size":4321000,"Comment":""}]"#;

/// The same for both clients, and far enough back that the seconds between two
/// runs do not show.
fn now() -> u64 {
    static NOW: OnceLock<u64> = OnceLock::new();
    *NOW.get_or_init(|| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        now.as_secs() - 3 * 86400 - 60
    })
}

fn read_chunks(input: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        input.read_exact(&mut chunk).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// Drops what the engine takes for absent: null, false, 0, "" and empty lists.
/// The keys of sets (`Volumes`, `ExposedPorts`, …) stay. The order of variables
/// and binds is not fixed in Docker's client.
fn without_defaults(value: Value) -> Value {
    const SETS: [&str; 4] = ["Volumes", "ExposedPorts", "EndpointsConfig", "Tmpfs"];
    fn clean(value: Value, is_set: bool) -> Value {
        match value {
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| {
                    let mut value = clean(value, SETS.contains(&name.as_str()));
                    if matches!(name.as_str(), "Env" | "Binds")
                        && let Value::Array(list) = &mut value
                    {
                        list.sort_by_key(ToString::to_string);
                    }
                    (name, value)
                })
                .filter(|(_, value)| is_set || !absent(value))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Value::Array(items) => items.into_iter().map(|item| clean(item, false)).collect(),
            other => other,
        }
    }
    clean(value, false)
}

fn absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
