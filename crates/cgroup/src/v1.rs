//! Version 1: one directory per controller.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources};
use rustix::io::Errno;

use crate::host::Hierarchy;
use crate::{Cgroup, Error, devices, files};

/// Makes the directory; a new cpuset is useless until it has CPUs and memory
/// nodes, which it takes from its parent.
pub(crate) fn make(
    hierarchy: &Hierarchy,
    dir: &Path,
    made: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let before = made.len();
    files::make_dirs(dir, made)?;
    if hierarchy.has("cpuset") && made.len() > before {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // A new one is empty, or has this value already.
            if let Some(parent) = dir.parent() {
                let value = inherit(&hierarchy.mount, parent, file)?;
                files::write(dir, file, value.trim())?;
            }
        }
    }
    Ok(())
}

/// Gives a cpuset file the parent's value if it is empty, the parent first if
/// that is empty too. Returns the value.
fn inherit(root: &Path, dir: &Path, file: &str) -> Result<String, Error> {
    let own = files::read(&dir.join(file))?;
    match dir.parent() {
        Some(parent) if own.trim().is_empty() && dir != root => {
            let value = inherit(root, parent, file)?;
            files::write(dir, file, value.trim())?;
            Ok(value)
        }
        _ => Ok(own),
    }
}

/// Of `cpu.shares`.
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

pub(crate) fn apply(group: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    if let Some(memory) = resources.memory() {
        apply_memory(group, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(group, cpu)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        let value = if limit > 0 {
            limit.to_string()
        } else {
            "max".into()
        };
        files::write(&group.controller("pids")?, "pids.max", &value)?;
    }
    if let Some(block_io) = resources.block_io() {
        apply_block_io(group, block_io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let dir = group.controller("hugetlb")?;
        crate::set_huge_pages(&dir, limit.page_size(), "limit_in_bytes", limit.limit())?;
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            files::write(
                &group.controller("net_cls")?,
                "net_cls.classid",
                &class.to_string(),
            )?;
        }
        for priority in network.priorities().iter().flatten() {
            let value = format!("{} {}", priority.name(), priority.priority());
            files::write(&group.controller("net_prio")?, "net_prio.ifpriomap", &value)?;
        }
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        files::write(
            &group.controller("rdma")?,
            "rdma.max",
            &crate::v2::rdma(device, limit),
        )?;
    }
    if resources
        .unified()
        .as_ref()
        .is_some_and(|unified| !unified.is_empty())
    {
        return Err(Error::Invalid(
            "unified resources need cgroup v2, and this host has v1".into(),
        ));
    }
    if let Some(rules) = resources.devices() {
        apply_devices(&group.controller("devices")?, rules)?;
    }
    Ok(())
}

/// One line per write. A configuration and the defaults of the runtime name the
/// same nodes; what is allowed already is not said again.
fn apply_devices(dir: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), Error> {
    let mut allow = None;
    let mut allowed = Vec::new();
    for rule in rules {
        let line = devices::v1_rule(rule)?;
        if !rule.allow() {
            allowed.clear();
            files::write(dir, "devices.deny", &line)?;
        } else if !allowed.contains(&line) {
            let file = match &allow {
                Some(file) => file,
                None => &*allow.insert(files::open(dir, "devices.allow")?),
            };
            file.write(&line)?;
            allowed.push(line);
        }
    }
    Ok(())
}

fn apply_memory(group: &Cgroup, memory: &LinuxMemory) -> Result<(), Error> {
    // As runc reads it, 0 is "not given": nothing could run with it.
    let given = |value: Option<i64>| value.filter(|&value| value != 0);
    let (limit, swap) = (given(memory.limit()), given(memory.swap()));
    let reservation = given(memory.reservation());
    let needed = limit.is_some()
        || swap.is_some()
        || reservation.is_some()
        || memory.swappiness().is_some()
        || memory.disable_oom_killer().is_some();
    if !needed {
        return Ok(());
    }
    let dir = group.controller("memory")?;
    let set_limit = |limit: i64| {
        files::write(&dir, "memory.limit_in_bytes", &limit.to_string()).map_err(|error| {
            if error.errno() != Some(Errno::BUSY) {
                return error;
            }
            let used = |file: &str| files::number(&dir.join(file)).unwrap_or_default();
            Error::Invalid(format!(
                "unable to set memory limit to {limit} (current usage: {}, peak usage: {})",
                used("memory.usage_in_bytes"),
                used("memory.max_usage_in_bytes")
            ))
        })
    };
    let set_swap = |swap: i64| {
        files::write(&dir, "memory.memsw.limit_in_bytes", &swap.to_string()).map_err(|error| {
            if error.is_absent() {
                Error::Invalid("a swap limit needs swap accounting: boot with swapaccount=1".into())
            } else {
                error
            }
        })
    };
    // The kernel holds memory ≤ memory+swap at every moment, so which comes
    // first depends on the direction. An unlimited swap needs no accounting.
    match (limit, swap) {
        (Some(limit), Some(swap)) => {
            if let Err(error) = set_limit(limit) {
                if error.errno() != Some(Errno::INVAL) {
                    return Err(error);
                }
                set_swap(swap)?;
                set_limit(limit)?;
            } else if swap != -1 || dir.join("memory.memsw.limit_in_bytes").exists() {
                set_swap(swap)?;
            }
        }
        // An earlier limit on memory and swap goes with the one on memory; it is
        // in the way of a higher one, which is for the caller to decide.
        (Some(-1), None) => {
            if dir.join("memory.memsw.limit_in_bytes").exists() {
                set_swap(-1)?;
            }
            set_limit(-1)?;
        }
        (Some(limit), None) => set_limit(limit).map_err(|error| match error.errno() {
            Some(Errno::INVAL) => Error::Invalid(format!(
                "a memory limit of {limit} is above the limit on memory and swap in force: \
                 change both"
            )),
            _ => error,
        })?,
        (None, Some(swap)) => set_swap(swap)?,
        (None, None) => {}
    }
    if let Some(reservation) = reservation {
        files::write(&dir, "memory.soft_limit_in_bytes", &reservation.to_string())?;
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            return Err(Error::Invalid(format!(
                "invalid memory swappiness value: {swappiness} (valid range is 0-100)"
            )));
        }
        files::write(&dir, "memory.swappiness", &swappiness.to_string())?;
    }
    if memory.disable_oom_killer() == Some(true) {
        files::write(&dir, "memory.oom_control", "1")?;
    }
    Ok(())
}

fn apply_cpu(group: &Cgroup, cpu: &LinuxCpu) -> Result<(), Error> {
    let write = |file: &str, value: &dyn std::fmt::Display| {
        files::write(&group.controller("cpu")?, file, &value.to_string())
    };
    if let Some(shares) = cpu.shares().filter(|&shares| shares > 0) {
        // The kernel would take what is nearest.
        if !(MIN_SHARES..=MAX_SHARES).contains(&shares) {
            return Err(Error::Invalid(if shares < MIN_SHARES {
                format!("the minimum allowed cpu-shares is {MIN_SHARES}")
            } else {
                format!("the maximum allowed cpu-shares is {MAX_SHARES}")
            }));
        }
        write("cpu.shares", &shares)?;
    }
    // A period shorter than the quota in force is refused: then the quota goes
    // first.
    if let Some(period) = cpu.period().filter(|&period| period > 0) {
        match (write("cpu.cfs_period_us", &period), cpu.quota()) {
            (Err(error), Some(quota)) if error.errno() == Some(Errno::INVAL) => {
                write("cpu.cfs_quota_us", &quota)?;
                write("cpu.cfs_period_us", &period)?;
            }
            (result, _) => result?,
        }
    }
    let set_burst = || {
        cpu.burst()
            .map_or(Ok(()), |burst| write("cpu.cfs_burst_us", &burst))
    };
    if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
        match write("cpu.cfs_quota_us", &quota) {
            // Below the burst in force: then the new one goes first.
            Err(error) if error.errno() == Some(Errno::INVAL) && cpu.burst().is_some() => {
                set_burst()?;
                write("cpu.cfs_quota_us", &quota)?;
            }
            result => result?,
        }
    }
    set_burst()?;
    if let Some(idle) = cpu.idle() {
        write("cpu.idle", &idle)?;
    }
    if let Some(period) = cpu.realtime_period().filter(|&period| period > 0) {
        write("cpu.rt_period_us", &period)?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
        write("cpu.rt_runtime_us", &runtime)?;
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        files::write(&group.controller("cpuset")?, "cpuset.cpus", cpus)?;
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        files::write(&group.controller("cpuset")?, "cpuset.mems", mems)?;
    }
    Ok(())
}

fn apply_block_io(group: &Cgroup, block_io: &LinuxBlockIo) -> Result<(), Error> {
    let write = |file: &str, value: &str| {
        let dir = group.controller("blkio")?;
        // The weight files belong to whichever scheduler the kernel has.
        let bfq = file.replace("blkio.weight", "blkio.bfq.weight");
        match files::write(&dir, file, value) {
            Err(error) if error.is_absent() && bfq != file => files::write(&dir, &bfq, value)
                .map_err(|error| {
                    if error.is_absent() {
                        Error::Invalid("this kernel has no block I/O weights".into())
                    } else {
                        error
                    }
                }),
            // Of a scheduler that Linux 5.0 removed.
            Err(error) if error.is_absent() && file.contains("leaf_weight") => Err(Error::Invalid(
                "this kernel has no block I/O leaf weights".into(),
            )),
            other => other,
        }
    };
    if let Some(weight) = block_io.weight().filter(|&weight| weight > 0) {
        write("blkio.weight", &weight.to_string())?;
    }
    if let Some(weight) = block_io.leaf_weight().filter(|&weight| weight > 0) {
        write("blkio.leaf_weight", &weight.to_string())?;
    }
    for device in block_io.weight_device().iter().flatten() {
        for (file, weight) in [
            ("blkio.weight_device", device.weight()),
            ("blkio.leaf_weight_device", device.leaf_weight()),
        ] {
            if let Some(weight) = weight {
                write(
                    file,
                    &format!("{}:{} {weight}", device.major(), device.minor()),
                )?;
            }
        }
    }
    for (file, devices) in [
        (
            "blkio.throttle.read_bps_device",
            block_io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            block_io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            block_io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            block_io.throttle_write_iops_device(),
        ),
    ] {
        for device in devices.iter().flatten() {
            write(
                file,
                &format!("{}:{} {}", device.major(), device.minor(), device.rate()),
            )?;
        }
    }
    Ok(())
}

/// A group in which processes fork may stay FREEZING: asking again catches them.
pub(crate) fn freeze(dir: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut pause = Duration::from_micros(50);
    loop {
        files::write(dir, "freezer.state", "FROZEN")?;
        if files::read(&dir.join("freezer.state"))?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() > deadline {
            let _ = thaw(dir);
            return Err(Error::Invalid(format!(
                "{} did not freeze within 10 seconds",
                dir.display()
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

pub(crate) fn thaw(dir: &Path) -> Result<(), Error> {
    files::write(dir, "freezer.state", "THAWED")
}

pub(crate) fn is_frozen(dir: &Path) -> Result<bool, Error> {
    Ok(files::read(&dir.join("freezer.state"))?.trim() != "THAWED")
}
