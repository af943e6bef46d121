//! Limits as properties of a unit (systemd.resource-control(5)). What systemd
//! does not know is left out: all limits are written to the group as well. These
//! here keep systemd from putting back its own.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxResources,
};

use super::wire::Value;
use crate::{Error, v2};

/// The kernel's period of a processor quota, microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// Highest number in a list of processors or memory nodes.
const MAX_BIT: usize = 8191;

/// "No limit".
const INFINITY: u64 = u64::MAX;

pub(super) type Property = (String, Value);

fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

/// -1 is no limit, 0 is none given.
fn limit(value: Option<i64>) -> Option<Value> {
    match value {
        None | Some(0) => None,
        Some(value) => Some(Value::U64(u64::try_from(value).unwrap_or(INFINITY))),
    }
}

/// `knows_idle`: systemd 252 and later take a weight of 0.
pub(super) fn of_limits(
    resources: &LinuxResources,
    on_v2: bool,
    knows_idle: bool,
) -> Result<Vec<Property>, Error> {
    let mut list = Vec::new();
    if let Some(rules) = resources.devices() {
        of_devices(&mut list, rules);
    }
    if let Some(memory) = resources.memory() {
        of_memory(&mut list, memory, on_v2)?;
    }
    if let Some(cpu) = resources.cpu() {
        of_cpu(&mut list, cpu, on_v2, knows_idle)?;
    }
    if let Some(pids) = resources.pids() {
        list.extend(limit(Some(pids.limit())).map(|value| property("TasksMax", value)));
    }
    if let Some(block_io) = resources.block_io() {
        of_block_io(&mut list, block_io, on_v2);
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        of_file(&mut list, file, value.trim(), knows_idle)?;
    }
    Ok(list)
}

fn of_memory(list: &mut Vec<Property>, memory: &LinuxMemory, on_v2: bool) -> Result<(), Error> {
    if !on_v2 {
        list.extend(limit(memory.limit()).map(|value| property("MemoryLimit", value)));
        return Ok(());
    }
    list.extend(limit(memory.limit()).map(|value| property("MemoryMax", value)));
    list.extend(limit(memory.reservation()).map(|value| property("MemoryLow", value)));
    if let Some(swap) = v2::swap_limit(memory)? {
        list.push(property("MemorySwapMax", bytes(&swap)?));
    }
    Ok(())
}

fn of_cpu(
    list: &mut Vec<Property>,
    cpu: &LinuxCpu,
    on_v2: bool,
    knows_idle: bool,
) -> Result<(), Error> {
    let idle = on_v2 && knows_idle && cpu.idle() == Some(1);
    if idle {
        list.push(property("CPUWeight", Value::U64(0)));
    } else if let Some(shares) = cpu.shares().filter(|&shares| shares > 0) {
        list.push(if on_v2 {
            property("CPUWeight", Value::U64(v2::weight_of_shares(shares)))
        } else {
            property("CPUShares", Value::U64(shares))
        });
    }
    of_quota(list, cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    of_set(list, "AllowedCPUs", cpu.cpus().as_deref())?;
    of_set(list, "AllowedMemoryNodes", cpu.mems().as_deref())
}

/// Zero is not given.
fn of_quota(list: &mut Vec<Property>, quota: i64, period: u64) {
    if period != 0 {
        list.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota == 0 && period == 0 {
        return;
    }
    let per_second = match u64::try_from(quota) {
        Ok(0) | Err(_) => INFINITY,
        // systemd counts in hundredths of a processor: up to the next, so that the
        // exact value fits below it.
        Ok(quota) => {
            let period = if period == 0 { DEFAULT_PERIOD } else { period };
            let exact = u128::from(quota) * 1_000_000 / u128::from(period);
            u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(INFINITY)
        }
    };
    list.push(property("CPUQuotaPerSecUSec", Value::U64(per_second)));
}

fn of_set(list: &mut Vec<Property>, name: &str, text: Option<&str>) -> Result<(), Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let bits = bits(text).ok_or_else(|| {
        Error::Invalid(format!(
            "{text:?} is no list of processors or memory nodes, as 0-2,5"
        ))
    })?;
    let bits = bits.into_iter().map(Value::Byte).collect();
    list.push(property(name, Value::Array("y".into(), bits)));
    Ok(())
}

/// "0-2,5" as a bit mask, lowest byte first.
fn bits(text: &str) -> Option<Vec<u8>> {
    let mut mask: Vec<u8> = Vec::new();
    for range in text.split(',').map(str::trim).filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last > MAX_BIT {
            return None;
        }
        if mask.len() <= last / 8 {
            mask.resize(last / 8 + 1, 0);
        }
        (first..=last).for_each(|bit| mask[bit / 8] |= 1 << (bit % 8));
    }
    (!mask.is_empty()).then_some(mask)
}

fn of_block_io(list: &mut Vec<Property>, block_io: &LinuxBlockIo, on_v2: bool) {
    if let Some(weight) = block_io.weight().filter(|&weight| weight > 0) {
        list.push(if on_v2 {
            property("IOWeight", Value::U64(v2::io_weight(weight)))
        } else {
            property("BlockIOWeight", Value::U64(weight.into()))
        });
    }
}

/// One file of version 2, as far as systemd has a property for it.
fn of_file(
    list: &mut Vec<Property>,
    file: &str,
    value: &str,
    knows_idle: bool,
) -> Result<(), Error> {
    let invalid = || {
        Error::Invalid(format!(
            "unified resource {file:?} value invalid: {value:?}"
        ))
    };
    if file.contains('/') {
        return Err(Error::Invalid(format!(
            "unified resource {file:?} must be a file name (no slashes)"
        )));
    }
    if file.find('.').is_none_or(|at| at == 0) {
        return Err(Error::Invalid(format!(
            "unified resource {file:?} must be in the form CONTROLLER.PARAMETER"
        )));
    }
    let name = match file {
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.max" => "MemoryMax",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "cpu.idle" => {
            if value == "1" && knows_idle {
                list.push(property("CPUWeight", Value::U64(0)));
            }
            return Ok(());
        }
        "cpuset.cpus" => return of_set(list, "AllowedCPUs", Some(value)),
        "cpuset.mems" => return of_set(list, "AllowedMemoryNodes", Some(value)),
        "cpu.max" => {
            let mut words = value.split_whitespace();
            let quota = match words.next() {
                Some("max") => 0,
                Some(word) => word.parse().map_err(|_| invalid())?,
                None => return Err(invalid()),
            };
            let period = match words.next() {
                Some(word) => word.parse().map_err(|_| invalid())?,
                None => DEFAULT_PERIOD,
            };
            of_quota(list, quota, period);
            return Ok(());
        }
        // Only in the group.
        _ => return Ok(()),
    };
    list.push(property(name, bytes(value).map_err(|_| invalid())?));
    Ok(())
}

fn bytes(text: &str) -> Result<Value, Error> {
    if text == "max" {
        return Ok(Value::U64(INFINITY));
    }
    let number = text
        .parse()
        .map_err(|_| Error::Invalid(format!("{text:?} is no number")))?;
    Ok(Value::U64(number))
}

/// systemd has a list of what is allowed. Rules that it cannot say (all devices
/// but some) are left to the group's own.
fn of_devices(list: &mut Vec<Property>, rules: &[LinuxDeviceCgroup]) {
    let mut all = false;
    let mut allowed: Vec<(String, String)> = Vec::new();
    for rule in rules {
        let Some(path) = device_path(rule) else {
            // Everything: what came before does not matter any more.
            all = rule.allow();
            allowed.clear();
            continue;
        };
        let access = rule.access().clone().unwrap_or_else(|| "rwm".to_owned());
        let known = allowed.iter_mut().find(|(known, _)| *known == path);
        match (known, rule.allow()) {
            (Some((_, known)), true) => {
                let new: String = access.chars().filter(|&c| !known.contains(c)).collect();
                *known += &new;
            }
            (None, true) => allowed.push((path, access)),
            (Some((_, known)), false) => known.retain(|c| !access.contains(c)),
            (None, false) => {}
        }
    }
    let entries = allowed
        .into_iter()
        .filter(|(_, access)| !all && !access.is_empty())
        .map(|(path, access)| Value::Struct(vec![Value::Text(path), Value::Text(access)]));
    let entries = Value::Array("(ss)".into(), entries.collect());
    let policy = if all { "auto" } else { "strict" };
    list.push(property("DevicePolicy", Value::Text(policy.into())));
    // The list is emptied before it is filled.
    let none = Value::Array("(ss)".into(), Vec::new());
    list.push(property("DeviceAllow", none.clone()));
    if entries != none {
        list.push(property("DeviceAllow", entries));
    }
}

/// `None` stands for all devices.
fn device_path(rule: &LinuxDeviceCgroup) -> Option<String> {
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => "block",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "char",
        _ => return None,
    };
    let number = |number: Option<i64>| number.filter(|&number| number >= 0);
    Some(match (number(rule.major()), number(rule.minor())) {
        (None, _) => format!("{kind}-*"),
        (Some(major), None) => format!("{kind}-{major}"),
        (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(limits: &serde_json::Value, on_v2: bool) -> Vec<Property> {
        let resources: LinuxResources = serde_json::from_value(limits.clone()).unwrap();
        of_limits(&resources, on_v2, true).unwrap()
    }

    fn number(name: &str, value: u64) -> Property {
        property(name, Value::U64(value))
    }

    fn mask(name: &str, bytes: &[u8]) -> Property {
        let bytes = bytes.iter().map(|&byte| Value::Byte(byte)).collect();
        property(name, Value::Array("y".into(), bytes))
    }

    #[test]
    fn limits_of_both_versions() {
        let limits = serde_json::json!({
            "memory": { "limit": 1000, "swap": 1500, "reservation": 500 },
            "cpu": { "shares": 1024, "quota": 50_001, "period": 100_000, "cpus": "0,9", "mems": "0" },
            "pids": { "limit": -1 },
            "blockIO": { "weight": 1000 },
        });
        assert_eq!(
            properties(&limits, true),
            [
                number("MemoryMax", 1000),
                number("MemoryLow", 500),
                number("MemorySwapMax", 500),
                number("CPUWeight", 100),
                number("CPUQuotaPeriodUSec", 100_000),
                number("CPUQuotaPerSecUSec", 510_000),
                mask("AllowedCPUs", &[1, 2]),
                mask("AllowedMemoryNodes", &[1]),
                number("TasksMax", INFINITY),
                number("IOWeight", 10_000),
            ]
        );
        assert_eq!(
            properties(&limits, false),
            [
                number("MemoryLimit", 1000),
                number("CPUShares", 1024),
                number("CPUQuotaPeriodUSec", 100_000),
                number("CPUQuotaPerSecUSec", 510_000),
                mask("AllowedCPUs", &[1, 2]),
                mask("AllowedMemoryNodes", &[1]),
                number("TasksMax", INFINITY),
                number("BlockIOWeight", 1000),
            ]
        );
        assert_eq!(properties(&serde_json::json!({}), true), []);
    }

    #[test]
    fn files_that_systemd_knows() {
        let limits = serde_json::json!({ "unified": {
            "memory.high": "max", "memory.oom.group": "1", "cpu.max": "max 5000",
            "pids.max": " 7\n", "hugetlb.2MB.max": "0", "cpuset.cpus": "1-2",
        }});
        assert_eq!(
            properties(&limits, true),
            [
                number("CPUQuotaPeriodUSec", 5000),
                number("CPUQuotaPerSecUSec", INFINITY),
                mask("AllowedCPUs", &[6]),
                number("MemoryHigh", INFINITY),
                number("TasksMax", 7),
            ]
        );
        for (file, value) in [
            ("memory.max", "lots"),
            ("cpu.max", ""),
            ("a/b.c", "1"),
            (".x", "1"),
            ("plain", "1"),
            ("cpuset.cpus", "2-1"),
        ] {
            let limits = serde_json::json!({ "unified": { file: value } });
            let resources: LinuxResources = serde_json::from_value(limits).unwrap();
            assert!(of_limits(&resources, true, true).is_err(), "{file}");
        }
    }

    #[test]
    fn idle_is_a_weight_where_systemd_knows_it() {
        let limits = serde_json::json!({ "cpu": { "idle": 1, "shares": 512 } });
        assert_eq!(properties(&limits, true), [number("CPUWeight", 0)]);
        let resources: LinuxResources = serde_json::from_value(limits).unwrap();
        assert_eq!(
            of_limits(&resources, true, false).unwrap(),
            [number("CPUWeight", 59)]
        );
    }

    #[test]
    fn lists_become_masks() {
        assert_eq!(bits("0-2,5"), Some(vec![0b10_0111]));
        assert_eq!(bits("8"), Some(vec![0, 1]));
        for bad in ["", ",", "x", "3-1", "-1", "8192", "0-99999999999"] {
            assert_eq!(bits(bad), None, "{bad}");
        }
    }

    fn devices(rules: &serde_json::Value) -> (String, String) {
        let found = properties(&serde_json::json!({ "devices": rules }), true);
        let Value::Text(policy) = &found[0].1 else {
            panic!()
        };
        let list = match found.get(2) {
            Some((_, Value::Array(_, entries))) => entries
                .iter()
                .map(|entry| match entry {
                    Value::Struct(pair) => match (&pair[0], &pair[1]) {
                        (Value::Text(path), Value::Text(access)) => format!("{path} {access};"),
                        _ => panic!(),
                    },
                    _ => panic!(),
                })
                .collect(),
            _ => String::new(),
        };
        (policy.clone(), list)
    }

    #[test]
    fn device_rules_become_a_list_of_what_is_allowed() {
        let rules = serde_json::json!([
            { "allow": true, "type": "c", "major": 9, "minor": 9, "access": "rwm" },
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "access": "m" },
            { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "r" },
            { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" },
            { "allow": true, "type": "c", "major": 136, "access": "rwm" },
            { "allow": true, "type": "b", "major": 8, "minor": 0, "access": "r" },
            { "allow": false, "type": "b", "major": 8, "minor": 0, "access": "rw" },
        ]);
        let (policy, list) = devices(&rules);
        assert_eq!(policy, "strict");
        assert_eq!(list, "char-* m;/dev/char/1:3 rw;char-136 rwm;");
        let all = serde_json::json!([
            { "allow": true, "access": "rwm" },
            { "allow": false, "type": "b", "major": 8, "access": "rwm" },
        ]);
        assert_eq!(devices(&all), ("auto".into(), String::new()));
    }
}
