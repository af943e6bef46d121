//! New filesystems, mounted nowhere yet.

use std::os::fd::OwnedFd;

use berth_sys::mount::MOUNT_ATTR_RDONLY;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::{Context as _, Result};
use crate::options::Options;

/// `mode` is for a tmpfs without one of its own; the kernel's is 1777.
pub(crate) fn new(
    kind: &str,
    source: &str,
    options: &Options,
    mode: Option<u32>,
) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .step(|| format!("open filesystem type {kind:?}"))?;
    let set = |key: &str, value: Option<&str>| {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, key, value),
            None => rustix::mount::fsconfig_set_flag(&context, key),
        }
        .step(|| match value {
            Some(value) => format!("set {key}={value}"),
            None => format!("set {key}"),
        })
    };
    if !source.is_empty() {
        set("source", Some(source))?;
    }
    for (key, value) in &options.data {
        set(key, value.as_deref())?;
    }
    if let Some(mode) = mode
        && kind == "tmpfs"
        && options.value("mode").is_none()
    {
        set("mode", Some(&format!("{mode:o}")))?;
    }
    let own = matches!(kind, "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue");
    if !own && options.attr.set & MOUNT_ATTR_RDONLY != 0 {
        // A disk is to be left alone altogether, journal included.
        set("ro", None)?;
    }
    rustix::mount::fsconfig_create(&context).step(|| format!("create a {kind}"))?;
    // See `mounts::Made::finish`.
    let later = if kind == "tmpfs" {
        MOUNT_ATTR_RDONLY
    } else {
        0
    };
    let attr = options.attr.set & !later;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(attr as u32),
    )
    .step(|| format!("mount a {kind}"))
}

/// An empty tmpfs that holds nothing but what `fill` puts there, detached.
pub(crate) fn small_tmpfs(source: &str, mode: &str, attr: u64) -> Result<OwnedFd> {
    let make = || {
        let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(&context, "source", source)?;
        rustix::mount::fsconfig_set_string(&context, "mode", mode)?;
        rustix::mount::fsconfig_create(&context)?;
        rustix::mount::fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::from_bits_retain(attr as u32),
        )
    };
    make().step(|| "mount a tmpfs")
}
