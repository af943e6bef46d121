//! Mounts of the configuration.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use berth_runtime_core::Root;
use rustix::mount::{MountFlags, MountPropagationFlags};
use serde_json::json;

use crate::fixture::{Bundle, Files, Sleeper, kill};

crate::harness::tests!("mounts":
    defaults_are_as_docker_has_them, the_host_is_gone, binds, recursive_read_only,
    missing_destinations_are_made, propagation, root_propagation, a_shared_root, tmpfs_takes_mode_and_size,
    tmpfs_copies_up, read_only_tmpfs, idmapped, cgroups, bad_mounts_are_refused_with_runcs_words,
    nothing_leaks_into_the_host,
    a_detached_overlay_as_root,
);

fn defaults_are_as_docker_has_them() {
    let text = Bundle::script("cat /proc/self/mounts").stdout();
    for line in [
        "proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0",
        "tmpfs /dev tmpfs rw,nosuid,size=65536k,mode=755 0 0",
        "devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666 0 0",
        "mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime 0 0",
        "shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k 0 0",
    ] {
        // An option that depends on how the kernel was built.
        assert!(
            text.lines()
                .any(|seen| seen.replace(",inode64", "") == line),
            "{line} is not in\n{text}"
        );
    }
    let sysfs = text
        .lines()
        .find(|line| line.contains(" /sys sysfs "))
        .unwrap();
    assert!(
        sysfs.contains(" ro,nosuid,nodev,noexec,relatime"),
        "{sysfs}"
    );
}

fn the_host_is_gone() {
    let text = Bundle::script("cat /proc/self/mountinfo; ls /; ls -l /proc/1/root").stdout();
    let mut marks: Vec<&str> = text
        .lines()
        .filter(|line| line.contains(" - "))
        .map(|line| line.split(' ').nth(4).unwrap())
        .collect();
    assert_eq!(marks.remove(0), "/");
    let expected = [
        "/proc",
        "/dev",
        "/sys",
        "/dev/",
        "/sys/fs/cgroup",
        "/proc/",
        "/sys/",
    ];
    for mark in &marks {
        assert!(
            expected.iter().any(|prefix| {
                mark == prefix || (prefix.ends_with('/') && mark.starts_with(prefix))
            }),
            "{mark} is of the host"
        );
    }
    assert!(
        !text.contains("master:") && !text.contains("shared:"),
        "{text}"
    );
}

fn binds() {
    let mut bundle = Bundle::new();
    bundle.set("/process/args", json!(["/bin/busybox", "sh", "-c",
        "cat /data/file /one; echo x 2>/dev/null > /data/file; echo y > /rw/new; \
         for m in data rw one; do busybox awk -v m=/$m '$2 == m {print m, $4}' /proc/self/mounts; done"]));
    let source = bundle.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content\n").unwrap();
    let (directory, file) = (source.clone(), source.join("file"));
    bundle
        .bind(&directory, "/data", &["bind", "ro", "nosuid", "noexec"])
        .bind(&directory, "/rw", &["rbind", "rprivate"])
        .bind(&file, "/one", &["bind", "nodev", "noatime"]);
    let text = bundle.stdout();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("content"));
    assert_eq!(lines.next(), Some("content"));
    let flags = |line: Option<&str>| line.unwrap().split_once(' ').unwrap().1.to_owned();
    assert!(
        flags(lines.next()).starts_with("ro,nosuid,noexec"),
        "{text}"
    );
    assert!(flags(lines.next()).starts_with("rw"), "{text}");
    let one = flags(lines.next());
    assert!(one.starts_with("rw,nodev,noatime"), "{one}");
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "y\n");
    assert_eq!(
        fs::read_to_string(source.join("file")).unwrap(),
        "content\n"
    );
}

/// A source with a tmpfs mounted in it, as a volume on its own disk.
fn nested_source(bundle: &Bundle) -> std::path::PathBuf {
    let source = bundle.path().join("source");
    fs::create_dir_all(source.join("inner")).unwrap();
    rustix::mount::mount(
        "inner",
        source.join("inner"),
        "tmpfs",
        MountFlags::empty(),
        None,
    )
    .unwrap();
    fs::write(source.join("inner/file"), "deep").unwrap();
    source
}

fn recursive_read_only() {
    for (options, inner) in [
        (&["rbind", "ro"][..], "writable\n"),
        (&["rbind", "ro", "rro"], "read-only\n"),
        (&["bind", "ro"], "absent\n"),
    ] {
        let mut bundle = Bundle::script(
            "test -e /data/inner/file || { echo absent; exit; }; \
             (touch /data/inner/x 2>/dev/null && echo writable) || echo read-only",
        );
        let source = nested_source(&bundle);
        bundle.bind(&source, "/data", options);
        assert_eq!(bundle.stdout(), inner, "{options:?}");
    }
}

fn missing_destinations_are_made() {
    let mut bundle = Bundle::script("cat /new/deep/file /var/run/link/file; stat -c %a /new/deep");
    std::os::unix::fs::symlink("/run", {
        fs::create_dir(bundle.rootfs().join("var")).unwrap();
        bundle.rootfs().join("var/run")
    })
    .unwrap();
    let file = bundle.path().join("file");
    fs::write(&file, "content\n").unwrap();
    bundle
        .bind(&file, "/new/deep/file", &["bind"])
        .bind(&file, "/var/run/link/file", &["bind"]);
    assert_eq!(bundle.stdout(), "content\ncontent\n755\n");
    assert!(
        bundle.rootfs().join("run/link/file").exists(),
        "the link's target was not made"
    );
}

fn propagation() {
    for (word, arrives, mark) in [
        ("rprivate", false, " - "),
        ("rslave", true, " master:"),
        ("rshared", true, " shared:"),
        // What the container mounts there is not to be seen on the host.
        ("rw", true, " master:"),
    ] {
        let mut bundle = Bundle::new();
        let source = bundle.path().join("source");
        fs::create_dir(&source).unwrap();
        rustix::mount::mount("source", &source, "tmpfs", MountFlags::empty(), None).unwrap();
        rustix::mount::mount_change(&source, MountPropagationFlags::SHARED).unwrap();
        fs::create_dir(source.join("late")).unwrap();
        bundle.bind(&source, "/data", &["rbind", word]);
        let sleeper = Sleeper::new(bundle);
        rustix::mount::mount(
            "late",
            source.join("late"),
            "tmpfs",
            MountFlags::empty(),
            None,
        )
        .unwrap();
        fs::write(source.join("late/file"), "").unwrap();
        let output = sleeper.exec(json!({"args": ["ls", "/data/late"]})).unwrap();
        assert_eq!(output.stdout == "file\n", arrives, "{word}: {output:?}");
        let mounts = sleeper.exec(json!({"args": ["grep", " /data ", "/proc/self/mountinfo"]}));
        let mounts = mounts.unwrap().stdout;
        assert!(mounts.contains(mark), "{word}: {mounts}");
        assert!(
            word == "rshared" || !mounts.contains("shared:"),
            "{word}: {mounts}"
        );
    }
}

fn root_propagation() {
    for (word, mark) in [("rprivate", false), ("rshared", true), ("", false)] {
        let mut bundle = Bundle::script(
            "grep -c ' / / .*shared:' /proc/self/mountinfo; head -n1 /proc/self/mountinfo",
        );
        bundle.set("/linux/rootfsPropagation", json!(word));
        let output = bundle.run().unwrap_or_else(|e| panic!("{e}"));
        let first = output.stdout.lines().nth(1).unwrap().to_owned();
        assert_eq!(first.contains("shared:"), mark, "{word}: {first}");
    }
}

/// Docker's and containerd's data roots are shared mounts, so their containers'
/// roots are too.
fn a_shared_root() {
    for propagation in ["private", "rslave"] {
        let mut bundle = Bundle::script("mount -t tmpfs none /mnt; ls /home");
        bundle.set("/linux/rootfsPropagation", json!(propagation));
        fs::create_dir_all(bundle.rootfs().join("mnt")).unwrap();
        let all = json!(["CAP_SYS_ADMIN"]);
        for set in ["bounding", "effective", "permitted"] {
            bundle.set(&format!("/process/capabilities/{set}"), all.clone());
        }
        let root = bundle.rootfs();
        rustix::mount::mount_bind(&root, &root).unwrap();
        let kind = MountPropagationFlags::SHARED;
        rustix::mount::mount_change(&root, kind).unwrap();
        let output = bundle.run();
        let left = fs::read_to_string("/proc/self/mountinfo").unwrap();
        rustix::mount::unmount(&root, rustix::mount::UnmountFlags::DETACH).unwrap();
        let output = output.unwrap();
        assert_eq!(
            (output.code, output.stderr.as_str()),
            (0, ""),
            "{propagation}"
        );
        let inside = root.join("mnt");
        assert!(!left.contains(inside.to_str().unwrap()), "{left}");
    }
}

fn tmpfs_takes_mode_and_size() {
    let mut bundle = Bundle::script("stat -c %a /tmp /home/app; grep ' /tmp ' /proc/self/mounts");
    bundle
        .push("/mounts", json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=4096k", "noexec"]}))
        .push("/mounts", json!({"destination": "/home/app", "type": "tmpfs", "source": "tmpfs", "options": ["mode=0700"]}));
    let text = bundle.stdout();
    assert!(
        text.starts_with("1777\n700\ntmpfs /tmp tmpfs rw,noexec,relatime,size=4096k"),
        "{text}"
    );
}

fn tmpfs_copies_up() {
    let mut bundle = Bundle::script(
        "cat /home/app/file; readlink /home/app/link; stat -c '%a %u:%g' /home/app/sub /home/app/sub/tool; \
         touch /home/app/x 2>/dev/null || echo read-only",
    );
    let home = bundle.rootfs().join("home/app");
    fs::write(home.join("file"), "content\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", home.join("link")).unwrap();
    fs::create_dir(home.join("sub")).unwrap();
    fs::set_permissions(home.join("sub"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(home.join("sub/tool"), "").unwrap();
    std::os::unix::fs::chown(home.join("sub/tool"), Some(5), Some(6)).unwrap();
    fs::set_permissions(home.join("sub/tool"), fs::Permissions::from_mode(0o4711)).unwrap();
    bundle.push(
        "/mounts",
        json!({"destination": "/home/app", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "ro"]}),
    );
    assert_eq!(
        bundle.stdout(),
        "content\n/etc/passwd\n750 0:0\n4711 5:6\nread-only\n"
    );
}

/// Read-only in the end, after what belongs in it has been made there.
fn read_only_tmpfs() {
    let mut bundle = Bundle::script(
        "cat /ro/file; touch /ro/x /dev/x 2>&1 | grep -c Read-only; echo x > /dev/null; ls /dev/pts",
    );
    let file = bundle.path().join("file");
    fs::write(&file, "content\n").unwrap();
    bundle.push(
        "/mounts",
        json!({"destination": "/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}),
    );
    bundle.bind(&file, "/ro/file", &["bind"]);
    let dev = bundle
        .config
        .pointer_mut("/mounts/1/options")
        .unwrap()
        .as_array_mut()
        .unwrap();
    dev.push(json!("ro"));
    assert_eq!(bundle.stdout(), "content\n2\nptmx\n");
}

fn idmapped() {
    let mut bundle = Bundle::script("stat -c %u:%g /data/file; touch /data/new");
    let source = bundle.path().join("source");
    fs::create_dir(&source).unwrap();
    // Nothing is known of the filesystem below, tmpfs can be idmapped since 6.3.
    if kernel() >= (6, 3) {
        rustix::mount::mount("source", &source, "tmpfs", MountFlags::empty(), None).unwrap();
    }
    fs::write(source.join("file"), "").unwrap();
    std::os::unix::fs::chown(source.join("file"), Some(7), Some(7)).unwrap();
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 7, "hostID": 3000, "size": 1}]);
    bundle.push(
        "/mounts",
        json!({"type": "bind", "source": source, "destination": "/data",
        "options": ["bind", "idmap"], "uidMappings": map, "gidMappings": map}),
    );
    assert_eq!(bundle.stdout(), "3000:3000\n");
    assert_eq!(fs::metadata(source.join("new")).unwrap().uid(), 0);
}

/// Version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Whatever this host has: every controller's own group, read-only.
fn cgroups() {
    let text = Bundle::script(
        "ls /sys/fs/cgroup; (mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/memory/x) 2>&1 | grep -c Read-only; \
         grep -E ' cgroup2? ' /proc/self/mountinfo | grep -v ' ro,'; exit 0",
    )
    .stdout();
    if fs::exists("/sys/fs/cgroup/cgroup.procs").unwrap() {
        assert!(text.contains("cgroup.procs"), "{text}");
        assert!(text.ends_with("\n1\n"), "{text}");
    } else {
        for controller in ["cpu", "memory", "pids"] {
            assert!(text.lines().any(|line| line == controller), "{text}");
        }
        assert!(text.ends_with("\n2\n"), "{text}");
    }
}

fn bad_mounts_are_refused_with_runcs_words() {
    let refused = |mount: serde_json::Value| {
        let mut bundle = Bundle::new();
        bundle.push("/mounts", mount).refusal().to_string()
    };
    assert_eq!(
        refused(
            json!({"type": "bind", "source": "/no/such", "destination": "/x", "options": ["bind"]})
        ),
        r#"error mounting "/no/such" to rootfs at "/x": stat /no/such: no such file or directory"#
    );
    let text = refused(json!({"type": "nosuchfs", "source": "x", "destination": "/x"}));
    assert!(
        text.contains(r#"open filesystem type "nosuchfs": no such device"#),
        "{text}"
    );
    let text = refused(
        json!({"type": "tmpfs", "source": "x", "destination": "/x", "options": ["nosuch=1"]}),
    );
    assert!(text.contains("set nosuch=1: invalid argument"), "{text}");
    let text = refused(
        json!({"type": "bind", "source": "/etc", "destination": "/x", "options": ["bind", "size=1"]}),
    );
    assert!(text.contains("not an option of a bind mount"), "{text}");
    let text = refused(
        json!({"type": "bind", "source": "/etc", "destination": "/etc/passwd", "options": ["bind"]}),
    );
    assert!(text.contains("not a directory"), "{text}");
    let text = refused(json!({"type": "tmpfs", "source": "x", "destination": "/a/.."}));
    assert!(text.contains("is the root itself"), "{text}");
}

fn nothing_leaks_into_the_host() {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bundle = Bundle::script("sleep 1000");
    let files = Files::new();
    let created = bundle
        .create(files.stdio(), None)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(before, fs::read_to_string("/proc/self/mountinfo").unwrap());
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    kill(&created.process);
    drop(created);
    // One descriptor of the process went with it.
    assert_eq!(fs::read_dir("/proc/self/fd").unwrap().count(), open - 1);
}

/// As the monitor starts containers: an overlay that no mount table ever shows.
fn a_detached_overlay_as_root() {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    let bundle = Bundle::script(
        "echo new > /written; cat /etc/group | head -n1; head -n1 /proc/self/mounts",
    );
    // The upper directory may not itself be on an overlay.
    let scratch = bundle.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    rustix::mount::mount("scratch", &scratch, "tmpfs", MountFlags::empty(), None).unwrap();
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    for (key, path) in [
        ("lowerdir", bundle.rootfs()),
        ("upperdir", upper.clone()),
        ("workdir", work),
    ] {
        rustix::mount::fsconfig_set_string(&context, key, path).unwrap();
    }
    rustix::mount::fsconfig_create(&context).unwrap();
    let mount = rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let files = Files::new();
    let created = bundle
        .create_on(Root::Mount(mount.as_fd()), files.stdio())
        .unwrap_or_else(|e| panic!("{e}"));
    let output = files.finish(&created.process);
    assert!(
        output
            .stdout
            .starts_with("root:x:0:root\nnone / overlay rw,"),
        "{output:?}"
    );
    assert_eq!(fs::read_to_string(upper.join("written")).unwrap(), "new\n");
    assert!(!bundle.rootfs().join("written").exists());
    assert_eq!(before, fs::read_to_string("/proc/self/mountinfo").unwrap());
}
