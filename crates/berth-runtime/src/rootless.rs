//! `run`, `create` and `exec` for a user without privileges.
//!
//! What makes a container needs rights over mounts and namespaces. A user has them
//! in a user namespace of their own: so this program first goes into one, in which
//! that user is root and everybody whom the container maps has a number, and
//! executes itself there again. The container's user namespace is then made inside
//! it, with its maps translated, as under rootless Podman. `exec` joins the
//! namespace that `create` went into.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use berth_sys::clone::{self, CLONE_NEWNS, CLONE_NEWUSER};
use berth_sys::fork;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Spec};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::error::{Context, Error, Result};
use crate::state::read_proc;

/// Set in the second execution: the configuration's maps are about the outside.
const MARK: &str = "_BERTH_RUNTIME_IN_USER_NAMESPACE";

/// As Podman runs its runtime for a user without privileges.
pub(crate) fn is_in_user_namespace() -> bool {
    read_proc("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().nth(2) != Some("4294967295"))
}

fn is_marked() -> bool {
    std::env::var_os(MARK).is_some() && is_in_user_namespace()
}

/// `$XDG_RUNTIME_DIR`, for whom it counts: root keeps to /run (as runc).
pub(crate) fn runtime_dir() -> Option<PathBuf> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty())?;
    let counts = !rustix::process::geteuid().is_root()
        || (is_in_user_namespace() && std::env::var_os("USER").is_none_or(|user| user != "root"));
    counts.then(|| dir.into())
}

/// Whether the systemd in reach is that of an ordinary user. Root of a user
/// namespace may also be root of a whole system in it, with its own manager.
pub(crate) fn is_users_systemd() -> bool {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let is_user = |number: &str| number.parse::<u32>().is_ok_and(|uid| uid != 0);
    let after_run_user = |text: &str| {
        let rest = text.split_once("/run/user/").map(|(_, rest)| rest);
        rest.is_some_and(|rest| is_user(rest.split(['/', ',', ';']).next().unwrap_or_default()))
    };
    is_marked()
        || is_user(&variable("ROOTLESSKIT_PARENT_EUID"))
        || after_run_user(&variable("DBUS_SESSION_BUS_ADDRESS"))
        || after_run_user(&variable("XDG_RUNTIME_DIR"))
}

/// Before anything is made: for a user without privileges does not return, but goes
/// on in another execution. In that one, translates the maps.
pub(crate) fn enter(spec: &mut Spec) -> Result<()> {
    if is_marked() {
        return translate_maps(spec);
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return Ok(());
    }
    let (uids, gids) = maps_of(spec)?;
    let uids = Outer::new(&uids, uid.as_raw(), "uid");
    let gids = Outer::new(&gids, gid.as_raw(), "gid");
    let helper = (uids.needs_help() || gids.needs_help())
        .then(|| Helper::start(&uids, &gids))
        .transpose()?;
    clone::unshare(CLONE_NEWUSER | CLONE_NEWNS).context(|| "make a user namespace".to_owned())?;
    if let Some(helper) = helper {
        helper.run()?;
    }
    if !gids.needs_help() {
        // Without CAP_SETGID only after giving up setgroups (user_namespaces(7)).
        put("setgroups", "deny")?;
    }
    for map in [&gids, &uids] {
        if !map.needs_help() {
            put(&format!("{}_map", map.what), &map.text())?;
        }
    }
    again()
}

/// For `exec`: the user namespace around that of process `pid`, if it is another
/// than ours.
pub(crate) fn join(pid: u32) -> Result<()> {
    if rustix::process::geteuid().is_root() || is_marked() {
        return Ok(());
    }
    let tried = || format!("join the user namespace around process {pid}");
    let inner = File::open(format!("/proc/{pid}/ns/user")).context(tried)?;
    let own = File::open("/proc/self/ns/user").context(tried)?;
    let inode = |file: &File| file.metadata().map(|data| data.ino()).context(tried);
    if inode(&inner)? == inode(&own)? {
        return Ok(());
    }
    let outer = File::from(clone::parent_namespace(inner.as_fd()).context(tried)?);
    if inode(&outer)? == inode(&own)? {
        return Ok(());
    }
    clone::setns(outer.as_fd(), CLONE_NEWUSER).context(tried)?;
    again()
}

/// Executes this program again, which also makes its entries in /proc belong to the
/// namespace it is in now.
fn again() -> Result<()> {
    let mut arguments = std::env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    Err(command.args(arguments).env(MARK, "1").exec())
        .context(|| "execute this program in the user namespace".to_owned())
}

fn put(file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/self/{file}");
    std::fs::write(&path, text).context(|| format!("write {text:?} to {path}"))
}

/// The maps, in runc's words when there are none.
fn maps_of(spec: &Spec) -> Result<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)> {
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| Error::new("linux is missing"))?;
    let user = linux
        .namespaces()
        .iter()
        .flatten()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::User)
        .ok_or_else(|| Error::new("rootless container requires user namespaces"))?;
    if (user.path().as_ref()).is_some_and(|path| !path.as_os_str().is_empty()) {
        return Err(Error::new(
            "joining a user namespace is not supported for a user without privileges",
        ));
    }
    let maps = |maps: &Option<Vec<LinuxIdMapping>>, kind: &str| {
        maps.clone().filter(|maps| !maps.is_empty()).ok_or_else(|| {
            Error::new(format!(
                "rootless containers requires at least one {kind} mapping"
            ))
        })
    };
    Ok((
        maps(linux.uid_mappings(), "UID")?,
        maps(linux.gid_mappings(), "GID")?,
    ))
}

/// A line of a map: first number inside, first outside, how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    inside: u64,
    outside: u64,
    count: u64,
}

/// The map of the namespace around the container's: the user is root, the others
/// whom the container maps follow.
#[derive(Debug)]
struct Outer {
    what: &'static str,
    lines: Vec<Line>,
}

impl Outer {
    fn new(maps: &[LinuxIdMapping], own: u32, what: &'static str) -> Self {
        let own = u64::from(own);
        let mut lines = vec![Line {
            inside: 0,
            outside: own,
            count: 1,
        }];
        let mut next = 1;
        for map in maps {
            let (first, end) = (
                u64::from(map.host_id()),
                u64::from(map.host_id()) + u64::from(map.size()),
            );
            // Without the user, who has a number already.
            let parts = if (first..end).contains(&own) {
                [(first, own), (own + 1, end)]
            } else {
                [(first, end), (end, end)]
            };
            for (first, end) in parts.into_iter().filter(|(first, end)| first < end) {
                lines.push(Line {
                    inside: next,
                    outside: first,
                    count: end - first,
                });
                next += end - first;
            }
        }
        Self { what, lines }
    }

    /// A user may map nobody else; newuidmap(1) may, as /etc/subuid says.
    fn needs_help(&self) -> bool {
        self.lines.len() > 1
    }

    fn words(&self) -> Vec<String> {
        let lines = self.lines.iter();
        lines
            .flat_map(|line| [line.inside, line.outside, line.count])
            .map(|number| number.to_string())
            .collect()
    }

    fn text(&self) -> String {
        self.words().join(" ") + "\n"
    }
}

/// A process that stays outside, to run `newuidmap` and `newgidmap` for us.
#[derive(Debug)]
struct Helper {
    socket: UnixStream,
    pid: Pid,
}

impl Helper {
    fn start(uids: &Outer, gids: &Outer) -> Result<Self> {
        let tried = || "make a process to map users".to_owned();
        let (ours, theirs) = UnixStream::pair().context(tried)?;
        let parent = rustix::process::getpid();
        let pid = fork::fork(|| {
            let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            let alive = tied.is_ok() && rustix::process::getppid() == Some(parent);
            // Until the parent is in its namespace.
            if !alive || (&theirs).read_exact(&mut [0]).is_err() {
                return 1;
            }
            match map(parent, uids).and_then(|()| map(parent, gids)) {
                Ok(()) => 0,
                Err(error) => {
                    let _ = (&theirs).write_all(error.to_string().as_bytes());
                    1
                }
            }
        })
        .context(tried)?;
        Ok(Self { socket: ours, pid })
    }

    fn run(mut self) -> Result<()> {
        let tried = || "map users".to_owned();
        self.socket.write_all(b"g").context(tried)?;
        let mut error = String::new();
        self.socket.read_to_string(&mut error).context(tried)?;
        let ended = waitpid(Some(self.pid), WaitOptions::empty()).context(tried)?;
        match ended.and_then(|(_, status)| status.exit_status()) {
            Some(0) => Ok(()),
            _ => Err(Error::new(error)),
        }
    }
}

fn map(process: Pid, map: &Outer) -> Result<()> {
    if !map.needs_help() {
        return Ok(());
    }
    let program = format!("new{}map", map.what);
    let output = Command::new(&program)
        .arg(process.as_raw_nonzero().to_string())
        .args(map.words())
        .output()
        .context(|| {
            format!("run {program} (package uidmap), which a map of more than oneself needs")
        })?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!("{program} failed: {}", why.trim())))
}

/// The configuration's maps are about the outside of the namespace we are in.
fn translate_maps(spec: &mut Spec) -> Result<()> {
    let Some(mut linux) = spec.linux().clone() else {
        return Ok(());
    };
    let tried = || "translate the maps of users".to_owned();
    let read = |path: &str| std::fs::read_to_string(path).context(tried);
    let uids = lines(&read("/proc/self/uid_map")?);
    let gids = lines(&read("/proc/self/gid_map")?);
    if let Some(maps) = linux.uid_mappings() {
        linux.set_uid_mappings(Some(translate(maps, &uids)?));
    }
    if let Some(maps) = linux.gid_mappings() {
        linux.set_gid_mappings(Some(translate(maps, &gids)?));
    }
    spec.set_linux(Some(linux));
    Ok(())
}

fn lines(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Line {
            inside: next()?,
            outside: next()?,
            count: next()?,
        })
    };
    text.lines().filter_map(line).collect()
}

fn translate(maps: &[LinuxIdMapping], outer: &[Line]) -> Result<Vec<LinuxIdMapping>> {
    let mut translated = Vec::new();
    for map in maps {
        let mut container = u64::from(map.container_id());
        let mut host = u64::from(map.host_id());
        let end = host + u64::from(map.size());
        while host < end {
            let line = (outer.iter())
                .find(|line| (line.outside..line.outside + line.count).contains(&host))
                .ok_or_else(|| Error::new(format!("host number {host} is not mapped")))?;
            let offset = host - line.outside;
            let count = (line.count - offset).min(end - host);
            let part = LinuxIdMappingBuilder::default()
                .container_id(container as u32)
                .host_id((line.inside + offset) as u32)
                .size(count as u32)
                .build()
                .context(|| "translate the maps of users".to_owned())?;
            translated.push(part);
            container += count;
            host += count;
        }
    }
    Ok(translated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(container: u32, host: u32, size: u32) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default()
            .container_id(container)
            .host_id(host)
            .size(size)
            .build()
            .unwrap()
    }

    #[test]
    fn a_user_alone_needs_no_help() {
        let outer = Outer::new(&[mapping(0, 1000, 1)], 1000, "uid");
        assert!(!outer.needs_help());
        assert_eq!(outer.text(), "0 1000 1\n");
        // The container's number does not matter outside of it.
        assert!(!Outer::new(&[mapping(7, 1000, 1)], 1000, "uid").needs_help());
    }

    #[test]
    fn maps_are_the_same_from_outside() {
        for maps in [
            vec![mapping(0, 1000, 1), mapping(1, 100_000, 65536)],
            // As podman --userns keep-id has it.
            vec![
                mapping(0, 100_000, 1000),
                mapping(1000, 1000, 1),
                mapping(1001, 101_000, 64536),
            ],
            vec![mapping(0, 995, 10)],
            vec![mapping(0, 100_000, 10)],
        ] {
            let outer = Outer::new(&maps, 1000, "uid");
            assert!(outer.needs_help());
            let known = lines(
                &(outer.words().chunks(3).map(|line| line.join(" ") + "\n")).collect::<String>(),
            );
            assert_eq!(known, outer.lines);
            let inside = translate(&maps, &known).unwrap();
            // Each number leads back to where it was.
            let back = |number: u64| {
                let line = known
                    .iter()
                    .find(|line| (line.inside..line.inside + line.count).contains(&number))
                    .unwrap();
                line.outside + number - line.inside
            };
            for map in &maps {
                for offset in [0, map.size() - 1] {
                    let container = map.container_id() + offset;
                    let part = inside
                        .iter()
                        .find(|part| {
                            (part.container_id()..part.container_id() + part.size())
                                .contains(&container)
                        })
                        .unwrap();
                    let number = part.host_id() + container - part.container_id();
                    assert_eq!(back(number.into()), u64::from(map.host_id() + offset));
                }
            }
        }
        assert!(translate(&[mapping(0, 5, 2)], &lines("0 5 1")).is_err());
    }

    #[test]
    fn refusals_are_runcs() {
        for (linux, error) in [
            ("{}", "rootless container requires user namespaces"),
            (
                r#"{"namespaces":[{"type":"user"}]}"#,
                "rootless containers requires at least one UID mapping",
            ),
            (
                r#"{"namespaces":[{"type":"user"}],
                    "uidMappings":[{"containerID":0,"hostID":0,"size":1}]}"#,
                "rootless containers requires at least one GID mapping",
            ),
        ] {
            let text = format!(r#"{{"ociVersion":"1.2.0","linux":{linux}}}"#);
            let spec: Spec = serde_json::from_str(&text).unwrap();
            assert_eq!(maps_of(&spec).unwrap_err().to_string(), error);
        }
    }
}
