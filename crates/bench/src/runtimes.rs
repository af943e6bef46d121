//! OCI runtimes on one bundle: `run` of a static program that ends at once.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::sample::{Subject, in_turn, table};

/// Peers by name, found in PATH. crun refuses the hybrid layout unless the empty
/// v2 hierarchy is out of sight; [`without_unified`] sees to that.
const PEERS: &[&str] = &["crun", "runc", "youki"];

/// The version 2 hierarchy of the hybrid layout.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

pub(crate) fn measure(rounds: usize) {
    if Path::new(UNIFIED).join("cgroup.controllers").exists() {
        return without_unified(rounds);
    }
    let dir = tempfile::tempdir().expect("/tmp can be written");
    let bundle = dir.path();
    make_bundle(bundle);
    let own = berth_e2e::engine::bin_dir().join("berth-runtime");
    let mut subjects = vec![subject("berth-runtime", own.as_os_str(), bundle)];
    for &peer in PEERS {
        if berth_e2e::installed(peer) {
            subjects.push(subject(peer, peer.as_ref(), bundle));
        } else {
            println!("({peer} is not installed)");
        }
    }
    for (pacing, pause) in [
        ("back to back", Duration::ZERO),
        ("after 100 ms of rest", Duration::from_millis(100)),
    ] {
        table(
            &format!("OCI runtime: run /bin/true, full Docker-like bundle, {pacing}"),
            &in_turn(&mut subjects, rounds, pause),
        );
    }
}

fn subject<'a>(name: &str, program: &std::ffi::OsStr, bundle: &'a Path) -> Subject<'a> {
    let program = program.to_owned();
    let label = name.to_owned();
    Subject {
        name: name.to_owned(),
        command: Box::new(move |round| {
            let mut command = Command::new(&program);
            command
                .arg("--root")
                .arg(bundle.join(format!("state-{label}")))
                .args(["run", "--bundle"])
                .arg(bundle)
                .arg(format!("bench-{label}-{}-{round}", std::process::id()));
            command
        }),
    }
}

/// Measures in a mount namespace without that hierarchy, all runtimes alike.
fn without_unified(rounds: usize) {
    let own = std::env::current_exe().expect("a program knows its own path");
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg(format!("umount -l {UNIFIED}; exec \"$@\""))
        .arg("sh")
        .arg(own)
        .arg("--bin-dir")
        .arg(berth_e2e::engine::bin_dir())
        .args(["--only", "runtimes", "--rounds", &rounds.to_string()])
        .status()
        .expect("util-linux is installed");
    assert!(
        status.success(),
        "measuring the runtimes ended with {status}"
    );
}

/// A root filesystem with busybox and the configuration Docker would write.
fn make_bundle(dir: &Path) {
    let rootfs = dir.join("rootfs");
    std::fs::create_dir(&rootfs).expect("a fresh directory");
    tar_extract(&berth_e2e::image::busybox_rootfs(), &rootfs);
    std::fs::write(dir.join("config.json"), configuration()).expect("a fresh directory");
}

/// Limits and all, with Docker's default system call filter for the capabilities in it.
fn configuration() -> String {
    let mut bundle: serde_json::Value =
        serde_json::from_str(include_str!("bundle.json")).expect("it is JSON");
    let capabilities = bundle["process"]["capabilities"]["bounding"].as_array();
    let capabilities: Vec<_> = capabilities
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str())
        .collect();
    let section = berth_seccomp::Profile::docker_default()
        .resolve(&capabilities, crate::kernel())
        .expect("the default profile holds on every kernel");
    bundle["linux"]["seccomp"] = serde_json::to_value(section).expect("plain data");
    bundle.to_string()
}

fn tar_extract(archive: &[u8], to: &Path) {
    let run = berth_e2e::Run::new(Command::new("tar").arg("-xC").arg(to), archive);
    run.ok();
}
