//! berth-runtime beside runc: the same commands on the same bundle end with the
//! same exit code and say the same. runc comes from a tree made by scripts/peers.sh
//! that BERTH_PEERS names, or from the host.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use berth_e2e::engine::bin_dir;
use berth_e2e::{eventually, image, leaks, possible};
use serde_json::{Value, json};

const IN_PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/in-peers.sh");

/// One of the two, with a bundle and a root of its own.
struct Side {
    program: Vec<String>,
    dir: tempfile::TempDir,
    group: String,
}

#[derive(Debug)]
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Side {
    fn new(program: Vec<String>) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let group = format!("/berth-runc{name}");
        let rootfs = dir.path().join("rootfs");
        fs::create_dir(&rootfs).unwrap();
        tar::Archive::new(&image::busybox_rootfs()[..])
            .unpack(&rootfs)
            .unwrap();
        Self {
            program,
            dir,
            group,
        }
    }

    /// Writes the configuration; `process` goes over the example's.
    fn configure(&self, process: &Value) {
        let path = self.path("config.json");
        let _ = fs::remove_file(&path);
        let spec = Command::new(runtime())
            .args(["spec", "-b", self.path("").to_str().unwrap()])
            .status();
        assert!(spec.unwrap().success());
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        config["annotations"] = json!({ "org.example": "x" });
        config["linux"]["cgroupsPath"] = json!(format!("{}/c", self.group));
        for (key, value) in process.as_object().unwrap() {
            config["process"][key] = value.clone();
        }
        fs::write(&path, config.to_string()).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Output goes to files: a container that stays would hold pipes open.
    fn run(&self, words: &[&str]) -> Said {
        let (out, err) = (self.path("out"), self.path("err"));
        let status = Command::new("timeout")
            .args(["--signal", "KILL", "60"])
            .args(&self.program)
            .args(["--root", self.path("state").to_str().unwrap()])
            .args(words)
            .current_dir(self.dir.path())
            .stdin(File::open("/dev/null").unwrap())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .status();
        Said {
            code: status.unwrap().code().unwrap_or(-1),
            stdout: self.plain(&fs::read_to_string(out).unwrap()),
            stderr: self.plain(&fs::read_to_string(err).unwrap()),
        }
    }

    /// Without what differs by nature.
    fn plain(&self, text: &str) -> String {
        text.replace(self.dir.path().to_str().unwrap(), "BUNDLE")
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.run(&["delete", "--force", "c"]);
        for hierarchy in leaks::hierarchies() {
            let _ = fs::remove_dir(hierarchy.join(self.group.trim_start_matches('/')));
        }
    }
}

fn runtime() -> PathBuf {
    bin_dir().join("berth-runtime")
}

fn runc() -> Option<Vec<String>> {
    let tree = std::env::var_os("BERTH_PEERS").map(PathBuf::from);
    let found = tree.filter(|tree| tree.join("usr/sbin/runc").is_file());
    if let Some(tree) = found {
        let tree = tree.to_str()?.to_owned();
        return Some(vec![IN_PEERS.to_owned(), tree, "runc".to_owned()]);
    }
    let program = vec!["runc".to_owned()];
    possible("runc 1.3 or later", is_recent()).then_some(program)
}

/// The words of older ones are others.
fn is_recent() -> bool {
    let Ok(output) = Command::new("runc").arg("--version").output() else {
        return false;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(2).unwrap_or_default();
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    (major, minor) >= (1, 3)
}

/// What has to be the same besides the exit code.
#[derive(Clone, Copy, Debug)]
enum Same {
    Code,
    /// Standard output, byte for byte.
    Output,
    /// A document: all fields, but for numbers, times and versions.
    Json,
    /// Words of the error, which clients look for.
    Words(&'static str),
}

use Same::{Code, Json, Output, Words};

struct Pair([Side; 2]);

impl Pair {
    fn new() -> Option<Self> {
        let runc = runc()?;
        let ours = vec![runtime().to_str().unwrap().to_owned()];
        Some(Self([Side::new(ours), Side::new(runc)]))
    }

    fn configure(&self, process: &Value) {
        self.0.iter().for_each(|side| side.configure(process));
    }

    #[track_caller]
    fn both(&self, same: Same, words: &[&str]) {
        let [ours, runcs] = self.0.each_ref().map(|side| side.run(words));
        assert_eq!(ours.code, runcs.code, "{words:?}: {ours:?} {runcs:?}");
        match same {
            Code => {}
            Output => assert_eq!(ours.stdout, runcs.stdout, "{words:?}"),
            Json => {
                let [ours, runcs] = [ours, runcs].map(|said| {
                    let mut value = serde_json::from_str(&said.stdout).unwrap();
                    blank(&mut value);
                    value
                });
                let (ours, runcs): (Value, Value) = (ours, runcs);
                assert_eq!(ours, runcs, "{words:?}");
            }
            Words(text) => {
                for said in [&ours, &runcs] {
                    // logrus escapes quotation marks.
                    let error = said.stderr.replace('\\', "");
                    assert!(error.contains(text), "{words:?}: {said:?}");
                }
            }
        }
    }

    fn all(&self, steps: &[(Same, &[&str])]) {
        for (same, words) in steps {
            self.both(*same, words);
        }
    }

    fn until_stopped(&self) {
        for side in &self.0 {
            eventually("the container has stopped", || {
                side.run(&["state", "c"])
                    .stdout
                    .contains("stopped")
                    .then_some(())
            });
        }
    }
}

/// What no two runs have in common.
fn blank(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match key.as_str() {
                    "created" | "ociVersion" => *field = json!("x"),
                    "pid" => *field = json!(field != 0),
                    _ => blank(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        _ => {}
    }
}

#[test]
fn life_of_a_container() {
    let Some(pair) = Pair::new() else { return };
    pair.configure(&json!({ "args": ["sleep", "1000"] }));
    pair.all(&[
        (Words("container does not exist"), &["state", "c"]),
        (Words("container does not exist"), &["start", "c"]),
        (Words("container does not exist"), &["exec", "c", "true"]),
        (Words("container does not exist"), &["kill", "c"]),
        (Words("container does not exist"), &["delete", "c"]),
        (Words("container does not exist"), &["pause", "c"]),
        (Words("container does not exist"), &["update", "c"]),
        (
            Words("container does not exist"),
            &["events", "--stats", "c"],
        ),
        (Code, &["delete", "--force", "c"]),
        (
            Words("invalid container ID format"),
            &["delete", "-f", ".."],
        ),
        (Words("invalid container ID format"), &["create", "a/b"]),
        (Code, &["create", "c", "--pid-file", "pid"]),
        (Json, &["state", "c"]),
        (Json, &["list", "--format", "json"]),
        (Output, &["list", "-q"]),
        (
            Words("container with given ID already exists"),
            &["create", "c"],
        ),
        (
            Words("container with given ID already exists"),
            &["run", "c"],
        ),
        (Words("container not paused"), &["resume", "c"]),
        (Output, &["exec", "c", "echo", "before"]),
        (Code, &["start", "c"]),
        (
            Words("cannot start an already running container"),
            &["start", "c"],
        ),
        (Words("that is not stopped: running"), &["delete", "c"]),
        (Json, &["state", "c"]),
        (Words("unknown signal"), &["kill", "c", "NOPE"]),
        (Words("unable to signal init"), &["kill", "c", "999"]),
        (Code, &["kill", "c", "0"]),
        (Code, &["kill", "--all", "c", "WINCH"]),
        (Code, &["pause", "c"]),
        (Json, &["state", "c"]),
        (Words("container not running"), &["pause", "c"]),
        (
            Words("cannot exec in a paused container"),
            &["exec", "c", "true"],
        ),
        (
            Words("cannot start a container in the paused state"),
            &["start", "c"],
        ),
        (Code, &["resume", "c"]),
        (Words("couldn't find PID field"), &["ps", "c", "-o", "cmd"]),
        (Words("invalid format option"), &["ps", "-f", "x", "c"]),
        (Code, &["ps", "c", "aux"]),
        (Code, &["update", "--memory", "100000000", "c"]),
        (
            Words("invalid value for memory"),
            &["update", "--memory", "x", "c"],
        ),
        (
            Words("interval must be greater than 0"),
            &["events", "--interval", "0s", "c"],
        ),
        (Code, &["kill", "c", "KILL"]),
    ]);
    pair.until_stopped();
    pair.all(&[
        (Json, &["state", "c"]),
        (Json, &["list", "--format", "json"]),
        (Words("container not running"), &["kill", "c", "KILL"]),
        (Code, &["kill", "--all", "c", "KILL"]),
        (
            Words("cannot exec in a stopped container"),
            &["exec", "c", "true"],
        ),
        (
            Words("cannot start a container that has stopped"),
            &["start", "c"],
        ),
        (Words("container not running"), &["pause", "c"]),
        (Words("not running"), &["events", "--stats", "c"]),
        (Code, &["delete", "c"]),
        (Words("container does not exist"), &["delete", "c"]),
    ]);
}

#[test]
fn programs_that_do_not_run() {
    let Some(pair) = Pair::new() else { return };
    for (args, words) in [
        (["nope"], "unable to start container process"),
        (
            ["nope"],
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (
            ["/nope"],
            "exec: \"/nope\": stat /nope: no such file or directory",
        ),
        (["/etc/passwd"], "exec: \"/etc/passwd\": permission denied"),
        (["/etc"], "exec: \"/etc\": is a directory"),
        ([""], "exec: \"\": executable file not found in $PATH"),
    ] {
        pair.configure(&json!({ "args": args }));
        pair.both(Words(words), &["run", "c"]);
        pair.both(Words(words), &["create", "c"]);
    }
    for (process, words) in [
        (
            json!({ "args": ["env"], "env": ["A"] }),
            "invalid environment variable",
        ),
        (
            json!({ "args": ["env"], "env": ["=A"] }),
            "name cannot be empty",
        ),
        (json!({ "args": ["pwd"], "cwd": "rel" }), "absolute path"),
    ] {
        pair.configure(&process);
        pair.both(Words(words), &["run", "c"]);
    }
    for process in [
        json!({ "args": ["sh", "-c", "echo out; exit 7"] }),
        json!({ "args": ["sh", "-c", "sh -c 'kill -9 $$'"] }),
        json!({ "args": ["/bin/env"], "env": ["A=1", "B=2", "A=3", "HOME="] }),
        json!({ "args": ["/bin/env"], "env": [] }),
        json!({ "args": ["pwd"], "cwd": "/made/here" }),
        json!({ "args": ["id"], "user": { "uid": 5, "gid": 6, "additionalGids": [7, 8] } }),
    ] {
        pair.configure(&process);
        pair.both(Output, &["run", "c"]);
    }
}

#[test]
fn execs() {
    let Some(pair) = Pair::new() else { return };
    pair.configure(&json!({ "args": ["sleep", "1000"] }));
    let process = json!({
        "args": ["sh", "-c", "pwd; id; env | sort; grep -E 'Cap|NoNew' /proc/self/status; exit 4"],
        "cwd": "/tmp",
        "user": { "uid": 0, "gid": 4, "additionalGids": [5] },
        "env": ["PATH=/bin"],
    });
    for side in &pair.0 {
        fs::write(side.path("process.json"), process.to_string()).unwrap();
        fs::write(side.path("bad.json"), "{").unwrap();
    }
    let caps = ["grep", "-E", "Cap|NoNew", "/proc/self/status"];
    let with = |options: &[&'static str]| -> Vec<&'static str> {
        [&["exec"], options, &["c"], &caps].concat()
    };
    pair.all(&[
        (Code, &["run", "--detach=1", "c"]),
        (Output, &["exec", "c", "sh", "-c", "echo out; exit 3"]),
        (Output, &["exec", "c", "sh", "-c", "kill -9 $$"]),
        (
            Words("exec failed: unable to start container process: exec: \"nope\""),
            &["exec", "c", "nope"],
        ),
        (Words("exec: \"--\""), &["exec", "c", "--", "echo"]),
        (Output, &["exec", "--", "c", "echo", "x"]),
        (
            Words("no such file"),
            &["exec", "--cwd", "/nope", "c", "pwd"],
        ),
        (
            Words("absolute path"),
            &["exec", "--cwd", "rel", "c", "pwd"],
        ),
        (Output, &["exec", "-cwd=/tmp", "c", "pwd"]),
        (Output, &["exec", "--user", "1:2", "c", "id"]),
        (
            Output,
            &["exec", "-u", "1", "-g", "7", "-g", "8", "c", "id"],
        ),
        (Words("exec failed"), &["exec", "--user", "root", "c", "id"]),
        (
            Output,
            &[
                "exec",
                "-e",
                "A=1",
                "-e",
                "A=2",
                "-e",
                "HOME=/x",
                "c",
                "sh",
                "-c",
                "echo $A $HOME",
            ],
        ),
        (Words("missing '='"), &["exec", "-e", "A", "c", "env"]),
        (Output, &with(&[])),
        (Output, &with(&["--cap", "CAP_SYS_ADMIN"])),
        (Output, &with(&["--no-new-privs=false"])),
        (Output, &["exec", "-p", "process.json", "c"]),
        (Output, &["exec", "--process=process.json", "c", "ignored"]),
        (Code, &["exec", "-p", "bad.json", "c"]),
        (Code, &["exec", "-p", "nope.json", "c"]),
        (
            Code,
            &[
                "exec",
                "--detach",
                "--pid-file",
                "exec.pid",
                "c",
                "sleep",
                "1000",
            ],
        ),
        (Code, &["exec", "-t", "-d", "c", "true"]),
        (Code, &["exec", "--console-socket", "nope", "c", "true"]),
        (Code, &["delete", "c", "--force"]),
    ]);
}

#[test]
fn mistakes_and_logs() {
    let Some(pair) = Pair::new() else { return };
    pair.configure(&json!({ "args": ["true"] }));
    for verb in [
        "run", "create", "start", "exec", "kill", "delete", "pause", "resume", "ps", "update",
        "events", "state",
    ] {
        pair.both(Code, &[verb]);
        pair.both(Code, &[verb, "--nope", "c"]);
        pair.both(Code, &[verb, "--help"]);
    }
    pair.all(&[
        (Code, &[]),
        (Code, &["nope"]),
        (Code, &["help", "nope"]),
        (Code, &["help", "run"]),
        (Code, &["h"]),
        (Code, &["-v"]),
        (Code, &["run", "c", "--help"]),
        (Code, &["run", "--bundle", "/nope", "c"]),
        (
            Words("config.json not found"),
            &["run", "--bundle", "/usr", "c"],
        ),
        (Code, &["run", "--bundle"]),
        (Code, &["run", "--detach=maybe", "c"]),
        (Code, &["run", "--preserve-fds=x", "c"]),
        (Output, &["run", "-b", "", "c"]),
        (Code, &["create", "--console-socket", "/nope", "c"]),
        (Code, &["list", "x"]),
        (Code, &["features", "x"]),
        (Code, &["spec"]),
        (Code, &["--log-format", "x", "list"]),
        (Code, &["--log", "/no/such/log", "list"]),
        (Code, &["--criu", "x", "-debug=true", "list"]),
        (Code, &["--log", "log", "--log-format=json", "state", "c"]),
        (Code, &["--log-format", "json", "start", "c"]),
    ]);
    for side in &pair.0 {
        for text in [
            fs::read_to_string(side.path("log")).unwrap(),
            fs::read_to_string(side.path("err")).unwrap(),
        ] {
            let line: Value = serde_json::from_str(text.trim()).unwrap();
            assert_eq!(line["level"], "error");
            assert_eq!(line["msg"], "container does not exist");
        }
    }
}
