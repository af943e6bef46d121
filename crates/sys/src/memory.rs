//! How the C library's allocator behaves in this process.

/// Lets all threads share one heap, and gives freed memory back early.
///
/// glibc otherwise makes a heap of 64 MiB of address space per thread, of which
/// each keeps its own freed pages: several megabytes for a process that is idle
/// nearly always. A daemon that is never limited by its allocator trades the
/// contention for the memory. Does nothing where the C library is another.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    {
        const KIB: libc::c_int = 1024;
        for (option, value) in [
            (libc::M_ARENA_MAX, 1),
            (libc::M_TRIM_THRESHOLD, 128 * KIB),
            (libc::M_MMAP_THRESHOLD, 64 * KIB),
        ] {
            // SAFETY: mallopt takes two integers and touches only the
            // allocator's own parameters, under its own lock.
            unsafe { libc::mallopt(option, value) };
        }
    }
}

/// Gives all free pages back to the kernel.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer, and the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
