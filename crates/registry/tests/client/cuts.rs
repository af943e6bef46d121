//! Real registries behind a line that is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_registry::client::{Access, Credentials};
use futures_util::StreamExt;

use crate::rig::{self, client, noise};

/// Between client and a real registry: each connection is cut when so many
/// bytes went in one direction, as long as there are cuts left.
async fn cutting(target: String, after: usize, cuts: usize) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let cuts = Arc::new(AtomicUsize::new(cuts));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(&target).await.unwrap();
            let cuts = Arc::clone(&cuts);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let pass =
                    async |from: &mut tokio::net::tcp::OwnedReadHalf,
                           to: &mut tokio::net::tcp::OwnedWriteHalf| {
                        let mut buffer = vec![0; 64 << 10];
                        let mut passed = 0;
                        while let Ok(length @ 1..) = from.read(&mut buffer).await {
                            passed += length;
                            let last = |left: usize| left.checked_sub(1);
                            let order = Ordering::Relaxed;
                            if passed > after && cuts.fetch_update(order, order, last).is_ok() {
                                return;
                            }
                            if to.write_all(&buffer[..length]).await.is_err() {
                                return;
                            }
                        }
                    };
                tokio::select! {
                    () = pass(&mut from_client, &mut to_server) => {}
                    () = pass(&mut from_server, &mut to_client) => {}
                }
            });
        }
    });
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_behind_a_line_that_is_cut() {
    let registry = rig::Registry::start();
    // docker-registry forgets an upload that is cut: two may be.
    let host = cutting(registry.host.clone(), 3 << 20, 2).await;
    let client = client();
    let open = |access| {
        client
            .repository(&host, "a", &Credentials::default(), access)
            .unwrap()
    };
    let blob = noise(16 << 20);
    let digest = rig::digest(&blob);
    let source = rig::Source::new(&blob);
    let size = blob.len() as u64;
    open(Access::Push)
        .push_blob(&digest, size, &source, &|_| ())
        .await
        .unwrap();
    assert_eq!(source.opened.load(Ordering::Relaxed), 3);

    let host = cutting(registry.host.clone(), 3 << 20, 8).await;
    let repository = client
        .repository(&host, "a", &Credentials::default(), Access::Pull)
        .unwrap();
    let mut all = Vec::new();
    let mut requests = 0;
    while all.len() < blob.len() {
        let mut found = repository
            .blob(&digest, all.len() as u64, &[])
            .await
            .unwrap();
        assert_eq!(found.offset, all.len() as u64);
        while let Some(Ok(piece)) = found.stream.next().await {
            all.extend_from_slice(&piece);
        }
        requests += 1;
    }
    assert!(requests > 3, "{requests} requests");
    assert_eq!(all, blob);
}

/// berth's own registry keeps what it has of an upload.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_each_cut() {
    use berth_registry::server;
    let dir = tempfile::TempDir::new().unwrap();
    let options = server::Options::new("127.0.0.1:0", dir.path().join("registry"));
    let registry = server::Registry::bind(options).await.unwrap();
    let target = registry.url()["http://".len()..].to_owned();
    tokio::spawn(registry.run());
    // More cuts than there are tries: only what is achieved counts.
    let host = cutting(target, 2 << 20, 7).await;
    let client = client();
    let repository = client
        .repository(&host, "a", &Credentials::default(), Access::Push)
        .unwrap();
    let blob = noise(20 << 20);
    let digest = rig::digest(&blob);
    let source = rig::Source::new(&blob);
    repository
        .push_blob(&digest, blob.len() as u64, &source, &|_| ())
        .await
        .unwrap();
    assert_eq!(source.opened.load(Ordering::Relaxed), 8);
    assert_eq!(repository.blob_size(&digest).await.unwrap(), Some(20 << 20));
}
