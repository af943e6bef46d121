//! Which control groups a container and its execs are in, and the freezer.
#![allow(clippy::unwrap_used)]

mod common;

use common::bundle::{Bundle, Place};
use serde_json::json;

fn is_v2() -> bool {
    berth_cgroup::Host::detect().unwrap().layout() == berth_cgroup::Layout::V2
}

fn sleeper() -> Bundle {
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.leave(&["run", "-d", "a"]);
    bundle
}

fn end(bundle: &Bundle) {
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

#[test]
fn exec_joins_a_group_below_the_containers() {
    let bundle = sleeper();
    let path = bundle.config["linux"]["cgroupsPath"].as_str().unwrap();
    let host = berth_cgroup::Host::detect().unwrap();
    let below = berth_cgroup::Cgroup::open(&host, &format!("{path}/below"));
    if is_v2() {
        // Not with controllers: the container's group holds processes.
        let mount = &host.mounts()[0].1;
        std::fs::create_dir(mount.join(&below.path()[1..])).unwrap();
    } else {
        berth_cgroup::Cgroup::create(&host, below.path(), None).unwrap();
    }
    bundle.leave(&["exec", "-d", "--cgroup", "below", "a", "sleep", "1001"]);
    assert_eq!(below.processes().unwrap().len(), 1);
    for (group, why) in [
        ("../x", "is not a sub cgroup path"),
        ("nope", "/nope"),
        ("nope:below", "unknown controller nope"),
        (":below", "empty <controller> prefix"),
        ("cpu,cpu:below", "controller cpu specified multiple times"),
    ] {
        let error = bundle.fails(&["exec", "--cgroup", group, "a", "true"]);
        assert!(error.contains(why), "{error}");
    }
    if !is_v2() {
        // Of one hierarchy only.
        bundle.leave(&["exec", "-d", "--cgroup", "pids:below", "a", "sleep", "1002"]);
        let pids = Place {
            v1: Some(("pids", "below/cgroup.procs")),
            v2: None,
        };
        let memory = Place {
            v1: Some(("memory", "below/cgroup.procs")),
            v2: None,
        };
        let count = |place| bundle.limit(place).unwrap().lines().count();
        assert_eq!((count(&pids), count(&memory)), (2, 1));
    } else {
        let error = bundle.fails(&["exec", "--cgroup", "pids:below", "a", "true"]);
        assert!(error.contains("unknown controller pids"), "{error}");
    }
    end(&bundle);
}

#[test]
fn a_frozen_container_runs_nothing_unless_asked() {
    let bundle = sleeper();
    bundle.ok(&["pause", "a"]);
    assert_eq!(bundle.state_of("a")["status"], "paused");
    let error = bundle.fails(&["exec", "a", "true"]);
    assert!(error.contains("--ignore-paused"), "{error}");
    assert!(bundle.fails(&["pause", "a"]).contains("not running"));
    // It is frozen too, and goes on with the others.
    let done = bundle.path().join("rootfs/done");
    let mut command = bundle.command(&["exec", "--ignore-paused", "a", "touch", "/done"]);
    let mut child = command.spawn().unwrap();
    bundle.ok(&["resume", "a"]);
    assert!(child.wait().unwrap().success());
    assert!(done.exists());
    assert!(bundle.fails(&["resume", "a"]).contains("not paused"));
    // One that is frozen is ended all the same.
    bundle.ok(&["pause", "a"]);
    end(&bundle);
}

#[test]
fn a_group_in_use_is_not_taken() {
    let bundle = sleeper();
    let error = bundle.fails(&["run", "b"]);
    assert!(
        error.contains("container's cgroup is not empty: 1 process(es) found"),
        "{error}"
    );
    assert_eq!(bundle.state_of("a")["status"], "running");
    end(&bundle);
}

#[test]
fn a_cpuset_starts_with_what_its_parents_have() {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let top = bundle.config["linux"]["cgroupsPath"]
        .as_str()
        .unwrap()
        .to_owned();
    bundle.config["linux"]["cgroupsPath"] = json!(format!("{top}/a/b/c"));
    bundle.leave(&["run", "-d", "a"]);
    let place = |v1, v2| Place {
        v1: Some(("cpuset", v1)),
        v2: Some(v2),
    };
    let effective = place("cpuset.effective_cpus", "cpuset.cpus.effective");
    assert_ne!(bundle.limit(&effective).unwrap(), "");
    if !is_v2() {
        assert_ne!(
            bundle.limit(&place("cpuset.cpus", "cpuset.cpus")).unwrap(),
            ""
        );
    }
    bundle.ok(&["delete", "--force", "a"]);
    let host = berth_cgroup::Host::detect().unwrap();
    berth_cgroup::Cgroup::open(&host, &top).remove().unwrap();
    bundle.assert_empty();
}
