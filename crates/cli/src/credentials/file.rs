//! The part of `config.json` that login and logout write. Everything else in
//! it stays as it is, in its order.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Credentials, encode};
use crate::config::ConfigFile;
use crate::failure::{Failure, path_error};
use crate::output::json;

/// Members of a JSON object in the order of the text.
#[derive(Default)]
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(All)
    }
}

impl Members {
    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(have, _)| have == name)
    }

    fn set(&mut self, name: &str, text: String) -> Result<(), Failure> {
        let value = RawValue::from_string(text).map_err(|error| Failure::new(error.to_string()))?;
        match self.position(name) {
            Some(at) => self.0[at].1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Ok(())
    }

    fn text(&self) -> String {
        let members: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("{}:{}", serde_json::Value::from(name.as_str()), value))
            .collect();
        format!("{{{}}}", members.join(","))
    }
}

/// Sets a registry's entry; with `helper`, also the default store.
pub(super) fn put(
    config: &ConfigFile,
    key: &str,
    credentials: &Credentials,
    helper: Option<&str>,
) -> Result<(), Failure> {
    let fields = [
        ("auth", encode(&credentials.username, &credentials.password)),
        ("identitytoken", credentials.identitytoken.clone()),
        ("registrytoken", credentials.registrytoken.clone()),
    ];
    let fields: Vec<_> = fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("\"{name}\":{}", serde_json::Value::from(value)))
        .collect();
    let entry = format!("{{{}}}", fields.join(","));
    change(&config.path, |file, auths| {
        auths.set(key, entry)?;
        auths.0.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(helper) = helper {
            file.set("credsStore", serde_json::Value::from(helper).to_string())?;
        }
        Ok(true)
    })
}

/// Removes a registry's entry, if it is there.
pub(super) fn remove(config: &ConfigFile, key: &str) -> Result<(), Failure> {
    if !config.path.exists() {
        return Ok(());
    }
    change(&config.path, |_, auths| {
        let at = auths.position(key);
        Ok(at.map(|at| auths.0.remove(at)).is_some())
    })
}

/// Reads the file as it is now, changes it, and puts the new one in its place.
fn change(
    path: &Path,
    edit: impl FnOnce(&mut Members, &mut Members) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let name = path.display().to_string();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Failure::new(path_error("open", &name, &error))),
    };
    let broken = |error: serde_json::Error| {
        Failure::new(format!(
            "{name} is not a valid configuration: line {} column {}: mend or remove it",
            error.line(),
            error.column()
        ))
    };
    let mut file: Members = if bytes.trim_ascii().is_empty() {
        Members::default()
    } else {
        serde_json::from_slice(&bytes).map_err(broken)?
    };
    let mut auths = match file.position("auths") {
        Some(at) => serde_json::from_str::<Option<Members>>(file.0[at].1.get())
            .map_err(broken)?
            .unwrap_or_default(),
        None => {
            let nothing = RawValue::from_string("{}".to_owned()).map_err(broken)?;
            file.0.insert(0, ("auths".to_owned(), nothing));
            Members::default()
        }
    };
    if !edit(&mut file, &mut auths)? {
        return Ok(());
    }
    file.set("auths", auths.text())?;
    replace(path, json::indent(&file.text(), "\t").as_bytes())
        .map_err(|error| Failure::new(path_error("write", &name, &error)))
}

/// Replaces the file that `path` leads to, through symbolic links: readable by
/// its owner only, and either the old or the new one at any moment.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
    }
    let target = resolve(path)?;
    let temporary = target.with_file_name(format!(
        ".{}.{}.tmp",
        target.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    // What a killed process of the same number left.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = |mut file: File| {
        // With sudo, the file stays its owner's.
        if let Ok(before) = std::fs::metadata(&target) {
            let _ = std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()));
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &target)
    };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(write)
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })
}

/// Where symbolic links lead, though nothing may be there.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    let mut target = path.to_owned();
    // As many as the kernel follows.
    for _ in 0..40 {
        match std::fs::read_link(&target) {
            Ok(next) => target = target.parent().unwrap_or_else(|| Path::new("")).join(next),
            Err(_) => return Ok(target),
        }
    }
    Err(std::io::Error::from_raw_os_error(libc::ELOOP))
}
