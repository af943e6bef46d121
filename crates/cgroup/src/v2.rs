//! Version 2: one directory for all controllers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxRdma, LinuxResources};
use rustix::io::Errno;

use crate::{Error, Host, devices, files};

/// Controllers that a container's limits and statistics may need.
const CONTROLLERS: &[&str] = &[
    "cpu", "cpuset", "dmem", "hugetlb", "io", "memory", "misc", "pids", "rdma",
];

/// Makes the directory and enables the controllers on the way to it.
pub(crate) fn make(host: &Host, dir: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    let hierarchy = host
        .v2_mount()
        .ok_or_else(|| Error::Invalid("no cgroup v2 hierarchy is mounted".into()))?;
    let relative = dir
        .strip_prefix(&hierarchy.mount)
        .unwrap_or_else(|_| Path::new(""));
    let mut current = hierarchy.mount.clone();
    for part in relative.iter() {
        enable_controllers(&current)?;
        current.push(part);
        files::make_dirs(&current, made)?;
    }
    Ok(())
}

/// Passes on what is available here and not yet passed on. A controller that
/// cannot be enabled (a process sits here, or the group is delegated without
/// it) is missed only by a limit that needs it.
fn enable_controllers(dir: &Path) -> Result<(), Error> {
    let available = files::read(&dir.join("cgroup.controllers"))?;
    let enabled = files::read(&dir.join("cgroup.subtree_control"))?;
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    let wanted: Vec<_> = CONTROLLERS
        .iter()
        .filter(|name| has(&available, name) && !has(&enabled, name))
        .map(|name| format!("+{name}"))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    match files::write(dir, "cgroup.subtree_control", &wanted.join(" ")) {
        Ok(()) => return Ok(()),
        // Processes sit here. Some controllers could be had all the same, but would
        // make the groups below threaded ones, which take no processes.
        Err(error) if error.errno() == Some(Errno::BUSY) => return Ok(()),
        Err(_) => {}
    }
    for one in wanted {
        let _ = files::write(dir, "cgroup.subtree_control", &one);
    }
    Ok(())
}

/// What the kernel says may be given away (cgroups(7), "Delegation"), and the
/// directory itself.
pub(crate) fn delegate(dir: &Path, uid: u32) -> Result<(), Error> {
    // Without that list (before Linux 4.15), the ones of then.
    let list = files::read(Path::new("/sys/kernel/cgroup/delegate"))
        .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads".into());
    let own = |path: PathBuf| {
        rustix::fs::chown(&path, Some(rustix::fs::Uid::from_raw(uid)), None)
            .map_err(|errno| Error::io(format!("chown to {uid}"), &path, errno))
    };
    own(dir.to_owned())?;
    for file in list.lines() {
        match own(dir.join(file)) {
            Err(error) if error.is_absent() => {}
            result => result?,
        }
    }
    Ok(())
}

/// A write whose file is absent means that the controller is not enabled.
fn set(dir: &Path, file: &str, value: &str) -> Result<(), Error> {
    files::write(dir, file, value).map_err(|error| {
        if error.is_absent() {
            Error::Invalid(format!(
                "{file} cannot be set: the {} controller is not available to {}",
                file.split('.').next().unwrap_or(file),
                dir.display()
            ))
        } else {
            error
        }
    })
}

pub(crate) fn apply(dir: &Path, resources: &LinuxResources) -> Result<(), Error> {
    if let Some(memory) = resources.memory() {
        apply_memory(dir, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(dir, cpu)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        set(
            dir,
            "pids.max",
            &if limit > 0 {
                limit.to_string()
            } else {
                "max".into()
            },
        )?;
    }
    if let Some(block_io) = resources.block_io() {
        apply_block_io(dir, block_io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        crate::set_huge_pages(dir, limit.page_size(), "max", limit.limit())?;
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        set(dir, "rdma.max", &rdma(device, limit))?;
    }
    for (file, value) in resources.unified().iter().flatten() {
        set_unified(dir, file, value)?;
    }
    if resources.network().as_ref().is_some_and(|network| {
        network.class_id().is_some() || network.priorities().as_ref().is_some_and(|p| !p.is_empty())
    }) {
        return Err(Error::Invalid(
            "cgroup v2 has no network classes and priorities".into(),
        ));
    }
    if let Some(rules) = resources.devices() {
        devices::attach(dir, rules)?;
    }
    Ok(())
}

/// Any file of any controller: its name comes from the configuration.
fn set_unified(dir: &Path, file: &str, value: &str) -> Result<(), Error> {
    if file.contains('/') {
        return Err(Error::Invalid(format!(
            "unified resource {file:?} must be a file name (no slashes)"
        )));
    }
    let Some((controller, _)) = file.split_once('.') else {
        return Err(Error::Invalid(format!(
            "unified resource {file:?} must be in the form CONTROLLER.PARAMETER"
        )));
    };
    // Of the files of the group itself, those that are limits and not commands.
    if controller == "cgroup" && !file.starts_with("cgroup.max.") {
        return Err(Error::Invalid(format!(
            "unified resource {file:?} is no limit"
        )));
    }
    // These files take one line at a time.
    for line in value.lines().filter(|line| !line.is_empty()) {
        match files::write(dir, file, line) {
            Err(error) if error.is_absent() => {
                let known = files::read(&dir.join("cgroup.controllers"))?;
                return Err(Error::Invalid(
                    if known.split_whitespace().any(|name| name == controller) {
                        format!(
                            "unified resource {file:?} does not exist in {}",
                            dir.display()
                        )
                    } else {
                        format!(
                            "unified resource {file:?} can't be set: controller {controller:?} \
                             not available"
                        )
                    },
                ));
            }
            other => other?,
        }
    }
    Ok(())
}

/// -1 is "max".
fn limit(value: i64) -> String {
    if value < 0 {
        "max".into()
    } else {
        value.to_string()
    }
}

fn apply_memory(dir: &Path, memory: &LinuxMemory) -> Result<(), Error> {
    // Knobs that only version 1 has; those on kernel memory are gone from it too.
    if memory.swappiness().is_some() {
        return Err(Error::Invalid(
            "cannot set memory swappiness with cgroupv2".into(),
        ));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(Error::Invalid(
            "cannot disable OOM killer with cgroupv2".into(),
        ));
    }
    if memory.check_before_update() == Some(true)
        && let Some(wanted) = memory.limit().and_then(|value| u64::try_from(value).ok())
    {
        let usage = files::number(&dir.join("memory.current"))?;
        if wanted != 0 && usage > wanted {
            return Err(Error::Invalid(format!(
                "a memory limit of {wanted} is below the {usage} bytes in use"
            )));
        }
    }
    if let Some(swap) = swap_limit(memory)? {
        match set(dir, "memory.swap.max", &swap) {
            // A kernel without swap has no file; then there is nothing to limit.
            Err(Error::Invalid(_)) if !Path::new("/proc/swaps").exists() || swap == "max" => {}
            Err(Error::Invalid(_)) if dir.join("memory.max").exists() => {
                return Err(Error::Invalid(
                    "a swap limit needs a kernel with swap accounting".into(),
                ));
            }
            other => other?,
        }
    }
    if let Some(value) = memory.limit().filter(|&value| value != 0) {
        set(dir, "memory.max", &limit(value))?;
    }
    if let Some(reservation) = memory.reservation().filter(|&value| value != 0) {
        set(dir, "memory.low", &limit(reservation))?;
    }
    Ok(())
}

/// v1 counts memory and swap together, v2 swap alone.
pub(crate) fn swap_limit(memory: &LinuxMemory) -> Result<Option<String>, Error> {
    let (Some(swap), limit) = (memory.swap(), memory.limit().unwrap_or_default()) else {
        return Ok(None);
    };
    match (swap, limit) {
        (0, _) => Ok(None),
        (-1, _) => Ok(Some("max".into())),
        (_, 0 | -1) => Err(Error::Invalid("a swap limit needs a memory limit".into())),
        (swap, limit) if swap < limit => Err(Error::Invalid(
            "the limit on memory and swap is below the one on memory".into(),
        )),
        (swap, limit) => Ok(Some((swap - limit).to_string())),
    }
}

fn apply_cpu(dir: &Path, cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(idle) = cpu.idle() {
        set(dir, "cpu.idle", &idle.to_string())?;
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares > 0) {
        set(dir, "cpu.weight", &weight_of_shares(shares).to_string())?;
    }
    let quota = cpu.quota().filter(|&quota| quota != 0).map(limit);
    let period = cpu.period().filter(|&period| period > 0);
    let max = match (quota, period) {
        (Some(quota), Some(period)) => Some(format!("{quota} {period}")),
        // A quota alone leaves the period as it is; a period needs the quota.
        (Some(quota), None) => Some(quota),
        (None, Some(period)) => {
            let now = files::read(&dir.join("cpu.max")).unwrap_or_default();
            let quota = now.split_whitespace().next().unwrap_or("max");
            Some(format!("{quota} {period}"))
        }
        (None, None) => None,
    };
    let set_burst = || {
        cpu.burst().map_or(Ok(()), |burst| {
            set(dir, "cpu.max.burst", &burst.to_string())
        })
    };
    if let Some(max) = max {
        match set(dir, "cpu.max", &max) {
            // Below the burst in force: then the new one goes first.
            Err(error) if error.errno() == Some(Errno::INVAL) && cpu.burst().is_some() => {
                set_burst()?;
                set(dir, "cpu.max", &max)?;
            }
            result => result?,
        }
    }
    set_burst()?;
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
        return Err(Error::Invalid(
            "cgroup v2 has no limits on realtime CPU time".into(),
        ));
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        set(dir, "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        set(dir, "cpuset.mems", mems)?;
    }
    Ok(())
}

/// Shares (2–262144, default 1024) to weight (1–10000, default 100): the curve
/// through all three points that runc 1.3.2 and crun 1.23 introduced.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

/// 10–1000 of v1 to 1–10000 of v2.
pub(crate) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).max(10) - 10) * 9999 / 990
}

fn apply_block_io(dir: &Path, block_io: &LinuxBlockIo) -> Result<(), Error> {
    let weight = |device: &str, weight: u16| {
        let prefix = if device.is_empty() {
            String::new()
        } else {
            format!("{device} ")
        };
        match files::write(dir, "io.bfq.weight", &format!("{prefix}{weight}")) {
            Err(error) if error.is_absent() => {
                let weight = io_weight(weight);
                set(
                    dir,
                    "io.weight",
                    &format!(
                        "{}{weight}",
                        if device.is_empty() {
                            "default "
                        } else {
                            &prefix
                        }
                    ),
                )
            }
            other => other,
        }
    };
    let leaf = |weight: Option<u16>| weight.is_some_and(|weight| weight > 0);
    let mut devices = block_io.weight_device().iter().flatten();
    if leaf(block_io.leaf_weight()) || devices.any(|device| leaf(device.leaf_weight())) {
        return Err(Error::Invalid(
            "cgroup v2 has no block I/O leaf weights".into(),
        ));
    }
    if let Some(value) = block_io.weight().filter(|&value| value > 0) {
        weight("", value)?;
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(value) = device.weight() {
            weight(&format!("{}:{}", device.major(), device.minor()), value)?;
        }
    }
    for (key, devices) in [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 {
                "max".into()
            } else {
                device.rate().to_string()
            };
            set(
                dir,
                "io.max",
                &format!("{}:{} {key}={rate}", device.major(), device.minor()),
            )?;
        }
    }
    Ok(())
}

/// One line of rdma.max.
pub(crate) fn rdma(device: &str, limit: &LinuxRdma) -> String {
    let mut line = device.to_owned();
    if let Some(handles) = limit.hca_handles() {
        line += &format!(" hca_handle={handles}");
    }
    if let Some(objects) = limit.hca_objects() {
        line += &format!(" hca_object={objects}");
    }
    line
}

pub(crate) fn freeze(dir: &Path, on: bool) -> Result<(), Error> {
    files::write(dir, "cgroup.freeze", if on { "1" } else { "0" })?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut pause = Duration::from_micros(50);
    while is_frozen(dir)? != on {
        if Instant::now() > deadline {
            if on {
                let _ = files::write(dir, "cgroup.freeze", "0");
            }
            return Err(Error::Invalid(format!(
                "{} did not freeze or thaw within 10 seconds",
                dir.display()
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}

pub(crate) fn is_frozen(dir: &Path) -> Result<bool, Error> {
    Ok(files::keyed(&dir.join("cgroup.events"), "frozen")? == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxMemoryBuilder;

    #[test]
    fn shares_become_weights() {
        for (shares, weight) in [
            (0, 1),
            (2, 1),
            (1024, 100),
            (262_144, 10_000),
            (u64::MAX, 10_000),
            (512, 59),
        ] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }

    #[test]
    fn swap_is_counted_apart() {
        let memory = |limit: i64, swap: i64| {
            LinuxMemoryBuilder::default()
                .limit(limit)
                .swap(swap)
                .build()
                .unwrap()
        };
        assert_eq!(swap_limit(&memory(100, 150)).unwrap(), Some("50".into()));
        assert_eq!(swap_limit(&memory(100, 100)).unwrap(), Some("0".into()));
        assert_eq!(swap_limit(&memory(100, -1)).unwrap(), Some("max".into()));
        assert_eq!(swap_limit(&memory(100, 0)).unwrap(), None);
        assert!(swap_limit(&memory(100, 50)).is_err());
        assert!(swap_limit(&memory(0, 50)).is_err());
    }
}
