//! The processes of a container. The default columns are read from /proc; other
//! `ps` options need the host's `ps`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use berth_api::Error;
use berth_api::container::Top;

use crate::engine::Engine;
use crate::error::{IntoApi as _, blocking};

/// USER_HZ.
const TICKS: u64 = 100;

impl Engine {
    /// `ps` options as Docker's: "-ef" when empty.
    pub async fn container_top(&self, name: &str, ps_args: &str) -> Result<Top, Error> {
        let container = self.find(name)?;
        container.running()?;
        if container.record().state.paused {
            // Frozen processes can still be looked at.
            tracing::debug!(container = container.id, "top of a paused container");
        }
        let cgroup = self.cgroup(&container.record());
        let args = if ps_args.is_empty() { "-ef" } else { ps_args }.to_owned();
        blocking(move || {
            let pids = cgroup.processes().api()?;
            if matches!(args.as_str(), "-ef" | "ef" | "-fe") {
                Ok(native(&pids))
            } else {
                host_ps(&args, &pids)
            }
        })
        .await
    }
}

fn native(pids: &[u32]) -> Top {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let boot = std::fs::read_to_string("/proc/stat")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok())
        .unwrap_or(0);
    let now = jiff::Timestamp::now();
    Top {
        titles: ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
            .map(str::to_owned)
            .into(),
        // One that ended meanwhile is left out.
        processes: pids
            .iter()
            .filter_map(|pid| row(*pid, &users, boot, now))
            .collect(),
    }
}

fn row(pid: u32, users: &str, boot: i64, now: jiff::Timestamp) -> Option<Vec<String>> {
    let dir = format!("/proc/{pid}");
    let uid = std::fs::metadata(&dir).ok()?.uid();
    let stat = Stat::parse(&std::fs::read_to_string(format!("{dir}/stat")).ok()?)?;
    let command = std::fs::read(format!("{dir}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command)
        .trim_end_matches('\0')
        .replace('\0', " ");
    let command = if command.is_empty() {
        format!("[{}]", stat.name)
    } else {
        command
    };
    let start = boot + i64::try_from(stat.start / TICKS).unwrap_or(0);
    let lived = now.as_second() - start;
    let cpu = i64::try_from(stat.cpu / TICKS).unwrap_or(0);
    Some(vec![
        user_name(users, uid),
        pid.to_string(),
        stat.parent.to_string(),
        if lived > 0 {
            (cpu * 100 / lived).min(99)
        } else {
            0
        }
        .to_string(),
        start_time(start, now),
        terminal(stat.terminal),
        format!("{:02}:{:02}:{:02}", cpu / 3600, cpu / 60 % 60, cpu % 60),
        command,
    ])
}

/// The fields of /proc/<pid>/stat that are shown. Times in ticks.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    terminal: u64,
    cpu: u64,
    start: u64,
}

impl Stat {
    /// The name may hold anything, so the last parenthesis counts.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            name: name.to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            terminal: number(4).unwrap_or(0),
            cpu: number(11)? + number(12)?,
            start: number(19)?,
        })
    }
}

fn user_name(users: &str, uid: u32) -> String {
    users
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| uid.to_string())
}

/// "14:05" today, "Jan02" before.
fn start_time(start: i64, now: jiff::Timestamp) -> String {
    let zone = jiff::tz::TimeZone::system();
    let Ok(start) = jiff::Timestamp::from_second(start) else {
        return "?".into();
    };
    let (start, now) = (
        start.to_zoned_datetime(zone.clone()),
        now.to_zoned_datetime(zone),
    );
    if start.date() == now.date() {
        start.strftime("%H:%M").to_string()
    } else {
        start.strftime("%b%d").to_string()
    }
}

/// `tty_nr` as `ps` names it.
fn terminal(number: u64) -> String {
    let (major, minor) = (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xfff00),
    );
    match major {
        0 => "?".into(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

fn host_ps(args: &str, pids: &[u32]) -> Result<Top, Error> {
    let ps = ["/usr/bin/ps", "/bin/ps"]
        .iter()
        .find(|path| Path::new(path).exists())
        .ok_or_else(|| {
            Error::not_implemented(format!(
                "ps {args}: this host has no ps; without options, top needs none"
            ))
        })?;
    let output = std::process::Command::new(ps)
        .args(args.split_whitespace())
        .output()
        .map_err(|error| Error::system(format!("execute {ps}: {error}")))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(Error::invalid(format!(
            "ps: {}",
            reason.lines().next().unwrap_or("failed")
        )));
    }
    select(&String::from_utf8_lossy(&output.stdout), pids)
}

/// The rows of our processes; the last column takes the rest of the line.
fn select(output: &str, pids: &[u32]) -> Result<Top, Error> {
    let mut lines = output.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let column = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::invalid("Couldn't find PID field in ps output"))?;
    let mut processes = Vec::new();
    for line in lines {
        let mut rest = line.trim_start();
        let mut row = Vec::with_capacity(titles.len());
        while row.len() + 1 < titles.len() {
            let (word, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            row.push(word.to_owned());
            rest = tail.trim_start();
        }
        row.push(rest.trim_end().to_owned());
        let pid = row.get(column).and_then(|text| text.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            processes.push(row);
        }
    }
    Ok(Top { titles, processes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_found() {
        let top = native(&[std::process::id()]);
        assert_eq!(top.processes.len(), 1);
        assert_eq!(top.processes[0].len(), top.titles.len());
        assert_eq!(top.processes[0][1], std::process::id().to_string());
    }

    #[test]
    fn awkward_names() {
        let text = "12 (a) b) S 1 12 12 34816 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 777 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.parent), ("a) b", 1));
        assert_eq!((stat.cpu, stat.start), (300, 777));
        assert_eq!(terminal(stat.terminal), "pts/0");
        assert!(Stat::parse("").is_none());
    }

    #[test]
    fn rows_of_ps() {
        let top = select(
            "  PID USER COMMAND\n   12 root sh -c  x\n   13 root ls\n",
            &[12],
        )
        .unwrap();
        assert_eq!(top.processes, [["12", "root", "sh -c  x"]]);
        assert!(select("USER\nroot\n", &[1]).is_err());
    }
}
