//! Space: what is taken, giving it back, and whether the store is whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_e2e::oci::{self, Content, HOST};
use berth_e2e::{Engine, Run, eventually, image};
use serde_json::Value;

/// A request to the API, as stock clients of a version send it.
fn api(engine: &Engine, method: &str, path: &str) -> Value {
    let run = Run::new(
        Command::new("curl")
            .args(["-sf", "-X", method, "--unix-socket"])
            .arg(engine.socket())
            .arg(format!("http://berth{path}")),
        b"",
    );
    serde_json::from_str(&run.ok()).unwrap()
}

/// An image of this many bytes that do not compress, loaded under a name.
fn load_noise(engine: &Engine, name: &str, seed: u64, length: usize) -> String {
    let mut content = Content::default();
    let noise = oci::noise(seed, length);
    let base = oci::compressed(&image::busybox_rootfs());
    let id = content.image(HOST, vec![base, oci::layer(&[("noise", &noise)])]);
    let layout = engine.dir().join("layout");
    content.write_layout(&layout, name, &id);
    let tar = engine.dir().join("layout.tar");
    let made = Command::new("tar")
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    std::fs::remove_dir_all(&layout).unwrap();
    engine.berth(&["load", "-i", tar.to_str().unwrap()]).ok();
    std::fs::remove_file(tar).unwrap();
    id
}

fn du(path: &Path) -> i64 {
    let run = Run::new(Command::new("du").args(["-s", "-B1", "-x"]).arg(path), b"");
    let text = run.ok();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn settle(engine: &Engine) {
    let tmp = engine.data_root().join("tmp");
    eventually("tmp is empty", || {
        (std::fs::read_dir(&tmp).unwrap().count() == 0).then_some(())
    });
    // Delayed allocation is over: blocks are what they will be.
    rustix::fs::sync();
}

fn images(engine: &Engine) -> Vec<String> {
    let list = engine
        .berth(&["image", "ls", "-a", "--format", "{{.Repository}}:{{.Tag}}"])
        .ok();
    let mut list: Vec<_> = list.lines().map(str::to_owned).collect();
    list.sort();
    list
}

#[test]
fn disk_usage_agrees_with_du() {
    for place in [None, Some(Path::new("/var/tmp"))] {
        let engine = match place {
            None => Engine::start_empty(&[]),
            Some(place) => Engine::start_in(place, &[]),
        };
        load_noise(&engine, "a:1", 1, 9_000_000);
        load_noise(&engine, "b:1", 2, 5_000_000);
        engine.berth(&["volume", "create", "vv"]).ok();
        engine
            .berth(&[
                "run",
                "--name",
                "cc",
                "-v",
                "vv:/v",
                "a:1",
                "sh",
                "-c",
                "dd if=/dev/urandom of=/x bs=1M count=3 2>/dev/null; ln /x /y
                 dd if=/dev/urandom of=/v/x bs=1M count=2 2>/dev/null; seq 20000",
            ])
            .ok();
        settle(&engine);
        let usage = api(&engine, "GET", "/v1.55/system/df?verbose=1");
        let total: i64 = [
            "ImageUsage",
            "ContainerUsage",
            "VolumeUsage",
            "BuildCacheUsage",
        ]
        .iter()
        .map(|kind| usage[kind]["TotalSize"].as_i64().unwrap_or(0))
        .sum();
        let real = du(&engine.data_root());
        let off = (total - real).abs() * 100;
        assert!(off <= real, "df {total}, du {real}: {usage:#}");

        // Unique parts and what is shared, once, are all.
        let rows = usage["ImageUsage"]["Items"].as_array().unwrap();
        let sum =
            |field: &str| -> i64 { rows.iter().map(|row| row[field].as_i64().unwrap()).sum() };
        let shared = rows[0]["SharedSize"].as_i64().unwrap();
        assert!(shared > 0 && rows.iter().all(|row| row["SharedSize"] == shared));
        assert_eq!(
            sum("Size") - shared,
            usage["ImageUsage"]["TotalSize"].as_i64().unwrap()
        );
        let by_container = &usage["ContainerUsage"];
        assert_eq!(by_container["TotalCount"], 1);
        assert_eq!(by_container["Reclaimable"], by_container["TotalSize"]);
        let volume = &usage["VolumeUsage"]["Items"][0]["UsageData"];
        assert_eq!(volume["RefCount"], 1);

        // Old and transitional forms.
        let old = api(&engine, "GET", "/v1.44/system/df");
        assert_eq!(old["LayersSize"], usage["ImageUsage"]["TotalSize"]);
        assert!(old.get("ImageUsage").is_none() && old["Images"].is_array());
        let both = api(&engine, "GET", "/v1.52/system/df");
        assert!(both["ImageUsage"].get("Items").is_none() && both["Images"].is_array());
        let one = api(&engine, "GET", "/v1.55/system/df?type=volume");
        assert!(one.get("ImageUsage").is_none() && one["VolumeUsage"]["TotalCount"] == 1);
        let table = engine.docker(&["system", "df", "-v"]).ok();
        assert!(table.contains("Images space usage"), "{table}");
    }
}

#[test]
fn pruning_takes_what_nothing_needs() {
    let engine = Engine::start();
    load_noise(&engine, "used:1", 1, 100_000);
    load_noise(&engine, "free:1", 2, 3_000_000);
    load_noise(&engine, "bare:1", 3, 200_000);
    let bare = load_noise(&engine, "bare:2", 3, 200_000);
    engine.berth(&["rmi", "bare:1"]).ok();
    engine.berth(&["create", "--name", "cc", "used:1"]).ok();
    // Takes the name away from it.
    engine.berth(&["tag", "busybox", "bare:2"]).ok();

    let report = api(
        &engine,
        "POST",
        "/v1.44/images/prune?filters=%7B%22until%22%3A%5B%22100000h%22%5D%7D",
    );
    assert!(report["ImagesDeleted"].is_null(), "{report}");
    let report: Value = api(&engine, "POST", "/v1.44/images/prune");
    assert_eq!(report["ImagesDeleted"][0]["Deleted"], bare.as_str());
    assert_eq!(report["ImagesDeleted"].as_array().unwrap().len(), 1);
    assert!(
        report["SpaceReclaimed"].as_u64().unwrap() > 200_000,
        "{report}"
    );

    let text = engine.docker(&["image", "prune", "-a", "-f"]).ok();
    assert!(
        text.contains("untagged: free:1") && text.contains("deleted: sha256:"),
        "{text}"
    );
    assert_eq!(images(&engine), ["used:1"]);
    settle(&engine);
    let blobs = std::fs::read_dir(engine.data_root().join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 4);
    engine.berth(&["start", "-a", "cc"]).ok();
}

#[test]
fn images_stay_within_their_limits() {
    let mut engine = Engine::start_empty(&["--image-gc", "reserved=1MB,max-used=24MB"]);
    load_noise(&engine, "a:1", 1, 3_000_000);
    load_noise(&engine, "b:1", 2, 3_000_000);
    load_noise(&engine, "c:1", 3, 3_000_000);
    engine.berth(&["create", "--name", "keep", "a:1"]).ok();
    // Used after b and c: they go first.
    engine.berth(&["run", "--rm", "b:1", "true"]).ok();
    load_noise(&engine, "d:1", 4, 3_000_000);
    load_noise(&engine, "e:1", 5, 3_000_000);
    eventually("the oldest are gone", || {
        let list = images(&engine);
        (!list.contains(&"c:1".to_owned())).then_some(())
    });
    let list = images(&engine);
    assert!(list.contains(&"a:1".to_owned()), "{list:?}");
    assert!(list.contains(&"e:1".to_owned()), "{list:?}");
    let events = [
        "events",
        "--since",
        "0",
        "--until",
        "0s",
        "--filter",
        "event=delete",
    ];
    eventually("the removal is told", || {
        let events = engine.berth(&events).ok();
        events.contains("image delete").then_some(())
    });
    assert!(
        engine
            .log()
            .contains("images above their limits are removed")
    );
    eventually("what is left is within the limit", || {
        let usage = api(&engine, "GET", "/v1.55/system/df?type=image");
        (usage["ImageUsage"]["TotalSize"].as_i64().unwrap() <= 24 << 20).then_some(())
    });
    engine.stop();
    engine.launch();
    engine.berth(&["start", "keep"]).ok();
}

fn check(engine: &Engine, repair: bool) -> Vec<Value> {
    let report = api(
        engine,
        "POST",
        if repair {
            "/system/check?repair=1"
        } else {
            "/system/check"
        },
    );
    assert!(report["Checked"].as_u64().is_some());
    report["Damage"].as_array().unwrap().clone()
}

fn only(path: &Path) -> Vec<PathBuf> {
    let mut list: Vec<_> = (std::fs::read_dir(path).unwrap().flatten())
        .map(|entry| entry.path())
        .collect();
    list.sort();
    list
}

#[test]
fn damage_is_found_and_repaired() {
    for place in [None, Some(Path::new("/var/tmp"))] {
        let mut engine = match place {
            None => Engine::start_empty(&[]),
            Some(place) => Engine::start_in(place, &[]),
        };
        load_noise(&engine, "good:1", 1, 300_000);
        load_noise(&engine, "bad:1", 2, 300_000);
        engine.berth(&["create", "--name", "cc", "good:1"]).ok();
        assert_eq!(check(&engine, false), Vec::<Value>::new());

        // Layers gone and cut short; also what a restart finds.
        let layers = only(&engine.data_root().join("layers/sha256"));
        assert_eq!(layers.len(), 3);
        std::fs::remove_dir_all(&layers[0]).unwrap();
        let erofs = layers[1].join("layer.erofs");
        if erofs.exists() {
            let file = std::fs::File::options().write(true).open(&erofs).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        } else {
            std::fs::remove_dir_all(layers[1].join("fs")).unwrap();
        }
        let found = check(&engine, false);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found.iter().all(|damage| damage["Repaired"] == false));
        engine.stop();
        engine.launch();
        assert_eq!(images(&engine), ["bad:1", "good:1"]);
        let found = check(&engine, true);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(
            found.iter().all(|damage| damage["Repaired"] == true),
            "{found:#?}"
        );
        assert_eq!(check(&engine, false), Vec::<Value>::new());
        for name in ["good:1", "bad:1"] {
            engine
                .berth(&["run", "--rm", name, "test", "-s", "/noise"])
                .ok();
        }

        // Files of nobody.
        let stray = engine.data_root().join("blobs/sha256/junk");
        std::fs::write(&stray, "x").unwrap();
        std::fs::create_dir(engine.data_root().join("layers/sha256/junk")).unwrap();
        let found = check(&engine, true);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(!stray.exists());

        // images.json.
        let file = engine.data_root().join("images.json");
        std::fs::write(&file, "{").unwrap();
        let found = check(&engine, true);
        assert_eq!(found[0]["What"], "file images.json", "{found:#?}");
        engine.stop();
        engine.launch();
        assert_eq!(images(&engine), ["bad:1", "good:1"]);

        // A blob, which only its image has.
        let manifest = engine
            .berth(&["image", "inspect", "-f", "{{.Id}}", "bad:1"])
            .ok();
        let path = engine.data_root().join("blobs/sha256").join(&manifest[7..]);
        let text: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let digest = text["layers"][1]["digest"].as_str().unwrap();
        let blob = engine.data_root().join("blobs/sha256").join(&digest[7..]);
        let mut broken = std::fs::File::options().append(true).open(&blob).unwrap();
        broken.write_all(b"!").unwrap();
        drop(broken);
        let saved = engine.berth(&["save", "-o", "/dev/null", "bad:1"]);
        assert_ne!(saved.code, 0, "a damaged blob was saved: {saved:?}");
        let found = check(&engine, true);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0]["What"], format!("blob {digest}"));
        assert!(found[0]["Remedy"].as_str().unwrap().ends_with(": bad:1"));
        assert_eq!(images(&engine), ["good:1"]);
        load_noise(&engine, "bad:1", 2, 300_000);
        engine
            .berth(&["run", "--rm", "bad:1", "test", "-s", "/noise"])
            .ok();
        engine.berth(&["start", "-a", "cc"]).ok();
        assert_eq!(check(&engine, false), Vec::<Value>::new());
    }
}

#[test]
fn kill_9_during_removal_leaves_a_whole_store() {
    let mut engine = Engine::start_empty(&[]);
    for round in 0..4u64 {
        let names: Vec<_> = (0..4).map(|n| format!("n{n}:{round}")).collect();
        for (n, name) in names.iter().enumerate() {
            load_noise(&engine, name, round * 10 + n as u64, 400_000);
        }
        let mut command = engine.command("berth");
        if round % 2 == 0 {
            command.arg("rmi").args(&names);
        } else {
            command = Command::new("curl");
            command
                .args(["-s", "-X", "POST", "--unix-socket"])
                .arg(engine.socket())
                .arg("http://berth/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D");
        }
        let mut child = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // As soon as the first is gone.
        let before = images(&engine).len();
        eventually("removal has begun", || {
            let list = std::fs::read_to_string(engine.data_root().join("images.json")).unwrap();
            (list.matches("\"id\"").count() < before.max(1)).then_some(())
        });
        engine.kill();
        let _ = child.wait();
        engine.launch();
        settle(&engine);
        assert_eq!(check(&engine, false), Vec::<Value>::new());
        for name in images(&engine) {
            engine
                .berth(&["run", "--rm", &name, "test", "-s", "/noise"])
                .ok();
        }
    }
}
