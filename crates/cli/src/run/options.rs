//! From the flags of `create` and `run` to the request.

use std::collections::{BTreeMap, BTreeSet};

use berth_api::StringOrList;
use berth_api::container::{
    Config, CreateRequest, DeviceRequest, Healthcheck, HostConfig, Labels, LogConfig,
    NetworkingConfig, PortMap, RestartPolicy, Set, ThrottleDevice, WeightDevice,
};

use super::device::{Device, parse_device, parse_gpus};
use super::{files, mount, network, port, security, validate};
use crate::flags::Parsed;

/// What the words ask for.
pub(super) fn request(
    args: &Parsed,
    proxy: Vec<(String, String)>,
) -> Result<CreateRequest, String> {
    let (image, command) = args.words.split_first().ok_or("no image was named")?;
    let config = config(args, image, command, proxy)?;
    let (mode, endpoints) = network::endpoints(args)?;
    let mut request = CreateRequest {
        config,
        host_config: host_config(args, mode)?,
        networking_config: NetworkingConfig {
            endpoints_config: Some(endpoints),
        },
    };
    volumes(args, &mut request)?;
    ports(args, &mut request)?;
    Ok(request)
}

fn some(list: Vec<String>) -> Option<Vec<String>> {
    (!list.is_empty()).then_some(list)
}

/// "k=v" texts to a map; "k" alone has the value "".
fn map(texts: &[String]) -> Labels {
    texts
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn config(
    args: &Parsed,
    image: &str,
    command: &[String],
    proxy: Vec<(String, String)>,
) -> Result<Config, String> {
    let attached = args.list("attach");
    let attach = |name: &str| attached.iter().any(|text| text.eq_ignore_ascii_case(name));
    let nothing_named = attached.is_empty();
    let interactive = args.on("interactive");
    let attach_stdin = interactive || attach("stdin");
    let given = args.list("env");
    let mut environment_flags: Vec<String> = proxy
        .into_iter()
        .filter(|(name, _)| {
            !given
                .iter()
                .any(|text| text.split('=').next() == Some(name.as_str()))
        })
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    environment_flags.splice(0..0, given);
    let environment = files::environment(&args.list("env-file"), &environment_flags)?;
    let labels = files::labels(&args.list("label-file"), &args.list("label"))?;
    Ok(Config {
        hostname: args.text("hostname"),
        domainname: args.text("domainname"),
        user: args.text("user"),
        attach_stdin,
        attach_stdout: nothing_named || attach("stdout"),
        attach_stderr: nothing_named || attach("stderr"),
        tty: args.on("tty"),
        open_stdin: interactive,
        stdin_once: interactive && attach_stdin,
        env: some(environment),
        cmd: (!command.is_empty()).then(|| StringOrList(command.to_vec())),
        healthcheck: healthcheck(args)?,
        image: image.to_owned(),
        volumes: Some(Set::new()),
        working_dir: args.text("workdir"),
        entrypoint: args
            .get("entrypoint")
            .map(|text| StringOrList(vec![text.to_owned()])),
        labels: Some(map(&labels)),
        stop_signal: args.text("stop-signal"),
        stop_timeout: args
            .changed("stop-timeout")
            .then(|| args.int("stop-timeout")),
        ..Config::default()
    })
}

fn healthcheck(args: &Parsed) -> Result<Option<Healthcheck>, String> {
    const DURATIONS: [&str; 4] = [
        "health-interval",
        "health-timeout",
        "health-start-period",
        "health-start-interval",
    ];
    let retries = args.int("health-retries");
    let command = args.text("health-cmd");
    let any = !command.is_empty()
        || retries != 0
        || DURATIONS.iter().any(|name| args.duration(name) != 0);
    if args.on("no-healthcheck") {
        if any {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        return Ok(Some(Healthcheck {
            test: vec!["NONE".to_owned()],
            ..Healthcheck::default()
        }));
    }
    if !any {
        return Ok(None);
    }
    if let Some(name) = DURATIONS.iter().find(|name| args.duration(name) < 0) {
        return Err(format!("--{name} cannot be negative"));
    }
    if retries < 0 {
        return Err("--health-retries cannot be negative".to_owned());
    }
    Ok(Some(Healthcheck {
        test: if command.is_empty() {
            Vec::new()
        } else {
            vec!["CMD-SHELL".to_owned(), command]
        },
        interval: args.duration("health-interval"),
        timeout: args.duration("health-timeout"),
        start_period: args.duration("health-start-period"),
        start_interval: args.duration("health-start-interval"),
        retries,
    }))
}

fn host_config(args: &Parsed, network_mode: String) -> Result<HostConfig, String> {
    let swappiness = if args.changed("memory-swappiness") {
        args.int("memory-swappiness")
    } else {
        -1
    };
    if !(-1..=100).contains(&swappiness) {
        return Err(format!(
            "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
        ));
    }
    if args.on("use-api-socket") {
        return Err("--use-api-socket is not supported yet".to_owned());
    }
    let restart_policy = restart_policy(args.get("restart").unwrap_or("no"))?;
    if args.on("rm") && !matches!(restart_policy.name.as_str(), "" | "no") {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    let (security_opt, open_paths) = security::options(&args.list("security-opt"))?;
    let storage_opt = args.list("storage-opt");
    if storage_opt.iter().any(|text| !text.contains('=')) {
        return Err("invalid storage option".to_owned());
    }
    let log_driver = args.text("log-driver");
    let log_opts = args.list("log-opt");
    if log_driver == "none" && !log_opts.is_empty() {
        return Err("invalid logging opts for driver none".to_owned());
    }
    let open = |open| if open { Some(Vec::new()) } else { None };
    let annotations = map(&args.list("annotation"));
    let tmpfs: Labels = args
        .list("tmpfs")
        .iter()
        .map(|text| {
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            (path.to_owned(), options.to_owned())
        })
        .collect();
    let mut host = HostConfig {
        container_id_file: args.text("cidfile"),
        log_config: LogConfig {
            r#type: log_driver,
            config: Some(map(&log_opts)),
        },
        network_mode,
        port_bindings: Some(PortMap::new()),
        restart_policy,
        auto_remove: args.on("rm"),
        volume_driver: args.text("volume-driver"),
        volumes_from: some(args.list("volumes-from")),
        annotations: (!annotations.is_empty()).then_some(annotations),
        cap_add: capabilities(&args.list("cap-add")),
        cap_drop: capabilities(&args.list("cap-drop")),
        cgroupns_mode: mode(args, "cgroupns", "CGROUP", &["private", "host"], &[])?,
        dns: Some(args.list("dns")),
        dns_options: Some(args.lists(&["dns-option", "dns-opt"])),
        dns_search: Some(args.list("dns-search")),
        extra_hosts: some(
            args.list("add-host")
                .iter()
                .filter_map(|text| validate::split_extra_host(text))
                .map(|(name, address)| format!("{name}:{address}"))
                .collect(),
        ),
        group_add: some(args.list("group-add")),
        ipc_mode: args.text("ipc"),
        links: some(args.list("link")),
        oom_score_adj: args.int("oom-score-adj"),
        pid_mode: mode(args, "pid", "PID", &["host"], &["container:"])?,
        privileged: args.on("privileged"),
        publish_all_ports: args.on("publish-all"),
        readonly_rootfs: args.on("read-only"),
        security_opt: some(security_opt),
        storage_opt: (!storage_opt.is_empty()).then(|| map(&storage_opt)),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        uts_mode: mode(args, "uts", "UTS", &["host"], &[])?,
        userns_mode: mode(args, "userns", "USER", &["host"], &[])?,
        shm_size: args.bytes("shm-size"),
        sysctls: some(args.list("sysctl")).map(|list| map(&list)),
        runtime: args.text("runtime"),
        isolation: args.text("isolation"),
        masked_paths: open(open_paths),
        readonly_paths: open(open_paths),
        init: args.changed("init").then(|| args.on("init")),
        memory_swappiness: Some(swappiness),
        ..HostConfig::default()
    };
    resources(args, &mut host)?;
    Ok(host)
}

/// "net_admin" as "CAP_NET_ADMIN"; sorted, each once.
fn capabilities(texts: &[String]) -> Option<StringOrList> {
    let names: BTreeSet<_> = texts
        .iter()
        .map(|text| match text.to_uppercase() {
            name if name == "ALL" || name.starts_with("CAP_") => name,
            name => format!("CAP_{name}"),
        })
        .collect();
    some(names.into_iter().collect()).map(StringOrList)
}

/// Flags that mean something to an engine on Windows only, in Docker's words.
pub(super) fn refuse_windows(args: &Parsed) -> Result<(), String> {
    let lines: Vec<_> = ["cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"]
        .into_iter()
        .filter(|flag| args.changed(flag))
        .map(|flag| format!("\"--{flag}\" is only supported on a Docker daemon running on windows, but the Docker daemon is running on linux"))
        .collect();
    if lines.is_empty() {
        Ok(())
    } else {
        Err(lines.join("\n"))
    }
}

/// A namespace mode: "", one of `words`, or one of `prefixes` with a name.
fn mode(
    args: &Parsed,
    flag: &str,
    shown: &str,
    words: &[&str],
    prefixes: &[&str],
) -> Result<String, String> {
    let text = args.text(flag);
    let named = |prefix: &&str| {
        text.strip_prefix(*prefix)
            .is_some_and(|name| !name.is_empty())
    };
    if text.is_empty() || words.contains(&text.as_str()) || prefixes.iter().any(named) {
        Ok(text)
    } else {
        Err(format!("--{flag}: invalid {shown} mode"))
    }
}

fn resources(args: &Parsed, host: &mut HostConfig) -> Result<(), String> {
    host.cpu_shares = args.int("cpu-shares");
    host.memory = args.bytes("memory");
    host.nano_cpus = args.nano_cpus("cpus");
    host.cgroup_parent = args.text("cgroup-parent");
    host.blkio_weight = u16::try_from(args.uint("blkio-weight")).unwrap_or(u16::MAX);
    host.blkio_weight_device = Some(
        args.list("blkio-weight-device")
            .iter()
            .map(|text| {
                validate::parse_weight_device(text)
                    .map(|(path, weight)| WeightDevice { path, weight })
            })
            .collect::<Result<_, _>>()?,
    );
    let throttle = |flag: &str, parse: fn(&str) -> Result<(String, u64), String>| {
        args.list(flag)
            .iter()
            .map(|text| parse(text).map(|(path, rate)| ThrottleDevice { path, rate }))
            .collect::<Result<Vec<_>, _>>()
            .map(Some)
    };
    host.blkio_device_read_bps = throttle("device-read-bps", validate::parse_throttle_bps)?;
    host.blkio_device_write_bps = throttle("device-write-bps", validate::parse_throttle_bps)?;
    host.blkio_device_read_iops = throttle("device-read-iops", validate::parse_throttle_iops)?;
    host.blkio_device_write_iops = throttle("device-write-iops", validate::parse_throttle_iops)?;
    host.cpu_period = args.int("cpu-period");
    host.cpu_quota = args.int("cpu-quota");
    host.cpu_realtime_period = args.int("cpu-rt-period");
    host.cpu_realtime_runtime = args.int("cpu-rt-runtime");
    host.cpuset_cpus = args.text("cpuset-cpus");
    host.cpuset_mems = args.text("cpuset-mems");
    host.device_cgroup_rules = some(args.list("device-cgroup-rule"));
    host.memory_reservation = args.bytes("memory-reservation");
    host.memory_swap = args.bytes("memory-swap");
    host.oom_kill_disable = Some(args.on("oom-kill-disable"));
    host.pids_limit = Some(args.int("pids-limit"));
    host.ulimits = Some(ulimits(&args.list("ulimit"))?);
    devices(args, host)
}

/// One per name, the last given.
fn ulimits(texts: &[String]) -> Result<Vec<berth_api::container::Ulimit>, String> {
    let mut by_name = BTreeMap::new();
    for text in texts {
        let ulimit = validate::parse_ulimit(text)?;
        by_name.insert(ulimit.name.clone(), ulimit);
    }
    Ok(by_name.into_values().collect())
}

fn devices(args: &Parsed, host: &mut HostConfig) -> Result<(), String> {
    let mut nodes = Vec::new();
    let mut cdi = Vec::new();
    for text in args.list("device") {
        match parse_device(&text)? {
            Device::Node(node) => nodes.push(node),
            Device::Cdi(name) => cdi.push(name),
        }
    }
    let mut requests = args
        .list("gpus")
        .iter()
        .map(|text| parse_gpus(text))
        .collect::<Result<Vec<_>, _>>()?;
    if !cdi.is_empty() {
        requests.push(DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: Some(cdi),
            ..DeviceRequest::default()
        });
    }
    host.devices = Some(nodes);
    host.device_requests = (!requests.is_empty()).then_some(requests);
    Ok(())
}

/// "no", "on-failure[:N]", "always", "unless-stopped": the engine knows which
/// names there are.
pub(crate) fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = match text.split_once(':') {
        Some(("", _)) => {
            return Err(
                "invalid restart policy format: no policy provided before colon".to_owned(),
            );
        }
        Some((name, count)) => (
            name,
            count.parse().map_err(|_| {
                "invalid restart policy format: maximum retry count must be an integer".to_owned()
            })?,
        ),
        None => (text, 0),
    };
    Ok(RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: count,
    })
}

fn volumes(args: &Parsed, request: &mut CreateRequest) -> Result<(), String> {
    let mut binds = Vec::new();
    for text in args.list("volume") {
        match mount::parse_volume(&text)? {
            mount::Volume::Bind(text) => binds.push(text),
            mount::Volume::Anonymous(path) => {
                request
                    .config
                    .volumes
                    .get_or_insert_default()
                    .insert(path, berth_api::Empty {});
            }
        }
    }
    request.host_config.binds = some(binds);
    let mounts = args
        .list("mount")
        .iter()
        .map(|text| mount::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    request.host_config.mounts = (!mounts.is_empty()).then_some(mounts);
    Ok(())
}

fn ports(args: &Parsed, request: &mut CreateRequest) -> Result<(), String> {
    let mut exposed = Set::new();
    let mut bindings = PortMap::new();
    for text in args.list("publish") {
        port::publish(&text, &mut exposed, &mut bindings)?;
    }
    for text in args.list("expose") {
        port::expose(&text, &mut exposed)?;
    }
    request.config.exposed_ports = (!exposed.is_empty()).then_some(exposed);
    request.host_config.port_bindings = Some(bindings);
    Ok(())
}
