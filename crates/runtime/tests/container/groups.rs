//! Control groups, made by berth-cgroup as the engine does.

use std::fs;

use berth_cgroup::{Cgroup, Host, Layout};
use serde_json::json;

use crate::fixture::{Bundle, Sleeper};

crate::harness::tests!("groups":
    born_in_its_group, exec_enters_the_group, without_a_namespace, limits_are_in_force,
);

/// A bundle in a group of its own; removed with the guard.
struct Grouped {
    bundle: Option<Bundle>,
    group: Cgroup,
}

impl Grouped {
    fn new(bundle: Bundle, resources: serde_json::Value) -> Self {
        let host = Host::detect().unwrap();
        let path = format!("/berth-runtime-test-{}", std::process::id());
        let mut config = bundle.spec();
        let mut linux = config.linux().clone().unwrap();
        linux.set_resources(Some(serde_json::from_value(resources).unwrap()));
        config.set_linux(Some(linux));
        let resources = berth_runtime_core::resources(&config).unwrap();
        let group = Cgroup::create(&host, &path, Some(&resources)).unwrap();
        let mut bundle = bundle;
        bundle.cgroup = Some(group.clone());
        Self {
            bundle: Some(bundle),
            group,
        }
    }

    fn bundle(&self) -> &Bundle {
        self.bundle.as_ref().unwrap()
    }
}

impl Drop for Grouped {
    fn drop(&mut self) {
        self.group.kill_all().unwrap();
        self.group.remove().unwrap();
    }
}

/// The groups of a process as the host sees them: `/proc/<pid>/cgroup`. On a hybrid
/// host the version 2 hierarchy has no controllers and is left alone.
fn groups_of(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| is_v2() || !line.starts_with("0::"))
        .map(|line| line.splitn(3, ':').nth(2).unwrap().to_owned())
        .collect()
}

fn groups_of_process(pid: u32) -> Vec<String> {
    groups_of(&fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap())
}

fn is_v2() -> bool {
    Host::detect().unwrap().layout() == Layout::V2
}

/// In the group in every hierarchy, and its namespace is rooted there.
fn born_in_its_group() {
    let grouped = Grouped::new(
        Bundle::script(
            "cat /proc/self/cgroup; cat /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | sort -u",
        ),
        json!({}),
    );
    let text = grouped.bundle().stdout();
    let (groups, processes): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.contains(':'));
    assert!(!groups.is_empty());
    for line in groups {
        assert!(
            line.ends_with(":/"),
            "not the root of its namespace: {line}"
        );
    }
    // The shell and the two of the pipe, nobody else.
    assert!(
        processes.len() <= 4 && processes.contains(&"1"),
        "{processes:?}"
    );
}

fn exec_enters_the_group() {
    let mut grouped = Grouped::new(Bundle::new(), json!({}));
    let sleeper = Sleeper::new(grouped.bundle.take().unwrap());
    let path = grouped.group.path().to_owned();
    assert!(
        groups_of_process(sleeper.created.process.pid)
            .iter()
            .all(|group| *group == path)
    );
    let files = crate::fixture::Files::new();
    let process = sleeper.process(json!({"args": ["sleep", "1000"]}));
    let started = sleeper
        .start(&process, files.stdio())
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(
        groups_of_process(started.pid)
            .iter()
            .all(|group| *group == path)
    );
    crate::fixture::kill(&started);
    let output = sleeper
        .exec(json!({"args": ["cat", "/proc/self/cgroup"]}))
        .unwrap();
    assert!(
        output.stdout.lines().all(|line| line.ends_with(":/")),
        "{output:?}"
    );
}

fn without_a_namespace() {
    let mut bundle = Bundle::script("cat /proc/self/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs");
    bundle.without_namespace("cgroup");
    let grouped = Grouped::new(bundle, json!({}));
    let output = grouped.bundle().run().unwrap_or_else(|e| panic!("{e}"));
    let path = grouped.group.path();
    let (groups, processes): (Vec<_>, Vec<_>) =
        output.stdout.lines().partition(|line| line.contains(':'));
    let groups = groups_of(&groups.join("\n"));
    assert!(
        !groups.is_empty() && groups.iter().all(|group| group == path),
        "{output:?}"
    );
    if !is_v2() {
        // Its own group, not the host's.
        assert!((1..=3).contains(&processes.len()), "{output:?}");
    }
}

fn limits_are_in_force() {
    let grouped = Grouped::new(
        Bundle::script(
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
             cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; \
             sh -c 'for i in 1 2 3 4 5 6; do sleep 1000 & done' 2>&1 | grep -o -m1 \"can't fork\"",
        ),
        json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 5}}),
    );
    let output = grouped.bundle().run().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(output.stdout, "67108864\n5\ncan't fork\n", "{output:?}");
}
