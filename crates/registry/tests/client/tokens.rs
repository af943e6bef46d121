//! Basic authentication and tokens.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use berth_registry::client::{Access, Client, Credentials, Error};
use bytes::Bytes;
use futures_util::future::join_all;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use crate::rig::{self, MANIFEST, Registry, client, manifest, noise};
use crate::server::{Reply, Seen, Server};

fn login(username: &str, password: &str) -> Credentials {
    Credentials {
        username: username.to_owned(),
        password: password.to_owned(),
        ..Credentials::default()
    }
}

fn basic(username: &str, password: &str) -> String {
    let encoded = BASE64_STANDARD.encode(format!("{username}:{password}"));
    format!("Basic {encoded}")
}

fn image() -> Bytes {
    manifest(&rig::digest(b"x"), 1)
}

/// A registry that gives out tokens itself. `grant` decides, by how many were
/// asked for before and the request; the registry accepts what `accept` does.
async fn issuing(
    grant: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static,
    accept: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> Server {
    let granted = AtomicUsize::new(0);
    let host: Arc<Mutex<String>> = Arc::default();
    let own = Arc::clone(&host);
    let server = Server::start(move |seen| {
        if seen.path.starts_with("/token") {
            return grant(granted.fetch_add(1, Ordering::Relaxed), seen);
        }
        if accept(seen.authorization()) {
            return Reply::new(200)
                .header("content-type", MANIFEST)
                .body(image());
        }
        let realm = format!("http://{}/token", own.lock().unwrap());
        let challenge = format!(r#"Bearer realm="{realm}",service="s",scope="repository:x:pull""#);
        Reply::new(401).header("www-authenticate", challenge)
    })
    .await;
    *host.lock().unwrap() = server.host.clone();
    server
}

fn token(text: impl AsRef<str>) -> Reply {
    Reply::new(200).body(format!(
        r#"{{"token":"{}","expires_in":300}}"#,
        text.as_ref()
    ))
}

async fn pull(server: &Server, client: &Client, credentials: &Credentials) -> Result<(), Error> {
    let repository = client.repository(&server.host, "x", credentials, Access::Pull)?;
    repository.manifest("v1").await.map(drop)
}

#[tokio::test]
async fn one_token_serves_all_who_ask_at_once_and_after() {
    let server = issuing(
        |n, _| token(format!("t{n}")),
        |header| header == "Bearer t0",
    )
    .await;
    let client = client();
    let anonymous = Credentials::default();
    for outcome in join_all((0..20).map(|_| pull(&server, &client, &anonymous))).await {
        outcome.unwrap();
    }
    pull(&server, &client, &anonymous).await.unwrap();
    let lines = server.lines();
    let asked: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("/token"))
        .collect();
    assert_eq!(asked, ["GET /token?service=s&scope=repository%3Ax%3Apull"]);
    // The last one knew what is wanted: it was not refused first.
    assert_eq!(server.seen().last().unwrap().authorization(), "Bearer t0");
    // Other credentials and other scopes do not share it.
    pull(&server, &client, &login("u", "p")).await.unwrap_err();
}

#[tokio::test]
async fn a_token_that_expired_is_replaced_once() {
    let revoked = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&revoked);
    let server = issuing(
        |n, _| token(format!("t{n}")),
        move |header| header == format!("Bearer t{}", now.load(Ordering::Relaxed)),
    )
    .await;
    let client = client();
    let anonymous = Credentials::default();
    pull(&server, &client, &anonymous).await.unwrap();
    // The registry does not accept it any more, whatever was said.
    revoked.store(1, Ordering::Relaxed);
    pull(&server, &client, &anonymous).await.unwrap();
    let asked = server
        .lines()
        .iter()
        .filter(|line| line.contains("/token"))
        .count();
    assert_eq!(asked, 2);
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_is_a_denial() {
    let server = issuing(|n, _| token(format!("t{n}")), |_| false).await;
    let client = client();
    for requests in [3, 5] {
        let error = pull(&server, &client, &Credentials::default())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error:?}");
        let host = &server.host;
        assert_eq!(
            error.to_string(),
            format!(
                "pull access denied for {host}/x, repository does not exist or may require \
                 'docker login': unauthorized: authentication required"
            )
        );
        assert!(server.seen().len() <= requests + 1, "{:?}", server.lines());
    }
    // Also of Basic, and of challenges nobody can answer.
    for challenge in ["Basic realm=\"r\"", "Negotiate", "", "Bearer realm=\"\""] {
        let server =
            Server::start(move |_| Reply::new(401).header("www-authenticate", challenge)).await;
        let error = pull(&server, &client, &login("u", "p")).await.unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{error:?}");
        assert!(server.seen().len() <= 2);
    }
}

#[tokio::test]
async fn passwords_go_to_the_token_server_only() {
    let server = issuing(
        |_, seen| match seen.authorization() {
            header if header == basic("me", "secret") => token("good"),
            _ => Reply::new(401).body(r#"{"details":"incorrect username or password"}"#),
        },
        |header| header == "Bearer good",
    )
    .await;
    let client = client();
    pull(&server, &client, &login("me", "secret"))
        .await
        .unwrap();
    for seen in server.seen() {
        let to_server = seen.path.starts_with("/token");
        assert_eq!(seen.authorization().starts_with("Basic"), to_server);
        assert!(!seen.path.contains("secret"));
    }
    let error = pull(&server, &client, &login("me", "wrong-secret"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("unauthorized: incorrect username or password"),
        "{text}"
    );
    assert!(
        !text.contains("secret") && !text.contains("account"),
        "{text}"
    );
}

#[tokio::test]
async fn identity_and_registry_tokens() {
    let server = issuing(
        |_, seen| {
            let body = String::from_utf8(seen.body.to_vec()).unwrap();
            let wanted = "grant_type=refresh_token&refresh_token=id%2Bentity&service=s&client_id=docker&scope=repository%3Ax%3Apull";
            match (seen.method.as_str(), body.as_str()) {
                ("POST", body) if body == wanted => {
                    assert_eq!(seen.header("content-type"), "application/x-www-form-urlencoded");
                    Reply::new(200).body(r#"{"access_token":"good"}"#)
                }
                _ => Reply::new(400),
            }
        },
        |header| header == "Bearer good" || header == "Bearer raw",
    )
    .await;
    let client = client();
    let identity = Credentials {
        identity_token: "id+entity".to_owned(),
        ..Credentials::default()
    };
    pull(&server, &client, &identity).await.unwrap();
    pull(&server, &client, &login("<token>", "id+entity"))
        .await
        .unwrap();
    let before = server.seen().len();
    let raw = Credentials {
        registry_token: "raw".to_owned(),
        ..Credentials::default()
    };
    pull(&server, &client, &raw).await.unwrap();
    assert!(
        server.lines()[before..]
            .iter()
            .all(|line| !line.contains("/token"))
    );
}

#[tokio::test]
async fn a_token_server_that_knows_only_post() {
    let server = issuing(
        |_, seen| match seen.method.as_str() {
            "GET" => Reply::new(405),
            _ => {
                let body = String::from_utf8(seen.body.to_vec()).unwrap();
                assert!(
                    body.starts_with("grant_type=password&username=me&password=p%26w&"),
                    "{body}"
                );
                token("good")
            }
        },
        |header| header == "Bearer good",
    )
    .await;
    pull(&server, &client(), &login("me", "p&w")).await.unwrap();
}

#[tokio::test]
async fn token_servers_that_misbehave() {
    let client = client();
    for body in [
        "",
        "[]",
        "{}",
        r#"{"token":""}"#,
        r#"{"token":"a\nb"}"#,
        "{\"token\":7}",
    ] {
        let server = issuing(move |_, _| Reply::new(200).body(body), |_| false).await;
        let error = pull(&server, &client, &Credentials::default())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{body}: {error:?}");
    }
    let server = issuing(|_, _| Reply::new(200).endless(), |_| false).await;
    let error = pull(&server, &client, &Credentials::default())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("is longer than 1048576 bytes"),
        "{error}"
    );
    // Busy at first.
    let server = issuing(
        |n, _| {
            if n == 0 {
                Reply::new(503).header("retry-after", 0)
            } else {
                token("good")
            }
        },
        |header| header == "Bearer good",
    )
    .await;
    pull(&server, &client, &Credentials::default())
        .await
        .unwrap();
    // A realm that is no web address.
    let server = Server::start(|_| {
        Reply::new(401).header("www-authenticate", "Bearer realm=\"file:///etc/passwd\"")
    })
    .await;
    let error = pull(&server, &client, &login("u", "p")).await.unwrap_err();
    assert!(error.to_string().contains("invalid token realm"), "{error}");
}

#[tokio::test]
async fn logging_in() {
    let server = issuing(
        |_, seen| match seen.authorization() {
            header if header == basic("me", "secret") => {
                assert!(seen.path.contains("offline_token=true"));
                Reply::new(200).body(r#"{"token":"good","refresh_token":"identity"}"#)
            }
            _ => Reply::new(401).body(r#"{"details":"incorrect username or password"}"#),
        },
        |header| header == "Bearer good",
    )
    .await;
    let client = client();
    let found = client
        .login(&server.host, &login("me", "secret"))
        .await
        .unwrap();
    assert_eq!(found.identity_token, "identity");
    let error = client
        .login(&server.host, &login("me", "no"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("unauthorized: incorrect username or password"),
        "{error}"
    );
}

#[tokio::test]
async fn searching() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/v1/search?q=busy+box&n=5" => Reply::new(200).body(
            r#"{"results":[{"name":"a","description":null,"star_count":3,"is_official":true},{"name":"b"}]}"#,
        ),
        path if path.contains("q=bad") => Reply::new(200).body("<html>"),
        _ => Reply::new(404),
    })
    .await;
    let client = client();
    let anonymous = Credentials::default();
    let search = async |term: &str, limit| {
        client
            .search(&format!("{}/{term}", server.host), limit, &anonymous)
            .await
    };
    let found = search("busy box", 5).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].name.as_str(), found[0].stars, found[0].is_official),
        ("a", 3, true)
    );
    assert!(matches!(search("bad", 0).await, Err(Error::Invalid(_))));
    assert!(matches!(search("x", 0).await, Err(Error::Unsupported(_))));
    let error = search("x", 101).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "limit 101 is outside the range of [1, 100]"
    );
}

/// The real registry with a file of users.
#[tokio::test]
async fn a_registry_with_htpasswd() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("htpasswd");
    let hash = bcrypt::hash("secret", 4).unwrap();
    std::fs::write(&file, format!("me:{hash}\n")).unwrap();
    let section = format!(
        "auth:\n  htpasswd:\n    realm: r\n    path: {}\n",
        file.display()
    );
    let registry = Registry::with("", &section);
    let client = client();
    let open = |credentials: &Credentials, access| {
        client
            .repository(&registry.host, "a", credentials, access)
            .unwrap()
    };
    let blob = noise(200_000);
    let digest = rig::push(&open(&login("me", "secret"), Access::Push), &blob).await;
    assert_eq!(
        rig::read(&open(&login("me", "secret"), Access::Pull), &digest, 0).await,
        blob
    );

    let error = open(&login("me", "wrong"), Access::Pull)
        .manifest("v")
        .await
        .unwrap_err();
    assert!(
        error.to_string().starts_with("pull access denied for "),
        "{error}"
    );
    let error = open(&Credentials::default(), Access::Pull)
        .manifest("v")
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("/v2/a/manifests/v\": no basic auth credentials"),
        "{error}"
    );
    let found = client
        .login(&registry.host, &login("me", "secret"))
        .await
        .unwrap();
    assert_eq!(found.identity_token, "");
    let error = client
        .login(&registry.host, &login("me", "wrong"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "login attempt to http://{}/v2/ failed with status: 401 Unauthorized",
            registry.host
        )
    );
}

/// The real registry with tokens that a server of the test signs.
#[tokio::test]
async fn a_registry_with_tokens() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let bundle = dir.path().join("bundle.pem");
    std::fs::write(&bundle, certificate.pem()).unwrap();

    let der = key.serialize_der();
    let chain = BASE64_STANDARD.encode(certificate.der());
    let issuer = Server::start(move |seen| {
        let url = reqwest::Url::parse(&format!("http://issuer{}", seen.path)).unwrap();
        let access: Vec<String> = url
            .query_pairs()
            .filter(|(name, _)| name == "scope")
            .map(|(_, scope)| {
                let mut parts = scope.split(':');
                let [kind, name, actions] = std::array::from_fn(|_| parts.next().unwrap());
                let actions = actions.replace(',', "\",\"");
                format!(r#"{{"type":"{kind}","name":"{name}","actions":["{actions}"]}}"#)
            })
            .collect();
        if seen.authorization() != basic("me", "secret") {
            return Reply::new(401);
        }
        token(sign(&der, &chain, &access.join(",")))
    })
    .await;
    let section = format!(
        "auth:\n  token:\n    realm: http://{}/token\n    service: s\n    issuer: i\n    rootcertbundle: {}\n",
        issuer.host,
        bundle.display()
    );
    let registry = Registry::with("", &section);
    let client = client();
    let me = login("me", "secret");
    let open = |name, access| {
        client
            .repository(&registry.host, name, &me, access)
            .unwrap()
    };
    let first = open("first", Access::Push);
    let blob = noise(200_000);
    let digest = rig::push(&first, &blob).await;
    let second = open("second", Access::Push);
    assert!(second.mount_blob(&digest, "first").await.unwrap());
    let bytes = manifest(&digest, blob.len());
    let pushed = second
        .push_manifest("v", MANIFEST, bytes.clone())
        .await
        .unwrap();
    assert_eq!(
        open("second", Access::Pull)
            .manifest("v")
            .await
            .unwrap()
            .bytes,
        bytes
    );
    assert_eq!(
        client.catalog(&registry.host, &me).await.unwrap(),
        ["first", "second"]
    );
    second.delete_manifest(&pushed).await.unwrap();
    // One for each set of scopes: push, push and mount, pull, catalog, delete.
    assert!(issuer.seen().len() <= 6, "{:?}", issuer.lines());
    client.login(&registry.host, &me).await.unwrap();
    let error = client
        .login(&registry.host, &login("me", "no"))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("unauthorized: authentication required"),
        "{error}"
    );
}

fn sign(key: &[u8], chain: &str, access: &str) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let header = format!(r#"{{"typ":"JWT","alg":"ES256","x5c":["{chain}"]}}"#);
    let claims = format!(
        r#"{{"iss":"i","sub":"me","aud":"s","exp":{},"nbf":{},"iat":{now},"jti":"1","access":[{access}]}}"#,
        now + 300,
        now - 10
    );
    let encode = |text: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signed = format!(
        "{}.{}",
        encode(header.as_bytes()),
        encode(claims.as_bytes())
    );
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random).unwrap();
    let signature = key.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", encode(signature.as_ref()))
}
