//! `restore`: CRIU makes processes from what `checkpoint` wrote.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_runtime_core::{Started, restore as core};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::create::{Container, Source, console_socket};
use super::detect_host;
use super::groups::Groups;
use crate::args::{Args, Opt, Order, only};
use crate::config;
use crate::console::{self, Proxy};
use crate::criu::options::{CGROUPS_MODE, EMPTY_NS, IMAGE_PATH, Options, WORK_PATH};
use crate::criu::service::{self, Criu, Kind, Notice, Start};
use crate::criu::{self, DESCRIPTORS, Message};
use crate::error::{Context, Error, Result};
use crate::state::{State, process_stat, replace};
use crate::wait::Waiter;

pub(crate) const OPTIONS: &[Opt] = &[
    Opt::value("console-socket"),
    IMAGE_PATH,
    WORK_PATH,
    Opt::flag("tcp-established"),
    Opt::flag("tcp-close"),
    Opt::flag("ext-unix-sk"),
    Opt::flag("shell-job"),
    Opt::flag("file-locks"),
    CGROUPS_MODE,
    Opt::value("bundle").short('b'),
    Opt::flag("detach").short('d'),
    Opt::value("pid-file"),
    // As for `create`.
    Opt::flag("no-subreaper"),
    Opt::flag("no-pivot"),
    EMPTY_NS,
    Opt::flag("auto-dedup"),
    Opt::flag("lazy-pages"),
    Opt::value("lsm-profile"),
    Opt::value("lsm-mount-context"),
];

const LOG: &str = "restore.log";
/// In the container's state directory; in CRIU's mount namespace all that is the
/// host's is there.
const PLACE: &str = "criu";
/// Longest list of descriptors, in bytes.
const MAX_DESCRIPTORS: u64 = 64 << 10;

pub(crate) fn restore(root: &Path, groups: Groups, mut arguments: Vec<OsString>) -> Result<u8> {
    // Nothing of the caller's for CRIU and the hooks.
    berth_sys::exec::close_on_exec_from(3)
        .context(|| "keep the caller's descriptors to ourselves".to_owned())?;
    let args = Args::parse(&mut arguments, OPTIONS, Order::Anywhere)?;
    let id = only(arguments, "container id")?;
    let bundle = args
        .value("bundle")
        .filter(|path| !path.is_empty())
        .unwrap_or(".");
    let bundle = std::fs::canonicalize(bundle).context(|| format!("open the bundle {bundle}"))?;
    let (spec, config, _) = config::read(&bundle.join("config.json"))?;
    criu::refuse_user_namespace(&spec)?;
    let process = spec.process().as_ref();
    let terminal = process.and_then(|process| process.terminal()) == Some(true);
    let detach = args.has("detach");
    let console_socket = console_socket(&args, terminal, detach)?;
    let mut options = Options::new(&args, &spec, LOG, false)?;
    for (name, field) in [("lsm-profile", 53), ("lsm-mount-context", 63)] {
        if let Some(text) = args.value(name).filter(|text| !text.is_empty()) {
            options.message.text(field, text);
        }
    }
    let streams = read_streams(&options.images)?;
    let namespaces = join(&mut options.message, &spec)?;
    service::check(false, false)?;

    let waiter = if detach {
        None
    } else {
        Some(Waiter::new().context(|| "prepare to wait for the container".to_owned())?)
    };
    let host = detect_host()?;
    let from = Source {
        id: &id,
        bundle: &bundle,
        spec: &spec,
        config: &config,
    };
    let (mut container, mut state, anchor) = Container::begin(root, &from, &host, groups)?;
    if !terminal {
        state.streams = super::create::streams();
    }
    let restoring = Restoring {
        from,
        container: &container,
        namespaces: &namespaces,
        streams: &streams,
    };
    let console = restoring
        .run(&mut options, &mut state)
        .map_err(|error| criu::with_log(&error, &options.log))?;

    if let Some(anchor) = anchor {
        anchor
            .release()
            .context(|| "release the scope".to_owned())?;
    }
    let mut started = started(&state, console)?;
    if let (Some(path), Some(console)) = (console_socket, &started.console) {
        console::send(path, console)?;
    }
    if let Some(path) = args.value("pid-file") {
        replace(Path::new(path), state.pid.to_string().as_bytes())?;
    }
    container.making = None;
    let Some(waiter) = waiter else {
        container.keep();
        return Ok(0);
    };
    let mut proxy = match started.console.take() {
        Some(console) if console_socket.is_none() => {
            Some(Proxy::new(console).context(|| "prepare the terminal".to_owned())?)
        }
        _ => None,
    };
    waiter
        .wait(&started, proxy.as_mut())
        .context(|| "wait for the container".to_owned())
}

/// A container whose state and control group are there.
struct Restoring<'a> {
    from: Source<'a>,
    container: &'a Container,
    namespaces: &'a [OwnedFd],
    streams: &'a [String],
}

impl Restoring<'_> {
    /// Returns with the process running, its terminal, and both in the state.
    fn run(&self, options: &mut Options, state: &mut State) -> Result<Option<OwnedFd>> {
        let place = self.container.dir.path().join(PLACE);
        DirBuilder::new()
            .create(&place)
            .context(|| format!("create {}", place.display()))?;
        self.describe(&mut options.message, state, &place)?;
        let inherited: Vec<_> = self.namespaces.iter().map(AsFd::as_fd).collect();
        let criu = Criu::start(Start {
            streams: true,
            inherited: &inherited,
            before: &mut || {
                self.prepare(&place, state.cgroup.as_deref())?;
                options.hand_over()
            },
        })?;
        let mut console = None;
        let answer = groups(&mut options.message, criu.pid()).and_then(|()| {
            criu.ask(Kind::Restore, &options.message, &mut |notice| {
                self.notice(notice, state, &mut console)
            })
        });
        match answer {
            Err(error) => {
                service::give_up(criu);
                return Err(error);
            }
            Ok(_) if !criu.end() => {
                return Err(Error::new("criu failed: it ended badly after the restore"));
            }
            Ok(_) => {}
        }
        // In CRIU's mount namespace something was on it.
        let _ = std::fs::remove_dir(&place);
        Ok(console)
    }

    /// In CRIU's process. It comes to be in the control group that the container's
    /// processes are restored in.
    fn prepare(&self, place: &Path, cgroup: Option<&str>) -> Result<()> {
        core::mount_all(self.from.spec, self.from.bundle, cgroup, place)?;
        if let Some(rdt) = &self.container.rdt {
            rdt.assign(&[std::process::id()])?;
        }
        match &self.container.group {
            Some(group) => group
                .enter()
                .context(|| "enter the control group".to_owned()),
            None => Ok(()),
        }
    }

    /// What is only said of a restore.
    fn describe(&self, message: &mut Message, state: &State, place: &Path) -> Result<()> {
        message.flag(6, true); // evasive_devices
        message.flag(26, true); // rst_sibling: its process becomes our child
        message.text(13, &place.join(core::ROOT).to_string_lossy());
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let rootfs = rustix::fs::open(&state.rootfs, flags, rustix::fs::Mode::empty())
            .context(|| format!("open the root filesystem {}", state.rootfs.display()))?;
        let side = core::Side::Restore(self.from.bundle);
        let mounts = core::external_mounts(self.from.spec, rootfs.as_fd(), side)?;
        let mut names: Vec<&str> = Vec::new();
        for mount in &mounts {
            if !names.contains(&mount.name.as_str()) {
                names.push(&mount.name);
                let source = place.join(&mount.source);
                message.message(23, &criu::pair(&mount.name, &source.to_string_lossy()));
            }
        }
        // What was connected to a pipe of whoever made the container is now to
        // what we have.
        for (number, stream) in (0..).zip(self.streams).take(3) {
            if stream.starts_with("pipe:") {
                message.message(27, &inherited(stream, number));
            }
        }
        Ok(())
    }

    fn notice(
        &self,
        mut notice: Notice,
        state: &mut State,
        console: &mut Option<OwnedFd>,
    ) -> Result<()> {
        match notice.stage.as_str() {
            "setup-namespaces" => {
                let from = &self.from;
                core::enter_namespaces(from.spec, from.id, from.bundle, notice.pid)?;
            }
            "post-restore" => {
                state.pid = notice.pid;
                state.pid_start_time = process_stat(notice.pid).map_or(0, |(start, _)| start);
                self.container.dir.save(state)?;
            }
            "orphan-pts-master" => *console = notice.descriptors.pop(),
            _ => {}
        }
        Ok(())
    }
}

/// The groups that CRIU's process is in become the root of the restored ones.
fn groups(message: &mut Message, criu: Pid) -> Result<()> {
    let path = format!("/proc/{criu}/cgroup");
    let text = std::fs::read_to_string(&path).context(|| format!("read {path}"))?;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (fields.next(), fields.next()) {
            for controller in controllers.split(',') {
                message.message(25, &criu::pair(controller, path));
            }
        }
    }
    Ok(())
}

/// The namespaces of the configuration that are there already; those that CRIU gets
/// by descriptor are returned.
fn join(message: &mut Message, spec: &Spec) -> Result<Vec<OwnedFd>> {
    let mut opened = Vec::new();
    for (name, path) in criu::external_namespaces(spec) {
        let file =
            File::open(path).context(|| format!("open the {name} namespace {}", path.display()))?;
        let number = file.as_raw_fd().unsigned_abs();
        message.message(
            27,
            &inherited(&criu::namespace_key(name), u64::from(number)),
        );
        opened.push(OwnedFd::from(file));
    }
    for (kind, path) in criu::namespaces_with_path(spec) {
        let name = match kind {
            LinuxNamespaceType::Network | LinuxNamespaceType::Pid => continue,
            LinuxNamespaceType::Ipc => "ipc",
            LinuxNamespaceType::Mount => "mnt",
            LinuxNamespaceType::User => "user",
            LinuxNamespaceType::Uts => "uts",
            LinuxNamespaceType::Time => "time",
            LinuxNamespaceType::Cgroup => {
                return Err(Error::new(
                    "a container that joins a cgroup namespace cannot be restored: CRIU has no way to",
                ));
            }
        };
        message.message(39, &criu::pair(name, &path.to_string_lossy()));
    }
    Ok(opened)
}

fn inherited(key: &str, number: u64) -> Message {
    let mut message = Message::default();
    message.text(1, key);
    message.number(2, number);
    message
}

fn read_streams(images: &Path) -> Result<Vec<String>> {
    let path: PathBuf = images.join(DESCRIPTORS);
    let mut text = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_DESCRIPTORS).read_to_end(&mut text))
        .context(|| format!("open {}", path.display()))?;
    serde_json::from_slice(&text).context(|| format!("parse {}", path.display()))
}

fn started(state: &State, console: Option<OwnedFd>) -> Result<Started> {
    let pid = i32::try_from(state.pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| Error::new("criu failed: it restored no process"))?;
    let pidfd =
        pidfd_open(pid, PidfdFlags::empty()).context(|| "watch the restored process".to_owned())?;
    Ok(Started {
        pid: state.pid,
        pidfd,
        console,
    })
}
