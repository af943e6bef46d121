//! What a restored container does not get from its checkpoint: a root filesystem
//! with everything in it that mounts go on, what the host mounts there, and hooks.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_sys::clone::{CLONE_NEWCGROUP, CLONE_NEWUSER};
use oci_spec::runtime::{ContainerState, Linux, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, UnmountFlags};

use crate::Root;
use crate::cgroups;
use crate::devices;
use crate::error::{Context as _, Error, Result};
use crate::filesystems;
use crate::hooks::{self, Place, State};
use crate::mounts::{self, Setting};
use crate::namespaces;
use crate::netdev;
use crate::options::Options;
use crate::paths::{self, Kind};
use crate::rootfs;

/// Entries of the directory that [`mount_all`] makes.
pub const ROOT: &str = "root";
const NULL: &str = "null";

/// A mount in a container whose content is the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalMount {
    /// Where it is in the container.
    pub at: String,
    /// What a checkpoint calls it.
    pub name: String,
    /// In the directory of [`mount_all`], what is mounted there by a restore.
    pub source: String,
}

/// For which side of it [`external_mounts`] are asked.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// Of the container whose first process this is.
    Checkpoint(u32),
    /// From this bundle.
    Restore(&'a Path),
}

/// The mounts of `spec` that a checkpoint cannot hold. `root` is the container's
/// root, in which symbolic links in destinations are followed.
///
/// # Errors
/// The mounts of the host or the container cannot be read.
pub fn external_mounts(
    spec: &Spec,
    root: BorrowedFd<'_>,
    side: Side<'_>,
) -> Result<Vec<ExternalMount>> {
    let mountinfo = match side {
        Side::Checkpoint(pid) => format!("/proc/{pid}/mountinfo"),
        Side::Restore(_) => "/proc/self/mountinfo".to_owned(),
    };
    let mountinfo = std::fs::read_to_string(&mountinfo).step(|| format!("read {mountinfo}"))?;
    let mut found = Vec::new();
    let mut add = |at: String, source: String| {
        found.push(ExternalMount {
            name: at.clone(),
            at,
            source,
        });
    };
    for (number, mount) in spec.mounts().iter().flatten().enumerate() {
        let options = Options::parse(mount.options().iter().flatten().map(String::as_str));
        let kind = mount.typ().as_deref().unwrap_or_default();
        let at = resolve(root, mount.destination());
        if options.bind.is_some() || kind == "bind" {
            let name = mounts::source_name(number, None);
            if options.bind == Some(true) {
                let top = match side {
                    Side::Checkpoint(_) => Some(PathBuf::from(&at)),
                    Side::Restore(bundle) => {
                        let source = bundle.join(mount.source().clone().unwrap_or_default());
                        std::fs::canonicalize(source).ok()
                    }
                };
                for below in top.iter().flat_map(|top| mounted_below(&mountinfo, top)) {
                    let place = Path::new(&at).join(&below);
                    if !is_configured(spec, Path::new(&at), &place) {
                        let source = Path::new(&name).join(&below);
                        add(text(&place), text(&source));
                    }
                }
            }
            add(at, name);
        } else if matches!(kind, "cgroup" | "cgroup2") && !has_namespace(spec, CLONE_NEWCGROUP) {
            let hierarchies = cgroups::hierarchies()?;
            if hierarchies.iter().any(|hierarchy| !hierarchy.is_v2) {
                for hierarchy in &hierarchies {
                    let at = format!("{at}/{}", hierarchy.name());
                    add(at, mounts::source_name(number, Some(hierarchy)));
                }
            }
        }
    }
    let Some(linux) = spec.linux() else {
        return Ok(found);
    };
    // Where nodes may not be made, the host's are mounted.
    for (number, path) in devices(linux).enumerate() {
        add(resolve(root, &path), device_name(number));
    }
    for masked in linux.masked_paths().iter().flatten() {
        let directory = paths::open_in(root, Path::new(masked))
            .and_then(|masked| paths::is_directory(masked.as_fd()));
        // A directory is covered by a tmpfs of the container's own.
        if directory != Ok(true) {
            found.push(ExternalMount {
                at: resolve(root, Path::new(masked)),
                // As in runc's checkpoints.
                name: "/dev/null".to_owned(),
                source: NULL.to_owned(),
            });
        }
    }
    Ok(found)
}

/// Where something is mounted below `top`, from there on.
fn mounted_below(mountinfo: &str, top: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.map(|point| PathBuf::from(cgroups::unescape(point)));
    points
        .filter_map(|point| Some(point.strip_prefix(top).ok()?.to_owned()))
        .filter(|below| !below.as_os_str().is_empty())
        .collect()
}

/// Whether the mount at `place`, below the bind mount at `at`, has come from the
/// configuration instead of with the bind mount.
fn is_configured(spec: &Spec, at: &Path, place: &Path) -> bool {
    let absolute = |path: &Path| Path::new("/").join(paths::clean(path));
    let mut others = spec
        .mounts()
        .iter()
        .flatten()
        .map(|mount| absolute(mount.destination()));
    let linux = spec.linux().as_ref();
    let masked = linux.and_then(|linux| linux.masked_paths().as_ref());
    let read_only = linux.and_then(|linux| linux.readonly_paths().as_ref());
    let mut covered = masked.into_iter().chain(read_only).flatten();
    others.any(|other| other != at && other.starts_with(at) && place.starts_with(&other))
        || covered.any(|path| absolute(Path::new(path)) == place)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn devices(linux: &Linux) -> impl Iterator<Item = PathBuf> {
    let listed = linux.devices().iter().flatten();
    devices::default_paths().chain(listed.map(|device| device.path().clone()))
}

fn device_name(number: usize) -> String {
    format!("device-{number}")
}

/// Where `path` leads in `root`, as a path from there.
fn resolve(root: BorrowedFd<'_>, path: &Path) -> String {
    let name = |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let found = paths::open_in(root, path)
        .ok()
        .and_then(|found| Some((name(root).ok()?, name(found.as_fd()).ok()?)))
        .and_then(|(root, found)| Some(found.strip_prefix(root).ok()?.to_owned()));
    let found = found.unwrap_or_else(|| paths::clean(path));
    text(&Path::new("/").join(found))
}

fn has_namespace(spec: &Spec, flag: u64) -> bool {
    let wanted = match flag {
        CLONE_NEWCGROUP => LinuxNamespaceType::Cgroup,
        _ => LinuxNamespaceType::User,
    };
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == wanted)
}

/// Mounts on the directory `at` what a restore needs of the host, in a mount
/// namespace that this process gets for it: [`ROOT`], the bundle's root filesystem
/// with everything in it that mounts go on, and the sources of [`external_mounts`].
/// Those have their flags and identifier mappings: CRIU gives the same flags to two
/// mounts of one filesystem by not setting those of the second, so a read-only mount
/// would become writable. Nothing of it is left when the process ends.
///
/// # Errors
/// What `create` would say of the same configuration.
pub fn mount_all(spec: &Spec, bundle: &Path, cgroup: Option<&str>, at: &Path) -> Result<()> {
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| Error::invalid("linux is missing"))?;
    let setting = Setting {
        bundle: Some(bundle),
        cgroup,
        own_cgroup_namespace: has_namespace(spec, CLONE_NEWCGROUP),
        own_user_namespace: has_namespace(spec, CLONE_NEWUSER),
        apart: true,
        // One with a user namespace is refused.
        users: None,
        sources: &[],
    };
    berth_sys::fork::unshare_mount_namespace().step(|| "make a mount namespace")?;
    // While they can still be slaves of the host's.
    let sources = mounts::prepare(spec, &setting)?;
    let host = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .step(|| "open /")?;
    mounts::set_private(host.as_fd())?;

    let directory = filesystems::small_tmpfs("criu", "700", 0)?;
    put(directory.as_fd(), at)?;
    mounts::make_directory(directory.as_fd(), ROOT)?;
    mounts::attach_sources(directory.as_fd(), &sources)?;
    attach_node(directory.as_fd(), NULL, &paths::host_null()?)?;
    for (number, path) in devices(linux).enumerate() {
        let node = rustix::fs::openat(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        // Only where it was made was it not needed.
        if let Ok(node) = node {
            attach_node(directory.as_fd(), &device_name(number), &node)?;
        }
    }
    let root = at.join(ROOT);
    make_places(spec, linux, bundle, &setting, &root)?;
    put(rootfs::prepare(&Root::Bundle(bundle), spec)?.as_fd(), &root)
}

fn attach_node(directory: BorrowedFd<'_>, name: &str, node: &OwnedFd) -> Result<()> {
    let mount = mounts::clone_node(node.as_fd()).step(|| format!("clone {name}"))?;
    devices::bind_on_file(directory, name, mount.as_fd())
}

/// Mounts all of it as `create` does, and takes it away again: the mounts come from
/// the checkpoint, the places in the root filesystem and in bind mounts do not.
fn make_places(
    spec: &Spec,
    linux: &Linux,
    bundle: &Path,
    setting: &Setting<'_>,
    at: &Path,
) -> Result<()> {
    let root = rootfs::prepare(&Root::Bundle(bundle), spec)?;
    let prepared = mounts::prepare(spec, setting)?;
    put(root.as_fd(), at)?;
    mounts::attach_all(root.as_fd(), &prepared)?;
    if !mounts::has_foreign_dev(&prepared) {
        devices::make_all(root.as_fd(), linux, setting.own_user_namespace)?;
        let process = spec.process().as_ref();
        if process.and_then(|process| process.terminal()) == Some(true) {
            paths::ensure(root.as_fd(), Path::new("dev/console"), Kind::File)?;
        }
    }
    rustix::mount::unmount(at, UnmountFlags::DETACH).step(|| format!("unmount {}", at.display()))
}

fn put(root: BorrowedFd<'_>, at: &Path) -> Result<()> {
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(root, c"", CWD, at, empty)
        .step(|| format!("mount on {}", at.display()))
}

/// What `create` does when the namespaces of process `pid` are there: network
/// devices go in, the prestart and createRuntime hooks run.
///
/// # Errors
/// A device cannot be moved, a hook failed.
pub fn enter_namespaces(spec: &Spec, id: &str, bundle: &Path, pid: u32) -> Result<()> {
    let devices = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.net_devices().as_ref());
    if let Some(devices) = devices.filter(|devices| !devices.is_empty()) {
        let network: OwnedFd = namespaces::open(Path::new(&format!("/proc/{pid}/ns/net")))?;
        netdev::move_all(&netdev::devices(devices)?, network.as_fd())?;
    }
    let state = State::new(spec, id, &Root::Bundle(bundle));
    let Some(all) = spec.hooks() else {
        return Ok(());
    };
    let status = ContainerState::Creating;
    for (name, list) in [
        ("prestart", all.prestart()),
        ("createRuntime", all.create_runtime()),
    ] {
        hooks::run(Place::Runtime, name, list.as_ref(), &state, status, pid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /data rw - tmpfs tmpfs rw
32 31 0:29 / /data/in\\040side rw - tmpfs tmpfs rw
33 31 0:30 / /data/own/x rw - tmpfs tmpfs rw
34 31 0:30 / /database rw - tmpfs tmpfs rw
broken
";

    #[test]
    fn what_comes_with_a_bind_mount_is_told_from_the_rest() {
        let below = mounted_below(MOUNTS, Path::new("/data"));
        assert_eq!(below, [PathBuf::from("in side"), "own/x".into()]);
        let spec: Spec = serde_json::from_str(
            r#"{"ociVersion":"1.2.0","mounts":[{"destination":"/data"},{"destination":"data/own"}],
                "linux":{"maskedPaths":["/data/masked"]}}"#,
        )
        .unwrap();
        for (place, configured) in [
            ("/data/in side", false),
            ("/data/own/x", true),
            ("/data/own", true),
            ("/data/masked", true),
        ] {
            let at = Path::new("/data");
            assert_eq!(
                is_configured(&spec, at, Path::new(place)),
                configured,
                "{place}"
            );
        }
    }
}
