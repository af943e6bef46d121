//! daemon.json.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value as Json;

use super::options::{self, Kind, Opt, Value, Values};

/// Reads the file. The error is the sentence to show, without the file's name.
pub(crate) fn parse(text: &str) -> Result<Values, String> {
    if text.trim().is_empty() {
        return Ok(Values::new());
    }
    let json: BTreeMap<String, Json> =
        serde_json::from_str(text).map_err(|error| format!("invalid JSON: {error}"))?;
    let unknown: Vec<&str> = json
        .keys()
        .map(String::as_str)
        .filter(|key| options::by_key(key).is_none())
        .collect();
    if !unknown.is_empty() {
        return Err(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        ));
    }
    let mut values = Values::new();
    for (key, json) in &json {
        let Some(opt) = options::by_key(key) else {
            continue;
        };
        let value = convert(opt, json).ok_or_else(|| {
            format!(
                "invalid JSON: the directive \"{key}\" must be {}",
                expected(opt.kind)
            )
        })?;
        values.insert(opt.name(), value);
    }
    Ok(values)
}

/// Reads the file at `path`; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Values>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
    .map_err(|why| {
        format!(
            "unable to configure the Docker daemon with file {}: {why}",
            path.display()
        )
    })
}

/// Joins flags and file, in which nothing may be said twice.
pub(crate) fn merge(flags: Values, file: Values, path: &Path) -> Result<Values, String> {
    let conflicts: Vec<String> = flags
        .iter()
        .filter_map(|(name, flag)| {
            let file = file.get(name)?;
            Some(format!("{name}: (from flag: {flag}, from file: {file})"))
        })
        .collect();
    if !conflicts.is_empty() {
        return Err(format!(
            "unable to configure the Docker daemon with file {}: the following directives are specified both as a flag and in the configuration file: {}",
            path.display(),
            conflicts.join(", ")
        ));
    }
    let mut values = file;
    values.extend(flags);
    Ok(values)
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Int => "a number",
        Kind::Text => "a string",
        Kind::List => "a list of strings",
        Kind::Map => "an object",
    }
}

fn convert(opt: &Opt, json: &Json) -> Option<Value> {
    Some(match opt.kind {
        Kind::Bool => Value::Bool(json.as_bool()?),
        Kind::Int => Value::Int(json.as_i64()?),
        // Docker's sizes may be numbers as well.
        Kind::Text => Value::Text(plain(json)?),
        Kind::List => Value::List(json.as_array()?.iter().map(plain).collect::<Option<_>>()?),
        Kind::Map => Value::Map(
            json.as_object()?
                .iter()
                .map(|(key, value)| {
                    let value = if opt.key == "default-ulimits" {
                        ulimit(value)?
                    } else {
                        plain(value).unwrap_or_else(|| value.to_string())
                    };
                    Some((key.clone(), value))
                })
                .collect::<Option<_>>()?,
        ),
    })
}

fn plain(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(value) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// `{"Name": "nofile", "Hard": 64000, "Soft": 64000}` as "soft:hard".
fn ulimit(json: &Json) -> Option<String> {
    let limit = |name: &str| json.get(name)?.as_i64();
    Some(format!("{}:{}", limit("Soft")?, limit("Hard")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_kinds() {
        let values = parse(
            r#"{"debug": true, "hosts": ["fd://"], "mtu": 1400, "log-opts": {"max-size": "1m"},
                "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 64, "Soft": 32}},
                "default-shm-size": "64m"}"#,
        )
        .unwrap();
        assert_eq!(values["debug"], Value::Bool(true));
        assert_eq!(values["default-ulimits"].to_string(), "map[nofile:32:64]");
        assert_eq!(values["log-opts"].to_string(), "map[max-size:1m]");
        assert_eq!(parse(" ").unwrap(), Values::new());
    }

    #[test]
    fn mistakes() {
        assert_eq!(
            parse(r#"{"nope": 1, "also": 2}"#).unwrap_err(),
            "the following directives don't match any configuration option: also, nope"
        );
        assert_eq!(
            parse(r#"{"debug": "yes"}"#).unwrap_err(),
            "invalid JSON: the directive \"debug\" must be true or false"
        );
        assert!(parse("{").is_err() && parse("[]").is_err());
        // Only flags.
        assert!(parse(r#"{"config-file": "x"}"#).is_err());
    }

    #[test]
    fn nothing_may_be_said_twice() {
        let file = parse(r#"{"debug": true, "mtu": 9}"#).unwrap();
        let flags = Values::from([("debug", Value::Bool(false))]);
        let error = merge(flags, file.clone(), Path::new("/x.json")).unwrap_err();
        assert_eq!(
            error,
            "unable to configure the Docker daemon with file /x.json: the following directives are specified both as a flag and in the configuration file: debug: (from flag: false, from file: true)"
        );
        assert_eq!(merge(Values::new(), file, Path::new("/")).unwrap().len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
