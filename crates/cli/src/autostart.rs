//! Starting an engine on demand, so that `berth run` works on a bare machine.
//!
//! The engine must carry nothing of the caller: not its session, its terminal,
//! its descriptors, its directory or its environment. This program execs itself
//! twice: the first child leaves the session and starts the engine, then ends,
//! so that the engine is nobody's child.
//!
//! That is the engine of this host, on the default socket; or a further one,
//! if `BERTH_HOST=unix://…` is set together with `BERTH_DATA_ROOT` and
//! `BERTH_EXEC_ROOT`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;

use crate::failure::{Failure, path_error};

/// Hidden verb of the child in between.
pub(crate) const LAUNCH: &str = "__launch-daemon";

const LOG: &str = "/var/log/berth.log";
const LOCK: &str = "/run/berth-start.lock";

/// Directories of an engine other than this host's.
const DATA_ROOT: &str = "BERTH_DATA_ROOT";
const EXEC_ROOT: &str = "BERTH_EXEC_ROOT";
/// Its bridge: "none" if not set; "default" in a network namespace that no
/// other engine uses; or an interface.
const BRIDGE: &str = "BERTH_BRIDGE";

/// Which engine to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OnDemand {
    /// The one of this host, with the daemon's defaults.
    Default,
    /// One with directories of its own. Its PID file, log and start lock are in
    /// the exec root. An engine takes its parent control group and its bridge
    /// for its own and clears them at its start, so this one gets another
    /// group, and no bridge unless the user says that one is free.
    Own {
        data_root: PathBuf,
        exec_root: PathBuf,
        /// `--bridge`; "default" is berth's own.
        bridge: String,
    },
}

impl OnDemand {
    /// The engine that may be started for the host `named` by the user. A host
    /// that was named is somebody's own affair, unless it is named together
    /// with the directories that make it an engine.
    pub(crate) fn for_host(
        named: Option<&str>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Option<Self> {
        let Some(named) = named else {
            return Some(Self::Default);
        };
        if environment("BERTH_HOST").as_deref() != Some(named) || !named.starts_with("unix:///") {
            return None;
        }
        Some(Self::Own {
            data_root: std::path::absolute(environment(DATA_ROOT)?).ok()?,
            exec_root: std::path::absolute(environment(EXEC_ROOT)?).ok()?,
            bridge: environment(BRIDGE).unwrap_or_else(|| "none".to_owned()),
        })
    }

    fn lock(&self) -> PathBuf {
        match self {
            Self::Default => LOCK.into(),
            Self::Own { exec_root, .. } => exec_root.join("start.lock"),
        }
    }

    fn log(&self) -> PathBuf {
        match self {
            Self::Default => LOG.into(),
            Self::Own { exec_root, .. } => exec_root.join("berth.log"),
        }
    }

    /// The daemon's flags beyond its socket.
    fn flags(&self) -> Vec<OsString> {
        let Self::Own {
            data_root,
            exec_root,
            bridge,
        } = self
        else {
            return Vec::new();
        };
        let mut flags = vec![
            "--data-root".into(),
            data_root.into(),
            "--exec-root".into(),
            exec_root.into(),
            "--pidfile".into(),
            exec_root.join("berth.pid").into(),
            "--cgroup-parent".into(),
            format!("/berth-{:016x}", fnv1a(data_root.as_os_str().as_bytes())).into(),
        ];
        if bridge != "default" {
            flags.extend(["--bridge".into(), bridge.into()]);
        }
        flags
    }
}

/// FNV-1a, 64 bits: the same name for the same directory, always.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Whether the user has not turned it off.
pub(crate) fn wanted() -> bool {
    std::env::var_os("BERTH_NO_AUTOSTART").is_none_or(|value| value.is_empty() || value == "0")
}

/// Starts an engine on `socket` and waits until it answers. Callers that race
/// take turns: all but the first find it running.
pub(crate) fn start(socket: &Path, engine: &OnDemand) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(format!(
            "Cannot connect to the Docker daemon at unix://{}. Is the docker daemon running?\nNone is, and starting one takes root (engines of plain users are not supported yet)",
            socket.display()
        )));
    }
    if let OnDemand::Own { exec_root, .. } = engine {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(exec_root)
            .map_err(|error| {
                Failure::new(path_error("mkdir", &exec_root.to_string_lossy(), &error))
            })?;
    }
    let lock_path = engine.lock();
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(|error| Failure::new(path_error("open", &lock_path.to_string_lossy(), &error)))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| Failure::new(format!("cannot lock {}: {error}", lock_path.display())))?;
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
        .args(engine.flags())
        .stdin(Stdio::from(writer))
        .stdout(Stdio::null())
        .stderr(log(&engine.log())?)
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
            "an engine was started on unix://{} but did not come up: see {}",
            socket.display(),
            engine.log().display()
        )));
    }
    Ok(())
}

fn log(path: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|error| Failure::new(path_error("open", &path.to_string_lossy(), &error)))
}

/// The child in between: `__launch-daemon SOCKET [FLAG...]`, the pipe on stdin,
/// the log on stderr.
pub(crate) fn launch(words: &[String]) -> Result<i32, Failure> {
    let Some((socket, flags)) = words.split_first() else {
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
        .args(flags)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_engine_may_be_started() {
        let set = |names: &'static [(&str, &str)]| {
            move |name: &str| {
                let found = names.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        let all = set(&[
            ("BERTH_HOST", "unix:///x.sock"),
            (DATA_ROOT, "/d"),
            (EXEC_ROOT, "/e"),
        ]);
        assert_eq!(OnDemand::for_host(None, &all), Some(OnDemand::Default));
        let own = OnDemand::for_host(Some("unix:///x.sock"), &all).unwrap();
        assert_eq!(own.log(), Path::new("/e/berth.log"));
        assert_eq!(own.flags()[..2], ["--data-root", "/d"]);
        let group = own.flags().into_iter().nth(7).unwrap();
        assert!(group.to_str().unwrap().starts_with("/berth-"), "{group:?}");
        assert!(own.flags().ends_with(&["--bridge".into(), "none".into()]));
        // Named by -H or DOCKER_HOST, or without its directories.
        assert_eq!(OnDemand::for_host(Some("unix:///y.sock"), &all), None);
        let half = set(&[("BERTH_HOST", "unix:///x.sock"), (DATA_ROOT, "/d")]);
        assert_eq!(OnDemand::for_host(Some("unix:///x.sock"), &half), None);
        let tcp = set(&[
            ("BERTH_HOST", "tcp://h"),
            (DATA_ROOT, "/d"),
            (EXEC_ROOT, "/e"),
        ]);
        assert_eq!(OnDemand::for_host(Some("tcp://h"), &tcp), None);
    }
}
