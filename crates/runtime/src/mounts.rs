//! The `mounts` of a configuration.
//!
//! Prepared by the parent, in the host's view: sources of bind mounts are cloned
//! there, with their flags set before anyone can see them. Attached by the child:
//! every destination is resolved to a descriptor inside the root and mounted on
//! by descriptor (CVE-2021-30465). Only the new mount calls are used, no path of
//! the container ever reaches mount(2).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_sys::mount::{
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MountAttr, mount_setattr,
};
use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::cgroups::{self, Hierarchies, Hierarchy};
use crate::copyup;
use crate::error::{Context as _, Error, Result};
use crate::filesystems;
use crate::idmap::{self, Users};
use crate::options::{Attributes, Options};
use crate::paths::{self, Kind};
use crate::procfs::{self, Procfs};

/// One mount, ready for the child.
#[derive(Debug)]
pub(crate) struct Prepared {
    destination: PathBuf,
    /// As in the configuration, for messages.
    source: String,
    what: What,
    options: Options,
}

#[derive(Debug)]
enum What {
    /// A detached clone of the source.
    Bind(OwnedFd, Kind),
    Filesystem(String),
    /// Version 1: a tmpfs with one bind mount for each hierarchy.
    Cgroups(Hierarchies),
}

/// What the child keeps of the mounts it made.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) proc: Option<Procfs>,
    /// Root of the devpts instance at /dev/pts.
    pub(crate) devpts: Option<OwnedFd>,
    /// What was missing and was made to mount on; see [`paths::ensure_noting`].
    pub(crate) places: Vec<PathBuf>,
    /// What becomes read-only when all is in place.
    late: Vec<OwnedFd>,
}

impl Made {
    /// The last step: a tmpfs stays writable while nodes, links and destinations
    /// of other mounts are made in it.
    pub(crate) fn finish(&self) -> Result<()> {
        let attr = MountAttr {
            set: MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        self.late.iter().try_for_each(|mount| {
            mount_setattr(mount.as_fd(), &attr, false).step(|| "make a tmpfs read-only")
        })
    }
}

/// What the parent knows that matters to mounts.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) bundle: Option<&'a Path>,
    pub(crate) cgroup: Option<&'a str>,
    pub(crate) own_cgroup_namespace: bool,
    pub(crate) own_user_namespace: bool,
    /// Each control group hierarchy gets its flags by itself, before it is
    /// attached: what is put into another user namespace cannot be changed there.
    pub(crate) apart: bool,
    /// The container's mapping of users, when it has one.
    pub(crate) users: Option<Users<'a>>,
    /// See [`crate::Create::sources`].
    pub(crate) sources: &'a [(&'a Path, BorrowedFd<'a>)],
}

/// Parses all mounts and opens the sources of bind mounts.
pub(crate) fn prepare(spec: &Spec, setting: &Setting<'_>) -> Result<Vec<Prepared>> {
    let label = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.mount_label().as_deref());
    let mounts = spec.mounts().iter().flatten();
    mounts
        .map(|mount| prepare_one(mount, setting, label.unwrap_or_default()))
        .collect()
}

/// Whether something of the host is mounted on the container's /dev: then its
/// devices are left as they are.
pub(crate) fn has_foreign_dev(mounts: &[Prepared]) -> bool {
    mounts.iter().any(|mount| {
        matches!(mount.what, What::Bind(..)) && paths::clean(&mount.destination) == Path::new("dev")
    })
}

fn prepare_one(mount: &Mount, setting: &Setting<'_>, label: &str) -> Result<Prepared> {
    let destination = mount.destination().clone();
    if paths::clean(&destination).as_os_str().is_empty() {
        return Err(Error::invalid(format!(
            "mount destination {:?} is the root itself",
            destination.display()
        )));
    }
    let mut options = Options::parse(mount.options().iter().flatten().map(String::as_str));
    let kind = mount.typ().as_deref().unwrap_or_default();
    let source = mount.source().clone().unwrap_or_default();
    let named = |step: Error| wrap(step, &source.to_string_lossy(), &destination);
    if kind == "bind" && options.bind.is_none() {
        options.bind = Some(false);
    }
    if options.bind.is_none() {
        // Nothing is mounted below it yet.
        (options.attr).apply(options.recursive.set, options.recursive.clear);
    }
    let what = if let Some(recursive) = options.bind {
        // Words of mount(8) about a whole filesystem say nothing of a view of one.
        let whole = |key: &str| matches!(key, "sync" | "dirsync" | "lazytime" | "mand");
        if let Some((key, _)) = options.data.iter().find(|(key, _)| !whole(key)) {
            return Err(named(Error::invalid(format!(
                "{key:?} is not an option of a bind mount"
            ))));
        }
        let given = setting.sources.iter().find(|(at, _)| *at == destination);
        let source = match setting.bundle {
            Some(bundle) => bundle.join(&source),
            None if source.is_absolute() || given.is_some() => source.clone(),
            None => return Err(named(Error::invalid("the source is not an absolute path"))),
        };
        let tree = match given {
            Some((_, tree)) => given_tree(*tree),
            None => clone_tree(&source, recursive, options.propagation.is_empty()),
        };
        let (tree, kind) = tree
            .and_then(|tree| {
                decorate(&tree.0, &options, mount, setting)?;
                Ok(tree)
            })
            .map_err(named)?;
        What::Bind(tree, kind)
    } else if kind == "cgroup" || kind == "cgroup2" {
        // CVE-2023-25809: without a cgroup namespace of its own, root of a user
        // namespace would be given the host's groups to change.
        if setting.own_user_namespace && !setting.own_cgroup_namespace {
            options.attr.set |= MOUNT_ATTR_RDONLY;
        }
        prepare_cgroup(&options, setting).map_err(named)?
    } else if kind.is_empty() || kind == "none" {
        return Err(named(Error::invalid(
            "the mount has no type and is no bind mount",
        )));
    } else {
        if options.idmap.is_some() {
            return Err(named(Error::invalid("only bind mounts can be idmapped")));
        }
        if !label.is_empty() && !matches!(kind, "proc" | "sysfs") {
            options.data.push(("context".into(), Some(label.into())));
        }
        // Nothing is mounted below it yet.
        options
            .attr
            .apply(options.recursive.set, options.recursive.clear);
        What::Filesystem(kind.into())
    };
    Ok(Prepared {
        destination,
        source: source.to_string_lossy().into_owned(),
        what,
        options,
    })
}

/// The caller's mount, of which nobody else has another use.
fn given_tree(tree: BorrowedFd<'_>) -> Result<(OwnedFd, Kind)> {
    let tree = tree.try_clone_to_owned().step(|| "keep a mount")?;
    let kind = kind_of(&tree)?;
    Ok((tree, kind))
}

/// A detached copy of the mount at `source`; a slave of it, unless the configuration
/// says how mounts are to propagate.
fn clone_tree(source: &Path, recursive: bool, slave: bool) -> Result<(OwnedFd, Kind)> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = rustix::mount::open_tree(CWD, source, flags)
        .step(|| format!("stat {}", source.display()))?;
    if slave {
        // Of a shared mount it would be a peer: what the container mounts in it would
        // appear on the host. As in runc, what the host mounts there is seen.
        let attr = MountAttr {
            propagation: crate::options::MS_SLAVE,
            ..MountAttr::default()
        };
        mount_setattr(tree.as_fd(), &attr, recursive).step(|| "make a mount a slave")?;
    }
    let kind = kind_of(&tree)?;
    Ok((tree, kind))
}

fn kind_of(tree: &OwnedFd) -> Result<Kind> {
    let directory = paths::is_directory(tree.as_fd()).step(|| "stat the source")?;
    Ok(if directory {
        Kind::Directory
    } else {
        Kind::File
    })
}

/// Flags, identifier mapping and propagation of a bind mount, while detached.
fn decorate(tree: &OwnedFd, options: &Options, mount: &Mount, setting: &Setting<'_>) -> Result<()> {
    if !options.recursive.is_empty() {
        set_flags(tree.as_fd(), options.recursive, true)?;
    }
    if !options.attr.is_empty() {
        set_flags(tree.as_fd(), options.attr, false)?;
    }
    if let Some(recursive) = options
        .idmap
        .or_else(|| mount.uid_mappings().as_ref().map(|_| false))
    {
        let (uids, gids) = (
            mount.uid_mappings().as_deref().unwrap_or_default(),
            mount.gid_mappings().as_deref().unwrap_or_default(),
        );
        match setting.users {
            // A mapping of its own, or that of the container.
            Some(users) if uids.is_empty() && gids.is_empty() => {
                idmap::apply(tree.as_fd(), users, recursive)?;
            }
            _ => idmap::apply(tree.as_fd(), Users::Maps(uids, gids), recursive)?,
        }
    }
    set_propagation(tree.as_fd(), options)
}

/// What a more privileged mount namespace has locked stays: asking to loosen it is
/// no reason to fail, as in runc.
fn set_flags(mount: BorrowedFd<'_>, flags: Attributes, recursive: bool) -> Result<()> {
    match mount_setattr(mount, &flags.to_attr(), recursive) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && flags.clear != 0 => {
            let only_set = Attributes { clear: 0, ..flags };
            mount_setattr(mount, &only_set.to_attr(), recursive)
        }
        other => other,
    }
    .step(|| "set mount flags")
}

fn set_propagation(mount: BorrowedFd<'_>, options: &Options) -> Result<()> {
    for &(propagation, recursive) in &options.propagation {
        let attr = MountAttr {
            propagation,
            ..MountAttr::default()
        };
        mount_setattr(mount, &attr, recursive).step(|| "set mount propagation")?;
    }
    Ok(())
}

fn prepare_cgroup(options: &Options, setting: &Setting<'_>) -> Result<What> {
    let found = cgroups::hierarchies()?;
    let unified = found.iter().all(|hierarchy| hierarchy.is_v2);
    let mut opened = Vec::new();
    for mut hierarchy in found {
        // Version 2 without a namespace of its own shows the whole tree, as runc
        // does; version 1 always the container's own groups.
        let path = if unified && !setting.own_cgroup_namespace {
            Path::new("/").to_owned()
        } else {
            hierarchy.group(setting.cgroup)
        };
        let directory = hierarchy.mount_point.join(paths::relative(&path));
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        match rustix::mount::open_tree(CWD, &directory, clone) {
            Ok(tree) => {
                if unified || setting.apart {
                    cgroups::set_flags(tree.as_fd(), options, false)?;
                }
                if unified {
                    return Ok(What::Bind(tree, Kind::Directory));
                }
                hierarchy.tree = Some(tree);
                opened.push(hierarchy);
            }
            // A hierarchy that the container has no group in.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).step(|| format!("stat {}", directory.display())),
        }
    }
    Ok(What::Cgroups(Hierarchies {
        list: opened,
        apart: setting.apart,
    }))
}

pub(crate) fn set_private(mount: BorrowedFd<'_>) -> Result<()> {
    let attr = MountAttr {
        propagation: crate::options::MS_PRIVATE,
        ..MountAttr::default()
    };
    mount_setattr(mount, &attr, true).step(|| "make a mount private")
}

/// Attaches everything below `root`, in order. Runs in the child.
pub(crate) fn attach_all(root: BorrowedFd<'_>, mounts: &[Prepared]) -> Result<Made> {
    let mut made = Made::default();
    for mount in mounts {
        attach(root, mount, &mut made)
            .map_err(|error| wrap(error, &mount.source, &mount.destination))?;
    }
    Ok(made)
}

/// Attaches what is the host's of the mounts to entries of `directory`, named by
/// [`source_name`]. For restored containers.
pub(crate) fn attach_sources(directory: BorrowedFd<'_>, mounts: &[Prepared]) -> Result<()> {
    let attach = |name: String, kind: Kind, tree: &OwnedFd| {
        let target = paths::ensure(directory, Path::new(&name), kind)?;
        move_onto(tree.as_fd(), target.as_fd())
    };
    for (number, mount) in mounts.iter().enumerate() {
        match &mount.what {
            What::Bind(tree, kind) => attach(source_name(number, None), *kind, tree)?,
            What::Cgroups(hierarchies) => {
                for hierarchy in &hierarchies.list {
                    if let Some(tree) = &hierarchy.tree {
                        let name = source_name(number, Some(hierarchy));
                        attach(name, Kind::Directory, tree)?;
                    }
                }
            }
            What::Filesystem(_) => {}
        }
    }
    Ok(())
}

/// Of the mount with this number in the configuration, or of one of its hierarchies.
pub(crate) fn source_name(number: usize, hierarchy: Option<&Hierarchy>) -> String {
    match hierarchy {
        None => number.to_string(),
        Some(hierarchy) => format!("{number}-{}", hierarchy.name()),
    }
}

fn attach(root: BorrowedFd<'_>, mount: &Prepared, made: &mut Made) -> Result<()> {
    match &mount.what {
        What::Bind(tree, kind) => {
            let target = paths::ensure_noting(root, &mount.destination, *kind, &mut made.places)?;
            procfs::check_mount(&mount.destination, target.as_fd(), procfs::is_root(tree))?;
            move_onto(tree.as_fd(), target.as_fd()).map_err(|error| {
                // The kernel says EINVAL for a directory on a file and the reverse.
                let directory = paths::is_directory(target.as_fd());
                match directory {
                    Ok(false) if *kind == Kind::Directory => {
                        Error::step("attach the mount", Errno::NOTDIR)
                    }
                    Ok(true) if *kind == Kind::File => {
                        Error::step("attach the mount", Errno::ISDIR)
                    }
                    _ => error,
                }
            })
        }
        What::Cgroups(hierarchies) => {
            let (at, kind) = (&mount.destination, Kind::Directory);
            let target = paths::ensure_noting(root, at, kind, &mut made.places)?;
            procfs::check_mount(&mount.destination, target.as_fd(), false)?;
            cgroups::attach(target.as_fd(), hierarchies, &mount.options)
        }
        What::Filesystem(kind) => {
            let mut mode = None;
            let target = match kind.as_str() {
                "proc" | "sysfs" => {
                    real_directory(root, &mount.destination, kind, &mut made.places)?
                }
                _ => {
                    let (at, kind) = (&mount.destination, Kind::Directory);
                    let known = made.places.len();
                    let target = paths::ensure_noting(root, at, kind, &mut made.places)?;
                    if made.places.len() == known {
                        // Like the directory it hides, as runc does.
                        let stat = rustix::fs::fstat(&target).step(|| "stat the destination")?;
                        mode = Some(stat.st_mode & 0o7777);
                    }
                    target
                }
            };
            procfs::check_mount(&mount.destination, target.as_fd(), kind == "proc")?;
            let new = filesystems::new(kind, &mount.source, &mount.options, mode)?;
            if mount.options.copy_up {
                copyup::copy(target.as_fd(), new.as_fd())?;
            }
            move_onto(new.as_fd(), target.as_fd())?;
            set_propagation(new.as_fd(), &mount.options)?;
            let at = paths::clean(&mount.destination);
            if kind == "proc" && at == Path::new("proc") {
                made.proc = Some(Procfs::from_mount(new.as_fd())?);
            } else if kind == "devpts" && at == Path::new("dev/pts") {
                made.devpts = Some(new);
            } else if kind == "tmpfs" && mount.options.attr.set & MOUNT_ATTR_RDONLY != 0 {
                made.late.push(new);
            }
            Ok(())
        }
    }
}

/// procfs and sysfs go on a directory reached without symbolic links, else labels
/// and masks would be written elsewhere (CVE-2019-19921, CVE-2023-27561,
/// CVE-2023-28642).
fn real_directory(
    root: BorrowedFd<'_>,
    path: &Path,
    kind: &str,
    made: &mut Vec<PathBuf>,
) -> Result<OwnedFd> {
    let open = || paths::open_real_directory(root, path);
    let result = match open() {
        Err(Errno::NOENT) => {
            paths::ensure_noting(root, path, Kind::Directory, made)?;
            open()
        }
        other => other,
    };
    result.map_err(|errno| match errno {
        Errno::LOOP | Errno::NOTDIR => Error::invalid(format!(
            "filesystem {kind:?} must be mounted on an ordinary directory, not through a symbolic link"
        )),
        errno => Error::step(format!("open {} in the container", path.display()), errno),
    })
}

/// Attaches a detached mount on what `target` refers to.
pub(crate) fn move_onto(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    rustix::mount::move_mount(
        mount,
        c"",
        target,
        c"",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
    .step(|| "attach the mount")
}

/// A clone of a node of the host, to be seen in the container. Read-only, which a
/// device does not mind, so that not even root there changes the node's mode or
/// owner for the host.
pub(crate) fn clone_node(fd: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let clone = clone_fd(fd, false)?;
    let attr = MountAttr {
        set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC,
        ..MountAttr::default()
    };
    mount_setattr(clone.as_fd(), &attr, false)?;
    Ok(clone)
}

/// A detached clone of what `fd` refers to, a file or a directory of a mount of
/// the calling process's own namespace.
pub(crate) fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> std::result::Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(fd, c"", flags)
}

/// Makes a directory in a mount of our own.
pub(crate) fn make_directory(parent: BorrowedFd<'_>, name: &str) -> Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::step(format!("make directory {name}"), errno)),
    }
}

/// runc's words around a failed mount; Docker's users know them.
fn wrap(error: Error, source: &str, destination: &Path) -> Error {
    let context = format!(
        "error mounting {source:?} to rootfs at {:?}",
        destination.to_string_lossy()
    );
    match error {
        Error::Step { step, source } => Error::Step {
            step: format!("{context}: {step}"),
            source,
        },
        Error::Invalid(text) => Error::Invalid(format!("{context}: {text}")),
        other => other,
    }
}
