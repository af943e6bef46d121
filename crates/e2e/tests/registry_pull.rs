//! Pull and push with the packaged docker-registry: digests, platforms, tags,
//! login, and what clients are told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use berth_e2e::oci::{self, Content};
use berth_e2e::registry::Registry;
use berth_e2e::{Engine, Run, clients, installed, possible};
use serde_json::Value;

/// What these tests talk to and with.
fn tools() -> bool {
    ["docker-registry", "skopeo", "curl"]
        .iter()
        .all(|tool| possible(tool, installed(tool)))
}

/// `curl` against the engine's socket: status and body.
fn api(engine: &Engine, args: &[&str]) -> (String, String) {
    let run = Run::new(
        Command::new("curl")
            .args(["-s", "-w", "\n%{http_code}", "--unix-socket"])
            .arg(engine.socket())
            .args(args),
        b"",
    )
    .ok();
    let (body, status) = run.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

fn lines(body: &str) -> Vec<Value> {
    body.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn inspect(engine: &Engine, image: &str, format: &str) -> String {
    engine
        .berth(&["image", "inspect", "-f", format, image])
        .ok()
}

/// The digest that skopeo finds.
fn digest_at(engine: &Engine, image: &str) -> String {
    let reference = format!("docker://{image}");
    let raw = engine.in_network(&[
        "skopeo",
        "inspect",
        "--raw",
        "--tls-verify=false",
        &reference,
    ]);
    assert_eq!(raw.code, 0, "{raw:?}");
    oci::digest(raw.stdout.as_bytes())
}

/// Two platforms, of which this machine's has an attestation.
fn two_platforms() -> (Content, String, [String; 2]) {
    let mut content = Content::default();
    let own = content.image(
        oci::HOST,
        vec![
            oci::layer(&[("one", &oci::noise(1, 300_000))]),
            oci::layer(&[("two", b"2")]),
        ],
    );
    let other = content.image(
        "s390x",
        vec![oci::layer(&[("other", &oci::noise(2, 200_000))])],
    );
    let attestation = content.attestation("{\"predicateType\":\"https://slsa.dev/provenance/v1\"}");
    let index = content.index(
        &[(&own, oci::HOST), (&other, "s390x")],
        &[(&attestation, &own)],
    );
    (content, index, [own, other])
}

/// Puts an index as it is into a registry.
fn publish(engine: &Engine, content: &Content, digest: &str, image: &str) {
    let dir = tempfile::tempdir_in(engine.dir()).unwrap();
    content.write_layout(dir.path(), "x", digest);
    engine
        .in_network(&[
            "skopeo",
            "copy",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
            &format!("oci:{}:x", dir.path().display()),
            &format!("docker://{image}"),
        ])
        .ok();
}

#[test]
fn what_is_pushed_is_pulled() {
    if !tools() {
        return;
    }
    let engine = Engine::start();
    for registry in [
        Registry::start(&engine, 5000),
        Registry::berth(&engine, 5001),
    ] {
        there_and_back(&engine, &registry);
    }
}

fn there_and_back(engine: &Engine, registry: &Registry) {
    for client in clients() {
        let image = registry.name(&format!("{client}/busybox:1"));
        let id = inspect(engine, "busybox", "{{.Id}}");
        engine.client(client, &["tag", "busybox", &image]).ok();
        let pushed = engine.client(client, &["push", &image]).ok();
        assert!(
            pushed.contains(&format!("1: digest: {id} size:")),
            "{pushed}"
        );
        assert_eq!(digest_at(engine, &image), id);
        let digests = inspect(engine, &image, "{{json .RepoDigests}}");
        let pinned = registry.name(&format!("{client}/busybox@{id}"));
        assert!(digests.contains(&pinned), "{digests}");

        let again = engine.client(client, &["push", &image]).ok();
        assert!(again.contains("Layer already exists"), "{again}");
        let beside = registry.name(&format!("{client}/beside:1"));
        engine.client(client, &["tag", &image, &beside]).ok();
        let mounted = engine.client(client, &["push", &beside]).ok();
        assert!(mounted.contains("Mounted from "), "{mounted}");

        engine.client(client, &["rmi", &beside]).ok();
        // With its tag went the digest it was known by there.
        let digests = inspect(engine, &image, "{{json .RepoDigests}}");
        assert!(!digests.contains("beside"), "{digests}");
        engine.client(client, &["rmi", &image]).ok();
        let pulled = engine.client(client, &["pull", &image]).ok();
        assert!(
            pulled.contains(&format!("Status: Downloaded newer image for {image}")),
            "{pulled}"
        );
        assert_eq!(inspect(engine, &image, "{{.Id}}"), id);
        let pulled = engine.client(client, &["pull", &image]).ok();
        assert!(
            pulled.contains(&format!("Status: Image is up to date for {image}")),
            "{pulled}"
        );
        engine.client(client, &["rmi", &image]).ok();

        // By digest: no tag, and it can be run.
        engine.client(client, &["pull", &pinned]).ok();
        // Its digest is a name like any other.
        engine.client(client, &["image", "prune", "-f"]).ok();
        let tags = inspect(engine, &pinned, "{{json .RepoTags}}");
        assert!(!tags.contains(client), "{tags}");
        // An absent image is pulled to be run.
        let ran = engine.client(client, &["run", "--rm", &beside, "echo", "ran"]);
        assert_eq!(ran.ok(), "ran");
        engine.client(client, &["rmi", "-f", &beside]).ok();
    }
}

/// After the local image is gone: downloaded, unpacked and run.
#[test]
fn a_pulled_image_runs() {
    if !tools() {
        return;
    }
    let engine = Engine::start();
    let registry = Registry::start(&engine, 5000);
    let image = registry.name("busybox:1");
    engine.berth(&["tag", "busybox", &image]).ok();
    let (status, _) = api(
        &engine,
        &[
            "-X",
            "POST",
            &format!("http://x/images/{}/push?tag=1", registry.name("busybox")),
        ],
    );
    assert_eq!(status, "200");
    engine.berth(&["rmi", "-f", "busybox", &image]).ok();
    assert_eq!(engine.berth(&["images", "-aq"]).ok(), "");
    let ran = engine.berth(&["run", "--rm", &image, "sh", "-c", "ls / | wc -l; echo ran"]);
    assert!(ran.stdout.ends_with("ran\n"), "{ran:?}");
}

#[test]
fn progress_is_dockers() {
    if !tools() {
        return;
    }
    let engine = Engine::start_empty(&[]);
    let registry = Registry::start(&engine, 5000);
    let (content, index, _) = two_platforms();
    publish(&engine, &content, &index, &registry.name("two:1"));
    let name = registry.name("two");
    let url = format!("http://x/v1.50/images/create?fromImage={name}&tag=1");
    let (status, body) = api(&engine, &["-X", "POST", &url]);
    assert_eq!(status, "200", "{body}");
    let seen = lines(&body);
    assert_eq!(seen[0]["status"], "Pulling from two");
    assert_eq!(
        (&seen[0]["id"], seen[0].get("progressDetail")),
        (&Value::from("1"), None)
    );
    let last = seen.len() - 1;
    assert_eq!(seen[last - 1]["status"], format!("Digest: {index}"));
    assert_eq!(
        seen[last]["status"],
        format!("Status: Downloaded newer image for {name}:1")
    );
    let layers: Vec<&Value> = seen
        .iter()
        .filter(|line| line["status"] == "Pulling fs layer")
        .collect();
    // Two layers and what the attestation says.
    assert_eq!(layers.len(), 3, "{body}");
    for layer in layers {
        let id = layer["id"].as_str().unwrap();
        assert_eq!(id.len(), 12);
        assert!(
            content
                .blobs
                .keys()
                .any(|digest| digest[7..].starts_with(id))
        );
        assert_eq!(layer["progressDetail"], serde_json::json!({}));
        let of: Vec<&str> = seen
            .iter()
            .filter(|line| line["id"] == id)
            .map(|line| line["status"].as_str().unwrap())
            .collect();
        let at = |text: &str| of.iter().position(|status| *status == text);
        assert!(at("Verifying Checksum") < at("Download complete"), "{of:?}");
        assert!(
            matches!(*of.last().unwrap(), "Pull complete" | "Download complete"),
            "{of:?}"
        );
    }
    for line in seen.iter().filter(|line| line["status"] == "Downloading") {
        let detail = &line["progressDetail"];
        assert!(
            detail["current"].as_u64() <= detail["total"].as_u64(),
            "{line}"
        );
    }
    // Nothing to do, nothing to show.
    let (_, body) = api(&engine, &["-X", "POST", &url]);
    let seen: Vec<String> = lines(&body)
        .iter()
        .map(|line| line["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        seen,
        [
            "Pulling from two".to_owned(),
            format!("Digest: {index}"),
            format!("Status: Image is up to date for {name}:1")
        ]
    );
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    let now = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
    let events = engine
        .berth(&[
            "events",
            "--since",
            "1",
            "--until",
            &now,
            "--filter",
            "event=pull",
        ])
        .ok();
    assert_eq!(events.lines().count(), 2, "{events}");
    assert!(events.contains(&format!("image pull {name}:1")), "{events}");
}

#[test]
fn platforms_are_chosen_and_pushed_whole() {
    if !tools() {
        return;
    }
    let engine = Engine::start_empty(&[]);
    let registry = Registry::start(&engine, 5000);
    let (content, index, [own, other]) = two_platforms();
    let image = registry.name("two:1");
    publish(&engine, &content, &index, &image);
    assert_eq!(digest_at(&engine, &image), index);
    for client in clients() {
        engine.client(client, &["pull", &image]).ok();
        assert_eq!(inspect(&engine, &image, "{{.Id}}"), index);
        assert_eq!(inspect(&engine, &image, "{{.Architecture}}"), oci::HOST);

        // The index is not all here: what is here is pushed, and Docker's
        // words say so.
        let part = registry.name(&format!("part-{client}:1"));
        engine.client(client, &["tag", &image, &part]).ok();
        let pushed = engine.client(client, &["push", &part]).ok();
        assert!(pushed.contains(&format!("1: digest: {own}")), "{pushed}");
        assert_eq!(digest_at(&engine, &part), own);
        engine
            .client(client, &["push", "--platform", "linux/s390x", &part])
            .fails(1, "does not provide the specified platform (linux/s390x)");

        engine
            .client(client, &["pull", "--platform", "linux/s390x", &image])
            .ok();
        // Each of them can be made a container of.
        for arch in [oci::HOST, "s390x"] {
            let platform = format!("linux/{arch}");
            let create = ["create", "--platform", &platform, "--name", "one", &image];
            engine.client(client, &create).ok();
            let env = engine
                .berth(&["inspect", "-f", "{{.Config.Env}}", "one"])
                .ok();
            assert!(env.contains(&format!("ARCH={arch}")), "{env}");
            engine.berth(&["rm", "one"]).ok();
        }
        // With the other platform as well, all is pushed byte for byte.
        let whole = registry.name(&format!("whole-{client}:1"));
        engine.client(client, &["tag", &image, &whole]).ok();
        let pushed = engine.client(client, &["push", &whole]).ok();
        assert!(pushed.contains(&format!("1: digest: {index}")), "{pushed}");
        assert_eq!(digest_at(&engine, &whole), index);
        engine
            .in_network(&[
                "skopeo",
                "copy",
                "--all",
                "--src-tls-verify=false",
                &format!("docker://{whole}"),
                &format!("dir:{}", engine.dir().join(client).display()),
            ])
            .ok();
        let one = registry.name(&format!("one-{client}:1"));
        engine.client(client, &["tag", &image, &one]).ok();
        engine
            .client(client, &["push", "--platform", "linux/s390x", &one])
            .ok();
        assert_eq!(digest_at(&engine, &one), other);

        engine
            .client(client, &["pull", "--platform", "linux/riscv64", &image])
            .fails(
                1,
                "no matching manifest for linux/riscv64 in the manifest list entries",
            );
        let names: Vec<&str> = [&image, &part, &whole, &one].map(String::as_str).into();
        engine
            .client(client, &[&["rmi", "-f"], names.as_slice()].concat())
            .ok();
        assert_eq!(engine.berth(&["images", "-aq"]).ok(), "");
    }
}

#[test]
fn artifacts_are_kept_byte_for_byte() {
    if !tools() {
        return;
    }
    let engine = Engine::start_empty(&[]);
    let registry = Registry::start(&engine, 5000);
    let mut content = Content::default();
    let artifact = content.artifact(b"a chart, a model, a signature");
    publish(&engine, &content, &artifact, &registry.name("thing:1"));
    let (image, copy) = (registry.name("thing:1"), registry.name("copy:1"));
    engine.berth(&["pull", &image]).ok();
    engine.berth(&["tag", &image, &copy]).ok();
    engine.berth(&["push", &copy]).ok();
    assert_eq!(digest_at(&engine, &copy), artifact);
}

/// One that is of one platform is pulled wherever it is asked for by name.
#[test]
fn an_image_of_another_platform() {
    if !tools() {
        return;
    }
    let engine = Engine::start_empty(&[]);
    let registry = Registry::start(&engine, 5000);
    let (content, _, [_, other]) = two_platforms();
    let image = registry.name("other:1");
    publish(&engine, &content, &other, &image);
    for client in clients() {
        engine
            .client(client, &["pull", "--platform", "linux/riscv64", &image])
            .fails(1, "does not provide the specified platform (linux/riscv64)");
        assert_eq!(engine.berth(&["images", "-aq"]).ok(), "");
        engine.client(client, &["pull", &image]).ok();
        assert_eq!(inspect(&engine, &image, "{{.Architecture}}"), "s390x");
        engine.client(client, &["rmi", &image]).ok();
    }
}

#[test]
fn all_tags() {
    if !tools() {
        return;
    }
    let engine = Engine::start_empty(&[]);
    let registry = Registry::start(&engine, 5000);
    let (content, index, [own, other]) = two_platforms();
    publish(&engine, &content, &index, &registry.name("many:a"));
    publish(&engine, &content, &own, &registry.name("many:b"));
    let name = registry.name("many");
    for client in clients() {
        engine.client(client, &["pull", "--all-tags", &name]).ok();
        assert_eq!(inspect(&engine, &format!("{name}:a"), "{{.Id}}"), index);
        assert_eq!(inspect(&engine, &format!("{name}:b"), "{{.Id}}"), own);
        let target = registry.name(&format!("all-{client}"));
        for tag in ["a", "b"] {
            let image = format!("{target}:{tag}");
            engine
                .client(client, &["tag", &format!("{name}:b"), &image])
                .ok();
        }
        engine.client(client, &["push", "--all-tags", &target]).ok();
        assert_eq!(digest_at(&engine, &format!("{target}:a")), own);
        assert_eq!(digest_at(&engine, &format!("{target}:b")), own);
        let tags = ["a", "b"].map(|tag| format!("{target}:{tag}"));
        engine
            .client(client, &["rmi", "-f", &tags[0], &tags[1]])
            .ok();
        engine
            .client(
                client,
                &["rmi", "-f", &format!("{name}:a"), &format!("{name}:b")],
            )
            .ok();
        engine
            .client(client, &["push", "--all-tags", &registry.name("none")])
            .fails(1, "An image does not exist locally with the tag");
    }
    assert!(!other.is_empty());
}

#[test]
fn failures_have_dockers_words_and_status() {
    if !tools() {
        return;
    }
    let engine = Engine::start();
    let registry = Registry::start(&engine, 5000);
    let absent = registry.name("absent:1");
    for client in clients() {
        engine
            .client(client, &["pull", &absent])
            .fails(1, "not found");
        engine
            .client(client, &["push", &absent])
            .fails(1, &format!("tag does not exist: {absent}"));
        engine
            .client(client, &["pull", "scratch"])
            .fails(1, "'scratch' is a reserved name");
        engine
            .client(client, &["pull", "--platform", "foo", &absent])
            .fails(1, "unknown operating system or architecture");
    }
    let name = registry.name("absent");
    let create = format!("http://x/images/create?fromImage={name}&tag=1");
    let (status, body) = api(&engine, &["-X", "POST", &create]);
    assert_eq!(status, "404", "{body}");
    let (status, body) = api(
        &engine,
        &["-X", "POST", "-H", "X-Registry-Auth: !", &create],
    );
    assert_eq!(status, "400", "{body}");
    for empty in ["", "bnVsbA", "e30="] {
        let header = format!("X-Registry-Auth: {empty}");
        let (status, _) = api(&engine, &["-X", "POST", "-H", &header, &create]);
        assert_eq!(status, "404");
    }
    let url = format!("http://x/images/{name}/push?tag=1");
    let (status, body) = api(&engine, &["-X", "POST", &url]);
    assert_eq!(status, "200");
    let seen = lines(&body);
    assert_eq!(
        seen[0]["status"],
        format!("The push refers to repository [{name}]")
    );
    assert_eq!(
        seen[1]["errorDetail"]["message"],
        format!("tag does not exist: {name}:1")
    );
    let search = |query: &str| {
        api(
            &engine,
            &[&format!("http://x/images/search?term=x&{query}")],
        )
    };
    assert_eq!(search("limit=101").0, "400");
    assert!(
        search("limit=101")
            .1
            .contains("limit 101 is outside the range of [1, 100]")
    );
    assert_eq!(
        search("filters=%7B%22nonsense%22:%5B%22x%22%5D%7D").0,
        "400"
    );
    assert!(
        search("filters=%7B%22stars%22:%5B%22x%22%5D%7D")
            .1
            .contains("invalid filter 'stars=x'")
    );
}

#[test]
fn distribution_inspect() {
    if !tools() {
        return;
    }
    let engine = Engine::start_empty(&[]);
    let registry = Registry::start(&engine, 5000);
    let (content, index, [own, _]) = two_platforms();
    publish(&engine, &content, &index, &registry.name("two:1"));
    publish(&engine, &content, &own, &registry.name("one:1"));
    let ask = |name: &str| -> Value {
        let (status, body) = api(
            &engine,
            &[&format!(
                "http://x/distribution/{}/json",
                registry.name(name)
            )],
        );
        assert_eq!(status, "200", "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let two = ask("two:1");
    assert_eq!(two["Descriptor"]["digest"], index);
    assert_eq!(two["Descriptor"]["mediaType"], oci::INDEX);
    assert_eq!(two["Platforms"][1]["architecture"], "s390x");
    let one = ask(&format!("one@{own}"));
    assert_eq!(one["Descriptor"]["size"], content.blobs[&own].len());
    assert_eq!(
        one["Platforms"],
        serde_json::json!([{"architecture": oci::HOST, "os": "linux"}])
    );
}

/// me:secret
const HTPASSWD: &str = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

#[test]
fn credentials_are_asked_for_and_used() {
    if !tools() {
        return;
    }
    let engine = Engine::start();
    let file = engine.dir().join("htpasswd");
    std::fs::write(&file, HTPASSWD).unwrap();
    let auth = format!(
        "auth: {{htpasswd: {{realm: test, path: {}}}}}",
        file.display()
    );
    let registry = Registry::start_with(&engine, 5000, &auth);
    let image = registry.name("mine:1");
    engine.berth(&["tag", "busybox", &image]).ok();
    for client in clients() {
        engine.client(client, &["push", &image]).fails(1, "");
        engine.client(client, &["pull", &image]).fails(1, "");
        engine
            .client_with(
                client,
                &["login", "-u", "me", "--password-stdin", &registry.address],
                b"wrong",
            )
            .fails(1, "401 Unauthorized");
        let login = engine
            .client_with(
                client,
                &["login", "-u", "me", "--password-stdin", &registry.address],
                b"secret",
            )
            .ok();
        assert!(login.contains("Login Succeeded"), "{login}");
        engine.client(client, &["push", &image]).ok();
        engine.client(client, &["pull", &image]).ok();
        engine.client(client, &["logout", &registry.address]).ok();
        engine.client(client, &["pull", &image]).fails(1, "");
    }
    // Credentials for one host are not sent to another.
    use std::io::Write as _;
    let mut encoder = Command::new("base64")
        .arg("-w0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    encoder
        .stdin
        .take()
        .unwrap()
        .write_all(br#"{"username":"me","password":"secret","serveraddress":"elsewhere.example"}"#)
        .unwrap();
    let header = String::from_utf8(encoder.wait_with_output().unwrap().stdout).unwrap();
    let (status, _) = api(
        &engine,
        &[
            "-X",
            "POST",
            "-H",
            &format!("X-Registry-Auth: {header}"),
            &format!(
                "http://x/images/create?fromImage={}&tag=1",
                registry.name("mine")
            ),
        ],
    );
    assert_eq!(status, "404");
    assert!(!engine.log().contains("secret"), "no password in the log");
}
