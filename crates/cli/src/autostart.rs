//! Starting an engine on demand, so that `berth run` works on a bare machine.
//!
//! The engine must carry nothing of the caller: not its session, its terminal,
//! its descriptors, its directory or its environment. This program execs itself
//! twice: the first child leaves the session and starts the engine, then ends,
//! so that the engine is nobody's child.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;

use crate::failure::{Failure, path_error};

/// Hidden verb of the child in between.
pub(crate) const LAUNCH: &str = "__launch-daemon";

const LOG: &str = "/var/log/berth.log";
const LOCK: &str = "/run/berth-start.lock";

/// Whether the user has not turned it off.
pub(crate) fn wanted() -> bool {
    std::env::var_os("BERTH_NO_AUTOSTART").is_none_or(|value| value.is_empty() || value == "0")
}

/// Starts an engine on `socket` and waits until it answers. Callers that race
/// take turns: all but the first find it running.
pub(crate) fn start(socket: &Path) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(format!(
            "Cannot connect to the Docker daemon at unix://{}. Is the docker daemon running?\nNone is, and starting one takes root (engines of plain users are not supported yet)",
            socket.display()
        )));
    }
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(LOCK)
        .map_err(|error| Failure::new(path_error("open", LOCK, &error)))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| Failure::new(format!("cannot lock {LOCK}: {error}")))?;
    if UnixStream::connect(socket).is_ok() {
        return Ok(());
    }
    let (ready, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| Failure::new(format!("cannot make a pipe: {error}")))?;
    // The pipe travels as stdin: the one descriptor a child is sure to get.
    let mut launcher = Command::new("/proc/self/exe")
        .arg0("berth")
        .arg(LAUNCH)
        .arg(socket)
        .stdin(Stdio::from(writer))
        .stdout(Stdio::null())
        .stderr(log(LOG)?)
        .spawn()
        .map_err(|error| Failure::new(format!("cannot start an engine: {error}")))?;
    let status = launcher
        .wait()
        .map_err(|error| Failure::new(format!("cannot start an engine: {error}")))?;
    let mut byte = [0];
    let answered = File::from(ready)
        .read(&mut byte)
        .is_ok_and(|count| count == 1);
    if !status.success() || (!answered && UnixStream::connect(socket).is_err()) {
        return Err(Failure::new(format!(
            "an engine was started on unix://{} but did not come up: see {LOG}",
            socket.display()
        )));
    }
    Ok(())
}

fn log(path: &str) -> Result<File, Failure> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|error| Failure::new(path_error("open", path, &error)))
}

/// The child in between: `__launch-daemon SOCKET`, the pipe on stdin, the log
/// on stderr.
pub(crate) fn launch(words: &[String]) -> Result<i32, Failure> {
    let Some(socket) = words.first() else {
        return Err(Failure::new(format!("{LAUNCH} needs a socket")));
    };
    let failed = |what: &str, error: rustix::io::Errno| {
        Failure::new(format!("cannot start an engine: {what}: {error}"))
    };
    rustix::process::setsid().map_err(|error| failed("setsid", error))?;
    rustix::process::chdir("/").map_err(|error| failed("chdir /", error))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // What the caller's parent left open must not live on in the engine; this
    // process has opened nothing yet, so all is closed at its exec.
    berth_sys::exec::close_on_exec_from(3)
        .map_err(|error| Failure::new(format!("cannot start an engine: close_range: {error}")))?;
    // dup clears close-on-exec: the engine gets the copy.
    let ready = rustix::io::dup(rustix::stdio::stdin()).map_err(|error| failed("dup", error))?;
    let log = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)
        .map_err(|error| failed("dup", error))?;
    let mut daemon = Command::new("/proc/self/exe");
    daemon
        .arg0("berth")
        .args(["daemon", "--ready-fd"])
        .arg(ready.as_raw_fd().to_string())
        .arg("-H")
        .arg(format!("unix://{socket}"))
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .envs(kept())
        .stdin(Stdio::null())
        .stdout(
            log.try_clone()
                .map(File::from)
                .map_err(|error| Failure::new(format!("cannot start an engine: dup: {error}")))?,
        )
        .stderr(File::from(log));
    daemon
        .spawn()
        .map(|_| 0)
        .map_err(|error| Failure::new(format!("cannot start an engine: {error}")))
}

/// What an engine needs of the caller's environment: proxies, the time zone,
/// and its own settings.
fn kept() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy().to_uppercase();
        matches!(
            name.as_str(),
            "HTTP_PROXY" | "HTTPS_PROXY" | "NO_PROXY" | "TZ"
        ) || (name.starts_with("BERTH_") && name != "BERTH_HOST")
    })
}
