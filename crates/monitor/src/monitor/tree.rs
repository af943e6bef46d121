//! Sources of bind mounts that are no paths of the host: layers, or a part of a
//! mount that the engine made.
//!
//! A part of a detached mount can be taken only while it is attached somewhere
//! (before Linux 6.15), so it is attached for a moment, in the launcher's own
//! mount namespace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};

use super::Failed;
use crate::overlay;
use crate::protocol::{Tree, TreeFrom};

/// A rename elsewhere in the system lets openat2 give up with `EAGAIN`.
const MAX_RETRIES: usize = 128;

/// One detached mount for each, in their order. `scratch` is a directory that
/// may be mounted over for a moment.
pub(super) fn open_all(
    trees: &[Tree],
    given: Option<OwnedFd>,
    scratch: &Path,
) -> Result<Vec<OwnedFd>, Failed> {
    let given = match given {
        Some(mount) => Some(
            Attached::new(mount, scratch)
                .map_err(|error| Failed::system("attach the files of the mounts", error))?,
        ),
        None => None,
    };
    let of_given = |tree: &Tree| -> Result<Option<OwnedFd>, Failed> {
        if !matches!(tree.from, TreeFrom::Given) {
            return Ok(None);
        }
        let attached = given.as_ref().ok_or_else(|| {
            Failed::invalid("the start message lacks the mount to take trees from")
        })?;
        attached
            .part(&tree.path)
            .map(Some)
            .map_err(|error| failed(tree, error))
    };
    let parts: Vec<_> = trees.iter().map(of_given).collect::<Result<_, _>>()?;
    drop(given);
    (trees.iter().zip(parts))
        .map(|(tree, part)| match part {
            Some(part) => Ok(part),
            None => of_layers(tree, scratch).map_err(|error| failed(tree, error)),
        })
        .collect()
}

/// In the words of the runtime, which would have said it of a path.
fn failed(tree: &Tree, error: io::Error) -> Failed {
    let tried = format!(
        "error mounting {:?} to rootfs at {:?}",
        tree.path.display().to_string(),
        tree.target.display().to_string()
    );
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Failed::invalid(format!("{tried}: stat: no such file or directory"))
        }
        _ => Failed::system(&tried, error),
    }
}

fn of_layers(tree: &Tree, scratch: &Path) -> io::Result<OwnedFd> {
    let whole = match &tree.from {
        TreeFrom::Layers { layers, options } => overlay::merge_all(layers, options, scratch)?,
        TreeFrom::Writable(root) => overlay::mount_detached(root, scratch)?,
        TreeFrom::Given => return Err(io::ErrorKind::InvalidInput.into()),
    };
    if is_root(&tree.path) {
        return Ok(whole);
    }
    Attached::new(whole, scratch)?.part(&tree.path)
}

fn is_root(path: &Path) -> bool {
    path.components().all(|part| {
        !matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::ParentDir
        )
    })
}

/// A mount that is attached for as long as this lives.
struct Attached<'a> {
    root: OwnedFd,
    at: &'a Path,
}

impl<'a> Attached<'a> {
    fn new(mount: OwnedFd, at: &'a Path) -> io::Result<Self> {
        move_mount(&mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        // Dropped from here on: it is unmounted.
        let attached = Self { root: mount, at };
        // What is taken from it must not be mounted again with it.
        mount_change(at, MountPropagationFlags::PRIVATE)?;
        Ok(attached)
    }

    /// A detached copy of a file or directory; no link leads out (CVE-2024-23651).
    fn part(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let found = open_within(self.root.as_fd(), path)?;
        Ok(open_tree(
            &found,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH,
        )?)
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.at, UnmountFlags::DETACH) {
            crate::launcher::warn(&format!("unmount {}: {error}", self.at.display()));
        }
    }
}

fn open_within(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut retries = 0;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if retries < MAX_RETRIES => retries += 1,
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
