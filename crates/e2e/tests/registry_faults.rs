//! Registries that fail, engines that are killed: a clear error, nothing half
//! visible, and the next try goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::{Child, Command, Stdio};

use berth_e2e::oci::{self, Content};
use berth_e2e::registry::{Fault, FaultyRegistry, How, Registry};
use berth_e2e::{Engine, Run, eventually, installed, possible};

const SIZE: usize = 8 << 20;

/// One image with a large layer, tagged "1": content, layer's digest and size.
fn large() -> (Content, String, usize) {
    let mut content = Content::default();
    let (blob, diff_id) = oci::layer(&[("large", &oci::noise(7, SIZE))]);
    let (layer, size) = (oci::digest(&blob), blob.len());
    let manifest = content.image(
        oci::HOST,
        vec![oci::layer(&[("small", b"small")]), (blob, diff_id)],
    );
    content.tag("1", &manifest);
    (content, layer, size)
}

fn fault(path: &str, how: How, times: usize) -> Fault {
    Fault {
        path: path.to_owned(),
        how,
        times,
    }
}

/// A client whose end is not waited for.
fn start(engine: &Engine, args: &[&str]) -> Child {
    engine
        .command("berth")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn succeeds(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn assert_no_image(engine: &Engine) {
    assert_eq!(engine.berth(&["images", "-aq"]).ok(), "");
}

/// The layer's file as the image has it.
fn assert_usable(engine: &Engine, image: &str) {
    let id = engine
        .berth(&["image", "inspect", "-f", "{{.Id}}", image])
        .ok();
    assert!(id.starts_with("sha256:"));
    engine
        .berth(&["create", "--name", "probe", image, "x"])
        .ok();
    engine.berth(&["rm", "probe"]).ok();
}

/// Bytes of a partial download that are on disk.
fn on_disk(engine: &Engine, layer: &str) -> usize {
    let file = engine.data_root().join("ingest/sha256").join(&layer[7..]);
    file.metadata().map_or(0, |file| file.len() as usize)
}

#[test]
fn a_killed_pull_goes_on_where_it_stopped() {
    let mut engine = Engine::start_empty(&[]);
    let (content, layer, size) = large();
    let held = 5 << 20;
    let registry =
        FaultyRegistry::start(&engine, 5000, content, &[fault(&layer, How::Hold(held), 1)]);
    let image = registry.name("large:1");
    let mut client = start(&engine, &["pull", &image]);
    registry.until_held(1);
    eventually("what came is on disk", || {
        (on_disk(&engine, &layer) == held).then_some(())
    });
    engine.kill();
    let _ = client.wait();
    registry.set_faults(&[]);
    registry.forget_served();
    engine.launch();
    assert_no_image(&engine);
    engine.berth(&["pull", &image]).ok();
    assert_eq!(
        registry.served(&layer),
        size - held,
        "only what was missing"
    );
    assert_usable(&engine, &image);
}

#[test]
fn a_stopped_pull_goes_on_where_it_stopped() {
    let engine = Engine::start_empty(&[]);
    let (content, layer, size) = large();
    let held = 3 << 20;
    let registry =
        FaultyRegistry::start(&engine, 5000, content, &[fault(&layer, How::Hold(held), 1)]);
    let image = registry.name("large:1");
    let mut client = start(&engine, &["pull", &image]);
    registry.until_held(1);
    eventually("what came is on disk", || {
        (on_disk(&engine, &layer) == held).then_some(())
    });
    // Its client goes away: nobody wants it any more, so the connection that
    // is held does not keep the next one from writing.
    client.kill().unwrap();
    client.wait().unwrap();
    registry.set_faults(&[]);
    registry.forget_served();
    engine.berth(&["pull", &image]).ok();
    assert_eq!(
        registry.served(&layer),
        size - held,
        "only what was missing"
    );
}

#[test]
fn two_pulls_share_one_download() {
    let engine = Engine::start_empty(&[]);
    let (mut content, layer, size) = large();
    // Another image with the same layer.
    let (blob, diff_id) = oci::layer(&[("large", &oci::noise(7, SIZE))]);
    let other = content.image(oci::HOST, vec![(blob, diff_id), oci::layer(&[("x", b"x")])]);
    content.tag("2", &other);
    let registry = FaultyRegistry::start(
        &engine,
        5000,
        content,
        &[fault(&layer, How::Hold(1 << 20), 1)],
    );
    let pulls = [
        start(&engine, &["pull", &registry.name("a:1")]),
        start(&engine, &["pull", &registry.name("b:1")]),
        start(&engine, &["pull", &registry.name("c:2")]),
    ];
    registry.until_held(1);
    eventually("all have asked", || {
        (registry.requests("GET /v2/c/blobs") >= 1 && registry.requests("/manifests/") >= 3)
            .then_some(())
    });
    registry.release();
    for pull in pulls {
        succeeds(pull);
    }
    assert_eq!(registry.served(&layer), size);
    let asked =
        ["a", "b", "c"].map(|name| registry.requests(&format!("GET /v2/{name}/blobs/{layer}")));
    assert_eq!(asked.iter().sum::<usize>(), 1);
}

#[test]
fn another_pull_takes_over_when_the_first_is_given_up() {
    let engine = Engine::start_empty(&[]);
    let (content, layer, size) = large();
    let held = 4 << 20;
    let registry =
        FaultyRegistry::start(&engine, 5000, content, &[fault(&layer, How::Hold(held), 1)]);
    let mut first = start(&engine, &["pull", &registry.name("a:1")]);
    registry.until_held(1);
    let second = start(&engine, &["pull", &registry.name("b:1")]);
    // The second one waits for the same layer when it has the small one.
    eventually("the second has asked", || {
        (registry.requests("GET /v2/b/blobs") >= 1).then_some(())
    });
    eventually("what came is on disk", || {
        (on_disk(&engine, &layer) == held).then_some(())
    });
    first.kill().unwrap();
    first.wait().unwrap();
    succeeds(second);
    assert_eq!(
        registry.served(&layer),
        size,
        "it goes on where the first stopped"
    );
}

#[test]
fn cut_connections_are_taken_up() {
    let engine = Engine::start_empty(&[]);
    let (content, layer, size) = large();
    let registry = FaultyRegistry::start(
        &engine,
        5000,
        content,
        &[
            fault(&layer, How::Cut(2 << 20), 3),
            fault("manifests/1", How::Answer(503, ""), 1),
        ],
    );
    let image = registry.name("large:1");
    engine.berth(&["pull", &image]).ok();
    // What was on its way when the connection was cut may come again.
    assert!(
        registry.served(&layer) < size + (3 << 20),
        "{}",
        registry.served(&layer)
    );
    assert!(registry.requests(&format!("GET /v2/large/blobs/{layer}")) >= 4);
    assert_usable(&engine, &image);
}

#[test]
fn registries_without_ranges() {
    let engine = Engine::start_empty(&[]);
    let (content, layer, size) = large();
    let registry = FaultyRegistry::start(
        &engine,
        5000,
        content,
        &[
            fault(&layer, How::Cut(2 << 20), 1),
            fault(&layer, How::Whole, 1),
        ],
    );
    let image = registry.name("large:1");
    engine.berth(&["pull", &image]).ok();
    assert_eq!(registry.served(&layer), size + (2 << 20));
    assert_usable(&engine, &image);
}

#[test]
fn wrong_content_is_refused_and_the_next_try_works() {
    let engine = Engine::start_empty(&["--max-download-attempts", "2"]);
    let (content, layer, size) = large();
    let manifest = content.manifests["1"].1.clone();
    let registry = FaultyRegistry::start(&engine, 5000, content, &[]);
    let image = registry.name("large:1");
    for (faults, words) in [
        (
            vec![fault(&layer, How::Garbage, 9)],
            "does not match its digest",
        ),
        (
            vec![fault(&layer, How::Claim(size - 5), 9)],
            "where its manifest says",
        ),
        (
            vec![fault(&layer, How::Claim(size + 5), 9)],
            "where its manifest says",
        ),
        (vec![fault("manifests/1", How::Garbage, 9)], ""),
        (
            vec![fault("manifests/1", How::Answer(429, "Retry-After: 0"), 99)],
            "toomanyrequests",
        ),
        (
            vec![fault(
                "manifests/1",
                How::Answer(401, "WWW-Authenticate: Basic realm=\"x\""),
                99,
            )],
            "",
        ),
        (vec![fault(&layer, How::Answer(404, ""), 9)], ""),
    ] {
        registry.set_faults(&faults);
        let run = engine.berth(&["pull", &image]);
        assert_eq!(run.code, 1, "{faults:?}: {run:?}");
        assert!(run.stderr.contains(words), "{faults:?}: {run:?}");
        assert_no_image(&engine);
    }
    // By digest, what comes must be what was asked for.
    registry.set_faults(&[fault("manifests/sha256", How::Garbage, 9)]);
    let pinned = registry.name(&format!("large@{manifest}"));
    assert_eq!(engine.berth(&["pull", &pinned]).code, 1);
    // One bad copy is asked for again.
    registry.set_faults(&[
        fault(&layer, How::Garbage, 1),
        fault("manifests/1", How::Answer(429, "Retry-After: 0"), 1),
    ]);
    engine.berth(&["pull", &image]).ok();
    assert_usable(&engine, &image);
}

#[test]
fn nobody_answers() {
    let engine = Engine::start_empty(&["--max-download-attempts", "1"]);
    let run = engine.berth(&["pull", "127.0.0.1:5999/x:1"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("127.0.0.1:5999"), "{run:?}");
    // What ships with berth is there for those without a registry.
    let run = engine.berth(&["run", "--rm", "hello-world"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.stderr.contains("the image that ships with berth"),
        "{run:?}"
    );
}

/// Waiting registries hold none of the threads that all share.
#[test]
fn many_stalled_pulls_leave_the_engine_free() {
    let engine = Engine::start_with(&["--max-concurrent-downloads", "0"]);
    let mut content = Content::default();
    let mut faults = Vec::new();
    for number in 0..20 {
        let (blob, diff_id) = oci::layer(&[("f", &oci::noise(number, 100_000))]);
        faults.push(fault(&oci::digest(&blob), How::Hold(50_000), 1));
        let image = content.image(oci::HOST, vec![(blob, diff_id)]);
        content.tag(&number.to_string(), &image);
    }
    let registry = FaultyRegistry::start(&engine, 5000, content, &faults);
    let pulls: Vec<Child> = (0..20)
        .map(|number| start(&engine, &["pull", &registry.name(&format!("x:{number}"))]))
        .collect();
    registry.until_held(16);
    assert_eq!(
        engine
            .berth(&["run", "--rm", "busybox", "echo", "free"])
            .ok(),
        "free"
    );
    registry.release();
    for pull in pulls {
        succeeds(pull);
    }
}

#[test]
fn a_killed_push_is_done_again() {
    for tool in ["docker-registry", "curl"] {
        if !possible(tool, installed(tool)) {
            return;
        }
    }
    let mut engine = Engine::start_empty(&[]);
    let (content, layer, _) = large();
    let manifest = content.manifests["1"].1.clone();
    let source = FaultyRegistry::start(&engine, 5001, content, &[]);
    engine.berth(&["pull", &source.name("large:1")]).ok();
    let registry = Registry::start(&engine, 5000);
    let image = registry.name("large:1");
    engine.berth(&["tag", &source.name("large:1"), &image]).ok();
    let url = format!("http://x/images/{}/push?tag=1", registry.name("large"));
    let mut push = Command::new("curl")
        .args(["-sN", "-X", "POST", "--unix-socket"])
        .arg(engine.socket())
        .arg(&url)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // An upload has begun when the registry has something of it.
    let uploads = engine
        .dir()
        .join("registry-5000/docker/registry/v2/repositories/large/_uploads");
    eventually("the upload has begun", || uploads.exists().then_some(()));
    engine.kill();
    let _ = push.wait();
    engine.launch();
    let run = Run::new(
        Command::new("curl")
            .args(["-s", "-X", "POST", "--unix-socket"])
            .arg(engine.socket())
            .arg(&url),
        b"",
    )
    .ok();
    assert!(run.contains(&format!("1: digest: {manifest}")), "{run}");
    let digests = engine
        .berth(&["image", "inspect", "-f", "{{json .RepoDigests}}", &image])
        .ok();
    assert!(
        digests.contains(&registry.name(&format!("large@{manifest}"))),
        "{digests}"
    );
    engine
        .berth(&["rmi", "-f", &image, &source.name("large:1")])
        .ok();
    source.forget_served();
    engine.berth(&["pull", &image]).ok();
    assert_eq!(source.served(&layer), 0);
    let id = engine
        .berth(&["image", "inspect", "-f", "{{.Id}}", &image])
        .ok();
    assert_eq!(id, manifest);
}

/// Clients that begin to upload and then say nothing hold none either.
#[test]
fn many_stalled_loads_leave_the_engine_free() {
    let engine = Engine::start();
    let mut loads: Vec<Child> = (0..20)
        .map(|_| {
            let mut load = engine
                .command("berth")
                .arg("load")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            use std::io::Write as _;
            load.stdin.as_mut().unwrap().write_all(&[0; 100]).unwrap();
            load
        })
        .collect();
    eventually("all have begun", || {
        (engine.log().matches("images/load").count() >= 20).then_some(())
    });
    assert_eq!(
        engine
            .berth(&["run", "--rm", "busybox", "echo", "free"])
            .ok(),
        "free"
    );
    for load in &mut loads {
        load.kill().unwrap();
        load.wait().unwrap();
    }
}

#[test]
fn the_limit_is_for_the_whole_engine() {
    let engine = Engine::start_empty(&["--max-concurrent-downloads", "2"]);
    let mut content = Content::default();
    let mut faults = Vec::new();
    for number in 0..6 {
        let (blob, diff_id) = oci::layer(&[("f", &oci::noise(number, 100_000))]);
        faults.push(fault(&oci::digest(&blob), How::Hold(50_000), 1));
        let image = content.image(oci::HOST, vec![(blob, diff_id)]);
        content.tag(&number.to_string(), &image);
    }
    let registry = FaultyRegistry::start(&engine, 5000, content, &faults);
    let pulls: Vec<Child> = (0..6)
        .map(|number| start(&engine, &["pull", &registry.name(&format!("x:{number}"))]))
        .collect();
    eventually("all have asked for their image", || {
        (registry.requests("GET /v2/x/manifests/") == 6).then_some(())
    });
    registry.until_held(2);
    registry.release();
    for pull in pulls {
        succeeds(pull);
    }
    assert!(registry.most_at_once() <= 2, "{}", registry.most_at_once());
}

#[test]
fn mirrors_and_insecure_registries() {
    let mirror = "10.9.9.9:5000";
    let start = |flags: &[&str]| {
        let engine = Engine::start_empty(flags);
        engine
            .in_network(&["ip", "address", "add", "10.9.9.9/32", "dev", "lo"])
            .ok();
        let (mut content, layer, _) = large();
        let digest = content.manifests["1"].1.clone();
        content.tag("latest", &digest);
        let registry = FaultyRegistry::start_at(&engine, mirror, content, &[]);
        (engine, registry, layer)
    };
    let (engine, registry, layer) = start(&["--registry-mirror", "http://10.9.9.9:5000"]);
    engine.berth(&["pull", "busybox"]).ok();
    assert!(registry.served(&layer) > 0);
    assert_usable(&engine, "docker.io/library/busybox:latest");
    let shown = engine
        .berth(&["info", "--format", "{{json .RegistryConfig}}"])
        .ok();
    assert!(
        shown.contains(r#""Mirrors":["http://10.9.9.9:5000/"]"#),
        "{shown}"
    );
    // Away from the loopback, plain HTTP must be allowed by name.
    engine
        .berth(&["pull", "10.9.9.9:5000/large:1"])
        .fails(1, "10.9.9.9:5000");
    for insecure in ["10.9.9.9:5000", "10.9.0.0/16"] {
        let (engine, _registry, _) = start(&["--insecure-registry", insecure]);
        engine.berth(&["pull", "10.9.9.9:5000/large:1"]).ok();
    }
}
