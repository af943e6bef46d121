//! `--change` of import and commit: a few Dockerfile instructions on a
//! configuration.

use std::collections::HashMap;
use std::time::Duration;

use berth_api::{Error, container};
use berth_build::dockerfile::{self, Health, Instruction};
use jiff::Timestamp;
use oci_spec::image::{Arch, Config, History, ImageConfiguration, Os};
use serde_json::{Value, json};

/// Fields of an image's configuration, Docker's own included.
const IMAGE_FIELDS: [&str; 13] = [
    "ArgsEscaped",
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
];

/// What Docker's configurations have besides OCI's: Healthcheck, OnBuild, Shell.
pub(crate) type Own = serde_json::Map<String, Value>;

const OWN_FIELDS: [&str; 3] = ["Healthcheck", "OnBuild", "Shell"];

/// A configuration with the changes applied, and Docker's own part of it;
/// `rootfs` and `history` are completed by the store.
pub(crate) fn image_configuration(
    changes: &[String],
    message: &str,
    platform: &str,
) -> Result<(ImageConfiguration, Own), Error> {
    let mut config = Config::default();
    let mut own = Own::new();
    for change in changes {
        apply(&mut config, &mut own, change)?;
    }
    let mut parts = platform.split('/').filter(|part| !part.is_empty());
    let os = parts.next().unwrap_or("linux");
    let arch = parts.next();
    let mut image = ImageConfiguration::default();
    let now = Timestamp::now().to_string();
    let mut history = History::default();
    history
        .set_created(Some(now.clone()))
        .set_comment(Some(if message.is_empty() {
            "Imported from -".to_owned()
        } else {
            message.to_owned()
        }));
    image
        .set_created(Some(now))
        .set_os(Os::from(os))
        .set_architecture(arch.map_or_else(native, Arch::from))
        .set_variant(parts.next().map(str::to_owned))
        .set_config(Some(config))
        .set_history(Some(vec![history]));
    Ok((image, own))
}

/// The changes on the configuration of a container.
pub(crate) fn changed(
    config: &container::Config,
    changes: &[String],
) -> Result<container::Config, Error> {
    let mut config = config.clone();
    if changes.is_empty() {
        return Ok(config);
    }
    let failed = |error: serde_json::Error| {
        Error::system(format!("change the container's configuration: {error}"))
    };
    // Both are the same JSON; each knows fields that the other does not.
    let whole = serde_json::to_value(&config).map_err(failed)?;
    let mut own = Own::new();
    for field in OWN_FIELDS {
        if let Some(value) = whole.get(field).filter(|value| !value.is_null()) {
            own.insert(field.to_owned(), value.clone());
        }
    }
    let mut image: Config = serde_json::from_value(whole).map_err(failed)?;
    for change in changes {
        apply(&mut image, &mut own, change)?;
    }
    let mut whole = serde_json::to_value(&image).map_err(failed)?;
    if let Some(whole) = whole.as_object_mut() {
        whole.extend(own);
    }
    let changed: container::Config = serde_json::from_value(whole).map_err(failed)?;
    config.healthcheck = changed.healthcheck;
    config.on_build = changed.on_build;
    config.shell = changed.shell;
    config.cmd = changed.cmd;
    config.entrypoint = changed.entrypoint;
    config.env = changed.env;
    config.exposed_ports = changed.exposed_ports;
    config.labels = changed.labels;
    config.stop_signal = changed.stop_signal;
    config.user = changed.user;
    config.volumes = changed.volumes;
    config.working_dir = changed.working_dir;
    Ok(config)
}

/// What of a container's configuration an image can say; empty fields are not
/// said.
pub(crate) fn of_image(config: &container::Config) -> Value {
    let Value::Object(mut fields) = json!(config) else {
        return json!({});
    };
    fields.retain(|key, value| {
        let is_empty = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        !is_empty && IMAGE_FIELDS.contains(&key.as_str())
    });
    Value::Object(fields)
}

fn native() -> Arch {
    Arch::from(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    })
}

fn apply(config: &mut Config, own: &mut Own, change: &str) -> Result<(), Error> {
    let (instruction, rest) = change
        .trim()
        .split_once(char::is_whitespace)
        .unwrap_or_else(|| (change.trim(), ""));
    let rest = rest.trim();
    let upper = instruction.to_uppercase();
    if rest.is_empty() {
        return Err(Error::invalid(format!(
            "{upper} requires at least one argument"
        )));
    }
    match upper.as_str() {
        "CMD" => {
            config.set_cmd(Some(command(own, rest)));
        }
        "ENTRYPOINT" => {
            config.set_entrypoint(Some(command(own, rest)));
        }
        "ENV" => {
            let mut env = config.env().clone().unwrap_or_default();
            for (key, value) in pairs(rest, &upper)? {
                crate::spec::process::replace_or_append(&mut env, &format!("{key}={value}"));
            }
            config.set_env(Some(env));
        }
        "LABEL" => {
            let mut labels: HashMap<String, String> = config.labels().clone().unwrap_or_default();
            labels.extend(pairs(rest, &upper)?);
            config.set_labels(Some(labels));
        }
        "EXPOSE" => {
            let mut ports = config.exposed_ports().clone().unwrap_or_default();
            for port in words(rest)? {
                let port = if port.contains('/') {
                    port
                } else {
                    format!("{port}/tcp")
                };
                let number = port.split('/').next().unwrap_or_default();
                if number.parse::<u16>().is_err() {
                    return Err(Error::invalid(format!("invalid containerPort: {port}")));
                }
                ports.push(port);
            }
            config.set_exposed_ports(Some(ports));
        }
        "USER" => {
            config.set_user(Some(rest.to_owned()));
        }
        "VOLUME" => {
            let mut volumes = config.volumes().clone().unwrap_or_default();
            match serde_json::from_str::<Vec<String>>(rest) {
                Ok(list) => volumes.extend(list),
                Err(_) => volumes.extend(words(rest)?),
            }
            config.set_volumes(Some(volumes));
        }
        "WORKDIR" => {
            let path = match config.working_dir() {
                Some(base) if !rest.starts_with('/') => {
                    format!("{}/{rest}", base.trim_end_matches('/'))
                }
                None if !rest.starts_with('/') => format!("/{rest}"),
                _ => rest.to_owned(),
            };
            config.set_working_dir(Some(path));
        }
        "STOPSIGNAL" => {
            crate::signals::parse(rest)?;
            config.set_stop_signal(Some(rest.to_owned()));
        }
        "HEALTHCHECK" | "ONBUILD" | "SHELL" => {
            let parsed = dockerfile::instruction(change.trim(), '\\')
                .map_err(|error| Error::invalid(error.message))?;
            apply_own(own, parsed);
        }
        _ => {
            return Err(Error::invalid(format!(
                "{instruction} is not a valid change command"
            )));
        }
    }
    Ok(())
}

fn apply_own(own: &mut Own, instruction: Instruction) {
    match instruction {
        Instruction::Healthcheck(health) => {
            own.insert("Healthcheck".to_owned(), healthcheck(&health));
        }
        Instruction::Onbuild(trigger) => {
            let list = own.entry("OnBuild").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(trigger.into());
            }
        }
        Instruction::Shell(shell) => {
            own.insert("Shell".to_owned(), shell.into());
        }
        _ => {}
    }
}

/// As Docker's configuration has it: times in nanoseconds.
fn healthcheck(health: &Health) -> Value {
    let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    json!(container::Healthcheck {
        test: health.test.clone(),
        interval: nanoseconds(health.interval),
        timeout: nanoseconds(health.timeout),
        start_period: nanoseconds(health.start_period),
        start_interval: nanoseconds(health.start_interval),
        retries: health.retries.into(),
    })
}

/// A JSON list, or a line for the shell.
fn command(own: &Own, text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| {
        let shell = own.get("Shell").and_then(Value::as_array);
        let mut words: Vec<String> = match shell {
            Some(shell) => shell
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            None => vec!["/bin/sh".into(), "-c".into()],
        };
        words.push(text.to_owned());
        words
    })
}

/// `a=1 b="two words"`, or the old form `a the rest`.
fn pairs(text: &str, instruction: &str) -> Result<Vec<(String, String)>, Error> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words(text)?
        .into_iter()
        .map(|word| {
            word.split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "Syntax error - can't find = in \"{word}\". Must be of the form: name=value"
                    ))
                })
        })
        .collect()
}

/// Splits at blanks, with quotes and backslashes.
fn words(text: &str) -> Result<Vec<String>, Error> {
    let mut list = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', other) if other != Some('\'') => {
                word.get_or_insert_default().extend(chars.next());
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => list.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Error::invalid(format!(
            "unexpected end of statement while looking for matching quote: {text}"
        )));
    }
    list.extend(word);
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(changes: &[&str]) -> Result<Config, Error> {
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        image_configuration(&changes, "", "linux/amd64")
            .map(|(image, _)| image.config().clone().unwrap())
    }

    #[test]
    fn what_docker_has_besides() {
        let changes = [
            "HEALTHCHECK --interval=5s --retries=2 CMD curl -f localhost",
            "ONBUILD RUN x",
            "onbuild COPY . /",
            "SHELL [\"/bin/bash\", \"-c\"]",
            "CMD run it",
        ]
        .map(str::to_owned);
        let (image, own) = image_configuration(&changes, "", "").unwrap();
        assert_eq!(
            Value::from(own),
            json!({
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "curl -f localhost"],
                    "Interval": 5_000_000_000_i64,
                    "Retries": 2
                },
                "OnBuild": ["RUN x", "COPY . /"],
                "Shell": ["/bin/bash", "-c"]
            })
        );
        let cmd = image.config().clone().unwrap().cmd().clone().unwrap();
        assert_eq!(cmd, ["/bin/bash", "-c", "run it"]);
        let before = container::Config {
            on_build: Some(vec!["RUN a".to_owned()]),
            ..container::Config::default()
        };
        let after = changed(
            &before,
            &["ONBUILD RUN b".to_owned(), "HEALTHCHECK NONE".to_owned()],
        )
        .unwrap();
        assert_eq!(after.on_build.unwrap(), ["RUN a", "RUN b"]);
        assert_eq!(after.healthcheck.unwrap().test, ["NONE"]);
        for bad in [
            "HEALTHCHECK",
            "ONBUILD ONBUILD RUN x",
            "SHELL bash",
            "ONBUILD FROM x",
        ] {
            assert!(with(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn instructions() {
        let config = with(&[
            "CMD [\"ls\", \"-l\"]",
            "ENTRYPOINT echo hi",
            "ENV A=1 B=\"two words\"",
            "env C the rest",
            "LABEL x=y",
            "EXPOSE 80 53/udp",
            "WORKDIR /a",
            "WORKDIR b",
            "VOLUME [\"/data\"]",
        ])
        .unwrap();
        assert_eq!(config.cmd().as_ref().unwrap(), &["ls", "-l"]);
        assert_eq!(config.entrypoint().as_ref().unwrap()[2], "echo hi");
        assert_eq!(
            config.env().as_ref().unwrap(),
            &["A=1", "B=two words", "C=the rest"]
        );
        assert_eq!(
            config.exposed_ports().as_ref().unwrap(),
            &["80/tcp", "53/udp"]
        );
        assert_eq!(config.working_dir().as_deref(), Some("/a/b"));
        for bad in ["RUN x", "ENV", "ENV A", "EXPOSE x", "ENV A=\"1"] {
            assert!(with(&[bad]).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,80}") {
            let _ = with(&[&text]);
            let _ = with(&[&format!("ENV {text}")]);
        }
    }
}
