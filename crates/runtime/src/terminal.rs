//! A terminal in the container's own devpts.
//!
//! Both sides are had without looking up a name that the container could have
//! changed: ptmx from the devpts mount that was checked to be one, the other side
//! with `TIOCGPTPEER`, and /dev/console is bound from that descriptor
//! (CVE-2025-52565).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::devices;
use crate::error::{Context as _, Error, Result};
use crate::mounts;
use crate::paths;

/// `DEVPTS_SUPER_MAGIC` of statfs(2).
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Both sides of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

impl Terminal {
    /// Opens one in `devpts`, or in whatever is at /dev/pts in `root`.
    pub(crate) fn open(
        root: BorrowedFd<'_>,
        devpts: Option<&OwnedFd>,
        width: u16,
        height: u16,
    ) -> Result<Self> {
        let found;
        let devpts = match devpts {
            Some(devpts) => devpts,
            None => {
                found = paths::open_real_directory(root, Path::new("dev/pts"))
                    .step(|| "open /dev/pts in the container for a terminal")?;
                &found
            }
        };
        let magic = rustix::fs::fstatfs(devpts)
            .step(|| "stat /dev/pts in the container")?
            .f_type;
        if magic as u64 != DEVPTS_MAGIC {
            return Err(Error::step(
                "open a terminal: /dev/pts in the container is not a devpts",
                Errno::NOTTY,
            ));
        }
        let master = rustix::fs::openat(
            devpts,
            "ptmx",
            OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .step(|| "open /dev/pts/ptmx in the container")?;
        let stat = rustix::fs::fstat(&master).step(|| "stat /dev/pts/ptmx")?;
        if !paths::is_device(&stat, FileType::CharacterDevice, 5, 2) {
            return Err(Error::step(
                "open /dev/pts/ptmx: not the terminal multiplexer",
                Errno::NOTTY,
            ));
        }
        rustix::pty::unlockpt(&master).step(|| "unlock the terminal")?;
        let slave = rustix::pty::ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )
        .step(|| "open the terminal's other side")?;
        if width != 0 || height != 0 {
            let size = Winsize {
                ws_row: height,
                ws_col: width,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(&slave, size).step(|| "set the terminal's size")?;
        }
        Ok(Self { master, slave })
    }

    /// Binds the terminal on /dev/console.
    pub(crate) fn bind_console(&self, root: BorrowedFd<'_>) -> Result<()> {
        let dev = devices::open_dev(root)?;
        let mount =
            mounts::clone_fd(self.slave.as_fd(), false).step(|| "clone the terminal's mount")?;
        devices::bind_on_file(dev.as_fd(), "console", mount.as_fd())
    }

    /// Makes it the controlling terminal of the session this process leads.
    pub(crate) fn control(&self) -> Result<()> {
        rustix::process::ioctl_tiocsctty(&self.slave).step(|| "take the terminal")
    }
}
