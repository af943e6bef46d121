//! Groups that systemd's manager makes: a scope for each container (`runc
//! --systemd-cgroup`; docs/CGROUP_DELEGATION.md of systemd).
//!
//! A scope needs a process to begin with, and the container's first one is to be
//! born in it. So a process that only waits (the [`Anchor`]) is put there first,
//! and ends when the container has started. Limits are told to systemd, which
//! would put its own back otherwise, and written to the group, which is delegated
//! to us.

mod bus;
mod properties;
mod text;
mod wire;

use std::fmt;
use std::time::Duration;

use oci_spec::runtime::{LinuxResources, Spec};
use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::{Cgroup, Error, Host, Layout};
use bus::Bus;
use properties::Property;
use wire::Value;

/// First systemd that takes a processor weight of 0.
const IDLE_SINCE: u32 = 252;

/// Annotations with this prefix set any property of the unit.
const ANNOTATION: &str = "org.systemd.property.";

/// Whether this host runs systemd (sd_booted(3)).
#[must_use]
pub fn is_running() -> bool {
    std::path::Path::new("/run/systemd/system").is_dir()
}

/// Why the manager could not be asked, or what it said.
#[derive(Debug)]
enum Failure {
    Transport(String),
    Timeout,
    /// An error answer, with its name on the bus.
    Answer {
        name: String,
        text: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transport(text) => f.write_str(text),
            Self::Timeout => f.write_str("systemd did not answer within 30 seconds"),
            Self::Answer { name, text } if text.is_empty() => f.write_str(name),
            Self::Answer { text, .. } => f.write_str(text),
        }
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Transport(std::io::Error::from(errno).to_string())
    }
}

impl Failure {
    fn is(&self, error: &str) -> bool {
        matches!(self, Self::Answer { name, .. } if name.ends_with(error))
    }
}

/// A unit that holds a container, for as long as it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// "runc-ID.scope".
    pub name: String,
    /// Of the user's own manager, not the system's.
    pub user: bool,
}

/// A unit to be made.
#[derive(Clone, Debug)]
pub struct Scope {
    pub unit: Unit,
    slice: String,
    /// What its description ends with.
    container: String,
    properties: Vec<Property>,
}

impl Scope {
    /// `linux.cgroupsPath` as "slice:prefix:name", and the annotations that set
    /// properties. `user` chooses the manager.
    ///
    /// # Errors
    /// In runc's words, when the path or an annotation is malformed.
    pub fn parse(spec: &Spec, id: &str, user: bool) -> Result<Self, Error> {
        let path = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.cgroups_path().as_ref())
            .map(|path| path.to_string_lossy())
            .unwrap_or_default();
        let (slice, prefix, name) = parse_path(&path, id)?;
        let slice = match slice {
            "" if user => "user.slice",
            "" => "system.slice",
            slice => slice,
        };
        expand_slice(slice)?;
        if name.ends_with(".slice") {
            return Err(Error::Invalid(format!(
                "linux.cgroupsPath names the slice {name:?}: a container needs a scope"
            )));
        }
        let unit = format!("{prefix}-{name}.scope");
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        if unit.len() > 255 || !unit.bytes().all(good) {
            return Err(Error::Invalid(format!("Unit name {unit} is not valid.")));
        }
        Ok(Self {
            unit: Unit { name: unit, user },
            slice: slice.to_owned(),
            container: name.to_owned(),
            properties: annotated(spec)?,
        })
    }

    /// Where its group is, below the root of each hierarchy. Asks the user's
    /// manager where that is itself.
    pub fn path(&self) -> Result<String, Error> {
        let slice = expand_slice(&self.slice)?;
        let manager = if self.unit.user {
            let asked = Bus::connect(true).and_then(|mut bus| bus.property("ControlGroup"));
            asked.map_err(|error| Error::Invalid(error.to_string()))?
        } else {
            String::new()
        };
        let manager = manager.trim_end_matches('/');
        Ok(format!(
            "{manager}{}/{}",
            slice.trim_end_matches('/'),
            self.unit.name
        ))
    }

    /// Makes the unit, with its limits, around a process that waits in it.
    fn start(&self, host: &Host, resources: &LinuxResources) -> Result<Waiting, Error> {
        let unit = &self.unit;
        let failed = |error: Failure| {
            Error::Invalid(format!("unable to start unit {:?}: {error}", unit.name))
        };
        let mut bus = Bus::connect(unit.user).map_err(failed)?;
        let limits = limits(&mut bus, host, resources)?;
        let waiting = Waiting::start()?;
        let mut list = self.base(host, waiting.pid());
        list.extend(limits);
        if let Some(policy) = oom_policy(resources)? {
            list.push(policy);
        }
        list.extend(self.properties.iter().cloned());
        let body = [
            Value::Text(unit.name.clone()),
            Value::Text("replace".into()),
            encode(list),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let mut start = || bus.job("StartTransientUnit", &unit.name, &body);
        let result = match start() {
            // Perhaps a failed one that was left behind: then it can go.
            Err(error) if error.is(".UnitExists") => {
                unit.reset().map_err(failed)?;
                start()
            }
            result => result,
        };
        let result = result.map_err(failed)?;
        if result != "done" {
            let _ = unit.reset();
            return Err(Error::Invalid(format!(
                "error creating systemd unit `{}`: got `{result}`",
                unit.name
            )));
        }
        Ok(waiting)
    }

    fn base(&self, host: &Host, pid: u32) -> Vec<Property> {
        let yes = |name: &str| (name.to_owned(), Value::Bool(true));
        let text = |name: &str, text: &str| (name.to_owned(), Value::Text(text.to_owned()));
        let io = if host.layout() == Layout::V2 {
            "IOAccounting"
        } else {
            "BlockIOAccounting"
        };
        vec![
            text(
                "Description",
                &format!("libcontainer container {}", self.container),
            ),
            text("Slice", &self.slice),
            yes("Delegate"),
            (
                "PIDs".to_owned(),
                Value::Array("u".into(), vec![Value::U32(pid)]),
            ),
            yes("MemoryAccounting"),
            yes("CPUAccounting"),
            yes(io),
            yes("TasksAccounting"),
            ("DefaultDependencies".to_owned(), Value::Bool(false)),
            // One that failed does not stay for somebody to clear away.
            text("CollectMode", "inactive-or-failed"),
        ]
    }
}

impl Unit {
    /// Changes its properties until the next boot.
    pub(crate) fn set_limits(&self, host: &Host, resources: &LinuxResources) -> Result<(), Error> {
        let failed =
            |error: Failure| Error::Invalid(format!("unable to set unit properties: {error}"));
        let mut bus = Bus::connect(self.user).map_err(failed)?;
        let list = limits(&mut bus, host, resources)?;
        if list.is_empty() {
            return Ok(());
        }
        let body = [
            Value::Text(self.name.clone()),
            Value::Bool(true),
            encode(list),
        ];
        bus.call("SetUnitProperties", &body).map_err(failed)?;
        Ok(())
    }

    /// Moves a process in, which a user may not do alone when it comes from outside
    /// of what is delegated to that user. `below`: a group in the unit's, "/" is that.
    pub(crate) fn attach(&self, below: &str, pid: u32) -> Result<(), Error> {
        let body = [
            Value::Text(self.name.clone()),
            Value::Text(below.into()),
            Value::Array("u".into(), vec![Value::U32(pid)]),
        ];
        Bus::connect(self.user)
            .and_then(|mut bus| bus.call("AttachProcessesToUnit", &body))
            .map(drop)
            .map_err(|error| {
                Error::Invalid(format!(
                    "unable to move process {pid} into unit {}: {error}",
                    self.name
                ))
            })
    }

    /// Ends the unit and has systemd forget it; one that is gone is no error.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        let body = [
            Value::Text(self.name.clone()),
            Value::Text("replace".into()),
        ];
        let failed =
            |error: Failure| Error::Invalid(format!("unable to stop unit {}: {error}", self.name));
        let mut bus = Bus::connect(self.user).map_err(failed)?;
        match bus.job("StopUnit", &self.name, &body) {
            Err(error) if error.is(".NoSuchUnit") => Ok(()),
            Err(error) => Err(failed(error)),
            Ok(_) => {
                // It may have failed; it is unloaded by itself otherwise.
                let _ = bus.call("ResetFailedUnit", &body[..1]);
                Ok(())
            }
        }
    }

    fn reset(&self) -> Result<(), Failure> {
        let name = [Value::Text(self.name.clone())];
        match Bus::connect(self.user)?.call("ResetFailedUnit", &name) {
            Err(error @ (Failure::Transport(_) | Failure::Timeout)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Keeps a new scope in being until the container's first process is in it.
#[derive(Debug)]
pub struct Anchor {
    waiting: Waiting,
    group: Cgroup,
    pids: Option<i64>,
}

impl Anchor {
    /// Makes the scope and its group with all limits.
    pub(crate) fn new(
        host: &Host,
        scope: &Scope,
        group: &Cgroup,
        resources: &LinuxResources,
    ) -> Result<Self, Error> {
        let waiting = scope.start(host, resources)?;
        let pids = resources.pids().as_ref().map(|pids| pids.limit());
        Ok(Self {
            waiting,
            group: group.clone(),
            pids: pids.filter(|&limit| limit > 0),
        })
    }

    /// The limits until [`Anchor::release`]: with room for the process that waits.
    pub(crate) fn limits(&self, resources: &LinuxResources) -> LinuxResources {
        let mut resources = resources.clone();
        if let (Some(limit), Some(mut pids)) = (self.pids, *resources.pids()) {
            pids.set_limit(limit.saturating_add(1));
            resources.set_pids(Some(pids));
        }
        resources
    }

    /// When the container's first process is in the group.
    pub fn release(self) -> Result<(), Error> {
        let Self {
            waiting,
            group,
            pids,
        } = self;
        drop(waiting);
        match pids {
            Some(limit) => group.limit_pids(limit),
            None => Ok(()),
        }
    }
}

/// A process that does nothing, and ends with its parent.
#[derive(Debug)]
struct Waiting(Pid);

impl Waiting {
    fn start() -> Result<Self, Error> {
        let parent = rustix::process::getpid();
        berth_sys::fork::fork(|| {
            let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            while tied.is_ok() && rustix::process::getppid() == Some(parent) {
                std::thread::sleep(Duration::from_secs(3600));
            }
            1
        })
        .map(Self)
        .map_err(|error| Error::Invalid(format!("make a process for the unit: {error}")))
    }

    fn pid(&self) -> u32 {
        self.0.as_raw_nonzero().get().unsigned_abs()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.0), WaitOptions::empty());
    }
}

fn limits(bus: &mut Bus, host: &Host, resources: &LinuxResources) -> Result<Vec<Property>, Error> {
    let idle = resources.cpu().as_ref().and_then(|cpu| cpu.idle()) == Some(1)
        || (resources.unified().as_ref()).is_some_and(|files| files.contains_key("cpu.idle"));
    let knows_idle = idle
        && bus
            .property("Version")
            .is_ok_and(|version| number_of(&version) >= IDLE_SINCE);
    properties::of_limits(resources, host.layout() == Layout::V2, knows_idle)
}

/// "257.9-1~deb13u1" or "v245.4" is 257 or 245.
fn number_of(version: &str) -> u32 {
    let version = version.trim_start_matches('v');
    let end = version.find(|c: char| !c.is_ascii_digit());
    version[..end.unwrap_or(version.len())].parse().unwrap_or(0)
}

/// `memory.oom.group` is systemd's to set.
fn oom_policy(resources: &LinuxResources) -> Result<Option<Property>, Error> {
    let unified = resources.unified().as_ref();
    let Some(value) = unified.and_then(|files| files.get("memory.oom.group")) else {
        return Ok(None);
    };
    let policy = match value.trim() {
        "0" => "continue",
        "1" => "kill",
        _ => {
            return Err(Error::Invalid(format!(
                "unified resource \"memory.oom.group\" value invalid: {value:?}"
            )));
        }
    };
    Ok(Some(("OOMPolicy".into(), Value::Text(policy.into()))))
}

fn encode(list: Vec<Property>) -> Value {
    let list = list
        .into_iter()
        .map(|(name, value)| {
            Value::Struct(vec![Value::Text(name), Value::Variant(Box::new(value))])
        })
        .collect();
    Value::Array("(sv)".into(), list)
}

fn parse_path<'a>(path: &'a str, id: &'a str) -> Result<(&'a str, &'a str, &'a str), Error> {
    if path.is_empty() {
        return Ok(("", "runc", id));
    }
    let parts: Vec<&str> = path.split(':').collect();
    match parts[..] {
        [slice, prefix, name] => Ok((slice, prefix, name)),
        _ => Err(Error::Invalid(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \
             {path:?} instead"
        ))),
    }
}

/// "a-b.slice" is in "/a.slice/a-b.slice" (systemd.slice(5)).
fn expand_slice(slice: &str) -> Result<String, Error> {
    let invalid = || Error::Invalid(format!("invalid slice name: {slice}"));
    let name = slice.strip_suffix(".slice").ok_or_else(invalid)?;
    if name == "-" {
        return Ok("/".into());
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() || part.contains('/') || part.contains('\0') {
            return Err(invalid());
        }
        prefix += part;
        path += &format!("/{prefix}.slice");
        prefix.push('-');
    }
    Ok(path)
}

/// runc's rules: only letters, at least three; `TimeoutStopSec` is the bus's
/// `TimeoutStopUSec`.
fn annotated(spec: &Spec) -> Result<Vec<Property>, Error> {
    let mut list = Vec::new();
    for (key, written) in spec.annotations().iter().flatten() {
        let Some(name) = key.strip_prefix(ANNOTATION) else {
            continue;
        };
        let wrong = |why: &str| {
            Error::Invalid(format!(
                "annotation {key}={written} value parse error: {why}"
            ))
        };
        let name_wrong =
            |why: &str| Error::Invalid(format!("annotation {key} name incorrect: {why}"));
        if name.len() < 3 {
            return Err(name_wrong("too short"));
        }
        if !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(name_wrong("contains non-alphabetic character"));
        }
        let value = text::parse(written).map_err(|why| wrong(&why))?;
        let seconds = name
            .strip_suffix("Sec")
            .filter(|base| base.ends_with(|c: char| c.is_ascii_lowercase()));
        list.push(match seconds {
            Some(base) => {
                let micros =
                    text::seconds_to_micros(&value).ok_or_else(|| wrong("not a number"))?;
                (format!("{base}USec"), micros)
            }
            None => (name.to_owned(), value),
        });
    }
    list.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str, annotations: &serde_json::Value) -> Spec {
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "linux": { "cgroupsPath": path },
            "annotations": annotations,
        }))
        .unwrap()
    }

    fn error(path: &str, annotations: &serde_json::Value) -> String {
        Scope::parse(&spec(path, annotations), "c1", false)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn paths_name_a_slice_a_prefix_and_a_name() {
        for (path, user, unit, slice) in [
            ("", false, "runc-c1.scope", "system.slice"),
            ("", true, "runc-c1.scope", "user.slice"),
            (
                "machine.slice:libpod:ab",
                false,
                "libpod-ab.scope",
                "machine.slice",
            ),
            (":docker:ab", true, "docker-ab.scope", "user.slice"),
            ("-.slice:a:b", false, "a-b.scope", "-.slice"),
        ] {
            let scope = Scope::parse(&spec(path, &serde_json::json!({})), "c1", user).unwrap();
            assert_eq!((scope.unit.name.as_str(), scope.unit.user), (unit, user));
            assert_eq!(scope.slice, slice);
        }
        let none = serde_json::json!({});
        assert_eq!(
            error("/a/b", &none),
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \
             \"/a/b\" instead"
        );
        assert_eq!(
            error("a:b:c:d", &none).split(',').next(),
            error("x", &none).split(',').next()
        );
        assert_eq!(error("sys:a:b", &none), "invalid slice name: sys");
        assert_eq!(
            error("a.slice:b:c'd", &none),
            "Unit name b-c'd.scope is not valid."
        );
        assert!(error("a.slice:b:c.slice", &none).contains("a container needs a scope"));
    }

    #[test]
    fn slices_are_nested_by_their_names() {
        for (slice, path) in [
            ("system.slice", "/system.slice"),
            ("-.slice", "/"),
            ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
        ] {
            assert_eq!(expand_slice(slice).unwrap(), path);
        }
        for bad in [
            "",
            ".slice",
            "a",
            "a--b.slice",
            "-a.slice",
            "a-.slice",
            "a/b.slice",
        ] {
            let error = expand_slice(bad).unwrap_err().to_string();
            assert_eq!(error, format!("invalid slice name: {bad}"));
        }
    }

    #[test]
    fn annotations_set_properties() {
        let annotations = serde_json::json!({
            "org.systemd.property.TimeoutStopSec": "uint64 5",
            "org.systemd.property.CollectMode": "'inactive'",
            "org.systemd.property.After": "['a.service']",
            "other": "x",
        });
        let scope = Scope::parse(&spec("", &annotations), "c1", false).unwrap();
        let after = Value::Array("s".into(), vec![Value::Text("a.service".into())]);
        assert_eq!(
            scope.properties,
            [
                ("After".into(), after),
                ("CollectMode".into(), Value::Text("inactive".into())),
                ("TimeoutStopUSec".into(), Value::U64(5_000_000)),
            ]
        );
        for (key, value, why) in [
            (
                "Ab",
                "1",
                "annotation org.systemd.property.Ab name incorrect: too short",
            ),
            ("A_b", "1", "contains non-alphabetic character"),
            (
                "Abc",
                "x",
                "annotation org.systemd.property.Abc=x value parse error: ",
            ),
            ("StopSec", "'5'", "not a number"),
        ] {
            let key = format!("{ANNOTATION}{key}");
            let error = error("", &serde_json::json!({ key: value }));
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn versions_begin_with_a_number() {
        assert_eq!(number_of("257.9-1~deb13u1"), 257);
        assert_eq!(number_of("v245"), 245);
        assert_eq!(number_of("x"), 0);
    }
}
