//! `pause` and `resume`.

use std::ffi::OsString;
use std::path::Path;

use berth_cgroup::Cgroup;

use super::detect_host;
use crate::args::alone;
use crate::error::{Context, Error, Result};
use crate::state::{StateDir, Status};

pub(crate) fn pause(root: &Path, arguments: Vec<OsString>) -> Result<u8> {
    let (group, status) = find(root, arguments)?;
    if !matches!(status, Status::Created | Status::Running) {
        return Err(Error::new("container not running"));
    }
    group
        .freeze()
        .context(|| format!("freeze control group {}", group.path()))?;
    Ok(0)
}

pub(crate) fn resume(root: &Path, arguments: Vec<OsString>) -> Result<u8> {
    let (group, status) = find(root, arguments)?;
    if status != Status::Paused {
        return Err(Error::new("container not paused"));
    }
    group
        .thaw()
        .context(|| format!("thaw control group {}", group.path()))?;
    Ok(0)
}

fn find(root: &Path, arguments: Vec<OsString>) -> Result<(Cgroup, Status)> {
    let id = alone(arguments, "container id")?;
    let dir = StateDir::open(root, &id)?;
    let state = dir.load()?;
    let host = detect_host()?;
    let status = state.status(&dir, &host);
    Ok((state.needed_group(&host)?, status))
}
