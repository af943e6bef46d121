//! `port`: where a container's ports are published.

use berth_api::container::{Inspect, PortBinding};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::print_line;
use crate::transport::{Request, segment};
use crate::tree::Outcome;

pub(crate) async fn port(context: &Context, args: &Parsed) -> Outcome {
    let name = args.words.first().map_or("", String::as_str);
    let container: Inspect = context
        .json(Request::get(format!("/containers/{}/json", segment(name))))
        .await?;
    let ports = &container.network_settings.ports;
    let place = |binding: &PortBinding| {
        if binding.host_ip.contains(':') {
            format!("[{}]:{}", binding.host_ip, binding.host_port)
        } else {
            format!("{}:{}", binding.host_ip, binding.host_port)
        }
    };
    let Some(wanted) = args.words.get(1) else {
        let mut lines: Vec<_> = ports
            .iter()
            .flat_map(|(port, bindings)| {
                bindings
                    .iter()
                    .flatten()
                    .map(move |binding| (port, binding))
            })
            .collect();
        lines.sort_by_key(|(port, _)| {
            port.split('/')
                .next()
                .and_then(|number| number.parse::<u16>().ok())
        });
        for (port, binding) in lines {
            print_line(&format!("{port} -> {}", place(binding)));
        }
        return Ok(0);
    };
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    if number.parse::<u16>().is_err() {
        return Err(Failure::new(format!("invalid port '{number}'")));
    }
    match ports.get(&format!("{number}/{protocol}")) {
        Some(Some(bindings)) if !bindings.is_empty() => {
            for binding in bindings {
                print_line(&place(binding));
            }
            Ok(0)
        }
        _ => Err(Failure::new(format!(
            "Error: No public port '{wanted}' published for {name}"
        ))),
    }
}
