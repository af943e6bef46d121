//! `linux.intelRdt`: shares of the last-level cache and of memory bandwidth,
//! through the resctrl filesystem (Linux, "User Interface for Resource Control
//! feature"). Where none is mounted the configuration is refused.
//!
//! A class of service is a directory with the files `schemata` and `tasks`. A
//! class that was named (`closID`) belongs to somebody else and stays; one that
//! bears the container's name is removed with it. So is its monitoring group.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIntelRdt, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};

/// What the configuration asks of one container, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rdt {
    /// Where resctrl is mounted.
    root: PathBuf,
    class: PathBuf,
    /// The class is the container's own.
    own: bool,
    /// The container's monitoring group in the class.
    monitor: Option<PathBuf>,
    /// From `l3CacheSchema` and `memBwSchema`, compared with what is in force.
    merged: String,
    /// From `schemata`, written as it is.
    schemata: String,
    /// `enableCMT`, `enableMBM`.
    counts: (bool, bool),
}

/// What a container with `enableCMT` or `enableMBM` uses of one last-level cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdtUsage {
    /// Bytes.
    pub occupancy: Option<u64>,
    /// Bytes since the group was made: all, and of this cache's own memory.
    pub total: Option<u64>,
    pub local: Option<u64>,
}

impl Rdt {
    /// `None` when the configuration asks for nothing.
    ///
    /// # Errors
    /// It asks for what this kernel does not have, or for no valid class.
    pub fn new(spec: &Spec, id: &str) -> Result<Option<Self>> {
        let linux = spec.linux().as_ref();
        let Some(section) = linux.and_then(|linux| linux.intel_rdt().as_ref()) else {
            return Ok(None);
        };
        let mounts =
            std::fs::read_to_string("/proc/self/mountinfo").step(|| "read /proc/self/mountinfo")?;
        Self::below(mount_point(&mounts).as_deref(), section, id).map(Some)
    }

    fn below(root: Option<&Path>, section: &LinuxIntelRdt, id: &str) -> Result<Self> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let name = text(section.clos_id());
        // It becomes the name of a directory; "/" is the class of everybody else.
        if name == "." || name == ".." || (name.contains('/') && name != "/") {
            return Err(Error::invalid(format!("invalid intelRdt.ClosID {name:?}")));
        }
        let (cache, bandwidth) = (
            text(section.l3_cache_schema()),
            text(section.mem_bw_schema()),
        );
        let has = |kinds: &[&str]| {
            root.is_some_and(|root| {
                kinds
                    .iter()
                    .any(|kind| root.join("info").join(kind).exists())
            })
        };
        let missing = |field: &str, feature: &str| {
            Err(Error::invalid(format!(
                "intelRdt.{field} is specified in config, but Intel RDT/{feature} is not enabled"
            )))
        };
        if !cache.is_empty() && !has(&["L3", "L3CODE"]) {
            return missing("l3CacheSchema", "CAT");
        }
        if !bandwidth.is_empty() && !has(&["MB"]) {
            return missing("memBwSchema", "MBA");
        }
        let counts = wants_usage(section);
        let monitors = section.enable_monitoring() == &Some(true);
        for (wanted, field, feature) in [
            (counts.0, "enableCMT", "CMT"),
            (counts.1, "enableMBM", "MBM"),
            (monitors, "enableMonitoring", "CMT and MBM"),
        ] {
            if wanted && !has(&["L3_MON"]) {
                return missing(field, feature);
            }
        }
        let root = root.ok_or_else(|| {
            Error::invalid(
                "intelRdt is specified in config, but Intel RDT is not supported or enabled: no \
                 resctrl filesystem is mounted",
            )
        })?;
        if !bandwidth.is_empty() && (!bandwidth.starts_with("MB:") || bandwidth.contains('\n')) {
            return Err(Error::invalid(format!(
                "intelRdt.memBwSchema {bandwidth:?} is not one line that begins with \"MB:\""
            )));
        }
        let class = match name.as_str() {
            "" => root.join(id),
            "/" => root.to_owned(),
            name => root.join(name),
        };
        Ok(Self {
            root: root.to_owned(),
            monitor: monitors.then(|| class.join("mon_groups").join(id)),
            class,
            own: name.is_empty(),
            counts,
            merged: merge(&cache, &bandwidth),
            schemata: lines(section.schemata().iter().flatten().map(String::as_str)),
        })
    }

    /// Makes the class of service if it is missing, gives it its shares, and makes
    /// the monitoring group. What was made before an error is for [`Rdt::remove`].
    pub fn apply(&self) -> Result<()> {
        let nothing_to_write = self.merged.is_empty() && self.schemata.is_empty();
        if !self.own && nothing_to_write && !self.class.is_dir() {
            return Err(Error::invalid(format!(
                "clos dir {} not accessible (must be pre-created when l3CacheSchema, memBwSchema \
                 and schemata are empty)",
                self.class.display()
            )));
        }
        let made = self.make(&self.class)?;
        if !self.merged.is_empty() {
            if made || self.own {
                self.write_schemata(&self.merged)?;
            } else {
                self.compare()?;
            }
        }
        if !self.schemata.is_empty() {
            self.write_schemata(&self.schemata)?;
        }
        if let Some(monitor) = &self.monitor {
            self.make(monitor)?;
        }
        Ok(())
    }

    /// Changes the shares of a container that runs.
    pub fn update(&self) -> Result<()> {
        self.make(&self.class)?;
        self.write_schemata(&self.merged)
    }

    fn make(&self, dir: &Path) -> Result<bool> {
        match rustix::fs::mkdir(dir, Mode::from(0o755)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.explain(format!("mkdir {}", dir.display()), errno.into())),
        }
    }

    fn write_schemata(&self, text: &str) -> Result<()> {
        std::fs::write(self.class.join("schemata"), text)
            .map_err(|error| self.explain(format!("failed to write {text:?} to schemata"), error))
    }

    /// The kernel's answer, with what it has to say about it.
    fn explain(&self, step: String, error: std::io::Error) -> Error {
        let status = std::fs::read_to_string(self.root.join("info/last_cmd_status"));
        match status.as_deref().map(str::trim) {
            Ok(status) if !matches!(status, "" | "ok") => {
                Error::step(format!("{step} (last_cmd_status: {status})"), error)
            }
            _ => Error::step(step, error),
        }
    }

    /// A class of somebody else must have the shares that are asked for.
    fn compare(&self) -> Result<()> {
        let path = self.class.join("schemata");
        let now = std::fs::read_to_string(&path).step(|| format!("read {}", path.display()))?;
        if parse(&self.merged)?.iter().all(|line| match parse(&now) {
            Ok(known) => known.contains(line),
            Err(_) => false,
        }) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "intelRdt: the schemata of {} are not {:?}",
            self.class.display(),
            self.merged.trim_end()
        )))
    }

    /// The `tasks` files, the class first: a monitoring group takes only who is in
    /// its class. Whoever writes "0" is moved, and all it makes later.
    pub(crate) fn tasks(&self) -> Result<Vec<OwnedFd>> {
        let open = |dir: &PathBuf| {
            let path = dir.join("tasks");
            rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .step(|| format!("open {}", path.display()))
        };
        [Some(&self.class), self.monitor.as_ref()]
            .into_iter()
            .flatten()
            .map(open)
            .collect()
    }

    /// Moves processes that run already; one that has ended is no error.
    pub fn assign(&self, processes: &[u32]) -> Result<()> {
        for file in self.tasks()? {
            for pid in processes {
                match rustix::io::write(&file, pid.to_string().as_bytes()) {
                    Ok(_) | Err(Errno::SRCH) => {}
                    Err(errno) => {
                        return Err(self.explain(format!("failed to write {pid}"), errno.into()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes what is the container's own; what is gone is no error.
    pub fn remove(&self) -> Result<()> {
        let own = self.own.then_some(&self.class);
        for dir in [self.monitor.as_ref(), own].into_iter().flatten() {
            match rustix::fs::rmdir(dir) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).step(|| format!("rmdir {}", dir.display())),
            }
        }
        Ok(())
    }

    /// What the container uses of each last-level cache: what the configuration
    /// wants to know of it and the kernel counts.
    pub fn usage(&self) -> Vec<RdtUsage> {
        let (occupancy, traffic) = self.counts;
        let data = self
            .monitor
            .as_ref()
            .unwrap_or(&self.class)
            .join("mon_data");
        let mut caches: Vec<PathBuf> = std::fs::read_dir(data)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        caches.sort();
        let number = |cache: &Path, wanted: bool, file: &str| {
            let text = std::fs::read_to_string(cache.join(file)).ok()?;
            text.trim().parse().ok().filter(|_| wanted)
        };
        let usage = |cache: PathBuf| RdtUsage {
            occupancy: number(&cache, occupancy, "llc_occupancy"),
            total: number(&cache, traffic, "mbm_total_bytes"),
            local: number(&cache, traffic, "mbm_local_bytes"),
        };
        let used = caches.into_iter().map(usage);
        used.filter(|usage| *usage != RdtUsage::default()).collect()
    }
}

/// `enableCMT` and `enableMBM`, which specification 1.3 calls old.
#[allow(deprecated, reason = "configurations still have them")]
fn wants_usage(section: &LinuxIntelRdt) -> (bool, bool) {
    let given = |value: &Option<bool>| *value == Some(true);
    (given(section.enable_cmt()), given(section.enable_mbm()))
}

/// Of the first resctrl filesystem in mountinfo.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("resctrl ").then_some(())?;
        Some(left.split(' ').nth(4)?.replace("\\040", " ").into())
    })
}

fn lines<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts
        .flat_map(str::lines)
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The bandwidth of `memBwSchema` counts, not that of `l3CacheSchema`.
fn merge(cache: &str, bandwidth: &str) -> String {
    let cache = cache
        .lines()
        .filter(|line| !line.trim_start().starts_with("MB:"));
    lines(cache.chain([bandwidth]))
}

/// One line of schemata: the resource, and cache id = share in the order of the
/// ids. A bit mask is written with or without leading zeros.
type Line = (String, Vec<(String, String)>);

fn parse(schemata: &str) -> Result<Vec<Line>> {
    let wrong = |line: &str| Error::invalid(format!("intelRdt: {line:?} is no schema"));
    let known = |line: &&str| {
        let kind = line.split(':').next().unwrap_or_default().trim();
        matches!(kind, "L3" | "L3CODE" | "L3DATA" | "MB")
    };
    let one = |line: &str| {
        let (kind, shares) = line.split_once(':').ok_or_else(|| wrong(line))?;
        let kind = kind.trim();
        let mut found = Vec::new();
        for share in shares.split(';').filter(|share| !share.trim().is_empty()) {
            let (cache, value) = share.split_once('=').ok_or_else(|| wrong(line))?;
            let (cache, value) = (cache.trim(), value.trim());
            if cache.is_empty() || value.is_empty() {
                return Err(wrong(line));
            }
            let value = if kind == "MB" {
                value.to_owned()
            } else {
                let mask = u64::from_str_radix(value, 16).map_err(|_| wrong(line))?;
                format!("{mask:x}")
            };
            found.push((cache.to_owned(), value));
        }
        found.sort();
        Ok((kind.to_owned(), found))
    };
    schemata.lines().filter(known).map(one).collect()
}

#[cfg(test)]
mod tests;
