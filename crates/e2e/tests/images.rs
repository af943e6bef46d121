//! Images without registries: import, load, tag, list, remove.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use berth_e2e::{Engine, Run, clients, image};

#[test]
fn import_list_tag_remove() {
    let engine = Engine::start();
    for client in clients() {
        engine
            .client(client, &["tag", "busybox", "other/name:v1"])
            .ok();
        let list = engine
            .client(
                client,
                &["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"],
            )
            .ok();
        assert!(
            list.contains("busybox:latest") && list.contains("other/name:v1"),
            "{list}"
        );
        let id = engine
            .client(
                client,
                &["image", "inspect", "-f", "{{.Id}}", "other/name:v1"],
            )
            .ok();
        assert_eq!(
            id,
            engine
                .client(client, &["image", "inspect", "-f", "{{.Id}}", "busybox"])
                .ok()
        );
        assert_eq!(
            engine
                .client(
                    client,
                    &["image", "inspect", "-f", "{{.Config.Cmd}}", "busybox"]
                )
                .ok(),
            "[sh]"
        );
        let short = &id.trim_start_matches("sha256:")[..12];
        engine
            .client(client, &["rmi", short])
            .fails(1, "must be forced");
        assert_eq!(
            engine.client(client, &["rmi", "other/name:v1"]).ok(),
            "Untagged: other/name:v1"
        );
    }
    engine.berth(&["create", "--name", "cc", "busybox"]).ok();
    engine
        .berth(&["rmi", "busybox"])
        .fails(1, "is using its referenced image");
    engine.berth(&["rm", "cc"]).ok();
    let removed = engine.berth(&["rmi", "busybox"]).ok();
    assert!(
        removed.contains("Untagged: busybox:latest") && removed.contains("Deleted: sha256:"),
        "{removed}"
    );
    let layers = engine.data_root().join("layers/sha256");
    let left = std::fs::read_dir(layers)
        .map(Iterator::count)
        .unwrap_or_default();
    assert_eq!(left, 0, "the space comes back");
}

#[test]
fn a_container_keeps_an_image_whose_name_is_taken_by_force() {
    let engine = Engine::start();
    for client in clients() {
        engine.berth(&["tag", "busybox", "kept:1"]).ok();
        engine.berth(&["rmi", "busybox"]).ok();
        engine.berth(&["create", "--name", "cc", "kept:1"]).ok();
        engine.client(client, &["rmi", "kept:1"]).fails(
            1,
            "conflict: unable to delete kept:1 (must be forced) - container ",
        );
        let removed = engine.client(client, &["rmi", "-f", "kept:1"]).ok();
        assert_eq!(removed, "Untagged: kept:1");
        let dangling = ["images", "-q", "--no-trunc", "-f", "dangling=true"];
        let id = engine.client(client, &dangling).ok();
        assert!(id.starts_with("sha256:"), "{id}");
        engine.client(client, &["image", "prune", "-f"]).ok();
        engine.client(client, &["commit", "cc", "made:1"]).ok();
        engine
            .client(client, &["rmi", &id])
            .fails(1, "image is being used by stopped container");
        engine.berth(&["tag", &id, "busybox"]).ok();
        engine.berth(&["rm", "cc"]).ok();
    }
}

/// A docker-archive as old engines save it, of one layer.
fn docker_archive(engine: &Engine) -> Vec<u8> {
    use std::fmt::Write as _;
    let dir = engine.dir().join("archive");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("layer.tar"), image::busybox_rootfs()).unwrap();
    let digest = Run::new(Command::new("sha256sum").arg(dir.join("layer.tar")), b"").ok();
    let mut config = String::new();
    write!(
        config,
        r#"{{"architecture":"{}","os":"linux","config":{{"Cmd":["sh"],"Env":["X=loaded"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}},"history":[]}}"#,
        if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        digest.split(' ').next().unwrap()
    )
    .unwrap();
    std::fs::write(dir.join("config.json"), config).unwrap();
    std::fs::write(
        dir.join("manifest.json"),
        r#"[{"Config":"config.json","RepoTags":["loaded:1"],"Layers":["layer.tar"]}]"#,
    )
    .unwrap();
    let output = Command::new("tar")
        .arg("-cC")
        .arg(dir)
        .args(["manifest.json", "config.json", "layer.tar"])
        .output()
        .unwrap();
    output.stdout
}

#[test]
fn load_in_every_compression() {
    let engine = Engine::start_empty(&[]);
    let archive = docker_archive(&engine);
    for client in clients() {
        for (program, flag) in [
            ("cat", "-"),
            ("gzip", "-c"),
            ("xz", "-c"),
            ("bzip2", "-c"),
            ("zstd", "-c"),
        ] {
            if !berth_e2e::possible(program, berth_e2e::installed(program)) {
                continue;
            }
            let mut command = Command::new(program);
            command
                .arg(flag)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let bytes = archive.clone();
            let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes));
            let packed = child.wait_with_output().unwrap().stdout;
            feeder.join().unwrap().unwrap();
            let text = engine.client_with(client, &["load"], &packed).ok();
            assert!(text.contains("Loaded image: loaded:1"), "{program}: {text}");
            assert_eq!(
                engine
                    .client(client, &["run", "--rm", "loaded:1", "sh", "-c", "echo $X"])
                    .ok(),
                "loaded"
            );
            engine.client(client, &["rmi", "loaded:1"]).ok();
        }
    }
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let engine = Engine::start_empty(&[]);
    let mut archives: Vec<(&str, Vec<u8>)> = Vec::new();
    let good = docker_archive(&engine);
    archives.push(("truncated", good[..good.len() / 2].to_vec()));
    // Another layer than the one whose digest the configuration has.
    let dir = engine.dir().join("archive");
    std::fs::write(dir.join("layer.tar"), b"").unwrap();
    let output = Command::new("tar")
        .arg("-cC")
        .arg(&dir)
        .args(["manifest.json", "config.json", "layer.tar"])
        .output()
        .unwrap();
    archives.push(("wrong digest", output.stdout));
    std::fs::write(
        dir.join("manifest.json"),
        r#"[{"Config":"../../etc/passwd","RepoTags":["x:1"],"Layers":["/etc/shadow"]}]"#,
    )
    .unwrap();
    let output = Command::new("tar")
        .arg("-cC")
        .arg(&dir)
        .args(["manifest.json", "config.json"])
        .output()
        .unwrap();
    archives.push(("paths out of the archive", output.stdout));
    for (what, archive) in archives {
        let run = engine.berth_with(&["load"], &archive);
        assert_ne!(run.code, 0, "{what}: {run:?}");
    }
    assert_eq!(engine.berth(&["images", "-aq"]).ok(), "");
    for dir in ["blobs/sha256", "layers/sha256", "tmp"] {
        berth_e2e::eventually(&format!("{dir} is empty"), || {
            let left = std::fs::read_dir(engine.data_root().join(dir))
                .map(Iterator::count)
                .unwrap_or_default();
            (left == 0).then_some(())
        });
    }
}

#[test]
fn a_layer_cannot_write_outside() {
    let engine = Engine::start_empty(&[]);
    let target = engine.dir().join("target");
    std::fs::create_dir(&target).unwrap();
    let build = |entries: &[(&str, tar::EntryType, &str)]| {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, kind, link) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_size(0);
            // Names that the library refuses to write, written all the same.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            archive.append(&header, &b""[..]).unwrap();
        }
        archive.into_inner().unwrap()
    };
    let outside = target.to_str().unwrap();
    for (what, entries) in [
        (
            "dots",
            vec![(
                "../../../../../../../../tmp/berth-evil",
                tar::EntryType::Regular,
                "",
            )],
        ),
        (
            "symlink then file",
            vec![
                ("link", tar::EntryType::Symlink, outside),
                ("link/evil", tar::EntryType::Regular, ""),
            ],
        ),
        (
            "hard link outside",
            vec![("hard", tar::EntryType::Link, "../../../../../../etc/passwd")],
        ),
    ] {
        let run = engine.berth_with(&["import", "-", "evil"], &build(&entries));
        assert_eq!(
            std::fs::read_dir(&target).unwrap().count(),
            0,
            "{what}: {run:?}"
        );
        assert!(!std::path::Path::new("/tmp/berth-evil").exists(), "{what}");
        engine.berth(&["rmi", "evil"]);
    }
}
