//! `ps`: the processes of a container, as the host's `ps` shows them.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use super::detect_host;
use crate::args::{Args, Opt, Order};
use crate::error::{Context, Error, Result};
use crate::print;
use crate::state::{StateDir, Status};

pub(crate) fn ps(root: &Path, mut arguments: Vec<OsString>) -> Result<u8> {
    let args = Args::parse(
        &mut arguments,
        &[Opt::value("format").short('f')],
        Order::OptionsFirst,
    )?;
    if arguments.is_empty() {
        return Err(Error::usage("the container id is missing"));
    }
    let id = arguments.remove(0);
    let id = id
        .to_str()
        .ok_or_else(|| Error::new("the container id is not valid UTF-8"))?;
    let dir = StateDir::open(root, id)?;
    let state = dir.load()?;
    let host = detect_host()?;
    if state.status(&dir, &host) == Status::Stopped {
        return Err(Error::new(format!("container {id} is not running")));
    }
    let group = state.needed_group(&host)?;
    let pids = group
        .processes()
        .context(|| format!("read the processes of control group {}", group.path()))?;
    match args.value("format").unwrap_or("table") {
        "json" => print(&format!("{}\n", serde_json::Value::from(pids))),
        "table" => print(&table(&arguments, &pids)?),
        _ => Err(Error::new("invalid format option")),
    }
}

/// What `ps` says, only the header and the rows of these processes.
fn table(options: &[OsString], pids: &[u32]) -> Result<String> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    } else {
        command.args(options);
    }
    let output = command.output().context(|| "run ps".to_owned())?;
    if !output.status.success() {
        return Err(Error::new(format!(
            "ps failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )));
    }
    rows(&String::from_utf8_lossy(&output.stdout), pids)
}

fn rows(text: &str, pids: &[u32]) -> Result<String> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::new("couldn't find PID field in ps output"))?;
    let mut shown = format!("{header}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column);
        if (pid.and_then(|pid| pid.parse().ok())).is_some_and(|pid| pids.contains(&pid)) {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_of_the_container_are_shown() {
        let text = "UID  PID CMD\nroot   1 init 22\nroot  22 sh\n";
        assert_eq!(rows(text, &[22, 3]).unwrap(), "UID  PID CMD\nroot  22 sh\n");
        assert!(rows("USER CMD\n", &[1]).is_err());
    }
}
