//! What a container's process keeps of this process: descriptors by number
//! (`--preserve-fds`, socket activation) and the session keyring.

use berth_runtime_core as core;
use oci_spec::runtime::Process;

use crate::args::{Args, Opt};
use crate::error::{Context as _, Error, Result};

pub(crate) const PRESERVE_FDS: Opt = Opt::value("preserve-fds");
pub(crate) const NO_NEW_KEYRING: Opt = Opt::flag("no-new-keyring");

/// More than anyone passes; a larger number is a mistake.
const MAX: u32 = 1024;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Inherit {
    /// Of socket activation, the first ones.
    sockets: u32,
    preserved: u32,
    keyring: bool,
}

impl Inherit {
    /// To be called before this process opens anything: a number that nobody
    /// has opened would else become one of our own descriptors.
    pub(crate) fn parse(args: &Args) -> Result<Self> {
        let preserved = match args.value("preserve-fds") {
            None => 0,
            Some(text) => (text.parse().ok())
                .filter(|count| *count <= MAX)
                .ok_or_else(|| Error::usage(format!("invalid value for preserve-fds: {text:?}")))?,
        };
        let sockets = sockets();
        for number in 3..3 + sockets + preserved {
            if !is_open(number) {
                return Err(Error::new(format!(
                    "please check that preserved-fd {} (of {}) is present: descriptor {number} is not open",
                    number - 2,
                    sockets + preserved
                )));
            }
        }
        // Not even for a moment anybody else's: hooks are programs too, and those
        // in the container are the image's (CVE-2024-21626).
        let first = i32::try_from(3 + sockets + preserved).unwrap_or(3);
        berth_sys::exec::close_on_exec_from(first)
            .context(|| "keep descriptors from hooks".to_owned())?;
        Ok(Self {
            sockets,
            preserved,
            keyring: args.has("no-new-keyring"),
        })
    }

    pub(crate) fn what(self) -> core::Inherit {
        core::Inherit {
            descriptors: self.sockets + self.preserved,
            keyring: self.keyring,
        }
    }

    /// Tells the program of its sockets (sd_listen_fds(3)).
    pub(crate) fn announce(self, process: &mut Process) {
        if self.sockets == 0 {
            return;
        }
        let mut env = process.env().clone().unwrap_or_default();
        env.push(format!("LISTEN_FDS={}", self.sockets));
        env.push("LISTEN_PID=1".to_owned());
        process.set_env(Some(env));
    }
}

/// How many sockets were passed to this very process.
fn sockets() -> u32 {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count.min(MAX),
        _ => 0,
    }
}

fn is_open(number: u32) -> bool {
    std::fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok()
}
