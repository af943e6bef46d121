//! The `config` of an image's configuration, as Docker reads and writes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// What steps see when the image says nothing else.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// OCI's `config` and Docker's additions to it. What is empty is left out, what
/// is not listed here does not pass from a base to what is built on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub(super) user: String,
    #[serde(with = "set", skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) exposed_ports: BTreeSet<String>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub(super) entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub(super) cmd: Vec<String>,
    #[serde(with = "set", skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) volumes: BTreeSet<String>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub(super) working_dir: String,
    #[serde(
        deserialize_with = "or_null",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub(super) stop_signal: String,
    #[serde(
        deserialize_with = "or_null",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub(super) args_escaped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) healthcheck: Option<Value>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub(super) on_build: Vec<String>,
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub(super) shell: Vec<String>,
}

impl Config {
    /// What an image from nothing begins with.
    pub(super) fn scratch() -> Self {
        Self {
            working_dir: "/".to_owned(),
            ..Self::default()
        }
    }

    /// The `config` of a whole OCI configuration.
    pub(super) fn of_image(document: &Value) -> Result<Self, String> {
        match document.get("config") {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(config) => Self::deserialize(config)
                .map_err(|error| format!("failed to parse image config: {error}")),
        }
    }

    pub(super) fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            // A struct of texts and lists always becomes an object.
            _ => Map::new(),
        }
    }

    /// Replaces a variable where it stands, or adds it.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        let text = format!("{name}={value}");
        let mut known = self.env.iter_mut();
        match known.find(|pair| split_pair(pair).0 == name) {
            Some(pair) => *pair = text,
            None => self.env.push(text),
        }
    }

    /// Every image has a PATH, except for Windows, which has one by itself.
    pub(super) fn ensure_path(&mut self, os: &str) {
        let has = self.env.iter().any(|pair| split_pair(pair).0 == "PATH");
        if !has && os != "windows" {
            self.env.push(format!("PATH={DEFAULT_PATH}"));
        }
    }

    /// A command line given to the shell.
    pub(super) fn with_shell(&self, line: String, os: &str) -> Vec<String> {
        let mut args = match (self.shell.as_slice(), os) {
            ([], "windows") => vec!["cmd".to_owned(), "/S".to_owned(), "/C".to_owned()],
            ([], _) => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            (shell, _) => shell.to_vec(),
        };
        args.push(line);
        args
    }
}

/// "NAME=value"; a bare name has an empty value.
pub(super) fn split_pair(text: &str) -> (&str, &str) {
    text.split_once('=').unwrap_or((text, ""))
}

/// Go reads null as nothing, anywhere.
fn or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Go's `map[string]struct{}`.
mod set {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, Map, Serializer, Value};

    pub(super) fn serialize<S: Serializer>(
        set: &BTreeSet<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|key| (key, Map::<String, Value>::new())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, Value>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_empty_is_left_out_and_null_is_nothing() {
        let document = json!({"config": {
            "Env": null, "Cmd": ["sh"], "Volumes": {"/v": {}}, "Labels": null,
            "Hostname": "x", "OnBuild": null, "ArgsEscaped": null, "Healthcheck": null,
        }});
        let mut config = Config::of_image(&document).unwrap();
        assert_eq!(
            Value::Object(config.to_map()),
            json!({"Cmd": ["sh"], "Volumes": {"/v": {}}})
        );
        config.ensure_path("linux");
        config.set_env("A", "1");
        config.set_env("PATH", "/x");
        assert_eq!(config.env, ["PATH=/x", "A=1"]);
        assert!(Config::of_image(&json!({"config": {"Env": "x"}})).is_err());
    }
}
