//! A program that nobody can write, to run from.
//!
//! A container's processes can see the program of a process that is about to
//! become one of them as `/proc/<pid>/exe`, or be told to execute it again, and
//! could overwrite the file on the host through it (CVE-2019-5736). So this
//! program executes itself anew before it goes near a container, from one of:
//!
//! - **A sealed copy in memory.** Shares nothing with the file. The launcher has
//!   it, once for all its containers; and whoever cannot have the other.
//! - **The file itself, in a read-only mount that is no longer mounted anywhere.**
//!   Costs no copy, so the OCI commands that start processes use it. The mount
//!   is a clone that was never attached and is dissolved before the execution:
//!   what `/proc/<pid>/exe` leads to is a file of that mount (writing, changing
//!   mode, owner or attributes: `EROFS`), and a mount that is in no mount
//!   namespace can be neither remounted nor cloned, by nobody. It is one of the
//!   file's directory, for the root of a mount is a handle to change its
//!   filesystem with (fspick(2), for a container with `CAP_SYS_ADMIN`).

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use berth_sys::exec::execveat;
use berth_sys::mount::{MOUNT_ATTR_RDONLY, MountAttr, mount_setattr};
use rustix::fs::{
    AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags, StatxFlags,
    fcntl_add_seals, fcntl_get_seals, fstatvfs, memfd_create, open, openat, readlinkat, statx,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

const SELF: &str = "/proc/self/exe";

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// Whether this process runs from a sealed copy.
pub fn is_sealed() -> io::Result<bool> {
    let program = File::open(SELF)?;
    match fcntl_get_seals(&program) {
        Ok(seals) => Ok(seals.contains(SEALS)),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Executes a sealed copy of this program with the same arguments and
/// environment; returns only when that failed.
pub fn execute_sealed_copy() -> io::Error {
    match sealed_copy() {
        Ok(copy) => execute(copy.as_fd()),
        Err(error) => crate::context(error, || "make a sealed copy of the program".to_owned()),
    }
}

/// Whether this process runs from a program that nobody can write, of either kind.
pub fn is_protected() -> io::Result<bool> {
    Ok(is_executed_by_descriptor() && (is_in_dissolved_mount()? || is_sealed()?))
}

/// Executes this program so that [`is_protected`], with the same arguments and
/// environment; returns only when that failed.
pub fn execute_protected() -> io::Error {
    // Should a mount once have been of no use, it is not tried again.
    if !is_executed_by_descriptor()
        && let Ok(program) = in_detached_mount()
    {
        // Where that mount may not be executed from, a copy may.
        let _ = execute(program.as_fd());
    }
    execute_sealed_copy()
}

/// As this program executes itself, and nobody else does: what it then runs from
/// is worth a look.
fn is_executed_by_descriptor() -> bool {
    rustix::param::linux_execfn()
        .to_bytes()
        .starts_with(b"/dev/fd/")
}

fn is_in_dissolved_mount() -> io::Result<bool> {
    let program = open(SELF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if !is_read_only(program.as_fd())? {
        return Ok(false);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    // Only what is mounted somewhere can be cloned.
    Ok(matches!(open_tree(&program, "", flags), Err(Errno::INVAL)))
}

fn is_read_only(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fstatvfs(file)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// This program's file, in a read-only mount that is in no mount namespace.
fn in_detached_mount() -> io::Result<OwnedFd> {
    let path = readlinkat(CWD, SELF, Vec::new())?.into_bytes();
    let path = Path::new(OsStr::from_bytes(&path));
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NOENT.into());
    };
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, directory, clone)?;
    let read_only = MountAttr {
        set: MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    mount_setattr(tree.as_fd(), &read_only, false)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let program = openat(&tree, name, flags, Mode::empty())?;
    // The path may be another file's by now.
    let own = statx(CWD, SELF, AtFlags::empty(), StatxFlags::INO)?;
    let found = statx(&program, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    let identity = |file: rustix::fs::Statx| (file.stx_ino, file.stx_dev_major, file.stx_dev_minor);
    if identity(own) != identity(found) || !is_read_only(program.as_fd())? {
        return Err(Errno::STALE.into());
    }
    // The mount dissolves here, with its descriptor: before the container can
    // know of it, and nobody can change it from now on.
    drop(tree);
    Ok(program)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC came with Linux 6.3; before it every memory file is executable.
    let copy = match memfd_create("berth-runtime", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("berth-runtime", flags)?,
        result => result?,
    };
    let mut program = File::open(SELF)?;
    let mut copy = File::from(copy);
    io::copy(&mut program, &mut copy)?;
    fcntl_add_seals(copy.as_fd(), SEALS)?;
    Ok(copy.into())
}

/// Executes a program with the arguments and the environment of this one.
fn execute(program: BorrowedFd<'_>) -> io::Error {
    let mut arguments = Vec::new();
    for argument in std::env::args_os() {
        arguments.extend(CString::new(argument.into_vec()).ok());
    }
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        environment.extend(CString::new(variable).ok());
    }
    let arguments: Vec<_> = arguments.iter().map(CString::as_c_str).collect();
    let environment: Vec<_> = environment.iter().map(CString::as_c_str).collect();
    match execveat(program, &arguments, &environment) {
        Err(error) => crate::context(error, || "execute this program anew".to_owned()),
        Ok(never) => match never {},
    }
}
