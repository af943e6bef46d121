//! Telling systemd, and whoever started the daemon, that it serves.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// sd_notify(3): sends `state` to the socket that systemd named, if it did.
pub(crate) fn systemd(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// The message that a reload begins; `READY=1` is its end.
pub(crate) fn reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    systemd(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
}

/// `--ready-fd`: one byte, then closed. The reader may be gone.
pub(crate) fn ready(fd: OwnedFd) {
    let _ = File::from(fd).write_all(b"1");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn ready_is_one_byte_and_the_end() {
        let (mut read, write) = std::io::pipe().unwrap();
        ready(write.into());
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"1");
    }
}
