//! The host, `info` and `version`.

use std::collections::BTreeMap;
use std::path::Path;

use berth_api::Error;
use berth_api::system::{
    Commit, Component, FirewallBackend, Info, PlatformName, Plugins, Runtime, Swarm, Version,
};
use berth_api::version::{ApiVersion, DOCKER_VERSION};
use berth_cgroup::Layout;

use serde_json::json;

use crate::config::RegistryOptions;
use crate::engine::Engine;
use crate::time;

/// What does not change while the engine runs, read once.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// "6.12.0-1-amd64" and its first two numbers.
    pub(crate) kernel_release: String,
    pub(crate) kernel: (u32, u32),
    pub(crate) hostname: String,
    pub(crate) last_capability: u32,
    pub(crate) time_namespaces: bool,
    pub(crate) cgroup_v2: bool,
    pub(crate) controllers: Vec<String>,
    pub(crate) cpus: u32,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) swap: bool,
    pub(crate) os: (String, String),
}

impl Host {
    pub(crate) fn read(cgroups: &berth_cgroup::Host) -> Self {
        let uname = rustix::system::uname();
        let kernel_release = uname.release().to_string_lossy().into_owned();
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let controllers = cgroups.controllers();
        Self {
            kernel: numbers(&kernel_release),
            kernel_release,
            hostname: uname.nodename().to_string_lossy().into_owned(),
            last_capability: read("/proc/sys/kernel/cap_last_cap")
                .trim()
                .parse()
                .unwrap_or(40),
            time_namespaces: Path::new("/proc/self/ns/time").exists(),
            cgroup_v2: cgroups.layout() == Layout::V2,
            cpus: online_cpus(&read("/sys/devices/system/cpu/online")),
            memory: meminfo(&read("/proc/meminfo"), "MemTotal"),
            // Absent on v1 without swap accounting.
            swap: Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
                || cgroups.layout() == Layout::V2,
            os: os_release(&read("/etc/os-release")),
            controllers,
        }
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

fn numbers(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    (next(), next())
}

/// "0-3,8" → 5.
pub(crate) fn online_cpus(list: &str) -> u32 {
    let count = list
        .trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            last.checked_sub(first)?.checked_add(1)
        })
        .sum();
    std::cmp::max(count, 1)
}

fn meminfo(text: &str, field: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// PRETTY_NAME and VERSION_ID.
fn os_release(text: &str) -> (String, String) {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map_or_else(String::new, |value| value.trim_matches('"').to_owned())
    };
    (field("PRETTY_NAME"), field("VERSION_ID"))
}

/// The kernel's name of the machine; Go's name of the same.
fn architecture() -> (String, &'static str) {
    let machine = rustix::system::uname()
        .machine()
        .to_string_lossy()
        .into_owned();
    let go = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    (machine, go)
}

impl Engine {
    pub async fn info(&self) -> Result<Info, Error> {
        let inner = &self.0;
        let (config, host) = (&inner.config, &inner.host);
        let mut info = Info {
            id: inner.id.clone(),
            driver: "overlayfs".into(),
            driver_status: vec![["driver-type".into(), "io.berth.layers.v1".into()]],
            docker_root_dir: config.data_root.display().to_string(),
            plugins: Plugins {
                volume: vec!["local".into()],
                network: ["bridge", "host", "null"].map(str::to_owned).into(),
                authorization: None,
                log: ["json-file", "local", "none"].map(str::to_owned).into(),
            },
            memory_limit: host.has("memory"),
            swap_limit: host.has("memory") && host.swap,
            cpu_cfs_period: host.has("cpu"),
            cpu_cfs_quota: host.has("cpu"),
            cpu_shares: host.has("cpu"),
            cpu_set: host.has("cpuset"),
            pids_limit: host.has("pids"),
            oom_kill_disable: !host.cgroup_v2,
            ipv4_forwarding: std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .is_ok_and(|text| text.trim() == "1"),
            debug: config.debug,
            n_fd: std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as i64),
            n_goroutines: std::fs::read_dir("/proc/self/task").map_or(0, |dir| dir.count() as i64),
            system_time: time::now(),
            logging_driver: config.log_driver.clone(),
            cgroup_driver: "cgroupfs".into(),
            cgroup_version: if host.cgroup_v2 { "2" } else { "1" }.into(),
            n_events_listener: inner.events.listeners() as i64,
            kernel_version: host.kernel_release.clone(),
            operating_system: host.os.0.clone(),
            os_version: host.os.1.clone(),
            os_type: "linux".into(),
            architecture: architecture().0,
            index_server_address: "https://index.docker.io/v1/".into(),
            registry_config: Some(registry_config(&config.registries)),
            n_cpu: i64::from(host.cpus),
            mem_total: i64::try_from(host.memory).unwrap_or(i64::MAX),
            name: host.hostname.clone(),
            labels: config.labels.clone(),
            experimental_build: config.experimental,
            server_version: DOCKER_VERSION.into(),
            default_runtime: "runc".into(),
            swarm: Swarm {
                local_node_state: "inactive".into(),
                ..Swarm::default()
            },
            // Always: the monitors outlive the engine.
            live_restore_enabled: true,
            init_binary: "docker-init".into(),
            containerd_commit: Commit::default(),
            runc_commit: Commit {
                id: env!("CARGO_PKG_VERSION").into(),
            },
            firewall_backend: Some(FirewallBackend {
                driver: "nftables".into(),
                info: None,
            }),
            ..Info::default()
        };
        let runtime = Runtime {
            path: config.runtime.display().to_string(),
        };
        // Stock clients ask for "runc"; both names mean ours.
        for name in ["berth-runtime", "runc", "io.containerd.runc.v2"] {
            info.runtimes.insert(name.into(), runtime.clone());
        }
        for container in self.index().all() {
            info.containers += 1;
            match container.record().state.status() {
                "running" | "restarting" => info.containers_running += 1,
                "paused" => info.containers_paused += 1,
                _ => info.containers_stopped += 1,
            }
        }
        info.images = inner.store.images().len() as i64;
        info.security_options = vec![format!("name=seccomp,profile={}", inner.seccomp.name())];
        if Path::new("/proc/self/ns/cgroup").exists() {
            info.security_options.push("name=cgroupns".into());
        }
        let mut warnings = Vec::new();
        for (there, text) in [
            (info.memory_limit, "WARNING: No memory limit support"),
            (info.swap_limit, "WARNING: No swap limit support"),
            (info.cpu_shares, "WARNING: No cpu shares support"),
            (info.cpu_set, "WARNING: No cpuset support"),
            (
                info.ipv4_forwarding || config.bridge.disabled,
                "WARNING: IPv4 forwarding is disabled",
            ),
        ] {
            if !there {
                warnings.push(text.to_owned());
            }
        }
        info.warnings = Some(warnings).filter(|list| !list.is_empty());
        Ok(info)
    }

    pub fn version(&self) -> Version {
        let own = env!("CARGO_PKG_VERSION");
        let (_, arch) = architecture();
        let component = |name: &str, version: &str, details: &[(&str, String)]| Component {
            name: name.into(),
            version: version.into(),
            details: Some(
                details
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), value.clone()))
                    .collect::<BTreeMap<_, _>>(),
            ),
        };
        let kernel = self.0.host.kernel_release.clone();
        Version {
            platform: PlatformName {
                name: format!("berth {own}"),
            },
            version: DOCKER_VERSION.into(),
            api_version: ApiVersion::MAX.to_string(),
            min_api_version: ApiVersion::MIN.to_string(),
            os: "linux".into(),
            arch: arch.into(),
            components: vec![
                component(
                    "Engine",
                    DOCKER_VERSION,
                    &[
                        ("ApiVersion", ApiVersion::MAX.to_string()),
                        ("Arch", arch.into()),
                        ("BuildTime", String::new()),
                        ("Experimental", self.0.config.experimental.to_string()),
                        ("GitCommit", String::new()),
                        ("GoVersion", String::new()),
                        ("KernelVersion", kernel.clone()),
                        ("MinAPIVersion", ApiVersion::MIN.to_string()),
                        ("Os", "linux".into()),
                    ],
                ),
                component("berth", own, &[]),
                component("berth-runtime", own, &[]),
            ],
            kernel_version: kernel,
            experimental: self.0.config.experimental,
            ..Version::default()
        }
    }
}

/// As the API shows it; sorted, so that equal settings look equal.
fn registry_config(options: &RegistryOptions) -> serde_json::Value {
    let index = |name: &str, mirrors: &[String], official: bool| json!({"Name": name, "Mirrors": mirrors, "Secure": official, "Official": official});
    let mut networks = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
    let mut indexes = serde_json::Map::new();
    for name in &options.insecure {
        if name.contains('/') {
            networks.push(name.clone());
        } else {
            indexes.insert(name.clone(), index(name, &[], false));
        }
    }
    indexes.insert(
        "docker.io".to_owned(),
        index("docker.io", &options.mirrors, true),
    );
    networks.sort_unstable();
    networks.dedup();
    json!({
        "InsecureRegistryCIDRs": networks,
        "IndexConfigs": indexes,
        "Mirrors": options.mirrors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_shown() {
        let shown = registry_config(&RegistryOptions {
            mirrors: vec!["http://m/".into()],
            insecure: vec!["10.0.0.0/8".into(), "r:5000".into()],
            ..RegistryOptions::default()
        });
        assert_eq!(
            shown["InsecureRegistryCIDRs"],
            json!(["10.0.0.0/8", "127.0.0.0/8", "::1/128"])
        );
        assert_eq!(shown["IndexConfigs"]["r:5000"]["Secure"], false);
        assert_eq!(
            shown["IndexConfigs"]["docker.io"]["Mirrors"],
            json!(["http://m/"])
        );
    }

    #[test]
    fn host_files() {
        assert_eq!(numbers("6.12.41+deb13-amd64"), (6, 12));
        assert_eq!(numbers("x"), (0, 0));
        assert_eq!(online_cpus("0-3,8\n"), 5);
        assert_eq!(online_cpus(""), 1);
        assert_eq!(meminfo("MemTotal:   2 kB\n", "MemTotal"), 2048);
        assert_eq!(
            os_release("PRETTY_NAME=\"Debian 13\"\nVERSION_ID=\"13\"\n"),
            ("Debian 13".into(), "13".into())
        );
    }
}
