//! The options that `checkpoint` and `restore` have in common, as CRIU's.

use std::fs::DirBuilder;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags};

use super::Message;
use crate::args::{Args, Opt};
use crate::error::{Context, Error, Result};

pub(crate) const IMAGE_PATH: Opt = Opt::value("image-path");
pub(crate) const WORK_PATH: Opt = Opt::value("work-path");
pub(crate) const CGROUPS_MODE: Opt = Opt::value("manage-cgroups-mode");
pub(crate) const EMPTY_NS: Opt = Opt::value("empty-ns");

/// Truth values: an option's name and CRIU's number of it (images/rpc.proto).
pub(crate) const SWITCHES: &[(&str, u64)] = &[
    ("tcp-established", 5),
    ("tcp-skip-in-flight", 46),
    ("tcp-close", 52),
    ("link-remap", 18),
    ("ext-unix-sk", 4),
    ("shell-job", 7),
    ("file-locks", 8),
    ("auto-dedup", 16),
    ("lazy-pages", 48),
    ("leave-running", 3),
];

/// The configuration file of runc's users: what they want of CRIU holds here too.
const CONFIG_FILE: &str = "/etc/criu/runc.conf";
/// An annotation that names another, or none.
const CONFIG_ANNOTATION: &str = "org.criu.config";

/// CRIU's number of a way to block the network.
const NFTABLES: u64 = 2;

const CLONE_NEWNET: u64 = 0x4000_0000;

/// A request to CRIU, and the directories it is about.
pub(crate) struct Options {
    pub(crate) message: Message,
    pub(crate) images: PathBuf,
    pub(crate) log: PathBuf,
    /// With the numbers that CRIU is told.
    directories: Vec<(PathBuf, OwnedFd)>,
}

impl Options {
    /// `log` is the name of CRIU's log. With `make` the directories are made when
    /// they are missing.
    pub(crate) fn new(args: &Args, spec: &Spec, log: &str, make: bool) -> Result<Self> {
        let mut message = Message::default();
        let mut directories = Vec::new();
        let mut directory = |field: u64, path: &Path, make: bool| {
            let opened = open_directory(path, make)?;
            message.number(field, u64::from(opened.as_raw_fd().unsigned_abs()));
            directories.push((path.to_owned(), opened));
            Ok::<_, Error>(path.to_owned())
        };
        let images = args.value("image-path").filter(|path| !path.is_empty());
        let images = directory(1, Path::new(images.unwrap_or("checkpoint")), make)?;
        let work = match args.value("work-path").filter(|path| !path.is_empty()) {
            Some(path) => directory(17, Path::new(path), true)?,
            None => images.clone(),
        };
        message.number(9, 4); // log_level: debug
        message.text(10, log);
        message.flag(12, true); // notify_scripts
        message.flag(24, true); // manage_cgroups, of old releases
        message.flag(50, true); // orphan_pts_master
        message.number(34, cgroups_mode(args.value("manage-cgroups-mode"))?);
        message.number(38, empty_namespaces(args)?);
        if !is_in_path("iptables-restore") {
            // CRIU's own choice is iptables, to block connections meanwhile.
            message.number(64, NFTABLES);
        }
        for (name, field) in SWITCHES {
            message.flag(*field, args.has(name));
        }
        let annotations = spec.annotations().as_ref();
        let config = annotations.and_then(|annotations| annotations.get(CONFIG_ANNOTATION));
        let config = config.map_or(CONFIG_FILE, String::as_str);
        if !config.is_empty() {
            message.text(51, config);
        }
        Ok(Self {
            message,
            log: std::path::absolute(work.join(log)).unwrap_or(work),
            images,
            directories,
        })
    }

    /// To be called in the process that becomes CRIU: it finds the directories by
    /// the same numbers, but in its own mount namespace, for it mounts there.
    pub(crate) fn hand_over(&mut self) -> Result<()> {
        for (path, directory) in &mut self.directories {
            let opened = open_directory(path, false)?;
            rustix::io::dup2(&opened, directory)
                .context(|| format!("pass on {}", path.display()))?;
        }
        Ok(())
    }
}

fn open_directory(path: &Path, make: bool) -> Result<OwnedFd> {
    let tried = || format!("open the directory {}", path.display());
    if make {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(path)
            .context(|| format!("create {}", path.display()))?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).context(tried)
}

/// CRIU's number of a `--manage-cgroups-mode`.
fn cgroups_mode(mode: Option<&str>) -> Result<u64> {
    Ok(match mode {
        None | Some("") => 6, // CRIU's default, which is soft
        Some("ignore") => 0,
        Some("soft") => 3,
        Some("full") => 4,
        Some("strict") => 5,
        Some(_) => return Err(Error::new("Invalid manage-cgroups-mode value")),
    })
}

/// What a network namespace holds is never restored, as in runc: hooks and engines
/// connect it.
fn empty_namespaces(args: &Args) -> Result<u64> {
    match args.values("empty-ns").find(|name| *name != "network") {
        Some(other) => Err(Error::new(format!("namespace {other:?} is not supported"))),
        None => Ok(CLONE_NEWNET),
    }
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}
