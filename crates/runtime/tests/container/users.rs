//! Users, groups, capabilities.

use std::fs;

use berth_runtime_core::users::{resolve_group, resolve_user};
use serde_json::json;

use crate::fixture::Bundle;

crate::harness::tests!("users":
    names_are_resolved_in_the_image, numbers_and_groups, ambient_capabilities, no_capabilities,
    all_capabilities, files_of_the_image_are_not_trusted, standard_streams_are_the_users,
);

const WHO: &str = "id -u; id -g; id -G; echo $HOME";

fn names_are_resolved_in_the_image() {
    let mut bundle = Bundle::script(WHO);
    bundle.set(
        "/process/user",
        json!({"uid": 0, "gid": 0, "username": "app"}),
    );
    assert_eq!(bundle.stdout(), "1000\n1001\n1001 29\n/home/app\n");
    bundle.set(
        "/process/user",
        json!({"uid": 0, "gid": 0, "username": "app:audio", "additionalGids": [5]}),
    );
    assert_eq!(bundle.stdout(), "1000\n29\n29 5\n/home/app\n");
    bundle.set(
        "/process/user",
        json!({"uid": 0, "gid": 0, "username": "ghost"}),
    );
    assert_eq!(
        bundle.refusal().to_string(),
        "unable to find user ghost: no matching entries in passwd file"
    );
    bundle.push("/process/env", json!("HOME=/mine"));
    bundle.set("/process/user", json!({"uid": 0, "gid": 0, "username": ""}));
    assert_eq!(bundle.stdout(), "0\n0\n0\n/mine\n");
}

/// CVE-2022-36109: our own groups never stay, with or without others.
fn numbers_and_groups() {
    rustix::thread::set_thread_groups(&[rustix::fs::Gid::from_raw(4242)]).unwrap();
    let mut bundle = Bundle::script(WHO);
    assert_eq!(bundle.stdout(), "0\n0\n0\n/root\n");
    bundle.set(
        "/process/user",
        json!({"uid": 1000, "gid": 5, "additionalGids": [6, 7]}),
    );
    assert_eq!(bundle.stdout(), "1000\n5\n5 6 7\n/home/app\n");
    bundle.set("/process/user", json!({"uid": 4000, "gid": 4000}));
    assert_eq!(bundle.stdout(), "4000\n4000\n4000\n/\n");
    bundle.set("/process/user", json!({"uid": u32::MAX, "gid": 0}));
    assert!(
        bundle
            .refusal()
            .to_string()
            .contains("no user or group number")
    );
}

const CAPABILITIES: &str = "grep Cap /proc/self/status";

fn sets(text: &str) -> Vec<u64> {
    let value = |line: &str| u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap();
    text.lines().map(value).collect()
}

fn ambient_capabilities() {
    let mut bundle = Bundle::script(CAPABILITIES);
    let set = json!(["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
    bundle
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set(
            "/process/capabilities",
            json!({"bounding": set, "permitted": set, "effective": set, "inheritable": set,
               "ambient": ["CAP_NET_BIND_SERVICE"]}),
        );
    let (bind, kill) = (1 << 10, 1 << 5);
    // inheritable, permitted, effective, bounding, ambient
    assert_eq!(
        sets(&bundle.stdout()),
        [bind | kill, bind, bind, bind | kill, bind]
    );
}

fn no_capabilities() {
    let mut bundle = Bundle::script(CAPABILITIES);
    bundle.set("/process/capabilities", json!({}));
    assert_eq!(sets(&bundle.stdout()), [0; 5]);
    bundle.config["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    assert_eq!(sets(&bundle.stdout()), [0; 5]);
}

/// `--privileged`; what this machine's root lacks is left out.
fn all_capabilities() {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .filter(|line| line.starts_with("CapBnd"))
        .collect::<String>();
    let all: Vec<_> = [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
    .map(|name| format!("CAP_{name}"))
    .to_vec();
    let mut bundle = Bundle::script(CAPABILITIES);
    bundle.set(
        "/process/capabilities",
        json!({"bounding": all, "permitted": all, "effective": all}),
    );
    let bounding = sets(&own)[0];
    assert_eq!(sets(&bundle.stdout()), [0, bounding, bounding, bounding, 0]);
}

/// passwd as a link out of the image, a pipe, a directory, a huge file
/// (CVE-2026-47262).
fn files_of_the_image_are_not_trusted() {
    let bundle = Bundle::new();
    let root = fs::File::open(bundle.rootfs()).unwrap();
    let root = std::os::fd::AsFd::as_fd(&root);
    let passwd = bundle.rootfs().join("etc/passwd");
    let outside = bundle.path().join("passwd");
    fs::write(&outside, "evil:x:0:0::/:\n").unwrap();
    fs::remove_file(&passwd).unwrap();
    std::os::unix::fs::symlink(&outside, &passwd).unwrap();
    assert!(
        resolve_user(root, "evil").is_err(),
        "the host's file was read"
    );
    fs::remove_file(&passwd).unwrap();
    // An absolute link inside the image is fine.
    fs::write(bundle.rootfs().join("users"), "inside:x:3:4::/:\n").unwrap();
    std::os::unix::fs::symlink("/users", &passwd).unwrap();
    assert_eq!(resolve_user(root, "inside").unwrap().uid, 3);
    fs::remove_file(&passwd).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &passwd,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(resolve_user(root, "0").is_err(), "a pipe was read");
    fs::remove_file(&passwd).unwrap();
    fs::File::create(&passwd)
        .unwrap()
        .set_len((16 << 20) + 1)
        .unwrap();
    let error = resolve_user(root, "0").unwrap_err().to_string();
    assert!(error.contains("larger than 16 MiB"), "{error}");
    assert_eq!(resolve_group(root, "audio").unwrap(), 29);
    assert_eq!(resolve_group(root, "77").unwrap(), 77);
    assert!(resolve_group(root, "nogroup").is_err());
}

fn standard_streams_are_the_users() {
    let mut bundle =
        Bundle::script("echo one >> /dev/stdout; echo two >> /dev/stderr; cat /proc/self/fd/0");
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let output = bundle.run().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (output.code, &*output.stdout, &*output.stderr),
        (0, "one\n", "two\n")
    );
    let owner = fs::metadata("/dev/null").unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&owner),
        0,
        "the null device was given away"
    );
}
