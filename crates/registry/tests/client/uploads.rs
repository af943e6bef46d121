//! Uploads that are cut, refused, or must be made in pieces.

use std::io;
use std::sync::{Arc, Mutex};

use berth_registry::client::{Access, BlobSource, Error};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use crate::rig::{self, Source, client, noise};
use crate::server::{Reply, Seen, Server};

/// What a registry keeps of one upload.
#[derive(Default)]
struct Kept {
    bytes: BytesMut,
    begun: usize,
    patches: usize,
    /// The digest with which it ended.
    done: Option<String>,
}

/// A registry of the test; `patch` may answer a PATCH in its place.
async fn registry(
    patch: impl Fn(usize, &Seen, &mut Kept) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Kept>>) {
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let shared = Arc::clone(&kept);
    let server = Server::start(move |seen| {
        let mut kept = shared.lock().unwrap();
        let range = |kept: &Kept| format!("0-{}", kept.bytes.len().saturating_sub(1));
        let location = |kept: &Kept| format!("/v2/x/blobs/uploads/{}?state=a%2Fb", kept.begun);
        let path = seen.path.as_str();
        let upload = path.starts_with(&location(&kept));
        match seen.method.as_str() {
            "POST" => {
                kept.begun += 1;
                kept.bytes.clear();
                Reply::new(202)
                    .header("location", location(&kept))
                    .header("oci-chunk-min-length", 1000)
                    .header("range", "0-0")
            }
            "PATCH" if upload => {
                let n = kept.patches;
                kept.patches += 1;
                if let Some(reply) = patch(n, seen, &mut kept) {
                    return reply;
                }
                let start = kept.bytes.len();
                let wanted = format!("{start}-{}", start + seen.body.len() - 1);
                if seen.header("content-range") != wanted {
                    return Reply::new(416);
                }
                kept.bytes.extend_from_slice(&seen.body);
                Reply::new(202).header("location", location(&kept)).header("range", range(&kept))
            }
            "GET" if upload => {
                Reply::new(204).header("location", location(&kept)).header("range", range(&kept))
            }
            "PUT" if upload => {
                kept.bytes.extend_from_slice(&seen.body);
                let digest = rig::digest(&kept.bytes);
                if !path.ends_with(&format!("&digest={}", digest.replace(':', "%3A"))) {
                    let body = r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}"#;
                    return Reply::new(400).body(body);
                }
                kept.done = Some(digest);
                Reply::new(201)
            }
            _ => Reply::new(404),
        }
    })
    .await;
    (server, kept)
}

async fn push(server: &Server, blob: &Bytes) -> Result<Vec<u64>, Error> {
    let repository = server.repository(&client(), Access::Push);
    let told = Mutex::new(Vec::new());
    let sent = |n| told.lock().unwrap().push(n);
    let source = Source::new(blob);
    repository
        .push_blob(&rig::digest(blob), blob.len() as u64, &source, &sent)
        .await?;
    Ok(told.into_inner().unwrap())
}

#[tokio::test]
async fn all_in_one_piece_with_progress() {
    let (server, kept) = registry(|_, _, _| None).await;
    let blob = noise(1 << 20);
    let told = push(&server, &blob).await.unwrap();
    assert_eq!(told.last(), Some(&(1 << 20)));
    assert!(told.is_sorted() && told.len() > 1, "{told:?}");
    let kept = kept.lock().unwrap();
    assert_eq!(kept.done, Some(rig::digest(&blob)));
    assert_eq!((kept.begun, kept.patches), (1, 1));
}

#[tokio::test]
async fn goes_on_where_the_registry_says_after_a_failure() {
    let (server, kept) = registry(|n, seen, kept| {
        // Half of the first piece arrives.
        (n == 0).then(|| {
            kept.bytes.extend_from_slice(&seen.body[..300_000]);
            Reply::new(503).header("retry-after", 0)
        })
    })
    .await;
    let blob = noise(1 << 20);
    push(&server, &blob).await.unwrap();
    let kept = kept.lock().unwrap();
    assert_eq!(kept.done, Some(rig::digest(&blob)));
    assert_eq!((kept.begun, kept.patches), (1, 2));
    let ranges: Vec<_> = server
        .seen()
        .iter()
        .filter(|seen| seen.method == "PATCH")
        .map(|seen| seen.header("content-range").to_owned())
        .collect();
    assert_eq!(ranges, ["0-1048575", "300000-1048575"]);
}

#[tokio::test]
async fn goes_on_when_the_registry_kept_less_than_was_sent() {
    let (server, kept) = registry(|n, seen, kept| {
        (n == 0).then(|| {
            kept.bytes.extend_from_slice(&seen.body[..1000]);
            Reply::new(202).header("range", "0-999")
        })
    })
    .await;
    let blob = noise(100_000);
    push(&server, &blob).await.unwrap();
    assert_eq!(kept.lock().unwrap().done, Some(rig::digest(&blob)));
}

#[tokio::test]
async fn begins_anew_when_the_upload_is_gone() {
    for status in [404, 416] {
        // 416 again and again where the registry itself says to go on.
        let (server, kept) =
            registry(move |_, _, kept| (kept.begun == 1).then(|| Reply::new(status))).await;
        let blob = noise(100_000);
        push(&server, &blob).await.unwrap();
        let kept = kept.lock().unwrap();
        assert_eq!(kept.done, Some(rig::digest(&blob)));
        assert!(kept.begun >= 2);
    }
}

#[tokio::test]
async fn smaller_pieces_where_one_is_too_large() {
    let (server, kept) =
        registry(|_, seen, _| (seen.body.len() > 33 << 20).then(|| Reply::new(413))).await;
    let blob = Bytes::from(vec![7; 70 << 20]);
    push(&server, &blob).await.unwrap();
    {
        let kept = kept.lock().unwrap();
        assert_eq!(kept.done, Some(rig::digest(&blob)));
        assert_eq!((kept.begun, kept.patches), (1, 4));
    }
    let (server, _) = registry(|_, _, _| Some(Reply::new(413))).await;
    push(&server, &noise(100_000)).await.unwrap_err();
}

#[tokio::test]
async fn gives_up_when_nothing_is_achieved() {
    let (server, kept) = registry(|_, _, _| Some(Reply::new(500).header("retry-after", 0))).await;
    let error = push(&server, &noise(100_000)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert_eq!(kept.lock().unwrap().patches, 5);
}

#[tokio::test]
async fn what_the_registry_does_not_take() {
    let (server, _) = registry(|_, _, _| None).await;
    let repository = server.repository(&client(), Access::Push);
    let blob = noise(100_000);
    let source = Source::new(&blob);
    let wrong = rig::digest(b"other");
    let error = repository
        .push_blob(&wrong, 100_000, &source, &|_| ())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "digest invalid: provided digest did not match uploaded content"
    );
    let denied =
        r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    let server = Server::start(move |seen| match seen.method.as_str() {
        "POST" => Reply::new(403).body(denied),
        _ => Reply::new(404),
    })
    .await;
    let error = push(&server, &blob).await.unwrap_err();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    assert_eq!(
        error.to_string(),
        "denied: requested access to the resource is denied"
    );
}

struct Broken;

impl BlobSource for Broken {
    fn open(&self, _: u64) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let pieces = [Ok(noise(10)), Err(io::Error::other("the disk is broken"))];
        Ok(stream::iter(pieces).boxed())
    }
}

#[tokio::test]
async fn a_source_that_breaks_is_not_the_registrys_fault() {
    let (server, kept) = registry(|_, _, _| None).await;
    let repository = server.repository(&client(), Access::Push);
    let digest = rig::digest(b"x");
    let error = repository
        .push_blob(&digest, 100_000, &Broken, &|_| ())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot read blob {digest}: the disk is broken")
    );
    // One that is shorter than was said.
    let source = Source::new(&noise(90_000));
    let error = repository
        .push_blob(&digest, 100_000, &source, &|_| ())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot read blob {digest}: it is too short")
    );
    assert!(kept.lock().unwrap().done.is_none());
}

#[tokio::test]
async fn a_location_elsewhere_gets_no_credentials() {
    let other = Server::start(|seen| match seen.method.as_str() {
        "PATCH" => Reply::new(202),
        _ => Reply::new(201),
    })
    .await;
    let location = format!("http://{}/up?sig=1", other.host);
    let server = Server::start(
        move |seen| match (seen.method.as_str(), seen.authorization()) {
            (_, "") => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
            ("POST", _) => Reply::new(202).header("location", &location),
            _ => Reply::new(404),
        },
    )
    .await;
    let credentials = berth_registry::client::Credentials {
        username: "u".to_owned(),
        password: "p".to_owned(),
        ..Default::default()
    };
    let client = client();
    let repository = client
        .repository(&server.host, "x", &credentials, Access::Push)
        .unwrap();
    rig::push(&repository, &noise(100_000)).await;
    assert_eq!(other.seen().len(), 2);
    assert!(
        other
            .seen()
            .iter()
            .all(|seen| seen.authorization().is_empty())
    );
    assert!(
        other.seen()[1]
            .path
            .starts_with("/up?sig=1&digest=sha256%3A")
    );
}
