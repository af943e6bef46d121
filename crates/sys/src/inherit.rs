//! Descriptors that a new program must not get.

use rustix::io::Errno;

/// Marks every descriptor from `first` on close-on-exec. Needs kernel 5.11.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing: it sets a flag
    // on descriptors, so no owner of one can see its descriptor vanish.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::NOSYS, Errno::from_raw_os_error))
    }
}
