//! Real containers, through the real launcher and monitor. Each test has its
//! own data root, control groups and network namespace.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_api::Kind;
use berth_api::container::{CreateRequest, Update, WaitCondition};
use berth_api::exec::ExecConfig;
use berth_api::filters::Filters;
use berth_engine::{AttachOptions, Config, Engine, LogOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The program under test: beside the test's own directory, or as said.
fn runtime() -> PathBuf {
    let path = std::env::var_os("BERTH_RUNTIME").map_or_else(
        || {
            let exe = std::env::current_exe().unwrap();
            exe.parent()
                .unwrap()
                .parent()
                .unwrap()
                .join("berth-runtime")
        },
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "{} is missing: cargo build -p berth-runtime",
        path.display()
    );
    path
}

struct Bed {
    dir: tempfile::TempDir,
    cgroup: String,
}

impl Bed {
    fn config(&self) -> Config {
        Config {
            data_root: self.dir.path().join("data"),
            exec_root: self.dir.path().join("run"),
            runtime: runtime(),
            cgroup_parent: self.cgroup.clone(),
            registries: berth_engine::RegistryOptions::default(),
            bridge: berth_engine::BridgeOptions {
                disabled: true,
                ..Default::default()
            },
            log_driver: "json-file".into(),
            log_opts: BTreeMap::new(),
            labels: Vec::new(),
            default_ulimits: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_opts: Vec::new(),
            default_shm_size: 64 << 20,
            default_ipc_mode: "private".into(),
            default_cgroupns_mode: String::new(),
            default_stop_timeout: 10,
            no_new_privileges: false,
            seccomp_profile: std::env::var("BERTH_TEST_SECCOMP")
                .unwrap_or_else(|_| "builtin".into()),
            init: false,
            experimental: false,
            debug: false,
            network_pool: 1,
            image_gc: berth_engine::Limits::default(),
            build_gc: berth_engine::BuildGc::Off,
        }
    }
}

impl Drop for Bed {
    /// Ends the launcher and whatever a failed test left, by its own group.
    fn drop(&mut self) {
        let host = berth_cgroup::Host::detect().expect("control groups");
        let group = berth_cgroup::Cgroup::open(&host, &self.cgroup);
        let ended = group.kill_all().and_then(|()| group.remove());
        ended.expect("remove the test's control group");
    }
}

/// Runs a test with an engine and an image "busybox".
fn with_engine<F: Future<Output = ()>>(test: impl FnOnce(Config, Engine) -> F) {
    let bed = Bed {
        dir: tempfile::tempdir().unwrap(),
        cgroup: format!("/berth-test-{}", std::process::id()),
    };
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(async {
        let engine = Engine::open(bed.config()).await.unwrap();
        import_busybox(&engine).await;
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, test(bed.config(), engine))
            .await
            .unwrap();
    });
}

async fn import_busybox(engine: &Engine) {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is needed");
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, data: &[u8], link: Option<&str>| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(data.len() as u64);
        if let Some(link) = link {
            tar.append_link(&mut header, name, link).unwrap();
        } else {
            tar.append_data(&mut header, name, data).unwrap();
        }
    };
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        add(dir, tar::EntryType::Directory, &[], None);
    }
    add("bin/busybox", tar::EntryType::Regular, &busybox, None);
    add(
        "etc/passwd",
        tar::EntryType::Regular,
        b"root:x:0:0::/root:/bin/sh\n",
        None,
    );
    for name in ["sh", "true", "echo", "cat", "sleep", "ls", "id", "touch"] {
        add(
            &format!("bin/{name}"),
            tar::EntryType::Symlink,
            &[],
            Some("busybox"),
        );
    }
    let archive = tar.into_inner().unwrap();
    let (mut write, read) = tokio::io::duplex(64 * 1024);
    let writer = tokio::spawn(async move {
        write.write_all(&archive).await.unwrap();
    });
    let changes = ["CMD [\"sh\"]".to_owned()];
    engine
        .image_import(read, "busybox", "", "", &changes, "")
        .await
        .unwrap();
    writer.await.unwrap();
}

fn request(words: &[&str]) -> CreateRequest {
    let mut request = CreateRequest::default();
    request.config.image = "busybox".into();
    request.config.cmd = Some(
        words
            .iter()
            .map(|w| (*w).to_owned())
            .collect::<Vec<_>>()
            .into(),
    );
    request.host_config.network_mode = "none".into();
    request
}

async fn create(engine: &Engine, name: &str, request: CreateRequest) -> String {
    engine.container_create(name, "", request).await.unwrap().id
}

async fn logs(engine: &Engine, name: &str, follow: bool) -> String {
    let options = LogOptions {
        stdout: true,
        stderr: true,
        follow,
        ..LogOptions::default()
    };
    let mut logs = engine.container_logs(name, options).await.unwrap();
    let mut decoder = berth_api::frame::Decoder::default();
    let mut text = String::new();
    while let Some(chunk) = logs.chunks.recv().await {
        decoder.push(&chunk.unwrap());
        while let Some((_, bytes)) = decoder.next_frame().unwrap() {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
    text
}

async fn wait(engine: &Engine, name: &str, condition: WaitCondition) -> i64 {
    let reply = engine.container_wait(name, condition).await.unwrap();
    reply.await.unwrap().status_code
}

fn gone(path: &Path) {
    assert!(!path.exists(), "{} is left behind", path.display());
}

#[test]
fn runs_logs_and_is_removed() {
    with_engine(|config, engine| async move {
        let id = create(
            &engine,
            "one",
            request(&["sh", "-c", "echo out; echo err >&2; exit 3"]),
        )
        .await;
        let end = engine
            .container_wait("one", WaitCondition::NextExit)
            .await
            .unwrap();
        engine.container_start("one").await.unwrap();
        assert_eq!(end.await.unwrap().status_code, 3);
        let text = logs(&engine, "one", false).await;
        assert!(text.contains("out\n") && text.contains("err\n"), "{text}");
        let inspect = engine.container_inspect(&id[..12], false).await.unwrap();
        assert_eq!(
            (inspect.state.status.as_str(), inspect.state.exit_code),
            ("exited", 3)
        );
        engine.container_remove("one", false, true).await.unwrap();
        assert_eq!(
            engine
                .container_inspect("one", false)
                .await
                .unwrap_err()
                .message,
            "No such container: one"
        );
        gone(&config.data_root.join("containers").join(&id));
        gone(&config.exec_root.join("containers").join(&id));
        engine.close().await;
    });
}

#[test]
fn failures_are_dockers() {
    with_engine(|_config, engine| async move {
        create(&engine, "bad", request(&["nosuch"])).await;
        let error = engine.container_start("bad").await.unwrap_err();
        assert_eq!(error.kind, Kind::Invalid, "{error}");
        assert!(
            error.message.contains("executable file not found in $PATH"),
            "{error}"
        );
        assert_eq!(
            engine
                .container_inspect("bad", false)
                .await
                .unwrap()
                .state
                .exit_code,
            127
        );
        let taken = engine
            .container_create("bad", "", request(&["true"]))
            .await
            .unwrap_err();
        assert!(
            taken
                .message
                .starts_with("Conflict. The container name \"/bad\""),
            "{taken}"
        );
        let mut missing = request(&["true"]);
        missing.config.image = "nosuch".into();
        let error = engine.container_create("", "", missing).await.unwrap_err();
        assert_eq!(error.message, "No such image: nosuch:latest");
    });
}

#[test]
fn attached_exec_stop_and_auto_remove() {
    with_engine(|_config, engine| async move {
        let mut cat = request(&["cat"]);
        cat.config.open_stdin = true;
        cat.config.stdin_once = true;
        cat.host_config.auto_remove = true;
        create(&engine, "cat", cat).await;
        let options = AttachOptions {
            stdin: true,
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachOptions::default()
        };
        let mut stream = engine
            .container_attach("cat", options)
            .await
            .unwrap()
            .stream
            .unwrap();
        let removed = engine
            .container_wait("cat", WaitCondition::Removed)
            .await
            .unwrap();
        engine.container_start("cat").await.unwrap();
        stream.write_all(b"hello\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x06hello\n");
        assert_eq!(removed.await.unwrap().status_code, 0);
        assert!(engine.container_inspect("cat", false).await.is_err());

        create(&engine, "sleep", request(&["sleep", "1000"])).await;
        engine.container_start("sleep").await.unwrap();
        let exec = ExecConfig {
            cmd: ["sh", "-c", "echo in; exit 5"].map(str::to_owned).into(),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecConfig::default()
        };
        let id = engine.exec_create("sleep", exec).await.unwrap().id;
        let attached = engine
            .exec_start(&id, false, false, (0, 0))
            .await
            .unwrap()
            .unwrap();
        let mut bytes = Vec::new();
        attached
            .stream
            .unwrap()
            .read_to_end(&mut bytes)
            .await
            .unwrap();
        assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x03in\n");
        while engine.exec_inspect(&id).await.unwrap().running {
            tokio::task::yield_now().await;
        }
        assert_eq!(engine.exec_inspect(&id).await.unwrap().exit_code, Some(5));

        engine.container_pause("sleep").await.unwrap();
        assert!(
            engine
                .container_pause("sleep")
                .await
                .unwrap_err()
                .message
                .contains("already paused")
        );
        engine.container_unpause("sleep").await.unwrap();
        let top = engine.container_top("sleep", "").await.unwrap();
        assert_eq!(top.processes.len(), 1, "{top:?}");
        let update = Update {
            pids_limit: Some(7),
            ..Update::default()
        };
        engine.container_update("sleep", update).await.unwrap();
        let stats = engine.container_stats("sleep", None).await.unwrap();
        assert_eq!(stats.pids_stats.limit, 7);
        engine
            .container_stop("sleep", "KILL", Some(5))
            .await
            .unwrap();
        assert_eq!(
            engine
                .container_inspect("sleep", false)
                .await
                .unwrap()
                .state
                .exit_code,
            137
        );
        engine.container_remove("sleep", true, true).await.unwrap();
    });
}

#[test]
fn survives_a_restart_of_the_engine() {
    with_engine(|config, engine| async move {
        create(
            &engine,
            "on",
            request(&[
                "sh",
                "-c",
                "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done",
            ]),
        )
        .await;
        create(&engine, "ends", request(&["sh", "-c", "read x; exit 4"])).await;
        engine.container_start("on").await.unwrap();
        let pid = engine
            .container_inspect("on", false)
            .await
            .unwrap()
            .state
            .pid;
        engine.close().await;
        drop(engine);
        // The data root's lock goes with the last task of the old engine.
        let engine = loop {
            match Engine::open(config.clone()).await {
                Ok(engine) => break engine,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let state = engine.container_inspect("on", false).await.unwrap().state;
        assert_eq!((state.status.as_str(), state.pid), ("running", pid));
        engine.container_kill("on", "").await.unwrap();
        assert_eq!(wait(&engine, "on", WaitCondition::NotRunning).await, 137);
        let text = logs(&engine, "on", true).await;
        for (number, line) in text.lines().enumerate() {
            assert_eq!(line, number.to_string(), "a line is missing");
        }
        let listed = engine
            .container_list(true, 0, false, &Filters::default())
            .await
            .unwrap();
        assert_eq!(listed.len(), 2);
        for name in ["on", "ends"] {
            engine.container_remove(name, true, true).await.unwrap();
        }
    });
}
