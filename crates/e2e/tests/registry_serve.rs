//! `berth registry serve`: the distribution specification at the level of HTTP,
//! following its conformance tests; faults; collection; the pull-through cache.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;

use berth_e2e::eventually;
use berth_e2e::oci::{self, Content, INDEX, MANIFEST, digest, noise};
use berth_e2e::serve::Served;
use rustix::process::Signal;
use serde_json::json;

const NONE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn image() -> (Content, String) {
    let mut content = Content::default();
    let image = content.image("amd64", vec![oci::layer(&[("a", &noise(1, 100_000))])]);
    content.tag("v1", &image);
    (content, image)
}

#[test]
fn pull() {
    let registry = Served::start(&[]);
    let (content, image) = image();
    registry.push("a/b", &content);
    let base = registry.curl("/v2/", &[]);
    assert_eq!(base.status, 200);
    assert_eq!(
        base.header("docker-distribution-api-version"),
        "registry/2.0"
    );

    for reference in ["v1", &image] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let reply = registry.curl(&path, &[]);
        assert_eq!((reply.status, &reply.body), (200, &content.blobs[&image]));
        assert_eq!(reply.header("docker-content-digest"), image);
        assert_eq!(reply.header("content-type"), MANIFEST);
        let head = registry.curl(&path, &["-I"]);
        assert_eq!(head.header("content-length"), reply.body.len().to_string());
        assert_eq!(head.header("docker-content-digest"), image);
        // Only what the client can read.
        let accept = |kind: &str| {
            registry
                .curl(&path, &["-H", &format!("Accept: {kind}")])
                .status
        };
        assert_eq!(accept(&format!("{INDEX}, {MANIFEST}")), 200);
        assert_eq!(accept(INDEX), 404);
        let tag = format!("If-None-Match: {}", reply.header("etag"));
        assert_eq!(registry.curl(&path, &["-H", &tag]).status, 304);
    }

    let (blob, bytes) = content
        .blobs
        .iter()
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    let path = format!("/v2/a/b/blobs/{blob}");
    let reply = registry.curl(&path, &[]);
    assert_eq!((reply.status, &reply.body), (200, bytes));
    assert_eq!(reply.header("docker-content-digest"), blob);
    assert_eq!(reply.header("accept-ranges"), "bytes");
    let head = registry.curl(&path, &["-I"]);
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, &*bytes.len().to_string())
    );
    let part = registry.curl(&path, &["-r", "1000-1999"]);
    assert_eq!(
        (part.status, part.body.as_slice()),
        (206, &bytes[1000..2000])
    );
    assert_eq!(
        part.header("content-range"),
        format!("bytes 1000-1999/{}", bytes.len())
    );
    let tail = registry.curl(&path, &["-r", "-10"]);
    assert_eq!(
        (tail.status, tail.body.as_slice()),
        (206, &bytes[bytes.len() - 10..])
    );
    let beyond = registry.curl(&path, &["-r", "99999999-"]);
    beyond.is_error(416, "RANGE_INVALID");
    assert_eq!(
        beyond.header("content-range"),
        format!("bytes */{}", bytes.len())
    );
    let tag = format!("If-None-Match: \"{blob}\"");
    assert_eq!(registry.curl(&path, &["-H", &tag]).status, 304);

    registry
        .curl(&format!("/v2/a/b/blobs/{NONE}"), &[])
        .is_error(404, "BLOB_UNKNOWN");
    registry
        .curl(&format!("/v2/other/blobs/{blob}"), &[])
        .is_error(404, "BLOB_UNKNOWN");
    registry
        .curl(&format!("/v2/a/b/manifests/{NONE}"), &[])
        .is_error(404, "MANIFEST_UNKNOWN");
    registry
        .curl("/v2/a/b/manifests/.INVALID", &[])
        .is_error(404, "MANIFEST_UNKNOWN");
    registry
        .curl("/v2/a/b/blobs/sha256:x", &[])
        .is_error(400, "DIGEST_INVALID");
    registry
        .curl("/v2/A/tags/list", &[])
        .is_error(400, "NAME_INVALID");
    registry
        .curl("/v2/a/../../../etc/tags/list", &[])
        .is_error(400, "NAME_INVALID");
    registry
        .curl("/v2/x/tags/list", &[])
        .is_error(404, "NAME_UNKNOWN");
}

#[test]
fn uploads() {
    let registry = Served::start(&[]);
    let bytes = noise(2, 3_000_000);
    let whole = digest(&bytes);
    let begin = || {
        let reply = registry.curl("/v2/r/blobs/uploads/", &["-X", "POST"]);
        assert_eq!(reply.status, 202, "{reply:?}");
        assert_eq!(reply.header("oci-chunk-min-length"), "1");
        reply.header("location").to_owned()
    };
    let stored = |digest: &str| {
        let reply = registry.curl(&format!("/v2/r/blobs/{digest}"), &[]);
        assert_eq!(reply.status, 200);
        reply.body
    };
    let forget = |digest: &str| {
        let path = format!("/v2/r/blobs/{digest}");
        assert_eq!(registry.curl(&path, &["-X", "DELETE"]).status, 202);
        registry.curl(&path, &["-I"]).status
    };

    // POST, then PUT with all.
    let at = begin();
    let reply = registry.send(&format!("{at}?digest={whole}"), &["-X", "PUT"], &bytes);
    assert_eq!(reply.status, 201);
    assert_eq!(reply.header("location"), format!("/v2/r/blobs/{whole}"));
    assert_eq!(reply.header("docker-content-digest"), whole);
    assert_eq!(stored(&whole), bytes);
    assert_eq!(forget(&whole), 404);
    registry
        .curl(&format!("/v2/r/blobs/{whole}"), &["-X", "DELETE"])
        .is_error(404, "BLOB_UNKNOWN");

    // Chunks, of which one comes out of order; the last comes with PUT.
    let at = begin();
    let range = |from: usize, to: usize| format!("Content-Range: {from}-{}", to - 1);
    let patch = |from: usize, to: usize| {
        registry.send(
            &at,
            &["-X", "PATCH", "-H", &range(from, to)],
            &bytes[from..to],
        )
    };
    let reply = patch(0, 1000);
    assert_eq!((reply.status, reply.header("range")), (202, "0-999"));
    let wrong = patch(2000, 3000);
    wrong.is_error(416, "RANGE_INVALID");
    assert_eq!(
        (wrong.header("range"), wrong.header("location")),
        ("0-999", &*at)
    );
    let state = registry.curl(&at, &[]);
    assert_eq!(
        (
            state.status,
            state.header("range"),
            state.header("location")
        ),
        (204, "0-999", &*at)
    );
    assert_eq!(patch(1000, 2_000_000).header("range"), "0-1999999");
    patch(0, 1000).is_error(416, "RANGE_INVALID");
    let last = range(2_000_000, bytes.len());
    let path = format!("{at}?digest={whole}");
    let reply = registry.send(&path, &["-X", "PUT", "-H", &last], &bytes[2_000_000..]);
    assert_eq!(reply.status, 201);
    assert_eq!(stored(&whole), bytes);
    registry.curl(&at, &[]).is_error(404, "BLOB_UPLOAD_UNKNOWN");
    forget(&whole);

    // A stream of unknown length, then PUT without a body.
    let at = begin();
    let reply = registry.send(
        &at,
        &["-X", "PATCH", "-H", "Transfer-Encoding: chunked"],
        &bytes,
    );
    assert_eq!((reply.status, reply.header("range")), (202, "0-2999999"));
    assert_eq!(
        registry
            .curl(&format!("{at}?digest={whole}"), &["-X", "PUT"])
            .status,
        201
    );
    assert_eq!(stored(&whole), bytes);

    // sha512, found out at the end.
    let at = begin();
    registry.send(&at, &["-X", "PATCH"], b"hello");
    let sha512 = "sha512:9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043";
    assert_eq!(
        registry
            .curl(&format!("{at}?digest={sha512}"), &["-X", "PUT"])
            .status,
        201
    );
    assert_eq!(stored(sha512), b"hello");

    // What is wrong.
    let at = begin();
    let reply = registry.send(&format!("{at}?digest={NONE}"), &["-X", "PUT"], b"x");
    reply.is_error(400, "DIGEST_INVALID");
    let at = begin();
    registry
        .send(&at, &["-X", "PUT"], b"x")
        .is_error(400, "DIGEST_INVALID");
    registry
        .send(&at, &["-X", "PATCH", "-H", "Content-Range: 0-99"], b"x")
        .is_error(400, "SIZE_INVALID");
    registry
        .send(&at, &["-X", "PATCH", "-H", "Content-Range: x"], b"x")
        .is_error(400, "BLOB_UPLOAD_INVALID");
    assert_eq!(registry.curl(&at, &["-X", "DELETE"]).status, 204);
    registry.curl(&at, &[]).is_error(404, "BLOB_UPLOAD_UNKNOWN");
    let path = "/v2/r/blobs/uploads/../../_tags/x";
    assert_ne!(registry.send(path, &["-X", "PATCH"], b"x").status, 202);

    // Mounts.
    let mount =
        |query: &str| registry.curl(&format!("/v2/s/blobs/uploads/?{query}"), &["-X", "POST"]);
    assert_eq!(mount(&format!("mount={NONE}&from=r")).status, 202);
    assert_eq!(mount(&format!("mount={whole}&from=unknown")).status, 202);
    let reply = mount(&format!("mount={whole}&from=r"));
    assert_eq!(
        (reply.status, reply.header("location")),
        (201, &*format!("/v2/s/blobs/{whole}"))
    );
    assert_eq!(
        registry.curl(&format!("/v2/s/blobs/{whole}"), &[]).body,
        bytes
    );
    let reply = registry.curl(
        &format!("/v2/t/blobs/uploads/?mount={whole}"),
        &["-X", "POST"],
    );
    assert_eq!(reply.status, 201);
}

#[test]
fn manifests_are_checked() {
    let registry = Served::start(&["--max-manifest", "64k"]);
    let (content, image) = image();
    let bytes = &content.blobs[&image];
    registry
        .put_manifest("r", "v1", MANIFEST, bytes)
        .is_error(400, "MANIFEST_BLOB_UNKNOWN");
    registry.push("r", &content);
    assert_eq!(
        registry.put_manifest("r", &image, MANIFEST, bytes).status,
        201
    );
    registry
        .put_manifest("r", NONE, MANIFEST, bytes)
        .is_error(400, "DIGEST_INVALID");
    registry
        .put_manifest("r", "-x", MANIFEST, bytes)
        .is_error(400, "TAG_INVALID");
    registry
        .put_manifest("r", "x", INDEX, bytes)
        .is_error(400, "MANIFEST_INVALID");
    registry
        .put_manifest("r", "x", MANIFEST, b"{")
        .is_error(400, "MANIFEST_INVALID");
    let long = vec![b' '; 65 << 10];
    registry
        .put_manifest("r", "x", MANIFEST, &long)
        .is_error(413, "MANIFEST_INVALID");
    // CVE-2021-41190
    let mut both: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    both["manifests"] = json!([]);
    let both = serde_json::to_vec(&both).unwrap();
    registry
        .put_manifest("r", "x", MANIFEST, &both)
        .is_error(400, "MANIFEST_INVALID");
    // A lie about a length.
    let mut lie: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    lie["config"]["size"] = json!(1);
    let lie = serde_json::to_vec(&lie).unwrap();
    registry
        .put_manifest("r", "x", MANIFEST, &lie)
        .is_error(400, "MANIFEST_INVALID");
    // An index whose image is not there.
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "digest": NONE, "size": 2}]});
    let index = serde_json::to_vec(&index).unwrap();
    registry
        .put_manifest("r", "x", INDEX, &index)
        .is_error(400, "MANIFEST_BLOB_UNKNOWN");
    // Foreign layers are elsewhere.
    let mut foreign: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    foreign["layers"] = json!([{
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": NONE, "size": 2, "urls": ["http://x"]}]);
    let foreign = serde_json::to_vec(&foreign).unwrap();
    assert_eq!(
        registry
            .put_manifest("r", "foreign", MANIFEST, &foreign)
            .status,
        201
    );
    registry
        .curl("/v2/r/manifests/x", &[])
        .is_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn lists_and_deletion() {
    let registry = Served::start(&[]);
    let (content, image) = image();
    for name in ["a", "a/b", "c", "blobs/uploads", "tags/list"] {
        registry.push(name, &content);
    }
    let bytes = &content.blobs[&image];
    for tag in ["z", "B", "latest"] {
        registry.put_manifest("a", tag, MANIFEST, bytes);
    }
    let tags = |query: &str| {
        let reply = registry.curl(&format!("/v2/a/tags/list{query}"), &[]);
        assert_eq!(reply.json()["name"], "a");
        (
            reply.json()["tags"].to_string(),
            reply.header("link").to_owned(),
        )
    };
    let all = r#"["B","latest","v1","z"]"#.to_owned();
    assert_eq!(tags(""), (all, String::new()));
    let link = "</v2/a/tags/list?last=latest&n=2>; rel=\"next\"".to_owned();
    assert_eq!(tags("?n=2"), (r#"["B","latest"]"#.to_owned(), link));
    assert_eq!(tags("?n=2&last=latest").0, r#"["v1","z"]"#);
    assert_eq!(tags("?n=0").0, "[]");
    registry
        .curl("/v2/a/tags/list?n=x", &[])
        .is_error(400, "PAGINATION_NUMBER_INVALID");
    let reply = registry.curl("/v2/_catalog?n=4", &[]);
    assert_eq!(
        reply.json()["repositories"],
        json!(["a", "a/b", "blobs/uploads", "c"])
    );
    assert_eq!(
        reply.header("link"),
        "</v2/_catalog?last=c&n=4>; rel=\"next\""
    );

    let delete =
        |reference: &str| registry.curl(&format!("/v2/a/manifests/{reference}"), &["-X", "DELETE"]);
    assert_eq!(delete("z").status, 202);
    delete("z").is_error(404, "MANIFEST_UNKNOWN");
    assert_eq!(tags("").0, r#"["B","latest","v1"]"#);
    // With the manifest go the tags that stand for it.
    assert_eq!(delete(&image).status, 202);
    registry
        .curl("/v2/a/manifests/v1", &[])
        .is_error(404, "MANIFEST_UNKNOWN");
    registry
        .curl("/v2/a/tags/list", &[])
        .is_error(404, "NAME_UNKNOWN");
    assert_eq!(registry.curl("/v2/a/b/manifests/v1", &[]).status, 200);
    registry
        .curl("/v2/a/tags/list", &["-X", "POST"])
        .is_error(405, "UNSUPPORTED");
}

#[test]
fn referrers() {
    let registry = Served::start(&[]);
    let (content, image) = image();
    registry.push("r", &content);
    let empty = registry.push_blob("r", b"{}");
    let refer = |kind: &str, subject: &str| {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
            "layers": [], "annotations": {"about": kind},
            "subject": {"mediaType": MANIFEST, "digest": subject, "size": 2},
        });
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let own = digest(&bytes);
        let reply = registry.put_manifest("r", &own, MANIFEST, &bytes);
        assert_eq!((reply.status, reply.header("oci-subject")), (201, subject));
        own
    };
    let list = |subject: &str, query: &str| {
        let reply = registry.curl(&format!("/v2/r/referrers/{subject}{query}"), &[]);
        assert_eq!((reply.status, reply.header("content-type")), (200, INDEX));
        reply
    };
    let signature = refer("x/signature", &image);
    refer("x/sbom", &image);
    // The subject may come later, or never.
    refer("x/sbom", NONE);
    assert_eq!(
        list(&image, "").json()["manifests"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        list(NONE, "").json()["manifests"].as_array().unwrap().len(),
        1
    );
    let filtered = list(&image, "?artifactType=x/signature");
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let one = &filtered.json()["manifests"];
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert_eq!(one[0]["digest"], *signature);
    assert_eq!(one[0]["artifactType"], "x/signature");
    assert_eq!(one[0]["annotations"]["about"], "x/signature");
    let path = format!("/v2/r/manifests/{signature}");
    assert_eq!(registry.curl(&path, &["-X", "DELETE"]).status, 202);
    assert_eq!(
        list(&image, "").json()["manifests"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let other = digest(b"nothing");
    assert_eq!(list(&other, "").json()["manifests"], json!([]));
}

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

/// A blob that is there already, and that nothing refers to, is asked for,
/// found, and named by a manifest, while collections run all the time. With a
/// grace time each such push succeeds.
#[test]
fn collection_while_pushing() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let metrics = metrics_url(port);
    let registry = Served::start(&[
        "--gc-grace",
        "1s",
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
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = pushers.into_iter().map(|pusher| pusher.join()).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok));
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
