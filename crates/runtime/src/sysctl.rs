//! `linux.sysctl`: only what belongs to one of the container's own namespaces.
//!
//! Anything else would change the host (CVE-2022-0811: a crafted value set
//! `kernel.core_pattern`).

use crate::error::{Error, Result};

/// Which new namespaces the container has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Own {
    pub(crate) ipc: bool,
    pub(crate) network: bool,
    pub(crate) uts: bool,
}

/// Kernel parameters of the IPC namespace; besides them, all of `fs.mqueue`.
const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// The file below /proc/sys for `key`, when it may be set to `value`.
pub(crate) fn path(key: &str, value: &str, own: Own) -> Result<String> {
    let path = normalize(key);
    let ordinary = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:@".contains(&byte);
    if path
        .split('/')
        .any(|part| matches!(part, "" | "." | "..") || !part.bytes().all(ordinary))
    {
        return Err(Error::invalid(format!(
            "sysctl {key:?} is not a valid name"
        )));
    }
    if value
        .bytes()
        .any(|byte| matches!(byte, b'+' | b'=') || (byte < b' ' && byte != b'\t'))
    {
        return Err(Error::invalid(format!(
            "sysctl {key:?}: {value:?} is not a valid value"
        )));
    }
    let (allowed, namespace) = if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
        (own.ipc, "IPC")
    } else if path.starts_with("net/") {
        (own.network, "network")
    } else if path == "kernel/domainname" {
        (own.uts, "UTS")
    } else {
        return Err(Error::invalid(format!(
            "sysctl {key:?} is not in a separate kernel namespace"
        )));
    };
    if allowed {
        Ok(format!("sys/{path}"))
    } else {
        Err(Error::invalid(format!(
            "sysctl {key:?} is not allowed in the host's {namespace} namespace"
        )))
    }
}

/// Both spellings of sysctl(8): with dots, a slash inside a name standing for a
/// dot, or the other way round. Whichever comes first separates.
fn normalize(key: &str) -> String {
    match key.find(['.', '/']).map(|at| key.as_bytes()[at]) {
        Some(b'.') => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Own = Own {
        ipc: true,
        network: true,
        uts: true,
    };

    #[test]
    fn namespaced_keys_are_allowed_in_both_spellings() {
        for (key, expected) in [
            ("net.ipv4.ip_forward", "sys/net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "sys/net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/100.forwarding",
                "sys/net/ipv4/conf/eth0.100/forwarding",
            ),
            (
                "net/ipv4/conf/eth0.100/forwarding",
                "sys/net/ipv4/conf/eth0.100/forwarding",
            ),
            ("kernel.shmmax", "sys/kernel/shmmax"),
            ("fs.mqueue.msg_max", "sys/fs/mqueue/msg_max"),
            ("kernel.domainname", "sys/kernel/domainname"),
        ] {
            assert_eq!(path(key, "1", ALL).unwrap(), expected);
        }
        assert!(path("net.ipv4.ping_group_range", "0\t0", ALL).is_ok());
    }

    /// CVE-2022-0811.
    #[test]
    fn the_host_is_out_of_reach() {
        for (key, value) in [
            ("kernel.core_pattern", "|/evil"),
            ("kernel.hostname", "x"),
            ("vm.swappiness", "1"),
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
            ("kernel.shmmax", "1\nkernel.core_pattern"),
            ("net/../kernel/core_pattern", "x"),
            ("net.ipv4./../../kernel/core_pattern", "x"),
            ("net/ipv4//ip_forward", "1"),
            ("net", "1"),
            ("", "1"),
            ("fs.mqueue.", "1"),
        ] {
            assert!(path(key, value, ALL).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn a_shared_namespace_is_not_the_containers_to_change() {
        let none = Own::default();
        for key in ["net.ipv4.ip_forward", "kernel.shmmax", "kernel.domainname"] {
            let error = path(key, "1", none).unwrap_err().to_string();
            assert!(error.contains("not allowed in the host's"), "{error}");
        }
    }
}
