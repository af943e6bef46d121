//! Checkpoint and restore through CRIU (criu.org), which is looked for in `$PATH`.

pub(crate) mod options;
pub(crate) mod service;
mod wire;

pub(crate) use wire::Message;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::error::{Error, Result};

/// In the directory of images, the standard streams of a checkpointed container: a
/// list of three texts, as runc has it.
pub(crate) const DESCRIPTORS: &str = "descriptors.json";

/// Longest log that is looked through, in bytes.
const MAX_LOG: u64 = 64 << 20;
/// Most of the log's errors that are quoted: the last ones.
const QUOTED: usize = 3;

/// Two texts as fields 1 and 2: a mount, a control group or a namespace with what it
/// is or becomes.
pub(crate) fn pair(key: &str, value: &str) -> Message {
    let mut message = Message::default();
    message.text(1, key);
    message.text(2, value);
    message
}

/// CRIU reads its files as the container's root. Where that is nobody on the host it
/// may not read them, and the container would be gone.
pub(crate) fn refuse_user_namespace(spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    let mut namespaces = namespaces.into_iter().flatten();
    if namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        return Err(Error::new(
            "a container with a user namespace cannot be checkpointed or restored: \
             CRIU could not read the files in it",
        ));
    }
    Ok(())
}

/// The namespaces of a configuration that it did not make.
pub(crate) fn namespaces_with_path(
    spec: &Spec,
) -> impl Iterator<Item = (LinuxNamespaceType, &Path)> {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().filter_map(|namespace| {
        let path = namespace.path().as_deref();
        Some((
            namespace.typ(),
            path.filter(|path| !path.as_os_str().is_empty())?,
        ))
    })
}

/// Those that CRIU can leave alone, by its name for their kind.
pub(crate) fn external_namespaces(spec: &Spec) -> impl Iterator<Item = (&'static str, &Path)> {
    namespaces_with_path(spec).filter_map(|(kind, path)| match kind {
        LinuxNamespaceType::Network => Some(("net", path)),
        LinuxNamespaceType::Pid => Some(("pid", path)),
        _ => None,
    })
}

/// What a checkpoint calls such a namespace, as in runc's.
pub(crate) fn namespace_key(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    format!("extRoot{}{rest}NS", first.to_ascii_uppercase())
}

/// An error with what CRIU's log says about it.
pub(crate) fn with_log(error: &Error, log: &Path) -> Error {
    let Ok(file) = std::fs::File::open(log) else {
        return Error::new(error.to_string());
    };
    let mut errors: Vec<String> = Vec::new();
    for line in BufReader::new(file.take(MAX_LOG))
        .split(b'\n')
        .map_while(std::result::Result::ok)
    {
        let line = String::from_utf8_lossy(&line);
        // The last one sums up: "Dumping FAILED."
        if let Some((_, why)) = line.split_once("Error (")
            && let Some((_, why)) = why.split_once("): ")
            && !why.ends_with("FAILED.")
        {
            errors.push(why.to_owned());
        }
    }
    let last = errors.split_off(errors.len().saturating_sub(QUOTED));
    let separator = if last.is_empty() { "" } else { ": " };
    Error::new(format!(
        "{error}{separator}{}\nlog file: {}",
        last.join("; "),
        log.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_errors_of_the_log_are_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("dump.log");
        let error = Error::new("criu failed: type DUMP errno 0");
        assert_eq!(with_log(&error, &log).to_string(), error.to_string());
        let lines = "(00.1) Dumping\n(00.2) Error (criu/util.c:1): one\nError (a:2): two: x\n\
                     Error (a:3): three\nError (a:4): four\nError (criu/cr-dump.c:5): Dumping FAILED.";
        std::fs::write(&log, lines).unwrap();
        assert_eq!(
            with_log(&error, &log).to_string(),
            format!("{error}: two: x; three; four\nlog file: {}", log.display())
        );
        std::fs::write(&log, "nothing").unwrap();
        assert_eq!(
            with_log(&error, &log).to_string(),
            format!("{error}\nlog file: {}", log.display())
        );
    }
}
