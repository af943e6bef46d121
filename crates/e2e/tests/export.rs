//! A container's filesystem as an archive.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use berth_e2e::{Engine, clients, eventually};
use tar::EntryType;

/// Kind, link, mode and content by name.
type Entries = BTreeMap<String, (EntryType, String, u32, Vec<u8>)>;

fn read(bytes: &[u8]) -> (Vec<String>, Entries) {
    let mut archive = tar::Archive::new(bytes);
    let (mut names, mut entries) = (Vec::new(), BTreeMap::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let link = entry
            .link_name()
            .unwrap()
            .unwrap_or_default()
            .display()
            .to_string();
        let mode = entry.header().mode().unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let kind = entry.header().entry_type();
        names.push(name.clone());
        assert!(entries.insert(name, (kind, link, mode, content)).is_none());
    }
    (names, entries)
}

#[test]
fn running_or_not_with_mount_points_but_not_what_is_mounted() {
    for form in ["erofs", "directory"] {
        let engine = Engine::start_form_in("/var/tmp".as_ref(), &[], Some(form));
        engine.import_busybox();
        let script = "cd /root; echo text >file; chmod 4755 file; ln file twin; ln -s /etc link; \
                      mkfifo fifo; mknod null c 1 3; rm /etc/not-executable; rm -r /home; mkdir /home; \
                      echo secret >/mnt/volume/inside; echo changed >>/etc/group; echo done; \
                      exec sleep 1000";
        engine
            .berth(&[
                "run",
                "-d",
                "--name",
                "cc",
                "--network",
                "none",
                "-v",
                "data:/mnt/volume",
                "--cap-add",
                "MKNOD",
                "busybox",
                "sh",
                "-ec",
                script,
            ])
            .ok();
        eventually("the files are made", || {
            engine
                .berth(&["logs", "cc"])
                .stdout
                .contains("done")
                .then_some(())
        });
        let mut all = Vec::new();
        for client in clients() {
            let path = engine.dir().join("out.tar");
            for _ in 0..2 {
                let to = path.display().to_string();
                engine.client(client, &["export", "-o", &to, "cc"]).ok();
                all.push(std::fs::read(&path).unwrap());
                engine.berth(&["kill", "cc"]);
            }
            engine.berth(&["start", "cc"]);
        }
        let (names, entries) = read(&all[0]);
        assert_eq!(names[0], ".dockerenv");
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(names.len(), sorted.len());
        let file = &entries["root/file"];
        assert_eq!((file.0, file.2), (EntryType::Regular, 0o4755));
        assert_eq!(file.3, b"text\n");
        let twin = &entries["root/twin"];
        assert_eq!((twin.0, twin.1.as_str()), (EntryType::Link, "root/file"));
        assert_eq!(entries["root/link"].1, "/etc");
        assert_eq!(entries["root/fifo"].0, EntryType::Fifo);
        assert_eq!(entries["root/null"].0, EntryType::Char);
        assert!(entries["etc/group"].3.ends_with(b"changed\n"));
        assert!(entries["bin/busybox"].3.len() > 100_000);
        assert_eq!(entries["bin/sh"].1, "busybox");
        for gone in [
            "etc/not-executable",
            "mnt/volume/inside",
            "proc/self",
            "dev/null",
        ] {
            assert!(!entries.contains_key(gone), "{gone}");
        }
        for point in ["mnt/volume/", "proc/", "dev/", "sys/"] {
            assert_eq!(entries[point].0, EntryType::Directory, "{point}");
        }
        assert_eq!(entries["etc/resolv.conf"].3, b"");
        for other in &all[1..] {
            let (_, other) = read(other);
            assert_eq!(other["bin/busybox"], entries["bin/busybox"]);
            assert_eq!(
                other.keys().collect::<Vec<_>>(),
                entries.keys().collect::<Vec<_>>()
            );
        }
        // It makes an image again.
        engine.berth_with(&["import", "-", "again"], &all[0]).ok();
        let text = engine
            .berth(&[
                "run",
                "--rm",
                "--network",
                "none",
                "again",
                "cat",
                "/root/twin",
            ])
            .ok();
        assert_eq!(text, "text");
        engine
            .berth(&["export", "nobody"])
            .fails(1, "No such container: nobody");
        engine.berth(&["rm", "-f", "cc"]).ok();
    }
}

/// The engine's threads that export.
fn exports(engine: &Engine) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", engine.pid())).unwrap();
    tasks
        .flatten()
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "export\n")
        })
        .count()
}

/// An export of "cc" that has begun and is not read on.
fn begin(engine: &Engine) -> UnixStream {
    let mut stream = UnixStream::connect(engine.socket()).unwrap();
    stream
        .write_all(b"GET /containers/cc/export HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut start = [0; 4096];
    stream.read_exact(&mut start).unwrap();
    assert!(
        start.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&start)
    );
    stream
}

#[test]
fn a_client_that_leaves_and_a_container_that_goes_end_it() {
    let engine = Engine::start_in("/var/tmp".as_ref(), &[]);
    engine.import_busybox();
    engine
        .berth(&[
            "run",
            "--name",
            "cc",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "mkdir /big; for i in 1 2 3 4; do dd if=/dev/urandom of=/big/$i bs=1M count=8; done",
        ])
        .ok();
    // It waits for its client, whatever the file system's size.
    let stream = begin(&engine);
    assert_eq!(exports(&engine), 1);
    drop(stream);
    eventually("the export ends with its client", || {
        (exports(&engine) == 0).then_some(())
    });

    let mut stream = begin(&engine);
    engine.berth(&["rm", "-f", "cc"]).ok();
    let mut rest = Vec::new();
    // The end, or the connection broken off; but an end.
    let _ = stream.set_read_timeout(Some(berth_e2e::patience(2)));
    let mut buffer = vec![0; 1 << 20];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => rest.extend_from_slice(&buffer[..n]),
        }
    }
    eventually("the export ends with its container", || {
        (exports(&engine) == 0).then_some(())
    });
    engine
        .berth(&["run", "--rm", "--network", "none", "busybox", "true"])
        .ok();
    engine.assert_nothing_left();
}
