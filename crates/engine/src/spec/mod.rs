//! Docker's configuration → the OCI configuration.
//!
//! The defaults are those of Docker 29.7 (`daemon/pkg/oci`), or stricter.

pub(crate) mod devices;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod resources;
pub(crate) mod security;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use berth_api::Error;
use berth_api::container::HostConfig;
use berth_store::Snapshot;
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Root, Spec};

use crate::container::{Container, Record};
use crate::engine::Engine;
use security::SecurityOptions;

pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether the container's first process is the engine's init: asked for, or
/// the daemon's default; not where the first process is another's.
pub(crate) fn has_init(engine: &Engine, config: &HostConfig) -> bool {
    config.init.unwrap_or(engine.0.config.init) && config.pid_mode.is_empty()
}

/// What the launcher gets.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) spec: Spec,
    /// Compiled; `None` = unconfined.
    pub(crate) seccomp: Option<Arc<Vec<u8>>>,
}

pub(crate) fn build(
    engine: &Engine,
    container: &Container,
    record: &Record,
    snapshot: &Snapshot,
) -> Result<Built, Error> {
    let host = &engine.0.host;
    let config = &record.host_config;
    let options = SecurityOptions::parse(config.security_opt.as_deref().unwrap_or_default())?;
    let capabilities = security::capabilities(config, host.last_capability)?;
    let seccomp = engine.0.seccomp.program(
        &options.seccomp,
        config.privileged,
        &capabilities,
        host.kernel,
    )?;

    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(engine, record)?))
        .set_resources(Some(resources::build(config)?))
        .set_cgroups_path(Some(PathBuf::from(
            engine.cgroup_path(&config.cgroup_parent, &record.id),
        )))
        .set_devices(Some(devices::nodes(config)?))
        .set_sysctl(Some(sysctls(&record.host_config)?))
        .set_rootfs_propagation(mounts::propagation(record))
        .set_masked_paths(config.masked_paths.clone())
        .set_readonly_paths(config.readonly_paths.clone())
        .set_seccomp(None);

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(config.readonly_rootfs));

    let mut spec = Spec::default();
    spec.set_root(Some(root))
        .set_process(Some(process::first(
            engine,
            record,
            &options,
            &capabilities,
            snapshot,
        )?))
        .set_mounts(Some(mounts::build(engine, container, record, &options)?))
        .set_annotations(config.annotations.clone().map(HashMap::from_iter))
        .set_linux(Some(linux));
    if config.uts_mode != "host" {
        spec.set_hostname(Some(record.hostname().to_owned()));
        if !record.config.domainname.is_empty() {
            spec.set_domainname(Some(record.config.domainname.clone()));
        }
    } else {
        spec.set_hostname(None);
    }
    Ok(Built { spec, seccomp })
}

/// One of its own.
pub(crate) fn new_namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(None);
    namespace
}

/// New ones, joined ones by path; absent = the host's.
fn namespaces(engine: &Engine, record: &Record) -> Result<Vec<LinuxNamespace>, Error> {
    let config = &record.host_config;
    let new = new_namespace;
    let mut list = vec![new(LinuxNamespaceType::Mount)];
    if config.network_mode != "host" {
        // Its descriptor goes beside the configuration.
        list.push(new(LinuxNamespaceType::Network));
    }
    if config.uts_mode != "host" {
        list.push(new(LinuxNamespaceType::Uts));
    }
    let join = |kind, pid: i64, name: &str| {
        let mut namespace = new(kind);
        namespace.set_path(Some(PathBuf::from(format!("/proc/{pid}/ns/{name}"))));
        namespace
    };
    if let Some(other) = config.ipc_mode.strip_prefix("container:") {
        let pid = engine.pid_to_share_ipc(other)?;
        list.push(join(LinuxNamespaceType::Ipc, pid, "ipc"));
    } else if config.ipc_mode != "host" {
        list.push(new(LinuxNamespaceType::Ipc));
    }
    if let Some(other) = config.pid_mode.strip_prefix("container:") {
        let pid = engine.pid_to_join(other, "PID")?;
        list.push(join(LinuxNamespaceType::Pid, pid, "pid"));
    } else if config.pid_mode != "host" {
        list.push(new(LinuxNamespaceType::Pid));
    }
    if config.cgroupns_mode == "private" {
        list.push(new(LinuxNamespaceType::Cgroup));
    }
    if engine.0.host.time_namespaces {
        list.push(new(LinuxNamespaceType::Time));
    }
    Ok(list)
}

/// The user's, over two defaults that make a private network usable without
/// capabilities: any port, and ping.
pub(crate) fn sysctls(config: &HostConfig) -> Result<HashMap<String, String>, Error> {
    let own_network =
        config.network_mode != "host" && !config.network_mode.starts_with("container:");
    let mut list = HashMap::new();
    if own_network {
        for (key, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv4.ping_group_range", "0 2147483647"),
        ] {
            list.insert(key.to_owned(), value.to_owned());
        }
    }
    for (key, value) in config.sysctls.iter().flatten() {
        check_sysctl(config, key, value)?;
        list.insert(key.clone(), value.clone());
    }
    Ok(list)
}

/// Only what a namespace of the container's own holds may be set, and nothing
/// may hide in a value (CVE-2022-0811).
pub(crate) fn check_sysctl(config: &HostConfig, key: &str, value: &str) -> Result<(), Error> {
    let dotted = key.replace('/', ".");
    let plain = !dotted.is_empty()
        && !dotted.contains("..")
        && dotted
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'));
    if !plain || value.contains(['+', '=', '\n', '\0']) {
        return Err(Error::invalid(format!("invalid sysctl '{key}={value}'")));
    }
    let private_network =
        config.network_mode != "host" && !config.network_mode.starts_with("container:");
    let allowed = if dotted.starts_with("net.") {
        if !private_network {
            return Err(Error::invalid(format!(
                "sysctl '{key}={value}' is not allowed in host network namespace"
            )));
        }
        true
    } else if dotted == "kernel.domainname" {
        config.uts_mode != "host"
    } else {
        config.ipc_mode != "host"
            && !config.ipc_mode.starts_with("container:")
            && (dotted.starts_with("fs.mqueue.")
                || dotted.starts_with("kernel.shm")
                || dotted.starts_with("kernel.msg")
                || dotted == "kernel.sem")
    };
    if allowed {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "sysctl '{key}={value}' is not in a separate kernel namespace"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_stay_in_their_namespaces() {
        let mut config = HostConfig {
            network_mode: "bridge".into(),
            ..HostConfig::default()
        };
        for (key, value, allowed) in [
            ("net.core.somaxconn", "512", true),
            ("kernel.shmmax", "1", true),
            ("kernel.core_pattern", "|/x", false),
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x", false),
            ("net..core", "1", false),
            ("vm.swappiness", "1", false),
        ] {
            assert_eq!(check_sysctl(&config, key, value).is_ok(), allowed, "{key}");
        }
        config.network_mode = "host".into();
        assert!(check_sysctl(&config, "net.core.somaxconn", "1").is_err());
    }

    #[test]
    fn network_defaults_only_where_private() {
        let mut config = HostConfig {
            network_mode: "none".into(),
            ..HostConfig::default()
        };
        assert_eq!(sysctls(&config).unwrap().len(), 2);
        config.network_mode = "host".into();
        assert!(sysctls(&config).unwrap().is_empty());
    }
}
