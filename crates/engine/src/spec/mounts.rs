//! What a container sees at which path: defaults, binds, volumes, tmpfs.

use std::path::{Component, Path, PathBuf};

use berth_api::Error;
use berth_api::container::{self as api, MountPoint};
use berth_monitor::protocol;
use oci_spec::runtime::Mount;

use super::security::SecurityOptions;
use crate::container::{Container, MountRecord, Record};
use crate::engine::Engine;
use crate::error::io;

const PROPAGATIONS: &[&str] = &[
    "rprivate", "private", "rshared", "shared", "rslave", "slave",
];

pub(crate) fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(destination))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

/// Parents before children; the user's replace the defaults.
pub(crate) fn build(
    engine: &Engine,
    container: &Container,
    record: &Record,
    options: &SecurityOptions,
) -> Result<Vec<Mount>, Error> {
    let config = &record.host_config;
    let mut list = defaults(config, options);
    let files_mode = if config.readonly_rootfs { "ro" } else { "rw" };
    let files = engine.network_files(container, record)?;
    for (destination, source) in files {
        let source = source.to_string_lossy();
        list.push(mount(
            destination,
            "bind",
            &source,
            &["rbind", "rprivate", files_mode],
        ));
    }
    if super::has_init(engine, config) {
        list.push(mount(
            protocol::INIT,
            "bind",
            "docker-init",
            &["bind", "ro"],
        ));
    }
    let covered = |destination: &Path| {
        record.mounts.iter().any(|own| {
            let own = Path::new(&own.point.destination);
            own == destination || (own == Path::new("/dev") && destination.starts_with(own))
        })
    };
    list.retain(|default| !covered(default.destination()));
    for own in &record.mounts {
        list.push(of_record(own)?);
    }
    // Parents first: a volume on /etc must not hide /etc/hosts.
    list.sort_by_key(|mount| mount.destination().components().count());
    Ok(list)
}

/// What every container sees.
pub(crate) fn defaults(config: &api::HostConfig, options: &SecurityOptions) -> Vec<Mount> {
    let sys = if config.privileged { "rw" } else { "ro" };
    let cgroup = if config.privileged || options.writable_cgroups {
        "rw"
    } else {
        "ro"
    };
    let shm_size = format!("size={}", config.shm_size);
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", sys],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &[cgroup, "nosuid", "noexec", "nodev"],
        ),
    ];
    match config.ipc_mode.as_str() {
        "host" => {
            for path in ["/dev/mqueue", "/dev/shm"] {
                if Path::new(path).is_dir() {
                    list.push(mount(path, "bind", path, &["rbind", "rprivate", "rw"]));
                }
            }
        }
        mode => {
            list.push(mount(
                "/dev/mqueue",
                "mqueue",
                "mqueue",
                &["nosuid", "noexec", "nodev"],
            ));
            if mode.starts_with("container:") {
                list.push(mount(
                    protocol::SHM,
                    "bind",
                    "shm",
                    &["bind", "rprivate", "rw", "nosuid", "noexec", "nodev"],
                ));
            } else if mode != "none" {
                list.push(mount(
                    "/dev/shm",
                    "tmpfs",
                    "shm",
                    &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
                ));
            }
        }
    }
    list
}

fn of_record(record: &MountRecord) -> Result<Mount, Error> {
    let point = &record.point;
    if point.r#type == "tmpfs" {
        let options: Vec<&str> = record.options.iter().map(String::as_str).collect();
        return Ok(mount(&point.destination, "tmpfs", "tmpfs", &options));
    }
    let source = Path::new(&point.source);
    if !source.exists() {
        if record.options.iter().any(|option| option == "create") {
            std::fs::create_dir_all(source)
                .map_err(|error| io("make the bind mount's source", source, &error))?;
        } else {
            return Err(missing_source(&point.source));
        }
    }
    let bind = if record.non_recursive {
        "bind"
    } else {
        "rbind"
    };
    let propagation = if point.propagation.is_empty() {
        "rprivate"
    } else {
        &point.propagation
    };
    let mut options = vec![bind, propagation, if point.rw { "rw" } else { "ro" }];
    if !point.rw && !record.read_only_non_recursive && !record.non_recursive {
        // Everything below too, since Docker 25 (Linux 5.12).
        options.push("rro");
    }
    Ok(mount(&point.destination, "bind", &point.source, &options))
}

fn missing_source(source: &str) -> Error {
    Error::invalid(format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {source}"
    ))
}

/// A shared or slave mount needs a root that lets it through.
pub(crate) fn propagation(record: &Record) -> Option<String> {
    let has = |kind: &str| {
        record
            .mounts
            .iter()
            .any(|mount| mount.point.propagation.trim_start_matches('r') == kind)
    };
    if has("shared") {
        Some("rshared".into())
    } else if has("slave") {
        Some("rslave".into())
    } else {
        None
    }
}

/// All mounts a container was created with, checked; volumes have no source yet.
/// `inherited` are those of `--volumes-from`, without duplicates.
pub(crate) fn parse(
    config: &api::Config,
    host: &api::HostConfig,
    inherited: Vec<MountRecord>,
) -> Result<Vec<MountRecord>, Error> {
    let mut list: Vec<MountRecord> = Vec::new();
    for text in host.binds.iter().flatten() {
        list.push(parse_bind(text)?);
    }
    for given in host.mounts.iter().flatten() {
        list.push(parse_mount(given)?);
    }
    for (path, options) in host.tmpfs.iter().flatten() {
        let options = options.split(',').filter(|option| !option.is_empty());
        list.push(tmpfs(path, options.map(str::to_owned).collect())?);
    }
    for (index, mount) in list.iter().enumerate() {
        let destination = &mount.point.destination;
        if list[..index]
            .iter()
            .any(|other| other.point.destination == *destination)
        {
            return Err(Error::invalid(format!(
                "Duplicate mount point: {destination}"
            )));
        }
    }
    let given = list.len();
    for mount in inherited {
        let destination = &mount.point.destination;
        let covered = list[..given]
            .iter()
            .any(|own| own.point.destination == *destination);
        if !covered {
            list.push(mount);
        }
    }
    // Of the image, and `-v /path`: only where nothing else is.
    for path in config.volumes.iter().flatten().map(|(path, _)| path) {
        let destination = clean(path)?;
        if list
            .iter()
            .all(|mount| mount.point.destination != destination)
        {
            list.push(volume("", destination, "", true));
        }
    }
    Ok(list)
}

/// The mode behind `--volumes-from NAME:`; whether it is read-only.
pub(crate) fn inherit_mode(mode: &str) -> Result<bool, Error> {
    let mut read_only = false;
    for option in mode.split(',') {
        match option {
            "rw" | "z" | "Z" => {}
            "ro" => read_only = true,
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    Ok(read_only)
}

/// Another container's mount, as one of this container's.
pub(crate) fn inherit(mut mount: MountRecord, read_only: bool) -> MountRecord {
    mount.point.mode.clear();
    mount.point.rw &= !read_only;
    if mount.point.r#type == "volume" {
        // It has what it has.
        mount.options.push("nocopy".into());
    }
    mount
}

fn volume(name: &str, destination: String, mode: &str, rw: bool) -> MountRecord {
    MountRecord {
        point: MountPoint {
            r#type: "volume".into(),
            name: name.into(),
            destination,
            driver: "local".into(),
            mode: mode.into(),
            rw,
            ..MountPoint::default()
        },
        anonymous: name.is_empty(),
        ..MountRecord::default()
    }
}

/// `-v source:destination[:options]`.
fn parse_bind(text: &str) -> Result<MountRecord, Error> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts[..] {
        [destination] => ("", destination, ""),
        [source, destination] => (source, destination, ""),
        [source, destination, mode] => (source, destination, mode),
        _ => return Err(invalid()),
    };
    if destination.is_empty() || (source.is_empty() && parts.len() > 1) {
        return Err(invalid());
    }
    let destination = clean(destination)?;
    let mut rw = true;
    let mut propagation = "";
    let mut no_copy = false;
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "ro" => rw = false,
            "nocopy" => no_copy = true,
            option if PROPAGATIONS.contains(&option) => propagation = option,
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    if !source.starts_with('/') {
        if !source.is_empty() {
            check_volume_name(source)?;
        }
        if !propagation.is_empty() {
            return Err(Error::invalid(format!("invalid mode: {mode}")));
        }
        let mut record = volume(source, destination, mode, rw);
        record.options.extend(no_copy.then(|| "nocopy".to_owned()));
        return Ok(record);
    }
    let source = clean(source)?;
    Ok(MountRecord {
        point: MountPoint {
            r#type: "bind".into(),
            source,
            destination,
            mode: mode.into(),
            rw,
            propagation: if propagation.is_empty() {
                "rprivate".into()
            } else {
                propagation.into()
            },
            ..MountPoint::default()
        },
        options: vec!["create".into()],
        ..MountRecord::default()
    })
}

/// `--mount`.
fn parse_mount(given: &api::Mount) -> Result<MountRecord, Error> {
    let kind = given.r#type.as_str();
    let wrong =
        |what: &str| Error::invalid(format!("invalid mount config for type \"{kind}\": {what}"));
    if given.target.is_empty() {
        return Err(wrong("field Target must not be empty"));
    }
    let destination = clean(&given.target)?;
    match kind {
        "bind" => {
            if given.source.is_empty() {
                return Err(wrong("field Source must not be empty"));
            }
            if !given.source.starts_with('/') {
                return Err(wrong(&format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    given.source
                )));
            }
            let options = given.bind_options.clone().unwrap_or_default();
            if !options.propagation.is_empty()
                && !PROPAGATIONS.contains(&options.propagation.as_str())
            {
                return Err(wrong(&format!(
                    "invalid propagation mode: {}",
                    options.propagation
                )));
            }
            if !options.create_mountpoint && !Path::new(&given.source).exists() {
                return Err(missing_source(&given.source));
            }
            Ok(MountRecord {
                point: MountPoint {
                    r#type: "bind".into(),
                    source: clean(&given.source)?,
                    destination,
                    rw: !given.read_only,
                    propagation: if options.propagation.is_empty() {
                        "rprivate".into()
                    } else {
                        options.propagation
                    },
                    ..MountPoint::default()
                },
                non_recursive: options.non_recursive,
                read_only_non_recursive: options.read_only_non_recursive,
                read_only_force_recursive: options.read_only_force_recursive,
                options: options
                    .create_mountpoint
                    .then(|| "create".to_owned())
                    .into_iter()
                    .collect(),
                ..MountRecord::default()
            })
        }
        "volume" => {
            let options = given.volume_options.clone().unwrap_or_default();
            if !options.subpath.is_empty() {
                return Err(Error::not_implemented(
                    "volume-subpath is not supported yet",
                ));
            }
            if options.driver_config.is_some_and(|driver| {
                !matches!(driver.name.as_str(), "" | "local")
                    || driver.options.is_some_and(|o| !o.is_empty())
            }) {
                return Err(Error::not_implemented(
                    "volume drivers and their options are not supported yet",
                ));
            }
            if !given.source.is_empty() {
                check_volume_name(&given.source)?;
            }
            let mut record = volume(&given.source, destination, "z", !given.read_only);
            record.labels = options.labels;
            record
                .options
                .extend(options.no_copy.then(|| "nocopy".to_owned()));
            Ok(record)
        }
        "tmpfs" => {
            if !given.source.is_empty() {
                return Err(wrong("field Source must not be specified"));
            }
            let options = given.tmpfs_options.clone().unwrap_or_default();
            let mut list: Vec<String> = options
                .options
                .unwrap_or_default()
                .into_iter()
                .map(|pair| pair.join("="))
                .collect();
            if options.size_bytes != 0 {
                list.push(format!("size={}", options.size_bytes));
            }
            if options.mode != 0 {
                list.push(format!("mode={:o}", options.mode));
            }
            if given.read_only {
                list.push("ro".into());
            }
            tmpfs(&given.target, list)
        }
        "image" | "npipe" | "cluster" => Err(Error::not_implemented(format!(
            "mounts of type \"{kind}\" are not supported yet"
        ))),
        _ => Err(wrong("mount type unknown")),
    }
}

/// The user's options over `noexec,nosuid,nodev`.
fn tmpfs(path: &str, given: Vec<String>) -> Result<MountRecord, Error> {
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).into();
    for option in given {
        let (opposite, known) = match option.split('=').next().unwrap_or("") {
            "exec" => ("noexec", true),
            "suid" => ("nosuid", true),
            "dev" => ("nodev", true),
            "ro" => ("rw", true),
            "rw" => ("ro", true),
            "noexec" | "nosuid" | "nodev" | "size" | "mode" | "uid" | "gid" | "nr_inodes"
            | "nr_blocks" | "noatime" | "relatime" | "strictatime" | "sync" | "mpol" => ("", true),
            _ => ("", false),
        };
        if !known {
            return Err(Error::invalid(format!("invalid tmpfs option {option:?}")));
        }
        options.retain(|have| have != opposite && *have != option);
        options.push(option);
    }
    Ok(MountRecord {
        point: MountPoint {
            r#type: "tmpfs".into(),
            destination: clean(path)?,
            rw: !options.iter().any(|option| option == "ro"),
            ..MountPoint::default()
        },
        options,
        ..MountRecord::default()
    })
}

pub(crate) fn check_volume_name(name: &str) -> Result<(), Error> {
    let mut bytes = name.bytes();
    let valid = name.len() > 1
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if valid {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )))
    }
}

/// An absolute path without `.`, `..` and double slashes, and not the root.
fn clean(path: &str) -> Result<String, Error> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        )));
    }
    let mut parts: Vec<String> = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    if parts.is_empty() {
        return Err(Error::invalid(
            "invalid volume specification: destination can't be '/'",
        ));
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_as_people_write_them() {
        let bind = parse_bind("/a//b/../c:/x/:ro,rslave").unwrap();
        assert_eq!(bind.point.source, "/a/c");
        assert_eq!(bind.point.destination, "/x");
        assert!(!bind.point.rw);
        assert_eq!(bind.point.propagation, "rslave");
        let named = parse_bind("data:/x").unwrap();
        assert_eq!(
            (named.point.r#type.as_str(), named.anonymous),
            ("volume", false)
        );
        assert!(parse_bind("/x").unwrap().anonymous);
        for bad in [
            "",
            "a:b",
            "/a:/b:/c:/d",
            "/a:/",
            "/a:/b:sometimes",
            "-a:/b",
            ":/b",
        ] {
            assert!(parse_bind(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_and_tmpfs() {
        let missing = parse_mount(&api::Mount {
            r#type: "bind".into(),
            source: "/nowhere".into(),
            target: "/x".into(),
            ..api::Mount::default()
        });
        assert_eq!(
            missing.unwrap_err().message,
            "invalid mount config for type \"bind\": bind source path does not exist: /nowhere"
        );
        let tmp = tmpfs("/t", vec!["exec".into(), "size=1m".into()]).unwrap();
        assert_eq!(tmp.options, ["nosuid", "nodev", "exec", "size=1m"]);
        assert!(tmpfs("/t", vec!["lowerdir=/".into()]).is_err());
    }

    #[test]
    fn read_only_is_recursive_and_duplicates_are_refused() {
        let mut bind = parse_bind("/tmp:/x:ro").unwrap();
        let mount = of_record(&bind).unwrap();
        assert_eq!(
            mount.options().as_ref().unwrap(),
            &["rbind", "rprivate", "ro", "rro"]
        );
        bind.read_only_non_recursive = true;
        assert!(
            !of_record(&bind)
                .unwrap()
                .options()
                .as_ref()
                .unwrap()
                .contains(&"rro".to_owned())
        );
        let host = api::HostConfig {
            binds: Some(vec!["/a:/x".into(), "/b:/x/".into()]),
            ..api::HostConfig::default()
        };
        assert_eq!(
            parse(&api::Config::default(), &host, Vec::new())
                .unwrap_err()
                .message,
            "Duplicate mount point: /x"
        );
    }

    #[test]
    fn defaults_follow_modes() {
        let mut config = api::HostConfig {
            shm_size: 64 << 20,
            ..api::HostConfig::default()
        };
        let options = SecurityOptions::default();
        assert_eq!(defaults(&config, &options).len(), 7);
        config.ipc_mode = "none".into();
        assert_eq!(defaults(&config, &options).len(), 6);
    }
}
