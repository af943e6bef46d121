//! Outputs of builds by a real engine; see `builds.rs`.

#![allow(clippy::print_stderr, clippy::unwrap_used)]

#[allow(dead_code, reason = "the other tests use more of it")]
mod rig;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use berth_api::build::{BuildRequest, Output};
use berth_build::progress::Event;
use berth_registry::server;
use rig::Rig;
use serde_json::{Value, json};
use tokio::sync::mpsc;

fn output(kind: &str, attributes: &[(&str, &str)]) -> Output {
    Output {
        kind: kind.to_owned(),
        attributes: (attributes.iter())
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
    }
}

fn request(dockerfile: &str, outputs: Vec<Output>) -> BuildRequest {
    BuildRequest {
        dockerfile: Some(dockerfile.to_owned()),
        outputs,
        ..BuildRequest::default()
    }
}

fn members(archive: &[u8]) -> BTreeMap<String, (u64, Vec<u8>)> {
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let time = entry.header().mtime().unwrap();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        members.insert(name, (time, data));
    }
    members
}

fn blob(members: &BTreeMap<String, (u64, Vec<u8>)>, digest: &Value) -> Value {
    let hex = digest.as_str().unwrap().trim_start_matches("sha256:");
    serde_json::from_slice(&members[&format!("blobs/sha256/{hex}")].1).unwrap()
}

const TEXT: &str = "FROM busybox AS base\nFROM scratch\nENV A=1\nCOPY --from=base /etc/passwd /etc/passwd\nCOPY --from=base /bin/busybox /bin/busybox\nRUN [\"/bin/busybox\", \"touch\", \"/etc/new\"]\nRUN [\"/bin/busybox\", \"true\"]\nLABEL x=y\n";

#[test]
fn several_outputs_of_one_build() {
    Rig::run(async |rig| {
        let mut wanted = request(
            TEXT,
            vec![
                output("image", &[("annotation.k", "v")]),
                output("oci", &[]),
                output("docker", &[]),
                output("local", &[]),
                output("tar", &[]),
                output("cacheonly", &[]),
                output(
                    "oci",
                    &[("compression", "zstd"), ("compression-level", "1")],
                ),
            ],
        );
        wanted.tags = vec!["built".to_owned(), "other:2".to_owned()];
        let built = rig.build(wanted.clone()).await.unwrap();
        let names = [
            "docker.io/library/built:latest",
            "docker.io/library/other:2",
        ];
        assert_eq!(built.names, names);
        assert_eq!(built.metadata["image.name"], names.join(","));
        assert_eq!(built.metadata["containerimage.digest"], built.image);
        assert_eq!(built.metadata["containerimage.config.digest"], built.config);
        assert_eq!(
            built.metadata["containerimage.descriptor"]["platform"]["os"],
            "linux"
        );

        let oci = members(&rig.taken(1));
        assert!(oci.contains_key("oci-layout") && !oci.contains_key("manifest.json"));
        let index: Value = serde_json::from_slice(&oci["index.json"].1).unwrap();
        let manifest = blob(&oci, &index["manifests"][1]["digest"]);
        assert_eq!(
            index["manifests"][1]["annotations"]["io.containerd.image.name"],
            names[1]
        );
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 3);
        assert!(
            layers.iter().all(|layer| {
                layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
            })
        );
        let config = blob(&oci, &manifest["config"]["digest"]);
        let empty: Vec<bool> = (config["history"].as_array().unwrap().iter())
            .map(|entry| entry["empty_layer"] == true)
            .collect();
        assert_eq!(empty, [true, false, false, false, true, true], "{config}");
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
        assert!(config.get("created").is_none());
        assert_eq!(config["config"]["Labels"], json!({"x": "y"}));

        let docker = members(&rig.taken(2));
        let list: Value = serde_json::from_slice(&docker["manifest.json"].1).unwrap();
        assert_eq!(list[0]["RepoTags"], json!(["built:latest", "other:2"]));
        let zstd = members(&rig.taken(6));
        assert!(
            zstd.values()
                .any(|(_, data)| data.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))
        );

        let files = members(&rig.taken(3));
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["bin/", "bin/busybox", "etc/", "etc/new", "etc/passwd"]
        );
        assert!(files["etc/passwd"].1.starts_with(b"root:"));
        for (name, (time, _)) in &files {
            assert_eq!(*time, berth_build::FILE_TIME.unsigned_abs(), "{name}");
        }
        assert!(rig.taken(3) == rig.taken(4));
        let titles: Vec<String> = (rig.events().into_iter())
            .filter_map(|event| match event {
                Event::Known { name, .. } if name.starts_with("exporting") => Some(name),
                _ => None,
            })
            .collect();
        assert_eq!(
            titles,
            [
                "exporting to image",
                "exporting to oci image format",
                "exporting to docker image format",
                "exporting to client directory",
                "exporting to client tarball",
                "exporting to oci image format",
            ]
        );
        // All the same again, to the byte.
        let first: Vec<_> = [1, 2, 3, 6].map(|index| rig.taken(index)).into();
        let again = rig.build(wanted).await.unwrap();
        assert_eq!(again, built);
        assert!(first == [1, 2, 3, 6].map(|index| rig.taken(index)));
    });
}

#[test]
fn a_build_is_pushed_with_or_without_a_tag() {
    Rig::run(async |rig| {
        let registry = server::Registry::bind(server::Options {
            address: "127.0.0.1:0".to_owned(),
            root: rig.dir().join("registry"),
            max_manifest: 4 << 20,
            upload_expiry: Duration::from_secs(600),
            read_only: false,
            authentication: server::Authentication::None,
            tls: None,
            insecure_no_auth: false,
            insecure_no_tls: false,
            proxy: None,
            gc_interval: None,
            gc_grace: Duration::from_secs(600),
            gc_untagged: false,
            metrics_address: None,
        })
        .await
        .unwrap();
        let host = registry.url().replace("http://", "");
        let serving = tokio::spawn(registry.run());
        let tagged = format!("{host}/a:1");
        let mut wanted = request(TEXT, vec![output("registry", &[])]);
        wanted.tags = vec![tagged.clone()];
        let built = rig.build(wanted.clone()).await.unwrap();
        let pushed = rig.events().into_iter().any(|event| {
            matches!(event, Event::Status { name, done: true, .. } if name.starts_with("pushing layer "))
        });
        assert!(pushed);
        let image = rig.engine().image_inspect(&tagged, None, false).await;
        let digests = serde_json::to_value(image.unwrap()).unwrap()["RepoDigests"].clone();
        assert_eq!(digests, json!([format!("{host}/a@{}", built.image)]));

        // Nothing of it stays here, and the registry has it whole.
        wanted.tags = vec![format!("{host}/b")];
        wanted.outputs = vec![output(
            "image",
            &[
                ("push", "true"),
                ("push-by-digest", "true"),
                ("store", "false"),
                ("compression", "zstd"),
            ],
        )];
        let other = rig.build(wanted).await.unwrap();
        assert_ne!(other.image, built.image);
        let by_digest = format!("{host}/b@{}", other.image);
        assert!(
            rig.engine()
                .image_inspect(&by_digest, None, false)
                .await
                .is_err()
        );
        let (sender, mut lines) = mpsc::channel(64);
        let pull = berth_engine::PullRequest {
            name: by_digest.clone(),
            ..berth_engine::PullRequest::default()
        };
        let drain = async { while lines.recv().await.is_some() {} };
        let pulling = rig.engine().image_pull(pull, sender);
        let (pulled, ()) = tokio::join!(pulling, drain);
        pulled.unwrap();
        assert!(
            rig.engine()
                .image_inspect(&by_digest, None, false)
                .await
                .is_ok()
        );

        let mut refused = request(TEXT, vec![output("registry", &[])]);
        refused.tags = vec!["127.0.0.1:1/a:1".to_owned()];
        let error = rig.build(refused).await.unwrap_err().error.message;
        assert!(
            error.starts_with("failed to push 127.0.0.1:1/a:1: "),
            "{error}"
        );
        serving.abort();
    });
}

#[test]
fn what_is_said_of_a_dockerfile() {
    Rig::run(async |rig| {
        let text = "FROM busybox AS a\nENV x y\nFROM busybox\nCOPY $PAHT /\nCMD z\n";
        let mut wanted = request(text, Vec::new());
        wanted.call = "check".to_owned();
        let answer = rig.build(wanted.clone()).await.unwrap();
        let lint = answer.call.unwrap();
        let rules: Vec<&str> = (lint["warnings"].as_array().unwrap().iter())
            .map(|warning| warning["ruleName"].as_str().unwrap())
            .collect();
        assert_eq!(
            rules,
            [
                "LegacyKeyValueFormat",
                "UndefinedVar",
                "JSONArgsRecommended"
            ]
        );
        assert_eq!(
            lint["warnings"][1]["detail"],
            "Usage of undefined variable '$PAHT' (did you mean $PATH?)"
        );
        assert_eq!(lint.get("buildError"), None);
        assert!(answer.image.is_empty());
        wanted.call = "outline".to_owned();
        let outline = rig.build(wanted.clone()).await.unwrap().call.unwrap();
        assert!(outline["sources"].is_array(), "{outline}");
        wanted.call = "explain".to_owned();
        assert!(rig.build(wanted).await.is_err());

        // A build tells of what it needs only, and fails if that is wanted.
        let warned = |rig: &Rig| {
            let rules = rig.events().into_iter().filter_map(|event| match event {
                Event::Warning { rule, .. } => Some(rule),
                _ => None,
            });
            rules.collect::<Vec<_>>()
        };
        let text = "FROM busybox AS a\nENV x y\nFROM busybox\nCMD z\n";
        rig.build(request(text, Vec::new())).await.unwrap();
        assert_eq!(warned(rig), ["JSONArgsRecommended"]);
        let text = format!("# check=error=true\n{text}");
        let failure = rig.build(request(&text, Vec::new())).await.unwrap_err();
        assert_eq!(
            failure.error.message,
            "lint violation found for rules: JSONArgsRecommended"
        );
        let bad = rig.build(request("FROM busybox AS A\nRUNN x\n", Vec::new()));
        assert!(bad.await.is_err());
        assert_eq!(warned(rig), ["StageNameCasing"]);
    });
}
