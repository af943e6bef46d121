//! `<root>/<id>`: what is known of a container between two commands.
//!
//! ```text
//! state.json   this file's State, replaced atomically
//! config.json  the configuration that the container was made from
//! start.sock   while it waits for `start`
//! making       while it is being made, locked by whoever does that
//! ```
//!
//! Beside the containers' directories is that of [`crate::filters`].
//!
//! Commands that change what is there (delete, update, pause, resume) take the
//! directory's own lock, which ends with the process that holds it.
//!
//! The state is written before the control group is made, and removed after it: so
//! what a killed command leaves behind can always be found and deleted.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use berth_cgroup::systemd::Unit;
use berth_cgroup::{Cgroup, Host};
use berth_monitor::endpoint;
use berth_runtime_core::Rdt;
use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config;
use crate::error::{Context, Error, Result};

pub(crate) const START_SOCKET: &str = "start.sock";
const MAKING: &str = "making";

/// What is remembered of a container.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    pub(crate) id: String,
    /// 0 until there is a process.
    pub(crate) pid: u32,
    /// Clock ticks after boot (field 22 of /proc/<pid>/stat): tells the
    /// process from another that got its number later.
    pub(crate) pid_start_time: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    /// Below the root of each hierarchy; `None` when this user may make none.
    pub(crate) cgroup: Option<String>,
    /// It has a class or a monitoring group of Intel RDT.
    #[serde(default)]
    pub(crate) rdt: bool,
    /// The unit of systemd with that group, if it made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<Unit>,
    /// The configuration has hooks for when the container has been deleted.
    #[serde(default)]
    pub(crate) poststop: bool,
    /// RFC 3339.
    pub(crate) created: String,
    /// What the standard streams were when the container was made, unless it has a
    /// terminal.
    #[serde(default)]
    pub(crate) streams: Vec<String>,
}

/// As the OCI specification names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

/// The directory of one container.
#[derive(Clone, Debug)]
pub(crate) struct StateDir(PathBuf);

/// Says that a container is being made for as long as it and this process live.
#[derive(Debug)]
pub(crate) struct Making {
    path: PathBuf,
    /// Locked for this process alone: those it forks do not inherit that.
    _lock: File,
}

/// Held by a command that changes a container; see [`StateDir::lock`].
#[derive(Debug)]
pub(crate) struct Lock {
    _directory: OwnedFd,
}

impl Drop for Making {
    fn drop(&mut self) {
        // Unlocked it says nothing, should it stay.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl StateDir {
    /// Makes the directory of a new container.
    pub(crate) fn create(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let mut builder = DirBuilder::new();
        // Sticky, or what tidies up XDG_RUNTIME_DIR would remove it.
        builder.recursive(true).mode(0o1700);
        let make_root = || {
            builder
                .create(root)
                .context(|| format!("create {}", root.display()))
        };
        let path = root.join(id);
        let make = || DirBuilder::new().mode(0o700).create(&path);
        let made = match make() {
            // Nearly always it is there.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_root()?;
                make()
            }
            made => made,
        };
        match made {
            Ok(()) => Ok(Self(path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(Error::new("container with given ID already exists"))
            }
            Err(error) => Err(error).context(|| format!("create {}", path.display())),
        }
    }

    /// To be called right after [`StateDir::create`].
    pub(crate) fn making(&self) -> Result<Making> {
        let path = self.0.join(MAKING);
        let tried = || format!("lock {}", path.display());
        let lock = File::create_new(&path).context(tried)?;
        // Whoever looks whether it is locked has it for a moment.
        rustix::io::retry_on_intr(|| fcntl_lock(&lock, FlockOperation::LockExclusive))
            .context(tried)?;
        Ok(Making { path, _lock: lock })
    }

    /// Whether the process that makes the container is still at it.
    pub(crate) fn is_being_made(&self) -> bool {
        File::options()
            .write(true)
            .open(self.0.join(MAKING))
            .is_ok_and(|file| fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
    }

    pub(crate) fn open(root: &Path, id: &str) -> Result<Self> {
        Self::find(root, id)?.ok_or_else(Self::missing)
    }

    /// `None` when there is no such container. A symbolic link is none: nobody
    /// but this runtime makes anything there.
    pub(crate) fn find(root: &Path, id: &str) -> Result<Option<Self>> {
        check_id(id)?;
        let path = root.join(id);
        let is_ours = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        Ok(is_ours.then_some(Self(path)))
    }

    /// Waits for other commands that change this container, and keeps them out.
    /// `None` when one of them has deleted it.
    pub(crate) fn lock(&self) -> Result<Option<Lock>> {
        let tried = || format!("lock {}", self.0.display());
        let directory = match endpoint::open_dir(&self.0) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => result.context(tried)?,
        };
        self.lock_opened(directory)
    }

    /// A descriptor for [`StateDir::lock_opened`].
    pub(crate) fn opened(&self) -> Result<OwnedFd> {
        endpoint::open_dir(&self.0).context(|| format!("lock {}", self.0.display()))
    }

    /// The same, by a descriptor: `None` too when another of that name is there.
    pub(crate) fn lock_opened(&self, directory: OwnedFd) -> Result<Option<Lock>> {
        let tried = || format!("lock {}", self.0.display());
        rustix::io::retry_on_intr(|| flock(&directory, FlockOperation::LockExclusive))
            .context(tried)?;
        // Another of that name may have been made meanwhile: it is not ours.
        let locked = rustix::fs::fstat(&directory).context(tried)?;
        let is_there = rustix::fs::lstat(&self.0)
            .is_ok_and(|found| (found.st_dev, found.st_ino) == (locked.st_dev, locked.st_ino));
        Ok(is_there.then_some(Lock {
            _directory: directory,
        }))
    }

    pub(crate) fn missing() -> Error {
        Error::new("container does not exist")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A file that this runtime wrote: no link, nothing that blocks.
    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        let path = self.0.join(name);
        let mut bytes = Vec::new();
        let read = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .and_then(|mut file| file.read_to_end(&mut bytes));
        match read {
            // Not yet made, or deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Self::missing()),
            read => read.context(|| format!("read {}", path.display())),
        }?;
        Ok((path, bytes))
    }

    pub(crate) fn load(&self) -> Result<State> {
        let (path, bytes) = self.read("state.json")?;
        serde_json::from_slice(&bytes).context(|| format!("parse {}", path.display()))
    }

    /// Also one that cannot be read.
    pub(crate) fn has_state(&self) -> bool {
        std::fs::symlink_metadata(self.0.join("state.json")).is_ok()
    }

    pub(crate) fn save(&self, state: &State) -> Result<()> {
        let bytes = serde_json::to_vec(state).context(|| "encode the state".to_owned())?;
        replace(&self.0.join("state.json"), &bytes)
    }

    /// Keeps the configuration for later execs.
    pub(crate) fn save_config(&self, bytes: &[u8]) -> Result<()> {
        let path = self.0.join("config.json");
        std::fs::write(&path, bytes).context(|| format!("write {}", path.display()))
    }

    pub(crate) fn load_config(&self) -> Result<Spec> {
        let (path, bytes) = self.read("config.json")?;
        config::parse_spec(&path, &bytes)
    }

    /// The same, and the text of `linux.seccomp`.
    pub(crate) fn load_config_and_filter(&self) -> Result<(Spec, Option<Box<RawValue>>)> {
        let (path, bytes) = self.read("config.json")?;
        Ok((config::parse_spec(&path, &bytes)?, config::seccomp(&bytes)))
    }

    /// Changes the configuration that is kept, for later commands.
    pub(crate) fn change_config(&self, change: impl FnOnce(&mut serde_json::Value)) -> Result<()> {
        let (path, bytes) = self.read("config.json")?;
        let mut config =
            serde_json::from_slice(&bytes).context(|| format!("parse {}", path.display()))?;
        change(&mut config);
        let bytes =
            serde_json::to_vec(&config).context(|| "encode the configuration".to_owned())?;
        replace(&path, &bytes)
    }

    /// Whoever was making it may still put a file there, once or twice.
    pub(crate) fn remove(&self) -> Result<()> {
        // What there is, as a rule; without a state there is no container.
        for name in ["state.json", "config.json"] {
            let _ = std::fs::remove_file(self.0.join(name));
        }
        if std::fs::remove_dir(&self.0).is_ok() {
            return Ok(());
        }
        let mut tries = 0;
        loop {
            match std::fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && tries < 8 => {
                    tries += 1;
                }
                result => return result.context(|| format!("remove {}", self.0.display())),
            }
        }
    }
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl State {
    /// The container's first process; `None` when it has ended.
    pub(crate) fn process(&self) -> Option<OwnedFd> {
        // Not 0, for that is none.
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        // In this order: if the start time is right now, the descriptor is of
        // that process too.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let (start_time, ended) = process_stat(self.pid)?;
        (start_time == self.pid_start_time && !ended).then_some(pidfd)
    }

    /// Whether the first process has ended, or is about to: the kernel lets nobody
    /// join it any more.
    pub(crate) fn is_ending(&self) -> bool {
        const PF_EXITING: u32 = 4;
        let flags = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
            let fields = stat.rsplit_once(')')?.1;
            fields.split_ascii_whitespace().nth(6)?.parse().ok()
        };
        self.process().is_none() || flags().is_none_or(|flags: u32| flags & PF_EXITING != 0)
    }

    pub(crate) fn group(&self, host: &Host) -> Option<Cgroup> {
        let path = self.cgroup.as_deref()?;
        Some(match &self.unit {
            Some(unit) => Cgroup::open_unit(host, path, unit.clone()),
            None => Cgroup::open(host, path),
        })
    }

    /// What the configuration that is kept asks of Intel RDT.
    pub(crate) fn rdt(&self, dir: &StateDir) -> Result<Option<Rdt>> {
        if !self.rdt {
            return Ok(None);
        }
        Ok(Rdt::new(&dir.load_config()?, &self.id)?)
    }

    /// For what cannot be done without one.
    pub(crate) fn needed_group(&self, host: &Host) -> Result<Cgroup> {
        self.group(host).ok_or_else(|| {
            Error::new(format!(
                "container {} has no control group: its user may not make one",
                self.id
            ))
        })
    }

    pub(crate) fn status(&self, dir: &StateDir, host: &Host) -> Status {
        if dir.is_being_made() {
            Status::Creating
        } else if self.process().is_none() {
            Status::Stopped
        } else if self
            .group(host)
            .is_some_and(|group| group.is_frozen().unwrap_or(false))
        {
            Status::Paused
        } else if dir.path().join(START_SOCKET).exists() {
            Status::Created
        } else {
            Status::Running
        }
    }
}

/// When a process began, and whether it has ended and only waits to be reaped;
/// `None` when there is none.
pub(crate) fn process_stat(pid: u32) -> Option<(u64, bool)> {
    let stat = read_proc(&format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    Some((fields.nth(18)?.parse().ok()?, ended))
}

/// A file of /proc, in few calls: these do not say how long they are, and the
/// standard library would begin with 32 bytes.
pub(crate) fn read_proc(path: &str) -> std::io::Result<String> {
    let mut text = String::with_capacity(1024);
    File::open(path)?.take(1 << 20).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes a file so that a reader sees the old or the new content, nothing
/// between. Each process has a temporary file of its own, and follows no link
/// that somebody has left in its place.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    File::create_new(&temporary)
        .or_else(|error| {
            if error.kind() != ErrorKind::AlreadyExists {
                return Err(error);
            }
            // Of a killed process with our number.
            std::fs::remove_file(&temporary)?;
            File::create_new(&temporary)
        })
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| std::fs::rename(&temporary, path))
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
        .context(|| format!("write {}", path.display()))
}

/// The identifier becomes a file name: runc's rule.
fn check_id(id: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id == "." || id == ".." || !id.bytes().all(good) {
        return Err(Error::new(format!("invalid container ID format: {id:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_file_names() {
        for id in ["a", "A-b_c+d.9", "..."] {
            check_id(id).unwrap();
        }
        for id in ["", ".", "..", "a/b", "../x", "a b", "é", "a\n"] {
            assert!(check_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn own_process_is_found_and_a_reused_number_is_not() {
        let pid = std::process::id();
        let (pid_start_time, ended) = process_stat(pid).unwrap();
        assert!(!ended);
        let mut state = State {
            id: "x".into(),
            pid,
            pid_start_time,
            bundle: "/".into(),
            rootfs: "/".into(),
            cgroup: Some("/x".into()),
            rdt: false,
            unit: None,
            poststop: false,
            created: String::new(),
            streams: Vec::new(),
        };
        assert!(state.process().is_some());
        state.pid_start_time += 1;
        assert!(state.process().is_none());
        state.pid = 0;
        assert!(state.process().is_none());
    }
}
