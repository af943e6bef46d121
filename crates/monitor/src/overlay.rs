//! A container's root filesystem: its layers and its upper directory as one
//! overlay, built as a detached mount that no mount table ever shows.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, open_tree,
    unmount,
};

use crate::protocol::{Layer, RootFs};

/// Set always, so that an upper directory holds plain files however the
/// kernel was configured: no renamed directories or inodes without data that
/// only overlayfs could read, and no index that binds it to its first layers.
const OPTIONS: [(&str, &str); 3] = [
    ("index", "off"),
    ("redirect_dir", "nofollow"),
    ("metacopy", "off"),
];

/// Mounts `root`, detached. `scratch` is a directory that may be mounted over
/// for a moment (on kernels before 6.5).
pub(crate) fn mount_detached(root: &RootFs, scratch: &Path) -> io::Result<OwnedFd> {
    if root.layers.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an image needs at least one layer",
        ));
    }
    let layers = open_layers(&root.layers)?;
    let upper = open_dir(&root.upper)?;
    let work = open_dir(&root.work)?;
    let parts = Parts {
        layers: &layers,
        writable: Some((&upper, &work)),
        inert: false,
        options: &root.options,
    };
    parts.mount_either(scratch).map_err(|error| {
        crate::context(error, || {
            format!(
                "mount overlay of {} layers on {}",
                layers.len(),
                root.upper.display()
            )
        })
    })
}

/// Mounts `layers`, topmost first, as one read-only file system, detached.
/// `empty` is an empty directory: below all, since an overlay without an upper
/// directory wants two layers, and mounted over for a moment (before 6.5).
pub(crate) fn merge(layers: &[Layer], options: &[String], empty: &Path) -> io::Result<OwnedFd> {
    let mut layers = open_layers(layers)?;
    layers.push(open_dir(empty)?);
    read_only(&layers, options, empty, true)
}

/// The same of two layers or more, with programs that run. `scratch` may be
/// mounted over for a moment.
pub(crate) fn merge_all(
    layers: &[Layer],
    options: &[String],
    scratch: &Path,
) -> io::Result<OwnedFd> {
    read_only(&open_layers(layers)?, options, scratch, false)
}

fn read_only(
    layers: &[OwnedFd],
    options: &[String],
    scratch: &Path,
    inert: bool,
) -> io::Result<OwnedFd> {
    let parts = Parts {
        layers,
        writable: None,
        inert,
        options,
    };
    parts.mount_either(scratch).map_err(|error| {
        crate::context(error, || {
            format!("mount overlay of {} layers", layers.len())
        })
    })
}

fn open_layers(layers: &[Layer]) -> io::Result<Vec<OwnedFd>> {
    let open = |layer: &Layer| match layer {
        Layer::Directory { path } => open_dir(path),
        // The launcher has mounted them all.
        Layer::Erofs { path } => Err(io::Error::other(format!(
            "the layer {} is not mounted",
            path.display()
        ))),
    };
    layers.iter().map(open).collect()
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| crate::context(error, || format!("open {}", path.display())))
}

/// A path that leads to what `fd` names, whatever its real path holds
/// (commas, colons, more than the 255 bytes an option may have).
fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

struct Parts<'a> {
    /// Topmost first.
    layers: &'a [OwnedFd],
    /// Upper and work directory; none = read-only.
    writable: Option<(&'a OwnedFd, &'a OwnedFd)>,
    /// To look at only: no programs, no devices.
    inert: bool,
    options: &'a [String],
}

impl Parts<'_> {
    fn mount_either(&self, scratch: &Path) -> Result<OwnedFd, Errno> {
        match self.mount() {
            // The kernel does not know `lowerdir+`.
            Err(Errno::INVAL) => self.mount_classic(scratch),
            result => result,
        }
    }

    /// With `lowerdir+` (Linux 6.5).
    fn mount(&self) -> Result<OwnedFd, Errno> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = context.as_fd();
        fsconfig_set_string(context, "source", "overlay")?;
        for layer in self.layers {
            fsconfig_set_string(context, "lowerdir+", path_of(layer))?;
        }
        if let Some((upper, work)) = self.writable {
            fsconfig_set_string(context, "upperdir", path_of(upper))?;
            fsconfig_set_string(context, "workdir", path_of(work))?;
        }
        for (key, value) in OPTIONS {
            fsconfig_set_string(context, key, value)?;
        }
        for option in self.options {
            match option.split_once('=') {
                Some((key, value)) => fsconfig_set_string(context, key, value)?,
                None => fsconfig_set_flag(context, option.as_str())?,
            }
        }
        fsconfig_create(context)?;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes())
    }

    fn attributes(&self) -> MountAttrFlags {
        let mut attributes = MountAttrFlags::empty();
        if self.writable.is_none() {
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        if self.inert {
            attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        }
        attributes
    }

    /// With mount(2) and one string of all options, on `scratch`, from where
    /// it is taken at once. The mount namespace is the launcher's own.
    fn mount_classic(&self, scratch: &Path) -> Result<OwnedFd, Errno> {
        let layers: Vec<String> = self.layers.iter().map(path_of).collect();
        let mut data = format!("lowerdir={}", layers.join(":"));
        let mut flags = MountFlags::empty();
        match self.writable {
            Some((upper, work)) => {
                let (upper, work) = (path_of(upper), path_of(work));
                data.push_str(&format!(",upperdir={upper},workdir={work}"));
            }
            None => flags |= MountFlags::RDONLY,
        }
        if self.inert {
            flags |= MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        }
        for (key, value) in OPTIONS {
            data.push_str(&format!(",{key}={value}"));
        }
        for option in self.options {
            data.push(',');
            data.push_str(option);
        }
        let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
        mount("overlay", scratch, "overlay", flags, Some(data.as_c_str()))?;
        let tree = open_tree(
            CWD,
            scratch,
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        );
        unmount(scratch, UnmountFlags::DETACH)?;
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::openat;

    /// In a mount namespace of its own.
    #[test]
    fn both_ways_give_the_same_filesystem() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root to mount");
            return;
        }
        std::thread::spawn(|| {
            berth_sys::fork::unshare_mount_namespace().unwrap();
            rustix::mount::mount_change(
                "/",
                rustix::mount::MountPropagationFlags::PRIVATE
                    | rustix::mount::MountPropagationFlags::REC,
            )
            .unwrap();
            let dir = tempfile::tempdir_in("/dev/shm").unwrap();
            let path = |name: &str| dir.path().join(name);
            for name in ["a:,b", "lower2", "upper", "work", "scratch"] {
                std::fs::create_dir(path(name)).unwrap();
            }
            std::fs::write(path("a:,b").join("top"), "1").unwrap();
            std::fs::write(path("a:,b").join("both"), "from the top").unwrap();
            std::fs::write(path("lower2").join("both"), "from below").unwrap();
            let root = RootFs {
                layers: vec![
                    Layer::Directory { path: path("a:,b") },
                    Layer::Directory {
                        path: path("lower2"),
                    },
                ],
                upper: path("upper"),
                work: path("work"),
                options: Vec::new(),
            };
            let read = |mount: &OwnedFd, name: &str| {
                let file = openat(mount, name, OFlags::RDONLY, Mode::empty()).unwrap();
                io::read_to_string(std::fs::File::from(file)).unwrap()
            };
            let before = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let mount = mount_detached(&root, &path("scratch")).unwrap();
            assert_eq!(read(&mount, "both"), "from the top");
            drop(mount);

            let layers = open_layers(&root.layers).unwrap();
            let (upper, work) = (
                open_dir(&root.upper).unwrap(),
                open_dir(&root.work).unwrap(),
            );
            let parts = Parts {
                layers: &layers,
                writable: Some((&upper, &work)),
                inert: false,
                options: &[],
            };
            let mount = parts.mount_classic(&path("scratch")).unwrap();
            assert_eq!(read(&mount, "both"), "from the top");
            assert_eq!(read(&mount, "top"), "1");
            assert_eq!(
                std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
                before
            );

            let missing = RootFs {
                upper: path("gone"),
                ..root
            };
            let error = mount_detached(&missing, &path("scratch")).unwrap_err();
            assert!(error.to_string().contains("gone: No such file"), "{error}");
        })
        .join()
        .unwrap();
    }
}
