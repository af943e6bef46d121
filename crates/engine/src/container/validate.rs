//! What a configuration may ask for. The words are Docker's; what is not built
//! yet is refused by name, never ignored.

use berth_api::Error;
use berth_api::container::{Config, HostConfig, Update};

use super::restart;
use crate::info::Host;
use crate::spec::security::SecurityOptions;
use crate::spec::{check_sysctl, devices, process, security};
use crate::{health, logs, networks, signals};

/// Smallest memory limit, bytes.
const MIN_MEMORY: i64 = 6 << 20;

pub(super) fn check(config: &Config, host: &HostConfig, facts: &Host) -> Result<(), Error> {
    unsupported(host)?;
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    for entry in config.env.iter().flatten() {
        if entry.is_empty() || entry.starts_with('=') {
            return Err(Error::invalid(format!(
                "invalid environment variable: {entry}"
            )));
        }
        if entry.contains('\0') {
            return Err(Error::invalid("an environment variable holds a zero byte"));
        }
    }
    if !config.stop_signal.is_empty() {
        signals::parse(&config.stop_signal)?;
    }
    // Linux's HOST_NAME_MAX.
    if config.hostname.len() > 64 {
        return Err(Error::invalid(format!(
            "invalid hostname: {}: longer than 64 characters",
            config.hostname
        )));
    }
    restart::validate(&host.restart_policy)?;
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(Error::invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    modes(host)?;
    limits(host, facts)?;
    health::check(config)?;
    devices::check(host)?;
    security::capabilities(host, facts.last_capability)?;
    SecurityOptions::parse(host.security_opt.as_deref().unwrap_or_default())?;
    for (key, value) in host.sysctls.iter().flatten() {
        check_sysctl(host, key, value)?;
    }
    for limit in host.ulimits.iter().flatten() {
        process::rlimit_type(&limit.name)?;
    }
    for text in host.extra_hosts.iter().flatten() {
        networks::split_extra_host(text)?;
    }
    for server in host.dns.iter().flatten() {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid(format!("invalid IP address: {server}")));
        }
    }
    logs::Options::parse(&host.log_config)?;
    Ok(())
}

fn unsupported(host: &HostConfig) -> Result<(), Error> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let bindings = host
        .port_bindings
        .as_ref()
        .is_some_and(|map| !map.is_empty());
    let runtime = !matches!(
        host.runtime.as_str(),
        "" | "runc" | "berth-runtime" | "io.containerd.runc.v2"
    );
    for (asked, what) in [
        (
            bindings || host.publish_all_ports,
            "publishing ports (-p, -P)",
        ),
        (some(&host.links), "links (--link)"),
        (
            host.device_requests
                .as_ref()
                .is_some_and(|list| !list.is_empty()),
            "device requests (--gpus)",
        ),
        (
            host.storage_opt.as_ref().is_some_and(|map| !map.is_empty()),
            "storage options (--storage-opt)",
        ),
        (
            !matches!(host.userns_mode.as_str(), "" | "host"),
            "user namespaces (--userns)",
        ),
        (
            !matches!(host.volume_driver.as_str(), "" | "local"),
            "volume drivers (--volume-driver)",
        ),
        (
            !host.cgroup.is_empty(),
            "joining another container's cgroup",
        ),
        (
            host.cpu_count != 0
                || host.cpu_percent != 0
                || host.io_maximum_iops != 0
                || host.io_maximum_bandwidth != 0,
            "limits for Windows containers",
        ),
        (host.kernel_memory_tcp != 0, "kernel memory limits"),
    ] {
        if asked {
            return Err(Error::not_implemented(format!("{what}: not supported yet")));
        }
    }
    if runtime {
        return Err(Error::invalid(format!(
            "unknown or invalid runtime name: {}",
            host.runtime
        )));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "invalid isolation mode \"{}\" on linux",
            host.isolation
        )));
    }
    Ok(())
}

fn modes(host: &HostConfig) -> Result<(), Error> {
    let named = |mode: &str| {
        mode.strip_prefix("container:")
            .is_some_and(|name| !name.is_empty())
    };
    let pid = host.pid_mode.as_str();
    if !(matches!(pid, "" | "host") || named(pid)) {
        return Err(Error::invalid(format!("invalid PID mode: {pid}")));
    }
    let ipc = host.ipc_mode.as_str();
    if !(matches!(ipc, "" | "none" | "private" | "shareable" | "host") || named(ipc)) {
        return Err(Error::invalid(format!(
            "invalid IPC mode: {}",
            host.ipc_mode
        )));
    }
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!(
            "invalid UTS mode: {}",
            host.uts_mode
        )));
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "host" | "private") {
        return Err(Error::invalid(format!(
            "invalid cgroup namespace mode: {}",
            host.cgroupns_mode
        )));
    }
    let network = host.network_mode.as_str();
    if network == "container" || network == "container:" {
        return Err(Error::invalid(
            "invalid container format container:<name|id>",
        ));
    }
    if network.starts_with("container:") && host.dns.as_ref().is_some_and(|dns| !dns.is_empty()) {
        return Err(Error::invalid(
            "conflicting options: dns and the network mode",
        ));
    }
    if network.starts_with("container:")
        && host
            .extra_hosts
            .as_ref()
            .is_some_and(|hosts| !hosts.is_empty())
    {
        return Err(Error::invalid(
            "conflicting options: custom host-to-IP mapping and the network mode",
        ));
    }
    Ok(())
}

pub(crate) fn limits(host: &HostConfig, facts: &Host) -> Result<(), Error> {
    let refuse = |text: &str| Err(Error::invalid(text));
    if host.memory != 0 && host.memory < MIN_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if host.memory == 0 && host.memory_swap > 0 {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if let Some(value) = host.memory_swappiness
        && !(-1..=100).contains(&value)
    {
        return Err(Error::invalid(format!(
            "Invalid value: {value}, valid memory swappiness range is 0-100"
        )));
    }
    if host.memory_reservation != 0 && host.memory_reservation < MIN_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if host.memory > 0 && host.memory_reservation > host.memory {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if host.nano_cpus != 0 {
        if host.cpu_period > 0 {
            return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
        }
        if host.cpu_quota > 0 {
            return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
        }
        let cpus = facts.cpus;
        if host.nano_cpus < 0 || host.nano_cpus > i64::from(cpus) * 1_000_000_000 {
            return Err(Error::invalid(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )));
        }
    }
    if host.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        )));
    }
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    for (what, list) in [("cpus", &host.cpuset_cpus), ("mems", &host.cpuset_mems)] {
        if !is_cpu_list(list) {
            return Err(Error::invalid(format!(
                "Invalid value {list} for cpuset {what}"
            )));
        }
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    for (asked, controller) in [
        (host.memory > 0 || host.memory_reservation > 0, "memory"),
        (host.pids_limit.is_some_and(|limit| limit > 0), "pids"),
        (
            !host.cpuset_cpus.is_empty() || !host.cpuset_mems.is_empty(),
            "cpuset",
        ),
        (
            host.nano_cpus > 0 || host.cpu_quota > 0 || host.cpu_shares > 0,
            "cpu",
        ),
    ] {
        if asked && !facts.has(controller) {
            return Err(Error::invalid(format!(
                "this host has no \"{controller}\" control group controller, so its limits cannot be kept"
            )));
        }
    }
    Ok(())
}

/// "0-3,8"; empty = all.
fn is_cpu_list(text: &str) -> bool {
    text.is_empty()
        || text.split(',').all(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
                (Ok(first), Ok(last)) => first <= last,
                _ => false,
            }
        })
}

/// Puts what an update names over the configuration, and checks the result.
pub(super) fn merge(
    current: &HostConfig,
    update: &Update,
    facts: &Host,
) -> Result<HostConfig, Error> {
    let mut new = current.clone();
    let number = |value: &mut i64, given: i64| {
        if given != 0 {
            *value = given;
        }
    };
    if update.nano_cpus > 0 && (new.cpu_period > 0 || new.cpu_quota > 0) {
        return Err(Error::invalid(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period/Quota has already been set",
        ));
    }
    if (update.cpu_period > 0 || update.cpu_quota > 0) && new.nano_cpus > 0 {
        return Err(Error::invalid(
            "Conflicting options: CPU Period/Quota cannot be updated as NanoCPUs has already been set",
        ));
    }
    if update.memory > 0
        && update.memory_swap == 0
        && new.memory_swap > 0
        && update.memory > new.memory_swap
    {
        return Err(Error::invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    number(&mut new.cpu_shares, update.cpu_shares);
    number(&mut new.memory, update.memory);
    number(&mut new.memory_swap, update.memory_swap);
    number(&mut new.memory_reservation, update.memory_reservation);
    number(&mut new.nano_cpus, update.nano_cpus);
    number(&mut new.cpu_period, update.cpu_period);
    number(&mut new.cpu_quota, update.cpu_quota);
    number(&mut new.cpu_realtime_period, update.cpu_realtime_period);
    number(&mut new.cpu_realtime_runtime, update.cpu_realtime_runtime);
    if update.blkio_weight != 0 {
        new.blkio_weight = update.blkio_weight;
    }
    for (value, given) in [
        (&mut new.cpuset_cpus, &update.cpuset_cpus),
        (&mut new.cpuset_mems, &update.cpuset_mems),
    ] {
        if !given.is_empty() {
            value.clone_from(given);
        }
    }
    if update.pids_limit.is_some() {
        new.pids_limit = update.pids_limit;
    }
    limits(&new, facts)?;
    if let Some(policy) = &update.restart_policy
        && !policy.name.is_empty()
    {
        restart::validate(policy)?;
        if new.auto_remove && policy.name != "no" {
            return Err(Error::invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        new.restart_policy = policy.clone();
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn facts() -> Host {
        Host {
            kernel_release: String::new(),
            kernel: (6, 1),
            hostname: String::new(),
            last_capability: 40,
            time_namespaces: true,
            cgroup_v2: true,
            controllers: ["cpu", "cpuset", "memory", "pids", "io"]
                .map(str::to_owned)
                .into(),
            cpus: 2,
            memory: 0,
            swap: true,
            os: (String::new(), String::new()),
        }
    }

    #[test]
    fn wrong_configurations_are_refused() {
        type Change = fn(&mut HostConfig);
        let wrong: &[(Change, &str)] = &[
            (|c| c.memory = 1, "6MB"),
            (|c| c.memory_swap = 1 << 30, "always set the Memory limit"),
            (|c| c.nano_cpus = 3_000_000_000, "only 2 CPUs"),
            (|c| c.cpuset_cpus = "a".into(), "cpuset cpus"),
            (|c| c.publish_all_ports = true, "publishing ports"),
            (|c| c.ipc_mode = "container:".into(), "invalid IPC mode"),
            (|c| c.runtime = "kata".into(), "unknown or invalid runtime"),
            (|c| c.pid_mode = "x".into(), "invalid PID mode"),
            (|c| c.oom_score_adj = 2000, "oom score adj"),
            (|c| c.log_config.r#type = "syslog".into(), "syslog"),
        ];
        for (change, words) in wrong {
            let mut host = HostConfig::default();
            change(&mut host);
            let error = check(&Config::default(), &host, &facts()).unwrap_err();
            assert!(error.message.contains(words), "{}", error.message);
        }
        check(&Config::default(), &HostConfig::default(), &facts()).unwrap();
    }

    #[test]
    fn updates_keep_what_they_do_not_name() {
        let current = HostConfig {
            memory: 64 << 20,
            memory_swap: 128 << 20,
            cpu_shares: 5,
            ..HostConfig::default()
        };
        let update = Update {
            memory: 100 << 20,
            ..Update::default()
        };
        let new = merge(&current, &update, &facts()).unwrap();
        assert_eq!(
            (new.memory, new.memory_swap, new.cpu_shares),
            (100 << 20, 128 << 20, 5)
        );
        let update = Update {
            memory: 256 << 20,
            ..Update::default()
        };
        assert!(merge(&current, &update, &facts()).is_err());
    }
}
