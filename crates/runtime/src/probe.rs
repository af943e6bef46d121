//! What the kernel offers, found out by trying, and the ways taken because of it.
//!
//! berth needs Linux 5.12 (mount_setattr). What is newer, or may be denied by an
//! outer sandbox, has a second way; tests can force it.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, Ordering};

use berth_sys::clone::{self, CLONE_NEWTIME, CLONE_NEWUSER, Cloned};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::FsOpenFlags;
use serde::{Deserialize, Serialize};

const NO_CLONE3: u8 = 1;
const NO_CLONE_INTO_CGROUP: u8 = 2;
const NO_PIDFD_SETNS: u8 = 4;
const CLONE3_KNOWN: u8 = 8;

static WAYS: AtomicU8 = AtomicU8::new(0);

/// Which of two ways is taken, for this process and those it forks.
#[derive(Clone, Copy, Debug)]
pub struct Ways(u8);

impl Ways {
    /// All that is newest.
    pub const NEW: Self = Self(0);
    /// Only fallbacks: clone instead of clone3, entering the control group by
    /// writing to its file, one setns for each namespace.
    pub const OLD: Self = Self(NO_CLONE3 | NO_CLONE_INTO_CGROUP | NO_PIDFD_SETNS | CLONE3_KNOWN);

    pub(crate) fn clone3(self) -> bool {
        self.0 & NO_CLONE3 == 0
    }
    pub(crate) fn clone_into_cgroup(self) -> bool {
        self.0 & NO_CLONE_INTO_CGROUP == 0 && self.clone3()
    }
    pub(crate) fn pidfd_setns(self) -> bool {
        self.0 & NO_PIDFD_SETNS == 0
    }
}

/// Forces ways from now on; for tests of the fallbacks.
pub fn force(ways: Ways) {
    WAYS.store(ways.0, Ordering::Relaxed);
}

/// The ways to take. The first call finds out whether clone3 is allowed here.
pub(crate) fn ways() -> Ways {
    let known = WAYS.load(Ordering::Relaxed);
    if known & CLONE3_KNOWN != 0 || known & NO_CLONE3 != 0 {
        return Ways(known);
    }
    let found = known | CLONE3_KNOWN | if has_clone3() { 0 } else { NO_CLONE3 };
    WAYS.store(found, Ordering::Relaxed);
    Ways(found)
}

/// A clone with contradicting flags: EINVAL where the call exists.
fn has_clone3() -> bool {
    const CLONE_THREAD: u64 = 0x1_0000;
    match clone::clone3(CLONE_THREAD, None) {
        Err(error) => error.raw_os_error() != Some(libc::ENOSYS),
        // Not possible: a thread without shared memory. Were it, it must not run on.
        Ok(Cloned::Child) => berth_sys::exec::exit(0),
        Ok(Cloned::Parent { .. }) => true,
    }
}

/// What was found; for `info`, for the tests' output and for the engine's choices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Features {
    /// "6.18.44".
    pub kernel: String,
    /// Safe path resolution (5.6); needed.
    pub openat2: bool,
    /// Mount attributes at once and recursively (5.12); needed.
    pub mount_setattr: bool,
    /// clone3 (5.3), unless an outer sandbox denies it.
    pub clone3: bool,
    /// Process descriptors in setns (5.8).
    pub pidfd_setns: bool,
    /// Time namespaces (5.6).
    pub time_namespace: bool,
    /// User namespaces may be made.
    pub user_namespace: bool,
    /// Control group namespaces (4.6).
    pub cgroup_namespace: bool,
    /// overlay takes layers one by one, as descriptors' paths (6.5).
    pub overlay_lowerdir_plus: bool,
    /// Mounts of EROFS image files.
    pub erofs: bool,
    /// seccomp filters.
    pub seccomp: bool,
    pub apparmor: bool,
    pub selinux: bool,
}

impl Features {
    /// Tries each. Costs some milliseconds; for a single-threaded process, else
    /// what needs a clone counts as missing.
    pub fn detect() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy();
        let kernel = release
            .split(['-', '+'])
            .next()
            .unwrap_or_default()
            .to_owned();
        Self {
            kernel,
            openat2: rustix::fs::openat2(
                CWD,
                "/",
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::NO_SYMLINKS,
            )
            .is_ok(),
            mount_setattr: has_mount_setattr(),
            clone3: has_clone3(),
            pidfd_setns: has_pidfd_setns(),
            time_namespace: can_clone_with(CLONE_NEWTIME),
            user_namespace: can_clone_with(CLONE_NEWUSER),
            cgroup_namespace: std::path::Path::new("/proc/self/ns/cgroup").exists(),
            overlay_lowerdir_plus: overlay_takes_layers(),
            erofs: rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).is_ok(),
            seccomp: std::path::Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
            apparmor: crate::security::apparmor_is_enabled(),
            selinux: std::path::Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

fn can_clone_with(flags: u64) -> bool {
    match clone::clone3(flags, None) {
        Ok(Cloned::Child) => berth_sys::exec::exit(0),
        Ok(Cloned::Parent { pidfd, .. }) => {
            berth_sys::exec::reap(pidfd.as_fd());
            true
        }
        Err(_) => false,
    }
}

/// Changing nothing on no mount: EBADF or EINVAL where the call exists.
fn has_mount_setattr() -> bool {
    let Ok(root) = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    else {
        return false;
    };
    let nothing = berth_sys::mount::MountAttr::default();
    match berth_sys::mount::mount_setattr(root.as_fd(), &nothing, false) {
        Ok(()) => true,
        Err(error) => Errno::from_io_error(&error) != Some(Errno::NOSYS),
    }
}

/// setns with a pidfd and no namespace: EINVAL either way, but kernels before 5.8
/// check the descriptor first and say so too. Joining one's own UTS namespace
/// tells them apart.
fn has_pidfd_setns() -> bool {
    let own = rustix::process::getpid();
    rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty())
        .is_ok_and(|pidfd| clone::setns(pidfd.as_fd(), clone::CLONE_NEWUTS).is_ok())
}

fn overlay_takes_layers() -> bool {
    rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .is_ok_and(|context| rustix::mount::fsconfig_set_string(&context, "lowerdir+", "/").is_ok())
}
