//! Limits really in force, on whichever layout this host has. Each test has a
//! group of its own and removes it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use berth_cgroup::{Cgroup, Entry, Host, Layout};
use oci_spec::runtime::LinuxResources;

struct Group(Cgroup);

impl Group {
    fn new(resources: &str) -> Self {
        let host = Host::detect().unwrap();
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        let path = format!("/berth-test-{}/inner", std::process::id());
        Self(Cgroup::create(&host, &path, Some(&resources)).unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.0.kill_all().unwrap();
        let parent = self.0.path().trim_end_matches("/inner").to_owned();
        Cgroup::open(&Host::detect().unwrap(), &parent)
            .remove()
            .unwrap();
        assert!(!self.0.exists());
    }
}

/// A shell that moves into the group when told to, then runs `script`.
fn shell(
    group: &Cgroup,
    script: &str,
) -> (Child, ChildStdin, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new("busybox")
        .args(["sh", "-c", &format!("read x; {script}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // From outside, as the test itself has threads: the slow way is fine here.
    let host = Host::detect().unwrap();
    for (controller, mount) in host.mounts() {
        let _ = controller;
        let file = mount
            .join(group.path().trim_start_matches('/'))
            .join("cgroup.procs");
        std::fs::write(&file, child.id().to_string()).unwrap();
    }
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"go\n").unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdin, stdout)
}

#[test]
fn too_much_memory_is_killed_and_counted() {
    let group = Group::new(r#"{"memory":{"limit":16777216,"swap":16777216}}"#);
    let (mut child, _stdin, _) = shell(&group.0, "tail /dev/zero");
    child.wait().unwrap();
    assert!(group.0.oom_kills().unwrap() >= 1);
    assert_eq!(group.0.stats().unwrap().memory.limit, 16_777_216);
}

#[test]
fn limits_can_rise_and_fall() {
    let group = Group::new(r#"{"memory":{"limit":16777216,"swap":16777216}}"#);
    for megabytes in [64, 8, 32] {
        let bytes = megabytes * 1024 * 1024;
        let resources = format!(r#"{{"memory":{{"limit":{bytes},"swap":{bytes}}}}}"#);
        group
            .0
            .apply(&serde_json::from_str(&resources).unwrap())
            .unwrap();
        assert_eq!(group.0.stats().unwrap().memory.limit, bytes);
    }
}

#[test]
fn processes_are_counted_and_limited() {
    let group = Group::new(r#"{"pids":{"limit":3}}"#);
    let (mut child, _stdin, _) = shell(&group.0, "for i in 1 2 3 4 5; do sleep 60 & done; wait");
    let mut errors = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut errors)
        .unwrap();
    assert!(errors.contains("can't fork"), "{errors}");
    let stats = group.0.stats().unwrap();
    assert_eq!((stats.pids.current > 0, stats.pids.limit), (true, Some(3)));
    group.0.kill_all().unwrap();
    assert!(group.0.processes().unwrap().is_empty());
    child.wait().unwrap();
}

#[test]
fn cpu_time_is_throttled() {
    let group = Group::new(r#"{"cpu":{"quota":5000,"period":100000,"shares":512}}"#);
    let (mut child, _stdin, _) = shell(&group.0, "while :; do :; done");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let cpu = group.0.stats().unwrap().cpu;
        if cpu.throttled_periods > 0 && cpu.total > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{cpu:?}");
        std::thread::yield_now();
    }
    group.0.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn cpusets_hold() {
    let group = Group::new(r#"{"cpu":{"cpus":"0"}}"#);
    let (mut child, _stdin, mut stdout) = shell(&group.0, "nproc");
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "1\n");
    child.wait().unwrap();
}

#[test]
fn devices_are_denied_and_allowed() {
    let group = Group::new(
        r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]}"#,
    );
    let script = "exec 2>&1; head -c0 /dev/null && echo null; head -c1 /dev/zero >/dev/null || echo no zero; echo end";
    let (mut child, _stdin, stdout) = shell(&group.0, script);
    let lines: Vec<_> = stdout.lines().map(Result::unwrap).collect();
    assert!(
        lines.contains(&"null".into()) && lines.contains(&"no zero".into()),
        "{lines:?}"
    );
    child.wait().unwrap();
    let more = r#"{"devices":[{"allow":true,"type":"c","major":1,"minor":5,"access":"r"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]}"#;
    group.0.apply(&serde_json::from_str(more).unwrap()).unwrap();
    let (mut child, _stdin, mut stdout) =
        shell(&group.0, "head -c1 /dev/zero >/dev/null && echo zero");
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "zero\n");
    child.wait().unwrap();
}

#[test]
fn device_programs_deny_on_any_v2_hierarchy() {
    // The controllers may be on v1; device programs attach to v2 all the same.
    let mount = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|path| {
            std::path::Path::new(path)
                .join("cgroup.subtree_control")
                .exists()
        });
    let Some(mount) = mount else {
        eprintln!("SKIPPED: this host has no cgroup v2 hierarchy");
        return;
    };
    let dir = std::path::Path::new(mount).join(format!("berth-test-bpf-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let rules = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]"#;
    let rules: Vec<oci_spec::runtime::LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
    berth_cgroup::attach_device_rules(&dir, &rules).unwrap();
    // Twice: the new program takes the place of the old.
    berth_cgroup::attach_device_rules(&dir, &rules).unwrap();
    let script = format!(
        "echo 0 > {}/cgroup.procs; head -c1 /dev/zero || echo denied; head -c0 /dev/null && echo allowed",
        dir.display()
    );
    let output = Command::new("busybox")
        .args(["sh", "-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("denied") && text.contains("allowed"),
        "{output:?}"
    );
    while std::fs::remove_dir(&dir).is_err() && dir.exists() {
        std::thread::yield_now();
    }
}

#[test]
fn frozen_processes_stand_still() {
    let group = Group::new("{}");
    let (mut child, mut stdin, mut stdout) = shell(&group.0, "while read x; do echo $x; done");
    let mut line = String::new();
    stdin.write_all(b"one\n").unwrap();
    stdout.read_line(&mut line).unwrap();
    group.0.freeze().unwrap();
    assert!(group.0.is_frozen().unwrap());
    stdin.write_all(b"two\n").unwrap();
    let state = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(!state.contains("State:\tR"), "{state}");
    group.0.thaw().unwrap();
    assert!(!group.0.is_frozen().unwrap());
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "two\n");
    // Frozen ones can be killed.
    group.0.freeze().unwrap();
    group.0.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn nested_groups_are_killed_and_removed() {
    let group = Group::new("{}");
    let host = Host::detect().unwrap();
    let child_group =
        Cgroup::create(&host, &format!("{}/deeper/still", group.0.path()), None).unwrap();
    let (mut child, _stdin, _) = shell(&child_group, "sleep 60");
    assert_eq!(group.0.processes().unwrap(), [child.id()]);
    group.0.kill_all().unwrap();
    child.wait().unwrap();
    group.0.remove().unwrap();
    assert!(!child_group.exists());
    group.0.remove().unwrap();
}

#[test]
fn a_failed_create_leaves_nothing() {
    let host = Host::detect().unwrap();
    let path = format!("/berth-test-failed-{}", std::process::id());
    for bad in [
        r#"{"cpu":{"cpus":"4095"}}"#,
        r#"{"memory":{"limit":16777216,"swap":1024}}"#,
    ] {
        let resources: LinuxResources = serde_json::from_str(bad).unwrap();
        Cgroup::create(&host, &path, Some(&resources)).unwrap_err();
        assert!(!Cgroup::open(&host, &path).exists(), "{bad}");
    }
    assert!(Cgroup::create(&host, "/a/../b", None).is_err());
}

#[test]
fn a_failed_create_leaves_what_was_there() {
    let group = Group::new("{}");
    let bad: LinuxResources = serde_json::from_str(r#"{"cpu":{"cpus":"4095"}}"#).unwrap();
    let host = Host::detect().unwrap();
    Cgroup::create(&host, group.0.path(), Some(&bad)).unwrap_err();
    assert!(group.0.exists());
    // Parents made on the way go, those of others stay.
    let below = format!("{}/one/two", group.0.path());
    Cgroup::create(&host, &below, Some(&bad)).unwrap_err();
    assert!(!Cgroup::open(&host, below.trim_end_matches("/two")).exists());
    assert!(group.0.exists());
}

#[test]
fn absent_and_zero_limits_change_nothing() {
    let group = Group::new(r#"{"memory":{"limit":16777216,"swap":33554432}}"#);
    let apply = |text: &str| group.0.apply(&serde_json::from_str(text).unwrap());
    apply(r#"{"memory":{"limit":0,"swap":0,"reservation":0},"cpu":{}}"#).unwrap();
    assert_eq!(group.0.stats().unwrap().memory.limit, 16_777_216);
    if Host::detect().unwrap().layout() != Layout::V2 {
        // v1 counts swap in: a limit above both needs a word about both.
        let error = apply(r#"{"memory":{"limit":67108864}}"#).unwrap_err();
        assert!(error.to_string().contains("change both"), "{error}");
        assert_eq!(group.0.stats().unwrap().memory.limit, 16_777_216);
    }
    apply(r#"{"memory":{"limit":-1}}"#).unwrap();
    assert_eq!(group.0.stats().unwrap().memory.limit, u64::MAX);
}

#[test]
fn processes_that_fork_on_are_ended() {
    let group = Group::new(r#"{"pids":{"limit":200}}"#);
    let script = "f() { f & f & }; trap '' TERM; while :; do f 2>/dev/null; echo on; done";
    let (mut child, _stdin, mut stdout) = shell(&group.0, script);
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    group.0.kill_all().unwrap();
    assert!(group.0.processes().unwrap().is_empty());
    assert!(!group.0.is_frozen().unwrap());
    child.wait().unwrap();
}

/// On v1 `enter` moves the thread that calls it; on v2 it has nothing to do.
#[test]
fn a_thread_enters_by_itself() {
    let group = Group::new("{}");
    let entry = group.0.entry().unwrap();
    let inside = std::thread::spawn(move || {
        entry.enter().unwrap();
        std::fs::read_to_string("/proc/thread-self/cgroup").unwrap()
    });
    let inside = inside.join().unwrap();
    let host = Host::detect().unwrap();
    let expected = match host.layout() {
        Layout::V2 => 0,
        Layout::V1 | Layout::Hybrid => host.mounts().len(),
    };
    let moved = inside.lines().filter(|line| line.ends_with(group.0.path()));
    assert_eq!(moved.count(), expected, "{inside}");
}

#[test]
fn entry_fits_the_layout() {
    let group = Group::new("{}");
    match (Host::detect().unwrap().layout(), group.0.entry().unwrap()) {
        (Layout::V2, Entry::Clone(_)) => {}
        (_, Entry::Tasks(_)) => {}
        (layout, entry) => panic!("{layout:?} {entry:?}"),
    }
}
