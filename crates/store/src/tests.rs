//! The store as its users see it: names, removal, snapshots, the lock.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use oci_spec::image::{Arch, ConfigBuilder, ImageConfigurationBuilder, Os};

use crate::testing::{Member, Tar, assert_empty, docker_archive, load, mounted};
use crate::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn image(store: &Store, names: &[&str], content: &str) -> Image {
    let layer = Tar::default().file("f", content.as_bytes()).finish();
    load(store, &docker_archive(names, &[layer]))
        .unwrap()
        .remove(0)
}

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn free(_: &Image) -> Option<String> {
    None
}

fn configuration() -> ImageConfiguration {
    let config = ConfigBuilder::default()
        .env(vec!["A=b".to_owned()])
        .labels([
            ("x".to_owned(), "y".to_owned()),
            ("z".to_owned(), String::new()),
        ])
        .build()
        .unwrap();
    ImageConfigurationBuilder::default()
        .architecture(Arch::Amd64)
        .os(Os::Linux)
        .config(config)
        .rootfs(oci_spec::image::RootFs::default())
        .build()
        .unwrap()
}

#[test]
fn missing_and_ambiguous_references_in_dockers_words() {
    let (_dir, store) = store();
    let id = "ab".repeat(32);
    for (text, words) in [
        ("nope", "No such image: nope:latest"),
        ("nope:1", "No such image: nope:1"),
        ("abcdef", "No such image: abcdef:latest"),
        (&id, &format!("No such image: sha256:{id}")),
        (
            &format!("x@sha256:{id}"),
            &format!("No such image: x@sha256:{id}"),
        ),
    ] {
        match store.find(text) {
            Err(Error::NotFound(message)) => assert_eq!(message, words),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert!(matches!(store.find("Bad"), Err(Error::Invalid(_))));
    // Two images whose IDs begin alike: enough of them to be sure of one pair.
    let mut starts = std::collections::HashMap::new();
    for n in 0..2000 {
        let image = image(&store, &[], &n.to_string());
        let start = image.id[7..11].to_owned();
        if starts.insert(start.clone(), n).is_some() {
            assert_eq!(
                store.find(&start).unwrap_err().to_string(),
                "ambiguous reference"
            );
            return;
        }
    }
    panic!("no two of 2000 IDs begin with the same four digits");
}

#[test]
fn names_move_and_leave_dangling_images() {
    let (dir, store) = store();
    let first = image(&store, &["app:1"], "first");
    let second = image(&store, &["app:1", "app:2"], "second");
    assert_eq!(store.find("app:1").unwrap().id, second.id);
    assert!(store.find(&first.id).unwrap().names.is_empty());
    store.tag(&first.id[..20], &name("app:3")).unwrap();
    store.tag("app:3", &name("app:2")).unwrap();
    let first = store.find(&first.id).unwrap();
    assert_eq!(
        first.names,
        ["docker.io/library/app:2", "docker.io/library/app:3"]
    );
    assert!(first.tagged_at.is_some());
    let pinned = format!("app@{}", first.id);
    assert_eq!(store.find(&pinned).unwrap().id, first.id);
    assert!(store.find(&format!("other@{}", first.id)).is_err());
    assert!(store.tag("app:1", &name(&pinned)).is_err());
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.find("app:2").unwrap().id, first.id);
    assert_eq!(store.images().len(), 2);
}

#[test]
fn removal_follows_dockers_rules() {
    let (dir, store) = store();
    let app = image(&store, &["a:1", "b:1"], "x");
    let short = &app.id[7..19];
    let message = |result: Result<Vec<Removed>, Error>| match result {
        Err(Error::Conflict(message)) => message,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        message(store.remove(short, false, &free)),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
        )
    );
    assert_eq!(
        store.remove("a:1", false, &free).unwrap(),
        [Removed::Untagged("a:1".into())]
    );
    let stopped =
        |_: &Image| Some("image is being used by stopped container 0123456789ab".to_owned());
    let running =
        |_: &Image| Some("image is being used by running container 0123456789ab".to_owned());
    for user in [&stopped as &dyn Fn(&Image) -> Option<String>, &running] {
        assert_eq!(
            message(store.remove("b:1", false, user)),
            format!(
                "conflict: unable to delete b:1 (must be forced) - \
                 container 0123456789ab is using its referenced image {short}"
            )
        );
    }
    assert_eq!(
        message(store.remove(short, false, &stopped)),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container 0123456789ab"
        )
    );
    assert_eq!(
        message(store.remove(short, true, &running)),
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by running container 0123456789ab"
        )
    );
    // By name and forced: the container keeps it.
    assert_eq!(
        store.remove("b:1", true, &running).unwrap(),
        [Removed::Untagged("b:1".into())]
    );
    assert!(store.find(&app.id).unwrap().names.is_empty());
    assert_eq!(
        store.remove(&app.id, true, &stopped).unwrap(),
        [Removed::Deleted(app.id.clone())]
    );
    assert_empty(&store, dir.path());

    let again = image(&store, &["a:1"], "x");
    assert_eq!(
        store.remove("a:1", false, &free).unwrap(),
        [Removed::Untagged("a:1".into()), Removed::Deleted(again.id)]
    );
    assert_empty(&store, dir.path());
    assert!(
        matches!(store.remove("a:1", true, &free), Err(Error::NotFound(m)) if m == "No such image: a:1")
    );
}

#[test]
fn digests_are_names_too() {
    let (dir, store) = store();
    let app = image(&store, &["a:1", "a:2"], "x");
    let at = |repository: &str| format!("{repository}@{}", app.id);
    for repository in ["a", "p"] {
        let digest = format!("docker.io/library/{}", at(repository));
        let incoming = store.incoming().unwrap();
        incoming.commit(&app.id, &[], &[digest]).unwrap();
    }
    let remove = |name: &str| store.remove(name, false, &free).unwrap();
    let untagged = |name: &str| Removed::Untagged(name.into());
    assert_eq!(remove("a:1"), [untagged("a:1")]);
    // The last tag takes the digest of its repository along, and no other.
    assert_eq!(remove("a:2"), [untagged("a:2"), untagged(&at("a"))]);
    store.tag(&app.id, &name("p:1")).unwrap();
    store.tag(&app.id, &name("b:1")).unwrap();
    // By digest, all of the repository goes.
    assert_eq!(remove(&at("p")), [untagged("p:1"), untagged(&at("p"))]);
    let stopped =
        |_: &Image| Some("image is being used by stopped container 0123456789ab".to_owned());
    let error = store.remove(&at("b"), false, &stopped).unwrap_err();
    let says = format!("unable to delete {} (must be forced) - ", at("b"));
    assert!(error.to_string().contains(&says), "{error}");
    assert_eq!(
        remove(&at("b")),
        [untagged("b:1"), Removed::Deleted(app.id.clone())]
    );
    assert_empty(&store, dir.path());
}

#[test]
fn shared_and_pinned_layers_stay() {
    let (dir, store) = store();
    let base = Tar::default().file("base", b"1").finish();
    let one = load(
        &store,
        &docker_archive(
            &["one"],
            &[base.clone(), Tar::default().file("a", b"2").finish()],
        ),
    )
    .unwrap();
    load(
        &store,
        &docker_archive(&["two"], &[base, Tar::default().file("b", b"3").finish()]),
    )
    .unwrap();
    let layers = || {
        std::fs::read_dir(dir.path().join("layers/sha256"))
            .unwrap()
            .count()
    };
    assert_eq!(layers(), 3);
    let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = told.clone();
    store.on_layers_removed(move || {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    let snapshot = store.create_snapshot("c1", &one[0], (0, 0)).unwrap();
    assert_eq!(store.layers(&one[0]).unwrap(), snapshot.layers);
    store.remove("one", true, &free).unwrap();
    assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 0);
    store.remove("two", true, &free).unwrap();
    assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(layers(), 2, "what the snapshot stands on");
    for layer in &snapshot.layers {
        let (LayerLocation::Directory(path) | LayerLocation::Erofs(path)) = layer;
        assert!(path.exists());
    }
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.snapshot("c1").unwrap(), snapshot);
    assert_eq!(layers(), 2);
    store.remove_snapshot("c1").unwrap();
    assert_empty(&store, dir.path());
}

#[test]
fn snapshots_are_made_measured_and_removed() {
    let (dir, store) = store();
    let root = Member {
        kind: b'5',
        name: b"./",
        mode: 0o1750,
        owner: (7, 8),
        ..Member::default()
    };
    let archive = docker_archive(&["a"], &[Tar::default().member(&root).finish()]);
    let image = load(&store, &archive).unwrap().remove(0);
    let snapshot = store.create_snapshot("key-1", &image, (0, 0)).unwrap();
    let meta = snapshot.upper.metadata().unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o1750, 7, 8)
    );
    let mapped = store
        .create_snapshot("key-2", &image, (100_000, 200_000))
        .unwrap();
    let meta = mapped.upper.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid()), (100_007, 200_008));
    assert_eq!(mapped.work.metadata().unwrap().uid(), 100_000);

    assert!(matches!(
        store.create_snapshot("key-1", &image, (0, 0)),
        Err(Error::Conflict(_))
    ));
    for key in ["", ".", "..", "a/b", ".hidden", "a\0", &"k".repeat(129)] {
        assert!(
            matches!(
                store.create_snapshot(key, &image, (0, 0)),
                Err(Error::Invalid(_))
            ),
            "{key:?}"
        );
        assert!(store.remove_snapshot(key).is_err());
    }
    std::fs::create_dir(snapshot.upper.join("d")).unwrap();
    std::fs::write(snapshot.upper.join("d/file"), vec![1; 12_345]).unwrap();
    std::os::unix::fs::symlink("/", snapshot.upper.join("d/link")).unwrap();
    assert_eq!(store.snapshot_size("key-1").unwrap(), 12_345);
    assert_eq!(store.snapshot_keys().unwrap(), ["key-1", "key-2"]);
    for key in ["key-1", "key-2"] {
        store.remove_snapshot(key).unwrap();
        assert!(matches!(store.snapshot(key), Err(Error::NotFound(_))));
        assert!(matches!(
            store.remove_snapshot(key),
            Err(Error::NotFound(_))
        ));
        assert!(matches!(store.snapshot_size(key), Err(Error::NotFound(_))));
    }
    store.remove("a", false, &free).unwrap();
    assert_empty(&store, dir.path());
    assert!(matches!(
        store.create_snapshot("late", &image, (0, 0)),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn a_second_engine_is_turned_away() {
    let (dir, store) = store();
    match Store::open(dir.path()) {
        Err(Error::Conflict(message)) => {
            assert!(message.contains("is in use by another engine"), "{message}");
            assert!(
                message.contains(&std::process::id().to_string()),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn damaged_metadata_is_said_and_half_made_things_go() {
    let (dir, store) = store();
    let kept = image(&store, &["kept"], "1");
    let hurt = image(&store, &["hurt"], "2");
    drop(store);
    std::fs::create_dir_all(dir.path().join("tmp/load-0/deep")).unwrap();
    std::fs::create_dir_all(dir.path().join("layers/sha256/half")).unwrap();
    std::fs::write(dir.path().join("blobs/sha256/stray"), "x").unwrap();
    std::fs::remove_file(
        dir.path()
            .join("blobs/sha256")
            .join(&hurt.config_digest[7..]),
    )
    .unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.inner.trash.settle();
    assert_eq!(store.images().len(), 1);
    assert_eq!(store.find("kept").unwrap().id, kept.id);
    assert_eq!(
        std::fs::read_dir(dir.path().join("tmp")).unwrap().count(),
        0
    );
    assert_eq!(
        std::fs::read_dir(dir.path().join("layers/sha256"))
            .unwrap()
            .count(),
        1
    );
    assert_eq!(
        std::fs::read_dir(dir.path().join("blobs/sha256"))
            .unwrap()
            .count(),
        3
    );
    drop(store);
    std::fs::write(dir.path().join("images.json"), "{\"version\":1,").unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("images.json is damaged"), "{error}");
    assert_eq!(
        std::fs::read_dir(dir.path().join("blobs/sha256"))
            .unwrap()
            .count(),
        3,
        "nothing collected"
    );
}

#[test]
fn import_makes_an_image_of_one_layer() {
    let (dir, store) = store();
    let plain = Tar::default()
        .dir("bin", 0o755)
        .file("bin/sh", b"#!")
        .finish();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&plain).unwrap();
    for (index, archive) in [
        plain.clone(),
        gzip.finish().unwrap(),
        bzip2.finish().unwrap(),
    ]
    .iter()
    .enumerate()
    {
        let name = name(&format!("mine:{index}"));
        let image = store
            .import(
                &mut archive.as_slice(),
                configuration(),
                serde_json::Map::new(),
                Some(&name),
            )
            .unwrap();
        assert_eq!(image.names, [name.full()]);
        assert_eq!(
            image.config.rootfs().diff_ids().as_slice(),
            [digest_of(&plain)]
        );
        let history = image.config.history().as_ref().unwrap();
        assert_eq!(history[0].comment().as_deref(), Some("Imported from -"));
        assert_eq!(history[0].created(), image.config.created());
        assert_eq!(
            image
                .config
                .config()
                .as_ref()
                .unwrap()
                .env()
                .as_ref()
                .unwrap(),
            &["A=b"]
        );
        assert!(image.created > 1_700_000_000);
    }
    let nameless = store
        .import(
            &mut plain.as_slice(),
            configuration(),
            serde_json::Map::new(),
            None,
        )
        .unwrap();
    assert!(nameless.names.is_empty());
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().images().len(), 4);
}

#[test]
fn a_bad_import_leaves_nothing() {
    let (dir, store) = store();
    let whole = Tar::default()
        .file("a", &[1; 5000])
        .file("b", &[2; 5000])
        .finish();
    let marker = whole.len() - 1024;
    for archive in [&whole[..100], &whole[..3000], &whole[..marker], b""] {
        let error = store
            .import(
                &mut &*archive,
                configuration(),
                serde_json::Map::new(),
                Some(&name("x")),
            )
            .unwrap_err();
        assert!(error.to_string().contains("truncated"), "{error}");
        assert_empty(&store, dir.path());
    }
    let evil = Tar::default()
        .file("ok", b"1")
        .file("../evil", b"2")
        .finish();
    assert!(
        store
            .import(
                &mut evil.as_slice(),
                configuration(),
                serde_json::Map::new(),
                None
            )
            .is_err()
    );
    assert_empty(&store, dir.path());
}

#[test]
fn hello_world_ships_with_berth() {
    let (dir, store) = store();
    let first = store.load_hello_world().unwrap();
    assert_eq!(first.names, ["docker.io/library/hello-world:latest"]);
    assert_eq!(
        first
            .config
            .config()
            .as_ref()
            .unwrap()
            .cmd()
            .as_ref()
            .unwrap(),
        &["/hello"]
    );
    assert_eq!(
        store.load_hello_world().unwrap().id,
        first.id,
        "the same each time"
    );
    assert_eq!(store.images().len(), 1);
    let snapshot = store.create_snapshot("h", &first, (0, 0)).unwrap();
    let layer = mounted(&snapshot.layers[0]);
    let output = std::process::Command::new(layer.join("hello"))
        .output()
        .unwrap();
    assert!(output.stdout.starts_with(b"\nHello from berth!"));
    drop((store, dir));
}

#[test]
fn loads_removals_and_snapshots_at_once_agree() {
    let (dir, store) = store();
    let layers: Vec<_> = (0..4)
        .map(|n| Tar::default().file("f", &[n; 100]).finish())
        .collect();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (store, layers) = (store.clone(), &layers);
            scope.spawn(move || {
                for round in 0..15 {
                    let own = format!("t{thread}");
                    let archive = docker_archive(
                        &[&own],
                        &[layers[round % 4].clone(), layers[thread].clone()],
                    );
                    let image = load(&store, &archive).unwrap().remove(0);
                    // Another thread may have loaded and removed the same one.
                    if let Ok(snapshot) = store.create_snapshot(&own, &image, (0, 0)) {
                        let found = snapshot.read_file("f", 100);
                        assert!(found.is_some(), "a layer in use was collected");
                        store.remove_snapshot(&own).unwrap();
                    }
                    match store.remove(&own, true, &free) {
                        Ok(_) | Err(Error::NotFound(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert_empty(&store, dir.path());
}
