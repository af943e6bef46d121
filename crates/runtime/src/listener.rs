//! Seccomp user notification: the listener of a filter goes to an agent that
//! answers for the container's system calls (config-linux.md, "Seccomp").

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_seccomp::Program;
use oci_spec::runtime::{ContainerState, Spec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde_json::json;

use crate::error::{Context as _, Error, Result};
use crate::hooks::State;
use crate::{Root, Started};

/// Bit of [`Program::flags`].
const NEW_LISTENER: u32 = 1 << 3;

/// Where the agent listens, and what it is told.
#[derive(Clone, Debug)]
pub struct Listener {
    path: PathBuf,
    metadata: String,
    state: State,
    version: String,
}

impl Listener {
    /// From `linux.seccomp.listenerPath`; none when the configuration has none.
    ///
    /// # Errors
    /// The path is not absolute.
    pub fn new(spec: &Spec, id: &str, bundle: &Path) -> Result<Option<Self>> {
        let section = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.seccomp().as_ref());
        let Some(path) = section.and_then(|section| section.listener_path().clone()) else {
            if section.is_some_and(|section| section.listener_metadata().is_some()) {
                return Err(Error::invalid(
                    "linux.seccomp.listenerMetadata is set without a listenerPath",
                ));
            }
            return Ok(None);
        };
        if !path.is_absolute() {
            return Err(Error::invalid(format!(
                "linux.seccomp.listenerPath {:?} is not an absolute path",
                path.display()
            )));
        }
        let metadata = section.and_then(|section| section.listener_metadata().clone());
        Ok(Some(Self {
            path,
            metadata: metadata.unwrap_or_default(),
            state: State::new(spec, id, &Root::Bundle(bundle)),
            version: spec.version().clone(),
        }))
    }

    /// Takes the listener out of the process, which waits for that, and sends it
    /// on with the state of the container (`ContainerProcessState`). `first` is
    /// the number of the container's first process.
    pub(crate) fn hand_over(
        &self,
        process: &Started,
        number: i32,
        first: u32,
        status: ContainerState,
    ) -> Result<()> {
        let tried = || format!("send the seccomp listener to {}", self.path.display());
        let listener = pidfd_getfd(&process.pidfd, number, PidfdGetfdFlags::empty()).step(tried)?;
        let message = json!({
            "ociVersion": self.version,
            "fds": ["seccompFd"],
            "pid": process.pid,
            "metadata": self.metadata,
            "state": self.state.value(status, first),
        });
        self.send(&listener, message.to_string().as_bytes())
            .step(tried)
    }

    fn send(&self, listener: &OwnedFd, message: &[u8]) -> rustix::io::Result<()> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        berth_sys::socket::send(&socket, message, &[listener.as_fd()])
    }
}

/// A filter that asks an agent needs one.
pub(crate) fn check(filter: Option<&Program>, listener: Option<&Listener>) -> Result<()> {
    if filter.is_some_and(|filter| filter.flags & NEW_LISTENER != 0) && listener.is_none() {
        return Err(Error::invalid(
            "SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath: nobody would answer the system calls",
        ));
    }
    Ok(())
}
