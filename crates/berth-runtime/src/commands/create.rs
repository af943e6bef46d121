//! `create` and `run`.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use berth_cgroup::{Cgroup, Host};
use berth_monitor::timestamp::Timestamp;
use berth_runtime_core::{Create, Created, Poststop, Root, Stdio};
use oci_spec::runtime::{LinuxResources, Spec};

use super::detect_host;
use super::start::Gate;
use crate::args::{Args, Opt, Order, only};
use crate::config;
use crate::console::{self, Proxy};
use crate::error::{Context, Error, Result};
use crate::inherit::{Inherit, NO_NEW_KEYRING, PRESERVE_FDS};
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

pub(crate) fn create(root: &Path, rootless: Rootless, arguments: Vec<OsString>) -> Result<u8> {
    let (args, request) = parse(arguments)?;
    let host = detect_host()?;
    let (mut container, created) = Container::make(root, &request, &args, &host, rootless, true)?;
    if let Some(gate) = container.gate.take() {
        gate.keep(created)?;
    }
    // Until now `start` is refused.
    container.making = None;
    container.keep();
    Ok(0)
}

pub(crate) fn run(root: &Path, rootless: Rootless, arguments: Vec<OsString>) -> Result<u8> {
    let (args, request) = parse(arguments)?;
    let host = detect_host()?;
    let detach = args.has("detach");
    let waiter = if detach {
        None
    } else {
        Some(Waiter::new().context(|| "prepare to wait for the container".to_owned())?)
    };
    let (mut container, created) = Container::make(root, &request, &args, &host, rootless, false)?;
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

/// Whether a control group that may not be made is gone without (`--rootless`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rootless(bool);

impl Rootless {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            None | Some("auto") => Ok(Self(
                !rustix::process::geteuid().is_root() || is_in_user_namespace(),
            )),
            Some("true") => Ok(Self(true)),
            Some("false") => Ok(Self(false)),
            Some(text) => Err(Error::new(format!(
                "invalid value for rootless: {text:?} is not true, false or auto"
            ))),
        }
    }

    /// Only when nobody asked for one.
    fn forgives(self, error: &berth_cgroup::Error, spec: &Spec) -> bool {
        let linux = spec.linux().as_ref();
        let asks = linux.is_some_and(|linux| {
            let mut limits = linux.resources().clone().unwrap_or_default();
            limits.set_devices(None);
            linux.cgroups_path().is_some() || limits != LinuxResources::default()
        });
        self.0 && error.is_denied() && !asks
    }
}

/// As Podman runs its runtime for a user without privileges.
pub(crate) fn is_in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().nth(2) != Some("4294967295"))
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
struct Container {
    dir: StateDir,
    making: Option<Making>,
    group: Option<Cgroup>,
    poststop: Option<Poststop>,
    gate: Option<Gate>,
    keep: bool,
}

impl Container {
    fn make(
        root: &Path,
        request: &Request,
        args: &Args,
        host: &Host,
        rootless: Rootless,
        gate: bool,
    ) -> Result<(Self, Created)> {
        let inherit = request.inherit;
        let (mut spec, config) = config::read(&request.bundle.join("config.json"))?;
        let terminal = spec
            .process()
            .as_ref()
            .and_then(|process| process.terminal())
            .unwrap_or(false);
        if let Some(mut process) = spec.process().clone() {
            inherit.announce(&mut process);
            spec.set_process(Some(process));
        }
        let console_socket = args.value("console-socket").map(Path::new);
        let detached = gate || args.has("detach");
        if detached && terminal && console_socket.is_none() {
            return Err(Error::new(
                "a terminal of a detached container needs --console-socket",
            ));
        }
        if !terminal && console_socket.is_some() {
            return Err(Error::new(
                "--console-socket is for a container with a terminal",
            ));
        }

        let resources = berth_runtime_core::resources(&spec)?;
        let mut container = Self {
            dir: StateDir::create(root, &request.id)?,
            making: None,
            group: None,
            poststop: None,
            gate: None,
            keep: false,
        };
        container.making = Some(container.dir.making()?);
        container.dir.save_config(&config)?;
        if gate {
            container.gate = Some(Gate::new(&container.dir)?);
        }
        let poststop = Poststop::new(&spec, &request.id, &request.bundle);
        let cgroup = cgroup_path(&spec, &request.id);
        let mut state = State {
            id: request.id.clone(),
            pid: 0,
            pid_start_time: 0,
            rootfs: rootfs(&spec, &request.bundle),
            bundle: request.bundle.clone(),
            cgroup: Some(cgroup.clone()),
            poststop: poststop.is_some(),
            created: Timestamp::now().to_string(),
        };
        container.dir.save(&state)?;
        container.poststop = poststop;
        match Cgroup::create(host, &cgroup, Some(&resources)) {
            Ok(group) => container.group = Some(group),
            Err(error) if rootless.forgives(&error, &spec) => state.cgroup = None,
            Err(error) => return Err(error).context(|| format!("create control group {cgroup}")),
        }

        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let created = berth_runtime_core::create(&Create {
            spec: &spec,
            id: &request.id,
            root: Root::Bundle(&request.bundle),
            stdio: if terminal {
                let (width, height) = console::size();
                Stdio::Terminal { width, height }
            } else {
                Stdio::Fds([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
            },
            cgroup: container.group.as_ref(),
            seccomp: None,
            network: None,
            sources: &[],
            gate,
            inherit: inherit.what(),
        })?;

        let pid = created.process.pid;
        state.pid = pid;
        state.pid_start_time = process_stat(pid).map_or(0, |(start_time, _)| start_time);
        container.dir.save(&state)?;
        if let (Some(path), Some(console)) = (console_socket, &created.process.console) {
            console::send(path, console)?;
        }
        if let Some(path) = args.value("pidfd-socket") {
            console::send_pidfd(Path::new(path), &created.process.pidfd)?;
        }
        if let Some(path) = args.value("pid-file") {
            replace(Path::new(path), pid.to_string().as_bytes())?;
        }
        Ok((container, created))
    }

    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        // An error is on its way out already, or the exit code; what cannot be
        // removed shows in `list`.
        if let Some(group) = &self.group {
            let _ = group.kill_all();
            let _ = group.remove();
        }
        let _ = self.dir.remove();
        super::warn_of(self.poststop.iter().flat_map(Poststop::run));
    }
}

/// `linux.cgroupsPath`, below the root of each hierarchy; by default the
/// container's identifier, as runc has it.
fn cgroup_path(spec: &Spec, id: &str) -> String {
    let path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_ref());
    let path = path.map(|path| path.to_string_lossy()).unwrap_or_default();
    match path.trim_matches('/') {
        "" => format!("/{id}"),
        path => format!("/{path}"),
    }
}

fn rootfs(spec: &Spec, bundle: &Path) -> PathBuf {
    spec.root()
        .as_ref()
        .map_or_else(|| bundle.join("rootfs"), |root| bundle.join(root.path()))
}
