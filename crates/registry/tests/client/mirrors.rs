//! Several places for one registry: `hosts.toml` and mirrors.

use std::fs;

use berth_registry::client::{Access, Client, Credentials, Options, Repository};
use bytes::Bytes;
use tempfile::TempDir;

use crate::rig::{self, MANIFEST, manifest};
use crate::server::{Reply, Server};

fn image() -> Bytes {
    manifest(&rig::digest(b"x"), 1)
}

async fn serving() -> Server {
    Server::start(|_| {
        Reply::new(200)
            .header("content-type", MANIFEST)
            .body(image())
    })
    .await
}

fn with_hosts(name: &str, text: &str) -> (TempDir, Client) {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join(name)).unwrap();
    fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
    let client = Client::new(Options {
        config_dirs: vec![dir.path().to_owned()],
        ..rig::options()
    })
    .unwrap();
    (dir, client)
}

fn login() -> Credentials {
    Credentials {
        username: "u".to_owned(),
        password: "p".to_owned(),
        ..Credentials::default()
    }
}

fn open(client: &Client, host: &str) -> Repository {
    client
        .repository(host, "x", &login(), Access::Pull)
        .unwrap()
}

#[tokio::test]
async fn hosts_are_asked_in_the_order_of_the_file() {
    let missing = Server::start(|_| Reply::new(404)).await;
    let broken = Server::start(|_| Reply::new(500)).await;
    let private = Server::start(|seen| {
        assert_eq!(seen.authorization(), "");
        Reply::new(401).header("www-authenticate", "Basic realm=\"r\"")
    })
    .await;
    let good = serving().await;
    let never = serving().await;
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n\
         [host.\"http://127.0.0.1:1\"]\n[host.\"http://{}/some/where\"]\noverride_path = true\n\
         [host.\"http://{}/some/where\".header]\nx-key = [\"one\", \"two\"]\n",
        never.host, missing.host, broken.host, private.host, good.host, good.host
    );
    let (_dir, client) = with_hosts("r.example_5000_", &text);
    let found = open(&client, "r.example:5000")
        .manifest("v1")
        .await
        .unwrap();
    assert_eq!(found.bytes, image());
    // One that fails is not asked again and again: there is a next one.
    assert_eq!(
        (
            missing.seen().len(),
            broken.seen().len(),
            private.seen().len()
        ),
        (1, 1, 1)
    );
    let seen = &good.seen()[0];
    assert_eq!(seen.line(), "GET /some/where/x/manifests/v1");
    let keys: Vec<_> = seen.headers.get_all("x-key").iter().collect();
    assert_eq!(keys, ["one", "two"]);
    assert!(never.seen().is_empty());
}

#[tokio::test]
async fn capabilities_are_kept_to() {
    let puller = serving().await;
    let resolver = serving().await;
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n\
         [host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        puller.host, resolver.host
    );
    let (_dir, client) = with_hosts("r.example", &text);
    let repository = open(&client, "r.example");
    repository.manifest("v1").await.unwrap();
    repository.manifest(&rig::digest(&image())).await.unwrap();
    assert_eq!((puller.seen().len(), resolver.seen().len()), (1, 1));
    assert!(puller.seen()[0].path.contains("sha256:"));
    // Neither takes what is pushed; the server is not there.
    let writer = client
        .repository("r.example", "x", &login(), Access::Push)
        .unwrap();
    writer
        .push_manifest("v", MANIFEST, image())
        .await
        .unwrap_err();
    assert_eq!((puller.seen().len(), resolver.seen().len()), (1, 1));
}

#[tokio::test]
async fn mirrors_serve_docker_hub_only() {
    let mirror = serving().await;
    let client = Client::new(Options {
        mirrors: vec![format!("http://{}", mirror.host)],
        ..rig::options()
    })
    .unwrap();
    let hub = client
        .repository("docker.io", "library/x", &login(), Access::Pull)
        .unwrap();
    hub.manifest("v1").await.unwrap();
    assert_eq!(mirror.lines(), ["GET /v2/library/x/manifests/v1"]);
    assert_eq!(mirror.seen()[0].authorization(), "");
    let other = serving().await;
    open(&client, &other.host).manifest("v1").await.unwrap();
    assert_eq!((mirror.seen().len(), other.seen().len()), (1, 1));
}

#[tokio::test]
async fn the_same_host_keeps_its_credentials() {
    let own = Server::start(|seen| match seen.authorization() {
        "" => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
        _ => Reply::new(200)
            .header("content-type", MANIFEST)
            .body(image()),
    })
    .await;
    let text = format!("[host.\"http://{}\"]\n", own.host);
    let (dir, client) = with_hosts(&own.host, &text);
    open(&client, &own.host).manifest("v1").await.unwrap();
    // The file is read each time: what is wrong in it is said.
    fs::write(
        dir.path().join(&own.host).join("hosts.toml"),
        "severr = \"x\"",
    )
    .unwrap();
    let error = client
        .repository(&own.host, "x", &login(), Access::Pull)
        .unwrap_err();
    assert!(error.to_string().contains("hosts.toml") && error.to_string().contains("severr"));
}

#[tokio::test]
async fn the_default_folder_serves_all_others() {
    let good = serving().await;
    let (_dir, client) = with_hosts("_default", &format!("[host.\"http://{}\"]\n", good.host));
    open(&client, "any.example").manifest("v1").await.unwrap();
    assert_eq!(good.seen().len(), 1);
}

#[test]
fn options_that_cannot_be() {
    for mirror in [
        "r.example",
        "ftp://r.example",
        "http://u:secret@r.example",
        "http://r.example/?x",
    ] {
        let mirrors = vec![mirror.to_owned()];
        let error = Client::new(Options {
            mirrors,
            ..rig::options()
        })
        .unwrap_err()
        .to_string();
        assert!(
            error.starts_with("invalid mirror: ") && !error.contains("secret"),
            "{error}"
        );
    }
    let insecure = vec!["ftp://x".to_owned()];
    Client::new(Options {
        insecure,
        ..rig::options()
    })
    .unwrap_err();
}

/// Addresses that do not exist are asked through the proxy, this machine not.
/// The environment is that of a process: the test runs itself again with it.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment() {
    const NAME: &str = "mirrors::proxies_of_the_environment";
    if let Ok(local) = std::env::var("BERTH_TEST_LOCAL") {
        let text = "server = \"http://r.invalid\"\n";
        let (dir, client) = with_hosts("r.example", text);
        open(&client, "r.example").manifest("v1").await.unwrap();
        open(&client, &local).manifest("v1").await.unwrap();
        let excepted = dir.path().join("n.example");
        fs::create_dir(&excepted).unwrap();
        fs::write(
            excepted.join("hosts.toml"),
            "server = \"http://no.invalid\"\n",
        )
        .unwrap();
        let error = open(&client, "n.example").manifest("v1").await.unwrap_err();
        assert!(error.to_string().contains("lookup no.invalid"), "{error}");
        return;
    }
    let proxy = serving().await;
    let local = serving().await;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", NAME, "--nocapture"]);
    for (name, value) in [
        ("HTTP_PROXY", format!("http://{}", proxy.host)),
        ("http_proxy", format!("http://{}", proxy.host)),
        ("NO_PROXY", "no.invalid".to_owned()),
        ("no_proxy", "no.invalid".to_owned()),
        ("BERTH_TEST_LOCAL", local.host.clone()),
    ] {
        child.env(name, value);
    }
    let status = tokio::task::spawn_blocking(move || child.status().unwrap()).await;
    assert!(status.unwrap().success());
    assert_eq!(proxy.lines(), ["GET http://r.invalid/v2/x/manifests/v1"]);
    assert_eq!(local.lines(), ["GET /v2/x/manifests/v1"]);
}
