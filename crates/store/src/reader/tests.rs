//! Plain blobs that nobody stored: images of built layers are whole, saved,
//! loaded, checked, measured and kept with nothing but the layers.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::blob::digest_of;
use crate::layer::FormKind;
use crate::testing::{assert_empty, config, load};
use crate::{Digest, Image, PackAs, Packed, Pin, TarEntry, TarWriter};

const FORMS: [FormKind; 2] = [FormKind::Directory, FormKind::Erofs];

fn stream(text: &str) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    let entry = TarEntry {
        name: b"f".to_vec(),
        mode: 0o644,
        size: text.len() as u64,
        ..TarEntry::default()
    };
    tar.append(&entry, &mut text.as_bytes()).unwrap();
    tar.finish().unwrap()
}

/// Makes an image of layers as a build does.
fn build(store: &Store, layers: &[Vec<u8>], compression: PackAs) -> Image {
    let incoming = store.incoming().unwrap();
    let packed: Vec<Packed> = (layers.iter())
        .map(|plain| incoming.layer(&mut plain.as_slice()).unwrap())
        .map(|layer| incoming.blob_of(&layer, compression).unwrap())
        .collect();
    let diff_ids: Vec<Digest> = packed.iter().map(|p| p.diff_id.clone()).collect();
    let config = config(&diff_ids);
    let config_digest = incoming.add_document(&config).unwrap();
    let list: Vec<_> = (packed.iter())
        .map(|p| json!({ "mediaType": p.media_type, "digest": p.digest, "size": p.size }))
        .collect();
    let manifest = json!({ "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest, "size": config.len() },
        "layers": list });
    let id = incoming
        .add_document(manifest.to_string().as_bytes())
        .unwrap();
    let name = crate::Reference::parse("built:1").unwrap();
    incoming.commit(&id, &[name], &[]).unwrap()
}

fn blobs(root: &Path) -> usize {
    fs::read_dir(root.join("blobs/sha256")).unwrap().count()
}

fn whole(store: &Store, digest: &str) -> io::Result<Vec<u8>> {
    let (mut reader, size) = store.open_blob(digest).unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    assert_eq!(bytes.len() as u64, size);
    Ok(bytes)
}

#[test]
fn an_image_is_whole_with_its_layers_alone() {
    for form in FORMS {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let open = || Store::open_with(dir.path(), Some(form)).unwrap();
        let store = open();
        let layers = [stream(&"one".repeat(100_000)), stream("two")];
        let image = build(&store, &layers, PackAs::Plain);
        assert_eq!(blobs(dir.path()), 2, "configuration and manifest");
        let summary = store.manifests(&image.id).unwrap().remove(0);
        assert!(summary.available);
        assert!(image.blob_size < 2000 && image.blob_size > 0);
        drop(store);

        let store = open();
        assert!(store.manifests(&image.id).unwrap()[0].available);
        let [one, two] = layers.each_ref().map(|layer| digest_of(layer));
        assert!(whole(&store, &one).unwrap() == layers[0]);
        assert!(whole(&store, &two).unwrap() == layers[1]);
        let (mut reader, _) = store.open_blob(&one).unwrap();
        reader.skip(299_000).unwrap();
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(rest == layers[0][299_000..]);
        // One that is not read to its end.
        let (mut reader, _) = store.open_blob(&one).unwrap();
        reader.read_exact(&mut [0; 10]).unwrap();
        drop(reader);
        let incoming = store.incoming().unwrap();
        let size = layers[0].len() as u64;
        assert!(matches!(
            incoming.blob(&one, size),
            Ok(crate::Blob::Present(_))
        ));
        assert!(incoming.blob(&one, size + 1).is_err());
        drop(incoming);

        let report = store.check(false).unwrap();
        assert_eq!(report.damage, []);
        let usage = store.usage().unwrap();
        assert_eq!((usage.layers.len(), usage.blobs.len()), (2, 2));
        store.prune(&|_| true).unwrap();
        assert_empty(&store, dir.path());
    }
}

#[test]
fn it_is_saved_and_loaded_anywhere() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layers = [stream("one"), stream("two")];
    let image = build(&store, &layers, PackAs::Plain);
    let mut archive = Vec::new();
    let named = [(image.clone(), image.names.clone())];
    store.save(&named, &[], &mut archive).unwrap();

    // Where nothing is, blobs come with it; it is the same image.
    let other = tempfile::tempdir_in("/var/tmp").unwrap();
    let elsewhere = Store::open(other.path()).unwrap();
    let loaded = load(&elsewhere, &archive).unwrap().remove(0);
    assert_eq!(loaded.id, image.id);
    assert_eq!(blobs(other.path()), 4);
    let mut again = Vec::new();
    let named = [(loaded.clone(), loaded.names.clone())];
    elsewhere.save(&named, &[], &mut again).unwrap();
    assert!(archive == again);

    // Where the layers are built, none is stored twice.
    let loaded = load(&store, &archive).unwrap().remove(0);
    assert_eq!(loaded.id, image.id);
    assert_eq!(blobs(dir.path()), 2);

    // A build of what was loaded finds its layers, and can give them.
    elsewhere.remove(&loaded.id, true, &|_| None).unwrap();
    let image = build(&elsewhere, &layers, PackAs::Gzip);
    let mut archive = Vec::new();
    elsewhere
        .save(&[(image, vec![])], &[], &mut archive)
        .unwrap();
    let third = tempfile::tempdir_in("/var/tmp").unwrap();
    let third_store = Store::open(third.path()).unwrap();
    load(&third_store, &archive).unwrap();
    let layer = digest_of(&layers[0]);
    let incoming = third_store.incoming().unwrap();
    assert!(incoming.blob_of(&layer, PackAs::Plain).is_err());
    assert_eq!(incoming.layer(&mut layers[0].as_slice()).unwrap(), layer);
    drop(incoming);
    drop(third_store);
    let third_store = Store::open(third.path()).unwrap();
    let incoming = third_store.incoming().unwrap();
    let packed = incoming.blob_of(&layer, PackAs::Plain).unwrap();
    assert_eq!(packed.size, layers[0].len() as u64);
    assert!(whole(&third_store, &layer).unwrap() == layers[0]);
    assert_eq!(third_store.check(false).unwrap().damage, []);
}

/// The layers of two platforms of an index, or what names a layer without
/// being an image, keep what they need as well.
#[test]
fn an_artifact_keeps_the_layer_that_it_names() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let plain = stream("data");
    let incoming = store.incoming().unwrap();
    let layer = incoming.layer(&mut plain.as_slice()).unwrap();
    let empty = incoming.add_document(b"{}").unwrap();
    let manifest = json!({ "schemaVersion": 2, "artifactType": "application/x",
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2 },
        "layers": [{ "mediaType": "application/x", "digest": layer, "size": plain.len() }] });
    let id = incoming
        .add_document(manifest.to_string().as_bytes())
        .unwrap();
    incoming.commit(&id, &[], &[]).unwrap();
    drop(incoming);
    assert!(whole(&store, &layer).unwrap() == plain);
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert!(whole(&store, &layer).unwrap() == plain);
    store.prune(&|_| true).unwrap();
    assert_empty(&store, dir.path());
}

#[test]
fn damage_is_found_and_goes_with_what_needs_it() {
    for form in FORMS {
        for pinned in [false, true] {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let store = Store::open_with(dir.path(), Some(form)).unwrap();
            let layers = [stream(&"one".repeat(5000)), stream("two")];
            let image = build(&store, &layers, PackAs::Plain);
            let [one, two] = layers.each_ref().map(|layer| digest_of(layer));
            if pinned {
                let pin = |key: &str, layers: &[&Digest]| Pin {
                    key: key.to_owned(),
                    layers: layers.iter().map(|l| (*l).clone()).collect(),
                    data: String::new(),
                };
                store.pin(pin("both", &[&one, &two])).unwrap();
                store.pin(pin("two", &[&two])).unwrap();
                store.remove(&image.id, true, &|_| None).unwrap();
            }
            damage(&store, &one, form);
            let error = whole(&store, &one).unwrap_err();
            assert!(error.to_string().contains("is damaged"), "{error}");
            if !pinned {
                let named = [(image.clone(), vec![])];
                let error = store.save(&named, &[], &mut Vec::new()).unwrap_err();
                assert!(error.to_string().contains("damaged"), "{error}");
            }
            for repair in [false, true] {
                let report = store.check(repair).unwrap();
                assert!(!report.damage.is_empty());
                assert!(report.damage[0].what.contains(&one), "{report:?}");
                assert_eq!(report.damage[0].repaired, repair, "{report:?}");
            }
            assert_eq!(store.check(false).unwrap().damage, []);
            let left: Vec<_> = store.pins().into_iter().map(|pin| pin.key).collect();
            assert_eq!(left, if pinned { vec!["two"] } else { vec![] });
            assert!(store.images().is_empty());
            store.inner.trash.settle();
            store.unpin(&["two".to_owned()]).unwrap();
            assert_empty(&store, dir.path());
        }
    }
}

fn damage(store: &Store, layer: &str, form: FormKind) {
    let path = store.inner.layer_path(layer, form);
    match form {
        FormKind::Directory => fs::write(path.join("f"), "one".repeat(4999) + "two").unwrap(),
        FormKind::Erofs => {
            let mut bytes = fs::read(&path).unwrap();
            let at = bytes.windows(6).position(|w| w == b"oneone").unwrap();
            bytes[at] = 8;
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn a_power_cut_takes_what_was_not_written() {
    for form in FORMS {
        for damaged in [false, true] {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let store = Store::open_with(dir.path(), Some(form)).unwrap();
            let layers = [stream(&"one".repeat(5000)), stream("two")];
            let one = digest_of(&layers[0]);
            let image = build(&store, &layers, PackAs::Plain);
            let pin = Pin {
                key: "k".to_owned(),
                layers: vec![one.clone()],
                data: String::new(),
            };
            store.pin(pin).unwrap();
            if damaged {
                damage(&store, &one, form);
            }
            drop(store);
            let mark = json!({ "boot": "another", "publication": 0 });
            fs::write(dir.path().join("synced.json"), mark.to_string()).unwrap();

            let store = Store::open_with(dir.path(), Some(form)).unwrap();
            assert_eq!(store.pins(), []);
            let ids: Vec<_> = store.images().into_iter().map(|image| image.id).collect();
            assert_eq!(ids, if damaged { vec![] } else { vec![image.id] });
            assert_eq!(store.check(false).unwrap().damage, []);
            store.prune(&|_| true).unwrap();
            assert_empty(&store, dir.path());
        }
    }
}
