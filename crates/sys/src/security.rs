//! seccomp(2) and session keyrings.

use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Installs a classic BPF filter on the calling thread. `filter` is an array of
/// `struct sock_filter` in native byte order, `flags` are
/// `SECCOMP_FILTER_FLAG_*`. With `SECCOMP_FILTER_FLAG_NEW_LISTENER` the
/// notification descriptor is returned.
///
/// Needs `no_new_privs` or CAP_SYS_ADMIN (`EACCES`).
pub fn load_seccomp(filter: &[u8], flags: u32) -> io::Result<Option<OwnedFd>> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    const NEW_LISTENER: u32 = 1 << 3;
    let instructions = filter.len() / size_of::<libc::sock_filter>();
    let length = u16::try_from(instructions)
        .ok()
        .filter(|_| {
            filter.len().is_multiple_of(size_of::<libc::sock_filter>()) && !filter.is_empty()
        })
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    // The kernel copies the instructions bytewise, so their alignment does not
    // matter.
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` describes exactly the bytes of `filter`, which the kernel
    // only reads.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & NEW_LISTENER != 0 {
        // SAFETY: with this flag the result is a new descriptor that we own.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(result as RawFd) }));
    }
    if result > 0 {
        // SECCOMP_FILTER_FLAG_TSYNC: a thread could not be synchronised.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(None)
}

/// Joins a new session keyring, so that the keys of whoever started this process
/// are out of reach. With a name an existing keyring of that name that the
/// process may search is joined instead.
pub fn join_session_keyring(name: Option<&CStr>) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let name = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the name is null or a string that ends with a zero byte.
    if unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_filter_is_refused() {
        assert_eq!(
            load_seccomp(&[0; 7], 0).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
        assert_eq!(
            load_seccomp(&[], 0).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }

    #[test]
    fn a_filter_is_loaded_and_decides() {
        // One instruction: return SECCOMP_RET_ALLOW.
        let mut filter = Vec::new();
        filter.extend_from_slice(&6u16.to_ne_bytes());
        filter.extend_from_slice(&[0, 0]);
        filter.extend_from_slice(&0x7fff_0000u32.to_ne_bytes());
        rustix::thread::set_no_new_privs(true).unwrap();
        assert!(load_seccomp(&filter, 0).unwrap().is_none());
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
}
