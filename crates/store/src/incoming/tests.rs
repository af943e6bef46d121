//! Blobs and layers on their way in: shared, resumed, broken, killed.

use std::io::Write;
use std::path::Path;
use std::thread;

use serde_json::json;

use super::*;
use crate::layer::FormKind;
use crate::testing::{Tar, assert_empty, config, killed};
use crate::unpack::is_nearly_full;
use crate::{ManifestKind, PackAs, Platform};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn plain(seed: u8) -> Vec<u8> {
    (0..40)
        .fold(Tar::default().dir("d", 0o755), |tar, n| {
            let noise: Vec<u8> = (0..9000u32)
                .map(|i| (i.wrapping_mul(2_654_435_761) >> (seed % 13)) as u8 ^ n ^ seed)
                .collect();
            tar.file(&format!("d/f{n}"), &noise)
        })
        .finish()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// An image of gzipped layers as a registry has it.
struct Remote {
    layers: Vec<(Vec<u8>, Digest)>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    id: Digest,
}

fn remote(plains: &[Vec<u8>]) -> Remote {
    let diff_ids: Vec<_> = plains.iter().map(|plain| digest_of(plain)).collect();
    let layers: Vec<_> = plains.iter().map(|plain| gzip(plain)).collect();
    let config = config(&diff_ids);
    let descriptor = |kind: &str, bytes: &[u8]| {
        json!({ "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest_of(bytes), "size": bytes.len() })
    };
    let list: Vec<_> = (layers.iter())
        .map(|layer| descriptor("layer.v1.tar+gzip", layer))
        .collect();
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config), "layers": list })
        .to_string()
        .into_bytes();
    Remote {
        layers: layers.into_iter().zip(diff_ids).collect(),
        id: digest_of(&manifest),
        config,
        manifest,
    }
}

fn arriving(blob: Blob) -> Ingest {
    match blob {
        Blob::Arriving(ingest) => ingest,
        Blob::Present(size) => panic!("present: {size}"),
    }
}

/// As a pull does it, one piece after the other; the number of bytes fetched.
fn pull(store: &Store, remote: &Remote, names: &[&str]) -> Result<(Image, usize)> {
    let incoming = store.incoming()?;
    let mut fetched = 0;
    for (layer, diff_id) in &remote.layers {
        let digest = digest_of(layer);
        if let Blob::Arriving(ingest) = incoming.blob(&digest, layer.len() as u64)? {
            assert!(ingest.is_writer());
            let at = usize::try_from(ingest.written()).unwrap();
            for piece in layer[at..].chunks(10_000) {
                ingest.write(piece)?;
                fetched += piece.len();
                crash_point(&format!("fetched-{}", fetched / 10_000));
            }
            ingest.finish()?;
        }
        incoming.unpack(&digest, diff_id, &mut |_| {})?;
    }
    incoming.put(&digest_of(&remote.config), &remote.config)?;
    incoming.put(&remote.id, &remote.manifest)?;
    let names: Vec<_> = (names.iter())
        .map(|name| Reference::parse(name).unwrap())
        .collect();
    let pinned = format!("docker.io/library/app@{}", remote.id);
    let image = incoming.commit(&remote.id, &names, &[pinned])?;
    Ok((image, fetched))
}

fn ingests(root: &Path) -> usize {
    std::fs::read_dir(root.join("ingest/sha256"))
        .unwrap()
        .count()
}

#[test]
fn a_pulled_image_is_there_after_a_restart() {
    let (dir, store) = store();
    let remote = remote(&[plain(1), plain(2)]);
    let (image, _) = pull(&store, &remote, &["app:1"]).unwrap();
    assert_eq!(image.id, remote.id);
    assert_eq!(image.names, ["docker.io/library/app:1"]);
    assert_eq!(image.size, 2 * 40 * 9000);
    assert_eq!(ingests(dir.path()), 0);
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.find(&image.digests[0]).unwrap().id, image.id);
    let (mut file, size) = store.open_blob(&digest_of(&remote.layers[0].0)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!((bytes.len() as u64, &bytes), (size, &remote.layers[0].0));
    let (_, fetched) = pull(&store, &remote, &["app:2"]).unwrap();
    assert_eq!(fetched, 0);
    let image = store.find("app:1").unwrap();
    assert_eq!((image.names.len(), image.digests.len()), (2, 1));
    store.remove(&image.id, true, &|_| None).unwrap();
    assert_empty(&store, dir.path());
}

#[test]
fn a_tag_that_now_means_another_image_leaves_the_old_one() {
    let (_dir, store) = store();
    let (old, _) = pull(&store, &remote(&[plain(1)]), &["app:1"]).unwrap();
    let (new, _) = pull(&store, &remote(&[plain(2)]), &["app:1"]).unwrap();
    assert_eq!(store.find("app:1").unwrap().id, new.id);
    let old = store.find(&old.id).unwrap();
    assert!(old.names.is_empty() && old.digests.is_empty());
}

#[test]
fn a_layer_is_unpacked_while_it_arrives() {
    let (_dir, store) = store();
    let remote = remote(&[plain(3)]);
    let (layer, diff_id) = &remote.layers[0];
    let digest = digest_of(layer);
    let incoming = store.incoming().unwrap();
    let ingest = arriving(incoming.blob(&digest, layer.len() as u64).unwrap());
    let (first, rest) = layer.split_at(layer.len() / 2);
    thread::scope(|scope| {
        let unpacking = scope.spawn(|| incoming.unpack(&digest, diff_id, &mut |_| {}));
        let mut reader = ingest.reader().unwrap();
        ingest.write(first).unwrap();
        let mut start = vec![0; first.len()];
        reader.read_exact(&mut start).unwrap();
        assert_eq!(start, first, "readable before the end");
        assert!(!incoming.has_layer(diff_id));
        ingest.write(rest).unwrap();
        assert!(!unpacking.is_finished() && !incoming.has_layer(diff_id));
        ingest.finish().unwrap();
        unpacking.join().unwrap().unwrap();
        let mut end = Vec::new();
        reader.read_to_end(&mut end).unwrap();
        assert_eq!(end, rest);
    });
    assert!(incoming.has_layer(diff_id));
}

#[test]
fn all_who_ask_share_one_download_and_one_unpacking() {
    let (dir, store) = store();
    let remote = remote(&[plain(4)]);
    let (layer, diff_id) = &remote.layers[0];
    let digest = digest_of(layer);
    let length = layer.len() as u64;
    let (one, two) = (store.incoming().unwrap(), store.incoming().unwrap());
    let writer = arriving(one.blob(&digest, length).unwrap());
    let other = arriving(two.blob(&digest, length).unwrap());
    assert!(writer.is_writer() && !other.is_writer());
    assert!(other.write(layer).is_err(), "one writes");
    assert!(two.blob(&digest, length + 1).is_err(), "one length");
    thread::scope(|scope| {
        let both = [&one, &two]
            .map(|incoming| scope.spawn(|| incoming.unpack(&digest, diff_id, &mut |_| {})));
        writer.write(layer).unwrap();
        writer.finish().unwrap();
        for thread in both {
            thread.join().unwrap().unwrap();
        }
    });
    assert!(matches!(two.blob(&digest, length), Ok(Blob::Present(n)) if n == length));
    for incoming in [&one, &two] {
        incoming
            .put(&digest_of(&remote.config), &remote.config)
            .unwrap();
        incoming.put(&remote.id, &remote.manifest).unwrap();
    }
    // The first commits and its image goes again: the other loses nothing.
    one.commit(&remote.id, &[], &[]).unwrap();
    store.remove(&remote.id, true, &|_| None).unwrap();
    drop((one, writer, other));
    two.commit(&remote.id, &[], &[]).unwrap();
    drop(two);
    store.remove(&remote.id, true, &|_| None).unwrap();
    assert_empty(&store, dir.path());
    assert_eq!(ingests(dir.path()), 0);
}

#[test]
fn a_writer_that_goes_away_is_followed_by_the_next() {
    let (dir, store) = store();
    let remote = remote(&[plain(5)]);
    let (layer, diff_id) = &remote.layers[0];
    let digest = digest_of(layer);
    let length = layer.len() as u64;
    let (one, two) = (store.incoming().unwrap(), store.incoming().unwrap());
    let writer = arriving(one.blob(&digest, length).unwrap());
    let waiting = arriving(two.blob(&digest, length).unwrap());
    writer.write(&layer[..5000]).unwrap();
    thread::scope(|scope| {
        let unpacking = scope.spawn(|| two.unpack(&digest, diff_id, &mut |_| {}));
        let mut reader = waiting.reader().unwrap();
        reader.read_exact(&mut [0; 5000]).unwrap();
        drop(writer);
        let error = reader.read(&mut [0; 1]).unwrap_err();
        assert!(error.to_string().contains("interrupted"), "{error}");
        // It may have begun only after the writer was gone: then it waits for
        // the next one, and is right to.
        let next = arriving(two.blob(&digest, length).unwrap());
        assert!(next.is_writer());
        assert_eq!(next.written(), 5000);
        next.write(&layer[5000..]).unwrap();
        next.finish().unwrap();
        match unpacking.join().unwrap() {
            Ok(()) => {}
            Err(error) => assert!(error.to_string().contains("interrupted"), "{error}"),
        }
    });
    two.unpack(&digest, diff_id, &mut |_| {}).unwrap();
    drop((one, two, waiting));
    // In no image: the layer goes, the download stays for the next try.
    assert_empty(&store, dir.path());
    assert_eq!(ingests(dir.path()), 1);
    assert_eq!(pull(&store, &remote, &[]).unwrap().1, 0);
}

#[test]
fn what_an_earlier_try_left_is_taken_up_if_it_is_right() {
    let (dir, store) = store();
    let remote = remote(&[plain(6)]);
    let layer = &remote.layers[0].0;
    let path = (dir.path().join("ingest/sha256")).join(&digest_of(layer)[7..]);
    let try_with = |left: &[u8]| {
        std::fs::write(&path, left).unwrap();
        let result = pull(&store, &remote, &["a"]);
        if let Ok((image, _)) = &result {
            store.remove(&image.id, true, &|_| None).unwrap();
        }
        result.map(|(_, fetched)| fetched)
    };
    assert_eq!(try_with(&[]).unwrap(), layer.len());
    assert_eq!(try_with(&layer[..20_000]).unwrap(), layer.len() - 20_000);
    assert_eq!(try_with(layer).unwrap(), 0);
    // Longer, or of the right length and wrong: begun anew without a word.
    assert_eq!(try_with(&[layer, &b"x"[..]].concat()).unwrap(), layer.len());
    assert_eq!(try_with(&vec![7; layer.len()]).unwrap(), layer.len());
    // Wrong in part: seen at the end, and the next try begins anew.
    let error = try_with(&vec![7; 1000]).unwrap_err().to_string();
    assert!(error.contains("does not match its digest"), "{error}");
    assert_eq!(pull(&store, &remote, &["a"]).unwrap().1, layer.len());
}

#[test]
fn a_source_that_begins_anew_is_unpacked_anew() {
    let (_dir, store) = store();
    let remote = remote(&[plain(7)]);
    let (layer, diff_id) = &remote.layers[0];
    let digest = digest_of(layer);
    let incoming = store.incoming().unwrap();
    let ingest = arriving(incoming.blob(&digest, layer.len() as u64).unwrap());
    thread::scope(|scope| {
        let unpacking = scope.spawn(|| incoming.unpack(&digest, diff_id, &mut |_| {}));
        let mut reader = ingest.reader().unwrap();
        ingest.write(&gzip(b"something else")[..20]).unwrap();
        reader.read_exact(&mut [0; 20]).unwrap();
        ingest.restart().unwrap();
        assert!(reader.read(&mut [0; 1]).is_err());
        assert_eq!(ingest.written(), 0);
        ingest.write(layer).unwrap();
        ingest.finish().unwrap();
        unpacking.join().unwrap().unwrap();
    });
}

#[test]
fn lies_about_length_digest_and_diff_id_are_found() {
    let (dir, store) = store();
    let remote = remote(&[plain(8)]);
    let (layer, diff_id) = &remote.layers[0];
    let digest = digest_of(layer);
    let length = layer.len() as u64;
    let incoming = store.incoming().unwrap();
    let text = |result: Result<()>| result.unwrap_err().to_string();

    let ingest = arriving(incoming.blob(&digest, length).unwrap());
    ingest.write(&layer[..100]).unwrap();
    assert!(text(ingest.finish()).contains("is short: 100 of"));
    assert!(text(ingest.write(layer)).contains("longer than"));
    assert_eq!(ingest.written(), 100);
    ingest.restart().unwrap();
    ingest.write(&vec![1; layer.len()]).unwrap();
    assert!(text(ingest.finish()).contains("does not match its digest"));
    assert_eq!(ingest.written(), 0);
    // Still the writer: what is right is taken.
    ingest.write(layer).unwrap();
    ingest.finish().unwrap();

    let other = digest_of(b"other");
    assert!(text(incoming.unpack(&digest, &other, &mut |_| {})).contains("invalid diffID"));
    assert!(text(incoming.unpack(&other, diff_id, &mut |_| {})).contains("is missing"));
    assert!(text(incoming.put(&other, b"x")).contains("does not match its digest"));
    for bad in ["sha256:x", "md5:1", "../../x"] {
        assert!(incoming.blob(bad, 1).is_err());
        assert!(incoming.put(bad, b"").is_err());
        assert!(incoming.unpack(&digest, bad, &mut |_| {}).is_err());
        assert!(store.open_blob(bad).is_err());
    }
    let sha512 = format!("sha512:{}", "0".repeat(128));
    assert!(
        text(incoming.put(&sha512, b"")).contains("SHA-512 digests are not supported"),
        "by name"
    );
    // Incomplete: no configuration.
    incoming.put(&remote.id, &remote.manifest).unwrap();
    assert!(incoming.commit(&remote.id, &[], &[]).is_err());
    assert!(store.images().is_empty());
    drop((incoming, ingest));
    assert_empty(&store, dir.path());
}

#[test]
fn old_ingests_are_collected() {
    let (dir, store) = store();
    let folder = dir.path().join("ingest/sha256");
    let day = std::time::Duration::from_secs(24 * 3600);
    for (name, days) in [("11", 6), ("22", 8)] {
        let file = File::create(folder.join(name.repeat(32))).unwrap();
        let then = std::time::SystemTime::now() - day * days;
        file.set_modified(then).unwrap();
    }
    let incoming = store.incoming().unwrap();
    assert!(folder.join("11".repeat(32)).exists());
    assert!(!folder.join("22".repeat(32)).exists());
    // Not one that somebody is on, however slow it is.
    let digest = digest_of(b"slow");
    let ingest = arriving(incoming.blob(&digest, 4).unwrap());
    let file = File::open(folder.join(&digest[7..])).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    store.incoming().unwrap();
    assert!(folder.join(&digest[7..]).exists());
    drop((incoming, ingest));
    store.incoming().unwrap();
    assert!(!folder.join(&digest[7..]).exists());
}

#[test]
fn an_incoming_keeps_what_it_counts_on() {
    let (dir, store) = store();
    let remote = remote(&[plain(9)]);
    let (image, _) = pull(&store, &remote, &["a"]).unwrap();
    let (layer, diff_id) = &remote.layers[0];
    let incoming = store.incoming().unwrap();
    assert!(incoming.has_layer(diff_id));
    let size = layer.len() as u64;
    assert!(matches!(
        incoming.blob(&digest_of(layer), size),
        Ok(Blob::Present(_))
    ));
    store.remove(&image.id, true, &|_| None).unwrap();
    assert!(incoming.has_layer(diff_id));
    assert!(store.open_blob(&digest_of(layer)).is_ok());
    drop(incoming);
    assert_empty(&store, dir.path());
}

#[test]
fn layers_are_packed_in_every_compression() {
    let (dir, store) = store();
    let plain = plain(10);
    for (compression, suffix) in [
        (PackAs::Plain, ".tar"),
        (PackAs::Gzip, "+gzip"),
        (PackAs::Zstd, "+zstd"),
    ] {
        let incoming = store.incoming().unwrap();
        let packed = incoming.pack(&mut plain.as_slice(), compression).unwrap();
        assert_eq!(packed.diff_id, digest_of(&plain));
        assert!(packed.media_type.ends_with(suffix));
        assert!(incoming.has_layer(&packed.diff_id));
        let mut file = Arrived(&incoming).open(&packed.digest).unwrap();
        let mut blob = Vec::new();
        file.read_to_end(&mut blob).unwrap();
        assert_eq!(
            (blob.len() as u64, digest_of(&blob)),
            (packed.size, packed.digest.clone())
        );
        let (_, mut stream) = crate::decompress::decompress(blob.as_slice()).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        assert!(back == plain);
        assert!(incoming.pack(&mut &plain[..700], compression).is_err());
        drop(incoming);
        assert_empty(&store, dir.path());
    }
}

#[test]
fn a_second_platform_joins_the_first() {
    let (dir, store) = store();
    let host = crate::manifest::host_architecture().to_string();
    let mut children = Vec::new();
    let remotes = [(plain(11), host.as_str()), (plain(12), "s390x")].map(|(plain, arch)| {
        let mut remote = remote(&[plain]);
        let text = String::from_utf8(remote.config.clone()).unwrap();
        remote.config = text
            .replace(&format!("\"{host}\""), &format!("\"{arch}\""))
            .into();
        let mut manifest: serde_json::Value = serde_json::from_slice(&remote.manifest).unwrap();
        manifest["config"]["digest"] = json!(digest_of(&remote.config));
        manifest["config"]["size"] = json!(remote.config.len());
        remote.manifest = manifest.to_string().into();
        remote.id = digest_of(&remote.manifest);
        children.push(
            json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": remote.id, "size": remote.manifest.len(),
            "platform": { "os": "linux", "architecture": arch } }),
        );
        remote
    });
    children.push(
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest_of(b"not here"), "size": 8,
        "platform": { "os": "unknown", "architecture": "unknown" },
        "annotations": { "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": remotes[0].id } }),
    );
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": children })
    .to_string();
    let id = digest_of(index.as_bytes());
    let names = [Reference::parse("multi:1").unwrap()];
    let add = |remote: &Remote| {
        let incoming = store.incoming().unwrap();
        let (layer, diff_id) = &remote.layers[0];
        let digest = digest_of(layer);
        if let Blob::Arriving(ingest) = incoming.blob(&digest, layer.len() as u64).unwrap() {
            ingest.write(layer).unwrap();
            ingest.finish().unwrap();
        }
        incoming.unpack(&digest, diff_id, &mut |_| {}).unwrap();
        for bytes in [&remote.config, &remote.manifest, &index.clone().into()] {
            incoming.put(&digest_of(bytes), bytes).unwrap();
        }
        incoming.commit(&id, &names, &[]).unwrap()
    };
    let wanted = |arch: &str| Platform {
        os: "linux".into(),
        architecture: arch.into(),
        ..Platform::default()
    };
    // The foreign one first: it is what there is.
    let image = add(&remotes[1]);
    assert_eq!(image.config.architecture().to_string(), "s390x");
    let error = store.find_platform("multi:1", &wanted(&host)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "image with reference multi:1 was found but does not provide the specified platform (linux/{host})"
        )
    );
    let image = add(&remotes[0]);
    assert_eq!(image.config.architecture().to_string(), host);
    let check = |store: &Store| {
        let manifests = store.manifests("multi:1").unwrap();
        let here: Vec<_> = manifests.iter().map(|m| m.available).collect();
        assert_eq!(here, [true, true, false]);
        assert_eq!(manifests[1].platform, wanted("s390x"));
        assert_eq!(manifests[1].unpacked_size, 40 * 9000);
        assert_eq!(
            manifests[2].kind,
            ManifestKind::Attestation(remotes[0].id.clone())
        );
        for arch in [host.as_str(), "s390x"] {
            let found = store.find_platform("multi:1", &wanted(arch)).unwrap();
            assert_eq!(found.config.architecture().to_string(), arch);
            assert_eq!((found.id.as_str(), found.size), (id.as_str(), 40 * 9000));
            store.create_snapshot(arch, &found, (0, 0)).unwrap();
            store.remove_snapshot(arch).unwrap();
        }
    };
    check(&store);
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    check(&store);
    store.remove("multi:1", false, &|_| None).unwrap();
    assert_empty(&store, dir.path());
}

#[test]
fn an_artifact_is_kept_and_not_run() {
    let (dir, store) = store();
    let incoming = store.incoming().unwrap();
    let chart = b"a chart".as_slice();
    let part = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest_of(bytes), "size": bytes.len() });
    let manifest = json!({ "schemaVersion": 2, "artifactType": "application/vnd.example.chart",
        "config": part("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [part("application/vnd.example.chart.v1", chart)] })
    .to_string();
    let id = digest_of(manifest.as_bytes());
    for bytes in [chart, b"{}", manifest.as_bytes()] {
        incoming.put(&digest_of(bytes), bytes).unwrap();
    }
    let name = Reference::parse("chart:1").unwrap();
    let image = incoming.commit(&id, &[name], &[]).unwrap();
    drop((incoming, store));
    let store = Store::open(dir.path()).unwrap();
    let manifests = store.manifests("chart:1").unwrap();
    assert_eq!(manifests[0].kind, ManifestKind::Unknown);
    assert!(manifests[0].available);
    let error = store.create_snapshot("c", &image, (0, 0)).unwrap_err();
    assert!(error.to_string().contains("is an artifact"), "{error}");
}

/// Not a test: the process that the next one has killed.
#[test]
#[ignore = "run by a_pull_killed_anywhere_fetches_only_what_is_missing"]
fn child_that_dies_while_pulling() {
    let Ok(root) = std::env::var("BERTH_STORE_TEST_ROOT") else {
        return;
    };
    let store = Store::open(Path::new(&root)).unwrap();
    let result = pull(&store, &remote(&[plain(1), plain(2)]), &["app:1"]);
    panic!("lived: {result:?}");
}

#[test]
fn a_pull_killed_anywhere_fetches_only_what_is_missing() {
    let remote = remote(&[plain(1), plain(2)]);
    let whole: usize = remote.layers.iter().map(|(layer, _)| layer.len()).sum();
    // How much has come at least when it dies, and whether the image is there.
    let mut cases: Vec<(String, usize, bool)> = (1..whole / 10_000)
        .map(|n| (format!("fetched-{n}"), n * 10_000, false))
        .collect();
    let first = remote.layers[0].0.len();
    cases.extend([
        ("ingest".to_owned(), 0, false),
        ("resumed".to_owned(), 0, false),
        ("finished".to_owned(), first, false),
        ("unpacked".to_owned(), first, false),
        ("layer".to_owned(), first, false),
        ("blobs".to_owned(), whole, false),
        ("images".to_owned(), whole, true),
        ("forgotten".to_owned(), whole, true),
    ]);
    for (point, come, done) in cases {
        let dir = tempfile::tempdir().unwrap();
        killed(
            "incoming::tests::child_that_dies_while_pulling",
            dir.path(),
            &point,
        );
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.images().len(), usize::from(done), "{point}");
        if !done {
            assert_empty(&store, dir.path());
        }
        let (image, fetched) = pull(&store, &remote, &["app:1"]).unwrap();
        assert!(
            fetched <= whole - come && fetched + come + 10_000 + first >= whole,
            "{point}: {fetched} fetched of {whole}, {come} had come"
        );
        assert_eq!(ingests(dir.path()), 0, "{point}");
        store.remove(&image.id, true, &|_| None).unwrap();
        assert_empty(&store, dir.path());
    }
}

/// Not a test: runs in a mount namespace where the root is a small tmpfs.
#[test]
#[ignore = "run by a_full_disk_is_named_and_the_next_try_goes_on"]
fn child_whose_disk_is_full() {
    let Ok(root) = std::env::var("BERTH_STORE_TEST_ROOT") else {
        return;
    };
    let root = Path::new(&root);
    let resize = |size: &str| {
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-o", &format!("remount,size={size}")])
            .arg(root);
        assert!(mount.status().unwrap().success());
    };
    let full = |result: Result<(Image, usize)>| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("No space left on device"), "{error}");
    };
    for form in [FormKind::Directory, FormKind::Erofs] {
        let store = Store::open_with(root, Some(form)).unwrap();
        // In the middle of an unpack: the blob is small, its content is not.
        resize("6m");
        let zeros = (0..10).fold(Tar::default(), |tar, n| {
            tar.file(&format!("f{n}"), &vec![n + 1; 1 << 20])
        });
        let small = remote(&[zeros.finish()]);
        full(pull(&store, &small, &["a"]));
        assert_empty(&store, root);
        assert_eq!(ingests(root), 1, "the download is kept");
        resize("64m");
        let (image, fetched) = pull(&store, &small, &["a"]).unwrap();
        assert_eq!(fetched, 0);
        store.remove(&image.id, true, &|_| None).unwrap();
        assert_empty(&store, root);

        // In the middle of a download.
        resize("512k");
        let noise: Vec<_> = (0..5).map(|n| plain(20 + n)).collect();
        let large = remote(&[noise.concat()]);
        full(pull(&store, &large, &["a"]));
        assert_empty(&store, root);
        resize("64m");
        let (_, fetched) = pull(&store, &large, &["a"]).unwrap();
        let length = large.layers[0].0.len();
        assert!(fetched < length - 100_000, "{fetched} of {length}");

        // At the end, when the names are written.
        let last = remote(&[plain(30)]);
        let incoming = store.incoming().unwrap();
        let (layer, diff_id) = &last.layers[0];
        let digest = digest_of(layer);
        let ingest = arriving(incoming.blob(&digest, layer.len() as u64).unwrap());
        ingest.write(layer).unwrap();
        ingest.finish().unwrap();
        incoming.unpack(&digest, diff_id, &mut |_| {}).unwrap();
        incoming
            .put(&digest_of(&last.config), &last.config)
            .unwrap();
        incoming.put(&last.id, &last.manifest).unwrap();
        let filler = root.join("filler");
        let mut file = File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        full(incoming.commit(&last.id, &[], &[]).map(|image| (image, 0)));
        assert_eq!(store.images().len(), 1, "as before");
        assert!(is_nearly_full(&incoming.work().fd).unwrap());
        std::fs::remove_file(filler).unwrap();
        drop(file);
        assert!(!is_nearly_full(&incoming.work().fd).unwrap());
        incoming.commit(&last.id, &[], &[]).unwrap();
        drop(incoming);
        for image in store.images() {
            store.remove(&image.id, true, &|_| None).unwrap();
        }
        assert_empty(&store, root);
    }
}

#[test]
fn a_full_disk_is_named_and_the_next_try_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=64m tmpfs \"$BERTH_STORE_TEST_ROOT\" && exec \"$0\" \"$@\"")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("incoming::tests::child_whose_disk_is_full")
        .env("BERTH_STORE_TEST_ROOT", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn who_waits_for_a_network_keeps_nobody_from_unpacking() {
    let (_dir, store) = store();
    let remotes: Vec<_> = (0..8).map(|n| remote(&[plain(40 + n)])).collect();
    let incoming = store.incoming().unwrap();
    let ingests: Vec<_> = (remotes.iter())
        .map(|remote| {
            let layer = &remote.layers[0].0;
            arriving(
                incoming
                    .blob(&digest_of(layer), layer.len() as u64)
                    .unwrap(),
            )
        })
        .collect();
    thread::scope(|scope| {
        let stalled: Vec<_> = (remotes.iter())
            .map(|remote| {
                let (layer, diff_id) = &remote.layers[0];
                let incoming = &incoming;
                scope.spawn(move || incoming.unpack(&digest_of(layer), diff_id, &mut |_| {}))
            })
            .collect();
        for (ingest, remote) in ingests.iter().zip(&remotes) {
            ingest.write(&remote.layers[0].0[..1000]).unwrap();
        }
        // More wait than may unpack at once: this one still gets its turn.
        pull(&store, &remote(&[plain(50)]), &["a"]).unwrap();
        drop(ingests);
        for thread in stalled {
            assert!(thread.join().unwrap().is_err());
        }
    });
}
