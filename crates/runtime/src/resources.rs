//! The limits of a container's control group, completed.

use oci_spec::runtime::{
    LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources, Spec,
};

use crate::error::{Error, Result};

/// The devices of every container (config-linux.md, "Default Devices"), and
/// the making of device nodes, which by itself opens nothing.
const DEFAULT: [(LinuxDeviceType, Option<i64>, Option<i64>, &str); 10] = [
    (LinuxDeviceType::C, None, None, "m"),
    (LinuxDeviceType::B, None, None, "m"),
    (LinuxDeviceType::C, Some(1), Some(3), "rwm"), // null
    (LinuxDeviceType::C, Some(1), Some(5), "rwm"), // zero
    (LinuxDeviceType::C, Some(1), Some(7), "rwm"), // full
    (LinuxDeviceType::C, Some(1), Some(8), "rwm"), // random
    (LinuxDeviceType::C, Some(1), Some(9), "rwm"), // urandom
    (LinuxDeviceType::C, Some(5), Some(0), "rwm"), // tty
    (LinuxDeviceType::C, Some(5), Some(2), "rwm"), // ptmx
    (LinuxDeviceType::C, Some(136), None, "rwm"),  // pts/*
];

/// `linux.resources` with the default devices allowed after the rules given,
/// as runc does it. Without a first rule for all devices everything else is
/// denied: a container must not reach the host's disks by an omission.
pub fn resources(spec: &Spec) -> Result<LinuxResources> {
    let given = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().clone());
    let mut resources = given.unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    if !rules.first().is_some_and(is_for_all) {
        rules.insert(0, rule(false, LinuxDeviceType::A, None, None, "rwm")?);
    }
    for (kind, major, minor, access) in DEFAULT {
        rules.push(rule(true, kind, major, minor, access)?);
    }
    resources.set_devices(Some(rules));
    Ok(resources)
}

fn is_for_all(rule: &LinuxDeviceCgroup) -> bool {
    rule.typ().is_none_or(|kind| kind == LinuxDeviceType::A)
        && rule.major().is_none_or(|number| number < 0)
        && rule.minor().is_none_or(|number| number < 0)
}

fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> Result<LinuxDeviceCgroup> {
    let mut rule = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .access(access);
    if let Some(major) = major {
        rule = rule.major(major);
    }
    if let Some(minor) = minor {
        rule = rule.minor(minor);
    }
    rule.build()
        .map_err(|error| Error::invalid(format!("a device rule: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(devices: &serde_json::Value) -> Vec<LinuxDeviceCgroup> {
        let spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.1",
            "linux": { "resources": { "devices": devices } },
        }))
        .unwrap();
        resources(&spec).unwrap().devices().clone().unwrap()
    }

    #[test]
    fn default_devices_follow_the_rules_given() {
        let all = serde_json::json!([{ "allow": true, "access": "rwm" }]);
        let rules_of_all = rules(&all);
        assert_eq!(rules_of_all.len(), 1 + DEFAULT.len());
        assert!(rules_of_all[0].allow());
        assert_eq!(rules_of_all[9].minor(), Some(2));
    }

    #[test]
    fn everything_else_is_denied_unless_said() {
        let one = serde_json::json!([
            { "allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw" }
        ]);
        for devices in [serde_json::Value::Null, serde_json::json!([]), one] {
            let rules = rules(&devices);
            assert!(!rules[0].allow() && is_for_all(&rules[0]), "{rules:?}");
        }
    }
}
