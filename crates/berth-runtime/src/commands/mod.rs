//! One module per verb, or per family of small ones.

pub(crate) mod checkpoint;
pub(crate) mod create;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod freeze;
pub(crate) mod groups;
pub(crate) mod info;
pub(crate) mod launcher;
pub(crate) mod manage;
pub(crate) mod ps;
pub(crate) mod restore;
pub(crate) mod start;
pub(crate) mod update;

/// The version of the OCI runtime specification that is followed.
pub(crate) const OCI_VERSION: &str = "1.3.0";

use std::io::Write;

use berth_cgroup::Host;

use crate::error::{Context, Result};

/// What went wrong and changes nothing.
fn warn_of(errors: impl IntoIterator<Item = berth_runtime_core::Error>) {
    for error in errors {
        // Nowhere is left to tell that standard error cannot be written.
        let _ = writeln!(std::io::stderr(), "berth-runtime: warning: {error}");
    }
}

fn detect_host() -> Result<Host> {
    Host::detect().context(|| "find the control group hierarchies".to_owned())
}
