//! `berth registry serve`: the distribution specification at the level of HTTP,
//! following its conformance tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use berth_e2e::oci::{INDEX, MANIFEST, digest, noise};
use berth_e2e::serve::{NONE, Served, image};
use serde_json::json;

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
