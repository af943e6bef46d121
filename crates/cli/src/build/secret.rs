//! `--secret` and `--ssh`: what the steps of a build may ask this client for.
//! Nothing else is ever given.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use super::csv;
use crate::failure::path_error;

/// Bytes of one secret, as in BuildKit.
const MAX_SECRET: u64 = 500 * 1024;

/// Where a secret comes from. Read only when a step asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Secret {
    Variable(String),
    File(PathBuf),
}

impl Secret {
    pub(super) fn value(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Variable(name) => std::env::var_os(name)
                .map(std::os::unix::ffi::OsStringExt::into_vec)
                .ok_or_else(|| format!("environment variable {name} is not set")),
            Self::File(path) => {
                let failed = |error| path_error("open", &path.display().to_string(), &error);
                let file = std::fs::File::open(path).map_err(failed)?;
                let mut value = Vec::new();
                file.take(MAX_SECRET + 1)
                    .read_to_end(&mut value)
                    .map_err(failed)?;
                if value.len() as u64 > MAX_SECRET {
                    return Err(format!("secret {} too big. max size 500KB", path.display()));
                }
                Ok(value)
            }
        }
    }
}

/// "id=name[,src=path|env=variable][,type=file|env]"
pub(super) fn secrets(texts: &[String]) -> Result<BTreeMap<String, Secret>, String> {
    texts.iter().map(|text| secret(text)).collect()
}

fn secret(text: &str) -> Result<(String, Secret), String> {
    let (mut id, mut path, mut variable, mut kind) = ("", None, None, "");
    let fields = csv::fields(text)?;
    for field in &fields {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key.to_lowercase().as_str() {
            "type" if !matches!(value, "file" | "env") => {
                return Err(format!("unsupported secret type {value:?}"));
            }
            "type" => kind = value,
            "id" => id = value,
            "source" | "src" => path = Some(value),
            "env" => variable = Some(value),
            key => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if id.is_empty() {
        return Err(format!("secret {text:?} has no id"));
    }
    if kind == "env" && variable.is_none() {
        variable = path.take();
    }
    let secret = match (variable, path) {
        (Some(variable), _) => Secret::Variable(variable.to_owned()),
        (None, Some(path)) => Secret::File(path.into()),
        (None, None) if std::env::var_os(id).is_some() => Secret::Variable(id.to_owned()),
        (None, None) => Secret::File(id.into()),
    };
    if let Secret::File(path) = &secret {
        let failed = |error| path_error("stat", &path.display().to_string(), &error);
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > MAX_SECRET {
            return Err(format!("secret {id} too big. max size 500KB"));
        }
    }
    Ok((id.to_owned(), secret))
}

/// "default" or "id[=path]": sockets of SSH agents by name.
pub(super) fn agents(texts: &[String]) -> Result<BTreeMap<String, PathBuf>, String> {
    texts.iter().map(|text| agent(text)).collect()
}

fn agent(text: &str) -> Result<(String, PathBuf), String> {
    let (id, path) = text.split_once('=').unwrap_or((text, ""));
    let id = if id.is_empty() { "default" } else { id };
    let path = match path {
        "" => match std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => {
                return Err(
                    "invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set".to_owned(),
                );
            }
        },
        path => PathBuf::from(path),
    };
    let kind = std::fs::metadata(&path)
        .map_err(|error| path_error("stat", &path.display().to_string(), &error))?
        .file_type();
    if !kind.is_socket() {
        return Err(format!(
            "ssh {id}: {} is no socket of an agent, and keys are not supported yet: add the key to an agent (ssh-add {0}) and give --ssh {id}",
            path.display()
        ));
    }
    Ok((id.to_owned(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_all_forms() {
        let of = |text: &str| secret(text).map(|(id, secret)| format!("{id} {secret:?}"));
        assert_eq!(of("id=a,env=B").unwrap(), "a Variable(\"B\")");
        assert_eq!(of("type=env,id=a,src=B").unwrap(), "a Variable(\"B\")");
        assert_eq!(
            of("id=a,src=/etc/passwd").unwrap(),
            "a File(\"/etc/passwd\")"
        );
        assert_eq!(of("id=PATH").unwrap(), "PATH Variable(\"PATH\")");
        for (text, why) in [
            ("a", "invalid field 'a' must be a key=value pair"),
            ("id=a,x=y", "unexpected key 'x' in 'x=y'"),
            ("id=a,type=z", "unsupported secret type \"z\""),
            ("id=/no/such", "stat /no/such: no such file or directory"),
            ("src=/etc/passwd", "secret \"src=/etc/passwd\" has no id"),
        ] {
            assert_eq!(of(text).unwrap_err(), why);
        }
    }

    #[test]
    fn agents_are_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let text = format!("x={}", path.display());
        assert_eq!(agent(&text).unwrap(), ("x".to_owned(), path));
        let error = agent("key=/etc/passwd").unwrap_err();
        assert!(error.contains("keys are not supported yet"), "{error}");
    }
}
