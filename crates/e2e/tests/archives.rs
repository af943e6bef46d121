//! What leaves the store: saved archives and committed containers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_e2e::oci::{self, Content, HOST};
use berth_e2e::{Engine, Run, clients, image, installed, possible};

/// An index of two platforms and what attests to one; loaded as "multi:v1".
fn load_multi(engine: &Engine) -> (Content, BTreeMap<&'static str, String>) {
    let other = if HOST == "arm64" { "amd64" } else { "arm64" };
    let mut content = Content::default();
    let base = oci::compressed(&image::busybox_rootfs());
    let host = content.image(HOST, vec![base, oci::layer(&[("here", b"host")])]);
    let foreign = content.image(other, vec![oci::layer(&[("there", b"other")])]);
    let attestation = content.attestation(r#"{"predicateType":"test"}"#);
    let index = content.index(
        &[(&host, HOST), (&foreign, other)],
        &[(&attestation, &host)],
    );
    let layout = engine.dir().join("layout");
    content.write_layout(&layout, "multi:v1", &index);
    let tar = engine.dir().join("layout.tar");
    let made = Command::new("tar")
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    engine.berth(&["load", "-i", tar.to_str().unwrap()]).ok();
    let digests = [
        ("index", index),
        ("host", host),
        ("other", foreign),
        ("attestation", attestation),
    ];
    (content, digests.into())
}

fn members(archive: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let time = entry.header().mtime().unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            (name, time, bytes)
        })
        .collect()
}

fn id(engine: &Engine, name: &str) -> String {
    engine
        .berth(&["image", "inspect", "-f", "{{.Id}}", name])
        .ok()
}

fn save(engine: &Engine, client: &str, file: &str, args: &[&str]) -> PathBuf {
    let path = engine.dir().join(file);
    let mut words = vec!["save", "-o", path.to_str().unwrap()];
    words.extend(args);
    engine.client(client, &words).ok();
    path
}

#[test]
fn an_index_is_saved_and_loaded_byte_for_byte() {
    let engine = Engine::start_empty(&[]);
    let (content, digests) = load_multi(&engine);
    engine.berth(&["tag", "multi:v1", "other/name:v2"]).ok();
    for client in clients() {
        let path = save(&engine, client, "a.tar", &["multi:v1", "other/name:v2"]);
        let again = save(&engine, client, "b.tar", &["multi:v1", "other/name:v2"]);
        assert!(std::fs::read(&path).unwrap() == std::fs::read(again).unwrap());

        let members = members(&path);
        let names: Vec<_> = members.iter().map(|(name, ..)| name.clone()).collect();
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(names, sorted);
        assert!(members.iter().all(|(_, time, _)| *time == 0));
        assert_eq!(names[..2], ["blobs/", "blobs/sha256/"]);
        assert_eq!(
            names[names.len() - 3..],
            ["index.json", "manifest.json", "oci-layout"]
        );
        let blobs: BTreeMap<String, Vec<u8>> = (members[2..members.len() - 3].iter())
            .map(|(name, _, bytes)| (name.replace("blobs/sha256/", "sha256:"), bytes.clone()))
            .collect();
        assert!(blobs == content.blobs, "the blobs are others");

        let index: serde_json::Value =
            serde_json::from_slice(&members[members.len() - 3].2).unwrap();
        let entries = index["manifests"].as_array().unwrap();
        assert_eq!(entries.len(), 2, "{index}");
        for (entry, (name, tag)) in entries.iter().zip([
            ("docker.io/library/multi:v1", "v1"),
            ("docker.io/other/name:v2", "v2"),
        ]) {
            assert_eq!(entry["digest"], digests["index"].as_str());
            assert_eq!(entry["annotations"]["io.containerd.image.name"], name);
            assert_eq!(
                entry["annotations"]["org.opencontainers.image.ref.name"],
                tag
            );
        }
        let items: serde_json::Value =
            serde_json::from_slice(&members[members.len() - 2].2).unwrap();
        assert_eq!(
            items[0]["RepoTags"],
            serde_json::json!(["multi:v1", "other/name:v2"])
        );

        engine.berth(&["rmi", "-f", &digests["index"]]).ok();
        engine
            .client(client, &["load", "-i", path.to_str().unwrap()])
            .ok();
        for name in ["multi:v1", "other/name:v2"] {
            assert_eq!(id(&engine, name), digests["index"]);
        }
        let said = engine
            .berth(&["run", "--rm", "multi:v1", "cat", "/here"])
            .ok();
        assert_eq!(said, "host");
    }
}

#[test]
fn platforms_are_picked_out_and_ids_have_no_names() {
    let engine = Engine::start_empty(&[]);
    let (_, digests) = load_multi(&engine);
    let other = if HOST == "arm64" { "amd64" } else { "arm64" };
    let platform = format!("linux/{other}");
    for client in clients() {
        let args = ["--platform", platform.as_str(), "multi:v1"];
        let path = save(&engine, client, "one.tar", &args);
        let members = members(&path);
        let index: serde_json::Value =
            serde_json::from_slice(&members[members.len() - 3].2).unwrap();
        assert_eq!(index["manifests"][0]["digest"], digests["other"].as_str());
        assert!(
            !members
                .iter()
                .any(|(name, ..)| name.ends_with(&digests["host"][7..]))
        );
        engine
            .client(
                client,
                &[
                    "save",
                    "-o",
                    engine.dir().join("no.tar").to_str().unwrap(),
                    "--platform",
                    "linux/s390x",
                    "multi:v1",
                ],
            )
            .fails(1, "does not provide the specified platform (linux/s390x)");
    }
    // What was loaded is unpacked when it is needed.
    let create = [
        "create",
        "--platform",
        &platform,
        "--name",
        "cc",
        "multi:v1",
    ];
    engine.berth(&create).ok();
    let env = engine
        .berth(&["inspect", "-f", "{{.Config.Env}}", "cc"])
        .ok();
    assert!(env.contains(&format!("ARCH={other}")), "{env}");
    engine.berth(&["commit", "cc", "made:v1"]).ok();
    let made = ["image", "inspect", "-f", "{{.Architecture}}", "made:v1"];
    assert_eq!(engine.berth(&made).ok(), other);
    engine.berth(&["system", "check"]).ok();
    let short = &digests["index"][7..19];
    let path = save(&engine, "berth", "id.tar", &[short]);
    let members = members(&path);
    let index: serde_json::Value = serde_json::from_slice(&members[members.len() - 3].2).unwrap();
    assert!(
        index["manifests"][0].get("annotations").is_none(),
        "{index}"
    );
    let items: serde_json::Value = serde_json::from_slice(&members[members.len() - 2].2).unwrap();
    assert!(items[0]["RepoTags"].is_null());
    engine
        .berth(&["save", "-o", "/dev/null", "none"])
        .fails(1, "No such image: none");
}

#[test]
fn single_platforms_are_removed() {
    let mut engine = Engine::start_empty(&[]);
    let other = if HOST == "arm64" { "amd64" } else { "arm64" };
    let (host, other) = (format!("linux/{HOST}"), format!("linux/{other}"));
    for client in clients() {
        let (_, digests) = load_multi(&engine);
        let rm = |args: &[&str]| engine.client(client, &[&["rmi", "--platform"], args].concat());
        rm(&[&host, "multi:v1"]).fails(1, "Content will be removed from all images");
        // By force, what shall be gone and is not there is no failure.
        rm(&["linux/s390x", "-f", "multi:v1"]).fails(0, "does not provide the specified platform");
        let run = ["run", "-d", "--name", "cc", "multi:v1", "sleep", "1000"];
        engine.berth(&run).ok();
        rm(&[&host, "-f", "multi:v1"]).fails(1, "(cannot be forced) - image is being used by");
        engine.berth(&["rm", "-f", "cc"]).ok();

        let removed = rm(&[&host, "-f", "multi:v1"]).ok();
        let gone = ["host", "attestation"].map(|of| format!("Deleted: {}", digests[of]));
        assert_eq!(removed, gone.join("\n"));
        assert_eq!(id(&engine, "multi:v1"), digests["index"]);
        // What was never unpacked is what there is to run now.
        engine.berth(&["create", "--name", "cc", "multi:v1"]).ok();
        let env = engine
            .berth(&["inspect", "-f", "{{.Config.Env}}", "cc"])
            .ok();
        assert!(!env.contains(&format!("ARCH={HOST}")), "{env}");
        engine.berth(&["rm", "cc"]).ok();
        rm(&[&other, "-f", "multi:v1"]).fails(1, "multi:v1 has no other platform here");
        engine.berth(&["system", "check"]).ok();
        let left = std::fs::read_dir(engine.data_root().join("blobs/sha256")).unwrap();
        assert_eq!(left.count(), 4, "index, manifest, configuration, layer");
    }
    engine.kill();
    engine.launch();
    engine.berth(&["system", "check"]).ok();
    assert!(!engine.log().contains("a layer of an image is missing"));
}

/// An index, and one of its manifests alone.
#[test]
fn images_of_one_configuration_keep_their_names() {
    let engine = Engine::start_empty(&[]);
    let (_, digests) = load_multi(&engine);
    let platform = format!("linux/{HOST}");
    let args = ["--platform", platform.as_str(), "multi:v1"];
    let one = save(&engine, "berth", "one.tar", &args);
    engine.berth(&["tag", "multi:v1", "whole:v1"]).ok();
    engine.berth(&["load", "-i", one.to_str().unwrap()]).ok();
    for client in clients() {
        let both = save(&engine, client, "both.tar", &["multi:v1", "whole:v1"]);
        engine.berth(&["rmi", "multi:v1", "whole:v1"]).ok();
        engine
            .client(client, &["load", "-i", both.to_str().unwrap()])
            .ok();
        assert_eq!(id(&engine, "multi:v1"), digests["host"]);
        assert_eq!(id(&engine, "whole:v1"), digests["index"]);
    }
}

#[test]
fn others_read_what_is_saved() {
    let engine = Engine::start();
    let path = save(&engine, "berth", "busybox.tar", &["busybox"]);
    if possible("skopeo", installed("skopeo")) {
        for transport in ["docker-archive", "oci-archive"] {
            let source = format!("{transport}:{}", path.display());
            let seen = Run::new(Command::new("skopeo").args(["inspect", &source]), b"").ok();
            assert!(seen.contains("\"Layers\""), "{seen}");
        }
        // Whole: every blob is read and verified.
        let source = format!("docker-archive:{}", path.display());
        let copy = format!("dir:{}", engine.dir().join("copy").display());
        Run::new(
            Command::new("skopeo").args(["--insecure-policy", "copy", &source, &copy]),
            b"",
        )
        .ok();
    }
}

const CHANGES: &str = "
set -e
echo new > /new
mkdir -p /made/deep && echo x > /made/deep/file
ln /new /made/hard && ln -s ../new /made/soft
rm /etc/passwd
rm -r /usr && mkdir /usr && echo y > /usr/only
mkfifo /fifo; mknod /zero c 1 5
chown 12:34 /made && chmod 2751 /made
dd if=/dev/zero of=/sparse bs=1 count=1 seek=1M 2>/dev/null
touch -d '2001-02-03 04:05:06' /new
";

/// What a container sees of all that.
const LOOK: &str = "
cat /new /made/hard /made/deep/file; readlink /made/soft; ls /usr
test ! -e /etc/passwd && echo gone
stat -c '%u:%g %a' /made; stat -c '%t:%T %F' /zero; stat -c '%F' /fifo
stat -c '%s' /sparse; stat -c '%h %Y' /new
cat /etc/group | head -1
";

#[test]
fn a_committed_container_is_seen_again() {
    for forms in [None, Some(Path::new("/var/tmp"))] {
        // In a directory (tmpfs) and where layers may be EROFS files.
        let engine = match forms {
            None => Engine::start(),
            Some(place) => {
                let engine = Engine::start_in(place, &[]);
                engine.import_busybox();
                engine
            }
        };
        let script = CHANGES.replace("mkfifo /fifo; ", "mknod /fifo p; ");
        engine
            .berth(&[
                "run", "--name", "cc", "-e", "A=1", "busybox", "sh", "-c", &script,
            ])
            .ok();
        for client in clients() {
            let id_of = engine
                .client(
                    client,
                    &[
                        "commit",
                        "-m",
                        "why",
                        "-a",
                        "Me <me@example>",
                        "-c",
                        "ENV B=2",
                        "-c",
                        "CMD [\"cat\", \"/new\"]",
                        "cc",
                        "made:v1",
                    ],
                )
                .ok();
            assert_eq!(id(&engine, "made:v1"), id_of);
            let config = engine
                .berth(&[
                    "image",
                    "inspect",
                    "-f",
                    "{{json .Config}} {{.Author}} {{.Comment}}",
                    "made:v1",
                ])
                .ok();
            for part in ["A=1", "B=2", "Me <me@example> why", "[\"cat\",\"/new\"]"] {
                assert!(config.contains(part), "{part} is not in {config}");
            }
            assert_eq!(engine.berth(&["run", "--rm", "made:v1"]).ok(), "new");
            let seen = engine
                .berth(&["run", "--rm", "made:v1", "sh", "-c", LOOK])
                .ok();
            assert_eq!(
                seen,
                "new\nnew\nx\n../new\nonly\ngone\n12:34 2751\n1:5 character special file\nfifo\n1048577\n2 981173106\nroot:x:0:",
                "{client}"
            );
            // And out again: layers are what archives say of them.
            let path = save(&engine, "berth", "made.tar", &["made:v1"]);
            engine.berth(&["rmi", "made:v1"]).ok();
            engine.berth(&["load", "-i", path.to_str().unwrap()]).ok();
            assert_eq!(id(&engine, "made:v1"), id_of);
            engine.berth(&["rmi", "made:v1"]).ok();
        }
    }
}

#[test]
fn running_and_created_containers_are_committed() {
    let engine = Engine::start();
    engine
        .berth(&[
            "run",
            "-d",
            "--name",
            "rr",
            "busybox",
            "sh",
            "-c",
            "echo x > /x; sleep 600",
        ])
        .ok();
    berth_e2e::eventually("the file is there", || {
        (engine.berth(&["exec", "rr", "cat", "/x"]).code == 0).then_some(())
    });
    engine.berth(&["commit", "rr", "running"]).ok();
    assert_eq!(engine.state("rr", "Paused"), "false");
    assert_eq!(
        engine.berth(&["run", "--rm", "running", "cat", "/x"]).ok(),
        "x"
    );

    // Nothing changed: no layer, only a step.
    engine.berth(&["create", "--name", "nn", "busybox"]).ok();
    engine.berth(&["commit", "nn", "same"]).ok();
    let layers = |name: &str| {
        engine
            .berth(&["image", "inspect", "-f", "{{json .RootFS.Layers}}", name])
            .ok()
    };
    assert_eq!(layers("same"), layers("busybox"));
    let history = engine.berth(&["history", "-q", "same"]).ok();
    assert_eq!(history.lines().count(), 2, "{history}");
    engine
        .berth(&["commit", "none"])
        .fails(1, "No such container: none");
    engine
        .berth(&["commit", "nn", "Bad"])
        .fails(1, "must be lowercase");
}

/// Saves and commits until the engine is killed in the middle of it; the next
/// one has what was there before, and can do it.
#[test]
fn kill_9_during_save_and_commit_leaves_nothing_half_done() {
    let mut engine = Engine::start();
    engine
        .berth(&[
            "run",
            "--name",
            "cc",
            "busybox",
            "sh",
            "-c",
            "dd if=/dev/urandom of=/big bs=1M count=40 2>/dev/null",
        ])
        .ok();
    let big = engine.berth(&["commit", "cc", "big"]).ok();
    for what in ["save", "commit", "commit"] {
        let mut command = engine.command("berth");
        let file = engine.dir().join("killed.tar");
        match what {
            "save" => command.args(["save", "-o", file.to_str().unwrap(), "big"]),
            _ => command.args(["commit", "cc", "half"]),
        };
        let mut child = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let tmp = engine.data_root().join("tmp");
        if what == "commit" {
            berth_e2e::eventually("a layer is being made", || {
                std::fs::read_dir(&tmp)
                    .unwrap()
                    .flatten()
                    .any(|entry| entry.file_name().to_string_lossy().starts_with("incoming"))
                    .then_some(())
            });
        }
        engine.kill();
        let _ = child.wait();
        engine.launch();
        assert_eq!(id(&engine, "big"), big);
        berth_e2e::eventually("tmp is empty", || {
            (std::fs::read_dir(&tmp).unwrap().count() == 0).then_some(())
        });
    }
    save(&engine, "berth", "whole.tar", &["big"]);
    engine.berth(&["commit", "cc", "half"]).ok();
    engine
        .berth(&["run", "--rm", "half", "test", "-f", "/big"])
        .ok();
}
