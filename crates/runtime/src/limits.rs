//! Resource limits, scheduling, memory policy and execution domain of a process.

use berth_sys::exec::{self, Schedule};
use oci_spec::runtime::{
    IOPriorityClass, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType,
    PosixRlimit, PosixRlimitType, Process,
};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use crate::error::{Context as _, Error, Result};

/// Refuses what the kernel would not.
pub(crate) fn check(process: &Process) -> Result<()> {
    let mut seen: Vec<PosixRlimitType> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        if seen.contains(&limit.typ()) {
            return Err(Error::invalid(format!(
                "process.rlimits: {} is listed twice",
                limit.typ()
            )));
        }
        seen.push(limit.typ());
    }
    Ok(())
}

/// Sets `process.rlimits`. A hard limit above our own that may not be raised is
/// lowered to it: a default of the engine must not keep containers from starting
/// on a host with less.
pub(crate) fn set_rlimits(process: &Process) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let resource = resource(limit);
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let wanted = Rlimit {
            current: value(limit.soft()),
            maximum: value(limit.hard()),
        };
        let result = match rustix::process::setrlimit(resource, wanted) {
            Err(Errno::PERM) => {
                let own = rustix::process::getrlimit(resource).maximum;
                let maximum = least(wanted.maximum, own);
                let current = least(wanted.current, maximum);
                rustix::process::setrlimit(resource, Rlimit { current, maximum })
            }
            other => other,
        };
        result.step(|| format!("set {} to {}:{}", limit.typ(), limit.soft(), limit.hard()))?;
    }
    Ok(())
}

/// `None` is unlimited.
fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

fn resource(limit: &PosixRlimit) -> Resource {
    match limit.typ() {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// `process.scheduler` and `process.ioPriority`.
pub(crate) fn set_scheduling(process: &Process) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        let flag = |flag: &LinuxSchedulerFlag| match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
        let policy = match scheduler.policy() {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        };
        let priority = scheduler.priority().unwrap_or(0);
        exec::set_schedule(&Schedule {
            policy,
            flags: scheduler.flags().iter().flatten().map(flag).sum(),
            nice: scheduler.nice().unwrap_or(0),
            priority: u32::try_from(priority).map_err(|_| {
                Error::invalid(format!("process.scheduler: {priority} is no priority"))
            })?,
            runtime: scheduler.runtime().unwrap_or(0),
            deadline: scheduler.deadline().unwrap_or(0),
            period: scheduler.period().unwrap_or(0),
        })
        .step(|| "set the scheduling policy")?;
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u8::try_from(priority.priority())
            .ok()
            .filter(|level| *level <= 7);
        let level = level.ok_or_else(|| {
            Error::invalid(format!(
                "process.ioPriority: {} is not from 0 to 7",
                priority.priority()
            ))
        })?;
        exec::set_io_priority(class, level).step(|| "set the I/O priority")?;
    }
    Ok(())
}

/// `linux.personality`.
pub(crate) fn set_personality(personality: &LinuxPersonality) -> Result<()> {
    if let Some(flag) = personality.flags().iter().flatten().next() {
        // The specification defines none yet.
        return Err(Error::invalid(format!(
            "linux.personality: flag {flag:?} is not supported"
        )));
    }
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    exec::set_personality(domain).step(|| "set the execution domain")
}

/// `linux.memoryPolicy`.
pub(crate) fn set_memory_policy(policy: &LinuxMemoryPolicy) -> Result<()> {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    };
    let flags: u32 = policy.flags().iter().flatten().map(flag).sum();
    let nodes = number_list(policy.nodes().as_deref().unwrap_or_default(), 1024)?;
    exec::set_memory_policy(mode | flags, &nodes).step(|| "set the memory policy")
}

/// The numbers of "0-3,7", each below `end`.
pub(crate) fn number_list(text: &str, end: usize) -> Result<Vec<usize>> {
    let wrong = || Error::invalid(format!("{text:?} is no list of numbers below {end}"));
    let mut numbers = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last >= end {
            return Err(wrong());
        }
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

/// `process.execCPUAffinity`, a list of processors.
pub(crate) fn set_affinity(list: &str) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in number_list(list, rustix::thread::CpuSet::MAX_CPU)? {
        set.set(cpu);
    }
    rustix::thread::sched_setaffinity(None, &set)
        .step(|| format!("bind the process to processors {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(number_list("0-2, 5", 8).unwrap(), [0, 1, 2, 5]);
        assert!(number_list("", 8).unwrap().is_empty());
        for wrong in ["8", "3-1", "x", "1-", "-1", "0-99999999999999999999"] {
            assert!(number_list(wrong, 8).is_err(), "{wrong}");
        }
    }

    /// Raising the hard limit is not allowed here, and must not be fatal.
    #[test]
    fn limits_above_our_own_are_clamped() {
        let own = rustix::process::getrlimit(Resource::Nofile)
            .maximum
            .unwrap();
        let lower = own - 1;
        let process: Process = serde_json::from_str(&format!(
            r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/","rlimits":[
              {{"type":"RLIMIT_NOFILE","soft":{lower},"hard":{lower}}},
              {{"type":"RLIMIT_NOFILE","soft":{},"hard":{}}}]}}"#,
            own + 1000,
            own + 2000
        ))
        .unwrap();
        set_rlimits(&process).unwrap();
        let now = rustix::process::getrlimit(Resource::Nofile);
        assert!(now.maximum.unwrap() >= lower, "{now:?}");
        assert_eq!(least(None, Some(3)), Some(3));
        assert_eq!(least(Some(4), Some(3)), Some(3));
        assert_eq!(least(None, None), None);
    }
}
