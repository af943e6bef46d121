//! Each known way out of a container, tried.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use berth_runtime_core::{Error, Stdio};
use serde_json::json;

use crate::fixture::{Bundle, Files, Sleeper, kill};

crate::harness::tests!("defences":
    cve_2019_5736_undumpable, cve_2019_19921_proc_is_a_link,
    cve_2021_30465_destination_is_a_link, cve_2021_30465_destination_is_swapped_meanwhile,
    cve_2022_0811_sysctls, cve_2022_29162_inheritable, cve_2023_25809_cgroup_is_read_only,
    cve_2024_21626_working_directory, cve_2024_21626_no_descriptor_leaks,
    cve_2024_45310_nothing_made_outside, cve_2025_31133_null_is_ours,
    cve_2025_52565_console_is_a_link, cve_2025_52565_pts_is_not_devpts,
    cve_2025_52881_sysctl_through_our_own_proc, cve_2026_41579_dev_is_a_link,
    cve_2026_30892_user_strings, device_nodes_of_the_image_are_checked,
    masked_files_cannot_be_changed_for_the_host, the_null_device_of_the_host_is_not_passed_on,
    masked_paths_through_links_stay_inside, a_killed_parent_leaves_nothing,
);

/// Root in the container could change its mode, for the host too.
fn the_null_device_of_the_host_is_not_passed_on() {
    let script = "stat -L -c %d /proc/self/fd/0 /dev/null; cat; echo x";
    // Its standard input is the host's null device.
    let output = Bundle::script(script).run().unwrap();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], lines[1], "{output:?}");
    assert_eq!((lines[2], output.code), ("x", 0), "{output:?}");
}

/// The process that will become the program still is the host's program: to the
/// container its /proc entries belong to the host's root.
fn cve_2019_5736_undumpable() {
    let mut bundle = Bundle::script("true");
    crate::namespaces::map_user(&mut bundle);
    bundle.gate = true;
    let files = Files::new();
    let created = bundle
        .create(files.stdio(), None)
        .unwrap_or_else(|e| panic!("{e}"));
    let status = fs::metadata(format!("/proc/{}/mem", created.process.pid)).unwrap();
    assert_eq!(
        status.uid(),
        0,
        "the container's root could read and trace it"
    );
    kill(&created.process);
}

fn cve_2019_19921_proc_is_a_link() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new();
        fs::remove_dir(bundle.rootfs().join(name)).unwrap();
        fs::create_dir(bundle.rootfs().join("fake")).unwrap();
        symlink("/fake", bundle.rootfs().join(name)).unwrap();
        let error = bundle.refusal();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert!(error.to_string().contains("ordinary directory"), "{error}");
    }
}

fn cve_2021_30465_destination_is_a_link() {
    let mut bundle = Bundle::script("cat /inside/file");
    let outside = bundle.path().join("outside");
    let source = bundle.path().join("source");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content\n").unwrap();
    // Both an absolute link and one that climbs, to a directory of the host.
    symlink(&outside, bundle.rootfs().join("absolute")).unwrap();
    symlink(
        "../../../../../../../../inside",
        bundle.rootfs().join("climbing"),
    )
    .unwrap();
    bundle
        .bind(&source, "/absolute", &["bind"])
        .bind(&source, "/climbing", &["bind"]);
    assert_eq!(bundle.stdout(), "content\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// Another process exchanges the destination with a link to the host, all the time.
/// The mount may land on either name inside, or fail: never outside.
fn cve_2021_30465_destination_is_swapped_meanwhile() {
    use berth_sys::clone::{Cloned, clone3};
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let mut bundle = Bundle::script("exit 0");
    let outside = bundle.path().join("outside");
    let source = bundle.path().join("source");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&source).unwrap();
    let (place, link) = (bundle.rootfs().join("place"), bundle.rootfs().join("link"));
    fs::create_dir(&place).unwrap();
    symlink(&outside, &link).unwrap();
    bundle.bind(&source, "/place/deep", &["bind"]);
    bundle.push(
        "/mounts",
        json!({"destination": "/place/other", "type": "tmpfs", "source": "tmpfs"}),
    );
    let Cloned::Parent { pid, pidfd } = clone3(0, None).unwrap() else {
        loop {
            let _ = renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE);
        }
    };
    let mut started = 0;
    for _ in 0..60 {
        started += usize::from(bundle.run().is_ok());
        assert_eq!(
            fs::read_dir(&outside).unwrap().count(),
            0,
            "something was made outside"
        );
    }
    println!("{started} of 60 started");
    kill(&berth_runtime_core::Started {
        pid,
        pidfd,
        console: None,
    });
    assert!(started > 0);
}

fn cve_2022_0811_sysctls() {
    for (key, value) in [
        ("kernel.core_pattern", "|/bin/evil"),
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/bin/evil"),
        ("net/../kernel/core_pattern", "x"),
        ("vm.drop_caches", "1"),
    ] {
        let mut bundle = Bundle::new();
        bundle.set("/linux/sysctl", json!({key: value}));
        assert!(matches!(bundle.refusal(), Error::Invalid(_)), "{key}");
    }
    let mut bundle = Bundle::new();
    bundle.without_namespace("network");
    assert!(
        bundle
            .refusal()
            .to_string()
            .contains("not allowed in the host's network namespace")
    );
}

fn cve_2022_29162_inheritable() {
    let text = Sleeper::new(Bundle::new())
        .exec(json!({"args": ["grep", "CapInh", "/proc/self/status"]}))
        .unwrap()
        .stdout;
    assert_eq!(text, "CapInh:\t0000000000000000\n");
}

/// In a user namespace without a cgroup namespace the mount would be the host's.
fn cve_2023_25809_cgroup_is_read_only() {
    let mut bundle = Bundle::script("grep -E ' cgroup2? ' /proc/self/mountinfo");
    crate::namespaces::map_user(&mut bundle);
    bundle
        .without_namespace("cgroup")
        .without_mount("/sys/fs/cgroup");
    bundle.push(
        "/mounts",
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["rw", "nosuid"]}),
    );
    let text = bundle.stdout();
    assert!(text.lines().count() > 0);
    for line in text.lines() {
        assert!(line.split(' ').nth(5).unwrap().starts_with("ro"), "{line}");
    }
}

fn cve_2024_21626_working_directory() {
    // A descriptor of the host that lacks close-on-exec, as careless code leaves it.
    let host = fs::File::open("/").unwrap();
    let leak = rustix::io::fcntl_dupfd_cloexec(&host, 30).unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    for fd in 3..40 {
        let mut bundle = Bundle::script("readlink /proc/self/cwd; ls");
        bundle.set("/process/cwd", json!(format!("/proc/self/fd/{fd}")));
        match bundle.run() {
            // Our descriptors of the container's own mounts lead nowhere else.
            Ok(output) => assert!(
                fd != 30 && output.stdout.starts_with('/'),
                "{fd}: {output:?}"
            ),
            Err(error) => {
                let text = error.to_string();
                let known = [
                    "possible container breakout",
                    "chdir to cwd",
                    "in the container",
                ];
                assert!(
                    known.iter().any(|words| text.contains(words)),
                    "{fd}: {text}"
                );
            }
        }
    }
}

fn cve_2024_21626_no_descriptor_leaks() {
    let host = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&host, rustix::io::FdFlags::empty()).unwrap();
    let text = Bundle::script("for f in /proc/1/fd/*; do echo ${f##*/}; done").stdout();
    // The shell's own, open while it expands the pattern, is one more at most.
    let seen: Vec<_> = text
        .lines()
        .filter(|fd| !matches!(*fd, "0" | "1" | "2"))
        .collect();
    assert!(seen.len() <= 1, "{seen:?}");
    let sleeper = Sleeper::new(Bundle::new());
    let ls = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(ls(sleeper.created.process.pid), 3);
    let files = Files::new();
    let process = sleeper.process(json!({"args": ["sleep", "1000"]}));
    let started = sleeper.start(&process, files.stdio()).unwrap();
    assert_eq!(ls(started.pid), 3);
    kill(&started);
}

fn cve_2024_45310_nothing_made_outside() {
    let mut bundle = Bundle::new();
    let outside = bundle.path().join("outside");
    symlink(&outside, bundle.rootfs().join("link")).unwrap();
    symlink(
        "../../../../../../../../../../climbed",
        bundle.rootfs().join("climb"),
    )
    .unwrap();
    for destination in ["/link/a/b", "/climb/c"] {
        bundle.push(
            "/mounts",
            json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}),
        );
    }
    bundle.set("/process/cwd", json!("/link/work/here"));
    bundle.stdout();
    assert!(!outside.exists(), "made on the host");
    assert!(!fs::exists("/climbed").unwrap(), "made on the host");
    assert!(bundle.rootfs().join("climbed/c").is_dir());
}

/// The image's /dev/null is a link to a file of the host, and there is no mount on
/// /dev to hide it: what covers masked files is still the null device.
fn cve_2025_31133_null_is_ours() {
    let mut bundle = Bundle::script("stat -c %t:%T /proc/interrupts; cat /proc/interrupts");
    for mount in ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev"] {
        bundle.without_mount(mount);
    }
    let secret = bundle.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    bundle.bind(&bundle.rootfs().join("dev"), "/dev", &["bind"]);
    symlink(&secret, bundle.rootfs().join("dev/null")).unwrap();
    assert_eq!(bundle.stdout(), "1:3\n");
}

/// An image whose /dev/console leads elsewhere, with no tmpfs above it.
fn cve_2025_52565_console_is_a_link() {
    let mut bundle = Bundle::script("true");
    for mount in ["/dev/shm", "/dev/mqueue", "/dev"] {
        bundle.without_mount(mount);
    }
    bundle.without_mount("/dev/pts");
    bundle.push(
        "/mounts",
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
    );
    symlink("/proc/sysrq-trigger", bundle.rootfs().join("dev/console")).unwrap();
    let error = bundle
        .create(
            Stdio::Terminal {
                width: 0,
                height: 0,
            },
            None,
        )
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/dev/console: too many levels of symbolic links"),
        "{error}"
    );
}

fn cve_2025_52565_pts_is_not_devpts() {
    let mut bundle = Bundle::new();
    bundle.without_mount("/dev/pts");
    let fake = bundle.path().join("fake");
    fs::create_dir(&fake).unwrap();
    bundle.bind(&fake, "/dev/pts", &["bind"]);
    let error = bundle
        .create(
            Stdio::Terminal {
                width: 0,
                height: 0,
            },
            None,
        )
        .unwrap_err();
    assert!(error.to_string().contains("is not a devpts"), "{error}");
}

/// Something else mounted over the file in the container's /proc: the write must
/// not go there.
fn cve_2025_52881_sysctl_through_our_own_proc() {
    let mut bundle = Bundle::new();
    let trap = bundle.path().join("trap");
    fs::write(&trap, "untouched").unwrap();
    bundle.bind(
        &trap,
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
        &["bind"],
    );
    let error = bundle.refusal().to_string();
    assert!(error.contains("ip_unprivileged_port_start"), "{error}");
    assert_eq!(fs::read_to_string(&trap).unwrap(), "untouched");
}

fn cve_2026_41579_dev_is_a_link() {
    for target in ["/etc", "/../../../../../../tmp"] {
        let bundle = Bundle::new();
        fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
        symlink(target, bundle.rootfs().join("dev")).unwrap();
        let error = bundle.refusal().to_string();
        assert!(error.contains("not an ordinary directory"), "{error}");
        assert!(!bundle.rootfs().join("etc/null").exists());
    }
}

fn cve_2026_30892_user_strings() {
    let sleeper = Sleeper::new(Bundle::new());
    let id = |user: &str| {
        sleeper.exec(json!({"args": ["id", "-u"], "user": {"uid": 0, "gid": 0, "username": user}}))
    };
    assert_eq!(id("1").unwrap().stdout, "1\n");
    assert_eq!(id("app").unwrap().stdout, "1000\n");
    for user in ["-1", "4294967296", "+1", "1x", "app:"] {
        match id(user) {
            Err(Error::Invalid(_)) => {}
            // "app:" is the user without a group.
            Ok(output) => assert_eq!((user, &*output.stdout), ("app:", "1000\n")),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A node in the image with a default device's name and another number.
fn device_nodes_of_the_image_are_checked() {
    let mut bundle = Bundle::new();
    for mount in ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev"] {
        bundle.without_mount(mount);
    }
    let status = std::process::Command::new("mknod")
        .arg(bundle.rootfs().join("dev/null"))
        .args(["c", "1", "5"])
        .status()
        .unwrap();
    assert!(status.success());
    let error = bundle.refusal().to_string();
    assert!(
        error.contains("make device /dev/null: file exists"),
        "{error}"
    );
}

/// The null device over a masked file is the host's: root of the container must
/// not be able to change it.
fn masked_files_cannot_be_changed_for_the_host() {
    let before = fs::metadata("/dev/null").unwrap();
    let output =
        Bundle::script("chmod 000 /proc/interrupts; echo x > /proc/interrupts && echo written")
            .run()
            .unwrap();
    assert!(
        output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
    assert_eq!(output.stdout, "written\n");
    assert_eq!(fs::metadata("/dev/null").unwrap().mode(), before.mode());
}

fn masked_paths_through_links_stay_inside() {
    let mut bundle = Bundle::script("ls /etc | wc -l; ls /bin | head -n1");
    symlink("/etc", bundle.rootfs().join("link")).unwrap();
    symlink("../../../../../../../../bin", bundle.rootfs().join("climb")).unwrap();
    bundle
        .push("/linux/maskedPaths", json!("/link"))
        .push("/linux/readonlyPaths", json!("/climb"));
    assert_eq!(bundle.stdout(), "0\nbusybox\n");
    assert!(
        fs::read_dir("/etc").unwrap().count() > 0,
        "the host's directory was masked"
    );
}

/// The parent is killed while the container is made or waits at its gate: nothing
/// goes on without it.
fn a_killed_parent_leaves_nothing() {
    use berth_sys::clone::{Cloned, clone3};
    use rustix::process::{Pid, WaitOptions, set_child_subreaper, wait};
    // Orphans come to us, not to the system's first process.
    set_child_subreaper(Pid::from_raw(1)).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let Cloned::Parent { pidfd, .. } = clone3(0, None).unwrap() else {
        drop(reader);
        let mut bundle = Bundle::script("sleep 1000");
        bundle.gate = true;
        let files = Files::new();
        let created = bundle.create(files.stdio(), None);
        rustix::io::write(&writer, if created.is_ok() { b"k" } else { b"e" }).unwrap();
        std::thread::park();
        unreachable!()
    };
    drop(writer);
    let mut answer = [0u8; 1];
    rustix::io::read(&reader, &mut answer).unwrap();
    assert_eq!(&answer, b"k");
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    let mut ended = 0;
    while let Ok(Some(_)) = wait(WaitOptions::empty()) {
        ended += 1;
    }
    assert_eq!(ended, 2, "the parent and the container's process");
}
