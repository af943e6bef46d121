//! The control groups as the container sees them below /sys/fs/cgroup.
//!
//! Each hierarchy is a bind mount of the container's own group in it, cloned in
//! the host's view: with a cgroup namespace that is what a new mount would show,
//! without one it keeps the host's other groups out of sight.

use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_sys::exec::close_all;
use berth_sys::mount::{MOUNT_ATTR_RDONLY, MountAttr, mount_setattr};
use rustix::mount::MoveMountFlags;

use crate::error::{Context as _, Result};
use crate::filesystems;
use crate::mounts;
use crate::options::{MS_PRIVATE, Options};

/// One mounted hierarchy of the host.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) mount_point: PathBuf,
    pub(crate) is_v2: bool,
    /// What of the hierarchy is mounted there.
    root: PathBuf,
    /// Controllers or `name=…` (version 1).
    options: Vec<String>,
    /// The calling process's own group.
    own: PathBuf,
    /// The container's group, detached.
    pub(crate) tree: Option<OwnedFd>,
}

/// Those that a container sees.
#[derive(Debug)]
pub(crate) struct Hierarchies {
    pub(crate) list: Vec<Hierarchy>,
    /// They have their flags already.
    pub(crate) apart: bool,
}

impl Drop for Hierarchies {
    fn drop(&mut self) {
        let trees = self.list.iter_mut().filter_map(|one| one.tree.take());
        close_all(trees);
    }
}

impl Hierarchy {
    /// The group's directory below the mount point: the one named, or our own.
    pub(crate) fn group(&self, path: Option<&str>) -> PathBuf {
        let path = path.map_or(self.own.as_path(), Path::new);
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }

    /// "memory", "cpu,cpuacct", "systemd".
    pub(crate) fn name(&self) -> String {
        let name = self.mount_point.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// The mounted hierarchies, the first mount of each.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    // Room for all: the file does not say how long it is, and the standard
    // library would begin with 32 bytes.
    let read = |path: &'static str| {
        let mut text = String::with_capacity(16 * 1024);
        std::fs::File::open(path)
            .and_then(|file| file.take(u64::MAX).read_to_string(&mut text))
            .step(|| format!("read {path}"))?;
        Ok(text)
    };
    Ok(parse(
        &read("/proc/self/mountinfo")?,
        &read("/proc/self/cgroup")?,
    ))
}

/// mountinfo and cgroup as proc_pid_mountinfo(5) and cgroups(7) describe them.
fn parse(mountinfo: &str, membership: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut right = right.split(' ');
        let is_v2 = match right.next() {
            Some("cgroup") => false,
            Some("cgroup2") => true,
            _ => continue,
        };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount_point)) = (left.next(), left.next()) else {
            continue;
        };
        let options: Vec<_> = right
            .nth(1)
            .unwrap_or_default()
            .split(',')
            .map(str::to_owned)
            .collect();
        let own = membership
            .lines()
            .filter_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                Some((fields.next()?, fields.next()?))
            })
            .find(|(controllers, _)| {
                if is_v2 {
                    controllers.is_empty()
                } else {
                    controllers
                        .split(',')
                        .all(|name| options.iter().any(|option| option == name))
                        && !controllers.is_empty()
                }
            })
            .map_or("/", |(_, path)| path);
        let hierarchy = Hierarchy {
            mount_point: unescape(mount_point).into(),
            is_v2,
            root: unescape(root).into(),
            options,
            own: own.into(),
            tree: None,
        };
        let same = |other: &Hierarchy| {
            other.is_v2 == is_v2 && (is_v2 || other.options == hierarchy.options)
        };
        if !found.iter().any(same) {
            found.push(hierarchy);
        }
    }
    found
}

/// Octal escapes of mountinfo: `\040` is a space.
pub(crate) fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    })
}

/// Version 1: a tmpfs with a directory for each hierarchy, and symbolic links
/// from single controllers to those mounted together.
pub(crate) fn attach(
    target: BorrowedFd<'_>,
    hierarchies: &Hierarchies,
    options: &Options,
) -> Result<()> {
    let Hierarchies { list, apart } = hierarchies;
    let attr = options.attr.set & !MOUNT_ATTR_RDONLY;
    let top = filesystems::small_tmpfs("cgroup", "755", attr)?;
    for hierarchy in list {
        let name = hierarchy.name();
        mounts::make_directory(top.as_fd(), &name)?;
        for controller in name.split(',').filter(|part| *part != name) {
            rustix::fs::symlinkat(name.as_str(), &top, controller)
                .step(|| format!("link {controller} to {name}"))?;
        }
    }
    if *apart && options.attr.set & MOUNT_ATTR_RDONLY != 0 {
        mount_setattr(top.as_fd(), &options.attr.to_attr(), false).step(|| "set mount flags")?;
    }
    mounts::move_onto(top.as_fd(), target)?;
    for hierarchy in list {
        let Some(tree) = &hierarchy.tree else {
            continue;
        };
        let name = hierarchy.name();
        let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(tree, c"", &top, name.as_str(), empty)
            .step(|| format!("attach {name}"))?;
    }
    if *apart {
        return Ok(());
    }
    // All at once: nobody but this process sees them yet.
    set_flags(top.as_fd(), options, true)
}

pub(crate) fn set_flags(mount: BorrowedFd<'_>, options: &Options, recursive: bool) -> Result<()> {
    let attr = MountAttr {
        propagation: MS_PRIVATE,
        ..options.attr.to_attr()
    };
    mount_setattr(mount, &attr, recursive).step(|| "set mount flags")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/x /sys/fs/cgroup/mem\\040ory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /elsewhere rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
broken
";
    const MEMBERSHIP: &str =
        "5:cpu,cpuacct:/a:b\n4:memory:/docker/x/y\n1:name=systemd:/init\n0::/two\n";

    #[test]
    fn hierarchies_are_found_with_their_groups() {
        let found = parse(MOUNTS, MEMBERSHIP);
        let seen: Vec<_> = found
            .iter()
            .map(|h| (h.name(), h.is_v2, h.group(None)))
            .collect();
        assert_eq!(
            seen,
            [
                ("cpu,cpuacct".into(), false, PathBuf::from("a:b")),
                ("mem ory".into(), false, PathBuf::from("y")),
                ("systemd".into(), false, PathBuf::from("init")),
                ("unified".into(), true, PathBuf::from("two")),
            ]
        );
        assert_eq!(found[0].group(Some("/berth/x")), PathBuf::from("berth/x"));
    }
}
