//! `launcher`: the role in which the engine starts this program.

use std::ffi::OsString;

use berth_monitor::launcher::{self, Options};

use crate::args::{Args, Opt, Order};
use crate::error::{Context, Error, Result};

const OPTIONS: &[Opt] = &[Opt::value("exec-root"), Opt::value("cgroup")];

pub(crate) fn launcher(mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(&mut arguments, OPTIONS, Order::Anywhere)?;
    if let Some(extra) = arguments.first() {
        return Err(Error::new(format!(
            "unexpected argument `{}`",
            extra.to_string_lossy()
        )));
    }
    let exec_root = args
        .value("exec-root")
        .ok_or_else(|| Error::new("launcher: --exec-root is missing"))?;
    let exec_root = std::path::absolute(exec_root).context(|| format!("find {exec_root}"))?;
    let options = Options {
        exec_root,
        cgroup: args.value("cgroup").map(str::to_owned),
    };
    launcher::run(&options).context(|| "launcher".to_owned())?;
    Ok(0)
}
