//! Whatever ends an interactive command, the terminal is left as it was.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

/// Answers what `run -it` asks. The attached stream goes to the test; `start`
/// fails if told so; resizes are reported.
struct Engine {
    attached: mpsc::Receiver<UnixStream>,
    resized: mpsc::Receiver<String>,
}

impl Engine {
    fn listen(socket: &Path, start: &'static str) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (attach, attached) = mpsc::channel();
        let (resize, resized) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (attach, resize) = (attach.clone(), resize.clone());
                std::thread::spawn(move || serve(stream, start, &attach, &resize));
            }
        });
        Self { attached, resized }
    }
}

fn serve(
    mut stream: UnixStream,
    start: &str,
    attach: &mpsc::Sender<UnixStream>,
    resize: &mpsc::Sender<String>,
) {
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    input.read_line(&mut line).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        input.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    input.read_exact(&mut vec![0; length]).unwrap();
    let reply = |status: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let path = line.split(' ').nth(1).unwrap();
    if path.contains("/attach") {
        stream
            .write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            .unwrap();
        attach.send(stream).unwrap();
        return;
    }
    let text = if path.contains("/create") {
        reply("201 Created", r#"{"Id":"abc","Warnings":[]}"#)
    } else if path.contains("/wait") {
        // The head comes at once, the status with the exit, which is now.
        reply("200 OK", r#"{"StatusCode":7}"#)
    } else if path.contains("/start") {
        start.to_owned()
    } else {
        if path.contains("/resize") {
            let _ = resize.send(path.to_owned());
        }
        reply("200 OK", "")
    };
    let _ = stream.write_all(text.as_bytes());
}

const STARTED: &str = "HTTP/1.1 204 No Content\r\n\r\n";
const FAILED: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 45\r\n\r\n{\"message\":\"exec: executable file not found\"}";

struct Session {
    terminal: OwnedFd,
    user: File,
    before: Termios,
    client: Child,
    engine: Engine,
    _directory: tempfile::TempDir,
}

impl Session {
    fn start(reply: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let engine = Engine::listen(&socket, reply);
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal: OwnedFd = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap()
            .into();
        let size = Winsize {
            ws_row: 33,
            ws_col: 101,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).unwrap();
        let before = tcgetattr(&terminal).unwrap();
        let client = Command::new(env!("CARGO_BIN_EXE_berth"))
            .args(["run", "-it", "busybox"])
            .env("BERTH_HOST", format!("unix://{}", socket.display()))
            .env("DOCKER_CONFIG", directory.path())
            .stdin(terminal.try_clone().unwrap())
            .stdout(terminal.try_clone().unwrap())
            .stderr(terminal.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self {
            terminal,
            user: File::from(master),
            before,
            client,
            engine,
            _directory: directory,
        }
    }

    fn wait_for_raw_mode(&self) {
        eventually("the terminal is raw", || {
            let now = tcgetattr(&self.terminal).unwrap();
            !now.local_modes
                .intersects(LocalModes::ICANON | LocalModes::ECHO)
        });
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.client), signal).unwrap();
    }

    /// The exit status, once the terminal is seen to be as before.
    fn end(mut self) -> Option<i32> {
        let mut status = None;
        eventually("the client ends", || {
            status = self.client.try_wait().unwrap();
            status.is_some()
        });
        let after = tcgetattr(self.terminal.as_fd()).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        assert_eq!(after.output_modes, self.before.output_modes);
        status.unwrap().code()
    }
}

fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !happened() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_process_ends() {
    let session = Session::start(STARTED);
    let mut stream = session.engine.attached.recv().unwrap();
    session.wait_for_raw_mode();
    stream.write_all(b"bye").unwrap();
    drop(stream);
    assert_eq!(session.end(), Some(7));
}

#[test]
fn the_user_detaches() {
    let mut session = Session::start(STARTED);
    let mut stream = session.engine.attached.recv().unwrap();
    session.wait_for_raw_mode();
    session.user.write_all(b"a\x10b\x10\x11").unwrap();
    let mut typed = [0; 3];
    stream.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"a\x10b");
    assert_eq!(session.end(), Some(0));
}

#[test]
fn a_signal_comes() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let session = Session::start(STARTED);
        let _stream = session.engine.attached.recv().unwrap();
        session.wait_for_raw_mode();
        session.signal(signal);
        assert_eq!(session.end(), Some(128 + signal.as_raw()));
    }
}

#[test]
fn the_start_fails() {
    let session = Session::start(FAILED);
    let _stream = session.engine.attached.recv().unwrap();
    assert_eq!(session.end(), Some(127));
}

#[test]
fn sizes_are_told_at_once_and_on_change() {
    let session = Session::start(STARTED);
    let stream = session.engine.attached.recv().unwrap();
    let first = session.engine.resized.recv().unwrap();
    assert!(first.ends_with("?h=33&w=101"), "{first}");
    let size = Winsize {
        ws_row: 50,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&session.terminal, size).unwrap();
    session.signal(Signal::WINCH);
    let second = session.engine.resized.recv().unwrap();
    assert!(second.ends_with("?h=50&w=120"), "{second}");
    drop(stream);
    assert_eq!(session.end(), Some(7));
}
