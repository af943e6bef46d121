//! Builds from elsewhere: repositories and addresses, as sources of ADD and as
//! contexts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_e2e::{Engine, Run, installed, possible};

/// An engine, and what it can fetch from.
struct Place {
    engine: Engine,
    /// Served by HTTP and by git.
    served: PathBuf,
    http: String,
    git: String,
    /// Files that were sent.
    sent: Arc<AtomicUsize>,
}

impl Place {
    fn start() -> Self {
        let engine = Engine::start();
        let served = engine.dir().join("served");
        std::fs::create_dir(&served).unwrap();
        let listen = || engine.inside(|| TcpListener::bind("127.0.0.1:0").unwrap());
        let (http, git) = (listen(), listen());
        let sent = Arc::new(AtomicUsize::new(0));
        let place = Self {
            http: format!("http://{}", http.local_addr().unwrap()),
            git: format!("git://{}", git.local_addr().unwrap()),
            served: served.clone(),
            sent: sent.clone(),
            engine,
        };
        let root = served.clone();
        std::thread::spawn(move || serve_files(&http, &root, &sent));
        std::thread::spawn(move || serve_git(&git, &served));
        place
    }

    fn repository(&self, name: &str, files: &[(&str, &str)]) -> String {
        let directory = self.served.join(name);
        std::fs::create_dir_all(&directory).unwrap();
        git(&directory, &["init", "--quiet"]);
        self.commit(name, files)
    }

    fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        let directory = self.served.join(name);
        for (path, text) in files {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        git(&directory, &["add", "--all"]);
        git(&directory, &["commit", "--quiet", "--message=m"]);
        git(&directory, &["rev-parse", "HEAD"])
    }

    /// `berth build -t out` of a Dockerfile without other files.
    fn build(&self, dockerfile: &str) -> Run {
        self.engine
            .berth_with(&["build", "-t", "out", "-"], dockerfile.as_bytes())
    }

    fn cat(&self, paths: &[&str]) -> String {
        let mut args = vec!["run", "--rm", "out", "cat"];
        args.extend(paths);
        self.engine.berth(&args).ok()
    }
}

fn git(directory: &Path, args: &[&str]) -> String {
    let out = Command::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Files with their length as ETag.
fn serve_files(listener: &TcpListener, root: &Path, sent: &AtomicUsize) {
    while let Ok((mut socket, _)) = listener.accept() {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap_or(0) == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let answer = match std::fs::read(root.join(path.trim_start_matches('/'))) {
            Err(_) => {
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
            }
            Ok(bytes) if head.contains(&format!("if-none-match: \"{}\"", bytes.len())) => {
                b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_vec()
            }
            Ok(bytes) => {
                sent.fetch_add(1, Ordering::SeqCst);
                let length = bytes.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"{length}\"\r\nConnection: close\r\n\r\n"
                );
                [head.into_bytes(), bytes].concat()
            }
        };
        let _ = socket.write_all(&answer);
    }
}

fn serve_git(listener: &TcpListener, root: &Path) {
    while let Ok((socket, _)) = listener.accept() {
        let output = socket.try_clone().unwrap();
        let served = Command::new("git")
            .args([
                "-c",
                "safe.directory=*",
                "daemon",
                "--inetd",
                "--export-all",
            ])
            .arg(format!("--base-path={}", root.display()))
            .env("HOME", root)
            .stdin(Stdio::from(OwnedFd::from(socket)))
            .stdout(Stdio::from(OwnedFd::from(output)))
            .stderr(Stdio::null())
            .status();
        served.unwrap();
    }
}

#[test]
fn add_of_addresses_and_repositories() {
    let place = Place::start();
    std::fs::write(place.served.join("file.txt"), "from http\n").unwrap();
    let directory = place.served.join("packed");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("inner"), "from an archive\n").unwrap();
    let archive = place.served.join("packed.tar.gz");
    let made = Command::new("tar")
        .arg("-czf")
        .arg(&archive)
        .arg("-C")
        .arg(&directory)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    let first = place.repository("repo", &[("sub/a", "first\n"), ("b", "b\n")]);
    place.commit("repo", &[("sub/a", "second\n")]);
    let (http, git) = (&place.http, &place.git);
    let text = format!(
        "FROM busybox\nADD {http}/file.txt /f/\nADD {http}/packed.tar.gz /as-is/\n\
         ADD --unpack=true {http}/packed.tar.gz /unpacked/\n\
         ADD {git}/repo#main:sub /main\nADD --checksum={first} {git}/repo?ref={first} /old\n"
    );
    place.build(&text).ok();
    assert_eq!(
        place.cat(&[
            "/f/file.txt",
            "/unpacked/inner",
            "/main/a",
            "/old/sub/a",
            "/old/b"
        ]),
        "from http\nfrom an archive\nsecond\nfirst\nb"
    );
    let list = place
        .engine
        .berth(&["run", "--rm", "out", "ls", "-l", "/f", "/as-is"])
        .ok();
    assert!(
        list.contains("-rw-------") && list.contains("packed.tar.gz"),
        "{list}"
    );
    // Nothing changed, so nothing is sent again; and the steps are known.
    let sent = place.sent.load(Ordering::SeqCst);
    let id = |place: &Place| {
        place
            .engine
            .berth(&["images", "-q", "--no-trunc", "out"])
            .ok()
    };
    let before = id(&place);
    place.build(&text).ok();
    assert_eq!(place.sent.load(Ordering::SeqCst), sent);
    assert_eq!(id(&place), before);
    // A branch that moved.
    place.commit("repo", &[("sub/a", "third\n")]);
    place.build(&text).ok();
    assert_eq!(place.cat(&["/main/a", "/old/sub/a"]), "third\nfirst");
    // What is not what it must be.
    let wrong = "0".repeat(64);
    place
        .build(&format!(
            "FROM busybox\nADD --checksum=sha256:{wrong} {http}/file.txt /\n"
        ))
        .fails(1, "digest mismatch");
    place
        .build(&format!("FROM busybox\nADD {http}/none /\n"))
        .fails(1, "invalid response status 404");
    place
        .build(&format!("FROM busybox\nADD {git}/repo#none /\n"))
        .fails(1, "does not contain ref none");
}

#[test]
fn contexts_from_elsewhere() {
    let place = Place::start();
    let text = "FROM busybox\nCOPY a /a\n";
    place.repository("repo", &[("sub/Dockerfile", text), ("sub/a", "from git\n")]);
    let address = format!("{}/repo#main:sub", place.git);
    place.engine.berth(&["build", "-t", "out", &address]).ok();
    assert_eq!(place.cat(&["/a"]), "from git");
    let directory = place.served.join("context");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("Dockerfile"), text).unwrap();
    std::fs::write(directory.join("a"), "from an address\n").unwrap();
    let archive = place.served.join("context.tar");
    let made = Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&directory)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    let address = format!("{}/context.tar", place.http);
    place.engine.berth(&["build", "-t", "out", &address]).ok();
    assert_eq!(place.cat(&["/a"]), "from an address");
    // Named ones.
    let named = format!("{}/repo#main:sub", place.git);
    let dockerfile = "FROM busybox\nCOPY --from=src /a /b\n";
    let context = format!("src={named}");
    let args = ["build", "-t", "out", "--build-context", &context, "-"];
    place.engine.berth_with(&args, dockerfile.as_bytes()).ok();
    assert_eq!(place.cat(&["/b"]), "from git");
    // The endpoint of classic clients.
    if possible("curl", installed("curl")) {
        let socket = place.engine.socket();
        let url = format!("http://d/build?t=out&remote={address}");
        let mut command = Command::new("curl");
        command.args(["--silent", "--request", "POST", "--unix-socket"]);
        let answer = Run::new(command.arg(socket).arg(url), b"").ok();
        assert!(
            answer.contains("Successfully tagged out:latest"),
            "{answer}"
        );
        assert_eq!(place.cat(&["/a"]), "from an address");
    }
}
