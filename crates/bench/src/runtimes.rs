//! OCI runtimes on one bundle: `run` of a static program that ends at once.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::sample::{Subject, in_turn, table};

/// Peers by name, found in PATH.
const PEERS: &[&str] = &["crun", "runc", "youki"];

pub(crate) fn measure(rounds: usize) {
    let dir = tempfile::tempdir().expect("/tmp can be written");
    let bundle = dir.path();
    make_bundle(bundle);
    let own = berth_e2e::engine::bin_dir().join("berth-runtime");
    let mut subjects = vec![subject("berth-runtime", own.as_os_str(), bundle, false)];
    for &peer in PEERS {
        if berth_e2e::installed(peer) {
            subjects.push(subject(peer, peer.as_ref(), bundle, true));
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

/// crun refuses the hybrid layout unless the empty v2 hierarchy is out of sight;
/// all peers run that way when there is one, so that all do the same work.
fn subject<'a>(name: &str, program: &std::ffi::OsStr, bundle: &'a Path, peer: bool) -> Subject<'a> {
    let name = name.to_owned();
    let program = program.to_owned();
    let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    let label = name.clone();
    Subject {
        name,
        command: Box::new(move |round| {
            let id = format!("bench-{label}-{}-{round}", std::process::id());
            let root = bundle.join(format!("state-{label}"));
            if peer && hybrid {
                // The namespace is made by a shell that then becomes the runtime;
                // its cost (measured: 1–2 ms) is part of the peers' figures.
                let mut command = Command::new("unshare");
                command
                    .args([
                        "--mount",
                        "sh",
                        "-c",
                        "umount /sys/fs/cgroup/unified; exec \"$@\"",
                        "sh",
                    ])
                    .arg(&program);
                command
                    .arg("--root")
                    .arg(root)
                    .args(["run", "--bundle"])
                    .arg(bundle)
                    .arg(id);
                command
            } else {
                let mut command = Command::new(&program);
                command
                    .arg("--root")
                    .arg(root)
                    .args(["run", "--bundle"])
                    .arg(bundle)
                    .arg(id);
                command
            }
        }),
    }
}

/// A root filesystem with busybox and the configuration Docker would write.
fn make_bundle(dir: &Path) {
    let rootfs = dir.join("rootfs");
    std::fs::create_dir(&rootfs).expect("a fresh directory");
    tar_extract(&berth_e2e::image::busybox_rootfs(), &rootfs);
    std::fs::write(dir.join("config.json"), include_str!("bundle.json"))
        .expect("a fresh directory");
}

fn tar_extract(archive: &[u8], to: &Path) {
    let run = berth_e2e::Run::new(Command::new("tar").arg("-xC").arg(to), archive);
    run.ok();
}
