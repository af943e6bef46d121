//! Labels of the security modules, and the filters a process gives itself.

use std::path::Path;

use berth_seccomp::Program;
use oci_spec::runtime::Process;
use rustix::io::Errno;

use crate::error::{Context as _, Error, Result};
use crate::procfs::Procfs;
use crate::sync::ChildEnd;

/// Refuses labels that the kernel could not apply.
pub(crate) fn check_labels(process: &Process, mount_label: Option<&str>) -> Result<()> {
    if let Some(profile) = apparmor(process)
        && !apparmor_is_enabled()
    {
        return Err(Error::invalid(format!(
            "AppArmor profile {profile:?} is asked for, but AppArmor is not enabled"
        )));
    }
    let label = selinux(process).or_else(|| mount_label.filter(|label| !label.is_empty()));
    if let Some(label) = label
        && !Path::new("/sys/fs/selinux/enforce").exists()
    {
        return Err(Error::invalid(format!(
            "SELinux label {label:?} is asked for, but SELinux is not enabled"
        )));
    }
    Ok(())
}

fn apparmor(process: &Process) -> Option<&str> {
    // Unconfined is what a process is anyway.
    process
        .apparmor_profile()
        .as_deref()
        .filter(|p| !matches!(*p, "" | "unconfined"))
}

fn selinux(process: &Process) -> Option<&str> {
    process
        .selinux_label()
        .as_deref()
        .filter(|label| !label.is_empty())
}

/// AppArmor is compiled in and switched on.
pub(crate) fn apparmor_is_enabled() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with(b"Y"))
}

/// Asks for the labels to be applied by the coming execve. Only through our own
/// procfs (CVE-2019-16884, CVE-2025-52881).
pub(crate) fn label_next_exec(process: &Process, procfs: &Procfs) -> Result<()> {
    // "self" is a symbolic link, which is not followed.
    let own = rustix::process::getpid().as_raw_nonzero();
    if let Some(profile) = apparmor(process) {
        let value = format!("exec {profile}");
        let is_absent = |error: &Error| matches!(error, Error::Step { source, .. } if source.raw_os_error() == Some(libc::ENOENT));
        procfs
            .write(&format!("{own}/attr/apparmor/exec"), value.as_bytes())
            .or_else(|error| {
                // Before Linux 5.8 there is only the shared file.
                if is_absent(&error) {
                    procfs.write(&format!("{own}/attr/exec"), value.as_bytes())
                } else {
                    Err(error)
                }
            })
            .map_err(|error| {
                if is_absent(&error) {
                    Error::invalid(format!("AppArmor profile {profile:?} is not loaded"))
                } else {
                    error
                }
            })?;
    }
    if let Some(label) = selinux(process) {
        procfs.write(&format!("{own}/attr/exec"), label.as_bytes())?;
    }
    Ok(())
}

/// Whether [`label_next_exec`] has something to do.
pub(crate) fn wants_labels(process: &Process) -> bool {
    apparmor(process).is_some() || selinux(process).is_some()
}

/// The listener of a filter that notifies is handed to the parent.
pub(crate) fn load_seccomp(program: &Program, sync: &ChildEnd) -> Result<()> {
    match berth_sys::security::load_seccomp(&program.filter, program.flags) {
        Ok(None) => Ok(()),
        Ok(Some(listener)) => sync.listener(&listener),
        Err(error) => Err(error).step(|| "load the seccomp filter"),
    }
}

/// A session keyring of its own keeps the keys of whoever started the engine away
/// from the container. Not possible where keys are off or an outer sandbox denies
/// it; then there is nothing to reach either.
pub(crate) fn new_session_keyring(name: Option<&str>) -> Result<()> {
    let name = name
        .map(|id| crate::lookup::c_string(&format!("_ses.{id}")))
        .transpose()?;
    match berth_sys::security::join_session_keyring(name.as_deref()) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::NOSYS | Errno::PERM | Errno::DQUOT)
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error).step(|| "join a new session keyring"),
    }
}
