//! `kill`, `delete`, `state`, `list`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_cgroup::{Cgroup, Host};
use berth_runtime_core::Poststop;
use berth_sys::signals::send_signal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use super::{OCI_VERSION, detect_host, warn_of};
use crate::args::{Args, Opt, Order, alone, no_more, only};
use crate::error::{Context, Error, Result};
use crate::print;
use crate::signal;
use crate::state::{State, StateDir, Status};

pub(crate) const LIST: &[Opt] = &[
    Opt::value("format").short('f'),
    Opt::flag("quiet").short('q'),
];

/// How long a killed process may take to end.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// How long who makes a container may take to notice that its process is gone.
const GIVE_UP: Duration = Duration::from_secs(10);

pub(crate) fn kill(root: &Path, mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(
        &mut arguments,
        &[Opt::flag("all").short('a')],
        Order::OptionsFirst,
    )?;
    let signal = if arguments.len() > 1 {
        arguments.pop()
    } else {
        None
    };
    let id = only(arguments, "container id")?;
    let signal = match &signal {
        None => libc::SIGTERM,
        Some(text) => text
            .to_str()
            .and_then(signal::parse)
            .ok_or_else(|| Error::new(format!("unknown signal {text:?}")))?,
    };
    let dir = StateDir::open(root, &id)?;
    let state = dir.load()?;
    if args.has("all") {
        let host = detect_host()?;
        let group = state.needed_group(&host)?;
        signal_all(&group, signal)?;
        return Ok(0);
    }
    let process = state
        .process()
        .ok_or_else(|| Error::new("container not running"))?;
    send_signal(&process, signal).context(|| "unable to signal init".to_owned())?;
    if signal == libc::SIGKILL {
        // A frozen process of v1 takes it only when it thaws.
        if let Some(group) = state.group(&detect_host()?)
            && group.is_frozen().unwrap_or(false)
        {
            group
                .thaw()
                .context(|| format!("thaw control group {}", group.path()))?;
        }
    }
    Ok(0)
}

fn signal_all(group: &Cgroup, signal: i32) -> Result<()> {
    let tried = || format!("signal all processes of control group {}", group.path());
    if signal == libc::SIGKILL {
        return group.kill_all().context(tried);
    }
    for pid in group.processes().context(tried)? {
        // One that has ended meanwhile is no error.
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
            && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
        {
            let _ = send_signal(&pidfd, signal);
        }
    }
    Ok(())
}

pub(crate) fn delete(root: &Path, mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(
        &mut arguments,
        &[Opt::flag("force").short('f')],
        Order::Anywhere,
    )?;
    let id = only(arguments, "container id")?;
    let force = args.has("force");
    let found = match StateDir::find(root, &id)? {
        Some(dir) => dir.lock()?.map(|lock| (dir, lock)),
        None => None,
    };
    let Some((dir, _lock)) = found else {
        return if force {
            Ok(0)
        } else {
            Err(StateDir::missing())
        };
    };
    let host = detect_host()?;
    if force {
        stop_making(&dir, &host)?;
    }
    // Asked before: whoever makes it may write one meanwhile.
    let has_state = dir.has_state();
    match dir.load() {
        Ok(state) => {
            let status = state.status(&dir, &host);
            if !force && !matches!(status, Status::Created | Status::Stopped) {
                return Err(not_stopped(&id, status));
            }
            destroy(&dir, &state, &host)?;
        }
        Err(_) if !force && dir.is_being_made() => return Err(not_stopped(&id, Status::Creating)),
        // Not known is not gone: there may be processes.
        Err(error) if has_state => return Err(error),
        // `create` was killed before it wrote the state, or `delete` after it removed
        // that: no process and no control group is left.
        Err(_) => dir.remove()?,
    }
    Ok(0)
}

/// Ends the process of a container that is being made, and waits until whoever
/// makes it has given up; not for one that hangs.
fn stop_making(dir: &StateDir, host: &Host) -> Result<()> {
    let deadline = Instant::now() + GIVE_UP;
    while dir.is_being_made() && Instant::now() < deadline {
        // The state may come, and with it the group.
        if let Some(group) = dir.load().ok().and_then(|state| state.group(host))
            && group.exists()
        {
            group
                .kill_all()
                .context(|| format!("end the processes of {}", group.path()))?;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn not_stopped(id: &str, status: Status) -> Error {
    Error::new(format!(
        "cannot delete container {id} that is not stopped: {}",
        status.name()
    ))
}

/// Kills what is left of a container and removes it.
pub(super) fn destroy(dir: &StateDir, state: &State, host: &Host) -> Result<()> {
    end(state, host)?;
    // Without resctrl there is nothing that could be left.
    if let Ok(Some(rdt)) = state.rdt(dir) {
        rdt.remove()?;
    }
    let hooks = poststop(dir, state);
    dir.remove()?;
    warn_of(hooks.iter().flat_map(Poststop::run));
    Ok(())
}

fn poststop(dir: &StateDir, state: &State) -> Option<Poststop> {
    if !state.poststop {
        return None;
    }
    Poststop::new(&dir.load_config().ok()?, &state.id, &state.bundle)
}

/// Kills what is left and removes the control group.
fn end(state: &State, host: &Host) -> Result<()> {
    let group = state.group(host).filter(Cgroup::exists);
    if let Some(process) = state.process() {
        let _ = send_signal(&process, libc::SIGKILL);
        if let Some(group) = &group {
            let _ = group.kill_all();
        }
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        let ended = rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE)))
            .context(|| format!("wait for the end of {}", state.id))?;
        if ended == 0 {
            return Err(Error::new(format!(
                "container {}: its first process {} did not end within 10 seconds of SIGKILL",
                state.id, state.pid
            )));
        }
    }
    if let Some(group) = group {
        let tried = || format!("remove control group {}", group.path());
        // An exec may have entered it after the others were gone.
        let mut tries = 0;
        loop {
            group.kill_all().context(tried)?;
            match group.remove() {
                Err(_) if tries < 3 => tries += 1,
                result => return result.context(tried),
            }
        }
    }
    Ok(())
}

pub(crate) fn state(root: &Path, arguments: Vec<OsString>) -> Result<u8> {
    let id = alone(arguments, "container id")?;
    let dir = StateDir::open(root, &id)?;
    let state = dir.load()?;
    let status = state.status(&dir, &detect_host()?);
    let shown = Shown::new(&state, status, annotations(&dir)?, "");
    let text = serde_json::to_string_pretty(&shown).context(|| "encode the state".to_owned())?;
    print(&(text + "\n"))
}

pub(crate) fn list(root: &Path, mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(&mut arguments, LIST, Order::Anywhere)?;
    no_more(&arguments)?;
    let containers = all(root)?;
    if args.has("quiet") {
        return print(
            &containers
                .iter()
                .fold(String::new(), |text, one| text + &one.state.id + "\n"),
        );
    }
    match args.value("format").unwrap_or("table") {
        "table" => print(&table(&containers)),
        "json" => {
            let shown: Vec<_> = containers
                .iter()
                .map(|one| {
                    let annotations = annotations(&one.dir).unwrap_or_default();
                    Shown::new(&one.state, one.status, annotations, &one.owner)
                })
                .collect();
            let text = serde_json::to_string(&shown).context(|| "encode the list".to_owned())?;
            print(&(text + "\n"))
        }
        other => Err(Error::new(format!(
            "invalid format option {other:?}: expected table or json"
        ))),
    }
}

fn annotations(dir: &StateDir) -> Result<HashMap<String, String>> {
    let config = dir.load_config()?;
    Ok(config.annotations().clone().unwrap_or_default())
}

/// A container as `state` and `list` show it, in runc's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    oci_version: &'static str,
    id: &'a str,
    pid: u32,
    status: Status,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    annotations: HashMap<String, String>,
    owner: &'a str,
}

impl<'a> Shown<'a> {
    fn new(
        state: &'a State,
        status: Status,
        annotations: HashMap<String, String>,
        owner: &'a str,
    ) -> Self {
        Self {
            oci_version: OCI_VERSION,
            id: &state.id,
            pid: if status == Status::Stopped {
                0
            } else {
                state.pid
            },
            status,
            bundle: &state.bundle,
            rootfs: &state.rootfs,
            created: &state.created,
            annotations,
            owner,
        }
    }
}

/// One line of `list`.
struct Listed {
    dir: StateDir,
    state: State,
    status: Status,
    /// Whose container it is.
    owner: String,
}

/// The containers of this root, by name.
fn all(root: &Path) -> Result<Vec<Listed>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| format!("read {}", root.display())),
    };
    let host = detect_host()?;
    let mut containers: Vec<_> = entries
        .filter_map(|entry| {
            let dir = StateDir::open(root, entry.ok()?.file_name().to_str()?).ok()?;
            // One that is being made or removed has no state.
            let state = dir.load().ok()?;
            let status = state.status(&dir, &host);
            let owner = owner(&dir)?;
            Some(Listed {
                dir,
                state,
                status,
                owner,
            })
        })
        .collect();
    containers.sort_by(|a, b| a.state.id.cmp(&b.state.id));
    Ok(containers)
}

/// The user's name, or number when it has none.
fn owner(dir: &StateDir) -> Option<String> {
    let uid = std::fs::metadata(dir.path()).ok()?.uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&*uid)).then(|| name.to_owned())
    });
    Some(name.unwrap_or(uid))
}

fn table(containers: &[Listed]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    for Listed {
        state,
        status,
        owner,
        ..
    } in containers
    {
        rows.push([
            state.id.clone(),
            if *status == Status::Stopped {
                "0".to_owned()
            } else {
                state.pid.to_string()
            },
            status.name().to_owned(),
            state.bundle.display().to_string(),
            state.created.clone(),
            owner.clone(),
        ]);
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].len())
            .max()
            .unwrap_or(0)
            .max(9)
    };
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{cell:width$}   ");
        }
        text.push_str(&row[5]);
        text.push('\n');
    }
    text
}
