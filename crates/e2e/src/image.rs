//! Images for the tests, made from what is installed: nothing is downloaded.

use std::path::Path;

/// Programs of busybox that tests use, as symbolic links in /bin.
const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "true", "false", "sleep", "ls", "id", "env", "grep", "head", "tail", "wc",
    "ip", "ping", "mount", "umount", "ps", "kill", "touch", "mkdir", "rm", "stat", "dd", "seq",
    "nc", "hostname", "stty", "tty", "date", "chmod", "chown", "mknod", "readlink", "awk", "sed",
    "tr", "cut", "sort", "yes", "printf", "test", "pwd", "df", "nproc", "uname", "top", "wget",
    "unshare", "chroot", "sysctl", "usleep", "dirname", "basename", "find", "xargs", "timeout",
];

/// The static busybox of this machine.
pub fn busybox() -> &'static Path {
    ["/usr/bin/busybox", "/bin/busybox"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("busybox-static is not installed: run scripts/setup.sh"))
}

/// A root filesystem with busybox, as an uncompressed tar archive.
pub fn busybox_rootfs() -> Vec<u8> {
    let program = std::fs::read(busybox()).expect("busybox can be read");
    let mut archive = tar::Builder::new(Vec::new());
    for (dir, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("var", 0o755),
    ] {
        append(&mut archive, dir, tar::EntryType::Directory, mode, &[]);
    }
    append(
        &mut archive,
        "bin/busybox",
        tar::EntryType::Regular,
        0o755,
        &program,
    );
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        archive
            .append_link(&mut header, format!("bin/{applet}"), "busybox")
            .expect("memory can be written");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\napp:x:1000:1000::/home:/bin/sh\n";
    let group = "root:x:0:\napp:x:1000:\nextra:x:1234:app\nnogroup:x:65534:\n";
    append(
        &mut archive,
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        passwd.as_bytes(),
    );
    append(
        &mut archive,
        "etc/group",
        tar::EntryType::Regular,
        0o644,
        group.as_bytes(),
    );
    append(
        &mut archive,
        "etc/not-executable",
        tar::EntryType::Regular,
        0o644,
        b"#!/bin/sh\n",
    );
    archive.into_inner().expect("memory can be written")
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    bytes: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    archive
        .append_data(&mut header, path, bytes)
        .expect("memory can be written");
}
