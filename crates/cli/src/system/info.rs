//! `info`.

use std::fmt::Write as _;

use berth_api::system::Info;

use crate::context::Context;
use crate::flags::Parsed;
use crate::output::{print, print_line, template, warn};
use crate::transport::Request;
use crate::tree::Outcome;
use crate::units::human_binary;

pub(crate) async fn info(context: &Context, args: &Parsed) -> Outcome {
    let client = format!(
        "Client:\n Version:    {}\n Context:    default\n Debug Mode: false\n",
        env!("CARGO_PKG_VERSION")
    );
    let format = args.get("format").unwrap_or_default();
    let reply = context.bytes(Request::get("/info")).await;
    if !format.is_empty() {
        let text = String::from_utf8_lossy(&reply?).into_owned();
        print_line(&template::over_json(format, text.trim())?);
        return Ok(0);
    }
    print(&client);
    print("\nServer:\n");
    let info: Info = serde_json::from_slice(&reply?).map_err(|error| {
        crate::failure::Failure::new(format!("cannot read the engine's reply: {error}"))
    })?;
    print(&describe(&info));
    for warning in info.warnings.iter().flatten() {
        warn(warning);
    }
    Ok(0)
}

fn describe(info: &Info) -> String {
    let mut text = String::new();
    let mut line = |depth: usize, name: &str, value: &str| {
        let _ = writeln!(text, "{}{name}: {value}", " ".repeat(depth));
    };
    line(1, "Containers", &info.containers.to_string());
    line(2, "Running", &info.containers_running.to_string());
    line(2, "Paused", &info.containers_paused.to_string());
    line(2, "Stopped", &info.containers_stopped.to_string());
    line(1, "Images", &info.images.to_string());
    line(1, "Server Version", &info.server_version);
    line(1, "Storage Driver", &info.driver);
    for [name, value] in &info.driver_status {
        line(2, name, value);
    }
    line(1, "Logging Driver", &info.logging_driver);
    line(1, "Cgroup Driver", &info.cgroup_driver);
    line(1, "Cgroup Version", &info.cgroup_version);
    line(1, "Plugins", "");
    line(2, "Volume", &info.plugins.volume.join(" "));
    line(2, "Network", &info.plugins.network.join(" "));
    line(2, "Log", &info.plugins.log.join(" "));
    if !info.swarm.local_node_state.is_empty() {
        line(1, "Swarm", &info.swarm.local_node_state);
    }
    let runtimes: Vec<_> = info.runtimes.keys().cloned().collect();
    line(1, "Runtimes", &runtimes.join(" "));
    line(1, "Default Runtime", &info.default_runtime);
    if !info.init_binary.is_empty() {
        line(1, "Init Binary", &info.init_binary);
    }
    if !info.security_options.is_empty() {
        line(1, "Security Options", "");
        for option in &info.security_options {
            for (at, part) in option.split(',').enumerate() {
                match part.split_once('=') {
                    Some(("name", name)) if at == 0 => line(2, name, ""),
                    Some((name, value)) => line(3, name, value),
                    None => line(2, part, ""),
                }
            }
        }
    }
    line(1, "Kernel Version", &info.kernel_version);
    line(1, "Operating System", &info.operating_system);
    line(1, "OSType", &info.os_type);
    line(1, "Architecture", &info.architecture);
    line(1, "CPUs", &info.n_cpu.to_string());
    line(1, "Total Memory", &human_binary(info.mem_total as f64));
    line(1, "Name", &info.name);
    line(1, "ID", &info.id);
    line(1, "Docker Root Dir", &info.docker_root_dir);
    line(1, "Debug Mode", &info.debug.to_string());
    for (name, value) in [
        ("HTTP Proxy", &info.http_proxy),
        ("HTTPS Proxy", &info.https_proxy),
        ("No Proxy", &info.no_proxy),
    ] {
        if !value.is_empty() {
            line(1, name, value);
        }
    }
    if !info.labels.is_empty() {
        line(1, "Labels", "");
        for label in &info.labels {
            let _ = writeln!(text, "  {label}");
        }
    }
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, " {name}: {value}");
    };
    line("Experimental", &info.experimental_build.to_string());
    line(
        "Live Restore Enabled",
        &info.live_restore_enabled.to_string(),
    );
    if let Some(backend) = &info.firewall_backend {
        line("Firewall Backend", &backend.driver);
    }
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "{}", line.trim_end());
        all
    })
}
