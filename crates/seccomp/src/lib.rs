//! Seccomp profiles: Docker's profile format → the OCI section → classic BPF.
//!
//! Pure: reads no files, makes no system calls. Loading a program is the
//! runtime's job.

mod bpf;
mod compile;
mod convention;
mod docker;
mod numbers;
mod profile;

pub use compile::compile;
pub use profile::Profile;

/// A compiled filter, ready for `seccomp(2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// `struct sock_filter` array in native byte order, 8 bytes each.
    pub filter: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

impl Program {
    /// For a memory file or a cache: flags (4 bytes, native order), filter.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.flags.to_ne_bytes()[..], &self.filter].concat()
    }

    /// The reverse. The kernel checks the instructions themselves.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        match bytes.split_first_chunk() {
            Some((flags, filter)) if !filter.is_empty() && filter.len() % 8 == 0 => Ok(Self {
                filter: filter.to_vec(),
                flags: u32::from_ne_bytes(*flags),
            }),
            _ => Err(Error::Invalid(format!(
                "{} bytes are no seccomp program",
                bytes.len()
            ))),
        }
    }
}

/// A profile that cannot be used; says what in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Invalid(String),
}
