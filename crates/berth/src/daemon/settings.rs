//! What the options mean, together: the engine's configuration and the
//! daemon's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_api::container::Ulimit;
use berth_api::version::ApiVersion;
use berth_engine::{BridgeOptions, Config, Limits};
use berth_server::listen::Address;
use tracing::level_filters::LevelFilter;

use super::options::{self, Value, Values};
use super::{builder, registries};

/// Where the daemon's file is looked for when none is named.
const FILES: [&str; 2] = ["/etc/berth/daemon.json", "/etc/docker/daemon.json"];

const DEFAULT_HOST: &str = "/var/run/berth.sock";
const DOCKER_HOST: &str = "/var/run/docker.sock";
const DEFAULT_GROUP: &str = "docker";
const DEFAULT_SHM: i64 = 64 << 20;
const DEFAULT_MTU: u32 = 1500;
const DEFAULT_POOL: usize = 4;

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) engine: Config,
    pub(crate) hosts: Vec<Address>,
    /// `None`: the default group, if this host has it.
    pub(crate) group: Option<String>,
    pub(crate) pidfile: PathBuf,
    pub(crate) log_level: LevelFilter,
    pub(crate) log_json: bool,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) min_api: ApiVersion,
    pub(crate) ready_fd: Option<i32>,
}

impl Settings {
    pub(crate) const DEFAULT_GROUP: &str = DEFAULT_GROUP;
}

/// The file that applies, and what it says.
pub(crate) fn read_file(flags: &Values) -> Result<(PathBuf, Values), String> {
    if let Some(Value::Text(path)) = flags.get("config-file") {
        let path = PathBuf::from(path);
        return match super::file::read(&path)? {
            Some(values) => Ok((path, values)),
            None => Err(format!(
                "unable to configure the Docker daemon with file {0}: open {0}: no such file or directory",
                path.display()
            )),
        };
    }
    for path in FILES.map(PathBuf::from) {
        if let Some(values) = super::file::read(&path)? {
            return Ok((path, values));
        }
    }
    Ok((PathBuf::from(FILES[0]), Values::new()))
}

/// Builds the settings of a daemon called `name`. The error is the sentence to
/// show.
pub(crate) fn build(name: &str, values: &Values) -> Result<Settings, String> {
    options::check_support(values)?;
    let given = Given(values);
    let hosts = hosts(name, &given)?;
    let debug = given.flag("debug", false);
    let log_level = level(&given, debug)?;
    let engine = engine_config(&given, debug)?;
    let min_api = match given.some_text("min-api-version") {
        Some(text) => parse_min_api(text)?,
        None => match std::env::var("DOCKER_MIN_API_VERSION") {
            Ok(text) => parse_min_api(&text)?,
            Err(_) => ApiVersion::MIN,
        },
    };
    Ok(Settings {
        engine,
        hosts,
        group: given.some_text("group").map(str::to_owned),
        pidfile: given.path("pidfile", "/var/run/berth.pid"),
        log_level,
        log_json: given.one_of("log-format", &["text", "json"])? == "json",
        shutdown_timeout: match given.number("shutdown-timeout", 15)? {
            // Negative is for ever to Docker; a day is as long as anyone waits.
            negative if negative < 0 => Duration::from_secs(24 * 60 * 60),
            seconds => Duration::from_secs(seconds.unsigned_abs()),
        },
        min_api,
        ready_fd: match values.get("ready-fd") {
            Some(Value::Int(fd)) => Some(
                i32::try_from(*fd).map_err(|_| format!("invalid argument for --ready-fd: {fd}"))?,
            ),
            _ => None,
        },
    })
}

fn parse_min_api(text: &str) -> Result<ApiVersion, String> {
    text.parse::<ApiVersion>()
        .ok()
        .filter(|version| (ApiVersion::MIN..=ApiVersion::MAX).contains(version))
        .ok_or_else(|| {
            format!(
                "invalid minimum API version {text}: it must be between {} and {}",
                ApiVersion::MIN,
                ApiVersion::MAX
            )
        })
}

/// `--debug` wins over the level, as in Docker.
pub(crate) fn level(given: &Given<'_>, debug: bool) -> Result<LevelFilter, String> {
    Ok(match given.some_text("log-level").unwrap_or("info") {
        _ if debug => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" => LevelFilter::INFO,
        "warn" | "warning" => LevelFilter::WARN,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        other => {
            return Err(format!(
                "invalid logging level: {other}: it must be debug, info, warn, error or fatal"
            ));
        }
    })
}

fn hosts(name: &str, given: &Given<'_>) -> Result<Vec<Address>, String> {
    let mut hosts = given
        .list("hosts")
        .iter()
        .map(|host| Address::parse(host).map_err(|error| error.to_string()))
        .collect::<Result<Vec<_>, _>>()?;
    if hosts.is_empty() {
        hosts.push(Address::Unix(DEFAULT_HOST.into()));
        if name == "dockerd" {
            hosts.push(Address::Unix(DOCKER_HOST.into()));
        }
    }
    let tls = given.0.get("tls");
    if tls == Some(&Value::Bool(true)) {
        return Err("TLS is not supported by berth yet".to_owned());
    }
    if tls.is_none()
        && let Some(remote) = hosts.iter().find(|host| host.is_remote())
    {
        return Err(format!(
            "refusing to listen on {remote} without encryption: anyone who can reach it is root on this host. TLS is not supported by berth yet; --tls=false listens all the same"
        ));
    }
    Ok(hosts)
}

fn engine_config(given: &Given<'_>, debug: bool) -> Result<Config, String> {
    let bridge = given.some_text("bridge");
    let address = given.some_text("bip");
    if bridge.is_some() && address.is_some() {
        return Err(
            "you specified -b & --bip, mutually exclusive options. Please specify only one"
                .to_owned(),
        );
    }
    let mtu = given.number("mtu", 0)?;
    let mtu = match u32::try_from(mtu) {
        Ok(0) => DEFAULT_MTU,
        Ok(mtu @ 68..=65535) => mtu,
        _ => {
            return Err(format!(
                "invalid default MTU: {mtu}: it must be between 68 and 65535"
            ));
        }
    };
    let labels = given.list("labels").to_vec();
    if let Some(label) = labels.iter().find(|label| !label.contains('=')) {
        return Err(format!("bad attribute format: {label}"));
    }
    let shm = given.some_text("default-shm-size");
    let shm = match shm {
        Some(text) => bytes(text).ok_or_else(|| format!("invalid size: '{text}'"))?,
        None => DEFAULT_SHM,
    };
    let stop = given.number("default-stop-timeout", 10)?;
    let pool = match given.0.get("network-pool") {
        Some(Value::Int(size)) => usize::try_from(*size)
            .ok()
            .filter(|size| *size <= 1024)
            .ok_or_else(|| format!("invalid network pool {size}: it must be between 0 and 1024"))?,
        _ => DEFAULT_POOL,
    };
    let cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let cgroupns = match given.some_text("default-cgroupns-mode") {
        None if cgroup_v2 => "private",
        None => "host",
        Some(_) => given.one_of("default-cgroupns-mode", &["private", "host"])?,
    };
    Ok(Config {
        data_root: absolute(&given.path("data-root", "/var/lib/berth"))?,
        exec_root: absolute(&given.path("exec-root", "/var/run/berth"))?,
        runtime: runtime()?,
        cgroup_parent: given
            .some_text("cgroup-parent")
            .unwrap_or("/berth")
            .to_owned(),
        bridge: BridgeOptions {
            disabled: bridge == Some("none"),
            interface: bridge.filter(|name| *name != "none").map(str::to_owned),
            address: address.map(str::to_owned),
            mtu,
            masquerade: given.flag("ip-masq", true),
        },
        registries: registries::options(*given)?,
        log_driver: given
            .some_text("log-driver")
            .unwrap_or("json-file")
            .to_owned(),
        log_opts: given.map("log-opts"),
        labels,
        default_ulimits: given
            .map("default-ulimits")
            .iter()
            .map(|(name, text)| ulimit(name, text))
            .collect::<Result<_, _>>()?,
        dns: given.list("dns").to_vec(),
        dns_search: given.list("dns-search").to_vec(),
        dns_opts: given.list("dns-opts").to_vec(),
        default_shm_size: shm,
        default_ipc_mode: given
            .one_of("default-ipc-mode", &["private", "shareable"])?
            .to_owned(),
        default_cgroupns_mode: cgroupns.to_owned(),
        default_stop_timeout: stop,
        no_new_privileges: given.flag("no-new-privileges", false),
        seccomp_profile: given
            .some_text("seccomp-profile")
            .unwrap_or("builtin")
            .to_owned(),
        init: given.flag("init", false),
        experimental: given.flag("experimental", false),
        debug,
        network_pool: pool,
        image_gc: image_gc(&given.map("image-gc"))?,
        build_gc: builder::collection(&given.map("builder"))?,
    })
}

/// The small binary stands beside this one.
fn runtime() -> Result<PathBuf, String> {
    let own = std::env::current_exe()
        .map_err(|error| format!("cannot find out where this program is: {error}"))?;
    let runtime = own.with_file_name("berth-runtime");
    if runtime.is_file() {
        Ok(runtime)
    } else {
        Err(format!(
            "cannot find {}: berth-runtime must be beside {}",
            runtime.display(),
            own.display()
        ))
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path)
        .map_err(|error| format!("cannot make {} absolute: {error}", path.display()))
}

/// "soft[:hard]"; -1 is unlimited.
fn ulimit(name: &str, text: &str) -> Result<Ulimit, String> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| {
        text.parse::<i64>()
            .map_err(|_| format!("invalid ulimit {name}={text}: it must be soft[:hard]"))
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard >= 0 && (soft > hard || soft < 0) {
        return Err(format!(
            "ulimit {name}: the soft limit {soft} must not be above the hard limit {hard}"
        ));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        hard,
        soft,
    })
}

/// "reserved=10GB,max-used=50GB", or each pair by itself.
fn image_gc(given: &BTreeMap<String, String>) -> Result<Limits, String> {
    let mut limits = Limits::default();
    for (name, text) in given {
        let pair = format!("{name}={text}");
        for pair in pair.split(',') {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            let limit = match name.trim() {
                "reserved" => &mut limits.reserved,
                "max-used" => &mut limits.max_used,
                "min-free" => &mut limits.min_free,
                other => {
                    return Err(format!(
                        "unknown image limit \"{other}\": it must be reserved, max-used or min-free"
                    ));
                }
            };
            *limit = bytes(text)
                .and_then(|size| u64::try_from(size).ok())
                .ok_or_else(|| format!("invalid size of image limit {name}: '{text}'"))?;
        }
    }
    if limits.max_used > 0 && limits.reserved > limits.max_used {
        return Err("the image limit reserved must not be above max-used".to_owned());
    }
    if limits.reserved > 0 && limits.max_used == 0 && limits.min_free == 0 {
        return Err(
            "the image limit reserved means nothing without max-used or min-free".to_owned(),
        );
    }
    Ok(limits)
}

/// "64m", "1.5g", "1048576": bytes, in powers of 1024 (docker/go-units).
pub(super) fn bytes(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = text[end..].trim();
    let unit = unit.strip_suffix('b').unwrap_or(unit);
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let power = ["", "k", "m", "g", "t", "p"]
        .iter()
        .position(|name| *name == unit)?;
    let bytes = number * 1024_f64.powi(i32::try_from(power).ok()?);
    // Beyond 2^53 a size would no longer be exact.
    (bytes < 9e15).then_some(bytes as i64)
}

/// Values with defaults for what was not given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a>(pub(crate) &'a Values);

impl<'a> Given<'a> {
    pub(crate) fn flag(self, name: &str, default: bool) -> bool {
        match self.0.get(name) {
            Some(Value::Bool(value)) => *value,
            _ => default,
        }
    }

    pub(crate) fn number(self, name: &str, default: i64) -> Result<i64, String> {
        match self.0.get(name) {
            Some(Value::Int(value)) => Ok(*value),
            _ => Ok(default),
        }
    }

    /// Empty is not given.
    fn some_text(self, name: &str) -> Option<&'a str> {
        match self.0.get(name) {
            Some(Value::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn path(self, name: &str, default: &str) -> PathBuf {
        PathBuf::from(self.some_text(name).unwrap_or(default))
    }

    /// One of a few words; the first is the default.
    fn one_of(self, name: &str, words: &[&'static str]) -> Result<&'static str, String> {
        let text = self.some_text(name).unwrap_or(words[0]);
        words
            .iter()
            .copied()
            .find(|word| *word == text)
            .ok_or_else(|| {
                format!(
                    "invalid {}: {text}: it must be {}",
                    name.replace('-', " "),
                    words.join(" or ")
                )
            })
    }

    pub(crate) fn list(self, name: &str) -> &'a [String] {
        match self.0.get(name) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    fn map(self, name: &str) -> BTreeMap<String, String> {
        match self.0.get(name) {
            Some(Value::Map(map)) => map.clone(),
            _ => BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("64m", Some(64 << 20)),
            ("1.5KiB", Some(1536)),
            ("1024", Some(1024)),
            ("1 gb", Some(1 << 30)),
            ("", None),
            ("x", None),
            ("1z", None),
            ("9999999999999t", None),
        ] {
            assert_eq!(bytes(text), want, "{text}");
        }
    }

    #[test]
    fn image_limits() {
        let limits = |pairs: &[(&str, &str)]| {
            let map = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            image_gc(&map.collect())
        };
        let joined = limits(&[("reserved", "1GB,max-used=5GB,min-free=2g")]).unwrap();
        let single = limits(&[("reserved", "1g"), ("max-used", "5g"), ("min-free", "2g")]);
        assert_eq!(joined, single.unwrap());
        assert_eq!(joined.max_used, 5 << 30);
        assert_eq!(limits(&[]).unwrap(), Limits::default());
        for bad in [("max-used", "x"), ("most", "1g"), ("reserved", "1g")] {
            assert!(limits(&[bad]).is_err(), "{bad:?}");
        }
        assert!(limits(&[("max-used", "1g,reserved=2g")]).is_err());
    }

    #[test]
    fn ulimits() {
        assert_eq!(ulimit("nofile", "10:20").unwrap().hard, 20);
        assert_eq!(ulimit("core", "-1").unwrap().soft, -1);
        assert!(ulimit("nofile", "20:10").is_err());
        assert!(ulimit("nofile", "x").is_err());
    }

    #[test]
    fn hosts_and_encryption() {
        let count = |name, text: &[&str], tls: Option<bool>| {
            let mut values = Values::new();
            if !text.is_empty() {
                let list = text.iter().map(|t| (*t).to_owned()).collect();
                values.insert("hosts", Value::List(list));
            }
            if let Some(tls) = tls {
                values.insert("tls", Value::Bool(tls));
            }
            hosts(name, &Given(&values)).map(|hosts| hosts.len())
        };
        assert_eq!(count("berth daemon", &[], None), Ok(1));
        assert_eq!(count("dockerd", &[], None), Ok(2));
        assert_eq!(count("x", &["tcp://127.0.0.1:1"], None), Ok(1));
        assert!(count("x", &["tcp://0.0.0.0:1"], None).is_err());
        assert_eq!(count("x", &["tcp://0.0.0.0:1"], Some(false)), Ok(1));
        assert!(count("x", &[], Some(true)).is_err());
    }

    #[test]
    fn minimum_versions() {
        assert_eq!(parse_min_api("1.40"), Ok(ApiVersion(1, 40)));
        assert!(parse_min_api("1.23").is_err() && parse_min_api("x").is_err());
    }
}
