//! A sealed copy of this program in memory, to run from.
//!
//! A container's processes can see the program of a process that is about to
//! become one of them as `/proc/<pid>/exe`, and could overwrite the file on
//! the host through it (CVE-2019-5736). The launcher therefore runs from a
//! copy that nobody can write, and everything it starts is a fork of it. The
//! copy is made once per launcher; by the OCI commands that start processes,
//! once per command.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// Whether this process runs from a sealed file.
pub fn is_sealed() -> io::Result<bool> {
    let program = File::open("/proc/self/exe")?;
    match fcntl_get_seals(&program) {
        Ok(seals) => Ok(seals.contains(SEALS)),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Executes a sealed copy of this program with the same arguments and
/// environment; returns only when that failed.
pub fn execute_sealed_copy() -> io::Error {
    let copy = match sealed_copy() {
        Ok(copy) => copy,
        Err(error) => {
            return crate::context(error, || "make a sealed copy of the program".to_owned());
        }
    };
    let mut arguments = std::env::args_os();
    let mut command = Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    crate::context(command.args(arguments).exec(), || {
        "execute the sealed copy of the program".to_owned()
    })
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC came with Linux 6.3; before it every memory file is executable.
    let copy = match memfd_create("berth-runtime", flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create("berth-runtime", flags)?,
        result => result?,
    };
    let mut program = File::open("/proc/self/exe")?;
    let mut copy = File::from(copy);
    io::copy(&mut program, &mut copy)?;
    fcntl_add_seals(copy.as_fd(), SEALS)?;
    Ok(copy.into())
}
