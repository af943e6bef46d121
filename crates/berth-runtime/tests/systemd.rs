//! `--systemd-cgroup`, on hosts that run systemd: `scripts/vm.sh … --init systemd`.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use common::bundle::{Bundle, make_rootless};
use common::*;
use serde_json::{Value, json};

/// False, with the reason, where these tests cannot run.
fn has_systemd() -> bool {
    let runs = berth_cgroup::systemd::is_running();
    if !runs {
        eprintln!("not tested: this host does not run systemd (scripts/vm.sh --init systemd does)");
    }
    runs
}

/// A scope's name that no other test has, and the bundle for it.
struct Scoped {
    bundle: Bundle,
    unit: String,
}

impl Scoped {
    fn new(args: &[&str]) -> Self {
        let mut bundle = Bundle::new(args);
        let own = bundle.path().file_name().unwrap().to_str().unwrap();
        let name = own.trim_start_matches('.').to_owned();
        bundle.config["linux"]["cgroupsPath"] = json!(format!("berth-test.slice:berth:{name}"));
        Self {
            bundle,
            unit: format!("berth-{name}.scope"),
        }
    }

    fn ok(&self, args: &[&str]) -> String {
        self.bundle.ok(&[&["--systemd-cgroup"], args].concat())
    }

    fn leave(&self, args: &[&str]) {
        self.bundle.leave(&[&["--systemd-cgroup"], args].concat());
    }

    fn fails(&self, args: &[&str]) -> String {
        let output = self.bundle.output(&[&["--systemd-cgroup"], args].concat());
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(self.bundle.ok(&["list", "-q"]), "", "something is left");
        String::from_utf8(output.stderr).unwrap()
    }

    fn show(&self, property: &str) -> String {
        show(&self.unit, property)
    }

    fn group(&self) -> PathBuf {
        PathBuf::from("/sys/fs/cgroup/berth.slice/berth-test.slice").join(&self.unit)
    }

    fn file(&self, name: &str) -> String {
        let path = self.group().join(name);
        let text = std::fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    fn assert_gone(&self) {
        assert_eq!(self.show("LoadState"), "not-found");
        assert!(!self.group().exists());
        assert_eq!(self.bundle.ok(&["list", "-q"]), "");
    }
}

fn show(unit: &str, property: &str) -> String {
    let output = Command::new("systemctl")
        .args(["show", "--value", "--property", property, unit])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn systemd_makes_a_scope_with_the_limits() {
    if !has_systemd() {
        return;
    }
    let mut scoped = Scoped::new(&["sleep", "1000"]);
    scoped.bundle.config["linux"]["resources"] = json!({
        "memory": { "limit": 104_857_600, "reservation": 52_428_800, "swap": 157_286_400 },
        "cpu": { "shares": 512, "quota": 50_001, "period": 100_000, "cpus": "0" },
        "pids": { "limit": 50 },
        "blockIO": { "weight": 500 },
        "unified": { "memory.high": "94371840" },
        "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }],
    });
    scoped.bundle.config["annotations"] = json!({
        "org.systemd.property.TimeoutStopSec": "uint64 7",
        "org.systemd.property.CollectMode": "'inactive'",
    });
    scoped.leave(&["run", "-d", "a"]);
    for (property, value) in [
        ("Slice", "berth-test.slice"),
        ("ControlGroup", "/berth.slice/berth-test.slice/UNIT"),
        ("ActiveState", "active"),
        ("Delegate", "yes"),
        ("MemoryMax", "104857600"),
        ("MemoryLow", "52428800"),
        ("MemorySwapMax", "52428800"),
        ("MemoryHigh", "94371840"),
        ("CPUWeight", "59"),
        ("CPUQuotaPerSecUSec", "510ms"),
        ("CPUQuotaPeriodUSec", "100ms"),
        ("AllowedCPUs", "0"),
        ("TasksMax", "50"),
        ("IOWeight", "4950"),
        ("DevicePolicy", "strict"),
        ("TimeoutStopUSec", "7s"),
        ("CollectMode", "inactive"),
    ] {
        let value = value.replace("UNIT", &scoped.unit);
        assert_eq!(scoped.show(property), value, "{property}");
    }
    for (file, value) in [
        ("memory.max", "104857600"),
        ("memory.low", "52428800"),
        ("memory.swap.max", "52428800"),
        ("memory.high", "94371840"),
        ("cpu.weight", "59"),
        // Exact, where systemd rounds.
        ("cpu.max", "50001 100000"),
        ("cpuset.cpus", "0"),
        ("pids.max", "50"),
        ("hugetlb.2MB.max", "4194304"),
    ] {
        assert_eq!(scoped.file(file), value, "{file}");
    }
    let state = scoped.bundle.state_of("a");
    assert_eq!(scoped.file("cgroup.procs"), state["pid"].to_string());

    // None of these is told again that it is systemd's.
    let bundle = &scoped.bundle;
    let inside = bundle.ok(&["exec", "a", "cat", "/proc/self/cgroup"]);
    assert_eq!(
        inside,
        format!("0::/berth.slice/berth-test.slice/{}\n", scoped.unit)
    );
    let pids: Vec<u32> = serde_json::from_str(&bundle.ok(&["ps", "-f", "json", "a"])).unwrap();
    assert_eq!(pids.len(), 1);
    bundle.ok(&["pause", "a"]);
    assert_eq!(bundle.state_of("a")["status"], "paused");
    bundle.ok(&["resume", "a"]);
    let stats: Value = serde_json::from_str(&bundle.ok(&["events", "--stats", "a"])).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 50);

    bundle.ok(&[
        "update",
        "--memory",
        "200M",
        "--memory-swap",
        "-1",
        "--pids-limit",
        "60",
        "a",
    ]);
    for (property, file, value) in [
        ("MemoryMax", "memory.max", "209715200"),
        ("TasksMax", "pids.max", "60"),
    ] {
        assert_eq!(scoped.show(property), value);
        assert_eq!(scoped.file(file), value);
    }
    assert_eq!(scoped.show("MemorySwapMax"), "infinity");
    // What systemd was told is what it puts back.
    let reload = Command::new("systemctl").arg("daemon-reload").status();
    assert!(reload.unwrap().success());
    assert_eq!(scoped.file("memory.max"), "209715200");
    assert_eq!(scoped.file("pids.max"), "60");

    bundle.ok(&["delete", "--force", "a"]);
    scoped.assert_gone();
}

#[test]
fn systemd_scopes_end_with_their_containers() {
    if !has_systemd() {
        return;
    }
    let mut scoped = Scoped::new(&["cat", "/proc/self/cgroup"]);
    // Room for one: the process that begins the scope does not count.
    scoped.bundle.config["linux"]["resources"] = json!({ "pids": { "limit": 1 } });
    let inside = scoped.ok(&["run", "a"]);
    assert!(inside.ends_with(&format!("/{}\n", scoped.unit)), "{inside}");
    scoped.assert_gone();
    scoped.bundle.config["process"]["args"] = json!(["/nowhere"]);
    assert!(scoped.fails(&["run", "a"]).contains("no such file"));
    scoped.assert_gone();
    // The same name again and again, each time right after the last.
    scoped.bundle.config["process"]["args"] = json!(["sleep", "1000"]);
    for _ in 0..3 {
        scoped.leave(&["create", "a"]);
        assert_eq!(scoped.show("ActiveState"), "active");
        scoped.bundle.ok(&["start", "a"]);
        assert_eq!(scoped.bundle.state_of("a")["status"], "running");
        scoped.bundle.ok(&["kill", "a", "KILL"]);
        eventually("the end", || {
            (scoped.bundle.state_of("a")["status"] == "stopped").then_some(())
        });
        scoped.bundle.ok(&["delete", "a"]);
        scoped.assert_gone();
    }
}

#[test]
fn systemd_refusals_are_runcs() {
    if !has_systemd() {
        return;
    }
    let mut scoped = Scoped::new(&["true"]);
    let unit = scoped.unit.clone();
    let mut other = Command::new("systemd-run")
        .args(["--scope", "--quiet", "--unit", &unit, "sleep", "1000"])
        .spawn()
        .unwrap();
    eventually("the other scope", || {
        (show(&unit, "ActiveState") == "active").then_some(())
    });
    let error = scoped.fails(&["run", "a"]);
    assert!(
        error.contains(&format!("unable to start unit \"{unit}\"")),
        "{error}"
    );
    assert!(error.contains("already loaded"), "{error}");
    assert_eq!(
        show(&unit, "ActiveState"),
        "active",
        "the other's is left alone"
    );
    other.kill().unwrap();
    other.wait().unwrap();
    for (path, why) in [
        (
            "/a/b",
            "expected cgroupsPath to be of format \"slice:prefix:name\"",
        ),
        ("a:b:c", "invalid slice name: a"),
        ("a--b.slice:b:c", "invalid slice name: a--b.slice"),
        ("system.slice:b:c d", "is not valid"),
        ("system.slice:b:c.slice", "a container needs a scope"),
    ] {
        scoped.bundle.config["linux"]["cgroupsPath"] = json!(path);
        let error = scoped.fails(&["run", "a"]);
        assert!(error.contains(why), "{path}: {error}");
    }
    scoped.bundle.config["linux"]["cgroupsPath"] = json!("");
    for (name, value, why) in [
        ("NoSuchThing", "true", "NoSuchThing"),
        ("X_Y", "true", "name incorrect"),
        ("CollectMode", "inactive", "value parse error"),
    ] {
        let key = format!("org.systemd.property.{name}");
        scoped.bundle.config["annotations"] = json!({ key: value });
        let error = scoped.fails(&["run", "berth-test-refused"]);
        assert!(error.contains(why), "{name}: {error}");
    }
    assert_eq!(
        show("runc-berth-test-refused.scope", "LoadState"),
        "not-found"
    );
}

/// What `create` had made when it was killed can be deleted, and is all there was.
#[test]
fn systemd_create_killed_at_any_moment_can_be_deleted() {
    if !has_systemd() {
        return;
    }
    let scoped = Scoped::new(&["sleep", "1000"]);
    scoped.bundle.save();
    let mut killed = 0;
    for round in 0..16_u64 {
        let mut child = scoped
            .bundle
            .command(&["--systemd-cgroup", "create", "a"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From before it has begun to after it has ended.
        std::thread::sleep(std::time::Duration::from_millis(round * round * 8));
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().code().is_none());
        scoped.bundle.ok(&["delete", "--force", "a"]);
        assert!(!scoped.bundle.state().join("a").exists());
        // systemd may still be at what it was told before.
        eventually("the unit's end", || {
            (scoped.show("LoadState") == "not-found" && !scoped.group().exists()).then_some(())
        });
    }
    assert!(killed > 0, "none was killed in time");
}

/// Root of a user namespace that may write to its control groups makes some.
#[test]
fn systemd_groups_are_delegated() {
    if !has_systemd() {
        return;
    }
    let script = "cd /sys/fs/cgroup && mkdir one two && echo 0 >one/cgroup.procs && \
        echo '+pids +memory' >cgroup.subtree_control && cat two/cgroup.controllers && \
        ! echo 5 2>/dev/null >pids.max && echo whole";
    let mut scoped = Scoped::new(&["sh", "-c", script]);
    let map = json!([{ "containerID": 0, "hostID": 200_000, "size": 65536 }]);
    let config = &mut scoped.bundle.config;
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    config["linux"]["resources"] = json!({ "pids": { "limit": 50 } });
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    namespaces.push(json!({ "type": "user" }));
    namespaces.push(json!({ "type": "cgroup" }));
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
    mounts.push(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime"],
    }));
    let out = scoped.ok(&["run", "a"]);
    assert!(
        out.contains("memory pids\n") && out.ends_with("whole\n"),
        "{out}"
    );
    scoped.assert_gone();
}

/// The same bundle by runc: the same properties and the same files.
#[test]
fn systemd_units_are_as_runcs() {
    if !has_systemd() {
        return;
    }
    if Command::new("runc").arg("--version").output().is_err() {
        eprintln!("not tested: there is no runc to compare with");
        return;
    }
    let mut scoped = Scoped::new(&["sleep", "1000"]);
    scoped.bundle.config["ociVersion"] = json!("1.0.2");
    scoped.bundle.config["linux"]["resources"] = json!({
        "memory": { "limit": 104_857_600, "swap": 157_286_400 },
        "cpu": { "quota": 25_000, "period": 50_000, "mems": "0" },
        "pids": { "limit": 33 },
        "unified": { "pids.max": "40", "memory.min": "1048576" },
    });
    let look = || {
        let properties = [
            "Slice",
            "Delegate",
            "DefaultDependencies",
            "MemoryAccounting",
            "TasksAccounting",
            "CPUAccounting",
            "IOAccounting",
            "MemoryMax",
            "MemoryMin",
            "MemorySwapMax",
            "CPUQuotaPerSecUSec",
            "CPUQuotaPeriodUSec",
            "AllowedMemoryNodes",
            "TasksMax",
            "DevicePolicy",
            "Wants",
            "Requires",
            "After",
            "KillMode",
        ];
        let files = [
            "memory.max",
            "memory.min",
            "memory.swap.max",
            "cpu.max",
            "cpu.weight",
            "cpuset.mems",
            "pids.max",
            "cgroup.controllers",
            "cgroup.subtree_control",
        ];
        let mut seen = Vec::new();
        for property in properties {
            // Its order says nothing.
            let text = scoped.show(property);
            let mut words: Vec<_> = text.split(' ').collect();
            words.sort_unstable();
            seen.push(format!("{property}={}", words.join(" ")));
        }
        seen.extend(files.map(|file| format!("{file}={}", scoped.file(file))));
        seen
    };
    scoped.leave(&["run", "-d", "a"]);
    let ours = look();
    scoped.bundle.ok(&["delete", "--force", "a"]);
    let runc = |args: &[&str]| {
        let mut command = Command::new("runc");
        let root = scoped.bundle.path().join("runc");
        command.arg("--root").arg(root).arg("--systemd-cgroup");
        command.args(args).current_dir(scoped.bundle.path());
        let null = [Stdio::null(), Stdio::null(), Stdio::null()];
        let [stdin, stdout, stderr] = null;
        let status = command.stdin(stdin).stdout(stdout).stderr(stderr).status();
        assert!(status.unwrap().success(), "runc {args:?}");
    };
    runc(&["run", "-d", "a"]);
    let theirs = look();
    runc(&["delete", "--force", "a"]);
    assert_eq!(ours, theirs);
}

/// A user of the virtual machine, with a systemd of their own that has a bus.
struct User {
    uid: String,
    runtime_dir: String,
}

impl User {
    fn new() -> Option<Self> {
        let output = Command::new("id").args(["-u", "berth-test"]).output();
        let uid = String::from_utf8(output.unwrap().stdout).unwrap();
        let uid = uid.trim().to_owned();
        if uid.is_empty() {
            eprintln!("not tested: there is no user berth-test (scripts/vm.sh --init systemd)");
            return None;
        }
        let user = Self {
            runtime_dir: format!("/run/user/{uid}"),
            uid,
        };
        let unit = format!("user@{}.service", user.uid);
        let status = Command::new("systemctl").args(["start", &unit]).status();
        assert!(status.unwrap().success(), "{unit} does not start");
        eventually("the user's bus", || {
            std::path::Path::new(&user.runtime_dir)
                .join("bus")
                .exists()
                .then_some(())
        });
        Some(user)
    }

    /// Both streams of a shell of the user, outside of the user's own groups.
    fn shell(&self, bundle: &Bundle, script: &str) -> (String, String) {
        let own = bundle.path().display();
        let owner = format!("{0}:{0}", self.uid);
        let status = Command::new("chown")
            .args(["-R", &owner])
            .arg(bundle.path())
            .status();
        assert!(status.unwrap().success());
        let script = format!("cd {own}; berth() {{ {BINARY} --systemd-cgroup \"$@\"; }}; {script}");
        let output = Command::new("setpriv")
            .args(["--reuid", &self.uid, "--regid", &self.uid, "--init-groups"])
            .args(["env", &format!("XDG_RUNTIME_DIR={}", self.runtime_dir)])
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    }
}

#[test]
fn systemd_of_a_user_makes_scopes() {
    if !has_systemd() {
        return;
    }
    let Some(user) = User::new() else {
        return;
    };
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    make_rootless(&mut bundle.config, user.uid.parse().unwrap());
    bundle.config["linux"]["cgroupsPath"] = json!(":berth-user:a");
    bundle.config["linux"]["resources"] = json!({
        "memory": { "limit": 104_857_600 },
        "pids": { "limit": 20 },
        "cpu": { "quota": 50_000, "period": 100_000 },
    });
    bundle.save();
    let (out, error) = user.shell(
        &bundle,
        "berth run -d a >log 2>&1 </dev/null; cat log; \
         berth exec a cat /proc/self/cgroup; \
         systemctl --user show --property MemoryMax,TasksMax,Slice berth-user-a.scope; \
         group=/sys/fs/cgroup$(systemctl --user show --value --property ControlGroup \
            berth-user-a.scope); \
         cat $group/memory.max $group/pids.max $group/cpu.max; wc -l <$group/cgroup.procs; \
         berth update --pids-limit 30 a; cat $group/pids.max; \
         berth pause a; berth state a | grep status; berth resume a; \
         berth list; berth delete --force a; berth list -q; \
         systemctl --user show --value --property LoadState berth-user-a.scope; \
         ls $XDG_RUNTIME_DIR/berth-runtime",
    );
    assert_eq!(error, "", "{out}");
    for part in [
        &format!("/user@{}.service/user.slice/berth-user-a.scope\n", user.uid),
        "MemoryMax=104857600\n",
        "TasksMax=20\n",
        "Slice=user.slice\n",
        "104857600\n20\n50000 100000\n1\n30\n",
        "\"status\": \"paused\"",
        "berth-test\nnot-found\n",
    ] {
        assert!(out.contains(part), "{part:?} is not in {out}");
    }
    assert!(out.ends_with("not-found\n"), "{out}");
}
