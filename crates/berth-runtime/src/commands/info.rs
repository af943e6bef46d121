//! `spec` and `features`.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::OCI_VERSION;
use crate::args::{Args, Opt, Order};
use crate::error::{Context, Error, Result};
use crate::print;

/// What `spec` writes: a shell in a container with Docker's default isolation.
const EXAMPLE: &str = include_str!("example.json");

pub(crate) fn spec(mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(
        &mut arguments,
        &[Opt::value("bundle").short('b')],
        Order::Anywhere,
    )?;
    no_more(&arguments)?;
    let path = Path::new(args.value("bundle").unwrap_or(".")).join("config.json");
    std::fs::File::create_new(&path)
        .and_then(|mut file| file.write_all(EXAMPLE.as_bytes()))
        .context(|| format!("write {}", path.display()))?;
    Ok(0)
}

/// The OCI runtime features document (features.md of the specification).
pub(crate) fn features(arguments: &[OsString]) -> Result<u8> {
    no_more(arguments)?;
    let value = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "cgroup": {
                "v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false
            },
            "seccomp": { "enabled": true },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
        },
        "potentiallyUnsafeConfigAnnotations": [],
    });
    print(&format!("{value:#}\n"))
}

fn no_more(arguments: &[OsString]) -> Result<()> {
    match arguments.first() {
        Some(extra) => Err(Error::new(format!(
            "unexpected argument `{}`",
            extra.to_string_lossy()
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn example_is_a_valid_configuration() {
        let spec: oci_spec::runtime::Spec = serde_json::from_str(super::EXAMPLE).unwrap();
        assert!(spec.linux().is_some());
    }
}
