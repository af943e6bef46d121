use std::io;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::blob::digest_of;
use crate::error::Error;
use crate::testing::{
    Tar, assert_empty, config, docker_archive, docker_archive_claiming, kill_self, load, refused,
};

fn layer(content: &str) -> Vec<u8> {
    Tar::default()
        .dir("bin", 0o755)
        .file("bin/sh", content.as_bytes())
        .finish()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn open(dir: &Path) -> Store {
    Store::open(&dir.join("data")).unwrap()
}

/// An OCI layout under construction.
#[derive(Default)]
struct Layout {
    blobs: Vec<Vec<u8>>,
    index: Vec<serde_json::Value>,
}

impl Layout {
    fn blob(&mut self, media_type: &str, data: &[u8]) -> serde_json::Value {
        self.blobs.push(data.to_vec());
        json!({ "mediaType": media_type, "digest": digest_of(data), "size": data.len() })
    }

    /// A manifest of one gzipped layer.
    fn manifest(&mut self, content: &str, arch: &str) -> serde_json::Value {
        let plain = layer(content);
        let text = String::from_utf8(config(&[digest_of(&plain)])).unwrap();
        let host = crate::manifest::host_architecture().to_string();
        let config = text.replace(&format!("\"{host}\""), &format!("\"{arch}\""));
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&plain));
        let config = self.blob(
            "application/vnd.oci.image.config.v1+json",
            config.as_bytes(),
        );
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer],
            "mediaType": "application/vnd.oci.image.manifest.v1+json" });
        self.blob(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().as_bytes(),
        )
    }

    fn archive(&self, extra: Tar) -> Vec<u8> {
        let index = json!({ "schemaVersion": 2, "manifests": self.index });
        let mut tar = extra
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.to_string().as_bytes());
        for blob in &self.blobs {
            let name = digest_of(blob).replace("sha256:", "blobs/sha256/");
            tar = tar.file(&name, blob);
        }
        tar.finish()
    }
}

#[test]
fn a_docker_archive_is_loaded_and_found_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let archive = docker_archive(
        &["app:1", "localhost:5000/app:2"],
        &[layer("a"), layer("b"), layer("a")],
    );
    let store = open(dir.path());
    let mut seen = Vec::new();
    let images = store
        .load(&mut archive.as_slice(), &mut |progress| seen.push(progress))
        .unwrap();
    assert_eq!(images.len(), 1);
    let image = &images[0];
    assert_eq!(
        image.names,
        ["docker.io/library/app:1", "localhost:5000/app:2"]
    );
    assert_eq!(image.created, 1_706_933_106);
    assert_eq!(image.size, 3, "three layers of one byte");
    assert!(image.blob_size > 2048);
    let texts: Vec<_> = (seen.iter())
        .filter_map(|progress| match progress {
            Progress::Loaded { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        texts,
        ["Loaded image: app:1", "Loaded image: localhost:5000/app:2"]
    );
    assert!(
        seen.iter()
            .any(|p| matches!(p, Progress::Layer { done, total, .. } if done == total))
    );

    let json = std::fs::read_to_string(dir.path().join("data/images.json")).unwrap();
    assert!(json.contains("\"docker.io/library/app:1\""), "{json}");
    drop(store);
    let store = open(dir.path());
    for reference in [
        "app:1",
        "localhost:5000/app:2",
        &image.id,
        &image.id[7..],
        &image.id[7..19],
    ] {
        let found = store.find(reference).unwrap();
        assert_eq!(
            (found.id, found.raw_config),
            (image.id.clone(), image.raw_config.clone())
        );
    }
    assert_eq!(store.find(&image.config_digest).unwrap().id, image.id);
    // Layers are shared, and loading once more changes nothing.
    assert_eq!(
        std::fs::read_dir(dir.path().join("data/layers/sha256"))
            .unwrap()
            .count(),
        2
    );
    assert_eq!(load(&store, &archive).unwrap()[0].id, image.id);
    assert_eq!(store.images().len(), 1);
}

/// The ID that containerd gives to a docker-archive, computed by hand.
#[test]
fn the_manifest_made_for_a_docker_archive_is_containerds() {
    let dir = tempfile::tempdir().unwrap();
    let layer = layer("x");
    let config = config(&[digest_of(&layer)]);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","digest":"{}","size":{}}}]}}"#,
        digest_of(&config),
        config.len(),
        digest_of(&layer),
        layer.len()
    );
    let images = load(&open(dir.path()), &docker_archive(&[], &[layer])).unwrap();
    assert_eq!(images[0].id, digest_of(manifest.as_bytes()));
    assert_eq!(images[0].names, [""; 0]);
}

#[test]
fn compressed_archives_and_layers_are_one_image() {
    let plain = layer("z");
    let diff_ids = [digest_of(&plain)];
    let packed = docker_archive_claiming(&["p"], &[gzip(&plain)], &diff_ids);
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&plain).unwrap();
    let xz = docker_archive_claiming(&["x"], &[xz.finish().unwrap()], &diff_ids);
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2
        .write_all(&docker_archive(&["b"], std::slice::from_ref(&plain)))
        .unwrap();
    let outer = [
        packed.clone(),
        gzip(&packed),
        zstd::stream::encode_all(packed.as_slice(), 1).unwrap(),
        xz,
        bzip2.finish().unwrap(),
    ];
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for archive in &outer {
        let images = load(&store, archive).unwrap();
        assert_eq!(
            images[0].config.rootfs().diff_ids().as_slice(),
            diff_ids.as_slice()
        );
    }
    assert_eq!(
        std::fs::read_dir(dir.path().join("data/layers/sha256"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn links_between_layers_of_old_archives() {
    let layer = layer("l");
    let diff = digest_of(&layer);
    let manifest =
        json!([{ "Config": "c.json", "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar"] }]);
    let archive = Tar::default()
        .file("c.json", &config(&[diff.clone(), diff]))
        .file("./a/layer.tar", &layer)
        .symlink("b/layer.tar", "../a/layer.tar")
        .file("manifest.json", manifest.to_string().as_bytes())
        .finish();
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(&open(dir.path()), &archive).unwrap().len(), 1);
}

#[test]
fn an_oci_layout_gives_the_hosts_platform() {
    let host = crate::manifest::host_architecture().to_string();
    let mut layout = Layout::default();
    let mut children = Vec::new();
    for arch in ["s390x", host.as_str()] {
        let mut child = layout.manifest(arch, arch);
        child["platform"] = json!({ "os": "linux", "architecture": arch });
        children.push(child);
    }
    let mut attestation = layout.manifest("note", "unknown");
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    children.insert(0, attestation);
    // A platform that was left out of the archive.
    children.push(json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1,
        "digest": format!("sha256:{}", "0".repeat(64)), "platform": { "os": "linux", "architecture": "arm" } }));
    let inner = json!({ "schemaVersion": 2, "manifests": children });
    let mut index = layout.blob(
        "application/vnd.oci.image.index.v1+json",
        inner.to_string().as_bytes(),
    );
    index["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/multi:9",
        "org.opencontainers.image.ref.name": "9" });
    let id = index["digest"].as_str().unwrap().to_owned();
    layout.index.push(index);

    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let images = load(&store, &layout.archive(Tar::default())).unwrap();
    assert_eq!(
        (images[0].id.as_str(), images[0].names[0].as_str()),
        (id.as_str(), "docker.io/library/multi:9")
    );
    assert_eq!(images[0].config.architecture().to_string(), host);
    // Everything is kept for a later push; one platform is unpacked.
    assert_eq!(
        std::fs::read_dir(dir.path().join("data/blobs/sha256"))
            .unwrap()
            .count(),
        layout.blobs.len()
    );
    assert_eq!(
        std::fs::read_dir(dir.path().join("data/layers/sha256"))
            .unwrap()
            .count(),
        1
    );
    drop(store);
    assert_eq!(open(dir.path()).find("multi:9").unwrap().id, id);

    // One platform picked out: nothing of the others is kept.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let one = |arch: &str| {
        let platform = Platform {
            os: "linux".into(),
            architecture: arch.into(),
            ..Platform::default()
        };
        let archive = layout.archive(Tar::default());
        store.load_platforms(&mut archive.as_slice(), &[platform], &mut |_| {})
    };
    let error = one("arm").unwrap_err();
    assert!(matches!(error, Error::NotFound(_)));
    assert_eq!(
        error.to_string(),
        "requested platform (linux/arm) not found: image multi:9 does not provide it"
    );
    assert_empty(&store, &dir.path().join("data"));
    let image = one("s390x").unwrap().remove(0);
    assert_eq!(image.config.architecture().to_string(), "s390x");
    // The index, and a manifest with its configuration and layer.
    assert_eq!(
        std::fs::read_dir(dir.path().join("data/blobs/sha256"))
            .unwrap()
            .count(),
        4
    );
    let image = one(&host).unwrap().remove(0);
    assert_eq!((image.id, store.images().len()), (id, 1));
    assert_eq!(image.config.architecture().to_string(), host);
    let here = store.manifests("multi:9").unwrap();
    assert_eq!(here.iter().filter(|m| m.available).count(), 2);
}

#[test]
fn with_both_kinds_the_names_of_manifest_json_count() {
    let host = crate::manifest::host_architecture().to_string();
    let mut layout = Layout::default();
    let mut descriptor = layout.manifest("both", &host);
    descriptor["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/other:1" });
    let id = descriptor["digest"].as_str().unwrap().to_owned();
    layout.index = vec![descriptor];
    let config = layout
        .blobs
        .iter()
        .find(|blob| blob.starts_with(b"{\"architecture"))
        .unwrap();
    let items = json!([{ "Config": digest_of(config).replace("sha256:", "blobs/sha256/"), "Layers": [],
        "RepoTags": ["mine:1", "mine:2"] }]);
    let archive =
        layout.archive(Tar::default().file("manifest.json", items.to_string().as_bytes()));
    let dir = tempfile::tempdir().unwrap();
    let images = load(&open(dir.path()), &archive).unwrap();
    assert_eq!(
        images[0].id, id,
        "the manifest as it was, not one made here"
    );
    assert_eq!(
        images[0].names,
        ["docker.io/library/mine:1", "docker.io/library/mine:2"]
    );
}

#[test]
fn bad_archives_are_refused_and_leave_nothing() {
    let good = docker_archive(&["a"], &[layer("a"), layer("b")]);
    for cut in [100, 600, 3000, good.len() - 2048, good.len() / 2] {
        refused(&good[..cut]);
        let packed = gzip(&good);
        refused(&packed[..packed.len() * cut / good.len()]);
    }
    for (archive, words) in [
        (vec![], "neither manifest.json nor index.json"),
        (vec![0; 10240], "neither manifest.json nor index.json"),
        (
            b"not a tar archive, but longer than one block of it".repeat(20),
            "checksum",
        ),
        (
            Tar::default().file("manifest.json", b"{").finish(),
            "manifest.json is not valid",
        ),
        (
            Tar::default().file("manifest.json", b"[]").finish(),
            "holds no image",
        ),
        (
            Tar::default().file("../manifest.json", b"[]").finish(),
            "contains \"..\"",
        ),
        (
            Tar::default()
                .file("manifest.json", br#"[{"Config":"c","Layers":["l"]}]"#)
                .finish(),
            "the archive lacks c, named in manifest.json",
        ),
        (
            Tar::default()
                .file("c", b"nonsense")
                .file("manifest.json", br#"[{"Config":"c","Layers":[]}]"#)
                .finish(),
            "image configuration",
        ),
        (
            docker_archive_claiming(&["a"], &[layer("a")], &[digest_of(b"other")]),
            "layer 0 (d9298a10d1b0): invalid diffID: expected",
        ),
        (
            docker_archive_claiming(&["a"], &[layer("a")], &[]),
            "layers length mismatch: expected 0, got 1",
        ),
        (
            docker_archive_claiming(&["a"], &[layer("a")], &["sha256:../../x".into()]),
            "is not a SHA-256 digest",
        ),
        (
            docker_archive(&["Bad Name"], &[layer("a")]),
            "invalid tag \"Bad Name\"",
        ),
        (docker_archive(&["a"], &[b"no tar".repeat(200)]), "layer 0"),
    ] {
        let message = refused(&archive);
        assert!(message.contains(words), "{message} / {words}");
    }
}

#[test]
fn bad_layouts_are_refused_and_leave_nothing() {
    let host = crate::manifest::host_architecture().to_string();
    let make = |change: &dyn Fn(&mut Layout)| {
        let mut layout = Layout::default();
        let manifest = layout.manifest("x", &host);
        layout.index = vec![manifest];
        change(&mut layout);
        refused(&layout.archive(Tar::default()))
    };
    let message = make(&|layout| layout.blobs.truncate(1));
    assert!(message.contains("is missing"), "{message}");
    let message = make(&|layout| drop(layout.blobs.remove(0)));
    assert!(message.contains("of layer 0 is missing"), "{message}");
    let message =
        make(&|layout| layout.index[0]["digest"] = json!("md5:00000000000000000000000000000000"));
    assert!(message.contains("SHA-256"), "{message}");
    let message = make(&|layout| layout.index.clear());
    assert!(message.contains("holds no image"), "{message}");
    let message = make(&|layout| {
        // CVE-2021-41190
        let both = json!({ "schemaVersion": 2, "manifests": [], "layers": [], "config": {} });
        layout.index = vec![layout.blob(
            "application/vnd.oci.image.index.v1+json",
            both.to_string().as_bytes(),
        )];
    });
    assert!(
        message.contains("both an index and a manifest"),
        "{message}"
    );
    let message = refused(
        &Tar::default()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file(&format!("blobs/sha256/{}", "0".repeat(64)), b"x")
            .finish(),
    );
    assert!(message.contains("does not match its digest"), "{message}");
    let message = refused(
        &Tar::default()
            .file("oci-layout", br#"{"imageLayoutVersion":"2"}"#)
            .finish(),
    );
    assert!(message.contains("OCI layout of version"), "{message}");
}

/// Dies after so many bytes: the child below reads through it.
struct Deadly<'a>(&'a [u8], usize);

impl Read for Deadly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1 == 0 {
            kill_self();
        }
        let n = self.0.len().min(buffer.len()).min(self.1);
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        self.1 -= n;
        Ok(n)
    }
}

fn big_archive() -> Vec<u8> {
    let layers: Vec<_> = (0..3)
        .map(|layer| {
            (0..50)
                .fold(Tar::default(), |tar, n| {
                    tar.file(&format!("d{layer}/f{n}"), &[n; 3000])
                })
                .finish()
        })
        .collect();
    docker_archive(&["big:1"], &layers)
}

/// Not a test: the process that the next one has killed.
#[test]
#[ignore = "run by a_load_killed_anywhere_leaves_the_old_or_the_new_state"]
fn child_that_dies_while_loading() {
    let Ok(root) = std::env::var("BERTH_STORE_TEST_ROOT") else {
        return;
    };
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(usize::MAX)
    };
    let store = Store::open(Path::new(&root)).unwrap();
    let mut reports = number("BERTH_STORE_TEST_REPORTS");
    let archive = big_archive();
    let result = store.load(
        &mut Deadly(&archive, number("BERTH_STORE_TEST_BYTES")),
        &mut |_| {
            reports -= 1;
            if reports == 0 {
                kill_self();
            }
        },
    );
    panic!("lived: {result:?}");
}

#[test]
fn a_load_killed_anywhere_leaves_the_old_or_the_new_state() {
    use std::os::unix::process::ExitStatusExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let length = big_archive().len();
    let mut cases: Vec<(&str, String, bool)> = (0..8)
        .map(|n| {
            (
                "BERTH_STORE_TEST_BYTES",
                (length * n / 8).to_string(),
                false,
            )
        })
        .collect();
    cases.extend((1..7).map(|n| ("BERTH_STORE_TEST_REPORTS", n.to_string(), false)));
    for (point, done) in [("layer", false), ("blobs", false), ("images", true)] {
        cases.push(("BERTH_STORE_TEST_CRASH", point.to_owned(), done));
    }
    for (variable, value, done) in cases {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--ignored",
                "--nocapture",
                "load::tests::child_that_dies_while_loading",
            ])
            .env("BERTH_STORE_TEST_ROOT", &root)
            .env(variable, &value)
            .output()
            .unwrap();
        assert_eq!(
            output.status.signal(),
            Some(9),
            "{variable}={value}: {output:?}"
        );
        let store = Store::open(&root).unwrap();
        if done {
            let image = store.find("big:1").unwrap();
            assert_eq!(image.size, 3 * 50 * 3000);
            store.remove(&image.id, true, &|_| None).unwrap();
        }
        assert_empty(&store, &root);
        // And it goes on: the next try is whole.
        let image = load(&store, &big_archive()).unwrap().remove(0);
        store.remove(&image.id, true, &|_| None).unwrap();
        assert_empty(&store, &root);
    }
}

#[test]
fn errors_of_the_reader_are_not_the_archives() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let error = open(dir.path()).load(&mut Broken, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
}

/// Layers large enough to be unpacked while the archive is read.
#[test]
fn layers_unpacked_ahead_count_only_if_a_manifest_names_them() {
    let layers: Vec<_> = (0..4u8)
        .map(|layer| {
            let noise: Vec<u8> = (0..200_000u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8 ^ layer)
                .collect();
            Tar::default().file("f", &noise).finish()
        })
        .collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest_of(layer)).collect();
    let packed = [
        gzip(&layers[0]),
        zstd::stream::encode_all(layers[1].as_slice(), 1).unwrap(),
        layers[2].clone(),
    ];
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let root = dir.path().join("data");
    let archive = docker_archive_claiming(&["a"], &packed, &diff_ids[..3]);
    // Of these, nothing is kept: no layer, and one that no manifest names.
    let mut stray = Tar::default()
        .file("noise.gz", &gzip(&[7; 90_000]).repeat(400))
        .file("other.tar", &layers[3])
        .unfinished();
    stray.extend_from_slice(&archive);
    for _ in 0..2 {
        let image = load(&store, &stray).unwrap().remove(0);
        assert_eq!(image.size, 3 * 200_000);
        let unpacked = std::fs::read_dir(root.join("layers/sha256")).unwrap();
        assert_eq!(unpacked.count(), 3);
    }
    store.remove("a", true, &|_| None).unwrap();
    assert_empty(&store, &root);

    // With the diff IDs of two exchanged.
    let mut wrong = diff_ids[..3].to_vec();
    wrong.swap(0, 1);
    let message = refused(&docker_archive_claiming(&["a"], &packed, &wrong));
    assert!(message.contains("invalid diffID"), "{message}");
    for cut in 1..8 {
        refused(&archive[..archive.len() * cut / 8]);
    }
}

#[test]
fn an_image_that_is_listed_twice_keeps_all_its_names() {
    let layer = layer("twice");
    let item = |tag: &str| json!({ "Config": "c.json", "RepoTags": [tag], "Layers": ["l.tar"] });
    let archive = Tar::default()
        .file("c.json", &config(&[digest_of(&layer)]))
        .file("l.tar", &layer)
        .file(
            "manifest.json",
            json!([item("a:1"), item("b:2")]).to_string().as_bytes(),
        )
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    load(&store, &archive).unwrap();
    assert_eq!(store.find("a:1").unwrap().names.len(), 2);
    assert_eq!(store.find("a:1").unwrap().id, store.find("b:2").unwrap().id);
}
