//! `update`.

use berth_api::container::{Update, UpdateResponse};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Parsed;
use crate::output::{print_line, warn};
use crate::run::options::restart_policy;
use crate::transport::{Request, segment};
use crate::tree::Outcome;

const FLAGS: [&str; 14] = [
    "blkio-weight",
    "cpu-period",
    "cpu-quota",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "cpu-shares",
    "cpus",
    "cpuset-cpus",
    "cpuset-mems",
    "memory",
    "memory-reservation",
    "memory-swap",
    "pids-limit",
    "restart",
];

pub(crate) async fn update(context: &Context, args: &Parsed) -> Outcome {
    if !FLAGS.iter().any(|flag| args.changed(flag)) {
        return Err(Failure::new(
            "you must provide one or more flags when using this command",
        ));
    }
    let body = Update {
        cpu_shares: args.int("cpu-shares"),
        memory: args.bytes("memory"),
        nano_cpus: args.nano_cpus("cpus"),
        blkio_weight: u16::try_from(args.uint("blkio-weight")).unwrap_or(u16::MAX),
        cpu_period: args.int("cpu-period"),
        cpu_quota: args.int("cpu-quota"),
        cpu_realtime_period: args.int("cpu-rt-period"),
        cpu_realtime_runtime: args.int("cpu-rt-runtime"),
        cpuset_cpus: args.text("cpuset-cpus"),
        cpuset_mems: args.text("cpuset-mems"),
        memory_reservation: args.bytes("memory-reservation"),
        memory_swap: args.bytes("memory-swap"),
        pids_limit: args.changed("pids-limit").then(|| args.int("pids-limit")),
        restart_policy: args
            .get("restart")
            .map(restart_policy)
            .transpose()
            .map_err(Failure::new)?,
    };
    let mut failures = Vec::new();
    for name in &args.words {
        let request = Request::post(format!("/containers/{}/update", segment(name))).json(&body)?;
        match context.json::<UpdateResponse>(request).await {
            Ok(reply) => {
                print_line(name);
                for warning in reply.warnings.unwrap_or_default() {
                    warn(&warning);
                }
            }
            Err(failure) => failures.push(failure.message),
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::new(failures.join("\n")))
    }
}
