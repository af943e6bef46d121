//! New and joined namespaces.

use std::fs::File;
use std::os::fd::AsFd as _;

use berth_runtime_core::probe::Features;
use serde_json::json;

use crate::fixture::{Bundle, Files, Sleeper, wait};

crate::harness::tests!("namespaces":
    all_are_new, host_ones_when_not_listed, joined_by_path, network_by_descriptor,
    user, user_with_joined_network, joined_user, time_offsets, the_parent_stays_at_home,
    features_are_found,
);

/// Maps 0–65535 to 100000–165535, and gives the image to that root.
pub(crate) fn map_user(bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    bundle
        .push("/linux/namespaces", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
        // Docker leaves the other out then: its numbers are beyond the map.
        .set(
            "/linux/sysctl",
            json!({"net.ipv4.ip_unprivileged_port_start": "0"}),
        );
    let root = bundle.rootfs();
    let status = std::process::Command::new("chown")
        .args(["-hR", "100000:100000"])
        .arg(root)
        .status()
        .unwrap();
    assert!(status.success());
}

const LIST: &str =
    "cd /proc/self/ns; for n in cgroup ipc mnt net pid time uts user; do readlink $n; done";

fn own(name: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{name}"))
        .unwrap()
        .display()
        .to_string()
}

fn all_are_new() {
    let text = Bundle::script(LIST).stdout();
    for (line, name) in text
        .lines()
        .zip(["cgroup", "ipc", "mnt", "net", "pid", "time", "uts"])
    {
        assert!(line.starts_with(name), "{line}");
        assert_ne!(line, own(name));
    }
    assert_eq!(text.lines().last().unwrap(), own("user"));
}

fn host_ones_when_not_listed() {
    let mut bundle = Bundle::script(LIST);
    for name in ["network", "uts", "pid", "ipc", "cgroup", "time"] {
        bundle.without_namespace(name);
    }
    bundle
        .set("/linux/sysctl", json!({}))
        .set("/hostname", json!(""));
    let text = bundle.stdout();
    for (line, name) in text
        .lines()
        .zip(["cgroup", "ipc", "mnt", "net", "pid", "time", "uts", "user"])
    {
        assert_eq!(line == own(name), name != "mnt", "{line}");
    }
}

fn joined_by_path() {
    let first = Sleeper::new(Bundle::new());
    let pid = first.created.process.pid;
    let mut bundle = Bundle::script(&format!("{LIST}; hostname; ps | grep -c sleep"));
    bundle.set("/hostname", json!(""));
    for (kind, file) in [
        ("network", "net"),
        ("uts", "uts"),
        ("pid", "pid"),
        ("ipc", "ipc"),
        ("cgroup", "cgroup"),
    ] {
        bundle.without_namespace(kind);
        bundle.push(
            "/linux/namespaces",
            json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}),
        );
    }
    let text = bundle.stdout();
    for (line, name) in text.lines().zip(["cgroup", "ipc", "mnt", "net", "pid"]) {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_eq!(
            line == theirs.display().to_string(),
            name != "mnt",
            "{line}"
        );
    }
    assert!(text.contains("\nbox\n"), "{text}");
}

fn network_by_descriptor() {
    let first = Sleeper::new(Bundle::new());
    let path = format!("/proc/{}/ns/net", first.created.process.pid);
    let namespace = File::open(&path).unwrap();
    let bundle = Bundle::script("readlink /proc/self/ns/net");
    let output = bundle
        .run_in(Some(namespace.as_fd()))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        output.stdout.trim(),
        std::fs::read_link(path).unwrap().display().to_string()
    );
}

fn user() {
    let mut bundle = Bundle::script(
        "id -u; id -g; id -G; cat /proc/self/uid_map; stat -c '%u:%g' /etc/passwd /dev/pts; \
         touch /root/new && stat -c %u /root/new; echo x > /dev/null; stat -c '%F %t:%T' /dev/null; \
         cat /proc/self/oom_score_adj",
    );
    map_user(&mut bundle);
    bundle.set("/process/oomScoreAdj", json!(100));
    let expected =
        "0\n0\n0\n         0     100000      65536\n0:0\n0:0\n0\ncharacter special file 1:3\n100\n";
    assert_eq!(bundle.stdout(), expected);
    let owner = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(bundle.rootfs().join("root/new")).unwrap(),
    );
    assert_eq!(owner, 100_000);
    let mut bundle = Bundle::new();
    map_user(&mut bundle);
    bundle.set("/linux/uidMappings", json!([]));
    assert!(bundle.refusal().to_string().contains("needs uidMappings"));
}

/// The stage process: joins as the host's root, then makes the user namespace.
fn user_with_joined_network() {
    let namespace = Sleeper::new(Bundle::new());
    let path = format!("/proc/{}/ns/net", namespace.created.process.pid);
    let mut bundle = Bundle::script("readlink /proc/self/ns/net; id -u; echo $$");
    map_user(&mut bundle);
    bundle.without_namespace("network");
    bundle.push(
        "/linux/namespaces",
        json!({"type": "network", "path": path}),
    );
    // The network belongs to another user namespace: its parameters and sysfs
    // are not the container's.
    bundle
        .set("/linux/sysctl", json!({}))
        .without_mount("/sys")
        .without_mount("/sys/fs/cgroup");
    let text = bundle.stdout();
    let expected = std::fs::read_link(&path).unwrap();
    assert_eq!(text, format!("{}\n0\n1\n", expected.display()));
    // The stage has been reaped.
    let left = rustix::process::waitid(
        rustix::process::WaitId::All,
        rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG,
    );
    assert!(
        left.unwrap().is_none(),
        "a process besides the sleeper is left"
    );
}

fn joined_user() {
    let mut first = Bundle::new();
    map_user(&mut first);
    let first = Sleeper::new(first);
    let mut bundle = Bundle::script("id -u; readlink /proc/self/ns/user");
    map_user(&mut bundle);
    bundle.without_namespace("user");
    let path = format!("/proc/{}/ns/user", first.created.process.pid);
    bundle.push("/linux/namespaces", json!({"type": "user", "path": path}));
    let expected = std::fs::read_link(&path).unwrap();
    assert_eq!(bundle.stdout(), format!("0\n{}\n", expected.display()));
}

fn time_offsets() {
    let mut bundle = Bundle::script("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime");
    bundle.set(
        "/process/args",
        json!([
            "/bin/busybox",
            "sh",
            "-c",
            "cat /proc/self/timens_offsets; busybox cut -d. -f1 /proc/uptime"
        ]),
    );
    bundle.set(
        "/linux/timeOffsets",
        json!({"monotonic": {"secs": 10}, "boottime": {"secs": 1_000_000, "nanosecs": 5}}),
    );
    let text = bundle.stdout();
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    assert_eq!(
        words[..6],
        ["monotonic", "10", "0", "boottime", "1000000", "5"]
    );
    assert!(
        text.lines().last().unwrap().parse::<u64>().unwrap() > 1_000_000,
        "{text}"
    );
}

fn the_parent_stays_at_home() {
    let links = || {
        [
            "pid_for_children",
            "time_for_children",
            "pid",
            "net",
            "time",
        ]
        .map(own)
    };
    let before = links();
    let first = Sleeper::new(Bundle::new());
    let mut bundle = Bundle::new();
    bundle.set("/linux/timeOffsets", json!({"boottime": {"secs": 1000}}));
    bundle.without_namespace("pid");
    let path = format!("/proc/{}/ns/pid", first.created.process.pid);
    bundle.push("/linux/namespaces", json!({"type": "pid", "path": path}));
    let files = Files::new();
    let created = bundle
        .create(files.stdio(), None)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(wait(&created.process), 0);
    assert_eq!(before, links());
    assert!(bundle.set("/process/args", json!(["nope"])).run().is_err());
    assert_eq!(before, links());
}

/// This machine has all of them but the security modules.
fn features_are_found() {
    let features = Features::detect();
    println!("{features:?}");
    assert!(features.openat2 && features.mount_setattr, "{features:?}");
    assert!(
        features.clone3 && features.pidfd_setns && features.time_namespace,
        "{features:?}"
    );
    assert!(features.user_namespace && features.cgroup_namespace && features.seccomp);
}
