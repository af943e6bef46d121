//! Other people's clients, and our own, at `berth registry serve`: digests are
//! equal on all sides; passwords, tokens and TLS.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use berth_e2e::oci::{self, Content, noise};
use berth_e2e::serve::{Served, curl};
use berth_e2e::{Run, installed, possible};
use serde_json::{Value, json};

/// User "ann" with the password "secret".
const USERS: &str = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

fn two_platforms() -> (Content, String) {
    let mut content = Content::default();
    let shared = oci::layer(&[("shared", &noise(1, 200_000))]);
    let one = content.image("amd64", vec![shared.clone()]);
    let two = content.image("arm64", vec![shared, oci::layer(&[("own", b"2")])]);
    let index = content.index(&[(&one, "amd64"), (&two, "arm64")], &[]);
    content.tag("multi", &index);
    content.tag("one", &one);
    (content, index)
}

fn with_users() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(dir.path().join("users"), USERS).unwrap();
    dir
}

#[test]
fn skopeo_copies_all_platforms() {
    if !possible("skopeo", installed("skopeo")) {
        return;
    }
    let registry = Served::start(&[]);
    let (content, index) = two_platforms();
    let layout = registry.dir().join("layout");
    content.write_layout(&layout, "multi", &index);
    let from = format!("oci:{}:multi", layout.display());
    let name = format!("docker://{}/team/app:v1", registry.host);
    let copy = |from: &str, to: &str| {
        let flags = [
            "copy",
            "--all",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
        ];
        let mut args: Vec<&str> = flags.to_vec();
        args.retain(|flag| !flag.contains("src") || from.starts_with("docker:"));
        args.retain(|flag| !flag.contains("dest") || to.starts_with("docker:"));
        registry.skopeo(&[&args[..], &[from, to]].concat()).ok();
    };
    copy(&from, &name);
    // Within the registry: by mount.
    copy(&name, &format!("docker://{}/other:v2", registry.host));
    let back = registry.dir().join("back");
    copy(
        &format!("docker://{}/other:v2", registry.host),
        &format!("oci:{}:x", back.display()),
    );
    for digest in content.blobs.keys() {
        let hex = digest.trim_start_matches("sha256:");
        let bytes = std::fs::read(back.join("blobs/sha256").join(hex)).unwrap();
        assert_eq!(oci::digest(&bytes), *digest);
    }
    for path in ["/v2/team/app/manifests/v1", "/v2/other/manifests/v2"] {
        assert_eq!(
            registry.curl(path, &["-I"]).header("docker-content-digest"),
            index
        );
    }
    // One platform picked out, as a Docker image.
    let archive = format!(
        "docker-archive:{}:x:y",
        registry.dir().join("a.tar").display()
    );
    registry
        .skopeo(&[
            "--override-arch",
            "arm64",
            "copy",
            "--src-tls-verify=false",
            &name,
            &archive,
        ])
        .ok();
    // Deletion by skopeo.
    registry
        .skopeo(&["delete", "--tls-verify=false", &name])
        .ok();
    assert_eq!(registry.curl("/v2/team/app/manifests/v1", &[]).status, 404);
}

/// Podman or buildah with a storage of its own.
fn with_storage(registry: &Served, program: &str, args: &[&str]) -> Run {
    let root = registry.dir().join("storage");
    let run = registry.dir().join("run");
    let mut all = vec!["--storage-driver", "vfs", "--root", root.to_str().unwrap()];
    all.extend(["--runroot", run.to_str().unwrap()]);
    all.extend(args);
    registry.tool(program, &all)
}

#[test]
fn podman_and_buildah_push_and_pull() {
    let registry = Served::start(&[]);
    let (content, _) = two_platforms();
    registry.push("app", &content);
    let own = &content.manifests["one"].1;
    let image = format!("{}/app:one", registry.host);
    for program in ["podman", "buildah"] {
        if !possible(program, installed(program)) {
            continue;
        }
        let tool = |args: &[&str]| with_storage(&registry, program, args);
        tool(&["pull", "--tls-verify=false", &image]).ok();
        let copy = format!("docker://{}/from/{program}:x", registry.host);
        tool(&["push", "--tls-verify=false", &image, &copy]).ok();
        let path = format!("/v2/from/{program}/manifests/x");
        // The storage keeps what was pulled, so the same is pushed, unless the
        // program compresses anew: then its image is whole all the same.
        let pushed = registry.curl(&path, &[]);
        assert_eq!(pushed.status, 200);
        let config = |bytes: &[u8]| {
            let manifest: Value = serde_json::from_slice(bytes).unwrap();
            manifest["config"]["digest"].clone()
        };
        assert_eq!(config(&pushed.body), config(&content.blobs[own]));
        tool(&["rmi", "-f", &image]).ok();
        let again = format!("{}/from/{program}:x", registry.host);
        tool(&["pull", "--tls-verify=false", &again]).ok();
    }
}

#[test]
fn passwords() {
    let dir = with_users();
    let users = dir.path().join("users").display().to_string();
    let registry = Served::start_in(dir, &["--htpasswd", &users]);
    let (content, _) = two_platforms();
    let refused = registry.curl("/v2/", &[]);
    refused.is_error(401, "UNAUTHORIZED");
    assert_eq!(
        refused.header("www-authenticate"),
        "Basic realm=\"berth registry\""
    );
    registry
        .curl("/v2/", &["-u", "ann:wrong"])
        .is_error(401, "UNAUTHORIZED");
    registry
        .curl("/v2/", &["-u", "bob:secret"])
        .is_error(401, "UNAUTHORIZED");
    registry
        .curl("/v2/_catalog", &[])
        .is_error(401, "UNAUTHORIZED");
    registry
        .curl("/v2/app/blobs/uploads/", &["-X", "POST"])
        .is_error(401, "UNAUTHORIZED");
    assert_eq!(registry.curl("/v2/", &["-u", "ann:secret"]).status, 200);
    push_with_skopeo(&registry, &content);
}

/// Login and copy, if skopeo is installed; our own client as well.
fn push_with_skopeo(registry: &Served, content: &Content) {
    let index = &content.manifests["multi"].1;
    let layout = registry.dir().join("layout");
    content.write_layout(&layout, "multi", index);
    if !possible("skopeo", installed("skopeo")) {
        return;
    }
    let from = format!("oci:{}:multi", layout.display());
    let to = format!("docker://{}/app:v1", registry.host);
    let copy = || registry.skopeo(&["copy", "--all", "--dest-tls-verify=false", &from, &to]);
    assert_ne!(copy().code, 0, "it can push without a password");
    let login = |password: &str| {
        registry.skopeo(&[
            "login",
            "--tls-verify=false",
            "-u",
            "ann",
            "-p",
            password,
            &registry.host,
        ])
    };
    assert_ne!(login("wrong").code, 0);
    login("secret").ok();
    copy().ok();
    let inspect = registry
        .skopeo(&["inspect", "--raw", "--tls-verify=false", &to])
        .ok();
    assert_eq!(oci::digest(inspect.as_bytes()), *index);
    let list = registry.skopeo(&[
        "list-tags",
        "--tls-verify=false",
        to.trim_end_matches(":v1"),
    ]);
    assert!(list.ok().contains("\"v1\""));

    // Our own, with the same credentials.
    let auths = std::fs::read(registry.dir().join("auth.json")).unwrap();
    std::fs::create_dir_all(registry.dir().join("config")).unwrap();
    std::fs::write(registry.dir().join("config/config.json"), auths).unwrap();
    let names = registry.berth(&["registry", "ls", &registry.host]).ok();
    assert!(
        names.contains("app") && names.starts_with("REPOSITORY"),
        "{names}"
    );
    registry
        .berth(&["registry", "rm", "-f", &format!("{}/app:v1", registry.host)])
        .ok();
}

#[test]
fn tokens_of_its_own() {
    let dir = with_users();
    let users = dir.path().join("users").display().to_string();
    let flags = [
        "--htpasswd",
        &users,
        "--htpasswd-tokens",
        "--anonymous-pull",
    ];
    let mut registry = Served::start_in(dir, &flags);
    let (content, _) = two_platforms();
    let refused = registry.curl("/v2/app/manifests/v1", &[]);
    refused.is_error(401, "UNAUTHORIZED");
    let want = format!(
        "Bearer realm=\"{}/token\",service=\"berth-registry\",scope=\"repository:app:pull\"",
        registry.url
    );
    assert_eq!(refused.header("www-authenticate"), want);
    push_with_skopeo(&registry, &content);

    let bearer = |token: &Value| format!("Authorization: Bearer {}", token.as_str().unwrap());
    let catalog = |token: &Value| {
        registry
            .curl("/v2/_catalog", &["-H", &bearer(token)])
            .status
    };
    // Nobody in particular: may pull and no more.
    let scope = "scope=repository:app:pull,push&scope=registry:catalog:*";
    let token = registry
        .curl(&format!("/token?service=x&{scope}"), &[])
        .json()["token"]
        .clone();
    let pull = |token: &Value| {
        registry
            .curl("/v2/app/manifests/multi", &["-H", &bearer(token)])
            .status
    };
    assert_eq!(pull(&token), 404);
    let reply = registry.curl(
        "/v2/app/blobs/uploads/",
        &["-X", "POST", "-H", &bearer(&token)],
    );
    reply.is_error(401, "UNAUTHORIZED");
    assert!(
        reply
            .header("www-authenticate")
            .contains("error=\"insufficient_scope\"")
    );
    assert_eq!(catalog(&token), 401);
    // OAuth2 with a password, and then with the refresh token.
    let form = |fields: &str| registry.send("/token", &["-X", "POST"], fields.as_bytes());
    let login = "grant_type=password&username=ann&access_type=offline&client_id=x&service=x";
    form(&format!("{login}&password=wrong")).is_error(401, "UNAUTHORIZED");
    let answer = form(&format!("{login}&password=secret&scope=registry:catalog:*")).json();
    assert_eq!(catalog(&answer["access_token"]), 200);
    let refresh = answer["refresh_token"].as_str().unwrap();
    assert_eq!(catalog(&json!(refresh)), 401);
    let again =
        format!("grant_type=refresh_token&refresh_token={refresh}&scope=registry:catalog:*");
    assert_eq!(catalog(&form(&again).json()["access_token"]), 200);
    form("grant_type=refresh_token&refresh_token=x").is_error(401, "UNAUTHORIZED");
    // The key is nobody else's, and stays.
    use std::os::unix::fs::PermissionsExt as _;
    let key = registry.root().join("token.key").metadata().unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let token = answer["access_token"].clone();
    registry.stop();
    registry.launch();
    let header = format!("Authorization: Bearer {}", token.as_str().unwrap());
    assert_eq!(registry.curl("/v2/_catalog", &["-H", &header]).status, 200);
    // A new password ends the refresh token.
    std::fs::write(&users, USERS.replace("ann:", "bob:")).unwrap();
    let reply = registry.send("/token", &["-X", "POST"], again.as_bytes());
    reply.is_error(401, "UNAUTHORIZED");
}

/// The public key of a registry's tokens as a JSON web key set.
fn key_set(registry: &Served) -> String {
    let pkcs8 = std::fs::read(registry.root().join("token.key")).unwrap();
    // RFC 8410: the public key is the end of it.
    let public = &pkcs8[pkcs8.len() - 32..];
    let text = Run::new(Command::new("base64").arg("-w0"), public).ok();
    let x = text.replace('+', "-").replace('/', "_").replace('=', "");
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string()
}

#[test]
fn tokens_of_another_server() {
    let dir = with_users();
    let users = dir.path().join("users").display().to_string();
    let tokens = Served::start_in(dir, &["--htpasswd", &users, "--htpasswd-tokens"]);
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let keys = dir.path().join("keys.json");
    std::fs::write(&keys, key_set(&tokens)).unwrap();
    let realm = format!("{}/token", tokens.url);
    let flags = [
        "--token-realm",
        &realm,
        "--token-service",
        "berth-registry",
        "--token-issuer",
        "berth-registry",
        "--token-keys",
        keys.to_str().unwrap(),
    ];
    let registry = Served::start_in(dir, &flags);
    let (content, _) = two_platforms();
    registry.curl("/token", &[]).is_error(404, "UNSUPPORTED");
    push_with_skopeo(&registry, &content);
}

fn certificate(dir: &Path, name: &str, more: &[&str]) -> (String, String) {
    let path = |end: &str| dir.join(format!("{name}.{end}")).display().to_string();
    let (cert, key) = (path("crt"), path("key"));
    let run = Run::new(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "2", "-subj", "/CN=berth test"])
            .args([
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                &key,
                "-out",
                &cert,
            ])
            .args(more),
        b"",
    );
    run.ok();
    (cert, key)
}

#[test]
fn tls_and_client_certificates() {
    if !possible("openssl", installed("openssl")) {
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (cert, key) = certificate(dir.path(), "server", &[]);
    let (ca, ca_key) = certificate(dir.path(), "ca", &[]);
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
    let signed = [&leaf[..], &["-CA", &ca, "-CAkey", &ca_key]].concat();
    let (client, client_key) = certificate(dir.path(), "client", &signed);
    let (other, other_key) = certificate(dir.path(), "other", &leaf);
    let flags = [
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--tls-client-ca",
        &ca,
    ];
    let registry = Served::start_in(dir, &flags);
    assert!(registry.url.starts_with("https://"));
    let with = |cert: &str, key: &str| {
        let args = [
            "--cacert",
            &registry.dir().join("server.crt").display().to_string(),
            "--cert",
            cert,
            "--key",
            key,
        ]
        .map(str::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let url = format!("{}/v2/", registry.url);
        Run::new(
            Command::new("curl")
                .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"])
                .args(&args)
                .arg(&url),
            b"",
        )
    };
    assert_eq!(with(&client, &client_key).ok(), "200");
    assert_ne!(with(&other, &other_key).code, 0);
    // A new certificate is served without a restart.
    let before = std::fs::read(&cert).unwrap();
    certificate(registry.dir(), "server", &[]);
    assert_ne!(std::fs::read(&cert).unwrap(), before);
    berth_e2e::eventually("the new certificate is served", || {
        (with(&client, &client_key).code == 0).then_some(())
    });
}

#[test]
fn our_own_commands() {
    let registry = Served::start(&[]);
    let (content, index) = two_platforms();
    registry.push("team/app", &content);
    let place = format!("{}/team/app", registry.host);
    let berth = |args: &[&str]| registry.berth(args);
    let names = berth(&["registry", "ls", &registry.host]).ok();
    assert_eq!(
        names.split_whitespace().collect::<Vec<_>>(),
        ["REPOSITORY", "TAGS", "team/app", "2"]
    );
    let row = berth(&[
        "registry",
        "ls",
        "--format",
        "{{.Tag}} {{.Digest}} {{.Platforms}}",
        &place,
    ])
    .ok();
    let one = &content.manifests["one"].1;
    assert_eq!(
        row,
        format!("multi {index} linux/amd64, linux/arm64\none {one} linux/amd64")
    );
    let json = berth(&["registry", "ls", "--json", &place]).ok();
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(first["Tag"], "multi");

    let text = berth(&[
        "registry",
        "inspect",
        &format!("{place}:one"),
        &format!("{place}@{index}"),
    ])
    .ok();
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shown[0]["Digest"], **one);
    assert_eq!(shown[0]["Config"]["architecture"], "amd64");
    assert_eq!(shown[0]["Manifest"]["layers"].as_array().unwrap().len(), 1);
    assert_eq!(shown[1]["Index"]["manifests"].as_array().unwrap().len(), 2);
    let digest = berth(&[
        "registry",
        "inspect",
        "-f",
        "{{.Digest}}",
        &format!("{place}:one"),
    ])
    .ok();
    assert_eq!(digest, **one);
    berth(&["registry", "inspect", &format!("{place}:none")]).fails(1, "not found");

    let tag = format!("{place}:one");
    registry
        .berth_with(&["registry", "rm", &tag], b"n\n")
        .fails(1, "cancelled");
    berth(&["registry", "rm", "-f", &place]).fails(1, "names no image");
    registry.berth_with(&["registry", "rm", &tag], b"y\n").ok();
    berth(&["registry", "rm", "-f", &format!("{place}@{index}")]).ok();
    assert_eq!(
        curl(
            &format!("{}/v2/team/app/manifests/multi", registry.url),
            &[],
            b""
        )
        .status,
        404
    );
    berth(&["registry", "ls", "busybox"]).fails(1, "names no registry");
    berth(&["registry", "serve"]).fails(1, "--root is missing");
    berth(&["registry", "serve", "--root", "/x", "--anonymous-pull"])
        .fails(1, "needs --htpasswd-tokens");
}
