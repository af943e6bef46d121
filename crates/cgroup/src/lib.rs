//! Control groups: v1, v2 and hybrid hosts behind one interface.
//!
//! Owns: finding the hierarchies, making and removing groups, limits, device
//! rules, the freezer, statistics, out-of-memory counts. Must not know about
//! images, the Engine API, or how a container is started.

mod devices;
mod entry;
mod error;
mod files;
mod host;
mod kill;
mod stats;
pub mod systemd;
mod v1;
mod v2;

pub use devices::attach as attach_device_rules;
pub use entry::Entry;
pub use error::Error;
pub use host::{Host, Layout};
pub use stats::{BlkioEntry, BlkioStats, CpuStats, MemoryStats, PidsStats, Stats};

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use host::{Hierarchy, Version};
use systemd::{Anchor, Scope, Unit};

/// Reservations too where the kernel limits them (Linux 5.7).
fn set_huge_pages(dir: &Path, size: &str, suffix: &str, limit: i64) -> Result<(), Error> {
    let value = match (limit, suffix) {
        (..0, "max") => "max".to_owned(),
        _ => limit.to_string(),
    };
    // The size is text of the configuration.
    let ordinary = size.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let set = |file: String| files::write(dir, &file, &value);
    match set(format!("hugetlb.{size}.{suffix}")) {
        Err(error) if error.is_absent() || !ordinary => Err(Error::Invalid(format!(
            "no limit on huge pages of {size:?} can be set: this kernel has none of that size"
        ))),
        result => result,
    }?;
    match set(format!("hugetlb.{size}.rsvd.{suffix}")) {
        Err(error) if error.is_absent() => Ok(()),
        result => result,
    }
}

/// One group, named by its path below the root of every hierarchy
/// ("/berth/<id>").
#[derive(Clone, Debug)]
pub struct Cgroup {
    host: Host,
    path: String,
    /// systemd made it, and has to know what is changed.
    unit: Option<Unit>,
}

impl Cgroup {
    /// Makes the group in every hierarchy and applies `resources`. On error
    /// nothing made by this call is left behind.
    pub fn create(
        host: &Host,
        path: &str,
        resources: Option<&LinuxResources>,
    ) -> Result<Self, Error> {
        let group = Self::open(host, path);
        host::check_path(&group.path)?;
        let mut made = Vec::new();
        let result = group
            .make(&mut made)
            .and_then(|()| group.check_unused(&made))
            .and_then(|()| match resources {
                Some(resources) => group.write_limits(resources),
                None => Ok(()),
            });
        if let Err(error) = result {
            // What was there before stays, and so does what is in use by now.
            for dir in made.iter().rev() {
                let _ = rustix::fs::rmdir(dir);
            }
            return Err(error);
        }
        Ok(group)
    }

    /// Names a group that may exist; touches nothing.
    pub fn open(host: &Host, path: &str) -> Self {
        let path = format!("/{}", path.trim_matches('/'));
        Self {
            host: host.clone(),
            path,
            unit: None,
        }
    }

    /// Has systemd make a scope with the group `path`, and applies `resources`. The
    /// anchor keeps it until the first process is in it. On error nothing made by
    /// this call is left behind.
    pub fn create_scope(
        host: &Host,
        scope: &Scope,
        path: &str,
        resources: &LinuxResources,
    ) -> Result<(Self, Anchor), Error> {
        let group = Self::open_unit(host, path, scope.unit.clone());
        host::check_path(&group.path)?;
        let anchor = Anchor::new(host, scope, &group, resources)?;
        let result = group
            .make(&mut Vec::new())
            .and_then(|()| group.write_limits(resources))
            .and_then(|()| anchor.make_room());
        if let Err(error) = result {
            drop(anchor);
            let _ = group.remove();
            return Err(error);
        }
        Ok((group, anchor))
    }

    /// As [`Cgroup::open`], for a group that systemd made.
    pub fn open_unit(host: &Host, path: &str, unit: Unit) -> Self {
        Self {
            unit: Some(unit),
            ..Self::open(host, path)
        }
    }

    /// The path below the root of every hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether any hierarchy has it.
    pub fn exists(&self) -> bool {
        self.dirs().any(|(_, dir)| dir.is_dir())
    }

    /// Changes limits; fields that are `None` stay as they are.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        if let Some(unit) = &self.unit {
            unit.set_limits(&self.host, resources)?;
        }
        self.write_limits(resources)
    }

    fn write_limits(&self, resources: &LinuxResources) -> Result<(), Error> {
        match self.host.layout() {
            Layout::V2 => v2::apply(&self.unified()?, resources),
            Layout::V1 | Layout::Hybrid => v1::apply(self, resources),
        }
    }

    /// Puts device rules in force, on the group alone.
    pub fn apply_devices(&self, rules: &LinuxResources) -> Result<(), Error> {
        match (rules.devices(), self.host.layout()) {
            (Some(devices), Layout::V2) => devices::attach(&self.unified()?, devices),
            (Some(_), Layout::V1 | Layout::Hybrid) => v1::apply(self, rules),
            (None, _) => Ok(()),
        }
    }

    /// Gives the group to a user who then makes and fills groups below it, but keeps
    /// the limits. Only on version 2; elsewhere nothing happens.
    pub fn delegate(&self, uid: u32) -> Result<(), Error> {
        match self.host.layout() {
            Layout::V2 => v2::delegate(&self.unified()?, uid),
            Layout::V1 | Layout::Hybrid => Ok(()),
        }
    }

    /// A group below it.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self {
            path: format!("{}/{}", self.path, name.trim_matches('/')),
            ..self.clone()
        }
    }

    fn limit_pids(&self, limit: i64) -> Result<(), Error> {
        let dir = match self.host.layout() {
            Layout::V2 => self.unified()?,
            Layout::V1 | Layout::Hybrid => self.controller("pids")?,
        };
        files::write(&dir, "pids.max", &limit.to_string())
    }

    /// Moves a process in that may not enter by itself: by its manager.
    ///
    /// # Errors
    /// There is none, or it refuses.
    pub fn attach(&self, pid: u32) -> Result<(), Error> {
        match &self.unit {
            Some(unit) => {
                let below = self.path.split_once(unit.name.as_str());
                let below = below.map_or("", |(_, below)| below);
                unit.attach(if below.is_empty() { "/" } else { below }, pid)
            }
            None => Err(Error::Invalid(format!(
                "process {pid} may not be moved into control group {}: permission denied",
                self.path
            ))),
        }
    }

    /// Opened before the clone, used by the child (v1) or by clone3 (v2).
    pub fn entry(&self) -> Result<Entry, Error> {
        self.entry_below(&[])
    }

    /// For groups below this one: (controllers separated by commas, path). Without
    /// controllers the path holds for all hierarchies.
    ///
    /// # Errors
    /// A path leads out of this group, there is no such controller here, or no such
    /// group.
    pub fn entry_below(&self, below: &[(Option<&str>, &str)]) -> Result<Entry, Error> {
        for (_, path) in below {
            if path.split('/').any(|part| part == "..") {
                return Err(Error::Invalid(format!("{path} is not a sub cgroup path")));
            }
        }
        let mut named: Vec<(&str, &str)> = Vec::new();
        for (controllers, path) in below {
            for controller in controllers.iter().flat_map(|list| list.split(',')) {
                if !self.dirs().any(|(hierarchy, _)| hierarchy.has(controller)) {
                    return Err(Error::Invalid(format!(
                        "unknown controller {controller} in SubCgroupPaths"
                    )));
                }
                named.push((controller, path));
            }
        }
        let everywhere = below.iter().find(|(controllers, _)| controllers.is_none());
        let dir_of = |hierarchy: &Hierarchy, dir: PathBuf| {
            let own = named.iter().find(|(name, _)| hierarchy.has(name));
            let path = own
                .map(|(_, path)| *path)
                .or_else(|| everywhere.map(|(_, path)| *path));
            match path.map(|path| path.trim_matches('/')) {
                None | Some("") => dir,
                Some(path) => dir.join(path),
            }
        };
        match self.host.layout() {
            Layout::V2 => {
                let path = everywhere.map_or("", |(_, path)| path.trim_matches('/'));
                Entry::clone_into(&self.unified()?.join(path))
            }
            Layout::V1 | Layout::Hybrid => Entry::tasks(
                self.dirs()
                    .map(|(hierarchy, dir)| (hierarchy, dir_of(hierarchy, dir))),
            ),
        }
    }

    /// The directory whose files stop the processes: of the freezer, or the v2 one.
    pub fn freezer(&self) -> Result<PathBuf, Error> {
        match self.host.layout() {
            Layout::V2 => self.unified(),
            Layout::V1 | Layout::Hybrid => self.controller("freezer"),
        }
    }

    /// Moves the calling, single-threaded process in, also on v2, where it may wait
    /// for some milliseconds: see [`Entry`] for new processes.
    pub fn enter(&self) -> Result<(), Error> {
        match self.host.layout() {
            Layout::V2 => files::write(&self.unified()?, "cgroup.procs", "0"),
            Layout::V1 | Layout::Hybrid => self
                .entry()?
                .enter()
                .map_err(|error| Error::io("enter", self.path.as_ref(), error)),
        }
    }

    /// Stops all processes; returns when they have stopped.
    pub fn freeze(&self) -> Result<(), Error> {
        match self.host.layout() {
            Layout::V2 => v2::freeze(&self.unified()?, true),
            Layout::V1 | Layout::Hybrid => v1::freeze(&self.controller("freezer")?),
        }
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), Error> {
        match self.host.layout() {
            Layout::V2 => v2::freeze(&self.unified()?, false),
            Layout::V1 | Layout::Hybrid => v1::thaw(&self.controller("freezer")?),
        }
    }

    /// Whether the processes are stopped.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        match self.host.layout() {
            Layout::V2 => v2::is_frozen(&self.unified()?),
            Layout::V1 | Layout::Hybrid => v1::is_frozen(&self.controller("freezer")?),
        }
    }

    /// Freezes or thaws without waiting for it.
    fn hold(&self, on: bool) -> Result<(), Error> {
        let (dir, file, value) = match self.host.layout() {
            Layout::V2 => (self.unified()?, "cgroup.freeze", if on { "1" } else { "0" }),
            Layout::V1 | Layout::Hybrid => {
                let value = if on { "FROZEN" } else { "THAWED" };
                (self.controller("freezer")?, "freezer.state", value)
            }
        };
        files::write(&dir, file, value)
    }

    /// All processes in the group and below it, as seen from the host.
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        let mut found = Vec::new();
        if let Some((_, dir)) = self.dirs().next() {
            files::processes_below(&dir, &mut found)?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// SIGKILL to everything in the group and below, until none is left. Gives
    /// up after ten seconds: a process in uninterruptible sleep cannot be ended.
    ///
    /// # Errors
    /// `Invalid` for the root group: the whole machine is in it.
    pub fn kill_all(&self) -> Result<(), Error> {
        host::check_path(&self.path)?;
        kill::kill_all(self)
    }

    /// What the group has used so far.
    pub fn stats(&self) -> Result<Stats, Error> {
        match self.host.layout() {
            Layout::V2 => stats::v2(&self.unified()?),
            Layout::V1 | Layout::Hybrid => stats::v1(self),
        }
    }

    /// How many processes of the group the kernel killed for lack of memory.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        match self.host.layout() {
            Layout::V2 => files::keyed(&self.unified()?.join("memory.events"), "oom_kill"),
            Layout::V1 | Layout::Hybrid => files::keyed(
                &self.controller("memory")?.join("memory.oom_control"),
                "oom_kill",
            ),
        }
    }

    /// Removes the group and its children; a group that is gone is no error.
    /// A group whose last process is still ending is waited for, two seconds at
    /// most.
    ///
    /// # Errors
    /// `Invalid` for the root group.
    pub fn remove(&self) -> Result<(), Error> {
        host::check_path(&self.path)?;
        let mut first_error = None;
        // An empty one ends by itself when systemd cannot be asked.
        let stopped = self.unit.as_ref().map_or(Ok(()), Unit::stop);
        for (_, dir) in self.dirs() {
            if let Err(error) = files::remove_tree(&dir, Duration::from_secs(2)) {
                first_error.get_or_insert(error);
            }
        }
        if first_error.is_some() {
            stopped?;
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Refuses a group with processes; one that is not there has none.
    pub fn check_empty(&self) -> Result<(), Error> {
        host::check_path(&self.path)?;
        match self.processes()?.len() {
            0 => Ok(()),
            count => Err(Error::Invalid(format!(
                "container's cgroup is not empty: {count} process(es) found"
            ))),
        }
    }

    /// A group that was there already is taken when nobody is in it.
    fn check_unused(&self, made: &[PathBuf]) -> Result<(), Error> {
        let first = self.dirs().next();
        if first.is_none_or(|(_, dir)| made.contains(&dir)) {
            return Ok(());
        }
        self.check_empty()?;
        if self.is_frozen().unwrap_or(false) {
            return Err(Error::Invalid(
                "container's cgroup unexpectedly frozen".into(),
            ));
        }
        Ok(())
    }

    /// Adds the directories it makes to `made`, outer ones first.
    fn make(&self, made: &mut Vec<PathBuf>) -> Result<(), Error> {
        match self.host.layout() {
            Layout::V2 => v2::make(&self.host, &self.unified()?, made),
            Layout::V1 | Layout::Hybrid => {
                for (hierarchy, dir) in self.v1_dirs() {
                    v1::make(hierarchy, &dir, made)?;
                }
                Ok(())
            }
        }
    }

    /// Directories of all hierarchies that carry this group. On a hybrid host systemd
    /// watches the version 2 one, and takes a unit without a process there for ended.
    fn dirs(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        let v2_counts = self.host.layout() == Layout::V2 || self.unit.is_some();
        self.host
            .hierarchies()
            .iter()
            .filter(move |hierarchy| v2_counts || hierarchy.version == Version::V1)
            .map(|hierarchy| (hierarchy, hierarchy.dir(&self.path)))
    }

    fn v1_dirs(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.dirs()
            .filter(|(hierarchy, _)| hierarchy.version == Version::V1)
    }

    /// The v2 directory.
    fn unified(&self) -> Result<PathBuf, Error> {
        let (_, dir) = self
            .dirs()
            .find(|(hierarchy, _)| hierarchy.version == Version::V2)
            .ok_or_else(|| Error::Invalid("no cgroup v2 hierarchy is mounted".into()))?;
        Ok(dir)
    }

    /// The v1 directory of a controller.
    fn controller(&self, name: &str) -> Result<PathBuf, Error> {
        let (_, dir) = self
            .v1_dirs()
            .find(|(hierarchy, _)| hierarchy.has(name))
            .ok_or_else(|| Error::missing(name))?;
        Ok(dir)
    }
}
