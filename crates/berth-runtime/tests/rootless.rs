//! `berth-runtime` run by an ordinary user, without a user namespace around it.

// Also outside the test functions: a failure fails the test.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::bundle::{Bundle, make_rootless};
use common::*;
use serde_json::json;

/// A number that nobody has.
const UID: u32 = 64_321;

/// What a shell of the user says: standard output and errors. `before` is done by
/// root, in a mount namespace of its own.
fn user(bundle: &Bundle, before: &str, script: &str) -> (String, String) {
    bundle.save();
    let own = bundle.path().display();
    let script = format!(
        "set -e; chown -R {UID}:{UID} {own}; {before}\n\
         exec setpriv --reuid={UID} --regid={UID} --clear-groups \
         env XDG_RUNTIME_DIR={own}/run sh -c 'cd {own}; berth() {{ {BINARY} \"$@\"; }}; {script}'"
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn rootless(args: &[&str]) -> Bundle {
    let mut bundle = Bundle::new(args);
    make_rootless(&mut bundle.config, UID);
    bundle
}

#[test]
fn a_user_runs_containers_without_a_control_group() {
    let bundle = rootless(&["sh", "-c", "id -u; touch /tmp/x; sleep 1000"]);
    let (out, error) = user(
        &bundle,
        "",
        "berth create a >out 2>&1 </dev/null; berth start a; berth list; \
         berth exec a sh -c \"ps; id -u\"; \
         berth exec --tty a tty; ls run/berth-runtime; berth pause a; \
         berth kill a KILL; while berth state a | grep -q running; do sleep 0.01; done; \
         berth delete a; cat out; berth list -q; ls -ln rootfs/tmp",
    );
    for part in ["sleep 1000", "/dev/pts/0", "a\n0\n", &format!(" {UID} ")] {
        assert!(out.contains(part), "{part:?} is not in {out} {error}");
    }
    // The state is the user's.
    assert!(out.contains(&format!("{UID}\n")), "{out}");
    assert_eq!(
        error.trim_end(),
        "berth-runtime: container a has no control group: its user may not make one"
    );
}

#[test]
fn the_printed_example_works() {
    let bundle = rootless(&[]);
    let (out, error) = user(
        &bundle,
        "",
        "rm config.json; berth spec --rootless; \
         sed -i \"s/\\\"terminal\\\": true/\\\"terminal\\\": false/; \
            s/\\\"sh\\\"/\\\"echo\\\", \\\"inside\\\"/\" config.json; \
         berth run a",
    );
    assert_eq!((out.as_str(), error.as_str()), ("inside\n", ""));
}

#[test]
fn what_a_user_cannot_have_is_refused() {
    let mut bundle = rootless(&["true"]);
    let whole = bundle.config.clone();
    let mut refusal = |change: &dyn Fn(&mut serde_json::Value)| {
        bundle.config = whole.clone();
        change(&mut bundle.config);
        let (out, error) = user(&bundle, "", "berth run a; berth list -q");
        assert_eq!(out, "");
        error
    };
    let error = refusal(&|config| {
        config["linux"]["resources"] = json!({ "pids": { "limit": 5 } });
    });
    assert!(
        error.contains(
            "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: "
        ),
        "{error}"
    );
    let error = refusal(&|config| config["linux"]["cgroupsPath"] = json!("/berth-test/a"));
    assert!(
        error.contains("no cgrouppath when no permission"),
        "{error}"
    );
    let error = refusal(&|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "user");
    });
    assert!(
        error.contains("rootless container requires user namespaces"),
        "{error}"
    );
    let error = refusal(&|config| {
        config["linux"]
            .as_object_mut()
            .unwrap()
            .remove("uidMappings");
    });
    assert!(
        error.contains("requires at least one UID mapping"),
        "{error}"
    );
    // Another user's file stays out of reach.
    let secret = tempfile::NamedTempFile::new().unwrap();
    let path = secret.path().to_str().unwrap().to_owned();
    let error = refusal(&|config| {
        config["process"]["args"] = json!(["cat", "/secret"]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({ "destination": "/secret", "source": path, "type": "bind" }));
    });
    assert!(error.contains("Permission denied"), "{error}");
}

#[test]
fn more_users_are_mapped_by_newuidmap() {
    if Command::new("newuidmap").output().is_err() {
        eprintln!("not tested: this host has no newuidmap (package uidmap)");
        return;
    }
    let mut bundle = rootless(&["sh", "-c", "id -u; id -g; id -G; touch /tmp/x; sleep 1000"]);
    // The user needs a name and a range: on files of this test alone.
    let files = bundle.path().join("etc");
    std::fs::create_dir(&files).unwrap();
    let with = |name: &str, line: String| {
        let text = std::fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
        std::fs::write(files.join(name), text + &line).unwrap();
    };
    with("passwd", format!("berth-user:x:{UID}:{UID}::/:/bin/sh\n"));
    with("group", format!("berth-user:x:{UID}:\n"));
    with("subuid", "berth-user:200000:65536\n".into());
    with("subgid", "berth-user:200000:65536\n".into());
    let before = ["passwd", "group", "subuid", "subgid"]
        .map(|name| {
            let own = files.join(name);
            format!(
                "chown 0:0 {0}; touch /etc/{name}; mount --bind {0} /etc/{name};",
                own.display()
            )
        })
        .concat();
    std::fs::create_dir_all(bundle.path().join("rootfs/tmp")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(bundle.path().join("rootfs/tmp"), mode).unwrap();
    let script = "berth run -d a >out 2>&1 </dev/null; \
         while [ ! -e rootfs/tmp/x ]; do sleep 0.01; done; \
         berth exec -u 9 a id -u; berth list; berth delete --force a; cat out; \
         stat -c %u:%g rootfs/tmp/x; berth list -q";
    // The user as root, and as somebody else (podman --userns keep-id).
    for (map, owner) in [
        (
            json!([
                { "containerID": 0, "hostID": UID, "size": 1 },
                { "containerID": 1, "hostID": 200_000, "size": 1000 },
            ]),
            "200004:200005",
        ),
        (
            json!([
                { "containerID": 0, "hostID": 200_000, "size": 500 },
                { "containerID": 500, "hostID": UID, "size": 1 },
            ]),
            "200005:200006",
        ),
    ] {
        bundle.config["linux"]["uidMappings"] = map.clone();
        bundle.config["linux"]["gidMappings"] = map;
        bundle.config["process"]["user"] = json!({ "uid": 5, "gid": 6, "additionalGids": [7] });
        let (out, error) = user(&bundle, &before, script);
        assert_eq!(error, "", "{out}");
        let expected = format!("5\n6\n6 7\n{owner}\n");
        assert!(out.starts_with("9\n") && out.ends_with(&expected), "{out}");
        assert!(out.contains("berth-user"), "{out}");
        std::fs::remove_file(bundle.path().join("rootfs/tmp/x")).unwrap();
    }
    let map = json!([
        { "containerID": 0, "hostID": UID, "size": 1 },
        { "containerID": 1, "hostID": 300_000, "size": 10 },
    ]);
    bundle.config["linux"]["uidMappings"] = map;
    let (_, error) = user(&bundle, &before, "berth run a");
    assert!(
        error.contains(
            "newuidmap failed: newuidmap: uid range [1-11) -> [300000-300010) not allowed"
        ),
        "{error}"
    );
}

/// A group of version 2 that was given to the user, with the user's shell in it.
#[test]
fn a_delegated_group_holds_the_limits() {
    let host = berth_cgroup::Host::detect().unwrap();
    if host.layout() != berth_cgroup::Layout::V2 {
        eprintln!("not tested: groups are delegated on cgroup v2 only, which this host lacks");
        return;
    }
    let mut bundle = rootless(&["sleep", "1000"]);
    let name = bundle
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let top = format!("/sys/fs/cgroup/berth-test{name}");
    bundle.config["linux"]["resources"] = json!({
        "memory": { "limit": 52_428_800 },
        "pids": { "limit": 7 },
        "devices": [{ "allow": false, "access": "rwm" }],
    });
    let before = format!(
        "cd /sys/fs/cgroup; mkdir {top} {top}/shell; echo \"+memory +pids\" >{top}/cgroup.subtree_control; \
         chown -R {UID} {top}; echo $$ >{top}/shell/cgroup.procs;"
    );
    // Beside the shell's own group by default, and where it is said.
    for (path, group) in [
        (None, "a"),
        (Some(format!("/berth-test{name}/some/where")), "some/where"),
    ] {
        if let Some(path) = path {
            bundle.config["linux"]["cgroupsPath"] = json!(path);
        }
        let script = format!(
            "berth run -d a >out 2>&1 </dev/null; cat out; cd {top}/{group}; \
             cat memory.max pids.max; wc -l <cgroup.procs; \
             berth exec a cat /proc/self/cgroup; berth pause a; berth state a | grep status; \
             berth resume a; berth update --pids-limit 9 a; cat pids.max; cd /; \
             berth delete --force a; ls {top} | grep -v ^c | grep -v ^memory | grep -v ^pids"
        );
        let (out, error) = user(&bundle, &before, &script);
        for made in [&format!("{top}/shell"), &format!("{top}/some"), &top] {
            let _ = std::fs::remove_dir(made);
        }
        assert_eq!(error, "", "{out}");
        assert!(
            out.starts_with("52428800\n7\n1\n0::/\n  \"status\": \"paused\",\n9\n"),
            "{out}"
        );
        assert!(!Path::new(&top).exists(), "{out}");
    }
}
