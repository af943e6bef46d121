//! Container logs: options, and reading them back.

mod follow;
mod reader;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::Error;
use berth_api::container::LogConfig;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::container::{Container, Record};
use crate::engine::Engine;
use crate::{LogOptions, Logs};

/// `--log-opt` of the json-file and local drivers, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) none: bool,
    /// Bytes; 0 = no limit.
    pub(crate) max_size: u64,
    pub(crate) max_files: u32,
    pub(crate) compress: bool,
    labels: Vec<String>,
    env: Vec<String>,
    tag: Option<String>,
}

impl Options {
    pub(crate) fn parse(config: &LogConfig) -> Result<Self, Error> {
        let mut options = Self {
            max_files: 1,
            ..Self::default()
        };
        match config.r#type.as_str() {
            "json-file" | "" => {}
            "local" => {
                options.max_size = 20 << 20;
                options.max_files = 5;
                options.compress = true;
            }
            "none" => options.none = true,
            other => {
                return Err(Error::not_implemented(format!(
                    "log driver \"{other}\" is not supported yet; use json-file, local or none"
                )));
            }
        }
        for (key, value) in config.config.iter().flatten() {
            let wrong = |what: &str| {
                Error::invalid(format!("invalid value for log-opt {key}: {what}: {value}"))
            };
            let list = || {
                value
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect()
            };
            match key.as_str() {
                "max-size" => {
                    options.max_size = size(value).ok_or_else(|| wrong("not a size"))?;
                }
                "max-file" => {
                    options.max_files = value
                        .parse()
                        .ok()
                        .filter(|count| *count > 0)
                        .ok_or_else(|| wrong("max-file must be a positive number"))?;
                }
                "compress" => {
                    options.compress = value.parse().map_err(|_| wrong("not a boolean"))?;
                }
                "labels" => options.labels = list(),
                "env" => options.env = list(),
                "tag" => options.tag = Some(value.clone()),
                "mode" if value == "blocking" => {}
                "mode" | "max-buffer-size" | "labels-regex" | "env-regex" | "cache-disabled"
                | "cache-max-size" | "cache-max-file" | "cache-compress" => {
                    return Err(Error::not_implemented(format!(
                        "log-opt {key}={value} is not supported yet"
                    )));
                }
                _ => {
                    return Err(Error::invalid(format!(
                        "unknown log opt '{key}' for {} log driver",
                        config.r#type
                    )));
                }
            }
        }
        if options.max_files > 1 && options.max_size == 0 {
            return Err(Error::invalid(
                "max-file cannot be greater than 1 when max-size is not set",
            ));
        }
        if options.compress && (options.max_files == 1 || options.max_size == 0) {
            return Err(Error::invalid(
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ));
        }
        Ok(options)
    }

    /// What is written as `attrs` on each line.
    pub(crate) fn attributes(&self, record: &Record) -> Result<BTreeMap<String, String>, Error> {
        let mut attributes = BTreeMap::new();
        let labels = record.config.labels.as_ref();
        for name in &self.labels {
            if let Some(value) = labels.and_then(|labels| labels.get(name)) {
                attributes.insert(name.clone(), value.clone());
            }
        }
        for entry in record.config.env.iter().flatten() {
            if let Some((key, value)) = entry.split_once('=')
                && self.env.iter().any(|name| name == key)
            {
                attributes.insert(key.to_owned(), value.to_owned());
            }
        }
        if let Some(tag) = &self.tag {
            let short = record.id.get(..12).unwrap_or(&record.id);
            let tag = tag
                .replace("{{.ID}}", short)
                .replace("{{.FullID}}", &record.id)
                .replace("{{.Name}}", &record.name)
                .replace("{{.ImageName}}", &record.config.image)
                .replace("{{.ImageID}}", &record.image)
                .replace("{{.DaemonName}}", "docker");
            if tag.contains("{{") {
                return Err(Error::invalid(format!("failed to parse log tag: {tag}")));
            }
            attributes.insert("tag".into(), tag);
        }
        Ok(attributes)
    }
}

/// "10m", "1g", "100".
fn size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.trim_end_matches('b').trim_end_matches('i');
    let digits = lower.trim_end_matches(char::is_alphabetic);
    let factor = match lower.get(digits.len()..)? {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(factor)
}

impl Engine {
    pub async fn container_logs(&self, name: &str, options: LogOptions) -> Result<Logs, Error> {
        if !options.stdout && !options.stderr {
            return Err(Error::invalid(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        let container = self.find(name)?;
        check_readable(&container)?;
        let tty = container.record().config.tty;
        let (sender, chunks) = mpsc::channel(16);
        tokio::spawn(follow::run(container, options, sender));
        Ok(Logs { tty, chunks })
    }

    /// The log so far, for an attach.
    pub(crate) fn log_bytes(
        &self,
        container: &Arc<Container>,
        options: LogOptions,
    ) -> Result<mpsc::Receiver<Bytes>, Error> {
        check_readable(container)?;
        let (sender, mut chunks) = mpsc::channel(16);
        tokio::spawn(follow::run(container.clone(), options, sender));
        let (plain, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(bytes)) = chunks.recv().await {
                if plain.send(bytes).await.is_err() {
                    break;
                }
            }
        });
        Ok(receiver)
    }
}

fn check_readable(container: &Container) -> Result<(), Error> {
    let record = container.record();
    if record.host_config.log_config.r#type == "none" {
        return Err(Error::not_implemented(
            "configured logging driver does not support reading",
        ));
    }
    if record.state.dead || record.state.removing {
        return Err(Error::conflict(
            "can not get logs from container which is dead or marked for removal",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, options: &[(&str, &str)]) -> Result<Options, Error> {
        Options::parse(&LogConfig {
            r#type: kind.into(),
            config: Some(
                options
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect(),
            ),
        })
    }

    #[test]
    fn options_are_checked() {
        let options = parse("json-file", &[("max-size", "10m"), ("max-file", "3")]).unwrap();
        assert_eq!((options.max_size, options.max_files), (10 << 20, 3));
        assert!(parse("none", &[]).unwrap().none);
        for (kind, options) in [
            ("syslog", vec![]),
            ("json-file", vec![("max-size", "many")]),
            ("json-file", vec![("max-file", "3")]),
            ("json-file", vec![("compress", "true")]),
            ("json-file", vec![("colour", "red")]),
            ("json-file", vec![("mode", "non-blocking")]),
        ] {
            assert!(parse(kind, &options).is_err(), "{kind} {options:?}");
        }
    }

    #[test]
    fn attributes_are_what_was_asked_for() {
        let mut record = Record {
            id: "0123456789abcdef".into(),
            ..Record::default()
        };
        record.config.labels =
            Some([("a".to_owned(), "1".to_owned()), ("b".into(), "2".into())].into());
        record.config.env = Some(vec!["E=3".into()]);
        let options = parse(
            "json-file",
            &[("labels", "a"), ("env", "E"), ("tag", "x-{{.ID}}")],
        )
        .unwrap();
        let attributes = options.attributes(&record).unwrap();
        assert_eq!(attributes.len(), 3);
        assert_eq!(attributes["tag"], "x-0123456789ab");
    }
}
