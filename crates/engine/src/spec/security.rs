//! Capabilities, `--security-opt`, masked and read-only paths.

use std::collections::BTreeSet;
use std::path::Path;

use berth_api::Error;
use berth_api::container::HostConfig;

/// All capabilities, by number.
const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has unless told otherwise.
const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Every capability the running kernel knows.
pub(crate) fn all_capabilities(last: u32) -> BTreeSet<&'static str> {
    ALL.iter().take(last as usize + 1).copied().collect()
}

/// Names of the bits in a mask of /proc/PID/status, hexadecimal.
pub(crate) fn names_in_mask(hex: &str) -> Vec<String> {
    let mask = u64::from_str_radix(hex, 16).unwrap_or_default();
    ALL.iter()
        .enumerate()
        .filter(|(bit, _)| mask >> bit & 1 == 1)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

/// Names of the capabilities, after `--cap-add`, `--cap-drop`, `--privileged`.
pub(crate) fn capabilities(
    config: &HostConfig,
    last: u32,
) -> Result<BTreeSet<&'static str>, Error> {
    let all = all_capabilities(last);
    if config.privileged {
        return Ok(all);
    }
    let add = normalise(
        config.cap_add.as_ref().map_or(&[], |list| &list.0),
        "CapAdd",
    )?;
    let drop = normalise(
        config.cap_drop.as_ref().map_or(&[], |list| &list.0),
        "CapDrop",
    )?;
    let mut set: BTreeSet<&'static str> = if add.contains("ALL") {
        all
    } else if drop.contains("ALL") {
        return Ok(add);
    } else {
        DEFAULT.iter().copied().collect()
    };
    if drop.contains("ALL") {
        // Both: what is named is added to nothing.
        set.clear();
    }
    set.retain(|name| !drop.contains(name));
    set.extend(add.into_iter().filter(|name| *name != "ALL"));
    Ok(set)
}

/// "net_admin", "CAP_NET_ADMIN" and "all", checked.
fn normalise(names: &[String], field: &str) -> Result<BTreeSet<&'static str>, Error> {
    names
        .iter()
        .map(|given| {
            let upper = given.to_uppercase();
            if upper == "ALL" {
                return Ok("ALL");
            }
            let full = if upper.starts_with("CAP_") {
                upper
            } else {
                format!("CAP_{upper}")
            };
            ALL.iter()
                .find(|known| **known == full)
                .copied()
                .ok_or_else(|| {
                    Error::invalid(format!("invalid {field}: unknown capability: \"{given}\""))
                })
        })
        .collect()
}

/// Which system call filter was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum SeccompChoice {
    /// The daemon's default; none for a privileged container.
    #[default]
    Default,
    Builtin,
    Unconfined,
    /// A profile's JSON.
    Profile(String),
}

/// `--security-opt`, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SecurityOptions {
    pub(crate) seccomp: SeccompChoice,
    /// `None` = the daemon's default.
    pub(crate) no_new_privileges: Option<bool>,
    pub(crate) system_paths_unconfined: bool,
    pub(crate) writable_cgroups: bool,
}

impl SecurityOptions {
    pub(crate) fn parse(options: &[String]) -> Result<Self, Error> {
        let mut parsed = Self::default();
        for option in options {
            let invalid = || Error::invalid(format!("invalid --security-opt 1: \"{option}\""));
            let boolean = |text: &str| match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
                _ => Err(invalid()),
            };
            match option.as_str() {
                "no-new-privileges" => {
                    parsed.no_new_privileges = Some(true);
                    continue;
                }
                "disable" => continue,
                "writable-cgroups" => {
                    parsed.writable_cgroups = true;
                    continue;
                }
                _ => {}
            }
            let (key, value) = option
                .split_once('=')
                .or_else(|| option.split_once(':'))
                .ok_or_else(invalid)?;
            match (key, value) {
                ("no-new-privileges", value) => {
                    parsed.no_new_privileges = Some(boolean(value)?);
                }
                ("writable-cgroups", value) => parsed.writable_cgroups = boolean(value)?,
                ("systempaths", "unconfined") => parsed.system_paths_unconfined = true,
                ("seccomp", "unconfined") => parsed.seccomp = SeccompChoice::Unconfined,
                ("seccomp", "builtin") => parsed.seccomp = SeccompChoice::Builtin,
                ("seccomp", json) => parsed.seccomp = SeccompChoice::Profile(json.to_owned()),
                ("label", "disable") | ("apparmor", "unconfined") => {}
                ("label", _) => {
                    return Err(Error::not_implemented(format!(
                        "SELinux labels are not supported: --security-opt {option}"
                    )));
                }
                ("apparmor", _) => {
                    return Err(Error::not_implemented(format!(
                        "AppArmor profiles are not supported: --security-opt {option}"
                    )));
                }
                _ => return Err(invalid()),
            }
        }
        Ok(parsed)
    }
}

/// Masked paths of a container that says nothing about them.
pub(crate) fn default_masked() -> Vec<String> {
    let mut paths: Vec<String> = MASKED.iter().map(|path| (*path).to_owned()).collect();
    // GHSA-6fw5-f8r9-fgfm, GHSA-jq35-85cj-fj4p: power use tells secrets.
    for number in 0.. {
        let cpu = format!("/sys/devices/system/cpu/cpu{number}");
        if !Path::new(&cpu).exists() {
            break;
        }
        let path = format!("{cpu}/thermal_throttle");
        if Path::new(&path).exists() {
            paths.push(path);
        }
    }
    paths
}

pub(crate) fn default_read_only() -> Vec<String> {
    READ_ONLY.iter().map(|path| (*path).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(add: &[&str], drop: &[&str]) -> Result<BTreeSet<&'static str>, Error> {
        let list = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Some(names.into())
        };
        capabilities(
            &HostConfig {
                cap_add: list(add),
                cap_drop: list(drop),
                ..HostConfig::default()
            },
            40,
        )
    }

    #[test]
    fn capability_sets() {
        assert_eq!(ALL.len(), 41);
        assert_eq!(with(&[], &[]).unwrap().len(), 14);
        assert!(with(&["net_admin"], &[]).unwrap().contains("CAP_NET_ADMIN"));
        assert_eq!(with(&["all"], &["CAP_SYS_ADMIN"]).unwrap().len(), 40);
        assert_eq!(
            with(&["CHOWN"], &["ALL"]).unwrap(),
            BTreeSet::from(["CAP_CHOWN"])
        );
        assert!(!with(&[], &["MKNOD"]).unwrap().contains("CAP_MKNOD"));
        assert_eq!(
            with(&["CAP_FOO"], &[]).unwrap_err().message,
            "invalid CapAdd: unknown capability: \"CAP_FOO\""
        );
        let privileged = HostConfig {
            privileged: true,
            ..HostConfig::default()
        };
        assert_eq!(capabilities(&privileged, 38).unwrap().len(), 39);
    }

    #[test]
    fn options() {
        let parse = |text: &str| SecurityOptions::parse(&[text.to_owned()]);
        assert_eq!(
            parse("seccomp=unconfined").unwrap().seccomp,
            SeccompChoice::Unconfined
        );
        assert_eq!(
            parse("seccomp={\"a\":1}").unwrap().seccomp,
            SeccompChoice::Profile("{\"a\":1}".into())
        );
        assert_eq!(
            parse("no-new-privileges:false").unwrap().no_new_privileges,
            Some(false)
        );
        assert!(
            parse("systempaths=unconfined")
                .unwrap()
                .system_paths_unconfined
        );
        for bad in [
            "x",
            "systempaths=all",
            "no-new-privileges=perhaps",
            "apparmor=mine",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
