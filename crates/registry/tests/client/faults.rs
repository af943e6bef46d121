//! Registries that are slow, cut, lie, refuse, or never end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_registry::client::{Access, Client, Credentials, Error, Options};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::rig::{self, MANIFEST, client, manifest, noise};
use crate::server::{Reply, Server};

fn patient(timeout: Duration) -> Client {
    let timeout = Some(timeout);
    Client::new(Options {
        timeout,
        ..rig::options()
    })
    .unwrap()
}

async fn pull(server: &Server, client: &Client) -> Result<Bytes, Error> {
    let repository = server.repository(client, Access::Pull);
    repository
        .manifest("v1")
        .await
        .map(|manifest| manifest.bytes)
}

fn image() -> Bytes {
    manifest(&rig::digest(b"x"), 1)
}

/// Answers the nth request with the nth of the replies, or the last.
async fn in_turn(replies: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |seen| match seen.path.as_str() {
        "/v2/" => Reply::new(200),
        _ => replies(count.fetch_add(1, Ordering::Relaxed)),
    })
    .await
}

fn ok() -> Reply {
    Reply::new(200)
        .header("content-type", MANIFEST)
        .body(image())
}

#[tokio::test]
async fn waits_as_long_as_retry_after_says() {
    let server = in_turn(|n| match n {
        0 => Reply::new(429).header("retry-after", 2),
        1 => Reply::new(503).header("retry-after", 1),
        _ => ok(),
    })
    .await;
    assert_eq!(pull(&server, &client()).await.unwrap(), image());
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(2));
    assert!(seen[2].at - seen[1].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn too_many_requests_are_said_in_dockers_words() {
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}"#;
    let server = in_turn(move |_| Reply::new(429).header("retry-after", 3600).body(body)).await;
    let error = pull(&server, &client()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "toomanyrequests: You have reached your pull rate limit"
    );
    // An hour is not waited for.
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn errors_that_pass_are_tried_five_times_others_once() {
    let server = in_turn(|_| Reply::new(502)).await;
    let error = pull(&server, &client()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert_eq!(server.seen().len(), 5);

    let server = in_turn(|_| Reply::new(400).body("\u{1b}[31mno")).await;
    let error = pull(&server, &client()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "received unexpected HTTP status: 400 Bad Request"
    );
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn nobody_answers() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = client();
    let repository = client
        .repository(&host, "x", &Credentials::default(), Access::Pull)
        .unwrap();
    let error = repository.manifest("v1").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Get \"http://{host}/v2/x/manifests/v1\": dial tcp {host}: connect: connection refused"
        )
    );
}

#[tokio::test]
async fn silence_is_an_error_before_and_within_a_body() {
    let client = patient(Duration::from_millis(200));
    let server = in_turn(|n| match n {
        0 => Reply::new(200).stall("abc", 10),
        _ => Reply::new(404),
    })
    .await;
    let repository = server.repository(&client, Access::Pull);
    let mut blob = repository.blob(&rig::digest(b"x"), 0, &[]).await.unwrap();
    assert_eq!(blob.size, Some(10));
    assert_eq!(blob.stream.next().await.unwrap().unwrap(), "abc");
    let error = blob.stream.next().await.unwrap().unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("timeout awaiting response body"),
        "{error}"
    );

    // A listener that accepts, by the kernel, and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let repository = client
        .repository(&host, "x", &Credentials::default(), Access::Pull)
        .unwrap();
    let error = repository.manifest("v1").await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("timeout awaiting response headers"),
        "{error}"
    );
}

#[tokio::test]
async fn a_blob_that_is_cut_goes_on_from_there() {
    let blob = noise(1000);
    let served = blob.clone();
    let server = Server::start(
        move |seen| match (seen.path.as_str(), seen.header("range")) {
            ("/v2/", _) => Reply::new(200),
            (_, "") => Reply::new(200).cut(served.slice(..400), 1000),
            (_, range) => {
                let start: usize = range["bytes=".len()..]
                    .trim_end_matches('-')
                    .parse()
                    .unwrap();
                Reply::new(206)
                    .header("content-range", format!("bytes {start}-999/1000"))
                    .body(served.slice(start..))
            }
        },
    )
    .await;
    let repository = server.repository(&client(), Access::Pull);
    let digest = rig::digest(&blob);
    let mut found = repository.blob(&digest, 0, &[]).await.unwrap();
    let mut all = Vec::new();
    let error = loop {
        match found.stream.next().await.unwrap() {
            Ok(piece) => all.extend_from_slice(&piece),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(found.stream.next().await.is_none());
    assert_eq!(all, blob[..400]);
    let rest = rig::read(&repository, &digest, 400).await;
    assert_eq!(rest, blob[400..]);
}

#[tokio::test]
async fn ranges_that_are_ignored_or_wrong() {
    let blob = noise(1000);
    for (status, range) in [
        (200, None),
        (206, None),
        (206, Some("bytes 0-999/1000")),
        (206, Some("bytes 500-999/1000")),
        (206, Some("garbage")),
        (416, None),
    ] {
        let served = blob.clone();
        let server = Server::start(move |seen| {
            if seen.header("range").is_empty() {
                return Reply::new(200).body(served.clone());
            }
            let reply = Reply::new(status);
            let reply = match range {
                Some(range) => reply.header("content-range", range),
                None => reply,
            };
            reply.body(served.clone())
        })
        .await;
        let repository = server.repository(&client(), Access::Pull);
        let mut found = repository
            .blob(&rig::digest(&blob), 300, &[])
            .await
            .unwrap();
        assert_eq!(
            (found.offset, found.size),
            (0, Some(1000)),
            "{status} {range:?}"
        );
        let mut all = Vec::new();
        while let Some(piece) = found.stream.next().await {
            all.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(all, blob, "{status} {range:?}");
    }
    // A part when all was asked for.
    let served = blob.clone();
    let server = Server::start(move |_| {
        Reply::new(206)
            .header("content-range", "bytes 500-999/1000")
            .body(served.slice(500..))
    })
    .await;
    let repository = server.repository(&client(), Access::Pull);
    for offset in [0, 300] {
        let error = repository
            .blob(&rig::digest(&blob), offset, &[])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("not asked for"), "{error}");
    }
    // A part that ends too early, with a total that says so.
    let server = Server::start(|seen| match seen.header("range") {
        "" => Reply::new(200),
        _ => Reply::new(206)
            .header("content-range", "bytes 300-399/1000")
            .body(noise(100)),
    })
    .await;
    let repository = server.repository(&client(), Access::Pull);
    let found = repository
        .blob(&rig::digest(&blob), 300, &[])
        .await
        .unwrap();
    let pieces: Vec<_> = found.stream.collect().await;
    assert!(pieces.last().unwrap().is_err());
}

#[tokio::test]
async fn manifests_that_are_not_what_was_asked() {
    let other = rig::digest(b"other");
    // Another one than was asked for by its digest.
    let server = in_turn(|_| ok()).await;
    let client = client();
    let repository = server.repository(&client, Access::Pull);
    let error = repository.manifest(&other).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("manifest verification failed for digest"),
        "{error}"
    );
    // Another one than the registry itself says.
    let said = other.clone();
    let server = in_turn(move |_| ok().header("docker-content-digest", &said)).await;
    let error = pull(&server, &client).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    // HEAD by a digest, another in the answer.
    let repository = server.repository(&client, Access::Pull);
    repository
        .manifest_descriptor(&rig::digest(b"y"))
        .await
        .unwrap_err();
    // No JSON; two things at once (CVE-2021-41190).
    for body in ["<html>", r#"{"manifests":[],"layers":[]}"#] {
        let server =
            in_turn(move |_| Reply::new(200).header("content-type", MANIFEST).body(body)).await;
        let error = pull(&server, &client).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    }
}

#[tokio::test]
async fn what_never_ends() {
    let server = Server::start(|_| Reply::new(200).endless()).await;
    let client = client();
    let repository = server.repository(&client, Access::Pull);
    let error = repository.manifest("v1").await.unwrap_err();
    assert!(
        error.to_string().contains("is longer than 8388608 bytes"),
        "{error}"
    );
    repository.tags().await.unwrap_err();
    let server = Server::start(|_| Reply::new(400).endless()).await;
    let error = server
        .repository(&client, Access::Pull)
        .manifest("v1")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("400"), "{error}");
    // What is said to be too long is not read at all.
    let server = Server::start(|_| Reply::new(200).stall("", 9 << 20)).await;
    server
        .repository(&client, Access::Pull)
        .manifest("v1")
        .await
        .unwrap_err();
}

#[tokio::test]
async fn tags_have_pages_which_must_end_here() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/v2/x/tags/list" => Reply::new(200)
            .header("link", "</v2/x/tags/list?last=b>; rel=\"next\"")
            .body(r#"{"name":"x","tags":["a","b"]}"#),
        "/v2/x/tags/list?last=b" => Reply::new(200).body(r#"{"tags":["c"]}"#),
        _ => Reply::new(200),
    })
    .await;
    let client = client();
    let tags = server
        .repository(&client, Access::Pull)
        .tags()
        .await
        .unwrap();
    assert_eq!(tags, ["a", "b", "c"]);
    // The same page again, and pages without end.
    let page = r#"{"tags":["a"]}"#;
    let loops = Server::start(move |_| {
        Reply::new(200)
            .header("link", "</v2/x/tags/list>; rel=next")
            .body(page)
    })
    .await;
    let error = loops
        .repository(&client, Access::Pull)
        .tags()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
    let count = AtomicUsize::new(0);
    let endless = Server::start(move |_| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        Reply::new(200)
            .header("link", format!("<?n={n}>; rel=next"))
            .body(page)
    })
    .await;
    let error = endless
        .repository(&client, Access::Pull)
        .tags()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
    // More than anybody has tags, in few pages.
    let count = AtomicUsize::new(0);
    let long = format!(r#"{{"tags":["{}"]}}"#, "a".repeat(7 << 20));
    let large = Server::start(move |_| {
        let reply = Reply::new(200).body(long.clone());
        match count.fetch_add(1, Ordering::Relaxed) {
            20 => reply,
            n => reply.header("link", format!("<?n={n}>; rel=next")),
        }
    })
    .await;
    let error = large
        .repository(&client, Access::Pull)
        .tags()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not end"), "{error}");
    // Another host.
    let other = Server::start(|_| Reply::new(200)).await;
    let link = format!("<http://{}/v2/x/tags/list>; rel=next", other.host);
    let server = Server::start(move |_| Reply::new(200).header("link", &link).body(page)).await;
    server
        .repository(&client, Access::Pull)
        .tags()
        .await
        .unwrap_err();
    assert!(other.seen().is_empty());
    for body in ["", "[", "{\"tags\":7}", "\u{0}"] {
        let server = Server::start(move |_| Reply::new(200).body(body)).await;
        server
            .repository(&client, Access::Pull)
            .tags()
            .await
            .unwrap_err();
    }
}

#[tokio::test]
async fn redirects_that_loop_or_lead_away() {
    let client = client();
    let server = in_turn(|_| Reply::new(307).header("location", "/v2/x/manifests/v1")).await;
    let error = pull(&server, &client).await.unwrap_err();
    assert!(
        error.to_string().ends_with("stopped after 10 redirects"),
        "{error}"
    );
    assert_eq!(server.seen().len(), 11);
    for location in ["file:///etc/passwd", "http://", "gopher://x"] {
        let server = in_turn(move |_| Reply::new(302).header("location", location)).await;
        let error = pull(&server, &client).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    }
}

#[tokio::test]
async fn another_host_never_sees_the_credentials() {
    let blob = noise(10);
    let served = blob.clone();
    let storage = Server::start(move |_| Reply::new(200).body(served.clone())).await;
    let location = format!("http://{}/blob?X-Amz-Signature=secret", storage.host);
    let server = Server::start(move |seen| match seen.authorization() {
        "" => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
        _ => Reply::new(307).header("location", &location),
    })
    .await;
    let client = client();
    let credentials = Credentials {
        username: "u".to_owned(),
        password: "p".to_owned(),
        ..Credentials::default()
    };
    let repository = client
        .repository(&server.host, "x", &credentials, Access::Pull)
        .unwrap();
    assert_eq!(rig::read(&repository, &rig::digest(&blob), 0).await, blob);
    assert!(
        server
            .seen()
            .last()
            .unwrap()
            .authorization()
            .starts_with("Basic ")
    );
    assert_eq!(storage.seen().len(), 1);
    assert_eq!(storage.seen()[0].authorization(), "");

    // What the other host says in an error holds no signature.
    let broken = Server::start(|_| Reply::new(200).cut("abc", 10)).await;
    let location = format!("http://{}/blob?X-Amz-Signature=secret", broken.host);
    let server = in_turn(move |_| Reply::new(307).header("location", &location)).await;
    let repository = server.repository(&client, Access::Pull);
    let found = repository.blob(&rig::digest(&blob), 0, &[]).await.unwrap();
    let pieces: Vec<_> = found.stream.collect().await;
    let error = pieces.last().unwrap().as_ref().unwrap_err().to_string();
    assert!(
        error.contains(&broken.host) && !error.contains("secret"),
        "{error}"
    );
}

#[tokio::test]
async fn foreign_layers_come_from_their_addresses() {
    let blob = noise(10);
    let served = blob.clone();
    let other = Server::start(move |_| Reply::new(200).body(served.clone())).await;
    let server = Server::start(|seen| match seen.authorization() {
        "" => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
        _ => Reply::new(404),
    })
    .await;
    let credentials = Credentials {
        username: "u".to_owned(),
        password: "p".to_owned(),
        ..Credentials::default()
    };
    let client = client();
    let repository = client
        .repository(&server.host, "x", &credentials, Access::Pull)
        .unwrap();
    let urls = [
        "ftp://x/y".to_owned(),
        format!("http://{}/layer", other.host),
    ];
    let found = repository
        .blob(&rig::digest(&blob), 5, &urls)
        .await
        .unwrap();
    assert_eq!(found.offset, 0);
    // CVE-2020-15157: whoever wrote the manifest gets no credentials.
    assert_eq!(other.seen()[0].authorization(), "");
}

#[tokio::test]
async fn referrers_by_api_and_by_tag() {
    let subject = rig::digest(b"subject");
    let tag = subject.replace(':', "-");
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MANIFEST}","digest":"{}","size":3}}]}}"#,
        rig::digest(b"sig")
    );
    for api in [true, false] {
        let (index, tag) = (index.clone(), tag.clone());
        let server = Server::start(move |seen| {
            let by_api = api && seen.path.starts_with("/v2/x/referrers/");
            if by_api || seen.path == format!("/v2/x/manifests/{tag}") {
                return Reply::new(200).body(index.clone());
            }
            Reply::new(404)
        })
        .await;
        let repository = server.repository(&client(), Access::Pull);
        let found = repository.referrers(&subject).await.unwrap();
        assert_eq!((found.len(), found[0].size), (1, 3));
        assert_eq!(found[0].digest, rig::digest(b"sig"));
        assert_eq!(server.seen().len(), if api { 1 } else { 2 });
    }
}

#[tokio::test]
async fn many_share_a_client() {
    let server = in_turn(|_| ok()).await;
    let client = Arc::new(client());
    let pulls = (0..50).map(|_| pull(&server, &client));
    for found in futures_util::future::join_all(pulls).await {
        assert_eq!(found.unwrap(), image());
    }
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_asked_for_again() {
    let server = in_turn(|n| match n {
        0 => Reply::new(200)
            .header("content-type", MANIFEST)
            .cut("{", 100),
        _ => ok(),
    })
    .await;
    assert_eq!(pull(&server, &client()).await.unwrap(), image());
    assert_eq!(server.seen().len(), 2);
}
