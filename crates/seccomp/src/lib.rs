//! Seccomp profiles: Docker's profile format → the OCI section → classic BPF.
//!
//! Pure: reads no files, makes no system calls. Loading a program is the
//! runtime's job.

use oci_spec::runtime::LinuxSeccomp;

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
        todo!()
    }
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let _ = bytes;
        todo!()
    }
}

/// Compiles the `linux.seccomp` section of an OCI configuration for the native
/// architecture and the sub-architectures it lists.
pub fn compile(section: &LinuxSeccomp) -> Result<Program, Error> {
    let _ = section;
    todo!()
}

/// A profile in Docker's format (with `archMap`, `includes`, `excludes`).
#[derive(Clone, Debug)]
pub struct Profile {}

impl Profile {
    /// Docker's default profile (Engine 29.7: moby/profiles 0.2.3).
    pub fn docker_default() -> Self {
        todo!()
    }
    /// Parses a profile file; also takes a plain OCI section.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let _ = json;
        todo!()
    }
    /// Applies the conditions: capabilities ("CAP_SYS_ADMIN") that the
    /// container has, the running kernel's version, the architecture.
    pub fn resolve(
        &self,
        capabilities: &[&str],
        kernel: (u32, u32),
    ) -> Result<LinuxSeccomp, Error> {
        let _ = (capabilities, kernel);
        todo!()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Invalid(String),
}
