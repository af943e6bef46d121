//! `checkpoint`: CRIU writes a container's processes to files.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use berth_cgroup::Cgroup;
use berth_runtime_core::restore::{self as core, Side};
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags};

use super::{detect_host, manage};
use crate::args::{Args, Opt, Order, only};
use crate::criu::options::{CGROUPS_MODE, EMPTY_NS, IMAGE_PATH, Options, WORK_PATH};
use crate::criu::service::{self, Criu, Kind, Notice, Start};
use crate::criu::{self, DESCRIPTORS, Message};
use crate::error::{Context, Error, Result};
use crate::state::{State, StateDir, Status};

pub(crate) const OPTIONS: &[Opt] = &[
    IMAGE_PATH,
    WORK_PATH,
    Opt::value("parent-path"),
    Opt::flag("leave-running"),
    Opt::flag("tcp-established"),
    Opt::flag("tcp-skip-in-flight"),
    Opt::flag("link-remap"),
    Opt::flag("ext-unix-sk"),
    Opt::flag("shell-job"),
    Opt::flag("lazy-pages"),
    Opt::value("status-fd"),
    Opt::value("page-server"),
    Opt::flag("file-locks"),
    Opt::flag("pre-dump"),
    CGROUPS_MODE,
    EMPTY_NS,
    Opt::flag("auto-dedup"),
];

const LOG: &str = "dump.log";

pub(crate) fn checkpoint(root: &Path, mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(&mut arguments, OPTIONS, Order::Anywhere)?;
    // Before anything is opened.
    let status_fd = status_fd(&args)?;
    // Nothing of the caller's for CRIU.
    berth_sys::exec::close_on_exec_from(3)
        .context(|| "keep the caller's descriptors to ourselves".to_owned())?;
    let id = only(arguments, "container id")?;
    let dir = StateDir::open(root, &id)?;
    let _lock = dir.lock()?.ok_or_else(StateDir::missing)?;
    let state = dir.load()?;
    let host = detect_host()?;
    let status = state.status(&dir, &host);
    if !matches!(status, Status::Running | Status::Paused) {
        return Err(Error::new(format!(
            "Container cannot be checkpointed in {} state",
            status.name()
        )));
    }
    let pre_dump = args.has("pre-dump");
    let spec = dir.load_config()?;
    criu::refuse_user_namespace(&spec)?;
    let group = state.group(&host);
    let mut options = Options::new(&args, &spec, LOG, true)?;
    describe(
        &mut options.message,
        &args,
        &options.images,
        &state,
        group.as_ref(),
    )?;
    external_namespaces(&mut options.message, &spec)?;
    service::check(pre_dump, args.has("lazy-pages"))?;
    if !pre_dump {
        external_mounts(&mut options.message, &spec, &state)?;
        save_streams(&options.images, &state)?;
    }

    let kind = if pre_dump { Kind::PreDump } else { Kind::Dump };
    if let Err(error) = dump(kind, &mut options, status_fd) {
        // CRIU lets it go on, unless it was killed.
        if let Some(group) =
            group.filter(|group| status != Status::Paused && group.is_frozen().unwrap_or(false))
        {
            group
                .thaw()
                .context(|| format!("{error}\nthaw control group {}", group.path()))?;
        }
        return Err(criu::with_log(&error, &options.log));
    }
    if !pre_dump && !args.has("leave-running") {
        manage::destroy(&dir, &state, &host)?;
    }
    Ok(0)
}

fn dump(kind: Kind, options: &mut Options, mut status_fd: Option<File>) -> Result<()> {
    let criu = Criu::start(Start {
        streams: false,
        inherited: &[],
        before: &mut || options.hand_over(),
    })?;
    let answer = criu.ask(kind, &options.message, &mut |notice: Notice| {
        if notice.stage == "status-ready"
            && let Some(mut status) = status_fd.take()
        {
            // Whoever asked may have gone: CRIU serves the pages all the same.
            let _ = status.write_all(&[0]);
        }
        Ok(())
    });
    match answer {
        Err(error) => {
            service::give_up(criu);
            Err(error)
        }
        // After a pre-dump CRIU waits for the dump, which another one will do.
        Ok(_) if !criu.end() && kind != Kind::PreDump => {
            Err(Error::new("criu failed: it ended badly after the dump"))
        }
        Ok(_) => Ok(()),
    }
}

/// `--status-fd`, where a zero byte says that the pages can be fetched.
fn status_fd(args: &Args) -> Result<Option<File>> {
    let Some(text) = args.value("status-fd").filter(|text| *text != "-1") else {
        return Ok(None);
    };
    if !args.has("lazy-pages") {
        return Err(Error::new("--status-fd is for --lazy-pages"));
    }
    let invalid = |why: &str| Error::new(format!("invalid --status-fd argument {text}: {why}"));
    let number: u32 = text.parse().map_err(|_| invalid("not a number"))?;
    // A copy: the number itself stays with whoever passed it.
    File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{number}"))
        .map(Some)
        .map_err(|error| invalid(&error.to_string()))
}

/// What is only said of a dump.
fn describe(
    message: &mut Message,
    args: &Args,
    images: &Path,
    state: &State,
    group: Option<&Cgroup>,
) -> Result<()> {
    message.number(2, u64::from(state.pid));
    message.text(13, &state.rootfs.to_string_lossy());
    if let Some(freezer) = group.and_then(|group| group.freezer().ok()) {
        message.text(44, &freezer.to_string_lossy());
    }
    if let Some(parent) = args.value("parent-path").filter(|path| !path.is_empty()) {
        if Path::new(parent).is_absolute() {
            return Err(Error::new("--parent-path must be relative"));
        }
        let real = images.join(parent);
        if !real.is_dir() {
            return Err(Error::new(format!(
                "invalid --parent-path: {} is not a directory",
                real.display()
            )));
        }
        message.text(14, parent);
        message.flag(15, true); // track_mem
    }
    if let Some(text) = args.value("page-server").filter(|text| !text.is_empty()) {
        let (address, port) = text
            .rsplit_once(':')
            .map(|(address, port)| (address.trim_matches(['[', ']']), port))
            .filter(|(address, port)| !address.is_empty() && !port.is_empty())
            .ok_or_else(|| Error::new("Use --page-server ADDRESS:PORT to specify page server"))?;
        let port: u16 = port
            .parse()
            .map_err(|_| Error::new("Invalid port number"))?;
        let mut server = Message::default();
        server.text(1, address);
        server.number(2, u64::from(port));
        message.message(11, &server);
    }
    Ok(())
}

/// CRIU leaves these alone; they must be there when the container is restored.
fn external_namespaces(message: &mut Message, spec: &Spec) -> Result<()> {
    for (name, path) in criu::external_namespaces(spec) {
        let tried = || format!("stat the namespace {}", path.display());
        let inode = std::fs::metadata(path).context(tried)?.ino();
        message.text(
            37,
            &format!("{name}[{inode}]:{}", criu::namespace_key(name)),
        );
    }
    Ok(())
}

fn external_mounts(message: &mut Message, spec: &Spec, state: &State) -> Result<()> {
    let path = format!("/proc/{}/root", state.pid);
    let root: OwnedFd =
        rustix::fs::openat(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .context(|| "open the container's root".to_owned())?;
    let mounts = core::external_mounts(spec, root.as_fd(), Side::Checkpoint(state.pid))?;
    for mount in mounts {
        message.message(23, &criu::pair(&mount.at, &mount.name));
    }
    Ok(())
}

/// So that `restore` can put its own in their place.
fn save_streams(images: &Path, state: &State) -> Result<()> {
    let path: PathBuf = images.join(DESCRIPTORS);
    let text = serde_json::to_vec(&state.streams).context(|| "encode the streams".to_owned())?;
    std::fs::write(&path, text).context(|| format!("write {}", path.display()))
}
