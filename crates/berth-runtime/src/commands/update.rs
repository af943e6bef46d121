//! `update`: other limits for a container that is there.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use berth_runtime_core::Rdt;
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::detect_host;
use crate::args::{Args, Opt, Order, only};
use crate::error::{Context, Error, Result};
use crate::state::{State, StateDir, Status};

/// Longest document that is read.
const MAX_INPUT: u64 = 1 << 20;

/// Each option with its place in `linux.resources`.
const LIMITS: [(&str, &str, &str, Kind); 13] = [
    ("blkio-weight", "blockIO", "weight", Kind::Number),
    ("cpu-period", "cpu", "period", Kind::Number),
    ("cpu-quota", "cpu", "quota", Kind::Number),
    ("cpu-burst", "cpu", "burst", Kind::Number),
    ("cpu-share", "cpu", "shares", Kind::Number),
    ("cpu-rt-period", "cpu", "realtimePeriod", Kind::Number),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", Kind::Number),
    ("cpu-idle", "cpu", "idle", Kind::Number),
    ("cpuset-cpus", "cpu", "cpus", Kind::Text),
    ("cpuset-mems", "cpu", "mems", Kind::Text),
    ("memory", "memory", "limit", Kind::Size),
    ("memory-reservation", "memory", "reservation", Kind::Size),
    ("memory-swap", "memory", "swap", Kind::Size),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    /// Bytes, with a unit perhaps; -1 = unlimited.
    Size,
}

pub(crate) const OPTIONS: &[Opt] = &[
    Opt::value("resources").short('r'),
    Opt::value("blkio-weight"),
    Opt::value("cpu-period"),
    Opt::value("cpu-quota"),
    Opt::value("cpu-burst"),
    Opt::value("cpu-share"),
    Opt::value("cpu-rt-period"),
    Opt::value("cpu-rt-runtime"),
    Opt::value("cpu-idle"),
    Opt::value("cpuset-cpus"),
    Opt::value("cpuset-mems"),
    Opt::value("memory"),
    Opt::value("memory-reservation"),
    Opt::value("memory-swap"),
    Opt::value("pids-limit"),
    Opt::value("l3-cache-schema"),
    Opt::value("mem-bw-schema"),
];

pub(crate) fn update(root: &Path, mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(&mut arguments, OPTIONS, Order::Anywhere)?;
    let id = only(arguments, "container id")?;
    let dir = StateDir::open(root, &id)?;
    let _lock = dir.lock()?.ok_or_else(StateDir::missing)?;
    let mut state = dir.load()?;
    let host = detect_host()?;
    if matches!(
        state.status(&dir, &host),
        Status::Creating | Status::Stopped
    ) {
        return Err(Error::new(format!("container {id} is not running")));
    }
    let mut wanted = match args.value("resources") {
        Some(path) => read(path)?,
        None => from_options(&args)?,
    };
    // Never its devices, as runc: Podman 5 sends a rule that denies them all.
    if let Some(fields) = wanted.as_object_mut() {
        fields.remove("devices");
    }
    let resources: LinuxResources = serde_json::from_value(wanted.clone())
        .map_err(|error| Error::new(format!("the limits are not valid: {error}")))?;
    let group = state.needed_group(&host)?;
    let rdt = update_rdt(&args, &dir, &mut state)?;
    group
        .apply(&resources)
        .context(|| format!("update the limits of {id}"))?;
    if let Some(rdt) = &rdt {
        rdt.update()?;
        let processes = group.processes();
        rdt.assign(&processes.context(|| format!("list the processes of {id}"))?)?;
    }
    // What is known of the container says what holds.
    dir.change_config(|config| {
        merge(&mut config["linux"]["resources"], &wanted);
    })?;
    Ok(0)
}

/// `--l3-cache-schema` and `--mem-bw-schema`: kept in the configuration before
/// anything is made, so that a `delete` after a crash finds it.
fn update_rdt(args: &Args, dir: &StateDir, state: &mut State) -> Result<Option<Rdt>> {
    let mut wanted = json!({});
    for (option, field) in [
        ("l3-cache-schema", "l3CacheSchema"),
        ("mem-bw-schema", "memBwSchema"),
    ] {
        if let Some(schema) = args.value(option) {
            wanted[field] = json!(schema);
        }
    }
    if wanted == json!({}) {
        return Ok(None);
    }
    let mut config = serde_json::to_value(dir.load_config()?)
        .context(|| "change the configuration".to_owned())?;
    merge(&mut config["linux"]["intelRdt"], &wanted);
    let spec = serde_json::from_value(config).context(|| "change the configuration".to_owned())?;
    let rdt = Rdt::new(&spec, &state.id)?;
    dir.change_config(|config| merge(&mut config["linux"]["intelRdt"], &wanted))?;
    state.rdt = true;
    dir.save(state)?;
    Ok(rdt)
}

fn from_options(args: &Args) -> Result<Value> {
    let mut wanted = json!({});
    for (option, group, field, kind) in LIMITS {
        let Some(text) = args.value(option) else {
            continue;
        };
        let invalid = || Error::new(format!("invalid value for {option}: {text:?}"));
        wanted[group][field] = match kind {
            Kind::Text => json!(text),
            Kind::Number => json!(text.parse::<i64>().map_err(|_| invalid())?),
            Kind::Size => json!(size(text).ok_or_else(invalid)?),
        };
    }
    if let Some(text) = args.value("pids-limit") {
        let limit: i64 = text
            .parse()
            .map_err(|_| Error::new(format!("invalid value for pids-limit: {text:?}")))?;
        wanted["pids"]["limit"] = json!(limit);
    }
    Ok(without_unset(wanted))
}

fn read(path: &str) -> Result<Value> {
    let mut text = Vec::new();
    let tried = || format!("read the limits from {path}");
    if path == "-" {
        std::io::stdin()
            .take(MAX_INPUT)
            .read_to_end(&mut text)
            .context(tried)?;
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_INPUT).read_to_end(&mut text))
            .context(tried)?;
    }
    let value: Value = serde_json::from_slice(&text).context(|| format!("parse {path}"))?;
    if !value.is_object() {
        return Err(Error::new(format!("{path} holds no JSON object")));
    }
    Ok(without_unset(value))
}

/// A zero and an empty text leave what is there as it is.
fn without_unset(value: Value) -> Value {
    let Value::Object(fields) = value else {
        return value;
    };
    let kept: Map<String, Value> = fields
        .into_iter()
        .filter(|(key, value)| {
            // For these, zero is a value.
            matches!(key.as_str(), "idle" | "burst" | "swappiness")
                || !(value.is_null() || *value == json!(0) || *value == json!(""))
        })
        .map(|(key, value)| (key, without_unset(value)))
        .collect();
    Value::Object(kept)
}

fn merge(into: &mut Value, from: &Value) {
    match from {
        Value::Object(fields) => {
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in fields {
                merge(&mut into[key], value);
            }
        }
        other => *into = other.clone(),
    }
}

/// "512m", "1G", "-1": bytes.
fn size(text: &str) -> Option<i64> {
    if let Ok(bytes) = text.parse::<i64>() {
        return (bytes >= -1).then_some(bytes);
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = lower[..digits].parse().ok()?;
    let power = match lower[digits..].trim() {
        "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return None,
    };
    let bytes = number * 1024_f64.powi(power);
    // Beyond this a float is no exact number of bytes.
    (bytes < 9e15).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("-1", Some(-1)),
            ("1048576", Some(1 << 20)),
            ("512m", Some(512 << 20)),
            ("1.5G", Some(3 << 29)),
            ("x", None),
            ("-5", None),
            ("1q", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn unset_values_change_nothing() {
        let wanted = without_unset(json!({
            "memory": { "limit": 0, "swap": -1 },
            "cpu": { "cpus": "", "idle": 0, "quota": 5 },
        }));
        assert_eq!(
            wanted,
            json!({ "memory": { "swap": -1 }, "cpu": { "idle": 0, "quota": 5 } })
        );
        let mut config = json!({ "memory": { "limit": 7 } });
        merge(&mut config, &wanted);
        assert_eq!(config["memory"], json!({ "limit": 7, "swap": -1 }));
    }
}
