//! An image that was built has no blobs of its layers: it is pushed, saved,
//! checked and run as if it had, and goes through kill -9.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use berth_e2e::Engine;
use berth_e2e::oci::noise;
use berth_e2e::registry::DockerRegistry;

/// Built on busybox with two layers, one of some size; its diff IDs.
fn build(engine: &Engine, name: &str) -> Vec<String> {
    let context = engine.dir().join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("noise"), noise(7, 9 << 20)).unwrap();
    let text = "FROM busybox\nCOPY noise /noise\nRUN ln /noise /again && echo made > /made && rm /etc/group\n";
    std::fs::write(context.join("Dockerfile"), text).unwrap();
    let context = context.to_str().unwrap();
    engine.berth(&["build", "-q", "-t", name, context]).ok();
    let format = "{{json .RootFS.Layers}}";
    let layers = engine.berth(&["image", "inspect", "-f", format, name]).ok();
    serde_json::from_str(&layers).unwrap()
}

fn has_blob(engine: &Engine, digest: &str) -> bool {
    let hex = digest.strip_prefix("sha256:").unwrap();
    let blobs = engine.data_root().join("blobs/sha256");
    assert!(blobs.exists());
    blobs.join(hex).exists()
}

/// What the layers hold, seen by a container.
fn works(engine: &Engine, name: &str) {
    let script = "cat /made; cmp /noise /again && wc -c < /noise; ls /etc/group 2>&1 || true";
    let out = engine
        .berth(&["run", "--rm", name, "sh", "-c", script])
        .ok();
    assert!(out.starts_with("made\n9437184\n"), "{out}");
    assert!(out.contains("No such file"), "{out}");
}

#[test]
fn it_is_pushed_saved_and_run_without_blobs_of_its_layers() {
    let mut engine = Engine::start();
    let registry = DockerRegistry::start(&engine, 5000);
    let name = registry.name("built:1");
    let layers = build(&engine, &name);
    let built = &layers[layers.len() - 2..];
    assert!(built.iter().all(|layer| !has_blob(&engine, layer)));
    works(&engine, &name);

    engine.berth(&["push", &name]).ok();
    let id = engine
        .berth(&["image", "inspect", "-f", "{{.Id}}", &name])
        .ok();
    engine.kill();
    engine.launch();
    works(&engine, &name);
    let archive = engine.dir().join("built.tar");
    engine
        .berth(&["save", "-o", archive.to_str().unwrap(), &name])
        .ok();
    engine.berth(&["system", "check"]).ok();
    assert!(built.iter().all(|layer| !has_blob(&engine, layer)));
    // Pulled or loaded where the layers are, none comes twice.
    engine.berth(&["pull", "-q", &name]).ok();
    engine
        .berth(&["load", "-q", "-i", archive.to_str().unwrap()])
        .ok();
    assert!(built.iter().all(|layer| !has_blob(&engine, layer)));

    // From the registry, when nothing of it is left here.
    engine.berth(&["rmi", "-f", &name]).ok();
    engine.berth(&["builder", "prune", "--all", "--force"]).ok();
    engine.berth(&["pull", "-q", &name]).ok();
    assert!(built.iter().all(|layer| has_blob(&engine, layer)));
    let again = engine
        .berth(&["image", "inspect", "-f", "{{.Id}}", &name])
        .ok();
    assert_eq!(again, id);
    works(&engine, &name);
    engine.berth(&["system", "check"]).ok();

    // And from the archive, anywhere.
    let other = Engine::start_empty(&[]);
    other
        .berth(&["load", "-q", "-i", archive.to_str().unwrap()])
        .ok();
    let there = other
        .berth(&["image", "inspect", "-f", "{{.Id}}", &name])
        .ok();
    assert_eq!(there, id);
    works(&other, &name);
}

/// Overlayfs leaves other things behind on layers of another form.
#[test]
fn layers_are_the_same_in_whatever_form_the_store_keeps_them() {
    let text = r#"FROM busybox
RUN mkdir -p /new/in /etc/a/b /opt/m && ln -s b /etc/a/l && mkfifo /new/p && chmod 1777 /new
RUN rm -rf /etc/a && mkdir -m 700 /etc/a && mkdir /moved && mkdir /moved/sub && mv /moved /etc/a/ && mv /opt/m /etc/a/b
RUN rm -rf /new && mkdir -p /new/in/deep && ls -A /etc/a > /seen
RUN test "$(echo $(cat /seen) $(ls -A /new))" = "b moved in" && test ! -e /etc/a/l
"#;
    let layers = ["directory", "erofs"].map(|form| {
        let engine = Engine::start_form_in(&std::env::temp_dir(), &[], Some(form));
        engine.import_busybox();
        let built = engine.berth_with(&["build", "-q", "-t", "forms", "-"], text.as_bytes());
        built.ok();
        let format = "{{json .RootFS.Layers}}";
        let inspected = engine.berth(&["image", "inspect", "-f", format, "forms"]);
        let layers: Vec<String> = serde_json::from_str(&inspected.ok()).unwrap();
        assert_eq!(layers.len(), 4);
        layers
    });
    assert_eq!(layers[0], layers[1]);
}
