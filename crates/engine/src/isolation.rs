//! What holds a container: read back from the kernel, so that it is what is and
//! not what was asked for.

use std::path::Path;

use berth_api::Error;
use berth_api::container::HostConfig;
use berth_api::isolation::{Filesystem, Isolation, Layer, Limit, Namespace, User};
use berth_store::{LayerLocation, Snapshot};

use crate::container::Record;
use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking, io};
use crate::spec::security;

const NAMESPACES: &[&str] = &["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

impl Engine {
    /// Of a running container.
    pub async fn container_isolation(&self, name: &str) -> Result<Isolation, Error> {
        let container = self.find(name)?;
        let (_, pid) = container.running()?;
        let record = container.record().clone();
        let engine = self.clone();
        blocking(move || engine.isolation(&record, pid)).await
    }

    fn isolation(&self, record: &Record, pid: i64) -> Result<Isolation, Error> {
        let process = Path::new("/proc").join(pid.to_string());
        let status = read(&process.join("status"))?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map_or("", str::trim)
        };
        let first = |name: &str| {
            field(name)
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or_default()
        };
        let config = &record.host_config;
        let snapshot = self.0.store.snapshot(&record.id).api()?;
        Ok(Isolation {
            namespaces: namespaces(&process)?,
            user: User {
                uid: first("Uid"),
                gid: first("Gid"),
                uid_map: read(&process.join("uid_map"))?
                    .lines()
                    .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                    .collect(),
            },
            capabilities: security::names_in_mask(field("CapEff")),
            bounding_capabilities: security::names_in_mask(field("CapBnd")),
            seccomp: match field("Seccomp") {
                "2" => "filter",
                "1" => "strict",
                _ => "none",
            }
            .into(),
            no_new_privileges: field("NoNewPrivs") == "1",
            masked_paths: config.masked_paths.clone().unwrap_or_default(),
            readonly_paths: config.readonly_paths.clone().unwrap_or_default(),
            limits: self.limits(record)?,
            filesystem: Filesystem {
                readonly_root: config.readonly_rootfs,
                layers: layers(
                    &snapshot,
                    &self.0.store.snapshot_layer_sizes(&record.id).api()?,
                ),
                writable: snapshot.upper.display().to_string(),
                writable_size: self.0.store.snapshot_size(&record.id).api()?,
            },
            loosened: loosened(config),
        })
    }

    fn limits(&self, record: &Record) -> Result<Vec<Limit>, Error> {
        let used = self.cgroup(record).stats().api()?;
        let config = &record.host_config;
        let mut limits = vec![
            Limit {
                name: "memory".into(),
                used: Some(used.memory.usage),
                limit: (used.memory.limit != u64::MAX).then_some(used.memory.limit),
                unit: "bytes".into(),
            },
            Limit {
                name: "processes".into(),
                used: Some(used.pids.current),
                limit: used.pids.limit,
                unit: "processes".into(),
            },
        ];
        let thousandths = if config.nano_cpus > 0 {
            Some(config.nano_cpus / 1_000_000)
        } else if config.cpu_quota > 0 {
            let period = if config.cpu_period > 0 {
                config.cpu_period
            } else {
                100_000
            };
            Some(config.cpu_quota.saturating_mul(1000) / period)
        } else {
            None
        };
        limits.push(Limit {
            name: "cpu".into(),
            used: None,
            limit: thousandths.and_then(|value| u64::try_from(value).ok()),
            unit: "thousandths of a CPU".into(),
        });
        Ok(limits)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| io("read", path, &error))
}

/// The daemon is in the host's namespaces, so its own stand for them.
fn namespaces(process: &Path) -> Result<Vec<Namespace>, Error> {
    let inode = |dir: &Path, kind: &str| {
        let path = dir.join("ns").join(kind);
        let text = std::fs::read_link(&path).map_err(|error| io("read", &path, &error))?;
        let digits: String = text
            .to_string_lossy()
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        Ok::<u64, Error>(digits.parse().unwrap_or_default())
    };
    NAMESPACES
        .iter()
        // A kernel without time namespaces has no such file.
        .filter(|kind| process.join("ns").join(kind).symlink_metadata().is_ok())
        .map(|kind| {
            let own = inode(process, kind)?;
            Ok(Namespace {
                kind: (*kind).into(),
                inode: own,
                shared_with_host: own == inode(Path::new("/proc/self"), kind)?,
            })
        })
        .collect()
}

fn layers(snapshot: &Snapshot, sizes: &[u64]) -> Vec<Layer> {
    let describe = |(location, &size): (&LayerLocation, &u64)| {
        let (form, path) = match location {
            LayerLocation::Directory(path) => ("directory", path),
            LayerLocation::Erofs(path) => ("erofs", path),
        };
        Layer {
            form: form.into(),
            path: path.display().to_string(),
            size,
        }
    };
    snapshot.layers.iter().zip(sizes).map(describe).collect()
}

/// What makes it weaker than a container that was asked for nothing.
fn loosened(config: &HostConfig) -> Vec<String> {
    let mut found = Vec::new();
    let mut say = |condition: bool, sentence: &str| {
        if condition {
            found.push(sentence.to_owned());
        }
    };
    say(
        config.privileged,
        "privileged: all capabilities, all devices, no seccomp, nothing masked",
    );
    say(config.network_mode == "host", "shares the host's network");
    say(
        config.pid_mode == "host",
        "sees and can signal the host's processes",
    );
    say(
        config.ipc_mode == "host",
        "shares the host's System V IPC and POSIX queues",
    );
    say(config.uts_mode == "host", "shares the host's name");
    say(
        config.pids_limit.is_none_or(|limit| limit <= 0),
        "no limit on processes",
    );
    say(config.memory <= 0, "no limit on memory");
    for name in config.cap_add.iter().flat_map(|list| list.iter()) {
        found.push(format!("capability added: {name}"));
    }
    for option in config.security_opt.iter().flatten() {
        // A profile arrives as its whole text.
        if let Some(profile) = option
            .strip_prefix("seccomp=")
            .filter(|text| text.len() > 20)
        {
            found.push(format!(
                "a seccomp profile of its own, {} bytes",
                profile.len()
            ));
        } else if !option.starts_with("no-new-privileges") {
            found.push(format!("security option: {option}"));
        }
    }
    for device in config.devices.iter().flatten() {
        found.push(format!("device: {}", device.path_on_host));
    }
    for bind in config.binds.iter().flatten() {
        if bind.starts_with('/') {
            found.push(format!("directory of the host: {bind}"));
        }
    }
    for mount in config
        .mounts
        .iter()
        .flatten()
        .filter(|mount| mount.r#type == "bind")
    {
        found.push(format!("directory of the host: {}", mount.source));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loosened_is_said() {
        let limited = HostConfig {
            memory: 1,
            pids_limit: Some(1),
            ..HostConfig::default()
        };
        assert!(loosened(&limited).is_empty());
        let open = HostConfig {
            privileged: true,
            network_mode: "host".into(),
            cap_add: Some(vec!["SYS_ADMIN".to_owned()].into()),
            binds: Some(vec!["/:/host".into(), "volume:/data".into()]),
            security_opt: Some(vec![
                "seccomp=unconfined".into(),
                "no-new-privileges".into(),
            ]),
            ..limited
        };
        let said = loosened(&open);
        assert_eq!(said.len(), 5, "{said:?}");
    }
}
