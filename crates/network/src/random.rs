//! Random names from the kernel.

use std::fmt::Write;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::Error;

/// `N` random bytes, at most 256: that much getrandom(2) never cuts short.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let length = rustix::io::retry_on_intr(|| getrandom(&mut bytes[..], GetRandomFlags::empty()))
        .map_err(|e| Error::kernel("get random bytes", e))?;
    if length < N {
        return Err(Error::kernel(
            "get random bytes",
            io::Error::from(io::ErrorKind::UnexpectedEof),
        ));
    }
    Ok(bytes)
}

/// `N` random bytes in hex.
pub(crate) fn hex<const N: usize>() -> Result<String, Error> {
    let mut text = String::with_capacity(2 * N);
    for byte in bytes::<N>()? {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
