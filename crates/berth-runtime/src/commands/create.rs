//! `create` and `run`.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_cgroup::systemd::Anchor;
use berth_cgroup::{Cgroup, Host};
use berth_monitor::timestamp::Timestamp;
use berth_runtime_core::{Create, Created, Poststop, Rdt, Root, Started, Stdio};
use oci_spec::runtime::Spec;

use super::detect_host;
use super::groups::{self, Groups};
use super::start::Gate;
use crate::args::{Args, Opt, Order, only};
use crate::config;
use crate::console::{self, Proxy};
use crate::error::{Context, Error, Result};
use crate::filters;
use crate::inherit::{Inherit, NO_NEW_KEYRING, PRESERVE_FDS};
use crate::rootless;
use crate::state::{Making, State, StateDir, process_stat, replace};
use crate::wait::Waiter;

pub(crate) const OPTIONS: &[Opt] = &[
    Opt::value("bundle").short('b'),
    Opt::value("console-socket"),
    Opt::value("pidfd-socket"),
    Opt::value("pid-file"),
    // For a host that runs from its initramfs, which is seen without it.
    Opt::flag("no-pivot"),
    NO_NEW_KEYRING,
    PRESERVE_FDS,
    // Orphans of the container come to us in any case, and are reaped.
    Opt::flag("no-subreaper"),
    Opt::flag("detach").short('d'),
    Opt::flag("keep"),
];

pub(crate) fn create(root: &Path, groups: Groups, arguments: Vec<OsString>) -> Result<u8> {
    let (args, request) = parse(arguments)?;
    let host = detect_host()?;
    let (mut container, created) = Container::make(root, &request, &args, &host, groups, true)?;
    if let Some(gate) = container.gate.take() {
        gate.keep(created)?;
    }
    // Until now `start` is refused.
    container.making = None;
    container.keep();
    Ok(0)
}

pub(crate) fn run(root: &Path, groups: Groups, arguments: Vec<OsString>) -> Result<u8> {
    let (args, request) = parse(arguments)?;
    let host = detect_host()?;
    let detach = args.has("detach");
    let waiter = if detach {
        None
    } else {
        Some(Waiter::new().context(|| "prepare to wait for the container".to_owned())?)
    };
    let (mut container, created) = Container::make(root, &request, &args, &host, groups, false)?;
    container.making = None;
    let Some(waiter) = waiter else {
        container.keep();
        return Ok(0);
    };
    let mut process = created.process;
    let mut proxy = match process.console.take() {
        Some(console) if args.value("console-socket").is_none() => {
            Some(Proxy::new(console).context(|| "prepare the terminal".to_owned())?)
        }
        _ => None,
    };
    let code = waiter
        .wait(&process, proxy.as_mut())
        .context(|| "wait for the container".to_owned())?;
    if args.has("keep") {
        container.keep();
    }
    Ok(code)
}

/// `--console-socket`, which a terminal needs when nobody stays to serve it.
pub(super) fn console_socket(args: &Args, terminal: bool, detached: bool) -> Result<Option<&Path>> {
    let socket = args.value("console-socket").map(Path::new);
    if detached && terminal && socket.is_none() {
        return Err(Error::new(
            "a terminal of a detached container needs --console-socket",
        ));
    }
    if !terminal && socket.is_some() {
        return Err(Error::new(
            "--console-socket is for a container with a terminal",
        ));
    }
    Ok(socket)
}

/// What the standard streams are, as /proc shows them ("pipe:[4711]"): how a
/// checkpoint tells them from pipes of the container.
pub(super) fn streams() -> Vec<String> {
    let name = |number: u8| std::fs::read_link(format!("/proc/self/fd/{number}"));
    (0..3)
        .map(|number| {
            name(number).map_or_else(
                |_| String::new(),
                |path| path.to_string_lossy().into_owned(),
            )
        })
        .collect()
}

/// `--pidfd-socket` and `--pid-file`.
pub(super) fn announce(args: &Args, process: &Started) -> Result<()> {
    if let Some(path) = args.value("pidfd-socket") {
        console::send_pidfd(Path::new(path), &process.pidfd)?;
    }
    if let Some(path) = args.value("pid-file") {
        replace(Path::new(path), process.pid.to_string().as_bytes())?;
    }
    Ok(())
}

/// What to make a container from.
struct Request {
    id: String,
    bundle: PathBuf,
    inherit: Inherit,
}

fn parse(mut arguments: Vec<OsString>) -> Result<(Args, Request)> {
    let args = Args::parse(&mut arguments, OPTIONS, Order::Anywhere)?;
    // Before anything is opened.
    let inherit = Inherit::parse(&args)?;
    let id = only(arguments, "container id")?;
    let bundle = args.value("bundle").filter(|bundle| !bundle.is_empty());
    let bundle = bundle.unwrap_or(".");
    let bundle = std::fs::canonicalize(bundle).context(|| format!("open the bundle {bundle}"))?;
    let request = Request {
        id,
        bundle,
        inherit,
    };
    Ok((args, request))
}

/// A container being made; removed on drop unless it is to be kept.
pub(super) struct Container {
    pub(super) dir: StateDir,
    /// Its directory, whoever gets the name.
    opened: Option<OwnedFd>,
    pub(super) making: Option<Making>,
    pub(super) group: Option<Cgroup>,
    pub(super) rdt: Option<Rdt>,
    poststop: Option<Poststop>,
    gate: Option<Gate>,
    keep: bool,
}

/// What a container is made from: its configuration, parsed and as it is in the file.
pub(super) struct Source<'a> {
    pub(super) id: &'a str,
    pub(super) bundle: &'a Path,
    pub(super) spec: &'a Spec,
    pub(super) config: &'a [u8],
}

impl Container {
    /// All but its process: the state on disk, then the control group with the
    /// limits. The anchor is to be released when the process is in it.
    pub(super) fn begin(
        root: &Path,
        from: &Source<'_>,
        host: &Host,
        groups: Groups,
    ) -> Result<(Self, State, Option<Anchor>)> {
        let resources = berth_runtime_core::resources(from.spec)?;
        let rdt = Rdt::new(from.spec, from.id)?;
        let planned = groups.plan(host, from.spec, from.id)?;
        let mut container = Self {
            dir: StateDir::create(root, from.id)?,
            opened: None,
            making: None,
            group: None,
            rdt: None,
            poststop: None,
            gate: None,
            keep: false,
        };
        container.opened = Some(container.dir.opened()?);
        container.making = Some(container.dir.making()?);
        container.dir.save_config(from.config)?;
        let poststop = Poststop::new(from.spec, from.id, from.bundle);
        let mut state = State {
            id: from.id.to_owned(),
            pid: 0,
            pid_start_time: 0,
            rootfs: rootfs(from.spec, from.bundle),
            bundle: from.bundle.to_owned(),
            cgroup: Some(planned.path.clone()),
            unit: planned.unit(),
            rdt: rdt.is_some(),
            poststop: poststop.is_some(),
            created: Timestamp::now().to_string(),
            streams: Vec::new(),
        };
        // Whatever is recorded, `delete` ends: never the processes of others.
        Cgroup::open(host, &planned.path)
            .check_empty()
            .context(|| format!("create control group {}", planned.path))?;
        container.dir.save(&state)?;
        container.poststop = poststop;
        let made = groups.make(host, &planned, from.spec, &resources)?;
        match &made.group {
            Some(group) => {
                container.group = Some(group.clone());
                if let Some(uid) = groups::owner(from.spec) {
                    match group.delegate(uid) {
                        // A user's runtime may not.
                        Err(error) if error.is_denied() => {}
                        result => result
                            .context(|| format!("hand control group {} over", group.path()))?,
                    }
                }
            }
            None => (state.cgroup, state.unit) = (None, None),
        }
        container.rdt = rdt;
        if let Some(rdt) = &container.rdt {
            rdt.apply()?;
        }
        Ok((container, state, made.anchor))
    }

    fn make(
        root: &Path,
        request: &Request,
        args: &Args,
        host: &Host,
        groups: Groups,
        gate: bool,
    ) -> Result<(Self, Created)> {
        let inherit = request.inherit;
        let (mut spec, config, filter) = config::read(&request.bundle.join("config.json"))?;
        let terminal = spec
            .process()
            .as_ref()
            .and_then(|process| process.terminal())
            .unwrap_or(false);
        if let Some(mut process) = spec.process().clone() {
            inherit.announce(&mut process);
            spec.set_process(Some(process));
        }
        let console_socket = console_socket(args, terminal, gate || args.has("detach"))?;

        rootless::enter(&mut spec)?;
        let from = Source {
            id: &request.id,
            bundle: &request.bundle,
            spec: &spec,
            config: &config,
        };
        let (mut container, mut state, anchor) = Self::begin(root, &from, host, groups)?;
        if gate {
            container.gate = Some(Gate::new(&container.dir)?);
        }
        if !terminal {
            state.streams = streams();
        }

        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let section = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref());
        // What is wrong with the section is told when the container is planned.
        let filter = (filter.zip(section))
            .and_then(|(text, section)| filters::program(root, text.get(), section).ok());
        let created = berth_runtime_core::create(&Create {
            spec: &spec,
            id: &request.id,
            root: Root::Bundle(&request.bundle),
            stdio: if terminal {
                let (width, height) = console::size(spec.process().as_ref());
                Stdio::Terminal { width, height }
            } else {
                Stdio::Fds([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
            },
            cgroup: container.group.as_ref(),
            rdt: container.rdt.as_ref(),
            seccomp: filter.as_ref(),
            network: None,
            sources: &[],
            gate,
            inherit: inherit.what(),
        })?;

        let tell = || {
            if let Some(anchor) = anchor {
                anchor
                    .release()
                    .context(|| "release the scope".to_owned())?;
            }
            let pid = created.process.pid;
            state.pid = pid;
            state.pid_start_time = process_stat(pid).map_or(0, |(start_time, _)| start_time);
            container.dir.save(&state)?;
            if let (Some(path), Some(console)) = (console_socket, &created.process.console) {
                console::send(path, console)?;
            }
            announce(args, &created.process)
        };
        // Without a control group nothing else would end it.
        tell().inspect_err(|_| created.process.end())?;
        Ok((container, created))
    }

    pub(super) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // `delete --force` waits for it, with the lock.
        self.making = None;
        // An error is on its way out already, or the exit code; what cannot be
        // removed shows in `list`. Who has deleted it has done all this; then the
        // name, and the group, may be those of another container.
        let opened = self.opened.take();
        let Some(Ok(Some(_lock))) = opened.map(|opened| self.dir.lock_opened(opened)) else {
            return;
        };
        if let Some(group) = &self.group {
            let _ = group.kill_all();
            let _ = group.remove();
        }
        if let Some(rdt) = &self.rdt {
            let _ = rdt.remove();
        }
        let _ = self.dir.remove();
        super::warn_of(self.poststop.iter().flat_map(Poststop::run));
    }
}

fn rootfs(spec: &Spec, bundle: &Path) -> PathBuf {
    spec.root()
        .as_ref()
        .map_or_else(|| bundle.join("rootfs"), |root| bundle.join(root.path()))
}
