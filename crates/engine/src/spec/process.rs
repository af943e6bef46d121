//! The first process, and those of exec.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::str::FromStr;

use berth_api::Error;
use berth_api::container::Ulimit;
use berth_api::exec::ExecConfig;
use berth_monitor::protocol;
use berth_store::Snapshot;
use oci_spec::runtime::{
    Capability, LinuxCapabilities, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User,
};

use super::DEFAULT_PATH;
use super::security::SecurityOptions;
use crate::container::Record;
use crate::engine::Engine;
use crate::error::IntoApi as _;

/// Longest group file that is read from an image (CVE-2026-47262).
const MAX_GROUP_FILE: u64 = 1 << 20;

pub(crate) fn first(
    engine: &Engine,
    record: &Record,
    options: &SecurityOptions,
    capabilities: &BTreeSet<&'static str>,
    snapshot: &Snapshot,
) -> Result<Process, Error> {
    let config = &record.host_config;
    let groups = config.group_add.as_deref().unwrap_or_default();
    let mut args = Vec::new();
    if super::has_init(engine, config) {
        args.extend([protocol::INIT.to_owned(), "--".to_owned()]);
    }
    args.push(record.path.clone());
    args.extend(record.args.iter().cloned());
    let mut process = Process::default();
    process
        .set_terminal(Some(record.config.tty))
        .set_user(user(&record.config.user, &supplementary(groups, snapshot)?))
        .set_args(Some(args))
        .set_env(Some(environment(record)))
        .set_cwd(working_dir(&record.config.working_dir))
        .set_capabilities(Some(capability_sets(capabilities)?))
        .set_rlimits(Some(rlimits(
            &engine.0.config.default_ulimits,
            config.ulimits.as_deref().unwrap_or_default(),
        )?))
        .set_no_new_privileges(Some(
            options
                .no_new_privileges
                .unwrap_or(engine.0.config.no_new_privileges),
        ))
        .set_oom_score_adj(i32::try_from(config.oom_score_adj).ok());
    Ok(process)
}

/// A further process: the container's limits and capabilities, its own words.
pub(crate) fn further(
    engine: &Engine,
    record: &Record,
    exec: &ExecConfig,
    options: &SecurityOptions,
    capabilities: &BTreeSet<&'static str>,
    snapshot: &Snapshot,
) -> Result<Process, Error> {
    let mut process = first(engine, record, options, capabilities, snapshot)?;
    let mut env = environment(record);
    if exec.tty {
        replace_or_append(&mut env, "TERM=xterm");
    } else if !record
        .config
        .env
        .iter()
        .flatten()
        .any(|e| e.starts_with("TERM="))
    {
        env.retain(|entry| !entry.starts_with("TERM="));
    }
    for entry in exec.env.iter().flatten() {
        replace_or_append(&mut env, entry);
    }
    process
        .set_terminal(Some(exec.tty))
        .set_args(Some(exec.cmd.clone()))
        .set_env(Some(env));
    if !exec.user.is_empty() {
        let groups = record.host_config.group_add.as_deref().unwrap_or_default();
        process.set_user(user(&exec.user, &supplementary(groups, snapshot)?));
    }
    if !exec.working_dir.is_empty() {
        process.set_cwd(PathBuf::from(&exec.working_dir));
    }
    Ok(process)
}

/// The user as text, empty for root: the runtime looks it up, and its groups,
/// in the container's own files.
pub(crate) fn user(name: &str, groups: &[u32]) -> User {
    let mut user = User::default();
    user.set_username(Some(name.to_owned()));
    if !groups.is_empty() {
        user.set_additional_gids(Some(groups.to_vec()));
    }
    user
}

fn working_dir(path: &str) -> PathBuf {
    PathBuf::from(if path.is_empty() { "/" } else { path })
}

/// Nothing inheritable or ambient (CVE-2022-24769).
pub(crate) fn capability_sets(names: &BTreeSet<&'static str>) -> Result<LinuxCapabilities, Error> {
    let set = names
        .iter()
        .map(|name| {
            let short = name.strip_prefix("CAP_").unwrap_or(name);
            Capability::from_str(short)
                .map_err(|_| Error::system(format!("{name} is unknown to the runtime")))
        })
        .collect::<Result<HashSet<_>, _>>()?;
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    Ok(sets)
}

/// Docker's order: defaults, then the image's and the user's.
fn environment(record: &Record) -> Vec<String> {
    let mut env = vec![
        format!("PATH={DEFAULT_PATH}"),
        format!("HOSTNAME={}", record.hostname()),
    ];
    if record.config.tty {
        env.push("TERM=xterm".into());
    }
    for entry in record.config.env.iter().flatten() {
        replace_or_append(&mut env, entry);
    }
    env
}

/// "KEY" alone takes the variable away.
pub(crate) fn replace_or_append(env: &mut Vec<String>, entry: &str) {
    let key = entry.split('=').next().unwrap_or(entry);
    let same = |have: &str| have.split('=').next() == Some(key);
    if !entry.contains('=') {
        env.retain(|have| !same(have));
    } else if let Some(have) = env.iter_mut().find(|have| same(have)) {
        entry.clone_into(have);
    } else {
        env.push(entry.to_owned());
    }
}

/// The daemon's defaults, replaced by name. -1 = no limit.
pub(crate) fn rlimits(defaults: &[Ulimit], own: &[Ulimit]) -> Result<Vec<PosixRlimit>, Error> {
    defaults
        .iter()
        .filter(|limit| own.iter().all(|other| other.name != limit.name))
        .chain(own)
        .map(|limit| {
            PosixRlimitBuilder::default()
                .typ(rlimit_type(&limit.name)?)
                .soft(u64::try_from(limit.soft).unwrap_or(u64::MAX))
                .hard(u64::try_from(limit.hard).unwrap_or(u64::MAX))
                .build()
                .api()
        })
        .collect()
}

pub(crate) fn rlimit_type(name: &str) -> Result<PosixRlimitType, Error> {
    Ok(match name {
        "as" => PosixRlimitType::RlimitAs,
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        _ => return Err(Error::invalid(format!("invalid ulimit type: {name}"))),
    })
}

/// `--group-add`: numbers, and names of the container's own /etc/group.
fn supplementary(groups: &[String], snapshot: &Snapshot) -> Result<Vec<u32>, Error> {
    let mut file = None;
    groups
        .iter()
        .map(|group| {
            if let Ok(number) = group.parse::<u32>() {
                return Ok(number);
            }
            let text = file.get_or_insert_with(|| {
                let bytes = snapshot.read_file("etc/group", MAX_GROUP_FILE);
                String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
            });
            group_id(text, group).ok_or_else(|| {
                Error::invalid(format!(
                    "unable to find group {group}: no matching entries in group file"
                ))
            })
        })
        .collect()
}

fn group_id(file: &str, name: &str) -> Option<u32> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name))
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_is_merged_by_key() {
        let mut record = Record::default();
        record.config.hostname = "h".into();
        record.config.tty = true;
        record.config.env = Some(vec!["A=1".into(), "PATH=/bin".into(), "TERM".into()]);
        assert_eq!(environment(&record), ["PATH=/bin", "HOSTNAME=h", "A=1"]);
    }

    #[test]
    fn limits_replace_defaults() {
        let limit = |name: &str, soft, hard| Ulimit {
            name: name.into(),
            soft,
            hard,
        };
        let list = rlimits(
            &[limit("nofile", 1, 2), limit("core", 0, 0)],
            &[limit("nofile", 5, -1)],
        )
        .unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((list[1].soft(), list[1].hard()), (5, u64::MAX));
        assert!(rlimits(&[], &[limit("x", 1, 1)]).is_err());
    }

    #[test]
    fn every_capability_has_its_oci_name() {
        let all = super::super::security::all_capabilities(63);
        assert_eq!(
            capability_sets(&all)
                .unwrap()
                .bounding()
                .as_ref()
                .unwrap()
                .len(),
            41
        );
    }

    #[test]
    fn groups_by_name() {
        let file = "root:x:0:\nwheel:x:10:a,b\nbroken\n";
        assert_eq!(group_id(file, "wheel"), Some(10));
        assert_eq!(group_id(file, "broken"), None);
    }
}
