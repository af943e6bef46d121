//! `berth registry serve` over time: kill -9, clients that begin anew or flood,
//! collection, read-only, the pull-through cache.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;

use berth_e2e::eventually;
use berth_e2e::oci::{self, Content, INDEX, MANIFEST, digest, noise};
use berth_e2e::serve::{NONE, Served, image};
use rustix::process::Signal;
use serde_json::json;

/// Sends the head and a part of the body of an upload, and leaves the rest.
fn cut_upload(registry: &Served, at: &str, part: &[u8], length: usize) -> TcpStream {
    let mut socket = TcpStream::connect(&registry.host).unwrap();
    write!(
        socket,
        "PATCH {at} HTTP/1.1\r\nHost: x\r\nContent-Range: 0-{}\r\nContent-Length: {length}\r\n\r\n",
        length - 1
    )
    .unwrap();
    socket.write_all(part).unwrap();
    socket
}

#[test]
fn an_upload_goes_on_after_kill_9() {
    let mut registry = Served::start(&[]);
    let bytes = noise(3, 8 << 20);
    let whole = digest(&bytes);
    let reply = registry.curl("/v2/r/blobs/uploads/", &["-X", "POST"]);
    let at = reply.header("location").to_owned();
    let socket = cut_upload(&registry, &at, &bytes[..5 << 20], bytes.len());
    let uploads = registry.root().join("repositories/r/_uploads");
    let arrived = || {
        let file = std::fs::read_dir(&uploads).ok()?.next()?.ok()?;
        Some(file.metadata().ok()?.size()).filter(|size| *size >= 4 << 20)
    };
    eventually("most of the bytes are on disk", arrived);
    registry.kill();
    drop(socket);
    registry.launch();
    registry.curl(&format!("/v2/r/blobs/{whole}"), &["-I"]);
    let state = registry.curl(&at, &[]);
    assert_eq!(state.status, 204);
    let offset = state
        .header("range")
        .trim_start_matches("0-")
        .parse::<usize>()
        .unwrap()
        + 1;
    assert!(offset >= 4 << 20, "{offset}");
    let rest = format!("Content-Range: {offset}-{}", bytes.len() - 1);
    let reply = registry.send(&at, &["-X", "PATCH", "-H", &rest], &bytes[offset..]);
    assert_eq!(reply.status, 202, "{reply:?}");
    assert_eq!(
        registry
            .curl(&format!("{at}?digest={whole}"), &["-X", "PUT"])
            .status,
        201
    );
    assert_eq!(
        registry.curl(&format!("/v2/r/blobs/{whole}"), &[]).body,
        bytes
    );
}

#[test]
fn a_client_that_begins_anew_gets_its_upload() {
    let registry = Served::start(&[]);
    let bytes = noise(4, 4 << 20);
    let reply = registry.curl("/v2/r/blobs/uploads/", &["-X", "POST"]);
    let at = reply.header("location").to_owned();
    // It is still connected, and says nothing more.
    let _socket = cut_upload(&registry, &at, &bytes[..1 << 20], bytes.len());
    let offset = eventually("a part has arrived", || {
        let path = registry.root().join("repositories/r/_uploads");
        let file = std::fs::read_dir(path).ok()?.next()?.ok()?;
        (file.metadata().ok()?.size() > 0).then_some(())?;
        let wrong = registry.send(&at, &["-X", "PATCH", "-H", "Content-Range: 9-9"], b"x");
        wrong.is_error(416, "RANGE_INVALID");
        Some(
            wrong
                .header("range")
                .trim_start_matches("0-")
                .parse::<usize>()
                .unwrap()
                + 1,
        )
    });
    let rest = format!("Content-Range: {offset}-{}", bytes.len() - 1);
    let path = format!("{at}?digest={}", digest(&bytes));
    let reply = registry.send(&path, &["-X", "PUT", "-H", &rest], &bytes[offset..]);
    assert_eq!(reply.status, 201, "{reply:?}");
}

#[test]
fn one_server_per_root_and_a_clean_end() {
    let mut registry = Served::start(&[]);
    let root = registry.root();
    let root = root.to_str().unwrap();
    registry
        .berth(&["registry", "serve", "--addr", "127.0.0.1:0", "--root", root])
        .fails(1, "is in use by another registry (process ");
    registry
        .berth(&["registry", "serve", "--addr", "0.0.0.0:0", "--root", root])
        .fails(1, "can be reached from other hosts");
    assert_eq!(registry.stop(), Some(0));
}

#[test]
fn many_push_the_same_blob() {
    let registry = Served::start(&[]);
    let bytes = noise(5, 2 << 20);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (registry, bytes) = (&registry, &bytes);
            scope.spawn(move || registry.push_blob(&format!("r{}", number % 3), bytes));
        }
    });
    let path = format!("/v2/r1/blobs/{}", digest(&bytes));
    assert_eq!(registry.curl(&path, &[]).body, bytes);
    let left = std::fs::read_dir(registry.root().join("repositories/r1/_uploads")).unwrap();
    assert_eq!(left.count(), 0);
}

fn collect(registry: &Served, metrics: &str) {
    let runs = || {
        let text = String::from_utf8(berth_e2e::serve::curl(metrics, &[], b"").body).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("berth_registry_gc_runs_total "));
        line.unwrap()
            .rsplit(' ')
            .next()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = runs();
    registry.signal(Signal::USR1);
    eventually("a collection ends", || (runs() > before).then_some(()));
}

/// Where the log and `--metrics-addr` say it is.
fn metrics_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/metrics")
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

#[test]
fn collection() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let metrics = metrics_url(port);
    let registry = Served::start(&[
        "--gc-grace",
        "0s",
        "--gc-untagged",
        "--metrics-addr",
        &address,
    ]);
    let (content, image) = image();
    registry.push("r", &content);
    let unused = registry.push_blob("r", b"nobody refers to this");
    let mut other = Content::default();
    let untagged = other.image("amd64", vec![oci::layer(&[("b", &noise(9, 1000))])]);
    registry.push("r", &other);
    collect(&registry, &metrics);
    let has = |path: String| registry.curl(&path, &["-I"]).status == 200;
    assert!(!has(format!("/v2/r/blobs/{unused}")));
    assert!(!has(format!("/v2/r/manifests/{untagged}")));
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    let blobs = registry.root().join("blobs/sha256");
    for digest in other.blobs.keys().chain([&unused]) {
        assert!(!blobs.join(hex(digest)).exists(), "{digest}");
    }
    for digest in content.blobs.keys() {
        assert!(blobs.join(hex(digest)).exists(), "{digest}");
    }
    let text = String::from_utf8(berth_e2e::serve::curl(&metrics, &[], b"").body).unwrap();
    let bytes: usize = std::fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len() as usize)
        .sum();
    assert!(
        text.contains(&format!("berth_registry_storage_bytes {bytes}\n")),
        "{text}"
    );
    assert!(
        text.contains(
            r#"berth_registry_requests_total{method="PUT",route="manifest",status="201"}"#
        )
    );
    let healthy = metrics.replace("/metrics", "/healthz");
    assert_eq!(berth_e2e::serve::curl(&healthy, &[], b"").body, b"ok\n");
    // Without a manifest the repository vanishes.
    registry.curl(&format!("/v2/r/manifests/{image}"), &["-X", "DELETE"]);
    collect(&registry, &metrics);
    assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 0);
    assert!(!registry.root().join("repositories/r").exists());
}

/// Makes a blob and its link a day old, if they are there.
fn age(registry: &Served, name: &str, digest: &str) {
    let hex = digest.trim_start_matches("sha256:");
    let day = std::time::Duration::from_secs(24 * 3600);
    let before = std::time::SystemTime::now() - day;
    for folder in ["blobs".to_owned(), format!("repositories/{name}/_blobs")] {
        let path = registry.root().join(folder).join("sha256").join(hex);
        if let Ok(file) = std::fs::File::options().write(true).open(path) {
            file.set_modified(before).unwrap();
        }
    }
}

/// A blob that is there already, and that nothing refers to, is asked for,
/// found or uploaded anew, and named by a manifest, while collections run all
/// the time. All files are made old before each push, so that only what the
/// push does saves them.
#[test]
fn collection_while_pushing() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let metrics = metrics_url(port);
    let registry = Served::start(&[
        "--gc-grace",
        "1h",
        "--gc-untagged",
        "--metrics-addr",
        &address,
    ]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                collect(&registry, &metrics);
            }
        });
        let pushers: Vec<_> = (0..2)
            .map(|pusher| {
                let registry = &registry;
                scope.spawn(move || {
                    let mut content = Content::default();
                    let image =
                        content.image("amd64", vec![oci::layer(&[("a", &noise(pusher, 1000))])]);
                    let name = format!("r{pusher}");
                    for _ in 0..30 {
                        for (digest, bytes) in &content.blobs {
                            let path = format!("/v2/{name}/blobs/{digest}");
                            if registry.curl(&path, &["-I"]).status == 404 {
                                registry.push_blob(&name, bytes);
                            }
                        }
                        let reply =
                            registry.put_manifest(&name, "v", MANIFEST, &content.blobs[&image]);
                        assert_eq!(reply.status, 201, "{reply:?}");
                        for digest in content.blobs.keys().filter(|digest| **digest != image) {
                            let reply =
                                registry.curl(&format!("/v2/{name}/blobs/{digest}"), &["-I"]);
                            assert_eq!(reply.status, 200, "{digest}");
                        }
                        let path = format!("/v2/{name}/manifests/{image}");
                        assert_eq!(registry.curl(&path, &["-X", "DELETE"]).status, 202);
                        content
                            .blobs
                            .keys()
                            .for_each(|digest| age(registry, &name, digest));
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = pushers.into_iter().map(|pusher| pusher.join()).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
        let text = String::from_utf8(berth_e2e::serve::curl(&metrics, &[], b"").body).unwrap();
        assert!(
            !text.contains("berth_registry_gc_removed_bytes_total 0\n"),
            "{text}"
        );
    });
}

#[test]
fn read_only() {
    let mut registry = Served::start(&[]);
    let (content, _) = image();
    registry.push("r", &content);
    registry.stop();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::rename(registry.root(), dir.path().join("root")).unwrap();
    let registry = Served::start_in(dir, &["--read-only"]);
    assert_eq!(registry.curl("/v2/r/manifests/v1", &[]).status, 200);
    for (path, method) in [
        ("/v2/r/blobs/uploads/", "POST"),
        ("/v2/r/manifests/v1", "PUT"),
        ("/v2/r/manifests/v1", "DELETE"),
    ] {
        registry
            .curl(path, &["-X", method])
            .is_error(405, "UNSUPPORTED");
    }
}

#[test]
fn pull_through() {
    let mut origin = Served::start(&[]);
    let (mut content, image) = image();
    let index = content.index(&[(&image, "amd64")], &[]);
    content.tag("multi", &index);
    origin.push("a/b", &content);
    let big = noise(6, 20 << 20);
    let big_digest = origin.push_blob("a/b", &big);
    let cache = Served::start(&["--proxy", &origin.url, "--proxy-ttl", "0s"]);
    let blob = format!("/v2/a/b/blobs/{big_digest}");

    // Many clients, one download.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(cache.curl(&blob, &[]).body == big));
        }
    });
    let served = origin.log().matches(&format!("GET {blob} 200")).count();
    assert_eq!(served, 1, "{}", origin.log());
    assert_eq!(
        cache.curl("/v2/a/b/manifests/multi", &[]).body,
        content.blobs[&index]
    );
    assert_eq!(
        cache.curl("/v2/a/b/manifests/v1", &[]).body,
        content.blobs[&image]
    );
    let tags = cache.curl("/v2/a/b/tags/list", &[]).json();
    assert_eq!(tags["tags"], json!(["multi", "v1"]));
    cache
        .curl("/v2/a/b/manifests/none", &[])
        .is_error(404, "MANIFEST_UNKNOWN");
    cache
        .curl(&format!("/v2/a/b/blobs/{NONE}"), &[])
        .is_error(404, "BLOB_UNKNOWN");
    cache
        .send("/v2/a/b/blobs/uploads/", &["-X", "POST"], b"")
        .is_error(405, "UNSUPPORTED");

    // A tag that moves is seen.
    origin.put_manifest("a/b", "v1", INDEX, &content.blobs[&index]);
    let moved = cache.curl("/v2/a/b/manifests/v1", &[]);
    assert_eq!(moved.header("docker-content-digest"), index);

    // What was had once is there when the other one is not.
    origin.stop();
    let reply = cache.curl("/v2/a/b/manifests/v1", &[]);
    assert_eq!(reply.header("docker-content-digest"), index, "{reply:?}");
    assert!(cache.curl(&blob, &[]).body == big);
    assert_eq!(
        cache.curl("/v2/a/b/tags/list", &[]).json()["tags"],
        json!(["multi", "v1"])
    );
    let config = content
        .blobs
        .keys()
        .find(|digest| ![&image, &index].contains(digest))
        .unwrap();
    cache
        .curl(&format!("/v2/a/b/blobs/{config}"), &[])
        .is_error(502, "UNAVAILABLE");
}

#[test]
fn a_client_that_floods_is_no_trouble() {
    let registry = Served::start(&[]);
    // Heads that never end, and bodies that never come.
    let mut sockets = Vec::new();
    for _ in 0..200 {
        let mut socket = TcpStream::connect(&registry.host).unwrap();
        socket.write_all(b"GET /v2/ HTTP/1.1\r\nX-A: ").unwrap();
        sockets.push(socket);
    }
    let mut socket = TcpStream::connect(&registry.host).unwrap();
    let head = format!("GET /v2/ HTTP/1.1\r\nX-A: {}\r\n\r\n", "a".repeat(1 << 20));
    let _ = socket.write_all(head.as_bytes());
    let mut reply = String::new();
    let _ = socket.read_to_string(&mut reply);
    assert!(!reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_eq!(registry.curl("/v2/", &[]).status, 200);
}
