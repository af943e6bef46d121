//! Signal dispositions, signals as messages, and signals by number.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::process::Signal;

/// Has the process ignore `signal`. Inherited by children, and kept through
/// execve: whoever executes a foreign program must set the default again.
/// Ignoring SIGCHLD has the kernel reap children by itself.
pub fn ignore(signal: Signal) -> io::Result<()> {
    set(signal, libc::SIG_IGN)
}

/// Gives `signal` its default effect again.
pub fn set_default(signal: Signal) -> io::Result<()> {
    set(signal, libc::SIG_DFL)
}

fn set(signal: Signal, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: neither SIG_IGN nor SIG_DFL runs code of this program.
    if unsafe { libc::signal(signal.as_raw(), action) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Signals delivered as messages on a descriptor instead of interrupting.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks `signals` and opens a non-blocking, close-on-exec descriptor
    /// that becomes readable when one is pending. Children inherit the mask.
    pub fn new(signals: &[Signal]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset fills the whole set it is given.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: `set` is a valid set; a bad number only gives an error.
            unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
        }
        Self::of(set)
    }

    /// The same for all signals, real-time ones too, but those that report an
    /// error of the program itself, which cannot wait.
    pub fn all() -> io::Result<Self> {
        const OWN: [Signal; 7] = [
            Signal::FPE,
            Signal::ILL,
            Signal::SEGV,
            Signal::BUS,
            Signal::ABORT,
            Signal::TRAP,
            Signal::SYS,
        ];
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset fills the whole set it is given.
        let mut set = unsafe {
            libc::sigfillset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in OWN {
            // SAFETY: `set` is a valid set; a bad number only gives an error.
            unsafe { libc::sigdelset(&raw mut set, signal.as_raw()) };
        }
        Self::of(set)
    }

    fn of(set: libc::sigset_t) -> io::Result<Self> {
        // SAFETY: `set` outlives both calls; neither keeps the pointer.
        let fd = unsafe {
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) == -1 {
                return Err(io::Error::last_os_error());
            }
            libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
        };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd has just returned this descriptor; no one else
        // owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The number of the next pending signal; `None` when there is none. More
    /// than one of the same kind may have become one message.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut message = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut message)) {
            // ssi_signo is the first field, 32 bits.
            Ok(length) if length == message.len() => Ok(Some(i32::from_ne_bytes([
                message[0], message[1], message[2], message[3],
            ]))),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends `signal` (1 to 64, so real-time signals too; 0 only checks) to the
/// process behind `pidfd`, never to another that got its number later.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: passes numbers only; the kernel checks the signal's range.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{PidfdFlags, pidfd_open};
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn signal_arrives_as_a_message() {
        let signals = SignalFd::new(&[Signal::USR1]).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        // SAFETY: sends a blocked signal to this thread.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(signals.next().unwrap(), Some(libc::SIGUSR1));
        assert_eq!(signals.next().unwrap(), None);
    }

    #[test]
    fn all_signals_but_those_of_its_own_errors() {
        let signals = SignalFd::all().unwrap();
        for signal in [libc::SIGTERM, libc::SIGCHLD, libc::SIGRTMIN() + 3] {
            // SAFETY: sends a blocked signal to this thread.
            unsafe { libc::raise(signal) };
            assert_eq!(signals.next().unwrap(), Some(signal));
        }
    }

    #[test]
    fn real_time_signal_kills_and_bad_number_is_refused() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(send_signal(&pidfd, 65).is_err());
        send_signal(&pidfd, 40).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(40));
    }
}
