//! A step → the OCI configuration: a container's, with BuildKit's ways.

use std::path::PathBuf;

use berth_api::Error;
use berth_api::container::HostConfig;
use berth_build::dockerfile::{Network, Security};
use berth_build::graph::Exec;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount, Process, Root, Spec};

use crate::engine::Engine;
use crate::spec::security::{self, SecurityOptions};
use crate::spec::{self, Built, DEFAULT_PATH, devices, mounts, process, resources};

/// The name of the machine, unless the build says another.
pub(super) const HOSTNAME: &str = "buildkitsandbox";

/// The limits of the build, as this step has them.
pub(super) fn host_config(limits: &HostConfig, exec: &Exec) -> HostConfig {
    let mut host = limits.clone();
    host.network_mode = match exec.network {
        Network::Default => "bridge",
        Network::None => "none",
        Network::Host => "host",
    }
    .into();
    host.extra_hosts = Some(exec.extra_hosts.clone());
    if exec.security == Security::Insecure {
        host.privileged = true;
        host.masked_paths = None;
        host.readonly_paths = None;
    }
    host
}

/// `own`: mounts of the step, and the two files of the network.
pub(super) fn build(
    engine: &Engine,
    config: &HostConfig,
    cgroup: &str,
    exec: &Exec,
    env: Vec<String>,
    own: Vec<Mount>,
) -> Result<Built, Error> {
    let host = &engine.0.host;
    let options = SecurityOptions::default();
    let capabilities = security::capabilities(config, host.last_capability)?;
    let seccomp = engine.0.seccomp.program(
        &options.seccomp,
        config.privileged,
        &capabilities,
        host.kernel,
    )?;
    let mut kinds = vec![
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Pid,
    ];
    if config.network_mode != "host" {
        kinds.push(LinuxNamespaceType::Network);
    }
    if config.cgroupns_mode == "private" {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    if host.time_namespaces {
        kinds.push(LinuxNamespaceType::Time);
    }
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(kinds.into_iter().map(spec::new_namespace).collect()))
        .set_resources(Some(resources::build(config)?))
        .set_cgroups_path(Some(PathBuf::from(cgroup)))
        .set_devices(Some(devices::nodes(config)?))
        .set_sysctl(Some(spec::sysctls(config)?))
        .set_masked_paths(config.masked_paths.clone())
        .set_readonly_paths(config.readonly_paths.clone())
        .set_seccomp(None);

    let cwd = if exec.cwd.is_empty() { "/" } else { &exec.cwd };
    let mut first = Process::default();
    first
        .set_terminal(Some(false))
        .set_user(process::user(&exec.user, &[]))
        .set_args(Some(exec.args.clone()))
        .set_env(Some(env))
        .set_cwd(PathBuf::from(cwd))
        .set_capabilities(Some(process::capability_sets(&capabilities)?))
        .set_rlimits(Some(process::rlimits(
            &engine.0.config.default_ulimits,
            config.ulimits.as_deref().unwrap_or_default(),
        )?))
        .set_no_new_privileges(Some(engine.0.config.no_new_privileges));

    let mut list = mounts::defaults(config, &options);
    list.retain(|default| {
        let covered = |mount: &Mount| mount.destination() == default.destination();
        !own.iter().any(covered)
    });
    list.extend(own);
    // Parents first.
    list.sort_by_key(|mount| mount.destination().components().count());

    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(false));
    let hostname = if exec.hostname.is_empty() {
        HOSTNAME
    } else {
        &exec.hostname
    };
    let mut spec = Spec::default();
    spec.set_root(Some(root))
        .set_process(Some(first))
        .set_mounts(Some(list))
        .set_hostname(Some(hostname.to_owned()))
        .set_linux(Some(linux));
    Ok(Built { spec, seccomp })
}

/// What the step sees: the build's variables; and a PATH, the proxies and the
/// time of files, where those say nothing. A later one of a name wins.
pub(super) fn environment(exec: &Exec, time: i64, secrets: &[(String, String)]) -> Vec<String> {
    let mut env: Vec<String> = Vec::with_capacity(exec.env.len() + 4);
    let said = |name: &str| exec.env.iter().any(|(have, _)| have == name);
    if !said("PATH") {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    for (name, value) in exec.env.iter().chain(secrets) {
        process::replace_or_append(&mut env, &format!("{name}={value}"));
    }
    for (name, value) in &exec.proxies {
        if !said(name) {
            process::replace_or_append(&mut env, &format!("{name}={value}"));
        }
    }
    // Compilers and archivers that know it write it instead of the time of day.
    if !said("SOURCE_DATE_EPOCH") {
        env.push(format!("SOURCE_DATE_EPOCH={time}"));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_what_is_added() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut exec = Exec {
            env: vec![pair("A", "1"), pair("B", "2"), pair("A", "3")],
            proxies: vec![pair("B", "proxy"), pair("HTTP_PROXY", "x")],
            ..Exec::default()
        };
        let path = format!("PATH={DEFAULT_PATH}");
        assert_eq!(
            environment(&exec, 7, &[pair("S", "=secret")]),
            [
                &path,
                "A=3",
                "B=2",
                "S==secret",
                "HTTP_PROXY=x",
                "SOURCE_DATE_EPOCH=7"
            ]
        );
        exec.env = vec![pair("PATH", "/bin"), pair("SOURCE_DATE_EPOCH", "")];
        exec.proxies.clear();
        assert_eq!(
            environment(&exec, 7, &[]),
            ["PATH=/bin", "SOURCE_DATE_EPOCH="]
        );
    }
}
