//! Device nodes and the rules of the devices control group.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use berth_api::Error;
use berth_api::container::{DeviceMapping, HostConfig};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

/// Directories below /dev that are the container's own.
const OWN: &[&str] = &[
    "pts",
    "shm",
    "fd",
    "mqueue",
    ".lxc",
    ".lxd-mounts",
    ".udev",
    "console",
];

/// What may be used without being asked for: making nodes, the standard ones,
/// terminals.
const ALLOWED: &[(LinuxDeviceType, Option<i64>, Option<i64>, &str)] = &[
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"),
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(1), "rwm"),
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"),
    (LinuxDeviceType::C, Some(136), None, "rwm"),
];

/// The nodes to be made beside the standard ones.
pub(crate) fn nodes(config: &HostConfig) -> Result<Vec<LinuxDevice>, Error> {
    let mut list = Vec::new();
    if config.privileged {
        for (host, inside) in walk(Path::new("/dev"), Path::new("/dev"), 0) {
            list.extend(node(&host, &inside));
        }
    }
    for mapping in config.devices.iter().flatten() {
        for (host, inside) in mapped(mapping)? {
            let device = node(&host, &inside).ok_or_else(|| {
                Error::invalid(format!("{} is not a device node", host.display()))
            })?;
            list.retain(|have: &LinuxDevice| *have.path() != inside);
            list.push(device);
        }
    }
    Ok(list)
}

/// In the order in which they apply.
pub(crate) fn rules(config: &HostConfig) -> Result<Vec<LinuxDeviceCgroup>, Error> {
    let rule = |allow, kind, major, minor, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow)
            .set_typ(kind)
            .set_major(major)
            .set_minor(minor)
            .set_access(Some(access.to_owned()));
        rule
    };
    if config.privileged {
        return Ok(vec![rule(
            true,
            Some(LinuxDeviceType::A),
            None,
            None,
            "rwm",
        )]);
    }
    let mut list = vec![rule(false, Some(LinuxDeviceType::A), None, None, "rwm")];
    list.extend(
        ALLOWED
            .iter()
            .map(|(kind, major, minor, access)| rule(true, Some(*kind), *major, *minor, access)),
    );
    // FUSE, as Docker denies it explicitly.
    list.push(rule(
        false,
        Some(LinuxDeviceType::C),
        Some(10),
        Some(229),
        "rwm",
    ));
    for mapping in config.devices.iter().flatten() {
        for (host, inside) in mapped(mapping)? {
            if let Some(device) = node(&host, &inside) {
                list.push(rule(
                    true,
                    Some(device.typ()),
                    Some(device.major()),
                    Some(device.minor()),
                    &mapping.cgroup_permissions,
                ));
            }
        }
    }
    for text in config.device_cgroup_rules.iter().flatten() {
        let (kind, major, minor, access) = parse_rule(text)?;
        list.push(rule(true, Some(kind), major, minor, &access));
    }
    Ok(list)
}

/// "c 1:3 rwm"; `*` stands for any number.
pub(crate) fn parse_rule(
    text: &str,
) -> Result<(LinuxDeviceType, Option<i64>, Option<i64>, String), Error> {
    let parse = || {
        let mut words = text.split(' ');
        let kind = match words.next()? {
            "a" => LinuxDeviceType::A,
            "b" => LinuxDeviceType::B,
            "c" => LinuxDeviceType::C,
            _ => return None,
        };
        let (major, minor) = words.next()?.split_once(':')?;
        let number = |text: &str| match text {
            "*" => Some(None),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().map(Some),
            _ => None,
        };
        let access = words.next()?;
        let valid = (1..=3).contains(&access.len()) && access.bytes().all(|b| b"rwm".contains(&b));
        (valid && words.next().is_none()).then_some((
            kind,
            number(major)?,
            number(minor)?,
            access.to_owned(),
        ))
    };
    parse().ok_or_else(|| Error::invalid(format!("invalid device cgroup rule format: '{text}'")))
}

/// Checks what `--device` names; the words are Docker's.
pub(crate) fn check(config: &HostConfig) -> Result<(), Error> {
    for mapping in config.devices.iter().flatten() {
        let access = &mapping.cgroup_permissions;
        if access.is_empty() || access.len() > 3 || !access.bytes().all(|b| b"rwm".contains(&b)) {
            return Err(Error::invalid(format!("invalid device mode: {access}")));
        }
    }
    for rule in config.device_cgroup_rules.iter().flatten() {
        parse_rule(rule)?;
    }
    Ok(())
}

/// One node, or all nodes of a directory.
fn mapped(mapping: &DeviceMapping) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    let host = Path::new(&mapping.path_on_host);
    let inside = Path::new(if mapping.path_in_container.is_empty() {
        &mapping.path_on_host
    } else {
        &mapping.path_in_container
    });
    let kind = fs::metadata(host).map_err(|error| {
        Error::invalid(format!(
            "error gathering device information while adding custom device \"{}\": {}",
            host.display(),
            match error.kind() {
                std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                _ => error.to_string(),
            }
        ))
    })?;
    if kind.is_dir() {
        return Ok(walk(host, inside, 0));
    }
    if !kind.file_type().is_char_device() && !kind.file_type().is_block_device() {
        return Err(Error::invalid(format!(
            "error gathering device information while adding custom device \"{}\": not a device node",
            host.display()
        )));
    }
    Ok(vec![(host.to_owned(), inside.to_owned())])
}

/// Device nodes below a directory, links not followed.
fn walk(host: &Path, inside: &Path, depth: usize) -> Vec<(PathBuf, PathBuf)> {
    let mut list = Vec::new();
    if depth > 8 {
        return list;
    }
    for entry in fs::read_dir(host).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) {
            continue;
        }
        let (host, inside) = (entry.path(), inside.join(&name));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list.extend(walk(&host, &inside, depth + 1)),
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                list.push((host, inside));
            }
            _ => {}
        }
    }
    list
}

fn node(host: &Path, inside: &Path) -> Option<LinuxDevice> {
    let metadata = fs::metadata(host).ok()?;
    let kind = if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else {
        return None;
    };
    let (major, minor) = numbers(metadata.rdev());
    let mut device = LinuxDevice::default();
    device
        .set_path(inside.to_owned())
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    Some(device)
}

/// Major and minor number of a block device by path, for I/O limits.
pub(crate) fn block_numbers(path: &str) -> Result<(i64, i64), Error> {
    let metadata =
        fs::metadata(path).map_err(|error| Error::invalid(format!("stat {path}: {error}")))?;
    if metadata.file_type().is_block_device() {
        Ok(numbers(metadata.rdev()))
    } else {
        Err(Error::invalid(format!("{path} is not a block device")))
    }
}

fn numbers(device: u64) -> (i64, i64) {
    (
        i64::from(rustix::fs::major(device)),
        i64::from(rustix::fs::minor(device)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_parsed_strictly() {
        assert_eq!(
            parse_rule("c 1:* rw").unwrap(),
            (LinuxDeviceType::C, Some(1), None, "rw".into())
        );
        for bad in [
            "",
            "c",
            "x 1:3 r",
            "c 1 r",
            "c 1:3",
            "c 1:3 x",
            "c 1:3 rwmr",
            "c 1:3 r w",
            "c -1:3 r",
        ] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn deny_comes_first_and_devices_are_allowed() {
        let mut config = HostConfig {
            devices: Some(vec![DeviceMapping {
                path_on_host: "/dev/full".into(),
                path_in_container: "/dev/mine".into(),
                cgroup_permissions: "r".into(),
            }]),
            ..HostConfig::default()
        };
        let list = rules(&config).unwrap();
        assert!(!list[0].allow() && list[0].typ() == Some(LinuxDeviceType::A));
        let last = list.last().unwrap();
        assert_eq!((last.major(), last.minor()), (Some(1), Some(7)));
        assert_eq!(nodes(&config).unwrap()[0].path(), Path::new("/dev/mine"));
        config.devices.as_mut().unwrap()[0].path_on_host = "/nowhere".into();
        assert!(nodes(&config).unwrap_err().message.contains("no such file"));
    }
}
