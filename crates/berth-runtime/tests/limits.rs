//! `linux.resources` and `update`: what ends up in the files of the real control
//! group, on whichever version this host has.
#![allow(
    clippy::needless_pass_by_value,
    clippy::print_stderr,
    clippy::unwrap_used
)]

mod common;

use common::bundle::{Bundle, Place};
use serde_json::{Value, json};

fn is_v2() -> bool {
    berth_cgroup::Host::detect().unwrap().layout() == berth_cgroup::Layout::V2
}

/// A container that sleeps with these limits.
fn sleeper(resources: &Value) -> Bundle {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["linux"]["resources"] = resources.clone();
    bundle.leave(&["run", "-d", "a"]);
    bundle
}

/// Why the container is not made. Nothing of it is left.
fn refusal(resources: &Value) -> String {
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["linux"]["resources"] = resources.clone();
    let error = bundle.fails(&["run", "a"]);
    bundle.assert_empty();
    error
}

fn end(bundle: &Bundle) {
    bundle.ok(&["delete", "--force", "a"]);
    bundle.assert_empty();
}

/// Each file that is not there is told, and why it may be missing.
fn check(bundle: &Bundle, expected: &[(Place, &str)]) {
    for (place, value) in expected {
        match bundle.limit(place) {
            Some(found) => assert_eq!(&found, value, "{place:?}"),
            None => eprintln!("SKIPPED: this kernel has no {place:?}"),
        }
    }
}

const fn both(v1: (&'static str, &'static str), v2: &'static str) -> Place {
    Place {
        v1: Some(v1),
        v2: Some(v2),
    }
}

const LIMIT: Place = both(("memory", "memory.limit_in_bytes"), "memory.max");
const RESERVATION: Place = both(("memory", "memory.soft_limit_in_bytes"), "memory.low");
const SHARES_V1: Place = Place {
    v1: Some(("cpu", "cpu.shares")),
    v2: None,
};
const WEIGHT_V2: Place = Place {
    v1: None,
    v2: Some("cpu.weight"),
};
const QUOTA_V1: Place = Place {
    v1: Some(("cpu", "cpu.cfs_quota_us")),
    v2: None,
};
const PERIOD_V1: Place = Place {
    v1: Some(("cpu", "cpu.cfs_period_us")),
    v2: None,
};
const MAX_V2: Place = Place {
    v1: None,
    v2: Some("cpu.max"),
};
const BURST: Place = both(("cpu", "cpu.cfs_burst_us"), "cpu.max.burst");
const IDLE: Place = both(("cpu", "cpu.idle"), "cpu.idle");
const CPUS: Place = both(("cpuset", "cpuset.cpus"), "cpuset.cpus");
const MEMS: Place = both(("cpuset", "cpuset.mems"), "cpuset.mems");
const PIDS: Place = both(("pids", "pids.max"), "pids.max");
const SWAP_V1: Place = Place {
    v1: Some(("memory", "memory.memsw.limit_in_bytes")),
    v2: None,
};
const SWAP_V2: Place = Place {
    v1: None,
    v2: Some("memory.swap.max"),
};

#[test]
fn memory() {
    let mib = |count: u64| count << 20;
    let bundle = sleeper(&json!({ "memory": {
        "limit": mib(64), "reservation": mib(32), "swap": mib(96),
        // Gone from the kernel; runc takes and leaves them too.
        "kernel": mib(8), "kernelTCP": mib(8), "useHierarchy": true,
    } }));
    check(
        &bundle,
        &[
            (LIMIT, "67108864"),
            (RESERVATION, "33554432"),
            (SWAP_V1, "100663296"),
            (SWAP_V2, "33554432"),
        ],
    );
    // Up, both at once; then without limit.
    bundle.ok(&["update", "--memory", "128m", "--memory-swap", "256m", "a"]);
    check(
        &bundle,
        &[
            (LIMIT, "134217728"),
            (SWAP_V1, "268435456"),
            (SWAP_V2, "134217728"),
        ],
    );
    bundle.ok(&["update", "--memory-reservation", "48m", "a"]);
    check(&bundle, &[(RESERVATION, "50331648"), (LIMIT, "134217728")]);
    bundle.ok(&["update", "--memory", "-1", "--memory-swap", "-1", "a"]);
    check(
        &bundle,
        &[
            (
                LIMIT,
                if is_v2() {
                    "max"
                } else {
                    "9223372036854771712"
                },
            ),
            (SWAP_V2, "max"),
        ],
    );
    end(&bundle);
}

#[test]
fn memory_that_is_in_use_is_not_taken_away() {
    let bundle = sleeper(&json!({}));
    let file = bundle.path().join("limits.json");
    let limits = json!({ "memory": { "limit": 4096, "checkBeforeUpdate": true } });
    std::fs::write(&file, limits.to_string()).unwrap();
    let error = bundle.fails(&["update", "-r", file.to_str().unwrap(), "a"]);
    let words = if is_v2() {
        "is below the"
    } else {
        "unable to set memory limit to 4096 (current usage: "
    };
    assert!(error.contains(words), "{error}");
    assert_eq!(bundle.state_of("a")["status"], "running");
    end(&bundle);
}

#[test]
fn what_only_version_1_has() {
    for (memory, words) in [
        (
            json!({ "swappiness": 10 }),
            "cannot set memory swappiness with cgroupv2",
        ),
        (
            json!({ "disableOOMKiller": true }),
            "cannot disable OOM killer with cgroupv2",
        ),
    ] {
        if is_v2() {
            let error = refusal(&json!({ "memory": memory }));
            assert!(error.contains(words), "{error}");
        } else {
            end(&sleeper(&json!({ "memory": memory })));
        }
    }
    if is_v2() {
        for (resources, words) in [
            (json!({ "network": { "classID": 7 } }), "no network classes"),
            (
                json!({ "blockIO": { "leafWeight": 100 } }),
                "no block I/O leaf weights",
            ),
            (
                json!({ "cpu": { "realtimeRuntime": 1000 } }),
                "no limits on realtime",
            ),
        ] {
            let error = refusal(&resources);
            assert!(error.contains(words), "{error}");
        }
        return;
    }
    let bundle = sleeper(&json!({ "memory": { "swappiness": 10, "disableOOMKiller": true } }));
    let of = |file| {
        bundle
            .limit(&Place {
                v1: Some(("memory", file)),
                v2: None,
            })
            .unwrap()
    };
    assert_eq!(of("memory.swappiness"), "10");
    assert!(of("memory.oom_control").contains("oom_kill_disable 1"));
    end(&bundle);
    for (resources, words) in [
        (
            json!({ "memory": { "swappiness": 101 } }),
            "(valid range is 0-100)",
        ),
        (
            json!({ "unified": { "memory.max": "1000000" } }),
            "unified resources need cgroup v2",
        ),
        (
            json!({ "cpu": { "shares": 1 } }),
            "the minimum allowed cpu-shares is 2",
        ),
        (
            json!({ "cpu": { "shares": 262_145 } }),
            "the maximum allowed cpu-shares is 262144",
        ),
        (
            json!({ "blockIO": { "leafWeight": 100 } }),
            "no block I/O leaf weights",
        ),
    ] {
        let error = refusal(&resources);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn processors() {
    let bundle = sleeper(&json!({ "cpu": {
        "shares": 512, "quota": 50_000, "period": 100_000, "burst": 10_000, "cpus": "0", "mems": "0",
    } }));
    check(
        &bundle,
        &[
            (SHARES_V1, "512"),
            (WEIGHT_V2, "59"),
            (QUOTA_V1, "50000"),
            (PERIOD_V1, "100000"),
            (MAX_V2, "50000 100000"),
            (BURST, "10000"),
            (CPUS, "0"),
            (MEMS, "0"),
        ],
    );
    // A quota below the burst that is in force, with a new one.
    bundle.ok(&["update", "--cpu-quota", "5000", "--cpu-burst", "1000", "a"]);
    check(
        &bundle,
        &[(QUOTA_V1, "5000"), (MAX_V2, "5000 100000"), (BURST, "1000")],
    );
    bundle.ok(&["update", "--cpu-period", "200000", "a"]);
    check(&bundle, &[(PERIOD_V1, "200000"), (MAX_V2, "5000 200000")]);
    bundle.ok(&["update", "--cpu-burst", "0", "a"]);
    bundle.ok(&["update", "--cpu-quota", "-1", "--cpu-share", "2048", "a"]);
    check(
        &bundle,
        &[
            (QUOTA_V1, "-1"),
            (MAX_V2, "max 200000"),
            (BURST, "0"),
            (SHARES_V1, "2048"),
            (WEIGHT_V2, "174"),
        ],
    );
    bundle.ok(&["update", "--cpu-idle", "1", "a"]);
    check(&bundle, &[(IDLE, "1")]);
    bundle.ok(&[
        "update",
        "--cpu-idle",
        "0",
        "--cpuset-cpus",
        "0",
        "--cpuset-mems",
        "0",
        "a",
    ]);
    check(&bundle, &[(IDLE, "0"), (CPUS, "0"), (MEMS, "0")]);
    let error = bundle.fails(&["update", "--cpuset-cpus", "4000", "a"]);
    assert!(error.contains("cpuset.cpus"), "{error}");
    end(&bundle);
    // One above the quota: the kernel's word counts.
    assert!(refusal(&json!({ "cpu": { "quota": 50_000, "burst": 100_000 } })).contains("cpu"));
}

#[test]
fn realtime() {
    if is_v2() {
        eprintln!("SKIPPED: cgroup v2 has no limits on realtime CPU time");
        return;
    }
    let bundle = sleeper(&json!({}));
    let place = |file| Place {
        v1: Some(("cpu", file)),
        v2: None,
    };
    if bundle.limit(&place("cpu.rt_runtime_us")).is_none() {
        eprintln!("SKIPPED: this kernel has no RT_GROUP_SCHED");
    } else {
        // A group below one without any has none to give.
        bundle.ok(&["update", "--cpu-rt-period", "500000", "a"]);
        assert_eq!(bundle.limit(&place("cpu.rt_period_us")).unwrap(), "500000");
        let error = bundle.fails(&["update", "--cpu-rt-runtime", "600000", "a"]);
        assert!(error.contains("cpu.rt_runtime_us"), "{error}");
    }
    end(&bundle);
}

#[test]
fn processes() {
    let bundle = sleeper(&json!({ "pids": { "limit": 17 } }));
    check(&bundle, &[(PIDS, "17")]);
    bundle.ok(&["update", "--pids-limit", "-1", "a"]);
    check(&bundle, &[(PIDS, "max")]);
    bundle.ok(&["update", "--pids-limit", "7", "a"]);
    check(&bundle, &[(PIDS, "7")]);
    end(&bundle);
}

/// A block device of this machine, as the kernel numbers it.
fn block_device() -> Option<(u64, u64)> {
    let device = std::fs::read_dir("/sys/block").ok()?.flatten().next()?;
    let numbers = std::fs::read_to_string(device.path().join("dev")).ok()?;
    let (major, minor) = numbers.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[test]
fn block_devices() {
    let Some((major, minor)) = block_device() else {
        eprintln!("SKIPPED: this machine has no block device");
        return;
    };
    let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
    let bundle = sleeper(&json!({ "blockIO": {
        "throttleReadBpsDevice": rate(1 << 20),
        "throttleWriteBpsDevice": rate(2 << 20),
        "throttleReadIOPSDevice": rate(300),
        "throttleWriteIOPSDevice": rate(400),
    } }));
    let throttle = |file| Place {
        v1: Some(("blkio", file)),
        v2: None,
    };
    for (file, value) in [
        ("blkio.throttle.read_bps_device", "1048576"),
        ("blkio.throttle.write_bps_device", "2097152"),
        ("blkio.throttle.read_iops_device", "300"),
        ("blkio.throttle.write_iops_device", "400"),
    ] {
        if let Some(found) = bundle.limit(&throttle(file)) {
            assert_eq!(found, format!("{major}:{minor} {value}"), "{file}");
        }
    }
    let max = Place {
        v1: None,
        v2: Some("io.max"),
    };
    if let Some(found) = bundle.limit(&max) {
        assert_eq!(
            found,
            format!("{major}:{minor} rbps=1048576 wbps=2097152 riops=300 wiops=400")
        );
    }
    end(&bundle);
}

/// The file that holds the group's weight depends on the schedulers of the kernel.
#[test]
fn block_weights() {
    let bundle = sleeper(&json!({}));
    let v1 = |file| Place {
        v1: Some(("blkio", file)),
        v2: None,
    };
    let v2 = |file| Place {
        v1: None,
        v2: Some(file),
    };
    let places = [
        (v1("blkio.weight"), "300"),
        (v1("blkio.bfq.weight"), "300"),
        (v2("io.bfq.weight"), "default 300"),
        (v2("io.weight"), "default 2930"),
    ];
    let there = places
        .iter()
        .find(|(place, _)| bundle.limit(place).is_some());
    match there {
        Some((place, value)) => {
            bundle.ok(&["update", "--blkio-weight", "300", "a"]);
            assert_eq!(&bundle.limit(place).unwrap(), value, "{place:?}");
        }
        None => {
            let error = bundle.fails(&["update", "--blkio-weight", "300", "a"]);
            eprintln!("SKIPPED: {error}");
            assert!(error.contains("weight"), "{error}");
        }
    }
    end(&bundle);
}

#[test]
fn huge_pages() {
    let limit = |size: &str| json!({ "hugepageLimits": [{ "pageSize": size, "limit": 4 << 20 }] });
    let v1 = both(("hugetlb", "hugetlb.2MB.limit_in_bytes"), "hugetlb.2MB.max");
    let reserved = both(
        ("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes"),
        "hugetlb.2MB.rsvd.max",
    );
    let bundle = sleeper(&json!({}));
    let there = bundle.limit(&v1).is_some();
    end(&bundle);
    if there {
        let bundle = sleeper(&limit("2MB"));
        check(&bundle, &[(v1, "4194304"), (reserved, "4194304")]);
        end(&bundle);
        let error = refusal(&limit("3MB"));
        assert!(error.contains("none of that size"), "{error}");
        let error = refusal(&limit("2MB/../x"));
        assert!(error.contains("2MB/../x"), "{error}");
    } else {
        let error = refusal(&limit("2MB"));
        eprintln!("SKIPPED, for the host has none mounted: {error}");
        assert!(
            error.contains("hugetlb") || error.contains("huge pages"),
            "{error}"
        );
    }
}

/// No machine here has such a device; that it is asked for is seen in the refusal.
#[test]
fn rdma() {
    let error =
        refusal(&json!({ "rdma": { "mlx5_0": { "hcaHandles": 3, "hcaObjects": 10_000 } } }));
    let asked = error.contains("\"mlx5_0 hca_handle=3 hca_object=10000\"");
    assert!(asked || error.contains("rdma"), "{error}");
}

#[test]
fn unified() {
    if !is_v2() {
        eprintln!("SKIPPED: this host has cgroup v1");
        return;
    }
    let (major, minor) = block_device().unwrap();
    let bundle = sleeper(&json!({ "unified": {
        "memory.high": "50000000",
        "cgroup.max.depth": "3",
        "io.max": format!("{major}:{minor} rbps=1048576\n{major}:{minor} wiops=120\n"),
    } }));
    let of = |file| {
        bundle
            .limit(&Place {
                v1: None,
                v2: Some(file),
            })
            .unwrap()
    };
    assert_eq!(of("memory.high"), "49999872");
    assert_eq!(of("cgroup.max.depth"), "3");
    assert_eq!(
        of("io.max"),
        format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=120")
    );
    let file = bundle.path().join("limits.json");
    std::fs::write(&file, r#"{"unified":{"memory.high":"max"}}"#).unwrap();
    bundle.ok(&["update", "-r", file.to_str().unwrap(), "a"]);
    assert_eq!(of("memory.high"), "max");
    end(&bundle);
    for (file, words) in [
        ("../x", "must be a file name (no slashes)"),
        ("memory", "must be in the form CONTROLLER.PARAMETER"),
        ("nope.max", "controller \"nope\" not available"),
        ("memory.nope", "does not exist"),
        ("cgroup.procs", "is no limit"),
        ("cgroup.freeze", "is no limit"),
    ] {
        let error = refusal(&json!({ "unified": { file: "1" } }));
        assert!(error.contains(words), "{file}: {error}");
    }
}

#[test]
fn limits_come_from_standard_input() {
    let bundle = sleeper(&json!({}));
    let mut command = bundle.command(&["update", "-r", "-", "a"]);
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, br#"{"pids":{"limit":9}}"#).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    check(&bundle, &[(PIDS, "9")]);
    end(&bundle);
}
